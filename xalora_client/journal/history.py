"""What past durations say about the next one. No I/O."""

from __future__ import annotations

from collections.abc import Sequence


def usual_span(durations: Sequence[float]) -> tuple[float, float] | None:
    """The span in seconds that holds the middle 60 % of past runs; None for fewer than two runs.

    Less than everything, so that one odd run does not stretch the estimate; more than the quartiles, so that
    "usually" is true more often than not.
    """
    if len(durations) < 2:
        return None
    ordered = sorted(durations)
    return _quantile(ordered, 0.2), _quantile(ordered, 0.8)


def watched_duration(wall_seconds: float, monotonic_seconds: float) -> float | None:
    """How long something took that was watched all the time, None where the clocks disagree.

    The clocks part when the wall clock is set, or when the machine sleeps: then nobody watched, and the end
    was noticed late by an unknown time.
    """
    if abs(wall_seconds - monotonic_seconds) > max(2.0, 0.05 * monotonic_seconds):
        return None
    return max(0.0, monotonic_seconds)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
