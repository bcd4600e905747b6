"""The journal itself: every task from before it is paid for until its result is in the user's hands."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import secrets
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import NOT_ACCEPTED, NOTHING_CHARGED, STILL_RETRIEVABLE, JournalError
from . import owners
from .database import CorruptJournalError, Database
from .history import usual_span, watched_duration
from .kept import KeptResults
from .rows import Action, Claim, Entry, IfUnknown, Work, clean_text, entry_from_row, to_json
from .schema import migrate
from .states import ENDED, OPEN, Event, TaskState, next_state

logger = logging.getLogger("xalora_client.journal")

BUSY_SECONDS = 5.0
HISTORY_PER_KIND = 100
MAY_BE_CHARGED = "Its create may have been charged; nothing is sent again by itself."
LOST_ANSWER = "The process that sent it ended before the network's answer came."

Listener = Callable[[int], None]


@dataclass
class _Changes:
    """One write transaction and what it changed."""

    connection: sqlite3.Connection
    version: int
    ids: set[int] = field(default_factory=set)


_RANKS = {
    TaskState.FINISHED: 1,
    TaskState.SUBMITTED: 2,
    TaskState.CANCEL_PENDING: 3,
    # 0 is KEPT with its files, 4 is KEPT without: still free, where the network has it.
    TaskState.SENDING: 5,
    TaskState.PREPARED: 6,
    TaskState.UNKNOWN: 7,
}
_LISTENER_KEYS = itertools.count()
_OPEN_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()


class Journal:
    """A journal of tasks, shared by threads and processes.

    Every method is synchronous, takes well under a millisecond unless another process is writing (then up to
    ``busy_seconds``), and raises `JournalError` where the file can't be used. Every change of state goes
    through the table in `states`: a step that does not fit raises, a late report is ignored; both ways the
    entry as it now stands is returned.

    Interest in an entry is a *ticket* (see `Claim`). Of the ticket holders, at most one is the *worker*, who
    alone sends the task, or downloads its result.
    """

    def __init__(
        self,
        path: Path | None,
        results_dir: Path,
        results_limit_bytes: int | None,
        *,
        busy_seconds: float,
        wall_clock: Callable[[], float],
        monotonic_clock: Callable[[], float],
    ) -> None:
        self._results = KeptResults(results_dir)
        self._limit = results_limit_bytes
        self._wall, self._monotonic = wall_clock, monotonic_clock
        self._owners_dir = None if path is None else path.with_name(f"{path.name}.owners")
        self._owner: owners.Owner | None = None
        self._dead: set[str] = set()
        self._listeners: dict[int, Listener] = {}
        self._watched: dict[int, tuple[float, float]] = {}
        self._owed: dict[int, str] = {}
        self._database = Database(path, busy_seconds=busy_seconds)
        try:
            with self._database.write() as connection:
                migrate(connection)
                if self._owners_dir is not None:
                    owners.sweep(self._owners_dir)
            with self._change() as changes:
                self._settle(changes)
        except BaseException:
            self._database.close()
            raise
        _OPEN_JOURNALS.add(self)

    # Opening and closing --------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None,
        results_dir: str | os.PathLike[str],
        results_limit_bytes: int | None = None,
        *,
        busy_seconds: float = BUSY_SECONDS,
        wall_clock: Callable[[], float] = time.time,
        monotonic_clock: Callable[[], float] = time.monotonic,
    ) -> Journal:
        """Opens or creates the journal at `path`; None keeps it in memory, seen by this object alone.

        Args:
            results_dir: Folder of the kept results.
            results_limit_bytes: Its size limit; None for no limit.
            busy_seconds: How long to wait for other processes' writes.
            wall_clock: Unix seconds.
            monotonic_clock: Seconds that never run backwards.

        Raises:
            CorruptJournalError: The file is broken.
            JournalError: It can't be read or written, is locked, or was written by a newer version.
        """
        return cls(
            None if path is None else Path(path).absolute(),
            Path(results_dir).absolute(),
            results_limit_bytes,
            busy_seconds=busy_seconds,
            wall_clock=wall_clock,
            monotonic_clock=monotonic_clock,
        )

    @property
    def path(self) -> Path | None:
        """The file, None in memory."""
        return self._database.path

    @property
    def results_dir(self) -> Path:
        """The folder of kept results."""
        return self._results.root

    def close(self) -> None:
        """Gives back all tickets and closes the file; twice is harmless."""
        with self._database.lock:
            if not self._database.is_open:
                return
            try:
                if self._owner is not None:
                    with self._change() as changes:
                        for (ticket,) in changes.connection.execute(
                            "SELECT ticket FROM tickets WHERE owner = ?", (self._owner.id,)
                        ).fetchall():
                            self._drop_ticket(changes, ticket)
            except JournalError as error:
                # The tickets lapse with the lock below all the same.
                logger.warning("The journal was closed without its last changes: %s", error)
            finally:
                self._database.close()
                if self._owner is not None:
                    self._owner.release()
                _OPEN_JOURNALS.discard(self)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Claiming work --------------------------------------------------

    def claim(self, work: Work, *, job_id: str, reuse: bool = True, if_unknown: IfUnknown = "stop") -> Claim:
        """Decides in one transaction what to do about `work`; see `Claim` for the outcomes.

        Args:
            job_id: The job id to use if a new entry is made; an older entry keeps its own.
            reuse: False always makes a new entry.
            if_unknown: What to do about an earlier create whose outcome was never learned: send it again
                under the same job id, give it up and begin anew, or stop with the action ``unknown``.
        """
        with self._change(money=NOTHING_CHARGED) as changes:
            self._settle(changes)
            if reuse and (row := self._pick(changes, work)) is not None:
                claim = self._take_up(changes, row, if_unknown)
                if claim is not None:
                    return claim
            entry_id = self._insert(changes, work, job_id, TaskState.PREPARED)
            return self._new_claim(changes, "send", entry_id, as_worker=True)

    def adopt(self, work: Work, *, task_id: str, job_id: str = "") -> Claim:
        """A ``join`` for a task that this journal has not seen being sent, known by its task id alone.

        With `task_id` already journaled for the same network, that entry is joined instead.
        """
        with self._change(durable=True) as changes:
            self._settle(changes)
            row = changes.connection.execute(
                "SELECT id FROM entries WHERE task_id = ? AND sequencer_url = ? ORDER BY id DESC",
                (task_id, work.sequencer_url),
            ).fetchone()
            if row is not None:
                return self._new_claim(changes, "join", row["id"])
            entry_id = self._insert(changes, work, job_id, TaskState.SUBMITTED)
            self._update(changes, entry_id, task_id=task_id, submitted_at=self._wall())
            return self._new_claim(changes, "join", entry_id)

    def take(self, ticket: str) -> bool:
        """Asks to become the worker of the ticket's entry.

        True: the caller, and nobody else, now sends the entry (PREPARED) or downloads its result (FINISHED).
        False: somebody alive does, or there is no such work in the entry's present state. Ask again when
        the entry changes; a worker that died or left is noticed here.
        """
        with self._change() as changes:
            self._settle(changes)
            row = self._row_of_ticket(changes, ticket)
            if row is None or row["state"] not in (TaskState.PREPARED.value, TaskState.FINISHED.value):
                return False
            if row["worker"] not in (None, ticket):
                return False
            self._update(changes, row["id"], worker=ticket)
            return True

    def hold(self, entry_id: int) -> str:
        """A ticket for an entry: its files stay, and others' cancels don't reach its task."""
        with self._change() as changes:
            self._row(changes, entry_id)
            self._touch(changes, entry_id)
            return self._new_ticket(changes, entry_id)

    @contextlib.contextmanager
    def holding(self, entry_id: int) -> Iterator[Entry]:
        """`hold` for the length of a ``with`` block."""
        ticket = self.hold(entry_id)
        try:
            yield self.entry(entry_id)
        finally:
            self.leave(ticket)

    def others(self, ticket: str) -> int:
        """How many other live tickets the ticket's entry has."""
        with self._change() as changes:
            self._settle(changes)
            row = self._row_of_ticket(changes, ticket)
            return 0 if row is None else self._tickets(changes, row["id"]) - 1

    def leave(self, ticket: str) -> int:
        """Gives a ticket back and returns how many live ones the entry has left; twice is harmless.

        A worker that leaves while SENDING leaves the entry UNKNOWN. The last one that leaves a PREPARED
        entry leaves it NOT_SENT.
        """
        with self._change() as changes:
            self._settle(changes)
            return self._drop_ticket(changes, ticket)

    def cancel(self, ticket: str) -> Entry | None:
        """Cancels for this ticket's holder, leaving the task alone while others want it.

        Returns the entry, now CANCEL_PENDING: cancel it at the network, report with `canceled`, then `leave`.
        Returns None and gives the ticket back where there is nothing to cancel at the network, because
        others wait for the task, it was never sent, or it has ended. While SENDING, wait for the create's
        answer first.
        """
        with self._change(durable=True) as changes:
            self._settle(changes)
            row = self._row_of_ticket(changes, ticket)
            if row is None:
                return None
            if self._tickets(changes, row["id"]) > 1:
                self._drop_ticket(changes, ticket)
                return None
            if TaskState(row["state"]) not in (TaskState.SUBMITTED, TaskState.CANCEL_PENDING):
                self._drop_ticket(changes, ticket)
                return None
            self._step(changes, row["id"], Event.ASK_CANCEL)
            return self._entry(changes, row["id"])

    # A task's life --------------------------------------------------

    def sending(self, entry_id: int) -> Entry:
        """The create leaves this machine next; on return that is safely on disk.

        Raises:
            JournalError: The entry is not PREPARED, or not this process's to send. Then send nothing.
        """
        with self._change(durable=True) as changes:
            row = self._row(changes, entry_id)
            worker = changes.connection.execute(
                "SELECT owner FROM tickets WHERE ticket = ?", (row["worker"],)
            ).fetchone()
            if worker is None or self._owner is None or worker["owner"] != self._owner.id:
                raise JournalError(
                    f"Entry {entry_id} of the journal is not this process's to send",
                    job_id=row["job_id"],
                    next_step="Queue the work again; it joins the one that sends it.",
                )
            self._step(changes, entry_id, Event.SEND, sent_at=self._wall(), error=None)
            return self._entry(changes, entry_id)

    def held_back(self, entry_id: int, error: str) -> Entry:
        """The create was clearly refused or never left, and will be tried again: SENDING -> PREPARED."""
        return self._simple(entry_id, Event.HOLD_BACK, money=NOT_ACCEPTED, error=clean_text(error))

    def not_sent(self, entry_id: int, error: str) -> Entry:
        """The create was clearly refused or never left, and will not be tried again."""
        return self._simple(
            entry_id, Event.GIVE_UP, money=NOT_ACCEPTED, error=clean_text(error), ended_at=self._wall()
        )

    def unknown(self, entry_id: int, error: str) -> Entry:
        """The create went out and its outcome was not learned."""
        return self._simple(entry_id, Event.LOSE_ANSWER, money=MAY_BE_CHARGED, error=clean_text(error))

    def submitted(self, entry_id: int, task_id: str) -> Entry:
        """The network answered the create; on return the task id is safely on disk.

        Raises:
            JournalError: It can't be written. Its id is then kept in memory and written with this process's
                next successful change; log it all the same.
        """
        self._watched[entry_id] = (self._wall(), self._monotonic())
        try:
            with self._change(durable=True, money=STILL_RETRIEVABLE) as changes:
                return self._accept(changes, entry_id, task_id)
        except JournalError as error:
            self._owed[entry_id] = task_id
            error.task_id = task_id
            raise

    def status(self, entry_id: int, status: str) -> Entry:
        """The network's word on a task that has not ended; the first ``running`` sets ``started_at``."""
        with self._change(money=STILL_RETRIEVABLE) as changes:
            row = self._row(changes, entry_id)
            if row["state"] not in (TaskState.SUBMITTED.value, TaskState.CANCEL_PENDING.value):
                return self._entry(changes, entry_id)
            starts = status == "running" and row["started_at"] is None
            if starts or row["status"] != status:
                times = {"started_at": self._wall()} if starts else {}
                self._update(changes, entry_id, status=clean_text(status), **times)
            return self._entry(changes, entry_id)

    def finished(self, entry_id: int, result: Any) -> Entry:
        """The network has the result; `result` is its raw answer (inlined media are left out of the row).

        A task that this process watched from its submission on counts for `durations`.
        """
        with self._change(money=STILL_RETRIEVABLE) as changes:
            row = self._row(changes, entry_id)
            before = TaskState(row["state"])
            after = self._step(changes, entry_id, Event.FINISHED)
            if after is TaskState.FINISHED:
                self._update(changes, entry_id, result=to_json(result), status="finished", error=None)
                if before is not after:
                    self._update(changes, entry_id, ended_at=self._wall(), worker=None)
                    self._note_duration(changes, entry_id, row["kind"])
            return self._entry(changes, entry_id)

    def kept(
        self,
        entry_id: int,
        files: Iterable[str | os.PathLike[str]],
        *,
        engine: str = "xalora",
        miner: str | None = None,
        device: str | None = None,
    ) -> Entry:
        """The result's files are whole in `results_dir`, see `result_stem`. Makes room for them.

        Raises:
            JournalError: A file is missing or lies elsewhere, or the entry is not FINISHED or KEPT.
        """
        described = self._results.describe(Path(file) for file in files)
        with self._change(money=STILL_RETRIEVABLE) as changes:
            self._step(
                changes,
                entry_id,
                Event.KEEP,
                files=json.dumps(described),
                size=sum(size for _, size in described),
                engine=engine,
                miner=miner,
                device=device,
                worker=None,
            )
            self._touch(changes, entry_id)
            entry = self._entry(changes, entry_id)
        try:
            self.evict()
        except JournalError as error:
            logger.warning("No room could be made among the kept results: %s", error)
        return entry

    def delivered(self, entry_id: int) -> Entry:
        """The result is in its user's hands; from now on its files may be evicted."""
        with self._change(money=STILL_RETRIEVABLE) as changes:
            self._row(changes, entry_id)
            self._update(changes, entry_id, delivered=1)
            return self._entry(changes, entry_id)

    def failed(self, entry_id: int, error: str) -> Entry:
        """The network reports the task as failed."""
        return self._end(entry_id, Event.FAILED, "failed", clean_text(error))

    def canceled(self, entry_id: int) -> Entry:
        """The network reports the task as canceled."""
        return self._end(entry_id, Event.CANCELED, "canceled", None)

    def cancel_pending(self, entry_id: int) -> Entry:
        """The task is to be canceled whoever else waits for it; safely on disk on return.

        A task that has ended stays as it is; one not known to be sent can't be canceled at the network.
        """
        with self._change(durable=True) as changes:
            state = TaskState(self._row(changes, entry_id)["state"])
            if state in (TaskState.SUBMITTED, TaskState.CANCEL_PENDING):
                self._step(changes, entry_id, Event.ASK_CANCEL)
            return self._entry(changes, entry_id)

    def cancel_withdrawn(self, entry_id: int) -> Entry:
        """The cancel is not wanted any more, or the network refused it: the task counts as running again."""
        return self._simple(entry_id, Event.WITHDRAW_CANCEL)

    def expired(self, entry_id: int, error: str) -> Entry:
        """The network no longer has the result: FINISHED -> FAILED."""
        return self._simple(
            entry_id, Event.EXPIRE, money="The task was paid for.", error=clean_text(error), worker=None
        )

    def refetch(self, entry_id: int) -> Entry:
        """The kept files are gone or not wanted; the result is to be downloaded again: KEPT -> FINISHED."""
        return self._simple(entry_id, Event.REFETCH, files="[]", size=0, worker=None)

    def fell_back(self, entry_id: int, *, engine: str, device: str | None = None) -> Entry:
        """A local engine did the work in the network's stead; for the history only."""
        with self._change() as changes:
            self._row(changes, entry_id)
            self._update(changes, entry_id, engine=engine, device=device)
            return self._entry(changes, entry_id)

    # Reading --------------------------------------------------

    def entry(self, entry_id: int) -> Entry:
        """One entry as it stands.

        Raises:
            JournalError: There is none (it was forgotten).
        """
        entry = self.find(entry_id)
        if entry is None:
            raise _no_entry(entry_id)
        return entry

    def find(self, entry_id: int) -> Entry | None:
        """One entry as it stands, None where it was forgotten."""
        found = self._select("WHERE id = ?", (entry_id,))
        return found[0] if found else None

    def by_task_id(self, task_id: str, sequencer_url: str | None = None) -> Entry | None:
        """The latest entry with this task id (of this network)."""
        found = self._select(
            "WHERE task_id = ? AND (? IS NULL OR sequencer_url = ?) ORDER BY id DESC LIMIT 1",
            (task_id, sequencer_url, sequencer_url),
        )
        return found[0] if found else None

    def by_job_id(self, job_id: str) -> Entry | None:
        """The latest entry with this job id."""
        found = self._select("WHERE job_id = ? ORDER BY id DESC LIMIT 1", (job_id,))
        return found[0] if found else None

    def entries(
        self,
        *,
        states: Iterable[TaskState] | None = None,
        text: str | None = None,
        since: int | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Entry]:
        """Entries, the latest first.

        Args:
            states: Only these.
            text: Only those with this text in label, ids, type, workflow, engine, miner or error.
            since: Only those changed after this `version`.
            limit: At most so many.
            offset: Leaving out so many first.
        """
        where, values = _filter(states, text, since)
        return self._select(f"{where} ORDER BY id DESC LIMIT ? OFFSET ?", (*values, _no_limit(limit), offset))

    def count(
        self, *, states: Iterable[TaskState] | None = None, text: str | None = None, since: int | None = None
    ) -> int:
        """How many entries `entries` would list without a limit."""
        where, values = _filter(states, text, since)
        with self._database.read() as connection:
            return int(connection.execute(f"SELECT count(*) FROM entries {where}", values).fetchone()[0])

    def open_entries(self) -> list[Entry]:
        """Entries with something left to do or to decide, the oldest first; the dead's are settled before.

        Delivered results whose files were evicted are not among them.
        """
        with self._change() as changes:
            self._settle(changes)
        where, values = _filter(OPEN, None, None)
        return self._select(f"{where} AND forgotten = 0 ORDER BY id", values)

    def attended(self, entry_id: int) -> int:
        """How many live tickets an entry has: 0 means that nobody looks after it."""
        with self._change() as changes:
            self._settle(changes)
            return self._tickets(changes, entry_id)

    def durations(self, kind: str, limit: int = 20) -> list[float]:
        """Seconds from submission to end of the last watched runs of a kind, the latest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT seconds FROM durations WHERE kind = ? ORDER BY id DESC LIMIT ?", (kind, limit)
            ).fetchall()
        return [row["seconds"] for row in rows]

    def usual(self, kind: str) -> tuple[float, float] | None:
        """The span in seconds that most of the last runs of a kind took; None for fewer than two."""
        return usual_span(self.durations(kind))

    def result_stem(self, entry: Entry) -> Path:
        """Where the entry's files belong, without suffix; for several, append ``-0``, ``-1`` ..."""
        return self._results.stem(entry.id, entry.job_id)

    def version(self) -> int:
        """A number that grows with every change by any process; microseconds, made for polling."""
        with self._database.read() as connection:
            return int(connection.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()[0])

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with the id of every entry this process changes or removes; returns the way out.

        It is called after the change, in the thread that made it, and must return quickly and not raise.
        """
        key = next(_LISTENER_KEYS)
        self._listeners[key] = listener
        return lambda: self._listeners.pop(key, None) and None

    # Forgetting and making room --------------------------------------------------

    def forget(self, entry_id: int) -> bool:
        """Removes an entry and its files; False while somebody looks after it.

        An entry that is not ended is removed too: its ids go to the log, and a task of it runs on unseen.
        """
        with self._change() as changes:
            self._settle(changes)
            row = self._row(changes, entry_id)
            return self._remove(changes, row)

    def forget_ended(self) -> int:
        """Removes all entries that have ended or were given up, with their files; how many those were."""
        with self._change() as changes:
            self._settle(changes)
            where, values = _filter(ENDED, None, None)
            rows = changes.connection.execute(f"SELECT * FROM entries {where}", values).fetchall()
            rows += changes.connection.execute("SELECT * FROM entries WHERE forgotten = 1").fetchall()
            return sum(self._remove(changes, row) for row in rows)

    def evict(self) -> list[int]:
        """Brings the kept results under their limit; the entries that lost their files.

        The least recently used go first. Never those in somebody's hands, and never one that was paid for
        and not yet delivered: it may be the only copy.
        """
        if self._limit is None:
            return []
        evicted: list[int] = []
        with self._change() as changes:
            total = int(
                changes.connection.execute("SELECT total(size) FROM entries WHERE size > 0").fetchone()[0]
            )
            if total <= self._limit:
                return []
            self._settle(changes)
            rows = changes.connection.execute(
                "SELECT id, size, files FROM entries WHERE size > 0 AND delivered = 1 AND state = ?"
                " AND NOT EXISTS (SELECT 1 FROM tickets WHERE entry = entries.id) ORDER BY used",
                (TaskState.KEPT.value,),
            ).fetchall()
            for row in rows:
                if total <= self._limit:
                    break
                if self._results.remove(json.loads(row["files"])):
                    self._update(changes, row["id"], files="[]", size=0)
                    total -= row["size"]
                    evicted.append(row["id"])
        return evicted

    # Transactions --------------------------------------------------

    @contextlib.contextmanager
    def _change(self, *, durable: bool = False, money: str = NOTHING_CHARGED) -> Iterator[_Changes]:
        with self._database.lock:
            with self._database.write(durable=durable, money=money) as connection:
                if self._owner is None:
                    self._owner = owners.Owner(self._owners_dir)
                version = connection.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()[
                    0
                ]
                changes = _Changes(connection, version + 1)
                owed = dict(self._owed)
                for entry_id, task_id in owed.items():
                    self._accept(changes, entry_id, task_id)
                yield changes
                if changes.ids:
                    connection.execute(
                        "UPDATE counters SET value = ? WHERE name = 'version'", (changes.version,)
                    )
            for entry_id in owed:
                self._owed.pop(entry_id, None)
        for entry_id in sorted(changes.ids):
            for listener in list(self._listeners.values()):
                listener(entry_id)

    def _simple(self, entry_id: int, event: Event, *, money: str = STILL_RETRIEVABLE, **values: Any) -> Entry:
        with self._change(money=money) as changes:
            self._step(changes, entry_id, event, **values)
            return self._entry(changes, entry_id)

    def _end(self, entry_id: int, event: Event, status: str, error: str | None) -> Entry:
        with self._change(money=STILL_RETRIEVABLE) as changes:
            before = TaskState(self._row(changes, entry_id)["state"])
            if self._step(changes, entry_id, event) is not before:
                self._update(
                    changes, entry_id, status=status, error=error, ended_at=self._wall(), worker=None
                )
            return self._entry(changes, entry_id)

    def _step(self, changes: _Changes, entry_id: int, event: Event, **values: Any) -> TaskState:
        """Moves an entry by the table of states; `values` are set with the move."""
        row = self._row(changes, entry_id)
        before = TaskState(row["state"])
        try:
            after = next_state(before, event)
        except JournalError as error:
            error.job_id, error.task_id = row["job_id"], row["task_id"]
            raise
        if after is not before or values:
            self._update(changes, entry_id, state=after.value, **values)
        return after

    def _update(self, changes: _Changes, entry_id: int, **values: Any) -> None:
        # A wall clock that was set back must not make a task end before it began.
        times = [name for name in values if name.endswith("_at") and values[name] is not None]
        if times:
            row = self._row(changes, entry_id)
            floor = max(row[name] or 0.0 for name in ("created_at", "sent_at", "submitted_at", "started_at"))
            for name in times:
                values[name] = max(values[name], floor)
        assignments = ", ".join(f"{name} = ?" for name in values)
        changes.connection.execute(
            f"UPDATE entries SET {assignments}, version = ? WHERE id = ?",
            (*values.values(), changes.version, entry_id),
        )
        changes.ids.add(entry_id)

    def _row(self, changes: _Changes, entry_id: int) -> sqlite3.Row:
        row = changes.connection.execute("SELECT * FROM entries WHERE id = ?", (entry_id,)).fetchone()
        if row is None:
            raise _no_entry(entry_id)
        assert isinstance(row, sqlite3.Row)
        return row

    def _entry(self, changes: _Changes, entry_id: int) -> Entry:
        return entry_from_row(self._row(changes, entry_id), self._results.root)

    def _select(self, clause: str, values: Sequence[Any]) -> list[Entry]:
        with self._database.read() as connection:
            rows = connection.execute(f"SELECT * FROM entries {clause}", values).fetchall()
        return [entry_from_row(row, self._results.root) for row in rows]

    # Who looks after what --------------------------------------------------

    def _settle(self, changes: _Changes) -> None:
        """Buries the dead: afterwards every ticket is a live one, and nothing is SENDING without a sender."""
        for (owner,) in changes.connection.execute("SELECT DISTINCT owner FROM tickets").fetchall():
            if not self._is_alive(owner):
                changes.connection.execute("DELETE FROM tickets WHERE owner = ?", (owner,))
        for row in changes.connection.execute(
            "SELECT id, state FROM entries WHERE worker IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM tickets WHERE ticket = entries.worker)"
        ).fetchall():
            if row["state"] == TaskState.SENDING.value and row["id"] not in self._owed:
                self._step(changes, row["id"], Event.LOSE_ANSWER, error=LOST_ANSWER)
            self._update(changes, row["id"], worker=None)

    def _is_alive(self, owner: str) -> bool:
        if self._owner is not None and owner == self._owner.id:
            return True
        if self._owners_dir is None or owner in self._dead:
            return False
        if owners.is_alive(self._owners_dir, owner):
            return True
        self._dead.add(owner)
        return False

    def _tickets(self, changes: _Changes, entry_id: int) -> int:
        count = changes.connection.execute("SELECT count(*) FROM tickets WHERE entry = ?", (entry_id,))
        return int(count.fetchone()[0])

    def _row_of_ticket(self, changes: _Changes, ticket: str) -> sqlite3.Row | None:
        assert self._owner is not None
        found = changes.connection.execute(
            "SELECT entries.* FROM entries JOIN tickets ON tickets.entry = entries.id"
            " WHERE tickets.ticket = ? AND tickets.owner = ?",
            (ticket, self._owner.id),
        ).fetchone()
        return found if isinstance(found, sqlite3.Row) else None

    def _new_ticket(self, changes: _Changes, entry_id: int) -> str:
        assert self._owner is not None
        ticket = secrets.token_hex(8)
        changes.connection.execute("INSERT INTO tickets VALUES (?, ?, ?)", (ticket, entry_id, self._owner.id))
        return ticket

    def _drop_ticket(self, changes: _Changes, ticket: str) -> int:
        row = self._row_of_ticket(changes, ticket)
        if row is None:
            return 0
        changes.connection.execute("DELETE FROM tickets WHERE ticket = ?", (ticket,))
        left = self._tickets(changes, row["id"])
        state = TaskState(row["state"])
        if row["worker"] == ticket:
            if state is TaskState.SENDING:
                self._step(changes, row["id"], Event.LOSE_ANSWER, error="Given up while the create was sent.")
            self._update(changes, row["id"], worker=None)
        if state is TaskState.PREPARED and not left:
            self._step(
                changes,
                row["id"],
                Event.GIVE_UP,
                ended_at=self._wall(),
                error=row["error"] or "Given up before it was sent.",
            )
        if not left:
            # From here on nobody watches the network, so an end seen later says nothing about the duration.
            self._watched.pop(row["id"], None)
        return left

    # Choosing an entry --------------------------------------------------

    def _pick(self, changes: _Changes, work: Work) -> sqlite3.Row | None:
        """The entry that answers `work` best: the cheapest and surest way to its result first."""
        rows = changes.connection.execute(
            "SELECT *, EXISTS (SELECT 1 FROM tickets WHERE entry = entries.id) AS attended"
            " FROM entries WHERE fingerprint = ? AND forgotten = 0 ORDER BY id",
            (work.fingerprint,),
        ).fetchall()
        ranked: list[tuple[int, int, sqlite3.Row]] = []
        for row in rows:
            if not work.seeded and (row["attended"] or row["delivered"]):
                continue
            state = TaskState(row["state"])
            if state is TaskState.KEPT:
                rank = 0 if self._results.intact(json.loads(row["files"])) else 4
            elif state in _RANKS:
                rank = _RANKS[state]
            else:
                continue
            ranked.append((rank, row["id"], row))
        return min(ranked, key=lambda item: item[:2])[2] if ranked else None

    def _take_up(self, changes: _Changes, row: sqlite3.Row, if_unknown: IfUnknown) -> Claim | None:
        entry_id, state = row["id"], TaskState(row["state"])
        if state is TaskState.UNKNOWN:
            if if_unknown == "stop":
                return Claim(action="unknown", entry=self._entry(changes, entry_id), ticket="")
            if if_unknown == "forget":
                self._update(changes, entry_id, forgotten=1)
                return None
            self._step(changes, entry_id, Event.RESEND)
            return self._new_claim(changes, "send", entry_id, as_worker=True)
        if state is TaskState.PREPARED and row["worker"] is None:
            return self._new_claim(changes, "send", entry_id, as_worker=True)
        if state is TaskState.KEPT:
            if self._results.intact(json.loads(row["files"])):
                self._touch(changes, entry_id)
                return self._new_claim(changes, "kept", entry_id)
            self._step(changes, entry_id, Event.REFETCH, files="[]", size=0)
        if state is TaskState.CANCEL_PENDING and not row["attended"]:
            self._step(changes, entry_id, Event.WITHDRAW_CANCEL)
        return self._new_claim(changes, "join", entry_id)

    def _new_claim(
        self, changes: _Changes, action: Action, entry_id: int, *, as_worker: bool = False
    ) -> Claim:
        ticket = self._new_ticket(changes, entry_id)
        if as_worker:
            self._update(changes, entry_id, worker=ticket)
        return Claim(action=action, entry=self._entry(changes, entry_id), ticket=ticket)

    # Rows --------------------------------------------------

    def _insert(self, changes: _Changes, work: Work, job_id: str, state: TaskState) -> int:
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
            "created_at": self._wall(),
            "version": changes.version,
        }
        names = ", ".join(values)
        marks = ", ".join("?" for _ in values)
        cursor = changes.connection.execute(
            f"INSERT INTO entries ({names}) VALUES ({marks})", list(values.values())
        )
        assert cursor.lastrowid is not None
        changes.ids.add(cursor.lastrowid)
        return cursor.lastrowid

    def _accept(self, changes: _Changes, entry_id: int, task_id: str) -> Entry:
        row = self._row(changes, entry_id)
        after = next_state(TaskState(row["state"]), Event.ACCEPTED)
        if row["task_id"] is None:
            # `submitted_at` is when the answer came, even where it could be written only later.
            came_at = self._watched.get(entry_id, (self._wall(), 0.0))[0]
            self._update(
                changes,
                entry_id,
                state=after.value,
                task_id=clean_text(task_id),
                submitted_at=came_at,
                ended_at=None,
                error=None,
                worker=None,
            )
        return self._entry(changes, entry_id)

    def _touch(self, changes: _Changes, entry_id: int) -> None:
        # A counter and not a clock decides which result was used last: clocks are set back.
        changes.connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'used'")
        changes.connection.execute(
            "UPDATE entries SET used = (SELECT value FROM counters WHERE name = 'used') WHERE id = ?",
            (entry_id,),
        )

    def _note_duration(self, changes: _Changes, entry_id: int, kind: str) -> None:
        watched = self._watched.pop(entry_id, None)
        if watched is None:
            return
        wall, monotonic = watched
        seconds = watched_duration(self._wall() - wall, self._monotonic() - monotonic)
        if seconds is None:
            return
        connection = changes.connection
        connection.execute("INSERT INTO durations (kind, seconds) VALUES (?, ?)", (kind, seconds))
        connection.execute(
            "DELETE FROM durations WHERE kind = ? AND id NOT IN"
            " (SELECT id FROM durations WHERE kind = ? ORDER BY id DESC LIMIT ?)",
            (kind, kind, HISTORY_PER_KIND),
        )

    def _remove(self, changes: _Changes, row: sqlite3.Row) -> bool:
        if self._tickets(changes, row["id"]):
            return False
        if TaskState(row["state"]) not in ENDED:
            logger.info(
                "Forgetting entry %s (%s): job %s, task %s",
                row["id"],
                row["state"],
                row["job_id"],
                row["task_id"],
            )
        # Files first: a crash in between leaves a row without files, which mends itself.
        if not self._results.remove(json.loads(row["files"])):
            return False
        self._results.remove_partial(self._results.stem(row["id"], row["job_id"]))
        changes.connection.execute("DELETE FROM entries WHERE id = ?", (row["id"],))
        changes.ids.add(row["id"])
        return True

    # Forks --------------------------------------------------

    def _before_fork(self) -> None:
        self._database.lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self._database.lock.release()

    def _after_fork_in_child(self) -> None:
        """A child is somebody else: it holds none of its parent's tickets and owes none of its ids."""
        if self._owner is not None:
            self._owner.abandon()
            self._owner = None
        self._listeners.clear()
        self._watched.clear()
        self._owed.clear()
        self._database.reopen_after_fork()


