"""Records of the journal as people and programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from rich.table import Table
from rich.text import Text

from ..journal import Record, TaskState
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


def state_text(record: Record) -> str:
    if record.state is TaskState.SUBMITTED:
        return {"waiting": "queued", None: "submitted"}.get(record.status, record.status or "")
    if record.forgotten:
        return "outcome unknown, given up"
    return STATES[record.state][0] + (" (files made room)" if record.evicted else "")


def record_table(records: Sequence[Record], attended: dict[int, bool]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Age", "What", "State", "Took"):
        table.add_column(name)
    table.add_column("Task id", no_wrap=True)
    now = datetime.now(timezone.utc).timestamp()
    for record in records:
        style = STATES.get(record.state, ("", "cyan"))[1]
        state = state_text(record) + (", in hand" if attended.get(record.id) else "")
        what = shortened(printable(record.work.label), 40)
        if record.error and record.state in (TaskState.FAILED, TaskState.NOT_SENT):
            what += f"\n{shortened(printable(record.error), 60)}"
        table.add_row(
            Text(elapsed_text(now - record.created_at), style="dim"),
            Text(what),
            Text(printable(state), style=style),
            Text(seconds_text(record.total_seconds), style="dim"),
            Text(printable(record.task_id or f"job {record.job_id}")),
        )
    return table


def record_document(record: Record, attended: bool) -> dict[str, Any]:
    work = record.work
    return {
        "task_id": record.task_id,
        "job_id": record.job_id,
        "state": record.state.value,
        "status": record.status,
        "open": record.is_open,
        "attended": attended,
        "label": work.label,
        "task_type": work.task_type,
        "workflow_id": work.workflow_id,
        "workflow_url": work.sequencer_url,
        "consumer_id": work.consumer_id,
        "created_at": record.created_at,
        "submitted_at": record.submitted_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "engine": record.engine,
        "miner": record.miner,
        "device": record.device,
        "error": record.error,
        "files": [str(path) for path in record.files],
    }
