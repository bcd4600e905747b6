"""The programs in docs/ run as they are printed, against a sequencer on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from scripted import KEY, ScriptedNetwork, ScriptedSequencer, png, status

from xalora_client.workflows import WorkflowCatalog

DOCS = Path(__file__).resolve().parents[2] / "docs"


def programs(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


async def printed_by(program: str, url: str) -> str:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env={**os.environ, "XALORA_WORKFLOW_URL": url, "XALORA_API_KEY": KEY},
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0
    return told.decode()


@pytest.mark.parametrize("program", programs("from-node-sdk.md"), ids=["line by line", "shorter"])
async def test_a_class_ported_from_the_node_sdk_sends_what_it_sent_there(program: str) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))
    async with ScriptedSequencer(network) as sequencer:
        assert await printed_by(program, sequencer.url) == "finished\n"
    (body,) = network.bodies.values()
    assert re.fullmatch(r"sdk-workflow-[0-9a-f]{10}", body.pop("job_id"))
    assert body == {
        "consumer_id": "alice",
        "api_key": "s3cret",
        "task_type": "sketch",
        "task_details": {"parameters": {"prompt": "a fox"}},
        "workflow_id": "7",
    }


def test_the_endpoint_file_in_the_docs_is_one(tmp_path: Path) -> None:
    text = (DOCS / "workflows.md").read_text(encoding="utf-8")
    endpoint, index = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
        "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 3, "sigma": 1.0}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["2", 0]}},
    }
    (tmp_path / "soft.json").write_text(json.dumps(graph), encoding="utf-8")
    (tmp_path / "soft.yaml").write_text(endpoint, encoding="utf-8")
    catalog = WorkflowCatalog.load(tmp_path)
    assert catalog.problems == ()
    assert catalog.get("soft").workflow_id == "7"
    assert catalog.get("soft").bind({"image": "a.png", "radius": 9}).prompt["2"]["inputs"]["blur_radius"] == 9
    (tmp_path / "graphs").mkdir()
    (tmp_path / "soft.json").rename(tmp_path / "graphs" / "soft.json")
    (tmp_path / "index.yaml").write_text(index, encoding="utf-8")
    catalog = WorkflowCatalog.load(tmp_path)
    assert (catalog.problems, catalog.get("soft").title) == ((), "Soften")
