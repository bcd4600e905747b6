"""What may happen to a task of the cluster: its states and attempts. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..serving.answers import OPEN_STATUSES

MOST_ATTEMPTS = 2
"""A task whose machine is lost runs once more, and not a third time."""

TIMED_OUT = "Canceled: its timeout_seconds ran out"
CANCELED = "Canceled by its consumer"

Changes = dict[str, Any]
"""New values of a task's fields; empty where nothing changes."""


@dataclass
class Task:
    """A task; changes make another object.

    Attributes:
        number: Its place in the order of creation.
        workflow_id: As its consumer named it, else the definition's.
        workflow: The name of the definition that runs it.
        timeout_seconds: Counted from its create.
        created: Seconds since the epoch, as are ``started`` and ``ended``.
        attempt: How often it was handed to a worker.
        miner_id: Machine and GPU of the last attempt.
        keys: Names of the result's files, one a line.
    """

    number: int
    task_id: str
    consumer_id: str
    job_id: str
    task_type: str
    workflow_id: str
    workflow: str
    timeout_seconds: float | None
    created: float
    status: str = "waiting"
    attempt: int = 0
    started: float | None = None
    ended: float | None = None
    miner_id: str | None = None
    keys: str = ""
    message: str = ""
    inference_latency: float | None = None
    upload_latency: float | None = None

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES


def assigned(task: Task, miner_id: str, now: float) -> Changes:
    """A worker takes it."""
    if task.status != "waiting":
        return {}
    return {"status": "running", "attempt": task.attempt + 1, "started": now, "miner_id": miner_id}


def finished(task: Task, attempt: int, keys: tuple[str, ...], now: float, **latencies: float) -> Changes:
    """An attempt has a result; only the current attempt of a running task counts."""
    if not _is_current(task, attempt):
        return {}
    return {"status": "finished", "keys": "\n".join(keys), "message": "", "ended": now, **latencies}


def failed(task: Task, attempt: int, message: str, now: float) -> Changes:
    """The engine of an attempt failed: another machine would fail as well."""
    return {"status": "failed", "message": message, "ended": now} if _is_current(task, attempt) else {}


def lost(task: Task, attempt: int, why: str, now: float) -> Changes:
    """The machine, or the worker's process, of an attempt is gone: it waits again, at its old place."""
    if not _is_current(task, attempt):
        return {}
    if task.attempt >= MOST_ATTEMPTS:
        message = f"Lost {task.attempt} times, the last time on {task.miner_id}: {why}"
        return {"status": "failed", "message": message, "ended": now}
    message = f"Waits again: {task.miner_id} was lost ({why})"
    return {"status": "waiting", "started": None, "miner_id": None, "message": message}


def canceled(task: Task, now: float, message: str = CANCELED) -> Changes:
    """Its consumer, or its deadline, ends it."""
    return {"status": "canceled", "message": message, "ended": now} if task.is_open else {}


def _is_current(task: Task, attempt: int) -> bool:
    return task.status == "running" and task.attempt == attempt
