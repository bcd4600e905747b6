"""A rate limit for requests that many tasks share. No I/O."""

from __future__ import annotations

import math

MAX_POLLS_PER_SECOND = 100
"""Of one client. 500 open tasks are asked about every 5 s; the last ones of a batch are asked more often."""


class Pace:
    """A rate limit in order of arrival, with bursts of up to a second's worth."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1 / per_second
        self._reserved_until = -math.inf

    def delay(self, now: float) -> float:
        """Reserve the next slot; gives the seconds from ``now`` until then."""
        self._reserved_until = max(self._reserved_until, now - 1) + self._gap
        return max(0.0, self._reserved_until - now)
