"""A node's progress bar and line of text, computed from its tasks' events. No I/O and no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...xalora_client.events import TaskEvent
from ...xalora_client.jobs.progress import Step, TaskProgress
from ...xalora_client.text import elapsed_text, seconds_text

SINGLE_TASK_STEPS = 100
"""The bar of a single task moves in hundredths; that of a batch counts its images."""

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
        self._tasks = [TaskProgress(now) for _ in range(total)]

    @property
    def _done(self) -> int:
        return sum(task.step is Step.ENDED for task in self._tasks)

    def note(self, index: int, event: TaskEvent, now: float) -> None:
        """Take in an event of the task with this index."""
        self._tasks[index].apply(event, now)

    def finished(self, index: int) -> None:
        """Note that this task's result is decoded."""
        self._tasks[index].ended()

    def again(self, index: int, now: float) -> None:
        """Note that the task failed and is sent again."""
        self._tasks[index] = TaskProgress(now)

    def bar(self, now: float) -> tuple[float, float]:
        """``(value, total)``: images of a batch, hundredths of a single task."""
        if self.total == 1:
            return round((self._tasks[0].share(now) or 0.0) * SINGLE_TASK_STEPS), SINGLE_TASK_STEPS
        return self._done, self.total

    def only_waits(self, now: float) -> float:
        """How long the tasks have waited in the network's queue while none runs; 0 where one runs."""
        if any(task.step in (Step.RUNNING, Step.OTHER, Step.DOWNLOADING) for task in self._tasks):
            return 0.0
        return _longest([task for task in self._tasks if task.step is Step.WAITING], now)

    def line(self, now: float) -> str:
        """The line of text."""
        line = self._line(now)
        if self.cost and all(task.step is Step.PREPARING for task in self._tasks):
            tasks = "1 task" if self.total == 1 else f"up to {self.total} tasks"
            return f"sends {tasks}, about {self.cost}"
        return f"{line}; {NO_MINER}" if self.no_miner and self.only_waits(now) else line

    def _line(self, now: float) -> str:
        if self.total == 1:
            return self._tasks[0].text(now)
        parts = [f"{self._done}/{self.total}"]
        for step in (Step.DOWNLOADING, Step.RUNNING, Step.WAITING, Step.UPLOADING):
            if tasks := [task for task in self._tasks if task.step is step]:
                is_timed = step in (Step.RUNNING, Step.WAITING)
                longest = f" {elapsed_text(_longest(tasks, now))}" if is_timed else ""
                parts.append(f"{len(tasks)} {step.value}{longest}")
        return ", ".join(parts)


def _longest(tasks: Sequence[TaskProgress], now: float) -> float:
    return max((now - task.since for task in tasks if task.since is not None), default=0.0)


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
