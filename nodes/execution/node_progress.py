"""A node's progress bar and line of text, computed from its tasks' events. No I/O and no clock."""

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
from ...xalora_client.polling.durations import estimated_share
from ...xalora_client.text import bytes_text, queue_text, seconds_text

SINGLE_TASK_STEPS = 100
"""The bar of a single task moves in hundredths; that of a batch counts its images."""

_DOWNLOAD_FROM = 0.9
"""Where on a single task's bar the download begins; everything before takes most of the time."""

NO_MINER = "no miner takes it at the moment"

PREVIEW_SECONDS = 0.25
"""The shortest time between two previews of a node. Results of a batch arrive together, and ComfyUI's server
encodes each picture on the thread that answers the browser."""


class PreviewPace:
    """Limits how often a node's previews are shown."""

    def __init__(self) -> None:
        self._next = -math.inf

    def takes(self, now: float) -> bool:
        """Whether to show a preview now."""
        if now < self._next:
            return False
        self._next = now + PREVIEW_SECONDS
        return True


class Phase(Enum):
    """A task's phases, in order."""

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
    position: int | None = None


class NodeProgress:
    """The state behind one node's bar and line.

    Args:
        total: How many tasks the node has.
        now: The time of the start. All times are seconds on the caller's monotonic clock.

    Attributes:
        no_miner: The network has no miner for the waiting tasks.
        cost: What sending all tasks costs by the user's prices; empty where none is known.
    """

    def __init__(self, total: int, now: float) -> None:
        self.total = total
        self.no_miner = False
        self.cost = ""
        self._tasks = [_TaskView(since=now) for _ in range(total)]
        self._done = 0

    def note(self, index: int, event: TaskEvent, now: float) -> None:
        """Take in an event of the task with this index."""
        task = self._tasks[index]
        match event:
            case Uploading(total=size):
                task.phase, task.since, task.total = Phase.UPLOADING, now, size
            case Submitted(usual_seconds=usual):
                task.phase, task.since, task.submitted, task.usual = Phase.WAITING, now, now, usual
            case Waiting(seconds=seconds, position=position):
                task.phase, task.since = Phase.WAITING, now - seconds
                task.submitted, task.position = now - seconds, position
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
        """Note that this task's result is decoded."""
        if self._tasks[index].phase is not Phase.ENDED:
            self._tasks[index].phase = Phase.ENDED
            self._done += 1

    def again(self, index: int, now: float) -> None:
        """Note that the task failed and is sent again."""
        self._tasks[index] = _TaskView(since=now)

    def bar(self, now: float) -> tuple[float, float]:
        """``(value, total)``: images of a batch, hundredths of a single task."""
        if self.total == 1:
            return round(_fraction(self._tasks[0], now) * SINGLE_TASK_STEPS), SINGLE_TASK_STEPS
        return self._done, self.total

    def only_waits(self, now: float) -> float:
        """How long the tasks have waited in the network's queue while none runs; 0 where one runs."""
        if any(task.phase in (Phase.RUNNING, Phase.OTHER, Phase.DOWNLOADING) for task in self._tasks):
            return 0.0
        return max((now - task.since for task in self._tasks if task.phase is Phase.WAITING), default=0.0)

    def line(self, now: float) -> str:
        """The line of text."""
        line = self._line(now)
        if self.cost and all(task.phase is Phase.PREPARING for task in self._tasks):
            tasks = "1 task" if self.total == 1 else f"up to {self.total} tasks"
            return f"sends {tasks}, about {self.cost}"
        return f"{line}; {NO_MINER}" if self.no_miner and self.only_waits(now) else line

    def _line(self, now: float) -> str:
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
            line = f"uploading {bytes_text(task.total or 0)}"
        case Phase.WAITING if task.position is not None:
            line = f"{queue_text(task.position)}, {now - task.since:.0f} s{_usually(task)}"
        case Phase.WAITING | Phase.RUNNING:
            line = f"{task.phase.value} {now - task.since:.0f} s{_usually(task)}"
        case Phase.OTHER:
            line = f"status {task.status!r}, which this version does not know"
        case Phase.DOWNLOADING if task.total:
            line = f"downloading {100 * task.received // task.total} %"
        case Phase.DOWNLOADING:
            line = f"downloading, {bytes_text(task.received)} so far"
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
    return _DOWNLOAD_FROM * estimated_share(now - task.submitted, task.usual)


# --- the line at the end ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResultSource:
    """Where one result comes from.

    ``engine`` is ``xalora`` for the network, else the name of a local engine; ``miner`` is set where the
    network names one; ``reused`` marks a kept result, for which nothing was sent; ``left_out`` counts its
    files that no output of the node returns.
    """

    engine: str
    miner: str | None = None
    reused: bool = False
    left_out: int = 0


def summary(sources: Sequence[ResultSource], seconds: float) -> str:
    """The line that stays on the node: ``3.2 s by xalora, miner X``, or a count for each source."""
    line = _by_source(sources, seconds)
    left_out = sum(source.left_out for source in sources)
    if not left_out:
        return line
    return f"{line}; {left_out} more {'file is' if left_out == 1 else 'files are'} in the Xalora sidebar only"


def _by_source(sources: Sequence[ResultSource], seconds: float) -> str:
    if len(sources) == 1:
        return f"{seconds_text(seconds)} by {_source_text(sources)}"
    groups: dict[tuple[str, bool], list[ResultSource]] = {}
    for source in sources:
        groups.setdefault((source.engine, source.reused), []).append(source)
    if len(groups) == 1:
        return f"{len(sources)} in {seconds_text(seconds)} by {_source_text(sources)}"
    parts = [f"{len(group)} by {_source_text(group)}" for group in groups.values()]
    return f"{len(sources)} in {seconds_text(seconds)}: " + ", ".join(parts)


def _source_text(sources: Sequence[ResultSource]) -> str:
    """The source of several results with the same engine, all reused or none."""
    text = sources[0].engine
    miners = list(dict.fromkeys(source.miner for source in sources if source.miner))
    if miners:
        text += f", miner {miners[0]}" if len(miners) == 1 else f", {len(miners)} miners"
    if sources[0].reused:
        text += " (kept result, nothing sent)" if len(sources) == 1 else " (kept results, nothing sent)"
    return text
