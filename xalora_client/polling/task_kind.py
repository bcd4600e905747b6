"""Tasks of one kind that are under way together: one that ends tells the others when to look. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

from .durations import HISTORY_LENGTH, PastRun

TOGETHER_SECONDS = 0.3
"""Tasks whose ends are noticed within so many seconds of each other are taken to end together."""

AGAIN_AFTER = (0.1, 0.2)
"""Seconds after which a task is asked about again that is still under way where others end together."""

OLDEST = 8
"""How many are tried, the oldest first; who can't be asked is just being asked, or has a pace of its own."""


class UnderWay(Protocol):
    """A task that is asked about from time to time."""

    def ask_now(self, again_after: Sequence[float]) -> bool:
        """Have its status asked for now, and again after so many seconds each, before its schedule goes on.

        False, and nothing done, where something speaks against it.
        """


class TaskKind:
    """Tasks of one kind, and how long such tasks have taken so far.

    A network works on a batch in the order it came, so where one task has ended, the oldest one is the next
    to be looked at: if it has ended as well, it has the next one looked at, and a whole row of tasks that
    ended together is found together. Where tasks end one by one, that is one question more for each of them.

    Args:
        past_runs: Earlier ones, the latest first.

    Attributes:
        past_runs: The same, with those that have ended since; a schedule that holds it learns on.
    """

    def __init__(self, past_runs: Iterable[PastRun] = ()) -> None:
        self.past_runs = list(past_runs)
        self._under_way: dict[UnderWay, None] = {}
        self._last_end = -math.inf

    def joined(self, task: UnderWay) -> None:
        """A task is followed from now on."""
        self._under_way[task] = None

    def left(self, task: UnderWay) -> None:
        """A task is not followed any more; twice is harmless."""
        self._under_way.pop(task, None)

    def ended(self, task: UnderWay, run: PastRun | None, now: float) -> None:
        """A task's end was noticed.

        Args:
            task: Which.
            run: How long it took; None where that is no measure for others.
            now: On a monotonic clock.
        """
        self.left(task)
        if run is not None:
            self.past_runs[:] = [run, *self.past_runs][:HISTORY_LENGTH]
        again_after = AGAIN_AFTER if now - self._last_end < TOGETHER_SECONDS else ()
        self._last_end = now
        for sibling in islice(self._under_way, OLDEST):
            if sibling.ask_now(again_after):
                return
