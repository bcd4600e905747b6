"""How long something took that was watched. No I/O."""

from __future__ import annotations


def watched_duration(wall_seconds: float, monotonic_seconds: float) -> float | None:
    """How long something took that was watched all the time, None where the clocks disagree.

    The clocks part when the wall clock is set, or when the machine sleeps: then nobody watched, and the end
    was noticed late by an unknown time.
    """
    if abs(wall_seconds - monotonic_seconds) > max(2.0, 0.05 * monotonic_seconds):
        return None
    return max(0.0, monotonic_seconds)
