"""Programs that upscale a file, killed at any moment and started again: each part of it is created once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from xalora_client.devnet import Devnet

KILLS, FEWER_KILLS = 30, 3
"""At full length, and else."""

LIVES = 3
"""How often a program is killed at most before it may finish."""


@dataclass(frozen=True)
class Program:
    """A Python program, whose arguments are key, address, input and output.

    It prints "begun" as soon as it has a client.
    """

    text: str
    devnet: Devnet
    source: Path

    async def start(self, output: Path, state: Path) -> asyncio.subprocess.Process:
        """Start it; returns once it has begun."""
        given = (self.devnet.api_key, self.devnet.url, str(self.source), str(output))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            self.text,
            *given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "XALORA_STATE_DIR": str(state)},
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"begun\n"
        return process

    async def finish(self, output: Path, state: Path) -> float:
        """Run it to its end; returns the seconds that it took from when it had begun."""
        process = await self.start(output, state)
        began = asyncio.get_running_loop().time()
        _, complaint = await process.communicate()
        assert process.returncode == 0, complaint.decode()
        return asyncio.get_running_loop().time() - began


@dataclass
class Killed:
    """What was done: ``kills`` in ``runs`` with a new state each, ``duplicates`` of creates."""

    kills: int = 0
    runs: int = 0
    duplicates: int = 0


async def kill_at_any_moment(
    program: Program, folder: Path, suffix: str, life: float, whole: bool, check: Callable[[Path, Path], None]
) -> Killed:
    """Kill a program, start it again, and look at the output, until there were enough kills.

    Args:
        life: Seconds that it takes without.
        check: Looks at an output and the state that it was made with.
    """
    done, draw, stats = Killed(), Random(20), program.devnet.stats
    created, duplicates = stats()["creates"], stats()["duplicates"]
    while done.kills < (KILLS if whole else FEWER_KILLS):
        done.runs += 1
        state, output = folder / f"state-{done.runs}", folder / f"killed-{done.runs}{suffix}"
        # Several kills in one life, the shorter the sooner its work is done.
        for _ in range(LIVES):
            process = await program.start(output, state)
            try:
                await asyncio.wait_for(process.wait(), draw.uniform(0, 0.8 * life))
            except asyncio.TimeoutError:
                process.kill()
                done.kills += 1
            await process.communicate()
            if output.exists():
                break
        else:
            await program.finish(output, state)
        assert stats()["creates"] - created == done.runs * created, f"run {done.runs}"
        check(output, state)
    done.duplicates = stats()["duplicates"] - duplicates
    return done
