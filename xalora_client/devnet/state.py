"""The sequencer's state: tasks, miners' leases on them, and request counts. No network I/O.

It is in memory, and each task and count is also written to the SQLite file where there is one. Leases are in
memory only: after a restart every running task gets a new one, since no miner could renew it meanwhile.
"""

from __future__ import annotations

import heapq
import json
import secrets
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..serving.answers import OPEN_STATUSES, STATUSES

ENDPOINTS = (
    "resource_request",
    "task_create",
    "task_result_query",
    "task_cancel",
    "miner_request",
    "miner_submit",
)


@dataclass
class TaskRecord:
    """A task.

    ``details`` is the JSON text of ``task_details`` until the task ends, since it may hold megabytes of an
    inlined image; ``created`` is in seconds since the epoch; ``result`` is the storage key once it is
    finished; ``assignments`` counts the miners that got it; the latencies are the miner's.
    """

    number: int
    task_id: str
    consumer_id: str
    job_id: str
    task_type: str
    workflow_id: str
    details: str | None
    timeout_seconds: float | None
    created: float
    status: str = "waiting"
    miner_id: str | None = None
    result: str | None = None
    message: str = ""
    assignments: int = 0
    inference_latency: float | None = None
    upload_latency: float | None = None

    @property
    def deadline(self) -> float | None:
        """When the network cancels the task, in seconds since the epoch."""
        return None if self.timeout_seconds is None else self.created + self.timeout_seconds


STALL_SECONDS = 1.0
"""Who does not look for so long could hear no miner meanwhile."""

