"""Workflows of one's own on a network: who can't run them says so at once, and nothing is paid for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import yaml
from PIL import Image
from scripted import KEY, Answer, ScriptedNetwork, ScriptedSequencer, png, status

from xalora_client import AsyncXalora, DefinedWorkflowTask, EngineError, NoMinerError
from xalora_client.devnet import Devnet

BLUR = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
    "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 3, "sigma": 1.0}},
    "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a", "images": ["2", 0]}},
}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "my_api.json"
    path.write_text(json.dumps(BLUR), encoding="utf-8")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photo.png")
    return path


async def test_a_workflow_that_no_miner_takes_is_told_at_once_and_not_created(exported: Path) -> None:
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        task = client.workflow(exported).task(image=exported.with_name("photo.png"))
        began = monotonic()
        with pytest.raises(NoMinerError, match="has no miner for this workflow"):
            await client.run(task, fallback="never")
        with pytest.raises(
            NoMinerError, match=r"can't take over \(no engine is set up\. Set XALORA_COMFYUI_URL"
        ):
            await client.run(task)
        gone = r"can't take over \(comfyui: The ComfyUI server at http://127\.0\.0\.1:9 can't be used"
        async with AsyncXalora(devnet.api_key, devnet.url, comfyui_url="http://127.0.0.1:9") as with_comfyui:
            with pytest.raises(NoMinerError, match=gone):
                await with_comfyui.run(task)
            with pytest.raises(EngineError, match="Start that ComfyUI server"):
                await with_comfyui.run(task, fallback="local_only")
        with pytest.raises(NoMinerError):
            await client.execute_workflow(
                DefinedWorkflowTask("sharpen", image=exported.with_name("photo.png"))
            )
        assert monotonic() - began < 30
        assert devnet.stats()["creates"] == 0
        assert {record.state.value for record in client.journal.records()} == {"not_sent"}


async def test_the_graph_and_its_image_go_along(exported: Path) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))

    def answer(endpoint: str, body: dict[str, Any]) -> Answer:
        if endpoint == "resource_request":
            return Answer(200, {"miner_id": "m"})
        return network(endpoint, body)

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        workflow = client.workflow(exported, inputs={"2.blur_radius": 9})
        await client.run(workflow.task(image=exported.with_name("photo.png")), fallback="never")
        await client.run(
            client.workflow(exported).task(image=exported.with_name("photo.png")), fallback="never"
        )
        one, other = (body["task_details"] for body in network.bodies.values())
        assert one["prompt"]["2"]["inputs"]["blur_radius"] == 9
        assert one["output_node_id"] == "3"
        assert one["parameters"]["image"].startswith("data:image/png;base64,")
        assert other["prompt"]["2"]["inputs"]["blur_radius"] == 3
        assert sequencer.count("resource_request") == 2


@pytest.mark.parametrize(
    "answer", [Answer(404, "<html>no such page</html>"), Answer(500, {"message": "oh"}), Answer(200, "odd")]
)
async def test_a_network_that_can_not_say_is_taken_at_its_creates_word(
    exported: Path, answer: Answer
) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))

    def answers(endpoint: str, body: dict[str, Any]) -> Answer:
        return answer if endpoint == "resource_request" else network(endpoint, body)

    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        task = client.workflow(exported).task(image=exported.with_name("photo.png"))
        assert (await client.run(task, fallback="never")).files
        assert sequencer.count("resource_request") == 1


async def test_this_machine_without_comfyui_says_what_it_lacks(exported: Path) -> None:
    async with AsyncXalora(fallback="local_only") as client:
        with pytest.raises(EngineError, match="XALORA_COMFYUI_URL"):
            await client.run(client.workflow(exported).task())


def xalora(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xalora_client", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_shell_adds_an_exported_workflow_and_runs_it_by_its_name(exported: Path) -> None:
    folder = exported.parent

    def add(*arguments: str) -> subprocess.CompletedProcess[str]:
        return xalora(folder, "workflows", "add", *arguments)

    done = await asyncio.to_thread(
        add, "my_api.json", "--name", "soft", "--folder", "own", "--param", "radius=2.blur_radius"
    )
    assert done.returncode == 0, done.stderr
    assert "image, radius; the result is that of node 3" in done.stdout
    document = yaml.safe_load((folder / "own" / "soft.yaml").read_text(encoding="utf-8"))
    assert [each["name"] for each in document["parameters"]] == ["image", "radius"]
    again = await asyncio.to_thread(add, "my_api.json", "--name", "soft", "--folder", "own")
    assert again.returncode == 3 and "exists" in again.stderr
    # What a link leads to is another file, which stays.
    (folder / "own" / "soft.yaml").rename(folder / "other.yaml")
    (folder / "own" / "soft.yaml").symlink_to("../other.yaml")
    (folder / "own" / "soft.json").unlink()
    (folder / "own" / "soft.json").symlink_to("../nowhere.json")
    linked = await asyncio.to_thread(add, "my_api.json", "--name", "soft", "--folder", "own")
    assert linked.returncode == 3 and "soft.json exists" in linked.stderr
    radius = ("--param", "radius=2.blur_radius")
    forced = await asyncio.to_thread(
        add, "my_api.json", "--name", "soft", "--folder", "own", "--force", *radius
    )
    assert forced.returncode == 0, forced.stderr
    assert yaml.safe_load((folder / "other.yaml").read_text(encoding="utf-8")) == document
    assert not (folder / "own" / "soft.yaml").is_symlink() and not (folder / "nowhere.json").exists()
    shown = await asyncio.to_thread(
        lambda: xalora(folder, "workflows", "show", "soft", XALORA_WORKFLOWS_DIR="own")
    )
    assert "radius" in shown.stdout
    beside = await asyncio.to_thread(add, "my_api.json")
    assert beside.returncode == 0 and (folder / "my_api.yaml").exists()
    missing = await asyncio.to_thread(add, "absent.json")
    assert missing.returncode != 0 and "absent.json is missing" in missing.stderr
    wrong = await asyncio.to_thread(
        lambda: xalora(folder, "run", "my_api.json", "-p", "2.radius=9", "--engine", "comfyui")
    )
    assert wrong.returncode != 0 and "blur_radius, sigma" in wrong.stderr


async def test_the_shell_asks_nothing_without_a_terminal(exported: Path) -> None:
    two = {**BLUR, "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "b", "images": ["1", 0]}}}
    exported.write_text(json.dumps(two), encoding="utf-8")
    done = await asyncio.to_thread(lambda: xalora(exported.parent, "workflows", "add", "my_api.json"))
    assert done.returncode != 0
    assert "--param output=3" in done.stderr
    chosen = await asyncio.to_thread(
        lambda: xalora(exported.parent, "workflows", "add", "my_api.json", "--param", "output=4")
    )
    assert chosen.returncode == 0, chosen.stderr
