"""How long runs took, and what that says about the next one. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

HISTORY_LENGTH = 10
"""How many past runs count: enough to know their spread, few enough to follow a network that changes."""

_PRIOR_SPREAD = 0.1
"""The spread of log durations that one run's worth of belief is put on: few runs say little about it."""

_ROUNDS = 3
_SHORTEST = 1e-6


@dataclass(frozen=True)
class PastRun:
    """How long a run took, known as exactly as it was looked at.

    Args:
        at_least: Seconds from its submission to when it was last seen under way.
        at_most: Seconds from its submission to when its end was noticed.
    """

    at_least: float
    at_most: float

    @property
    def likely(self) -> float:
        """The one number to tell, in seconds."""
        # The first look comes after a long while, at whose end the task was expected: it ended late in it.
        return self.at_most - min((self.at_most - self.at_least) / 2, 0.05 * self.at_most)


def usual_span(runs: Sequence[PastRun]) -> tuple[float, float] | None:
    """The span in seconds that holds the middle 60 % of past runs; None for fewer than two runs.

    Less than everything, so that one odd run does not stretch the estimate; more than the quartiles, so that
    "usually" is true more often than not.
    """
    if len(runs) < 2:
        return None
    ordered = sorted(run.likely for run in runs)
    return _quantile(ordered, 0.2), _quantile(ordered, 0.8)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def watched_duration(wall_seconds: float, monotonic_seconds: float) -> float | None:
    """How long something took that was watched all the time, None where the clocks disagree.

    The clocks part when the wall clock is set, or when the machine sleeps: then nobody watched, and the end
    was noticed late by an unknown time.
    """
    if abs(wall_seconds - monotonic_seconds) > max(2.0, 0.05 * monotonic_seconds):
        return None
    return max(0.0, monotonic_seconds)


def log_normal_fit(runs: Sequence[PastRun]) -> tuple[float, float]:
    """Mean and spread of the log of the seconds that the next run will take.

    A run ended somewhere between two looks; where, the other runs help to tell. So the looks of several runs
    of equal length close in on it, though each alone leaves much open.

    Args:
        runs: At least one, the latest first.
    """
    return _fit(tuple(runs[:HISTORY_LENGTH]))


@lru_cache(maxsize=256)
def _fit(runs: tuple[PastRun, ...]) -> tuple[float, float]:
    spans = [(math.log(max(run.at_least, _SHORTEST)), math.log(max(run.at_most, _SHORTEST))) for run in runs]
    n = len(spans)
    spread = _PRIOR_SPREAD
    mu = sum((max(low, high - spread) + high) / 2 for low, high in spans) / n
    # Expectation and maximization; more rounds move it by less than the runs differ.
    for _ in range(_ROUNDS):
        ends = [_cut_normal(mu, spread, low, high) for low, high in spans]
        mu = sum(mean for mean, _ in ends) / n
        squares = sum(variance + (mean - mu) ** 2 for mean, variance in ends)
        spread = math.sqrt((_PRIOR_SPREAD**2 + squares) / n)
    # The mean itself is uncertain by variance / n.
    return mu, spread * math.sqrt(1 + 1 / n)


def _cut_normal(mu: float, sigma: float, low: float, high: float) -> tuple[float, float]:
    """Mean and variance of a normal distribution, given that the value lies in low..high."""
    a, b = (low - mu) / sigma, (high - mu) / sigma
    inside = phi(b) - phi(a)
    if inside < 1e-9:
        # Far off or very narrow: the end next to the mean, with what the span leaves open.
        return min(max(mu, low), high), min((high - low) ** 2 / 12, sigma**2)
    at_a, at_b = _density(a), _density(b)
    shift = (at_a - at_b) / inside
    variance = 1 + (a * at_a - b * at_b) / inside - shift**2
    return mu + sigma * shift, max(0.0, variance) * sigma**2


def phi(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
