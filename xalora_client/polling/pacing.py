"""Decides when one task is asked about, and sleeps until then.

It joins the schedule, the callers' deadlines, and what the other tasks of its kind tell. It knows nothing of
requests, results or money.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import random
from time import monotonic, time

from .durations import PastRun, usual_span, watched_duration
from .schedule import PollSchedule, delay_before_deadline
from .task_kind import TaskKind

LEAST_POLL_GAP = 0.1
"""Seconds between two questions about the same task, whatever the reason for the second."""


class Pacing:
    """When to ask about one task; belongs to the event loop it is used in.

    Args:
        schedule: When to ask, as far as only the time since the submission counts.
        kind: The tasks that take equally long.

    Attributes:
        usual_seconds: The span that most tasks of the kind took, None without history.
    """

    def __init__(self, schedule: PollSchedule, kind: TaskKind) -> None:
        self.usual_seconds = usual_span(kind.past_runs)
        self._schedule = schedule
        self._kind = kind
        self._submitted = monotonic()
        self._submitted_wall = time()
        self._asked = -math.inf
        self._seen_under_way = 0.0
        self._next_delays: list[float] = []
        self._deadlines: list[float] = []
        self._poked = False
        self._is_backing_off = False
        self._sleeper: asyncio.Future[None] | None = None
        kind.joined(self)

    def submitted(self, seconds_ago: float = 0.0) -> None:
        """The task was accepted; from now on its time counts."""
        self._submitted = monotonic() - seconds_ago
        self._submitted_wall = time() - seconds_ago

    def elapsed(self) -> float:
        """Seconds since the submission."""
        return monotonic() - self._submitted

    @contextmanager
    def deadline(self, at: float | None) -> Iterator[None]:
        """For the length of a ``with`` block, have the last question go out before this moment."""
        if at is None:
            yield
            return
        self._deadlines.append(at)
        try:
            yield
        finally:
            self._deadlines.remove(at)

    async def until_next(self) -> None:
        """Sleep until the task is to be asked about."""
        delay = self._schedule.next_delay(self.elapsed(), random())
        if self._next_delays:
            delay = min(delay, self._next_delays.pop(0))
        await self._sleep(delay)

    async def back_off(self, seconds: float) -> None:
        """Sleep after a question that was not answered."""
        self._is_backing_off = True
        try:
            await self._sleep(seconds)
        finally:
            self._is_backing_off = False

    def asks(self) -> None:
        """The task is asked about now."""
        self._asked = monotonic()

    def is_under_way(self) -> None:
        """The answer says that the task has not ended."""
        self._seen_under_way = self.elapsed()

    def ended(self, *, is_measure: bool) -> PastRun | None:
        """The task's end was noticed; how long it took, None where that says nothing about others.

        Args:
            is_measure: It finished, and was watched from its submission on.
        """
        elapsed = watched_duration(time() - self._submitted_wall, self.elapsed())
        run = None
        if is_measure and elapsed is not None:
            run = PastRun(min(self._seen_under_way, elapsed), elapsed)
        self._kind.ended(self, run, monotonic())
        return run

    def stop(self) -> None:
        """The task is not asked about any more; twice is harmless."""
        self._kind.left(self)

    def poke(self) -> None:
        """Have the task asked about now; once more if that is just being done."""
        self._poked = True
        if self._sleeper is not None:
            _wake(self._sleeper)

    def ask_now(self, again_after: Sequence[float]) -> bool:
        """See `task_kind.PolledTask`; never where the caller or the network set the pace."""
        if self._sleeper is None or self._is_backing_off or self._schedule.interval is not None:
            return False
        self._next_delays[:] = again_after
        too_soon = self._asked + LEAST_POLL_GAP - monotonic()
        asyncio.get_running_loop().call_later(max(0.0, too_soon), _wake, self._sleeper)
        return True

    async def _sleep(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        now = monotonic()
        nearest = min((deadline for deadline in self._deadlines if deadline > now), default=None)
        self._sleeper = sleeper = loop.create_future()
        timer = loop.call_later(delay_before_deadline(delay, now, nearest), _wake, sleeper)
        try:
            if not self._poked:
                await sleeper
        finally:
            timer.cancel()
            self._poked = False
            self._sleeper = None


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