_COLUMNS = [field.name for field in fields(TaskRecord)]
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS tasks ({", ".join(_COLUMNS)}, PRIMARY KEY (number));
CREATE TABLE IF NOT EXISTS rest (id INTEGER PRIMARY KEY, json TEXT NOT NULL);
"""
_SAVE_TASK = f"INSERT OR REPLACE INTO tasks VALUES ({', '.join('?' * len(_COLUMNS))})"


class State:
    """Tasks, leases and counts of one sequencer.

    Args:
        db: SQLite file, created if absent; ``None`` keeps everything in memory.
        lease_seconds: Seconds of silence after which a miner's task goes back to waiting.
        clock: Seconds since the epoch; deadlines outlive the process.
        on_change: Called after each change in :meth:`stats` or :meth:`get`.

    Attributes:
        secret: A random secret that lives as long as the database.
    """

    def __init__(
        self,
        db: str | Path | None = None,
        *,
        lease_seconds: float = 5.0,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.lease_seconds = lease_seconds
        self.on_change = on_change
        self.secret = secrets.token_hex(32)
        self._clock = clock
        self._tasks: dict[str, TaskRecord] = {}
        self._jobs: dict[tuple[str, str], str] = {}
        self._waiting: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self._deadlines: list[tuple[float, str]] = []
        self._leases: dict[str, tuple[str, float]] = {}
        self._seen: dict[str, tuple[float, list[str]]] = {}
        self._requested: set[str] = set()
        self._statuses = Counter[str]()
        self._counters = Counter[str]()
        self._saved = ""
        self._looked_at = time.monotonic()
        self._db = None if db is None else sqlite3.connect(str(db), isolation_level=None)
        if self._db is not None:
            self._load(self._db)
            self.save_counts()

    def close(self) -> None:
        """Save the counts and close the database."""
        self.save_counts()
        if self._db is not None:
            self._db.close()

    # Consumers

    def create(
        self,
        *,
        consumer_id: str,
        job_id: str,
        task_type: str,
        workflow_id: str,
        details: str,
        timeout_seconds: float | None = None,
    ) -> str:
        """Create a task; returns its id.

        A known ``job_id`` of the same consumer gives the first task's id and counts as a duplicate.
        """
        if known := self._jobs.get((consumer_id, job_id)):
            self._counters["duplicates"] += 1
            self.save_counts()
            self.on_change()
            return known
        number, task_id = len(self._tasks), secrets.token_hex(8)
        task = TaskRecord(
            number,
            task_id,
            consumer_id,
            job_id,
            task_type,
            workflow_id,
            details,
            timeout_seconds,
            self._clock(),
        )
        self._add(task)
        self._save(task)
        return task_id

    def get(self, task_id: str) -> TaskRecord | None:
        """The present state of a task, or ``None`` if there is no such task."""
        self.expire()
        task = self._tasks.get(task_id)
        return task and replace(task)

    def queue_position(self, task: TaskRecord) -> int | None:
        """The place of a waiting task among those of its workflow, from 1; None for others."""
        if task.status != "waiting":
            return None
        queue = self._waiting[task.workflow_id]
        return 1 + sum(
            number < task.number and self._tasks[other].status == "waiting" for number, other in queue
        )

    def cancel(self, task_id: str, message: str = "Canceled by its consumer") -> bool:
        """End an open task as canceled; ``False`` if it has ended or does not exist."""
        self.expire()
        return self._end(task_id, "canceled", message=message)

    # Miners

    def assign(self, miner_id: str, workflow_ids: Sequence[str]) -> TaskRecord | None:
        """Assign the oldest waiting task of these workflows to a miner.

        A miner that holds a task gets none; see :meth:`renew`.
        """
        self.expire()
        self._note_miner(miner_id, sorted(set(workflow_ids)))
        if miner_id in self._leases:
            return None
        heads = [head for workflow_id in workflow_ids if (head := self._next_waiting(workflow_id))]
        if not heads:
            return None
        task = self._tasks[min(heads)[1]]
        heapq.heappop(self._waiting[task.workflow_id])
        self._leases[miner_id] = task.task_id, self._clock() + self.lease_seconds
        self._change(task, "running", miner_id=miner_id, assignments=task.assignments + 1)
        return replace(task)

    def has_waiting(self) -> bool:
        """Whether any task waits for a miner."""
        return bool(self._statuses["waiting"])

    def renew(self, miner_id: str) -> str | None:
        """Renew the lease of a busy miner; returns the task that it holds, if any."""
        self.expire()
        now = self._clock()
        if miner_id in self._seen:
            self._seen[miner_id] = (now, self._seen[miner_id][1])
        if miner_id not in self._leases:
            return None
        task_id, _ = self._leases[miner_id]
        self._leases[miner_id] = task_id, now + self.lease_seconds
        return task_id

    def submit(
        self,
        task_id: str,
        miner_id: str,
        *,
        success: bool,
        result: str | None,
        message: str,
        inference_latency: float | None = None,
        upload_latency: float | None = None,
    ) -> bool:
        """Accept a miner's result; ``False`` if it is no longer wanted.

        Results of ended tasks are not wanted, nor are failures from a miner that no longer holds the task. A
        late success is accepted from any miner while the task is open.
        """
        self.expire()
        told = {
            "message": message,
            "miner_id": miner_id,
            "inference_latency": inference_latency,
            "upload_latency": upload_latency,
        }
        if success:
            return self._end(task_id, "finished", result=result, **told)
        holds = self._leases.get(miner_id, ("",))[0] == task_id
        return holds and self._end(task_id, "failed", **told)

    def miner_for(self, workflow_id: str) -> tuple[str, bool] | None:
        """A present miner that takes this workflow, idle if possible, and whether it is idle."""
        self.expire()
        oldest = self._clock() - self.lease_seconds
        present = [
            (miner_id, miner_id not in self._leases)
            for miner_id, (seen, workflow_ids) in self._seen.items()
            if seen >= oldest and workflow_id in workflow_ids
        ]
        return max(present, key=lambda miner: miner[1], default=None)

    def has_heard(self, miner_id: str) -> bool:
        """Whether this miner has requested a task since the state was opened."""
        return miner_id in self._requested

    # Time

    def expire(self) -> None:
        """Cancel tasks past their ``timeout_seconds``; return tasks of silent miners to waiting.

        Called several times a second. Where it is not, since a request of 100 MB takes seconds to be read,
        leases last longer by that: given to one miner after another, such a request would take the memory of
        all of them.
        """
        now = self._clock()
        looked_before, self._looked_at = self._looked_at, time.monotonic()
        if (stalled := self._looked_at - looked_before) > STALL_SECONDS:
            for miner_id, (task_id, until) in self._leases.items():
                self._leases[miner_id] = task_id, until + stalled
        while self._deadlines and self._deadlines[0][0] <= now:
            _, task_id = heapq.heappop(self._deadlines)
            self._end(task_id, "canceled", message="Canceled: its timeout_seconds ran out")
        # Searched anew each time, since on_change may come back here.
        while silent := [miner_id for miner_id, (_, until) in self._leases.items() if until <= now]:
            self._return_to_waiting(silent[0])

    def next_due(self) -> float | None:
        """When :meth:`expire` is next needed, in seconds since the epoch."""
        first = [deadline for deadline, _ in self._deadlines[:1]]
        return min([*first, *(until for _, until in self._leases.values())], default=None)

    # Counts

    def count_request(self, endpoint: str) -> None:
        """Count a request to an endpoint, whatever its outcome."""
        self._counters[endpoint] += 1
        self.on_change()

    def save_counts(self) -> None:
        """Write the request counts to the database; they are collected so that a poll costs no write."""
        miners = {miner_id: workflow_ids for miner_id, (_, workflow_ids) in self._seen.items()}
        text = json.dumps({"secret": self.secret, "counters": self._counters, "miners": miners})
        if self._db is not None and text != self._saved:
            self._db.execute("INSERT OR REPLACE INTO rest VALUES (1, ?)", (text,))
            self._saved = text

    def stats(self) -> dict[str, object]:
        """The answer of ``GET /devnet/stats``."""
        self.expire()
        return {
            "endpoints": {name: self._counters[name] for name in ENDPOINTS},
            "creates": len(self._tasks),
            "duplicates": self._counters["duplicates"],
            "tasks": {status: self._statuses[status] for status in STATUSES},
            "running_now": self._statuses["running"],
            "running_most": self._counters["running_most"],
        }

    def task_ids(self) -> list[str]:
        """Every task's id, oldest first."""
        return list(self._tasks)

    # Internals

    def _load(self, db: sqlite3.Connection) -> None:
        # WAL with NORMAL does not sync each commit, and a killed process still loses nothing.
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
        now = self._clock()
        for (text,) in db.execute("SELECT json FROM rest"):
            rest = json.loads(text)
            self.secret = rest["secret"]
            self._counters.update(rest["counters"])
            # Miners known before count as present for the time of a lease.
            self._seen = {miner_id: (now, ids) for miner_id, ids in rest["miners"].items()}
        for row in db.execute("SELECT * FROM tasks ORDER BY number"):
            task = TaskRecord(*row)
            self._add(task)
            if task.status == "running":
                self._leases[str(task.miner_id)] = task.task_id, now + self.lease_seconds

    def _add(self, task: TaskRecord) -> None:
        self._tasks[task.task_id] = task
        self._jobs[task.consumer_id, task.job_id] = task.task_id
        self._statuses[task.status] += 1
        if task.status == "waiting":
            heapq.heappush(self._waiting[task.workflow_id], (task.number, task.task_id))
        if task.status in OPEN_STATUSES and task.deadline is not None:
            heapq.heappush(self._deadlines, (task.deadline, task.task_id))

    def _next_waiting(self, workflow_id: str) -> tuple[int, str] | None:
        """The oldest waiting task of a workflow; drops those that ended meanwhile from the heap."""
        heap = self._waiting[workflow_id]
        while heap and self._tasks[heap[0][1]].status != "waiting":
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _end(self, task_id: str, status: str, **changes: Any) -> bool:
        task = self._tasks.get(task_id)
        if task is None or task.status not in OPEN_STATUSES:
            return False
        self._leases.pop(task.miner_id or "", None)
        self._change(task, status, details=None, **changes)
        return True

    def _note_miner(self, miner_id: str, workflow_ids: list[str]) -> None:
        before = self._seen.get(miner_id)
        self._seen[miner_id] = (self._clock(), workflow_ids)
        if before is None or before[1] != workflow_ids:
            self.save_counts()
        if miner_id not in self._requested:
            self._requested.add(miner_id)
            self.on_change()

    def _return_to_waiting(self, miner_id: str) -> None:
        task = self._tasks[self._leases.pop(miner_id)[0]]
        heapq.heappush(self._waiting[task.workflow_id], (task.number, task.task_id))
        self._change(task, "waiting", miner_id=None)

    def _change(self, task: TaskRecord, status: str, **changes: Any) -> None:
        self._statuses[task.status] -= 1
        self._statuses[status] += 1
        self._counters["running_most"] = max(self._counters["running_most"], self._statuses["running"])
        task.status = status
        vars(task).update(changes)
        self._save(task)

    def _save(self, task: TaskRecord) -> None:
        if self._db is not None:
            self._db.execute(_SAVE_TASK, tuple(vars(task).values()))
        self.on_change()
