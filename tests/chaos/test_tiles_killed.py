"""(h) A process that upscales an image in tiles, killed at any moment and started again: each tile once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killed import Program, kill_at_any_moment
from PIL import Image

from xalora_client.devnet import Devnet

PROGRAM = """
import sys
from xalora_client import Xalora

with Xalora(sys.argv[1], sys.argv[2]) as client:
    print("begun", flush=True)
    client.upscale_image(sys.argv[3], sys.argv[4], tile=128, if_unknown="resend", fallback="never")
"""
TILES = 28
"""7 x 4, of which those of the sky are equal, but for the edges."""


def picture(path: Path) -> Path:
    pixels = np.random.default_rng(20).integers(0, 256, (250, 400, 3), dtype=np.uint8)
    pixels[:96] = 200
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.timeout(1800)
async def test_killed_at_any_moment_each_tile_is_created_once(
    tmp_path: Path, whole: bool, note: Callable[[str, str], None]
) -> None:
    unkilled = tmp_path / "unkilled.png"
    faults = ("task_create:delay_after:seconds=0.05", "result:slow:seconds=0.05")

    def check(output: Path, state: Path) -> None:
        assert not list(tmp_path.glob(".*.part")), "what a kill left is removed"
        assert output.read_bytes() == unkilled.read_bytes()

    async with Devnet(miners=4, task_seconds=0.1, faults=faults) as devnet:
        program = Program(PROGRAM, devnet, picture(tmp_path / "image.png"))
        life = await program.finish(unkilled, tmp_path / "unkilled")
        assert 1 < devnet.stats()["creates"] < TILES
        done = await kill_at_any_moment(program, tmp_path, ".png", life, whole, check)
    figure = f"{done.kills} times, {done.runs} images"
    note("(h) an image's process killed by SIGKILL, tiles created once each", figure)
    note("(h) creates repeated under the same job id after `resend`", str(done.duplicates))