def open_or_memory(
    path: str | os.PathLike[str] | None,
    results_dir: str | os.PathLike[str],
    results_limit_bytes: int | None = None,
    *,
    busy_seconds: float = BUSY_SECONDS,
) -> tuple[Journal, str | None]:
    """The journal at `path`, or the best that can be had, with a warning to show the user.

    A broken file is moved aside, never deleted, and a new one begun. Where the file can't be used at all,
    work goes on with a journal in memory.
    """
    try:
        return Journal.open(path, results_dir, results_limit_bytes, busy_seconds=busy_seconds), None
    except CorruptJournalError as error:
        problem: JournalError = error
    except JournalError as error:
        return Journal.open(None, results_dir, results_limit_bytes), _memory_warning(error)
    assert path is not None
    try:
        aside = _move_aside(Path(path), busy_seconds)
        journal = Journal.open(path, results_dir, results_limit_bytes, busy_seconds=busy_seconds)
    except JournalError as error:
        return Journal.open(None, results_dir, results_limit_bytes), _memory_warning(error)
    where = f"It was moved to {aside}" if aside else "Another process has moved it aside"
    return journal, (
        f"{problem.what}. {where} and a new one was begun. Tasks that were open in it stay retrievable by "
        "their task ids, which the log holds; queued again, they would be sent and charged again."
    )


