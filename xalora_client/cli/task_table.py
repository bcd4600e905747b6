"""The journal's records as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timezone
from typing import Any

from rich.table import Table
from rich.text import Text

from ..journal import Record, TaskState
from ..text import counted, elapsed_text, queue_text, seconds_text
from .formats import printable, shortened
from .screen import attributes

STATES = {
    TaskState.PREPARED: ("preparing", "cyan"),
    TaskState.SENDING: ("being sent", "cyan"),
    TaskState.FINISHED: ("done", "green"),
    TaskState.FAILED: ("failed", "red"),
    TaskState.CANCELED: ("canceled", "dim"),
    TaskState.UNKNOWN: ("outcome unknown", "bold yellow"),
    TaskState.NOT_SENT: ("not sent", "dim"),
}


def state_text(record: Record) -> str:
    """The state of a record in words."""
    if record.state is TaskState.SUBMITTED and record.cancel_requested_at is not None:
        return "cancel not confirmed"
    if record.is_undelivered:
        return "to write" if record.files else "to download"
    if record.state is TaskState.SUBMITTED:
        if record.status == "waiting" and record.queue_position is not None:
            return queue_text(record.queue_position)
        return {"waiting": "queued", None: "submitted"}.get(record.status, record.status or "")
    if record.forgotten:
        return "outcome unknown, forgotten"
    return STATES[record.state][0] + (" (files removed)" if record.evicted else "")


def whole_texts(parts: Mapping[str, int]) -> tuple[str, str]:
    """The state and the number of what is one whole, from how many of its parts are in each group."""
    words = {"active": "under way", "done": "done", "failed": "without a result"}
    told = [f"{parts[group]} {word}" for group, word in words.items() if parts.get(group)]
    return ", ".join(told), counted(sum(parts.values()), "task")


def record_table(
    records: Sequence[Record],
    leased: AbstractSet[int],
    parts: Mapping[str, Mapping[str, int]],
) -> Table:
    """A table of records; where they are of several networks, with the network of each.

    Args:
        leased: The ids of those that a process works on.
        parts: For each whole of which one record is here, how many of its parts are in each group.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Age", "Task", "State", "Time"):
        table.add_column(name)
    table.add_column("Task id", no_wrap=True)
    several = len({record.work.sequencer_url for record in records}) > 1
    if several:
        table.add_column("Network", overflow="fold")
    now = datetime.now(timezone.utc).timestamp()
    for record in records:
        age = Text(elapsed_text(now - record.created_at), style="dim")
        network = [Text(printable(record.work.sequencer_url), style="dim")] if several else []
        if (whole := record.work.whole) is not None:
            label = shortened(printable(whole.label), 40)
            state, count = whole_texts(parts.get(whole.id, {}))
            table.add_row(age, Text(label), Text(state), Text(), Text(count), *network)
            continue
        style = STATES.get(record.state, ("", "cyan"))[1]
        state = state_text(record) + (", a process waits" if record.is_left and record.id in leased else "")
        label = shortened(printable(record.work.label), 40)
        if record.error and record.state in (TaskState.FAILED, TaskState.NOT_SENT):
            label += f"\n{shortened(printable(record.error), 60)}"
        table.add_row(
            age,
            Text(label),
            Text(printable(state), style=style),
            Text(seconds_text(record.total_seconds), style="dim"),
            Text(printable(record.task_id or f"job {record.job_id}")),
            *network,
        )
    return table


def record_document(record: Record, leased: AbstractSet[int]) -> dict[str, Any]:
    """A record as JSON; ``leased`` has the ids of those that a process works on."""
    return {
        **attributes(record, "task_id", "job_id", "status", "created_at", "submitted_at", "started_at"),
        **attributes(record, "ended_at", "engine", "miner", "device", "error"),
        **attributes(record, "queue_position", "inference_seconds", "run_id"),
        **attributes(record.work, "label", "task_type", "workflow_id", "consumer_id"),
        "whole_id": record.work.whole and record.work.whole.id,
        "state": record.state.value,
        "open": record.is_open,
        "attended": record.is_open and record.id in leased,
        "workflow_url": record.work.sequencer_url,
        "files": [str(path) for path in record.files],
    }
