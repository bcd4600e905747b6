"""Entries of the journal as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from rich.table import Table
from rich.text import Text

from ..journal import Entry, TaskState
from .formats import elapsed_text, printable, seconds_text, shortened

STATES = {
    TaskState.PREPARED: ("preparing", "cyan"),
    TaskState.SENDING: ("being sent", "cyan"),
    TaskState.FINISHED: ("to download", "cyan"),
    TaskState.KEPT: ("done", "green"),
    TaskState.FAILED: ("failed", "red"),
    TaskState.CANCELED: ("canceled", "dim"),
    TaskState.CANCEL_PENDING: ("cancel not confirmed", "yellow"),
    TaskState.UNKNOWN: ("outcome unknown", "bold yellow"),
    TaskState.NOT_SENT: ("not sent", "dim"),
}


def state_text(entry: Entry) -> str:
    if entry.state is TaskState.SUBMITTED:
        return {"waiting": "queued", None: "submitted"}.get(entry.status, entry.status or "")
    if entry.forgotten:
        return "outcome unknown, given up"
    return STATES[entry.state][0] + (" (files made room)" if entry.evicted else "")


def entry_table(entries: Sequence[Entry], attended: dict[int, bool]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Age", "What", "State", "Took"):
        table.add_column(name)
    table.add_column("Task id", no_wrap=True)
    now = datetime.now(timezone.utc).timestamp()
    for entry in entries:
        style = STATES.get(entry.state, ("", "cyan"))[1]
        state = state_text(entry) + (", in hand" if attended.get(entry.id) else "")
        what = shortened(printable(entry.work.label), 40)
        if entry.error and entry.state in (TaskState.FAILED, TaskState.NOT_SENT):
            what += f"\n{shortened(printable(entry.error), 60)}"
        table.add_row(
            Text(elapsed_text(now - entry.created_at), style="dim"),
            Text(what),
            Text(printable(state), style=style),
            Text(seconds_text(entry.total_seconds), style="dim"),
            Text(printable(entry.task_id or f"job {entry.job_id}")),
        )
    return table


def entry_document(entry: Entry, attended: bool) -> dict[str, Any]:
    work = entry.work
    return {
        "task_id": entry.task_id,
        "job_id": entry.job_id,
        "state": entry.state.value,
        "status": entry.status,
        "open": entry.is_open,
        "attended": attended,
        "label": work.label,
        "task_type": work.task_type,
        "workflow_id": work.workflow_id,
        "workflow_url": work.sequencer_url,
        "consumer_id": work.consumer_id,
        "created_at": entry.created_at,
        "submitted_at": entry.submitted_at,
        "started_at": entry.started_at,
        "ended_at": entry.ended_at,
        "engine": entry.engine,
        "miner": entry.miner,
        "device": entry.device,
        "error": entry.error,
        "files": [str(path) for path in entry.files],
    }
