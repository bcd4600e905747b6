"""Failed polls: when to poll again, and when to end the wait. No I/O."""

from __future__ import annotations

import math
from random import random

from ..errors import RUNS_ON, AuthenticationError, NetworkError, RateLimitError, RequestRefusedError
from ..network.sequencer import RETRY_AFTER_CAP_SECONDS
from .schedule import MIN_POLL_DELAY

REFUSAL_SECONDS = 15.0
"""How long the network may refuse a task's status (403, 404, ...) before the wait for the task ends."""

NOT_FOUND = (404, 410)
"""HTTP statuses that say that the network does not know a task."""

REFUSALS = (AuthenticationError, RequestRefusedError)

_UNAUTHORIZED = 401


class FailedPolls:
    """Consecutive failed polls of one task.

    Args:
        outage_limit: Seconds the sequencer may stay unreachable.
    """

    def __init__(self, outage_limit: float) -> None:
        self._outage_limit = outage_limit
        self._failures = 0
        self._since: float | None = None
        self._refused_since: float | None = None

    def pause_after(self, error: NetworkError, now: float) -> float | None:
        """Seconds until the next poll; None to end the wait."""
        self._failures += 1
        # A network that asks to slow down is reachable.
        self._since = None if isinstance(error, RateLimitError) else self._since or now
        self._refused_since = (self._refused_since or now) if isinstance(error, REFUSALS) else None
        left = math.inf if self._since is None else self._since + self._outage_limit - now
        if self._refused_since is not None:
            left = min(left, self._refused_since + REFUSAL_SECONDS - now)
        is_bad_key = isinstance(error, AuthenticationError) and error.status_code == _UNAUTHORIZED
        if left < 0 or is_bad_key:
            return None
        back_off = min(0.5 * 2 ** min(self._failures, 4), 8.0) * (0.5 + random() / 2)
        pause = min(error.retry_after or back_off, RETRY_AFTER_CAP_SECONDS)
        return min(pause, max(left, MIN_POLL_DELAY))

    def seconds(self, now: float) -> float:
        """Seconds since the first of these polls failed."""
        return 0.0 if self._since is None else now - self._since


def status_unavailable_error(error: NetworkError, task_id: str, job_id: str, seconds: float) -> NetworkError:
    """The error that ends the wait for a task; ``error`` is the last poll's."""
    next_step = "Take it up again by its id when the network is back"
    if isinstance(error, REFUSALS):
        reason = f"the network refuses it ({error.what})"
        next_step = f"{error.next_step} Then take it up again by its id"
    else:
        reason = f"the sequencer has given no valid answer for {seconds:.0f} s ({error.what})"
    return type(error)(
        f"The status of task {task_id} can't be read: {reason}",
        money=RUNS_ON,
        next_step=f"{next_step}: `xalora resume {task_id}`.",
        task_id=task_id,
        job_id=job_id,
        status_code=error.status_code,
    )
