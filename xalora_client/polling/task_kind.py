"""Tasks of one kind that run at the same time: the end of one triggers a poll of another. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

from .durations import HISTORY_LENGTH, PastRun

TOGETHER_SECONDS = 0.3
"""Ends noticed within so many seconds of each other count as one group."""

AGAIN_AFTER = (0.1, 0.2)
"""Seconds after which a task that has not ended is polled again, where others end in a group."""

OLDEST = 8
"""How many tasks are tried, the oldest first: one may be in a poll already, or have a fixed interval."""


class PolledTask(Protocol):
    """A task whose status is polled."""

    def ask_now(self, again_after: Sequence[float]) -> bool:
        """Poll now, and again after each of these pauses, before the schedule goes on.

        False, without a poll, where the task is in a poll already or its interval is fixed.
        """


class TaskKind:
    """Tasks of one kind, and how long such tasks have taken so far.

    The network runs a batch in order, so when one task ends, the oldest of the others is polled. If that
    one has ended as well, it triggers the next poll, and a group that ended together is noticed together.
    Where tasks end one by one, the price is one more poll for each.

    Args:
        past_runs: Earlier ones, the latest first.

    Attributes:
        past_runs: The same, with those that have ended since; a schedule reads it at each poll.
    """

    def __init__(self, past_runs: Iterable[PastRun] = ()) -> None:
        self.past_runs = list(past_runs)
        self._tasks: dict[PolledTask, None] = {}
        self._last_end = -math.inf

    def joined(self, task: PolledTask) -> None:
        """A task is polled from now on."""
        self._tasks[task] = None

    def left(self, task: PolledTask) -> None:
        """A task is no longer polled; calling this twice is harmless."""
        self._tasks.pop(task, None)

    def ended(self, task: PolledTask, run: PastRun | None, now: float) -> None:
        """A task's end was noticed.

        Args:
            task: Which.
            run: How long it took; None where that says nothing about others.
            now: On a monotonic clock.
        """
        self.left(task)
        if run is not None:
            self.past_runs[:] = [run, *self.past_runs][:HISTORY_LENGTH]
        again_after = AGAIN_AFTER if now - self._last_end < TOGETHER_SECONDS else ()
        self._last_end = now
        for other in islice(self._tasks, OLDEST):
            if other.ask_now(again_after):
                return
