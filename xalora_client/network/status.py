"""Task statuses of the protocol."""

from __future__ import annotations

WAITING = "waiting"
RUNNING = "running"
FINISHED = "finished"
FAILED = "failed"
CANCELED = "canceled"

TERMINAL_STATUSES = frozenset({FINISHED, FAILED, CANCELED})


def is_terminal(status: str) -> bool:
    """Whether a task with this status never changes again; an unknown status is not terminal."""
    return status in TERMINAL_STATUSES
