"""(b) The client's process killed at any moment of a task's life, then asked for the same work again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xalora_client.devnet import Devnet
from xalora_client.journal import Journal

WORKER = """
import asyncio, json, sys
import numpy as np
from xalora_client import AsyncXalora, UpscalerTask

async def main(key, url, index, if_unknown):
    pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    async with AsyncXalora(key, url) as client:
        print("begun", flush=True)
        task = UpscalerTask(pixels, job_id_prefix=f"killed-{index}")
        result = await client.run(task, reuse=True, if_unknown=if_unknown, fallback="never")
        print(json.dumps(np.rint(result.images[0] * 255).astype(int).tolist()), flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
"""
TASK_SECONDS = 0.2
# The short parts of a life are drawn out, so that kills fall into them too: before the sequencer acts on a
# create, between that and its answer, and while the result comes down.
FAULTS = (
    "task_create:delay:seconds=0.2",
    "task_create:delay_after:seconds=0.3",
    "result:slow:seconds=0.3",
)
AT_ONCE = 4


def upscaled(index: int) -> list[Any]:
    pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    doubled = Image.fromarray(pixels).resize((16, 16), Image.Resampling.LANCZOS)
    result: list[Any] = np.asarray(doubled).tolist()
    return result


async def start(
    devnet: Devnet, index: int, state_dir: Path, if_unknown: str = "resend"
) -> asyncio.subprocess.Process:
    """A worker that has begun, but not asked for anything yet."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WORKER,
        devnet.api_key,
        devnet.url,
        str(index),
        if_unknown,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XALORA_STATE_DIR": str(state_dir)},
    )
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"begun\n"
    return worker


async def finish(worker: asyncio.subprocess.Process) -> list[Any]:
    out, err = await worker.communicate()
    assert worker.returncode == 0, err.decode()
    result: list[Any] = json.loads(out)
    return result


async def test_killed_before_the_answer_came_it_is_never_sent_again_unasked(tmp_path: Path) -> None:
    async with Devnet(miners=1, faults=["task_create:delay_after:seconds=60:n=1"]) as devnet:
        worker = await start(devnet, 1, tmp_path)
        await devnet.wait_for(lambda stats: stats["creates"] == 1)
        worker.kill()
        await worker.communicate()
        worker = await start(devnet, 1, tmp_path, if_unknown="stop")
        _, complaint = await worker.communicate()
        assert worker.returncode == 1
        assert b"AmbiguousCreateError" in complaint
        assert devnet.stats()["endpoints"]["task_create"] == 1
        assert await finish(await start(devnet, 1, tmp_path, if_unknown="resend")) == upscaled(1)
        stats = devnet.stats()
        assert (stats["creates"], stats["duplicates"]) == (1, 1)


async def test_killed_between_two_attempts_of_a_refused_create_nothing_is_in_doubt(tmp_path: Path) -> None:
    async with Devnet(miners=1, faults=["task_create:429:retry_after=60:n=1"]) as devnet:
        worker = await start(devnet, 1, tmp_path)
        # "prepared" after the sequencer was asked is the pause; before, it might be the time before sending.
        while not (_asked(devnet) and _written(tmp_path) == ["prepared"]):
            assert worker.returncode is None
            await asyncio.sleep(0.01)
        worker.kill()
        await worker.communicate()
        assert await finish(await start(devnet, 1, tmp_path, if_unknown="stop")) == upscaled(1)
        stats = devnet.stats()
        assert (stats["creates"], stats["duplicates"]) == (1, 0)


def _written(state_dir: Path) -> list[str]:
    """The states of all records, read without a lock that could keep the worker from writing."""
    connection = sqlite3.connect(f"file:{state_dir / 'journal.sqlite3'}?mode=ro", uri=True)
    try:
        return [state for (state,) in connection.execute("SELECT state FROM entries")]
    finally:
        connection.close()


def _asked(devnet: Devnet) -> bool:
    return bool(devnet.stats()["endpoints"]["task_create"])


@pytest.mark.timeout(1800)
async def test_killed_at_any_moment_the_same_work_is_one_task_in_the_end(
    tmp_path: Path, whole: bool, note: Callable[[str, str], None]
) -> None:
    kills = 100 if whole else 8
    draw = random.Random(41)
    loop = asyncio.get_running_loop()
    found = Counter[str]()
    state_dir = tmp_path / "state"
    async with Devnet(miners=4, task_seconds=TASK_SECONDS, faults=FAULTS) as devnet:
        # How long a life is, here and now, so that the moments fall into all of it.
        worker = await start(devnet, 10_000, state_dir)
        began = loop.time()
        assert await finish(worker) == upscaled(10_000)
        life = loop.time() - began

        places = asyncio.Semaphore(AT_ONCE)

        async def one(index: int) -> None:
            moment = draw.uniform(0, life)
            async with places:
                worker = await start(devnet, index, state_dir)
                try:
                    await asyncio.wait_for(worker.wait(), moment)
                except asyncio.TimeoutError:
                    worker.kill()
                await worker.communicate()
                found[await asyncio.to_thread(stand_of, state_dir, index)] += 1
                assert await finish(await start(devnet, index, state_dir)) == upscaled(index)

        await asyncio.gather(*(one(index) for index in range(kills)))
        stats = devnet.stats()
    assert stats["creates"] == kills + 1, found
    with Journal.open(state_dir / "journal.sqlite3", state_dir / "results") as journal:
        assert not journal.records(is_open=True)
    note("(b) processes killed by SIGKILL, creates counted by the sequencer", f"{kills}, {kills} (1 each)")
    note("(b) creates repeated under the same job id after `resend`", str(stats["duplicates"]))
    note(
        "(b) where the kills fell",
        ", ".join(f"{state} {n}" for state, n in sorted(found.items())),
    )


def stand_of(state_dir: Path, index: int) -> str:
    """What the journal says of the killed process's work, as the next process will find it."""
    with Journal.open(state_dir / "journal.sqlite3", state_dir / "results") as journal:
        mine = [e for e in journal.records() if e.job_id.startswith(f"killed-{index}-")]
        return mine[0].state.value if mine else "not begun"
