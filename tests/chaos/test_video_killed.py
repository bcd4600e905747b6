"""(g) A process that upscales a clip, killed at any moment and started again: each frame is created once."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from video_files import moving_photograph, played, track, write_video

from xalora_client.devnet import Devnet

PROGRAM = """
import sys
from xalora_client import Xalora
from xalora_client.video import plan

plan.SEGMENT_FRAMES = 6

with Xalora(sys.argv[1], sys.argv[2]) as client:
    print("begun", flush=True)
    client.upscale_video(sys.argv[3], sys.argv[4], if_unknown="resend", fallback="never")
"""
FRAMES, AGAIN = 24, 6
UNFINISHED = re.compile(r"\.part(\.json)?$|\.[0-9a-f]{8}\.png$")
KILLS = 30


async def start(devnet: Devnet, clip: Path, output: Path, state: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        devnet.api_key,
        devnet.url,
        str(clip),
        str(output),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XALORA_STATE_DIR": str(state)},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"
    return process


async def finish(process: asyncio.subprocess.Process) -> None:
    _, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()


@pytest.mark.timeout(1800)
async def test_killed_at_any_moment_each_frame_is_created_once(
    tmp_path: Path, whole: bool, note: Callable[[str, str], None]
) -> None:
    draw = random.Random(20)
    loop = asyncio.get_running_loop()
    photograph = moving_photograph(FRAMES)
    # The first frames come again at the end, and each is shown twice.
    shown = [frame for frame in [*photograph, *photograph[:AGAIN]] for _ in range(2)]
    clip = write_video(tmp_path / "clip.mkv", shown, lossless=True)
    faults = ("task_create:delay_after:seconds=0.05", "result:slow:seconds=0.05")
    async with Devnet(miners=4, task_seconds=0.1, faults=faults) as devnet:
        began = loop.time()
        await finish(await start(devnet, clip, tmp_path / "unkilled.mkv", tmp_path / "unkilled"))
        life = loop.time() - began
        assert devnet.stats()["creates"] == FRAMES

        kills = runs = 0
        duplicates = devnet.stats()["duplicates"]
        wanted = KILLS if whole else 3
        while kills < wanted:
            runs += 1
            state, output = tmp_path / f"state-{runs}", tmp_path / f"killed-{runs}.mkv"
            before = devnet.stats()["creates"]
            # Several kills in one life, the shorter the sooner its work is done.
            for _ in range(3):
                process = await start(devnet, clip, output, state)
                try:
                    await asyncio.wait_for(process.wait(), draw.uniform(0, 0.8 * life))
                except asyncio.TimeoutError:
                    process.kill()
                    kills += 1
                await process.communicate()
                if output.exists():
                    break
            else:
                await finish(await start(devnet, clip, output, state))
            assert devnet.stats()["creates"] - before == FRAMES, f"run {runs}"
            assert track(output, "video") == track(tmp_path / "unkilled.mkv", "video"), f"run {runs}"
            assert track(output, "audio") == track(clip, "audio")
            # Those of downloads that a kill cut off go with their age.
            left = [path.name for path in (state / "results").iterdir()]
            assert not [name for name in left if not UNFINISHED.search(name)], left
        duplicates = devnet.stats()["duplicates"] - duplicates
    assert len(played(output)) == len(shown)
    note("(g) a clip's process killed by SIGKILL, frames created once each", f"{kills} times, {runs} clips")
    note("(g) creates repeated under the same job id after `resend`", str(duplicates))
