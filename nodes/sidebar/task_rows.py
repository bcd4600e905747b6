"""The rows of the sidebar's task list: a record as JSON, with the actions that it allows. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ...xalora_client.errors import AmbiguousCreateError, TaskNotKnownError
from ...xalora_client.journal import Group, Record, TaskState
from ...xalora_client.media.media_types import MEDIA_TYPES
from ..execution.wording import NETWORK_DECIDES, NOTHING_CHARGED, sentence, sentences_for_graph, words_for

if TYPE_CHECKING:
    from ..execution.task_origins import Origin

GROUPS: tuple[Group, ...] = get_args(Group)
"""The sidebar's groups; each record is in one of them."""


_MONEY = {TaskState.FAILED: NETWORK_DECIDES, TaskState.NOT_SENT: NOTHING_CHARGED}


def task_row(
    record: Record,
    *,
    workflow_url: str,
    leased: bool,
    origin: Origin | None,
    has_input: bool,
    usual: tuple[float, float] | None,
    problem: str | None,
    wish: str | None,
    price: str | None,
    parts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The record as JSON; times are Unix seconds of this machine's clock.

    Args:
        workflow_url: The network of the current settings; tasks of another can't be canceled or resumed.
        leased: Something, here or in another process, waits for the task or uses its files.
        origin: The node that asked for it, where known.
        has_input: There is a small picture of its input.
        usual: The seconds that tasks of its kind usually take, from and to, where known.
        problem: The error when it was last resumed from the sidebar.
        wish: What the next run of its node does, as the user has asked: ``send_again``, ``make_again``.
        price: What one such task costs by the user's prices, as text.
        parts: For a part of a whole: how many of its parts are in each group.
    """
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
        "error": problem or _error(record),
        "wish": wish,
        "files": [_file(file) for file in record.files],
        "size": record.size,
        "evicted": record.evicted,
        "leased": leased,
        "node": origin.node_id if origin else None,
        "node_class": origin.node_class if origin else None,
        "graph": origin.workflow_id if origin else None,
        "prompt": origin.prompt_id if origin else None,
        "has_input": has_input,
        "usual": list(usual) if usual else None,
        "price": price,
        "whole": {"id": work.whole.id, "label": work.whole.label, "parts": parts} if work.whole else None,
        "actions": _actions(record, workflow_url, leased),
        "version": record.version,
    }


def _actions(record: Record, workflow_url: str, leased: bool) -> list[str]:
    """Which of the sidebar's actions are possible."""
    of_account = not record.work.own_key and (
        record.work.sequencer_url.rstrip("/") == workflow_url.rstrip("/")
    )
    ours = of_account and record.task_id is not None
    possible = []
    if of_account and not leased and record.state is TaskState.UNKNOWN and not record.forgotten:
        possible += ["send_again"] if record.task_id else ["take_up", "send_again"]
    if of_account and record.group == "done":
        possible.append("make_again")
    if ours and record.state is TaskState.SUBMITTED:
        possible.append("cancel")
    if ours and not leased and (record.group == "active" or record.evicted):
        possible.append("resume")
    # The end of a kept file's lease changes no record, so a row without "forget" would not be updated.
    if not leased or record.group == "done":
        possible.append("forget")
    return possible


def _error(record: Record) -> str | None:
    """Why there is no result, and what that means for the money; the log has the client's own words."""
    if record.state is TaskState.UNKNOWN:
        lost, gone = AmbiguousCreateError(""), TaskNotKnownError("")
        return words_for(gone if record.task_id else lost).what
    if record.state is TaskState.CANCELED:
        # The network's reason says that it was canceled, which the state does too.
        return NETWORK_DECIDES
    ids = {"task": record.task_id, "job": record.job_id}
    reason = sentences_for_graph(record.error, ids) if record.error else ""
    money = _MONEY.get(record.state, "")
    if not money or "charged" in reason:
        return reason or None
    return f"{sentence(reason)} {money}".strip()


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
