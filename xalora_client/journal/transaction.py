"""What one write transaction of the journal can do: events applied to rows, leases made and dropped.

In one file, since each of its steps keeps the same invariants of a row and its leases.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import JournalError
from .records import Record, Row, Work, clean_text, record_from_row, to_json, without_queries
from .results_folder import KeptFile, KeptResults
from .rules import Event, TaskState, next_state
from .spending import REMEMBER_SENT

logger = logging.getLogger("xalora_client.journal")

HISTORY_PER_KIND = 100
EVICTED_AT_ONCE = 20

COUNTED_SECONDS = 2 * 24 * 3600.0
"""How long what was sent counts after its record is forgotten: longer than any day."""

SENDER_DIED = "The process that sent it ended before the network's answer came."
SENDER_LEFT = "It was given up while the create was on its way."
NEVER_SENT = "It was given up before it was sent."
STILL_UNKNOWN = "The outcome of its first create is still unknown; sent again, it was not accepted:"


class AnothersIdError(JournalError):
    """The network answered a create with the id of another task."""


class Transaction:
    """Rows by id, moved by the table of states; `changed` collects the ids for the listeners.

    Args:
        connection: With a write transaction begun.
        owner_id: Whose leases are made and dropped here.
        now: Unix seconds of the wall clock.
        results: Where kept files lie.
    """

    def __init__(
        self, connection: sqlite3.Connection, owner_id: str, now: float, results: KeptResults
    ) -> None:
        self.connection = connection
        self.now = now
        self.changed: set[int] = set()
        self.removed: list[tuple[str, list[KeptFile]]] = []
        self._owner_id = owner_id
        self._results = results
        self._version = self.counter("version") + 1

    def conclude(self) -> None:
        """Publish the new version where anything changed; to be called last."""
        if self.changed:
            self.connection.execute("UPDATE counters SET value = ? WHERE name = 'version'", (self._version,))

    # --- records ------------------------------------------------------------------------------------------

    def find(self, record_id: int) -> sqlite3.Row | None:
        """The row, None where there is none."""
        row = self.connection.execute("SELECT * FROM entries WHERE id = ?", (record_id,)).fetchone()
        return row if isinstance(row, sqlite3.Row) else None

    def row(self, record_id: int) -> sqlite3.Row:
        """The row.

        Raises:
            JournalError: There is none.
        """
        row = self.find(record_id)
        if row is None:
            raise JournalError(
                f"The journal has no record {record_id}",
                money="Forgetting a record charges nothing and refunds nothing.",
                next_step="List the tasks with `xalora tasks`.",
            )
        return row

    def record(self, record_id: int) -> Record:
        """The record as it stands inside this transaction."""
        return record_from_row(self.row(record_id), self._results.root)

    def read(self, query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        """The rows of a SELECT, with what this transaction has changed."""
        return self.connection.execute(query, values).fetchall()

    def insert(self, work: Work, job_id: str) -> int:
        """A new record's id; it is PREPARED."""
        values = {
            "fingerprint": work.fingerprint,
            "sequencer_url": work.sequencer_url,
            "consumer_id": work.consumer_id,
            "task_type": work.task_type,
            "workflow_id": work.workflow_id,
            "kind": clean_text(work.kind),
            "label": clean_text(work.label),
            "seeded": int(work.seeded),
            "own_key": int(work.own_key),
            "details": to_json(work.details),
            "whole_id": work.whole and work.whole.id,
            "whole_label": work.whole and clean_text(work.whole.label),
            "job_id": clean_text(job_id),
            "state": TaskState.PREPARED.value,
            "created_at": self.now,
            "version": self._version,
        }
        names, marks = ", ".join(values), ", ".join("?" for _ in values)
        record_id = self.connection.execute(
            f"INSERT INTO entries ({names}) VALUES ({marks})", list(values.values())
        ).lastrowid
        assert record_id is not None
        self.changed.add(record_id)
        return record_id

    def update(self, record_id: int, **values: Any) -> None:
        """Set columns, or none but the version; times are kept from running backwards."""
        times = [name for name in values if name.endswith("_at") and values[name] is not None]
        if times:
            # A wall clock that was set back must not make a task end before it began.
            row = self.row(record_id)
            floor = max(row[name] or 0.0 for name in ("created_at", "sent_at", "submitted_at", "started_at"))
            values.update({name: max(values[name], floor) for name in times})
        values["version"] = self._version
        assignments = ", ".join(f"{name} = ?" for name in values)
        self.connection.execute(
            f"UPDATE entries SET {assignments} WHERE id = ?", (*values.values(), record_id)
        )
        self.changed.add(record_id)

    def apply(self, record_id: int, event: Event, values: Mapping[str, Any]) -> None:
        """Apply an event; a report about a record that is gone, or in another state, changes nothing.

        Raises:
            JournalError: A step that does not fit.
        """
        row = self.find(record_id)
        if row is None:
            if event is Event.ACCEPTED:
                logger.warning(
                    "Task %s is the answer for record %d, which the journal has no more. It may be charged.",
                    values["task_id"],
                    record_id,
                )
            return
        if event is Event.ACCEPTED:
            if row["task_id"] is not None and (
                row["task_id"] != values["task_id"] or row["state"] != TaskState.UNKNOWN.value
            ):
                _warn_if_accepted_twice(row, values["task_id"])
                return
            check_not_anothers(self.connection, row, values["task_id"])
        if event is Event.NOT_SENT and row["in_doubt"]:
            # Whether work in doubt was accepted the first time is as unknown as before.
            event, values = Event.ANSWER_LOST, {"error": f"{STILL_UNKNOWN} {values['error']}"}
        state = TaskState(row["state"])
        after = next_state(state, event)
        if after is None:
            return
        if state is TaskState.UNKNOWN and row["task_id"] is None and event in _NEEDS_TASK_ID:
            return
        columns = _COLUMNS[event](row, values, self.now)
        if after is not state or any(row[name] != value for name, value in columns.items()):
            self.update(record_id, state=after.value, **columns)
        if event is Event.KEPT:
            self.touch(record_id)
        run = values.get("run")
        if event is Event.FINISHED and run is not None and state is not TaskState.FINISHED:
            self._note_run(row["kind"], *run)

    def touch(self, record_id: int) -> None:
        """Make the record the most recently used. A counter says so, since clocks are set back."""
        self.connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'used'")
        self.connection.execute("UPDATE entries SET used = ? WHERE id = ?", (self.counter("used"), record_id))

    def remove(self, row: sqlite3.Row) -> None:
        """Remove a record; its files are in `removed`, to be deleted when others may write again."""
        self.removed.append((self._results.stem(row["id"], row["job_id"]).name, kept_files(row)))
        self.connection.execute(REMEMBER_SENT, (row["id"],))
        self.connection.execute("DELETE FROM forgotten_sent WHERE sent_at < ?", (self.now - COUNTED_SECONDS,))
        self.connection.execute("DELETE FROM entries WHERE id = ?", (row["id"],))
        self.changed.add(row["id"])

    def evict(self, limit: int, parts: Mapping[Path, int]) -> bool:
        """Remove partial downloads that were left, then delivered results, the least recently used first.

        Args:
            limit: Bytes that may stay.
            parts: The files of partial downloads and their bytes, the oldest first.

        Returns:
            False where many were removed and more are to be.
        """
        total = self.counter("kept") + sum(parts.values())
        for part, size in parts.items():
            if total > limit and self._results.remove_left(part):
                total -= size
        if total <= limit:
            return True
        rows = self.read(
            "SELECT id, size, files FROM entries WHERE size > 0 AND delivered = 1 AND state = 'finished'"
            " AND NOT EXISTS (SELECT 1 FROM tickets WHERE entry = entries.id) ORDER BY used",
            (),
        )
        removed = 0
        for row in rows:
            if total <= limit:
                return True
            if removed == EVICTED_AT_ONCE:
                return False
            if self._results.remove(kept_files(row)):
                self.update(row["id"], files="[]", size=0)
                total -= row["size"]
                removed += 1
        return True

    def counter(self, name: str) -> int:
        """The value of a counter."""
        row = self.connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0])

    def _note_run(self, kind: str, at_least: float, at_most: float) -> None:
        self.connection.execute(
            "INSERT INTO past_runs (kind, at_least, at_most) VALUES (?, ?, ?)", (kind, at_least, at_most)
        )
        self.connection.execute(
            "DELETE FROM past_runs WHERE kind = ? AND id NOT IN"
            " (SELECT id FROM past_runs WHERE kind = ? ORDER BY id DESC LIMIT ?)",
            (kind, kind, HISTORY_PER_KIND),
        )

    # --- leases -------------------------------------------------------------------------------------------

    def new_lease(self, record_id: int) -> str:
        """A lease of this owner on a record."""
        lease = secrets.token_hex(8)
        if not self.leases(record_id):
            self._note_leased(record_id)
        self.connection.execute("INSERT INTO tickets VALUES (?, ?, ?)", (lease, record_id, self._owner_id))
        return lease

    def leases(self, record_id: int) -> int:
        """How many leases a record has; all are of living owners after `drop_dead`."""
        row = self.connection.execute("SELECT count(*) FROM tickets WHERE entry = ?", (record_id,)).fetchone()
        return int(row[0])

    def is_own(self, lease: str | None) -> bool:
        """Whether the lease is one of this owner's."""
        found = self.connection.execute(
            "SELECT 1 FROM tickets WHERE ticket = ? AND owner = ?", (lease, self._owner_id)
        ).fetchone()
        return found is not None

    def drop(self, lease: str) -> None:
        """Drop a lease of this owner; one that was dropped before is passed over."""
        row = self.connection.execute(
            "SELECT entries.* FROM entries JOIN tickets ON tickets.entry = entries.id"
            " WHERE tickets.ticket = ? AND tickets.owner = ?",
            (lease, self._owner_id),
        ).fetchone()
        if row is not None:
            self._drop([lease], row, SENDER_LEFT)

    def owners(self) -> set[str]:
        """Ids of all owners of leases."""
        # From one to the next by the index: SELECT DISTINCT would read every lease, at every change.
        rows = self.connection.execute(
            "WITH RECURSIVE found(owner) AS ("
            " SELECT min(owner) FROM tickets"
            " UNION ALL"
            " SELECT (SELECT min(owner) FROM tickets WHERE owner > found.owner) FROM found"
            " WHERE found.owner IS NOT NULL"
            ") SELECT owner FROM found WHERE owner IS NOT NULL"
        )
        return {row["owner"] for row in rows.fetchall()}

    def drop_own(self) -> None:
        """Drop all leases of this owner."""
        self._drop_all_of(self._owner_id, SENDER_LEFT)

    def drop_dead(self, dead: Collection[str]) -> None:
        """Drop the leases of owners that have died; afterwards a living process sends whatever is SENDING."""
        for owner in dead:
            self._drop_all_of(owner, SENDER_DIED)

    def _drop_all_of(self, owner: str, sender_gone: str) -> None:
        leases: dict[int, list[str]] = {}
        for row in self.connection.execute(
            "SELECT ticket, entry FROM tickets WHERE owner = ?", (owner,)
        ).fetchall():
            leases.setdefault(row["entry"], []).append(row["ticket"])
        for record_id, of_record in leases.items():
            row = self.find(record_id)
            if row is None:
                self.connection.executemany(
                    "DELETE FROM tickets WHERE ticket = ?", [(lease,) for lease in of_record]
                )
            else:
                self._drop(of_record, row, sender_gone)

    def _drop(self, leases: list[str], row: sqlite3.Row, sender_gone: str) -> None:
        self.connection.executemany("DELETE FROM tickets WHERE ticket = ?", [(lease,) for lease in leases])
        record_id, left = row["id"], self.leases(row["id"])
        state = TaskState(row["state"])
        was_worker = row["worker"] in leases
        if was_worker and state is TaskState.SENDING:
            self.apply(record_id, Event.ANSWER_LOST, {"error": sender_gone})
        elif state is TaskState.PREPARED and (not left or (was_worker and row["in_doubt"])):
            # Whether work in doubt is sent again is its sender's choice, which nobody else inherits.
            self.apply(record_id, Event.NOT_SENT, {"error": row["error"] or NEVER_SENT})
        elif was_worker:
            self.update(record_id, worker=None)
        if not left and row["size"]:
            # A video may have been made of an animation while it was in use.
            size = self._results.size(kept_files(row))
            if size != row["size"]:
                self.update(record_id, size=size)
        if not left:
            self._note_leased(record_id)

    def _note_leased(self, record_id: int) -> None:
        """Whether an open record is leased decides what can be done with it, so that is a change."""
        row = self.find(record_id)
        if row is not None and record_from_row(row, Path()).is_open:
            self.update(record_id)


