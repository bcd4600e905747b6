"""What the sequencer knows: tasks, who holds them and until when, and the counts that tests rely on.

Every decision of the sequencer that needs no network stands here, so that it can be read and tested without a
socket. Tasks live in SQLite (a file outlives the process; ``:memory:`` does not). Leases are kept in memory
only: after a restart every running task gets a fresh one, because no miner could renew it while the sequencer
was down.

One object belongs to one thread, the one that made it.
"""

from __future__ import annotations

import heapq
import json
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

STATUSES = ("waiting", "running", "finished", "failed", "canceled")
OPEN_STATUSES = ("waiting", "running")
ENDPOINTS = (
    "resource_request",
    "task_create",
    "task_result_query",
    "task_cancel",
    "miner_request",
    "miner_submit",
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    seq         INTEGER PRIMARY KEY,
    task_id     TEXT NOT NULL UNIQUE,
    consumer_id TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    task_type   TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    details     TEXT,
    status      TEXT NOT NULL,
    deadline    REAL,
    miner_id    TEXT,
    result      TEXT,
    message     TEXT NOT NULL DEFAULT '',
    assignments INTEGER NOT NULL DEFAULT 0,
    UNIQUE (consumer_id, job_id)
);
CREATE INDEX IF NOT EXISTS tasks_waiting ON tasks (workflow_id, seq) WHERE status = 'waiting';
CREATE TABLE IF NOT EXISTS miners (miner_id TEXT PRIMARY KEY, workflow_ids TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

#: The oldest waiting task of one workflow; an index answers it however many tasks wait.
NEXT_WAITING = (
    "SELECT seq, task_id, task_type, workflow_id, details FROM tasks"
    " WHERE status='waiting' AND workflow_id=? ORDER BY seq LIMIT 1"
)


@dataclass(frozen=True)
class NewTask:
    """A task as a consumer asks for it. ``details`` is the JSON text of ``task_details``."""

    consumer_id: str
    job_id: str
    task_type: str
    workflow_id: str
    details: str
    timeout_seconds: float | None = None


@dataclass(frozen=True)
class TaskRecord:
    """One task as it stands now.

    ``result`` is a storage key and set only when finished; ``assignments`` counts how often a miner got it.
    """

    task_id: str
    consumer_id: str
    job_id: str
    task_type: str
    workflow_id: str
    status: str
    miner_id: str | None
    result: str | None
    message: str
    assignments: int


@dataclass(frozen=True)
class Assignment:
    """A task handed to a miner. ``details`` is the JSON text the consumer sent as ``task_details``."""

    task_id: str
    task_type: str
    workflow_id: str
    details: str


class State:
    """Tasks, leases and counts of one sequencer.

    Args:
        db: SQLite file, made if absent; ``None`` keeps everything in memory.
        lease_seconds: How long a miner may stay silent before its task goes back to waiting.
        clock: Seconds since the epoch. Wall clock, because deadlines outlive the process.
        on_change: Called after anything that :meth:`stats` or :meth:`get` shows has changed.
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
        self._clock = clock
        self._db = sqlite3.connect(":memory:" if db is None else str(db), isolation_level=None)
        # WAL with NORMAL writes no fsync per commit and still loses nothing when the process is killed.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

        self._tasks = Counter[str](
            dict(self._db.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall())
        )
        self._counters = Counter[str](dict(self._db.execute("SELECT name, value FROM counters").fetchall()))
        self._unsaved: set[str] = set()
        self._lease_until: dict[str, float] = {}
        self._holder: dict[str, str] = {}
        self._held: dict[str, set[str]] = {}
        self._seen: dict[str, tuple[float, frozenset[str]]] = {}
        self._heard: set[str] = set()
        now = clock()
        # Who was there before gets as long to be heard again as a lease lasts.
        for miner_id, workflow_ids in self._db.execute("SELECT miner_id, workflow_ids FROM miners"):
            self._seen[miner_id] = (now, frozenset(json.loads(workflow_ids)))
        running = self._db.execute("SELECT task_id, miner_id FROM tasks WHERE status='running'").fetchall()
        for task_id, miner_id in running:
            self._grant(task_id, miner_id, now)
        self._deadlines: list[tuple[float, str]] = self._db.execute(
            "SELECT deadline, task_id FROM tasks"
            " WHERE deadline IS NOT NULL AND status IN ('waiting', 'running')"
        ).fetchall()
        heapq.heapify(self._deadlines)

    def close(self) -> None:
        """Save the counts and close the database."""
        self.save_counts()
        self._db.close()

    # Consumers

    def create(self, new: NewTask) -> tuple[str, bool]:
        """Take in a task; returns its id and whether it is new.

        The same ``job_id`` of the same consumer gives the first task's id and counts as a duplicate.
        """
        known = self._db.execute(
            "SELECT task_id FROM tasks WHERE consumer_id=? AND job_id=?", (new.consumer_id, new.job_id)
        ).fetchone()
        if known:
            self._count("duplicates", at_once=True)
            self.on_change()
            return str(known[0]), False
        task_id = secrets.token_hex(8)
        deadline = None if new.timeout_seconds is None else self._clock() + new.timeout_seconds
        self._db.execute(
            "INSERT INTO tasks"
            " (task_id, consumer_id, job_id, task_type, workflow_id, details, status, deadline)"
            " VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?)",
            (task_id, new.consumer_id, new.job_id, new.task_type, new.workflow_id, new.details, deadline),
        )
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, task_id))
        self._tasks["waiting"] += 1
        self.on_change()
        return task_id, True

    def get(self, task_id: str) -> TaskRecord | None:
        """The task as it stands now, or ``None`` if there is no such task."""
        self.expire()
        row = self._db.execute(
            "SELECT task_id, consumer_id, job_id, task_type, workflow_id, status, miner_id, result, message,"
            " assignments FROM tasks WHERE task_id=?",
            (task_id,),
        ).fetchone()
        return TaskRecord(*row) if row else None

    def cancel(self, task_id: str, message: str = "Canceled by its consumer") -> bool:
        """End an open task as canceled; ``False`` if it had already ended (or never was)."""
        self.expire()
        return self._end(task_id, "canceled", message=message)

    # Miners

    def assign(self, miner_id: str, workflow_ids: Iterable[str]) -> Assignment | None:
        """Hand the oldest waiting task of these workflows to a miner.

        Who asks for work has empty hands: a task still leased to this miner (its process started anew, or the
        answer that carried the task was lost) goes back first and is the likely answer.
        """
        self.expire()
        wanted = frozenset(workflow_ids)
        self._saw(miner_id, wanted)
        for held in tuple(self._held.get(miner_id, ())):
            self._give_back(held)
        if not self._tasks["waiting"]:
            return None
        # One indexed look-up a workflow: a single query with IN would sort every waiting task each time.
        heads = [
            row
            for workflow_id in wanted
            if (row := self._db.execute(NEXT_WAITING, (workflow_id,)).fetchone())
        ]
        if not heads:
            return None
        seq, task_id, task_type, workflow_id, details = min(heads)
        self._db.execute(
            "UPDATE tasks SET status='running', miner_id=?, assignments=assignments+1 WHERE seq=?",
            (miner_id, seq),
        )
        self._move("waiting", "running")
        self._grant(task_id, miner_id, self._clock())
        if self._tasks["running"] > self._counters["running_most"]:
            self._counters["running_most"] = self._tasks["running"]
            self._unsaved.add("running_most")
        self.on_change()
        return Assignment(task_id, task_type, workflow_id, details)

    def has_waiting(self) -> bool:
        """Whether any task waits for a miner."""
        return bool(self._tasks["waiting"])

    def renew(self, miner_id: str) -> str | None:
        """A busy miner shows that it lives; returns the task it still holds, if it holds one."""
        self.expire()
        now = self._clock()
        if miner_id in self._seen:
            self._seen[miner_id] = (now, self._seen[miner_id][1])
        held = self._held.get(miner_id)
        if not held:
            return None
        for task_id in held:
            self._lease_until[task_id] = now + self.lease_seconds
        return next(iter(held))

    def submit(self, task_id: str, miner_id: str, *, success: bool, result: str | None, message: str) -> bool:
        """Take a miner's result; ``False`` if it is not wanted any more.

        Unwanted are results of tasks that have ended (canceled ones among them), and failures told by a
        miner that no longer holds the task. A late success is taken from anybody while the task is open: the
        work is done.
        """
        self.expire()
        if not success:
            return self._holder.get(task_id) == miner_id and self._end(task_id, "failed", message=message)
        return self._end(task_id, "finished", result=result, miner_id=miner_id)

    def miner_for(self, workflow_id: str) -> tuple[str, bool] | None:
        """A living miner that takes this workflow and whether it is idle; an idle one if there is any."""
        self.expire()
        oldest = self._clock() - self.lease_seconds
        busy: str | None = None
        for miner_id, (seen, workflow_ids) in self._seen.items():
            if seen < oldest or workflow_id not in workflow_ids:
                continue
            if not self._held.get(miner_id):
                return miner_id, True
            busy = busy or miner_id
        return (busy, False) if busy else None

    def has_heard(self, miner_id: str) -> bool:
        """Whether this miner has asked for work since the state was opened."""
        return miner_id in self._heard

    # Time

    def expire(self) -> None:
        """Cancel what ran past its ``timeout_seconds``; take back what silent miners hold."""
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, task_id = heapq.heappop(self._deadlines)
            self._end(task_id, "canceled", message="Canceled: its timeout_seconds ran out")
        # As many leases as busy miners at most, so this scan stays short however many tasks wait.
        for task_id in [task_id for task_id, until in self._lease_until.items() if until <= now]:
            self._give_back(task_id)

    def next_due(self) -> float | None:
        """When :meth:`expire` may next have something to do (seconds since the epoch)."""
        due = list(self._lease_until.values())
        if self._deadlines:
            due.append(self._deadlines[0][0])
        return min(due, default=None)

    # Counts

    def count_request(self, endpoint: str) -> None:
        """Count one request that arrived at an endpoint, whatever became of it."""
        self._count(f"endpoint:{endpoint}")
        self.on_change()

    def save_counts(self) -> None:
        """Write the request counts to the database; they are gathered so that a poll costs no write."""
        if self._unsaved:
            self._db.executemany(
                "INSERT OR REPLACE INTO counters VALUES (?, ?)",
                [(name, self._counters[name]) for name in self._unsaved],
            )
            self._unsaved.clear()

    def stats(self) -> dict[str, object]:
        """The answer of ``GET /devnet/stats``."""
        self.expire()
        return {
            "endpoints": {name: self._counters[f"endpoint:{name}"] for name in ENDPOINTS},
            "creates": sum(self._tasks.values()),
            "duplicates": self._counters["duplicates"],
            "tasks": {status: self._tasks[status] for status in STATUSES},
            "running_now": self._tasks["running"],
            "running_most": self._counters["running_most"],
        }

    def task_ids(self) -> list[str]:
        """Every task's id, oldest first."""
        return [row[0] for row in self._db.execute("SELECT task_id FROM tasks ORDER BY seq")]

    def secret(self, name: str) -> str:
        """A random secret that lives as long as the database does."""
        self._db.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_hex(32)))
        row = self._db.execute("SELECT value FROM secrets WHERE name=?", (name,)).fetchone()
        return str(row[0])

    # Within

    def _end(
        self,
        task_id: str,
        status: str,
        *,
        result: str | None = None,
        message: str = "",
        miner_id: str | None = None,
    ) -> bool:
        row = self._db.execute("SELECT status FROM tasks WHERE task_id=?", (task_id,)).fetchone()
        if row is None or row[0] not in OPEN_STATUSES:
            return False
        # The details may be megabytes of inlined image and nobody reads them again.
        self._db.execute(
            "UPDATE tasks SET status=?, result=?, message=?, miner_id=coalesce(?, miner_id), details=NULL"
            " WHERE task_id=?",
            (status, result, message, miner_id, task_id),
        )
        self._release(task_id)
        self._move(row[0], status)
        self.on_change()
        return True

    def _saw(self, miner_id: str, workflow_ids: frozenset[str]) -> None:
        before = self._seen.get(miner_id)
        self._seen[miner_id] = (self._clock(), workflow_ids)
        if before is None or before[1] != workflow_ids:
            self._db.execute(
                "INSERT OR REPLACE INTO miners VALUES (?, ?)", (miner_id, json.dumps(sorted(workflow_ids)))
            )
        if miner_id not in self._heard:
            self._heard.add(miner_id)
            self.on_change()

    def _give_back(self, task_id: str) -> None:
        self._db.execute("UPDATE tasks SET status='waiting', miner_id=NULL WHERE task_id=?", (task_id,))
        self._release(task_id)
        self._move("running", "waiting")
        self.on_change()

    def _grant(self, task_id: str, miner_id: str, now: float) -> None:
        self._lease_until[task_id] = now + self.lease_seconds
        self._holder[task_id] = miner_id
        self._held.setdefault(miner_id, set()).add(task_id)

    def _release(self, task_id: str) -> None:
        miner_id = self._holder.pop(task_id, None)
        self._lease_until.pop(task_id, None)
        if miner_id is not None:
            self._held[miner_id].discard(task_id)

    def _move(self, old: str, new: str) -> None:
        self._tasks[old] -= 1
        self._tasks[new] += 1

    def _count(self, name: str, *, at_once: bool = False) -> None:
        self._counters[name] += 1
        self._unsaved.add(name)
        if at_once:
            self.save_counts()
