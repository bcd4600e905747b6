"""The polling schedule: when to ask for a task's status again. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from .durations import LogNormal, PastRun, next_run

MIN_POLL_DELAY = 0.1
MAX_POLL_DELAY = 10.0
MIN_FIXED_INTERVAL = 1.0
POLL_JITTER = 0.1

UNINFORMED_SHARE = 0.15
"""Without history the next poll comes after this share of the time elapsed, so the end of a task is noticed
late by at most about this share of its duration, however long it takes."""
UNINFORMED_MIN_DELAY = 0.5

_PRECISION_SECONDS = 0.01
_LEAST_SURVIVAL = 1e-6

LAST_POLL_SECONDS = 0.5
"""How long before a deadline the last poll is sent, so that its answer can still count."""


@dataclass(frozen=True)
class PollSchedule:
    """A balance of lateness against requests.

    With past runs, the next poll comes when the expected lateness of noticing the end equals the price of one
    more request. The duration is taken to be log-normal as :func:`.durations.next_run` says, mixed with a
    wider log-normal for tasks that waited in a queue or went to a slower miner, and a log-uniform part for
    the rest. Without past runs, the pause is a fixed share of the time elapsed.

    Args:
        past_runs: Of the same kind, the latest first. The sequence may grow while it is used.
        interval: A fixed interval instead, at least 1 s. (The Node SDK's default is a fixed 10 s.)
        poll_price: Seconds of lateness that one request is worth.
    """

    past_runs: Sequence[PastRun] = ()
    interval: float | None = None
    poll_price: float = 0.05
    deviation_share: float = 0.1
    deviation_sigma: float = 0.3
    surprise_share: float = 0.05
    surprise_range: tuple[float, float] = (1.0, 3600.0)

    def __post_init__(self) -> None:
        if self.interval is not None and not self.interval >= MIN_FIXED_INTERVAL:
            raise ValueError(f"interval is {self.interval} s; at least {MIN_FIXED_INTERVAL:g} s is allowed")

    def next_delay(self, elapsed: float, random: float = 0.5) -> float:
        """Seconds until the next poll.

        Args:
            elapsed: Seconds since the task was submitted.
            random: A number in 0..1 that spreads the polls of many tasks by ±10 %.
        """
        if self.interval is not None:
            return self.interval
        elapsed = max(elapsed, 0.0)
        jitter = 1 + POLL_JITTER * (2 * random - 1)
        if self.past_runs:
            return min(max(self._balanced(elapsed) * jitter, MIN_POLL_DELAY), MAX_POLL_DELAY)
        return min(max(UNINFORMED_SHARE * elapsed * jitter, UNINFORMED_MIN_DELAY), MAX_POLL_DELAY)

    def _balanced(self, elapsed: float) -> float:
        usual = next_run(self.past_runs)
        wider = LogNormal(usual.mu, max(self.deviation_sigma, usual.sigma))
        parts = (
            (1 - self.deviation_share - self.surprise_share, partial(_log_normal, part=usual)),
            (self.deviation_share, partial(_log_normal, part=wider)),
            (self.surprise_share, partial(_log_uniform, span=self.surprise_range)),
        )
        begun = [(share, part, *part(elapsed)) for share, part in parts]
        survive = sum(share * (1 - cdf) for share, _, cdf, _ in begun)
        if survive <= _LEAST_SURVIVAL:
            # Later than anything expected: the hazard of a log-uniform without an upper end.
            return min(math.sqrt(2 * max(elapsed, 1.0) * self.poll_price), MAX_POLL_DELAY)
        delay = MAX_POLL_DELAY
        while delay > MIN_POLL_DELAY:
            # E[(poll_at - X)+; X > elapsed] of the mixture, and how fast it grows with poll_at.
            late = slope = 0.0
            poll_at = elapsed + delay
            for share, part, cdf_now, mean_now in begun:
                cdf, mean = part(poll_at)
                slope += share * (cdf - cdf_now)
                late += share * (poll_at * (cdf - cdf_now) - (mean - mean_now))
            surplus = late / survive - self.poll_price
            # Newton's method from above stays above the root, since lateness is convex.
            if surplus <= 0 or (step := surplus * survive / slope) < _PRECISION_SECONDS:
                break
            delay -= step
        return delay


def _log_normal(x: float, part: LogNormal) -> tuple[float, float]:
    """P(X <= x) and E[X; X <= x] of a log-normal."""
    if x <= 0:
        return 0.0, 0.0
    z = (math.log(x) - part.mu) / part.sigma
    return _phi(z), math.exp(part.mu + part.sigma**2 / 2) * _phi(z - part.sigma)


def _phi(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _log_uniform(x: float, span: tuple[float, float]) -> tuple[float, float]:
    """P(X <= x) and E[X; X <= x] of a log-uniform on a span."""
    low, high = span
    x = min(max(x, low), high)
    width = math.log(high / low)
    return math.log(x / low) / width, (x - low) / width


def delay_before_deadline(delay: float, now: float, deadline: float | None) -> float:
    """``delay``, cut so that no sleep runs past the deadline and a last poll still fits before it.

    Args:
        delay: Seconds the schedule asks for.
        now, deadline: On the same clock, in seconds; no deadline is None.
    """
    if deadline is None or now + delay < deadline - LAST_POLL_SECONDS:
        return delay
    remaining = deadline - now
    if remaining > LAST_POLL_SECONDS:
        return remaining - LAST_POLL_SECONDS
    return max(0.0, remaining)
