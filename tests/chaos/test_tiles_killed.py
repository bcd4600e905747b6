"""(h) A process that upscales an image in tiles, killed at any moment and started again: each tile once."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
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
KILLS = 30


def picture(path: Path) -> Path:
    pixels = np.random.default_rng(20).integers(0, 256, (250, 400, 3), dtype=np.uint8)
    pixels[:96] = 200
    Image.fromarray(pixels).save(path)
    return path


async def start(devnet: Devnet, image: Path, output: Path, state: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        devnet.api_key,
        devnet.url,
        str(image),
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
async def test_killed_at_any_moment_each_tile_is_created_once(
    tmp_path: Path, whole: bool, note: Callable[[str, str], None]
) -> None:
    draw = random.Random(20)
    loop = asyncio.get_running_loop()
    image = picture(tmp_path / "image.png")
    faults = ("task_create:delay_after:seconds=0.05", "result:slow:seconds=0.05")
    async with Devnet(miners=4, task_seconds=0.1, faults=faults) as devnet:
        began = loop.time()
        await finish(await start(devnet, image, tmp_path / "unkilled.png", tmp_path / "unkilled"))
        life = loop.time() - began
        tiles = devnet.stats()["creates"]
        assert 1 < tiles < TILES

        kills = runs = 0
        duplicates = devnet.stats()["duplicates"]
        wanted = KILLS if whole else 3
        while kills < wanted:
            runs += 1
            state, output = tmp_path / f"state-{runs}", tmp_path / f"killed-{runs}.png"
            before = devnet.stats()["creates"]
            for _ in range(3):
                process = await start(devnet, image, output, state)
                try:
                    await asyncio.wait_for(process.wait(), draw.uniform(0, 0.8 * life))
                except asyncio.TimeoutError:
                    process.kill()
                    kills += 1
                await process.communicate()
                if output.exists():
                    break
            else:
                await finish(await start(devnet, image, output, state))
            assert devnet.stats()["creates"] - before == tiles, f"run {runs}"
            assert not list(tmp_path.glob(".*.part")), "what a kill left is removed"
            assert output.read_bytes() == (tmp_path / "unkilled.png").read_bytes(), f"run {runs}"
        duplicates = devnet.stats()["duplicates"] - duplicates
    note("(h) an image's process killed by SIGKILL, tiles created once each", f"{kills} times, {runs} images")
    note("(h) creates repeated under the same job id after `resend`", str(duplicates))
