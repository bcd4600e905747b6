"""The rows of the sidebar's task list: a record as JSON, with the actions that it allows. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ...xalora_client.journal import Group, Record, TaskState
from ...xalora_client.media.media_types import MEDIA_TYPES
from ..execution.task_origins import Origin

GROUPS: tuple[Group, ...] = get_args(Group)
"""The sidebar's groups; each record is in one of them."""


@dataclass(frozen=True)
class RowContext:
    """What a row needs beside the record.

    Args:
        workflow_url: The network of the current settings; tasks of another can't be canceled or resumed.
        leased: Something, here or in another process, waits for the task or uses its files.
        origin: The node that asked for it, where known.
        has_input: There is a small picture of its input.
        usual: The seconds that tasks of its kind usually take, from and to, where known.
        problem: The error when it was last resumed from the sidebar.
    """

    workflow_url: str
    leased: bool = False
    origin: Origin | None = None
    has_input: bool = False
    usual: tuple[float, float] | None = None
    problem: str | None = None


def task_row(record: Record, context: RowContext) -> dict[str, Any]:
    """The record as JSON; times are Unix seconds of this machine's clock."""
    work = record.work
    return {
        "id": record.id,
        "group": record.group,
        "state": _state(record),
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
        "error": context.problem or record.error,
        "files": [_file(file) for file in record.files],
        "size": record.size,
        "evicted": record.evicted,
        "leased": context.leased,
        "node": context.origin.node_id if context.origin else None,
        "prompt": context.origin.prompt_id if context.origin else None,
        "has_input": context.has_input,
        "usual": list(context.usual) if context.usual else None,
        "actions": actions(record, context),
        "version": record.version,
    }


def actions(record: Record, context: RowContext) -> list[str]:
    """Which of ``cancel``, ``resume`` and ``forget`` are possible."""
    ours = (
        record.task_id is not None
        and not record.work.own_key
        and record.work.sequencer_url.rstrip("/") == context.workflow_url.rstrip("/")
    )
    possible = []
    if ours and record.state is TaskState.SUBMITTED:
        possible.append("cancel")
    if ours and not context.leased and (record.group == "active" or record.evicted):
        possible.append("resume")
    # The end of a kept file's lease changes no record, so a row without "forget" would not be updated.
    if not context.leased or record.group == "done":
        possible.append("forget")
    return possible


def _state(record: Record) -> str:
    """The record's state in the sidebar's words."""
    if record.group == "done":
        return "kept"
    if record.state is TaskState.SUBMITTED and record.cancel_requested_at is not None:
        return "cancel_requested"
    return record.state.value


def media_type(file: Path) -> str | None:
    """The MIME type of a result file; None for what no result is."""
    return MEDIA_TYPES.get(file.suffix.lower())


def _file(file: Path) -> dict[str, Any]:
    kind = media_type(file)
    is_video = kind is not None and kind.startswith("video/")
    return {"name": file.name, "kind": "video" if is_video else "image", "media_type": kind}
