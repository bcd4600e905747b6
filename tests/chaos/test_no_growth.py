"""(f) A thousand tasks of one client: neither threads, nor descriptors, nor memory grow with them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from xalora_client.devnet import Devnet

ROUNDS, TASKS = 11, 100
IN_FLIGHT = 32
WARM_UP = 3
"""Rounds until the pools of threads and of decoding processes, and Python's own caches, have their size."""

MOST_THREADS_MORE = 2
"""Beside the pools, whose threads are as many as calls came together, up to a limit."""

MOST_THREADS = 150
"""More than all pools hold when they are full."""

MOST_DESCRIPTORS_MORE = 2 * IN_FLIGHT
"""Connections that are kept for a while: up to as many as there are requests at the same time."""

MOST_BYTES_A_TASK = 16 * 1024
"""What a task may leave: pages of the journal that SQLite keeps, durations, and the allocator's own."""

CLIENT = """
import asyncio, gc, json, sys, threading
import numpy as np
import psutil
from xalora_client import AsyncXalora, UpscalerTask

POOLS = {"xalora-files", "xalora-images", "xalora-journal-reads", "xalora-decoding", "xalora-evictions"}

def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)

async def one_round(client, number, tasks, in_flight):
    work = [UpscalerTask(pixels(number * tasks + index)) for index in range(tasks)]
    outcomes = await client.run_many(work, fallback="never", max_in_flight=in_flight)
    assert all(outcome.unwrap().images[0].shape == (32, 32, 3) for outcome in outcomes)

async def main(key, url, rounds, tasks, in_flight):
    process = psutil.Process()
    async with AsyncXalora(key, url) as client:
        for number in range(rounds):
            await one_round(client, number, tasks, in_flight)
            gc.collect()
            figures = process.num_threads(), process.num_fds(), process.memory_info().rss
            others = sum(thread.name not in POOLS for thread in threading.enumerate())
            print(json.dumps([*figures, len(process.children()), others]), flush=True)

asyncio.run(main(*sys.argv[1:3], *map(int, sys.argv[3:])))
"""


@dataclass(frozen=True)
class Taken:
    """What the client's process takes after a round."""

    threads: int
    descriptors: int
    memory: int
    workers: int
    threads_of_no_pool: int


async def rounds(devnet: Devnet, state_dir: Path) -> list[Taken]:
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        devnet.api_key,
        devnet.url,
        *map(str, (ROUNDS, TASKS, IN_FLIGHT)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XALORA_STATE_DIR": str(state_dir)},
    )
    out, err = await client.communicate()
    assert client.returncode == 0, err.decode()
    return [Taken(*json.loads(line)) for line in out.splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts handles, not descriptors")
@pytest.mark.timeout(300)
async def test_a_thousand_tasks_leave_nothing_behind(
    tmp_path: Path, note: Callable[[str, str], None]
) -> None:
    async with Devnet(miners=4) as devnet:
        taken = await rounds(devnet, tmp_path / "state")
        assert devnet.stats()["creates"] == ROUNDS * TASKS
    before, after = taken[WARM_UP - 1], taken[-1]
    tasks = (ROUNDS - WARM_UP) * TASKS
    grown = (after.memory - before.memory) / tasks
    note("(f) tasks of one client", str(ROUNDS * TASKS))
    note("(f) threads, descriptors after 300 tasks", f"{before.threads}, {before.descriptors}")
    note("(f) the same after 1100 tasks", f"{after.threads}, {after.descriptors}")
    note(
        "(f) memory after 300 tasks, and more for each of the 800 after",
        f"{before.memory >> 20} MiB, {grown / 1024:.1f} KiB",
    )
    assert after.threads <= MOST_THREADS, taken
    assert after.threads_of_no_pool <= before.threads_of_no_pool + MOST_THREADS_MORE, taken
    assert after.descriptors <= before.descriptors + MOST_DESCRIPTORS_MORE, taken
    assert after.workers <= before.workers, taken
    assert grown <= MOST_BYTES_A_TASK, taken
