"""Decisions without I/O: what an answer means, what may be sent again, when to ask next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .durations import LogNormal, PastRun, next_run

# --- What an answer means, and what may be sent again -----------------------------------------------------


# --- When to ask next ---------------------------------------------------------------------------------------

MIN_POLL_DELAY = 0.1
BLIND_FIRST_DELAY = 0.5
MAX_POLL_DELAY = 10.0
# Without history most early polls are wasted, so they are spaced wider, and the later ones closer, than the
# balance alone would have it; the first one stays early for work that is done at once.
BLIND_MIN_DELAY = 2.0
BLIND_MAX_DELAY = 5.0
MIN_FIXED_INTERVAL = 1.0
POLL_JITTER = 0.1


@dataclass(frozen=True)
class PollSchedule:
    """When to ask for a task's status again: a balance of lateness against requests.

    The wait ends when the expected lateness of noticing the end equals the price of one more poll. A task's
    duration is taken to be log-normal around past runs of the same kind, mixed with a wider one for what had
    to wait its turn or went to a slower miner, and a log-uniform part for surprises; with no history, its
    hazard is that of the log-uniform alone, which gives the square root.

    Args:
        past_runs: Of the same kind, the latest first. It may grow while it is used.
        interval: A fixed interval instead, at least 1 s. (The Node SDK's default is a fixed 10 s.)
        poll_price: Seconds of lateness that one request is worth.
        blind_poll_price: The same without history, where each request buys less.
    """

    past_runs: Sequence[PastRun] = ()
    interval: float | None = None
    poll_price: float = 0.05
    blind_poll_price: float = 0.45
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
            delay = self._balanced(elapsed)
            return min(max(delay * jitter, MIN_POLL_DELAY), MAX_POLL_DELAY)
        if elapsed < BLIND_FIRST_DELAY:
            return BLIND_FIRST_DELAY
        delay = math.sqrt(2 * self.blind_poll_price * elapsed)
        return min(max(delay * jitter, BLIND_MIN_DELAY), BLIND_MAX_DELAY)

    def _balanced(self, elapsed: float) -> float:
        parts = self._parts()
        low, high = MIN_POLL_DELAY, MAX_POLL_DELAY
        if self._expected_lateness(elapsed, elapsed + high, parts) <= self.poll_price:
            return high
        while high - low > 0.01:
            middle = (low + high) / 2
            if self._expected_lateness(elapsed, elapsed + middle, parts) < self.poll_price:
                low = middle
            else:
                high = middle
        return high

    def _parts(self) -> list[LogNormal]:
        """The log-normal parts of the mixture: what is usual, and a wider one."""
        usual = next_run(self.past_runs)
        as_usual = 1 - self.deviation_share - self.surprise_share
        parts = [LogNormal(as_usual * part.share, part.mu, part.sigma) for part in usual]
        middle = math.fsum(part.share * part.mu for part in usual)
        widest = max(self.deviation_sigma, *(part.sigma for part in usual))
        return [*parts, LogNormal(self.deviation_share, middle, widest)]

    def _expected_lateness(self, now: float, poll_at: float, parts: Sequence[LogNormal]) -> float:
        """E[(poll_at - X)+ | X > now] for the mixture, in closed form."""
        late = survive = 0.0
        ways = [(part.share, _log_normal(now, part), _log_normal(poll_at, part)) for part in parts]
        span = self.surprise_range
        ways.append((self.surprise_share, _log_uniform(now, *span), _log_uniform(poll_at, *span)))
        for share, (cdf_now, part_now), (cdf_poll, part_poll) in ways:
            late += share * (poll_at * (cdf_poll - cdf_now) - (part_poll - part_now))
            survive += share * (1 - cdf_now)
        if survive <= 1e-12:
            # Later than anything expected: the hazard of the square-root rule.
            return (poll_at - now) ** 2 / (2 * max(now, 1.0))
        return late / survive


def _log_normal(x: float, part: LogNormal) -> tuple[float, float]:
    """P(X <= x) and E[X; X <= x] of a log-normal."""
    if x <= 0:
        return 0.0, 0.0
    z = (math.log(x) - part.mu) / part.sigma
    return _phi(z), math.exp(part.mu + part.sigma**2 / 2) * _phi(z - part.sigma)


def _phi(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _log_uniform(x: float, low: float, high: float) -> tuple[float, float]:
    """P(X <= x) and E[X; X <= x] of a log-uniform on low..high."""
    x = min(max(x, low), high)
    width = math.log(high / low)
    return math.log(x / low) / width, (x - low) / width


"""What thousands of tasks in flight share, so that asking leaves room for everything else, at both ends."""


LAST_LOOK_SECONDS = 0.5
"""How long before a deadline the last poll goes out, so that its answer can still count."""


def delay_before_deadline(delay: float, now: float, deadline: float | None) -> float:
    """``delay``, cut so that no sleep runs past the deadline and a last poll still fits before it.

    Args:
        delay: Seconds the schedule asks for.
        now, deadline: On the same clock, in seconds; no deadline is None.
    """
    if deadline is None or now + delay < deadline - LAST_LOOK_SECONDS:
        return delay
    remaining = deadline - now
    if remaining > LAST_LOOK_SECONDS:
        return remaining - LAST_LOOK_SECONDS
    return max(0.0, remaining)


# --- When this machine takes over ---------------------------------------------------------------------------
