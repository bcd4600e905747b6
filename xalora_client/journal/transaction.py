"""What one write transaction can do to records and leases. Which of it to do is the `Journal`'s decision."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from collections.abc import Callable
from typing import Any

from ..errors import JournalError
from ..polling.durations import PastRun
from .records import Record, Work, clean_text, record_from_row, to_json
from .results_folder import KeptFile, KeptResults
from .states import Event, TaskState, next_state

logger = logging.getLogger("xalora_client.journal")

HISTORY_PER_KIND = 100
SENDER_DIED = "The process that sent it ended before the network's answer came."
SENDER_LEFT = "It was given up while the create was on its way."
NEVER_SENT = "It was given up before it was sent."
STILL_UNKNOWN = "What became of its first create is still unknown; sent again, it was not accepted:"


class Transaction:
    """Rows by id, moved by the table of states; `changed` collects the ids for the listeners.

    Args:
        connection: With a write transaction begun.
        owner_id: Whose leases are made and given back here.
        now: Unix seconds of the wall clock.
        results: Where kept files lie.
    """

    def __init__(
        self, connection: sqlite3.Connection, owner_id: str, now: float, results: KeptResults
    ) -> None:
        self.connection = connection
        self.now = now
        self.changed: set[int] = set()
        self.left_behind: list[tuple[str, list[KeptFile]]] = []
        self._owner_id = owner_id
        self._results = results
        self._version = self._counter("version") + 1

    def conclude(self) -> None:
        """Publishes the new version where anything changed; to be called last."""
        if self.changed:
            self.connection.execute("UPDATE counters SET value = ? WHERE name = 'version'", (self._version,))

    # Records ---------------------------------------------------------------------------------------------

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
            raise no_record(record_id)
        return row

    def state(self, record_id: int) -> TaskState:
        """Where the record stands."""
        return TaskState(self.row(record_id)["state"])

    def record(self, record_id: int) -> Record:
        """The record as it stands inside this transaction."""
        return record_from_row(self.row(record_id), self._results.root)

    def insert(self, work: Work, job_id: str, state: TaskState) -> int:
        """A new record's id."""
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
            "job_id": clean_text(job_id),
            "state": state.value,
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
        """Sets columns, or none but the version; times are kept from running backwards."""
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

    def step(self, record_id: int, event: Event, **values: Any) -> TaskState:
        """Moves a record by the table of states and sets columns with the move; the state after it.

        Raises:
            JournalError: The step does not fit the record's state.
        """
        row = self.row(record_id)
        before = TaskState(row["state"])
        try:
            after = next_state(before, event)
        except JournalError as error:
            error.job_id, error.task_id = row["job_id"], row["task_id"]
            raise
        if after is not before or values:
            self.update(record_id, state=after.value, **values)
        return after

    def accept(self, record_id: int, task_id: str, submitted_at: float) -> None:
        """Notes the task id of a record."""
        row = self.row(record_id)
        if row["task_id"] is not None:
            if row["task_id"] != task_id:
                logger.warning(
                    "Job %s was accepted twice, as task %s and as task %s; both may be charged. The journal "
                    "follows the first.",
                    row["job_id"],
                    row["task_id"],
                    task_id,
                )
            return
        self.step(
            record_id,
            Event.ACCEPTED,
            task_id=clean_text(task_id),
            submitted_at=submitted_at,
            ended_at=None,
            error=None,
            forgotten=0,
            in_doubt=0,
            worker=None,
        )

    def give_up(self, row: sqlite3.Row, error: str) -> None:
        """The create will not be sent (again): free of charge, unless an earlier one may have made a task."""
        if row["in_doubt"]:
            self.step(row["id"], Event.LOSE_ANSWER, error=f"{STILL_UNKNOWN} {error}", worker=None)
        else:
            self.step(row["id"], Event.GIVE_UP, error=error, ended_at=self.now, worker=None)

    def touch(self, record_id: int) -> None:
        """Makes the record the most recently used. A counter says so, since clocks are set back."""
        self.connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'used'")
        self.connection.execute(
            "UPDATE entries SET used = ? WHERE id = ?", (self._counter("used"), record_id)
        )

    def remove(self, row: sqlite3.Row) -> None:
        """Removes a record; its files are in `left_behind`, to be removed when others may write again."""
        self.left_behind.append((self._results.stem(row["id"], row["job_id"]).name, kept_files(row)))
        self.connection.execute("DELETE FROM entries WHERE id = ?", (row["id"],))
        self.changed.add(row["id"])

    def note_run(self, kind: str, run: PastRun) -> None:
        """Adds to the history of a kind, which is kept to a useful length."""
        self.connection.execute(
            "INSERT INTO past_runs (kind, at_least, at_most) VALUES (?, ?, ?)",
            (kind, run.at_least, run.at_most),
        )
        self.connection.execute(
            "DELETE FROM past_runs WHERE kind = ? AND id NOT IN"
            " (SELECT id FROM past_runs WHERE kind = ? ORDER BY id DESC LIMIT ?)",
            (kind, kind, HISTORY_PER_KIND),
        )

    # Leases ---------------------------------------------------------------------------------------------

    def new_lease(self, record_id: int) -> str:
        """A lease of this owner for a record."""
        lease = secrets.token_hex(8)
        if not self.leases(record_id):
            self._note_attendance(record_id)
        self.connection.execute("INSERT INTO tickets VALUES (?, ?, ?)", (lease, record_id, self._owner_id))
        return lease

    def leases(self, record_id: int) -> int:
        """How many leases a record has; all are live ones after `bury`."""
        row = self.connection.execute("SELECT count(*) FROM tickets WHERE entry = ?", (record_id,)).fetchone()
        return int(row[0])

    def own_leases(self) -> list[str]:
        """All leases of this owner."""
        rows = self.connection.execute("SELECT ticket FROM tickets WHERE owner = ?", (self._owner_id,))
        return [row["ticket"] for row in rows.fetchall()]

    def is_own(self, lease: str | None) -> bool:
        """Whether the lease is one of this owner's."""
        found = self.connection.execute(
            "SELECT 1 FROM tickets WHERE ticket = ? AND owner = ?", (lease, self._owner_id)
        ).fetchone()
        return found is not None

    def row_of_lease(self, lease: str) -> sqlite3.Row | None:
        """The row that a lease of this owner stands for; None where it was given back, or is another's."""
        row = self.connection.execute(
            "SELECT entries.* FROM entries JOIN tickets ON tickets.entry = entries.id"
            " WHERE tickets.ticket = ? AND tickets.owner = ?",
            (lease, self._owner_id),
        ).fetchone()
        return row if isinstance(row, sqlite3.Row) else None

    def drop_lease(self, row: sqlite3.Row, lease: str) -> int:
        """Gives back a lease for `row` and draws the consequences; how many the record has left."""
        self.connection.execute("DELETE FROM tickets WHERE ticket = ?", (lease,))
        left = self.leases(row["id"])
        state = TaskState(row["state"])
        is_worker = row["worker"] == lease
        if is_worker and state is TaskState.SENDING:
            self.step(row["id"], Event.LOSE_ANSWER, error=SENDER_LEFT, worker=None)
        elif state is TaskState.PREPARED and (not left or (is_worker and row["in_doubt"])):
            # Whether work in doubt is sent again is its sender's choice, which nobody else inherits.
            self.give_up(row, row["error"] or NEVER_SENT)
        elif is_worker:
            self.update(row["id"], worker=None)
        if not left and row["size"]:
            # A video may have been made of an animation while it was in hand.
            size = self._results.size(kept_files(row))
            if size != row["size"]:
                self.update(row["id"], size=size)
        if not left:
            self._note_attendance(row["id"])
        return left

    def bury(self, is_alive: Callable[[str], bool]) -> None:
        """Removes the leases of the dead; afterwards nothing is SENDING without a living sender."""
        for owner in self._owners():
            if is_alive(owner):
                continue
            for row in self.connection.execute(
                "SELECT entries.* FROM tickets JOIN entries ON entries.worker = ticket WHERE owner = ?",
                (owner,),
            ).fetchall():
                if row["state"] == TaskState.SENDING.value:
                    self.step(row["id"], Event.LOSE_ANSWER, error=SENDER_DIED)
                elif row["state"] == TaskState.PREPARED.value and row["in_doubt"]:
                    self.give_up(row, row["error"] or NEVER_SENT)
                self.update(row["id"], worker=None)
            held = self.connection.execute(
                "SELECT DISTINCT entry FROM tickets WHERE owner = ?", (owner,)
            ).fetchall()
            self.connection.execute("DELETE FROM tickets WHERE owner = ?", (owner,))
            for row in held:
                if not self.leases(row["entry"]):
                    self._note_attendance(row["entry"])

    def _note_attendance(self, record_id: int) -> None:
        """Whether an open record is looked after decides what can be done with it, so that is a change."""
        row = self.find(record_id)
        if row is not None and record_from_row(row, self._results.root).is_open:
            self.update(record_id)

    def _owners(self) -> list[str]:
        # From one to the next by the index: SELECT DISTINCT would read every lease, at every change.
        rows = self.connection.execute(
            "WITH RECURSIVE found(owner) AS ("
            " SELECT min(owner) FROM tickets"
            " UNION ALL"
            " SELECT (SELECT min(owner) FROM tickets WHERE owner > found.owner) FROM found"
            " WHERE found.owner IS NOT NULL"
            ") SELECT owner FROM found WHERE owner IS NOT NULL"
        )
        return [row["owner"] for row in rows.fetchall()]

    def _counter(self, name: str) -> int:
        row = self.connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0])


def kept_files(row: sqlite3.Row) -> list[KeptFile]:
    """The kept files of a row of table ``records``."""
    return [(name, size) for name, size in json.loads(row["files"])]


def no_record(record_id: int) -> JournalError:
    """The error for an id that is not, or no longer, in the journal."""
    return JournalError(
        f"The journal has no record {record_id}",
        money="Forgetting a record charges nothing and refunds nothing.",
        next_step="List the tasks with `xalora tasks`.",
    )
