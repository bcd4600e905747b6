"""The memory of a program and its workers over time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

EVERY = 0.5


def watched(command: list[str], env: dict[str, str]) -> tuple[float, list[tuple[float, float]], str]:
    """Seconds, memory in MB over time, and what the command printed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=printed)
        memory = []
        while process.poll() is None:
            memory.append((time.perf_counter() - began, _memory_mb(process.pid)))
            time.sleep(EVERY)
        wall = time.perf_counter() - began
        assert process.returncode == 0
        printed.seek(0)
        return wall, memory, printed.read()


def _memory_mb(pid: int) -> float:
    pids = [pid, *(int(entry.name) for entry in Path("/proc").iterdir() if _parent(entry) == pid)]
    return sum(_pss(each) for each in pids) / 1e6


def _parent(entry: Path) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return -1


def _pss(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0.0
