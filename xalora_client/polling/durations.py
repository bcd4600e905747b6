"""How long runs took, and what that says about the next one. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

HISTORY_LENGTH = 10
"""How many past runs count: enough to know their spread, few enough to follow a network that changes."""

_BELIEFS = ((0.01, 1), (0.04, 1), (0.13, 2))
"""Spreads of the logs of durations within a kind of task, and how much each is believed in beforehand: GPUs
of one kind repeat themselves within a percent or two, a mixed lot of them does not."""

_MEANS_TRIED = 16
"""For each spread; more move the next poll by less than its jitter."""

_UNLIKELY = 1e-6
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


@dataclass(frozen=True)
class LogNormal:
    """A part of a mixture: seconds whose log is normal around ``mu`` with the spread ``sigma``."""

    share: float
    mu: float
    sigma: float


def next_run(runs: Sequence[PastRun]) -> tuple[LogNormal, ...]:
    """How long the next run will take, as a mixture with a part for each spread that such runs may have.

    A run ended somewhere between two looks; where, the other runs help to tell. So the looks of several runs
    of equal length close in on it, though each alone leaves much open, and the more runs agree, the less is
    left of the wide parts.

    Args:
        runs: At least one, the latest first.
    """
    return _next_run(tuple(runs[:HISTORY_LENGTH]))


@lru_cache(maxsize=256)
def _next_run(runs: tuple[PastRun, ...]) -> tuple[LogNormal, ...]:
    narrowest, widest = _BELIEFS[0][0], _BELIEFS[-1][0]
    spans = []
    for run in runs:
        low, high = (math.log(max(seconds, _SHORTEST)) for seconds in (run.at_least, run.at_most))
        missing = max(0.0, narrowest - (high - low)) / 2
        spans.append((low - missing, high + missing))
    # The first look comes when the end is near; so long before it nobody need have looked.
    lowest = min(max(low, high - 4 * widest) for low, high in spans)
    highest = max(high for _, high in spans)
    parts = []
    for sigma, belief in _BELIEFS:
        start, width = lowest - 2 * sigma, highest - lowest + 4 * sigma
        means = [start + width * index / (_MEANS_TRIED - 1) for index in range(_MEANS_TRIED)]
        weights = [_likelihood(spans, mu, sigma) for mu in means]
        total = math.fsum(weights)
        mu = math.fsum(w * m for w, m in zip(weights, means, strict=True)) / total
        variance = math.fsum(w * (m - mu) ** 2 for w, m in zip(weights, means, strict=True)) / total
        parts.append(LogNormal(belief * width * total, mu, math.sqrt(sigma**2 + variance)))
    everything = math.fsum(part.share for part in parts)
    return tuple(
        LogNormal(part.share / everything, part.mu, part.sigma)
        for part in parts
        if part.share > 0.005 * everything
    )


def _likelihood(spans: Sequence[tuple[float, float]], mu: float, sigma: float) -> float:
    """How likely it is that the runs ended where they did; one odd run rules nothing out."""
    scale = 1 / (sigma * math.sqrt(2))
    likelihood = 1.0
    for low, high in spans:
        inside = (math.erfc((mu - high) * scale) - math.erfc((mu - low) * scale)) / 2
        likelihood *= inside if inside > _UNLIKELY else _UNLIKELY
    return likelihood
