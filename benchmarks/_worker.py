"""A contestant in a process of its own: warm, woken for one round at a time, its memory watched.

The child may run on another Python (ComfyUI's), so this file needs the standard library only.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

Round = dict[str, Any]
FLAG = "--worker"


# --- the child ---


def serve(workers: Mapping[str, Callable[[Sequence[str]], Callable[[], Round | None]]]) -> bool:
    """In a script started as a worker: run rounds until the parent leaves. False in a script started else.

    A worker is made from its arguments, warms up, and gives back what is to be run and timed; a round may
    give back figures of its own.
    """
    if FLAG not in sys.argv:
        return False
    name, *arguments = sys.argv[sys.argv.index(FLAG) + 1 :]
    # Libraries print; the protocol keeps the real stdout to itself.
    answers, sys.stdout = sys.stdout, sys.stderr
    run = workers[name](arguments)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        gc.collect()
        _forget_peak()
        before = _status("VmRSS")
        cpu, began = time.process_time(), time.perf_counter()
        figures = run() or {}
        seconds = time.perf_counter() - began
        figures = {"seconds": seconds, "cpu": time.process_time() - cpu, **figures}
        figures["peak_mb"] = (_status("VmHWM") - before) / 1e6
        print(json.dumps(figures), file=answers, flush=True)
    return True


def _forget_peak() -> None:
    """Have the kernel count the peak from here; without /proc, memory is told as 0."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


# --- the parent ---


class Worker:
    """A context manager; `round()` runs one round in the child and gives its seconds, cpu and peak_mb."""

    def __init__(
        self,
        script: str,
        name: str,
        *arguments: str,
        python: str | Path = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [str(python), script, FLAG, name, *arguments]
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        self._process = subprocess.Popen(
            self._command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate()

    def round(self) -> Round:
        assert self._process is not None and self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        answer: Round = json.loads(self._read())
        return answer

    def _read(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A worker ended: {' '.join(self._command)}")
        return line


@contextmanager
def started(workers: Mapping[str, Worker]) -> Iterator[Mapping[str, Worker]]:
    """All of them, ready and waiting."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(worker) for name, worker in workers.items()}


def in_turn(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[Round]]:
    """Rounds of all contestants one after another, so that what disturbs the machine disturbs all alike.

    One round of each goes before, of which only the peak counts: memory that a virtual machine has never
    touched is slow, and memory that an earlier round has left behind is no longer seen to be taken.
    """
    taken: dict[str, list[Round]] = {name: [] for name in workers}
    peaks = {name: worker.round()["peak_mb"] for name, worker in workers.items()}
    for _ in range(rounds):
        for name, worker in workers.items():
            figures = worker.round()
            taken[name].append({**figures, "peak_mb": max(figures["peak_mb"], peaks[name])})
    return taken


def touch_memory() -> None:
    """Use and give back nearly all memory that is free, so that a virtual machine has it at hand.

    Hosts back a guest's memory at its first use, and take it back when it has been free for a while: a
    gigabyte then takes two seconds to write instead of a tenth. What is to be measured is not that.
    """
    with suppress(OSError):  # no /proc: no virtual machine of the kind that is meant
        figures = Path("/proc/meminfo").read_text().split()
        free = int(figures[figures.index("MemFree:") + 1]) * 1024
        touch = f"import numpy; numpy.empty(int({free} * 0.9), numpy.uint8)[::4096] = 1"
        subprocess.run([sys.executable, "-c", touch], check=True)


_KEEP = """
import sys, time, numpy
kept = numpy.ones(int(sys.argv[1]), numpy.uint8)
print("kept", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def memory_for_later(size: int, seconds: float) -> Iterator[None]:
    """`touch_memory`, and ``size`` bytes of it kept from the host until ``seconds`` have passed.

    For rounds that need much memory only after a while, when what was touched before has gone again.
    """
    touch_memory()
    arguments = [sys.executable, "-c", _KEEP, str(size), str(seconds)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        try:
            yield
        finally:
            keeper.kill()


def middle(rounds: Sequence[Round], figure: str = "seconds") -> float:
    """The median of one figure."""
    return median(float(one[figure]) for one in rounds)


def ratio(peer: Sequence[Round], ours: Sequence[Round], figure: str = "seconds") -> float:
    """How many times the peer's figure is ours: the median over pairs of the same round."""
    return median(
        float(theirs[figure]) / float(mine[figure]) for theirs, mine in zip(peer, ours, strict=True)
    )
