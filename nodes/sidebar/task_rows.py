"""A journaled task as the sidebar gets it: plain values, and which actions make sense. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...xalora_client.journal import Record, TaskState
from ..execution.task_origins import Origin

GROUPS: Mapping[str, frozenset[TaskState]] = {
    "active": frozenset(
        {
            TaskState.PREPARED,
            TaskState.SENDING,
            TaskState.SUBMITTED,
            TaskState.CANCEL_PENDING,
            TaskState.FINISHED,
        }
    ),
    "done": frozenset({TaskState.KEPT}),
    "failed": frozenset({TaskState.FAILED, TaskState.CANCELED, TaskState.NOT_SENT, TaskState.UNKNOWN}),
}
"""The sidebar's groups, which share no state and leave none out."""

_RESUMABLE = frozenset({TaskState.SUBMITTED, TaskState.CANCEL_PENDING, TaskState.FINISHED})
_CANCELABLE = frozenset({TaskState.SUBMITTED, TaskState.CANCEL_PENDING})
_VIDEO_SUFFIXES = frozenset({".mp4", ".webm"})
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}


@dataclass(frozen=True)
class Surroundings:
    """What the sidebar shows about a task that its journal record does not hold.

    Args:
        workflow_url: The network of the settings in force: no other's tasks are in our hands.
        attended: Somebody, here or in another process, waits for the task.
        origin: The node that asked for it, where known.
        has_input: There is a small picture of its input.
        usual: The span of seconds that its kind usually takes, where known.
        problem: What went wrong when it was last taken up from the sidebar.
    """

    workflow_url: str
    attended: bool = False
    origin: Origin | None = None
    has_input: bool = False
    usual: tuple[float, float] | None = None
    problem: str | None = None


def task_row(record: Record, around: Surroundings) -> dict[str, Any]:
    """The record as JSON; times are Unix seconds of this machine's clock."""
    work = record.work
    return {
        "id": record.id,
        "group": group_of(record.state),
        "state": record.state.value,
        "status": record.status,
        "type": work.task_type,
        "workflow": work.workflow_id,
        "label": work.label,
        "job_id": record.job_id,
        "task_id": record.task_id,
        "created_at": record.created_at,
        "submitted_at": record.submitted_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "seconds": record.total_seconds,
        "engine": record.engine,
        "miner": record.miner,
        "device": record.device,
        "error": around.problem or record.error,
        "files": [_file(file) for file in record.files],
        "size": record.size,
        "evicted": record.evicted,
        "attended": around.attended,
        "node": around.origin.node_id if around.origin else None,
        "prompt": around.origin.prompt_id if around.origin else None,
        "has_input": around.has_input,
        "usual": list(around.usual) if around.usual else None,
        "actions": actions(record, around),
        "version": record.version,
    }


def actions(record: Record, around: Surroundings) -> list[str]:
    """Which of ``cancel``, ``resume`` and ``forget`` can be asked for."""
    ours = (
        record.task_id is not None
        and not record.work.own_key
        and record.work.sequencer_url.rstrip("/") == around.workflow_url.rstrip("/")
    )
    possible = []
    if (
        ours
        and record.state in _CANCELABLE
        and not (record.state is TaskState.CANCEL_PENDING and around.attended)
    ):
        possible.append("cancel")
    if ours and not around.attended and (record.state in _RESUMABLE or record.evicted):
        possible.append("resume")
    # A kept file is let go of without a word, so a row that said it was in use would say so for ever.
    if not around.attended or record.state is TaskState.KEPT:
        possible.append("forget")
    return possible


def group_of(state: TaskState) -> str:
    """The sidebar's group of a state."""
    return next(name for name, states in GROUPS.items() if state in states)


def states_of(groups: Iterable[str]) -> frozenset[TaskState] | None:
    """The states of these groups, None for all of them. KeyError for a name that is no group."""
    names = set(groups)
    return frozenset[TaskState]().union(*(GROUPS[name] for name in names)) if names else None


def media_type(file: Path) -> str | None:
    """The MIME type of a result file; None for what no result is."""
    return _MEDIA_TYPES.get(file.suffix.lower())


def _file(file: Path) -> dict[str, Any]:
    return {
        "name": file.name,
        "kind": "video" if file.suffix.lower() in _VIDEO_SUFFIXES else "image",
        "media_type": media_type(file),
    }
