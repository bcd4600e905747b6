"""What a node shows while its tasks live: a bar and one line of text. No I/O, and no clock of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ...xalora_client.events import (
    Done,
    Downloading,
    Running,
    Submitted,
    TaskEvent,
    UnknownStatus,
    Uploading,
    Waiting,
)

SINGLE_TASK_STEPS = 100
"""The bar of a single task moves in hundredths; that of a batch counts its images."""

_DOWNLOAD_FROM = 0.9
"""Where on a single task's bar the download begins: what comes before takes most of the time."""

_ALMOST = 0.85
"""How far the bar goes by the usual duration alone: only the network can say that a task has ended."""

PREVIEW_SECONDS = 0.25
"""The least between two previews of a node: results of a batch come in crowds, and ComfyUI's server encodes
each picture on the thread that answers the browser."""


class PreviewPace:
    """Which of a node's previews are shown: the first, and none too soon after another."""

    def __init__(self) -> None:
        self._next = -math.inf

    def takes(self, now: float) -> bool:
        """Whether the preview that is there now is to be shown."""
        if now < self._next:
            return False
        self._next = now + PREVIEW_SECONDS
        return True


class Phase(Enum):
    """What a task is at, in the order of a task's life."""

    PREPARING = "preparing"
    UPLOADING = "uploading"
    WAITING = "waiting in queue"
    RUNNING = "running"
    OTHER = "other"
    DOWNLOADING = "downloading"
    ENDED = "ended"


@dataclass
class _TaskView:
    phase: Phase = Phase.PREPARING
    since: float = 0.0
    submitted: float | None = None
    usual: tuple[float, float] | None = None
    received: int = 0
    total: int | None = None
    status: str = ""


class NodeProgress:
    """The state behind one node's bar and line.

    Args:
        total: How many tasks the node has.
        now: The moment it begins. All moments are seconds on one monotonic clock, the caller's.
    """

    def __init__(self, total: int, now: float) -> None:
        self.total = total
        self._tasks = [_TaskView(since=now) for _ in range(total)]
        self._done = 0

    def note(self, index: int, event: TaskEvent, now: float) -> None:
        """Take in what happened to the task with this index."""
        task = self._tasks[index]
        match event:
            case Uploading(total=size):
                task.phase, task.since, task.total = Phase.UPLOADING, now, size
            case Submitted(usual_seconds=usual):
                task.phase, task.since, task.submitted, task.usual = Phase.WAITING, now, now, usual
            case Waiting(seconds=seconds):
                task.phase, task.since = Phase.WAITING, now - seconds
                task.submitted = now - seconds
            case Running(seconds=seconds):
                task.phase, task.since = Phase.RUNNING, now - seconds
            case UnknownStatus(status=status):
                task.phase, task.since, task.status = Phase.OTHER, now, status
            case Downloading(received=received, total=size):
                task.phase, task.received, task.total = Phase.DOWNLOADING, received, size
            case Done():
                task.phase = Phase.DOWNLOADING
                task.received, task.total = 1, 1
            case _:
                return

    def finished(self, index: int) -> None:
        """The result of this task is decoded."""
        if self._tasks[index].phase is not Phase.ENDED:
            self._tasks[index].phase = Phase.ENDED
            self._done += 1

    def again(self, index: int, now: float) -> None:
        """The task failed and is sent once more."""
        self._tasks[index] = _TaskView(since=now)

    def bar(self, now: float) -> tuple[float, float]:
        """``(value, total)``: images of a batch, hundredths of a single task."""
        if self.total == 1:
            return round(_fraction(self._tasks[0], now) * SINGLE_TASK_STEPS), SINGLE_TASK_STEPS
        return self._done, self.total

    def line(self, now: float) -> str:
        """One line that says what is going on."""
        if self.total == 1:
            return _single_line(self._tasks[0], now)
        parts = [f"{self._done}/{self.total}"]
        for phase in (Phase.DOWNLOADING, Phase.RUNNING, Phase.WAITING, Phase.UPLOADING):
            tasks = [task for task in self._tasks if task.phase is phase]
            if tasks:
                parts.append(f"{len(tasks)} {phase.value}{_longest(tasks, now)}")
        return ", ".join(parts)


