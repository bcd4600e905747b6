"""The programs in docs/ run as they are printed, against a sequencer or a devnet on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import skimage
from scripted import KEY, ScriptedNetwork, ScriptedSequencer, png, status

from xalora_client.devnet import Devnet, DevnetThread
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


# --- From Python ------------------------------------------------------------------------------------------

STREAM, MANY, SERVICE = programs("python.md")
PHOTOS = Path(skimage.__file__).parent / "data"


def ended(program: str, folder: Path, times: int = 1, **devnet_options: object) -> list[str]:
    """The lines that a program prints in a folder with photographs, each time that it is run."""
    (folder / "photos").mkdir()
    shutil.copy(PHOTOS / "rocket.jpg", folder / "photo.jpg")
    for name in ("coffee.png", "rocket.jpg"):
        shutil.copy(PHOTOS / name, folder / "photos")
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    with DevnetThread(miners=2, **devnet_options) as devnet:
        for _ in range(times):
            done = subprocess.run(
                [sys.executable, "-c", program],
                cwd=folder,
                env={**os.environ, "XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        return [*lines, f"{devnet.stats()['creates']} sent"]


def test_the_program_that_streams_runs_as_printed(tmp_path: Path) -> None:
    *running, saved, _ = ended(STREAM, tmp_path, task_seconds=2.0)
    assert running and all(re.fullmatch(r"running for \d+ s", line) for line in running)
    assert "large.jpg" in saved and (tmp_path / "large.jpg").stat().st_size > 10_000


def test_the_program_of_many_tasks_runs_as_printed(tmp_path: Path) -> None:
    *lines, sent = ended(MANY, tmp_path, times=2)
    lines.sort()
    assert sent == "2 sent", "the second run gives back what the first has paid for"
    assert lines[0].startswith("0 Parameter image: the input image 'photos/broken.png' can't be used")
    assert lines[1:] == ["1 coffee.png", "2 rocket.png"]
    assert {path.name for path in (tmp_path / "large").iterdir()} == {"coffee.png", "rocket.png"}


@asynccontextmanager
async def service(folder: Path, port: int, devnet: Devnet) -> AsyncIterator[str]:
    (folder / "service.py").write_text(SERVICE, encoding="utf-8")
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "service:app", "--port", str(port)),
        cwd=folder,
        env={**os.environ, "XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert running.stderr is not None
        while b"Uvicorn running" not in (line := await asyncio.wait_for(running.stderr.readline(), 60)):
            assert line, "the service ended"
        yield f"http://127.0.0.1:{port}/upscale"
    finally:
        running.terminate()
        await running.communicate()


async def test_the_web_service_answers_and_cancels_for_browsers_that_left(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    photo = (PHOTOS / "rocket.jpg").read_bytes()
    async with (
        Devnet(miners=1) as devnet,
        service(tmp_path, unused_tcp_port, devnet) as url,
        aiohttp.ClientSession() as http,
    ):
        async with http.post(url, data=photo) as answer:
            assert (answer.status, (await answer.read())[:4]) == (200, b"\x89PNG")
        async with http.post(url, data=b"no image") as answer:
            assert answer.status == 422
            assert "nothing was charged" in (await answer.json())["detail"]["error"]
        devnet.kill_miner()
        leaving = asyncio.create_task(http.post(url, data=(PHOTOS / "coffee.png").read_bytes()))
        await devnet.wait_for(lambda stats: stats["tasks"]["waiting"] == 1)
        leaving.cancel()
        await asyncio.wait({leaving})
        await devnet.wait_for(lambda stats: stats["tasks"]["canceled"] == 1)


def test_the_programs_pass_a_strict_type_check(tmp_path: Path) -> None:
    for index, program in enumerate((STREAM, MANY, SERVICE)):
        (tmp_path / f"program{index}.py").write_text(program, encoding="utf-8")
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\n", encoding="utf-8")
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", str(settings), "--follow-imports=silent"),
            *map(str, sorted(tmp_path.glob("*.py"))),
        ],
        cwd=DOCS.parent,
        env={**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_page_names_every_error_that_users_meet() -> None:
    from xalora_client import errors

    text = (DOCS / "python.md").read_text(encoding="utf-8")
    kinds = {name for name, each in vars(errors).items() if isinstance(each, type) and name.endswith("Error")}
    rare = {
        "UnexpectedError",
        "ClientClosedError",
        "ResultMissingError",
        "ResultLocationError",
        "ResultTooLargeError",
    }
    assert {name for name in kinds if name not in text} <= rare


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
