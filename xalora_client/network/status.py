"""Task statuses of the protocol, and other words for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WAITING = "waiting"
RUNNING = "running"
FINISHED = "finished"
FAILED = "failed"
CANCELED = "canceled"

TERMINAL_STATUSES = frozenset({FINISHED, FAILED, CANCELED})

_STATUSES = frozenset({WAITING, RUNNING, *TERMINAL_STATUSES})
_OTHER_WORDS = {
    **dict.fromkeys(("queued", "pending", "in_queue", "scheduled"), WAITING),
    **dict.fromkeys(("processing", "in_progress", "executing", "started"), RUNNING),
    **dict.fromkeys(("completed", "complete", "succeeded", "success", "done"), FINISHED),
    **dict.fromkeys(("failure", "error", "rejected"), FAILED),
    **dict.fromkeys(("cancelled", "cancel", "aborted", "timeout", "timed_out", "expired"), CANCELED),
}
# Also said of a request, whose task may still be under way.
_OF_REQUESTS = frozenset({"success", "error", "rejected", "timeout", "expired", "done"})


def is_terminal(status: str) -> bool:
    """Whether a task with this status never changes again; an unknown status is not terminal."""
    return status in TERMINAL_STATUSES


def meaning(answer: Mapping[str, Any]) -> str:
    """The protocol's word for the status in an answer, whatever its case; an unknown one as it came.

    Another word for "finished" counts where the result is there, and a word that is also said of requests
    where the answer names its task: an end that is none would lose a result.
    """
    said = str(answer.get("status"))
    word = said.strip().lower().replace("-", "_").replace(" ", "_")
    if word in _STATUSES:
        return word
    meant = _OTHER_WORDS.get(word, said)
    is_doubtful = (meant == FINISHED and not answer.get("result")) or (
        word in _OF_REQUESTS and not answer.get("task_id")
    )
    return said if is_doubtful else meant
