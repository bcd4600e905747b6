"""Limits the rate of requests that many tasks share. No I/O."""

from __future__ import annotations

import math

MAX_POLLS_PER_SECOND = 250


class Pace:
    """Spreads events out to so many a second, in the order they come; a second's worth may come at once."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1 / per_second
        self._reserved_until = -math.inf

    def delay(self, now: float) -> float:
        """Reserve the next place; how many seconds after ``now`` it is."""
        self._reserved_until = max(self._reserved_until, now - 1) + self._gap
        return max(0.0, self._reserved_until - now)
