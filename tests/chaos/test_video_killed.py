"""(g) A process that upscales a clip, killed at any moment and started again: each frame is created once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from killed import Program, kill_at_any_moment
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


@pytest.mark.timeout(1800)
async def test_killed_at_any_moment_each_frame_is_created_once(
    tmp_path: Path, whole: bool, note: Callable[[str, str], None]
) -> None:
    photograph = moving_photograph(FRAMES)
    # The first frames come again at the end, and each is shown twice.
    shown = [frame for frame in [*photograph, *photograph[:AGAIN]] for _ in range(2)]
    clip = write_video(tmp_path / "clip.mkv", shown, lossless=True)
    unkilled = tmp_path / "unkilled.mkv"
    faults = ("task_create:delay_after:seconds=0.05", "result:slow:seconds=0.05")

    def check(output: Path, state: Path) -> None:
        assert track(output, "video") == track(unkilled, "video")
        assert track(output, "audio") == track(clip, "audio")
        # Those of downloads that a kill cut off go with their age.
        left = [path.name for path in (state / "results").iterdir()]
        assert not [name for name in left if not UNFINISHED.search(name)], left

    async with Devnet(miners=4, task_seconds=0.1, faults=faults) as devnet:
        program = Program(PROGRAM, devnet, clip)
        life = await program.finish(unkilled, tmp_path / "unkilled")
        assert devnet.stats()["creates"] == FRAMES
        done = await kill_at_any_moment(program, tmp_path, ".mkv", life, whole, check)
    assert len(played(unkilled)) == len(shown)
    figure = f"{done.kills} times, {done.runs} clips"
    note("(g) a clip's process killed by SIGKILL, frames created once each", figure)
    note("(g) creates repeated under the same job id after `resend`", str(done.duplicates))