_NEEDS_TASK_ID = frozenset({Event.FINISHED, Event.FAILED, Event.CANCELED})

Columns = Callable[[sqlite3.Row, Mapping[str, Any], float], dict[str, Any]]


def _ended(status: str) -> Columns:
    def columns(row: sqlite3.Row, values: Mapping[str, Any], now: float) -> dict[str, Any]:
        return {
            "status": status,
            "error": _text(values.get("error")),
            "ended_at": values.get("at", now),
            "worker": None,
            # Of a canceled task it tells which request was the one: who joined after it wants a new task.
            "cancel_requested_at": row["cancel_requested_at"] if status == "canceled" else None,
            "queue_position": None,
            "miner": _text(values.get("miner")) or row["miner"],
            "inference_seconds": values.get("inference_seconds") or row["inference_seconds"],
        }

    return columns


def _status(row: sqlite3.Row, values: Mapping[str, Any], now: float) -> dict[str, Any]:
    started = values.get("at", now) if values["status"] == "running" else None
    return {
        "status": clean_text(values["status"]),
        "started_at": row["started_at"] or started,
        "queue_position": values.get("queue_position"),
        "miner": _text(values.get("miner")) or row["miner"],
    }


def _finished(row: sqlite3.Row, values: Mapping[str, Any], now: float) -> dict[str, Any]:
    ended = row["ended_at"] if row["state"] == TaskState.FINISHED.value else values.get("at", now)
    # No query: it may sign the address, and whoever needs a fresh one asks the network.
    result = row["result"] if row["files"] != "[]" else to_json(without_queries(values["result"]))
    told = {name: values.get(name) for name in ("miner", "inference_seconds")}
    return {**_ended("finished")(row, told, now), "ended_at": ended, "result": result}


