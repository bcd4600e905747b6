"""Results that declare or unpack to far more than they are: memory, disk and processor time that each takes.

A miner of the devnet gives each file as the result of a task. A client in a process of its own runs the task
and reads the result's pixels. Memory is what that process and its decoding workers have together, at most,
looked at every 20 ms; disk is what its folder takes, at most. Seconds are processor time of both, with that
of a worker's start: on a busy machine the wall clock says little.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from _peers import REPOSITORY
from _report import Report

sys.path.insert(0, str(REPOSITORY / "tests"))

import bombs

MOST_MEMORY_MIB = 500.0
# The JPEG is decoded until its time is over: 15 s, and a second for each 4 MiB of pixels.
MOST_SECONDS = 27.0

BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG, text of 400 MiB before the pixels": (".png", lambda: bombs.png(64, 64, extra=bombs.png_text(400))),
    "PNG, text of 400 MiB after the pixels": (".png", lambda: bombs.png(64, 64, after=bombs.png_text(400))),
    "PNG of 16384x16384 without its pixels": (".png", lambda: bombs.png(16384, 16384, honest=False)),
    "GIF of 16384x16384, 200 frames": (".gif", lambda: bombs.gif(16384, 16384, 200)),
    "GIF of 3000x3000, 20,000 frames": (".gif", lambda: bombs.gif(3000, 3000, 20_000)),
    "WebP of 16383x16383, 50 frames": (".webp", lambda: bombs.animated_webp(16383, 16383, 50)),
    "WebP of 1024x1024, 2,000 frames": (".webp", lambda: bombs.animated_webp(1024, 1024, 2000)),
    "JPEG of 4000x4000, 2,000 scans": (".jpg", lambda: bombs.jpeg_of_scans(4000, 2000)),
    "MP4 that declares 500 million frames": (".mp4", lambda: bombs.mp4_of_samples(500_000_000)),
    "MP4 of 4 tracks of 200 million frames": (".mp4", lambda: bombs.mp4_of_samples(200_000_000, tracks=4)),
}

CLIENT = """
import asyncio, json, sys
from xalora_client import AsyncXalora, FluxLoraTask, XaloraError

async def main(key, url, state, name):
    async with AsyncXalora(key, url, state_dir=state, env_files=()) as client:
        print(json.dumps("ready"), flush=True)
        try:
            result = await client.run(FluxLoraTask(prompt=name, lora_name="none"), fallback="never")
            said = "x".join(map(str, result.images.shape))
        except XaloraError as error:
            said = type(error).__name__
        print(json.dumps(said), flush=True)
        sys.stdin.read()

asyncio.run(main(*sys.argv[1:]))
"""


class BombEngine:
    """Returns the file that the prompt names."""

    def run(self, task: Any) -> tuple[bytes, str]:
        name = task.parameters["prompt"]
        return content_of(name), BOMBS[name][0]


@cache
def content_of(name: str) -> bytes:
    return BOMBS[name][1]()


def taken(process: psutil.Process, folder: Path) -> tuple[float, float, float]:
    """MiB in memory and on disk just now, and seconds of processor time until now."""
    memory, seconds = 0, 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
            memory += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        # Of a process that has ended, its parent has them.
        seconds += times.user + times.system + times.children_user + times.children_system
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return memory / 2**20, disk / 2**20, seconds


async def measure(key: str, url: str, name: str) -> tuple[str, float, float, float]:
    """What came of a bomb; most MiB of memory and disk; seconds of processor time."""
    with tempfile.TemporaryDirectory() as state:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT, key, url, state, name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert client.stdout is not None
        await client.stdout.readline()
        process = psutil.Process(client.pid)
        before = taken(process, Path(state))[2]
        memory = disk = seconds = 0.0
        answer = asyncio.ensure_future(client.stdout.readline())
        while True:
            is_done = bool((await asyncio.wait({answer}, timeout=0.02))[0])
            try:
                now = await asyncio.to_thread(taken, process, Path(state))
            except FileNotFoundError:  # renamed meanwhile
                continue
            memory, disk, seconds = max(memory, now[0]), max(disk, now[1]), now[2] - before
            if is_done:
                break
        await client.communicate(b"")  # the end of its input ends it
    return json.loads(answer.result()), memory, disk, seconds


async def measure_all() -> dict[str, tuple[int, str, float, float, float]]:
    from xalora_client.devnet import Devnet

    measured = {}
    async with Devnet(miners=1, engine=BombEngine()) as net:
        for name in BOMBS:
            size = len(content_of(name))
            measured[name] = (size, *(await measure(net.api_key, net.url, name)))
            print(f"{name}: {measured[name]}", file=sys.stderr, flush=True)
    return measured


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("bombs", "Files that take far more than their size", method)
    measured = asyncio.run(measure_all())
    rows = [
        [name, f"{size / 1000:,.0f}", said, f"{memory:.0f}", f"{disk:.1f}", f"{seconds:.1f}"]
        for name, (size, said, memory, disk, seconds) in measured.items()
    ]
    report.table(["result", "kB", "what came of it", "memory, MiB", "disk, MiB", "CPU, s"], rows)
    report.target("most memory", max(row[2] for row in measured.values()), MOST_MEMORY_MIB, unit=" MiB")
    report.target("most processor time", max(row[4] for row in measured.values()), MOST_SECONDS, unit=" s")
    report.raw(measured=measured)
    report.finish()


if __name__ == "__main__":
    main()
