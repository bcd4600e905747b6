"""The devnet and its miners in processes of their own: signals, kills, and the state after them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image

from xalora_client.devnet import Devnet

SERVE = """
import json, sys
from xalora_client.devnet import serve_forever
def ready(devnet):
    print(json.dumps({"url": devnet.url, "api_key": devnet.api_key}), flush=True)
serve_forever(ready, **json.loads(sys.argv[1]))
print(json.dumps({"stopped": True}), flush=True)
"""
MINE = """
import json, sys
from xalora_client.devnet import run_miners
run_miners(sys.argv[1], on_ready=lambda: print("{}", flush=True), **json.loads(sys.argv[2]))
print(json.dumps({"stopped": True}), flush=True)
"""

Start = Callable[..., Awaitable[tuple[Process, dict[str, Any]]]]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Start a Python script and wait for its first line of JSON; kills the process at the end."""
    processes: list[Process] = []

    async def run(script: str, *arguments: str) -> tuple[Process, dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", script, *arguments, stdout=PIPE, stderr=PIPE
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line, (await process.stderr.read()).decode()
        return process, json.loads(line)

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def photo() -> str:
    file = io.BytesIO()
    Image.effect_noise((16, 16), 60).convert("RGB").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def create(job_id: str) -> dict[str, Any]:
    return {
        "consumer_id": "devnet",
        "api_key": "devnet",
        "task_type": "upscaler",
        "task_details": {"parameters": {"image": photo()}},
        "job_id": job_id,
    }


async def post(session: aiohttp.ClientSession, url: str, body: Any) -> dict[str, Any]:
    async with session.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_stop_it_cleanly(start: Start, number: signal.Signals) -> None:
    process, ready = await start(SERVE, json.dumps({"miners": 2, "task_seconds": 60}))
    assert ready["api_key"] == "devnet#devnet"
    async with aiohttp.ClientSession() as session:
        await post(session, f"{ready['url']}/task_create", create("a"))
    process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert json.loads(out) == {"stopped": True}
    assert err.decode() == ""
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_a_killed_sequencer_comes_back_with_every_task(start: Start, tmp_path: Path) -> None:
    options = {"miners": 0, "db": str(tmp_path / "devnet.sqlite")}
    process, ready = await start(SERVE, json.dumps(options))
    url = ready["url"]
    async with aiohttp.ClientSession() as session:
        ids = [(await post(session, f"{url}/task_create", create(str(n))))["task_id"] for n in range(5)]
        ask = {"erc20_address": "0xA", "workflow_ids": ["lanczos-upscale"]}
        assert (await post(session, f"{url}/miner_request", ask))["task_id"] == ids[0]
    process.kill()
    await process.communicate()

    port = int(url.rpartition(":")[2])
    _, ready = await start(SERVE, json.dumps(options | {"port": port, "miners": 1}))
    assert ready["url"] == url
    async with aiohttp.ClientSession() as session:
        again = await post(session, f"{url}/task_create", create("3"))
        assert again["task_id"] == ids[3]
        async with session.get(f"{url}/devnet/stats") as response:
            stats = await response.json()
        assert stats["creates"] == 5
        assert stats["duplicates"] == 1
        assert sum(stats["tasks"].values()) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_miners_in_processes_of_their_own_and_one_is_killed_at_work(start: Start) -> None:
    quick = {"heartbeat": 0.2, "poll": 0.05}
    async with Devnet(miners=0, lease=1.0) as devnet, aiohttp.ClientSession() as session:
        doomed, _ = await start(MINE, devnet.url, json.dumps(quick | {"task_seconds": 600}))
        task_id = (await post(session, f"{devnet.url}/task_create", create("a")))["task_id"]
        victim = (await devnet.wait_for_status(task_id, "running")).miner_id
        doomed.kill()
        await doomed.communicate()

        heir, _ = await start(MINE, devnet.url, json.dumps(quick | {"miners": 2}))
        task = await devnet.wait_for_status(task_id, "finished")
        assert task.miner_id != victim
        # An heir that the machine keeps from its heartbeats for a second loses the task in turn.
        assert task.assignments >= 2
        heir.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(heir.communicate(), 20)
        assert (json.loads(out), err.decode(), heir.returncode) == ({"stopped": True}, "", 0)