def _kept(row: sqlite3.Row, values: Mapping[str, Any], now: float) -> dict[str, Any]:
    return {
        "files": json.dumps(values["files"]),
        "size": sum(size for _, size, *_ in values["files"]),
        "engine": values.get("engine"),
        "miner": values.get("miner") or row["miner"],
        "device": values.get("device"),
        "status": "finished",
        "ended_at": row["ended_at"] or now,
        "worker": None,
    }


_COLUMNS: dict[Event, Columns] = {
    Event.SEND: lambda row, values, now: {"sent_at": now, "error": None},
    Event.RESEND: lambda row, values, now: {"in_doubt": 1, "error": None, "forgotten": 0},
    Event.HELD_BACK: lambda row, values, now: {"error": _text(values["error"])},
    Event.NOT_SENT: lambda row, values, now: {
        "error": _text(values["error"]),
        "ended_at": now,
        "worker": None,
    },
    Event.ANSWER_LOST: lambda row, values, now: {"error": _text(values["error"]), "worker": None},
    Event.ACCEPTED: lambda row, values, now: {
        "task_id": clean_text(values["task_id"]),
        "submitted_at": values.get("at", now),
        "ended_at": None,
        "error": None,
        "forgotten": 0,
        "in_doubt": 0,
        "worker": None,
    },
    Event.STATUS: _status,
    Event.FINISHED: _finished,
    Event.FAILED: _ended("failed"),
    Event.CANCELED: _ended("canceled"),
    Event.NOT_KNOWN: lambda row, values, now: {
        "error": _text(values["error"]),
        "cancel_requested_at": None,
        "worker": None,
    },
    Event.EXPIRED: lambda row, values, now: {"error": _text(values["error"]), "files": "[]", "size": 0},
    Event.CANCEL_REQUESTED: lambda row, values, now: {"cancel_requested_at": values.get("at", now)},
    Event.CANCEL_LAPSED: lambda row, values, now: {"cancel_requested_at": None},
    Event.KEPT: _kept,
    Event.FILES_GONE: lambda row, values, now: {"files": "[]", "size": 0},
    Event.DELIVERED: lambda row, values, now: {"delivered": 1},
    Event.WANTED: lambda row, values, now: {"delivered": 0},
    Event.FELL_BACK: lambda row, values, now: {"engine": values["engine"], "device": values["device"]},
}


def check_not_anothers(connection: sqlite3.Connection, row: sqlite3.Row, task_id: str) -> None:
    """An id that the network gave to another task before would give out that one's result.

    Raises:
        AnothersIdError: It did.
    """
    other = connection.execute(
        "SELECT job_id FROM entries WHERE task_id = ? AND sequencer_url = ? AND fingerprint <> ?",
        (task_id, row["sequencer_url"], row["fingerprint"]),
    ).fetchone()
    if other is not None:
        raise AnothersIdError(
            f"The network answered job {row['job_id']} with the id of another task, {task_id} (job "
            f"{other['job_id']})",
            job_id=row["job_id"],
        )


def _text(text: str | None) -> str | None:
    return None if text is None else clean_text(text)


def _warn_if_accepted_twice(row: sqlite3.Row, task_id: str) -> None:
    if row["task_id"] != task_id:
        logger.warning(
            "Job %s was accepted twice, as task %s and as task %s; both may be charged. The journal follows "
            "the first.",
            row["job_id"],
            row["task_id"],
            task_id,
        )


def kept_files(row: Row) -> list[KeptFile]:
    """The kept files of a row of table ``entries``."""
    return [(name, size, digest[0] if digest else "") for name, size, *digest in json.loads(row["files"])]