def _single_line(task: _TaskView, now: float) -> str:
    match task.phase:
        case Phase.UPLOADING:
            line = f"uploading {_size(task.total or 0)}"
        case Phase.WAITING | Phase.RUNNING:
            line = f"{task.phase.value} {now - task.since:.0f} s{_usually(task)}"
        case Phase.OTHER:
            line = f"status {task.status!r}, which this version does not know"
        case Phase.DOWNLOADING if task.total:
            line = f"downloading {100 * task.received // task.total} %"
        case Phase.DOWNLOADING:
            line = f"downloading, {_size(task.received)} so far"
        case _:
            line = "done" if task.phase is Phase.ENDED else "preparing"
    return line


def _longest(tasks: Sequence[_TaskView], now: float) -> str:
    if tasks[0].phase not in (Phase.RUNNING, Phase.WAITING):
        return ""
    return f" {max(now - task.since for task in tasks):.0f} s"


def _usually(task: _TaskView) -> str:
    if task.usual is None:
        return ""
    low, high = (max(1, round(seconds)) for seconds in task.usual)
    return f" (usually {low} s)" if low == high else f" (usually {low} to {high} s)"


def _fraction(task: _TaskView, now: float) -> float:
    if task.phase is Phase.ENDED:
        return 1.0
    if task.phase is Phase.DOWNLOADING:
        share = task.received / task.total if task.total else 0.0
        return _DOWNLOAD_FROM + (1 - _DOWNLOAD_FROM) * min(share, 1.0)
    if task.submitted is None or task.usual is None:
        return 0.0
    return min(_ALMOST, _ALMOST * (now - task.submitted) / max(task.usual[1], 0.1))


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{max(size / 1e3, 0.1):.1f} kB"


# --- how it ended -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What made one result: ``engine`` is ``xalora`` for the network, else the words for a local engine.

    ``miner`` where the network tells; ``reused`` for a kept result, for which nothing was sent; ``left_out``
    counts files of it that no output of the node gives.
    """

    engine: str
    miner: str | None = None
    reused: bool = False
    left_out: int = 0


def summary(made: Sequence[Made], seconds: float) -> str:
    """The line that stays on the node: ``3.2 s by xalora, miner X``; of several results, how many by what."""
    line = _how_made(made, seconds)
    left_out = sum(one.left_out for one in made)
    if not left_out:
        return line
    return f"{line}; {left_out} more {'file is' if left_out == 1 else 'files are'} in the Xalora sidebar only"


def _how_made(made: Sequence[Made], seconds: float) -> str:
    if len(made) == 1:
        return f"{duration(seconds)} by {_makers(made)}"
    groups: dict[tuple[str, bool], list[Made]] = {}
    for one in made:
        groups.setdefault((one.engine, one.reused), []).append(one)
    if len(groups) == 1:
        return f"{len(made)} in {duration(seconds)} by {_makers(made)}"
    parts = [f"{len(group)} by {_makers(group)}" for group in groups.values()]
    return f"{len(made)} in {duration(seconds)}: " + ", ".join(parts)


def _makers(made: Sequence[Made]) -> str:
    """Results of one engine, all kept or none."""
    words = made[0].engine
    miners = list(dict.fromkeys(one.miner for one in made if one.miner))
    if miners:
        words += f", miner {miners[0]}" if len(miners) == 1 else f", {len(miners)} miners"
    if made[0].reused:
        words += " (kept result, nothing sent)" if len(made) == 1 else " (kept results, nothing sent)"
    return words


def duration(seconds: float) -> str:
    """``3.2 s``, ``34 s``, ``2 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
