"""The memory of a program and its workers over time."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

Memory = list[tuple[float, float]]
"""Seconds from the beginning, and MB."""

EVERY = 0.5

_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine())  # system call number
_KCMP_VM = 1


class Watch:
    """Notes the memory of a process and of all that it has started, while it is entered.

    Args:
        pid: The process.
        every: Seconds from one look to the next.
    """

    def __init__(self, pid: int, every: float = EVERY) -> None:
        self._pid, self._every = pid, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._began = 0.0
        self.memory: Memory = []

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.memory.append((time.perf_counter() - self._began, memory_mb(self._pid)))
            if self._ended.wait(self._every):
                return


def watched(command: list[str], env: dict[str, str], every: float = EVERY) -> tuple[float, Memory, str]:
    """Seconds, memory over time, and what the command printed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=printed)
        with Watch(process.pid, every) as watch:
            process.wait()
        wall = time.perf_counter() - began
        printed.seek(0)
        text = printed.read()
        assert process.returncode == 0, text[-2000:]
        return wall, watch.memory, text


def memory_mb(pid: int) -> float:
    """The proportional set size of a process and of all that it has started."""
    below = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            below[_parent(entry)].append(int(entry.name))
    pids = [pid]
    for each in pids:
        pids += (child for child in below[each] if not _same_memory(each, child))
    return sum(_pss(each) for each in pids) / 1e6


def _parent(entry: Path) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return -1


def _same_memory(parent: int, child: int) -> bool:
    """Whether a child has its parent's memory itself: a vfork that has not started its program yet."""
    libc = ctypes.CDLL(None)
    return _KCMP is not None and libc.syscall(_KCMP, parent, child, _KCMP_VM, 0, 0) == 0


def _pss(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0.0