def _move_aside(path: Path, busy_seconds: float) -> Path | None:
    """Moves a broken journal and its log away; None where another process was faster."""
    guard = owners.Guard(path.with_name(f"{path.name}.moving"), busy_seconds)
    with guard:
        try:
            Database(path, busy_seconds=busy_seconds).close()
        except CorruptJournalError:
            pass
        else:
            return None
        aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        return aside


def _memory_warning(error: JournalError) -> str:
    return (
        f"{error} Work goes on without it: tasks of this process are remembered until it ends, their ids are "
        "in the log, and a crash may lose sight of them."
    )


def _no_entry(entry_id: int) -> JournalError:
    return JournalError(
        f"The journal has no entry {entry_id}",
        money="Forgetting an entry charges nothing and refunds nothing.",
        next_step="List the tasks with `xalora tasks`.",
    )


def _no_limit(limit: int | None) -> int:
    return -1 if limit is None else limit


_TEXT_COLUMNS = ("label", "job_id", "task_id", "task_type", "workflow_id", "engine", "miner", "error")


def _filter(
    states: Iterable[TaskState] | None, text: str | None, since: int | None
) -> tuple[str, tuple[Any, ...]]:
    clauses = ["1"]
    values: list[Any] = []
    if states is not None:
        names = [state.value for state in states]
        clauses.append(f"state IN ({', '.join('?' for _ in names)})")
        values.extend(names)
    if text:
        pattern = "%" + re.sub(r"([\\%_])", r"\\\1", clean_text(text)) + "%"
        clauses.append("(" + " OR ".join(f"{name} LIKE ? ESCAPE '\\'" for name in _TEXT_COLUMNS) + ")")
        values.extend([pattern] * len(_TEXT_COLUMNS))
    if since is not None:
        clauses.append("version > ?")
        values.append(since)
    return "WHERE " + " AND ".join(clauses), tuple(values)


def _before_fork() -> None:
    for journal in list(_OPEN_JOURNALS):
        journal._before_fork()
        _FORKING.append(journal)


def _after_fork_in_parent() -> None:
    while _FORKING:
        _FORKING.pop()._after_fork_in_parent()


def _after_fork_in_child() -> None:
    while _FORKING:
        _FORKING.pop()._after_fork_in_child()


_FORKING: list[Journal] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
