"""Durations of past runs, and the expected duration of the next one. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median_low

HISTORY_LENGTH = 10
"""How many past runs count: enough to know their spread, few enough to follow a network that changes."""

LONGEST_ESTIMATED_SHARE = 0.95
"""How far a progress bar moves by the usual time alone; only the network can say that a task has ended."""

# Before any run is known, durations within a kind are taken to vary by 13 %. This assumption weighs as much
# as a fifth of a run, so two or three runs that agree outweigh it.
_ASSUMED_SPREAD = 0.13
_ASSUMED_WEIGHT = 0.2
_SMALLEST_SPREAD = 0.01
# A run more than twice as long or short as the middle one waited in a queue, or went to another kind of GPU.
_FAR_OFF = math.log(2)
_SHORTEST = 1e-6


@dataclass(frozen=True)
class PastRun:
    """The duration of one run, as exactly as its polls tell.

    Args:
        at_least: Seconds from its submission to the last answer that it was not finished.
        at_most: Seconds from its submission to the answer that it was.
    """

    at_least: float
    at_most: float

    @property
    def likely(self) -> float:
        """The best single estimate, in seconds."""
        # The first poll comes after a long pause, just when the end is expected: most tasks end late in it.
        return self.at_most - min((self.at_most - self.at_least) / 2, 0.05 * self.at_most)


def usual_span(runs: Sequence[PastRun]) -> tuple[float, float] | None:
    """The span in seconds that holds the middle 60 % of past runs; None for fewer than two runs.

    A span of all runs would be stretched by a single odd one; the quartiles would be wrong half of the time.
    """
    if len(runs) < 2:
        return None
    ordered = sorted(run.likely for run in runs)
    return _quantile(ordered, 0.2), _quantile(ordered, 0.8)


def estimated_share(elapsed: float, usual: tuple[float, float]) -> float:
    """How much of a task is done after ``elapsed`` seconds if it takes its usual time, 0..1."""
    return max(0.0, min(LONGEST_ESTIMATED_SHARE, elapsed / max(usual[1], 0.1)))


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def watched_duration(wall_seconds: float, monotonic_seconds: float) -> float | None:
    """The duration of a run by two clocks; None where they disagree.

    The clocks disagree when the wall clock is set, or when the machine sleeps. After a sleep the end is
    noticed late by an unknown time.
    """
    if abs(wall_seconds - monotonic_seconds) > max(2.0, 0.05 * monotonic_seconds):
        return None
    return max(0.0, monotonic_seconds)


@dataclass(frozen=True)
class LogNormal:
    """A distribution of seconds whose logarithm is normal with mean ``mu`` and deviation ``sigma``."""

    mu: float
    sigma: float


def next_run(runs: Sequence[PastRun]) -> LogNormal:
    """The expected duration of the next run: mean and spread of the logs of the past ones.

    Args:
        runs: At least one, the latest first.
    """
    logs = [math.log(max(run.likely, _SHORTEST)) for run in runs[:HISTORY_LENGTH]]
    middle = median_low(logs)
    near = [log for log in logs if abs(log - middle) <= _FAR_OFF]
    mu = fmean(near)
    squares = _ASSUMED_WEIGHT * _ASSUMED_SPREAD**2 + math.fsum((log - mu) ** 2 for log in near)
    spread = max(math.sqrt(squares / (_ASSUMED_WEIGHT + len(near) - 1)), _SMALLEST_SPREAD)
    # The next run varies, and the mean of a few runs is off by a part of that itself.
    return LogNormal(mu, spread * math.sqrt(1 + 1 / len(near)))
