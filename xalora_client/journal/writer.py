"""The one writer of a journal in this process: a thread that owns the writing connection.

Two kinds of changes come to it. A *request* is awaited, with the caller's own patience (a claim, the note
before a create leaves, a removal). A *note* is written behind: notes are merged by record, and no caller
waits for them, except for a task id until it is safe: durable in the journal, or in this process's own file
of owed notes. A held lock delays notes and costs nobody anything else.

One file, since all of it changes the same pending notes under the same lock.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Generic, TypeVar

from ..errors import NOTHING_CHARGED, JournalError, XaloraError
from . import process_locks
from .database import BUSY_SECONDS, BusyJournalError, LostJournalError, Reader, explain, log_is_cut, log_state
from .process_locks import Owner
from .recovery import connect_or_renew
from .results_folder import KeptResults
from .rules import Event
from .schema import migrate
from .transaction import AnothersIdError, Transaction, check_not_anothers

logger = logging.getLogger("xalora_client.journal")

T = TypeVar("T")

LAG_SECONDS = 0.5
"""How long a note may wait for others, so that they are written together."""

LAST_LAG_SECONDS = 0.02
"""The same for what comes last: that a result is delivered, and that a lease is dropped."""

STATUS_LAG_SECONDS = 30.0
"""The same for a status, which mostly goes along with another note. This process reads it at once."""

OWE_AFTER_SECONDS = 0.5
"""How long a task id waits for the journal before it is made safe in the file of owed notes."""

RETRY_SECONDS = 1.0
"""Pause after a failure that is not a held lock, such as a full disk."""

_LAGS = {
    Event.STATUS: STATUS_LAG_SECONDS,
    Event.DELIVERED: LAST_LAG_SECONDS,
    # Whoever asks for the task now joins a cancel, and gets a task of their own once it has ended.
    Event.CANCEL_REQUESTED: LAST_LAG_SECONDS,
    # Nothing follows these.
    Event.NOT_SENT: 0.0,
    Event.ANSWER_LOST: 0.0,
    Event.FAILED: 0.0,
    Event.CANCELED: 0.0,
    Event.NOT_KNOWN: 0.0,
    Event.EXPIRED: 0.0,
}

Listener = Callable[[int], None]

_Log = tuple[tuple[int, int] | None, tuple[int, int] | None]


@dataclass
class _Request(Generic[T]):
    change: Callable[[Transaction], T]
    patience_ends: float
    settles: bool
    future: Future[T] = field(default_factory=Future)


@dataclass
class _Note:
    values: Mapping[str, Any]
    since: float = field(default_factory=monotonic)
    future: Future[None] | None = None


@dataclass
class _Due:
    """What one transaction writes."""

    requests: list[_Request[Any]]
    notes: dict[int, dict[Event, _Note]]
    dropped: set[str]
    flushes: list[Future[None]]
    is_last: bool


class Writer:
    """Applies changes in the order they come, together where several wait.

    Args:
        path: The journal's file.
        results: Where kept files lie.
        readers: Read the journal.
        wall_clock: Unix seconds.

    Attributes:
        refusal: Why no new task may be sent, None where it may; see `connect_or_renew`.
    """

    def __init__(
        self, path: Path, results: KeptResults, readers: Sequence[Reader], wall_clock: Callable[[], float]
    ) -> None:
        self.path = path
        self.owners_dir = path.with_name(f"{path.name}.owners")
        self.listeners: dict[int, Listener] = {}
        self.results = results
        self.is_closed = False
        self.refusal: JournalError | None = None
        self._readers = readers
        self._wall = wall_clock
        self._start_empty()

    def _start_empty(self) -> None:
        self._wake = threading.Condition()
        # Held while the connection is in use: a fork must not happen amid a transaction.
        self._in_use = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        # Device and inode of the file at the first connection, of its log and the log's index at this one.
        self._file: tuple[int, int] | None = None
        self._log: _Log = (None, None)
        # What the last change left: the log, and when the file was written or opened to be.
        self._log_state = (0, b"")
        self._touched = 0
        self._owner: Owner | None = None
        self._requests: list[_Request[Any]] = []
        self._notes: dict[int, dict[Event, _Note]] = {}
        self._dropped: set[str] = set()
        # Those that may still be on disk; see `left`.
        self._left: set[str] = set()
        self._flushes: list[Future[None]] = []
        self._writing: _Due | None = None
        self._due_at = float("inf")
        self._stop_by: float | None = None
        self._then: Callable[[], None] = lambda: None
        self._owes = False
        self._owed_leases: set[str] = set()
        self._has_ended = False

    # --- what callers ask ---------------------------------------------------------------------------------

    def request(
        self,
        change: Callable[[Transaction], T],
        *,
        patience: float,
        settles: bool = False,
        within: float = 0.0,
    ) -> Future[T]:
        """Make a change; the future has its value once it is safe on disk, or its error.

        Cancel the future to withdraw a change that has not begun.

        Args:
            patience: Seconds to wait for another program that holds the journal.
            settles: Drop the leases of dead owners first, so that every lease is a living owner's.
            within: Seconds for which it may wait for other changes, to be written with them.
        """
        request = _Request(change, monotonic() + patience, settles)
        with self._wake:
            if self.is_closed:
                request.future.set_exception(JournalError("The journal is closed"))
                return request.future
            self._requests.append(request)
            self._write_within(within)
        return request.future

    def note(
        self, record_id: int, event: Event, values: Mapping[str, Any], *, durable: bool = False
    ) -> Future[None] | None:
        """Have an event written; never waits.

        The future of a durable one is done when it is safe on disk, in the journal or beside it.
        """
        note = _Note(values, future=Future() if durable else None)
        with self._wake:
            if self.is_closed:
                said = dict(values) if durable else ""
                logger.warning(
                    "The journal is closed; record %d is not told: %s %s", record_id, event.value, said
                )
                if note.future is not None:
                    note.future.set_result(None)
                return note.future
            events = self._notes.setdefault(record_id, {})
            earlier = events.pop(event, None)
            if earlier is not None:
                note.values = {**earlier.values, **values}
            events[event] = note
            self._write_within(0.0 if durable else _LAGS.get(event, LAG_SECONDS))
        return note.future

    def drop(self, lease: str) -> None:
        """Drop a lease. Made for finalizers and ``finally``: no disk, no waiting."""
        with self._wake:
            if not self.is_closed:
                self._dropped.add(lease)
                self._left.add(lease)
                self._write_within(LAST_LAG_SECONDS)

    def flush(self, timeout: float) -> bool:
        """Have all notes written now; False where that took longer than `timeout` seconds."""
        if threading.current_thread() is self._thread:
            return True
        try:
            self.flushed().result(timeout)
        except (FutureTimeoutError, JournalError):
            return False
        return True

    def flushed(self) -> Future[None]:
        """The same without waiting: a future that is done when they are on disk."""
        done: Future[None] = Future()
        with self._wake:
            if self._notes or self._dropped:
                self._flushes.append(done)
                self._write_within(0.0)
            elif self._writing is not None:
                # What it writes is not on disk yet.
                self._writing.flushes.append(done)
            else:
                done.set_result(None)
        return done

    def close(self, timeout: float) -> None:
        """Write for at most `timeout` seconds; what could not be written is owed to the next opening."""
        thread = self._thread
        self.end(timeout)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout + 0.2)

    def end(self, timeout: float, then: Callable[[], None] = lambda: None) -> None:
        """The same without waiting, made for finalizers; `then` is called at the end."""
        with self._wake:
            if self.is_closed:
                return
            self.is_closed = True
            self._stop_by = monotonic() + timeout
            self._then = then
            self._due_at = 0.0
            self._wake.notify_all()
            if self._thread is not None:
                return
        then()

    def left(self) -> frozenset[str]:
        """Leases that were dropped here, though a held lock may keep them on disk."""
        with self._wake:
            return frozenset(self._left)

    @property
    def owner_id(self) -> str | None:
        """This process's name in the table of leases, None before its first change."""
        return None if self._owner is None else self._owner.id

    def is_alive(self, owner_id: str) -> bool:
        """Whether an owner of leases is alive; asked without a transaction."""
        return owner_id == self.owner_id or process_locks.is_alive(self.owners_dir, owner_id)

    def held_by(self, owner_id: str) -> Callable[[str], bool]:
        """Whether a lease of this owner is held: the owner lives, and has not said that it dropped it."""
        if owner_id == self.owner_id:
            return lambda lease: lease not in self.left()
        if not self.is_alive(owner_id):
            return lambda lease: False
        dropped = {note.get("lease") for note in process_locks.owed_notes(self.owners_dir, owner_id)}
        return lambda lease: lease not in dropped

    def reserve(self) -> None:
        """Have room on disk for task ids that the journal can't take. On the writing thread only.

        Raises:
            OSError: There is none.
        """
        assert self._owner is not None
        self._owner.reserve()

    def _write_within(self, seconds: float) -> None:
        due_at = monotonic() + seconds
        if due_at < self._due_at:
            self._due_at = due_at
            self._begin()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_write_behind, args=(self,), name="xalora-journal", daemon=True
            )
            self._thread.start()
        self._wake.notify_all()

    # --- the thread ---------------------------------------------------------------------------------------

    def work(self) -> bool:
        """Wait until something is due, and write it; False when the thread is to end."""
        with self._wake:
            while (left := self._due_at - monotonic()) > 0:
                self._wake.wait(None if left == float("inf") else left)
            has_work = bool(self._requests or self._notes or self._dropped)
            if self.is_closed and not has_work and self._owner is None:
                self._end()
                return False
            self._due_at = float("inf")
        try:
            with self._in_use:
                self._write()
        except BusyJournalError as busy:
            self._wait_on(busy)
        except JournalError as error:
            self._fail(error)
        if self.is_closed and self._stop_by is not None and monotonic() >= self._stop_by:
            self._give_up()
            return False
        return not self._has_ended

    def _write(self) -> None:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self.path) from error
        with self._wake:
            due = _Due(self._requests, self._notes, self._dropped, self._flushes, self.is_closed)
            self._requests, self._notes, self._dropped, self._flushes = [], {}, set(), []
            self._writing = due
        due.requests = [each for each in due.requests if each.future.set_running_or_notify_cancel()]
        try:
            change = self._transaction(connection)
            dead = self._settle(change) if any(request.settles for request in due.requests) else set()
            answers = self._make(change, due)
            change.conclude()
            connection.execute("COMMIT")
            self._note_files()
        except Exception as error:
            # SQLite has rolled back by itself after some errors, a full disk among them.
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            told = explain(error, self.path)
            self._take_back(due, told)
            raise told from error
        with self._wake:
            self._writing = None
            self._left -= due.dropped
        # Others may write again.
        self.results.remove_all(change.removed)
        for owner_id in dead:
            process_locks.remove_dead(self.owners_dir, owner_id)
        if self._owes and self._owner is not None:
            self._owner.owe_nothing()
            self._owes = False
            self._owed_leases.clear()
        for answer in answers:
            answer()
        for flushed in due.flushes:
            _set_result(flushed, None)
        self._tell(change.changed)
        if due.is_last:
            self._end()

    def _make(self, change: Transaction, due: _Due) -> list[Callable[[], None]]:
        """Make all changes that are due, notes first; returns what tells their futures."""
        answers = [
            self._attempt(change, _applied(record_id, event, note), note.future)
            for record_id, events in due.notes.items()
            for event, note in events.items()
        ]
        for lease in due.dropped:
            change.drop(lease)
        answers += [self._attempt(change, request.change, request.future) for request in due.requests]
        if due.is_last:
            change.drop_own()
        return answers

    def _attempt(
        self, change: Transaction, do: Callable[[Transaction], T], future: Future[T] | None
    ) -> Callable[[], None]:
        """Make one change of several; what it raises undoes it alone. Returns what tells its future."""
        connection, removed = change.connection, len(change.removed)
        connection.execute("SAVEPOINT one")
        try:
            value = do(change)
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) or not connection.in_transaction:
                # Not this change's fault, a full disk for example: all of them wait.
                raise
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            del change.removed[removed:]
            told = error if isinstance(error, XaloraError) else explain(error, self.path)
            if future is None:
                logger.warning("%s", told, exc_info=None if told is error else error)
                return lambda: None
            return lambda: _set_exception(future, told)
        connection.execute("RELEASE one")
        return lambda: None if future is None else _set_result(future, value)

    def _transaction(self, connection: sqlite3.Connection) -> Transaction:
        if self._owner is None:
            self._owner = Owner(self.owners_dir)
        return Transaction(connection, self._owner.id, self._wall(), self.results)

    def _settle(self, change: Transaction) -> set[str]:
        """Write what dead owners owed, and drop their leases."""
        known = process_locks.all_owners(self.owners_dir) | change.owners()
        dead = {owner_id for owner_id in known if not self.is_alive(owner_id)}
        self._write_owed(change, dead)
        change.drop_dead(dead)
        return dead

    def _write_owed(self, change: Transaction, owners: Iterable[str]) -> None:
        for owner_id in owners:
            for note in process_locks.owed_notes(self.owners_dir, owner_id):
                if "lease" in note:
                    continue
                # A note that does not fit the journal must not keep others from it.
                self._attempt(change, _owed(note), None)()

    def _complete(self, connection: sqlite3.Connection) -> None:
        """Write into a renewed journal what is owed, by living processes too: to them it is a lost one."""
        change = Transaction(connection, "", self._wall(), self.results)
        self._write_owed(change, sorted(process_locks.all_owners(self.owners_dir)))
        change.conclude()

    def _connected(self) -> sqlite3.Connection:
        self._check_files()
        if self._connection is None:
            connection, refusal = connect_or_renew(self.path, self._complete)
            try:
                connection.execute("BEGIN IMMEDIATE")
                migrate(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            self._connection, self._log = connection, _log(self.path)
            self._note_files()
            self.refusal = self.refusal or refusal
            for reader in self._readers:
                reader.is_stale = True
            if self._file is None:
                self._file = _identity(self.path)
            self._check_files()
        return self._connection

    def _check_files(self) -> None:
        if self._file is not None and _identity(self.path) != self._file:
            raise self._lost()
        if self._connection is not None and (_log(self.path) != self._log or self._has_cut_log()):
            raise self._lost()

    def _note_files(self) -> None:
        self._log_state, self._touched = log_state(self.path), _touched(self.path)

    def _has_cut_log(self) -> bool:
        assert self._connection is not None
        return log_is_cut(self._connection, self._log_state, log_state(self.path))

    def _lost(self) -> LostJournalError:
        return LostJournalError(
            f"The journal {self.path} or its log was cut, removed or replaced while it was in use",
            money=NOTHING_CHARGED,
            next_step="Restart this program to go on.",
        )

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        with contextlib.suppress(OSError):
            is_gone = _log(self.path) != self._log
            if _touched(self.path) != self._touched if is_gone else self._has_cut_log():
                # Else SQLite moves the log, which is cut or of before others wrote, into the file.
                self._connection.interrupt()
        self._connection.close()
        self._connection = None

    # --- trouble ------------------------------------------------------------------------------------------

    def _wait_on(self, busy: BusyJournalError) -> None:
        """Another program holds the journal: end the waits whose patience is over, and try again."""
        now = monotonic()
        with self._wake:
            over = [request for request in self._requests if request.patience_ends <= now]
            self._requests = [
                request
                for request in self._requests
                if request.patience_ends > now and not request.future.cancelled()
            ]
            # SQLite has waited already, but not where the lock is exclusive.
            self._due_at = now + BUSY_SECONDS / 2
        for request in over:
            if request.future.set_running_or_notify_cancel():
                _set_exception(request.future, busy)
        self._owe_durable(now - OWE_AFTER_SECONDS)
        self._owe_dropped()

    def _fail(self, error: JournalError) -> None:
        """The journal can't be written now: requests end, notes wait for the cause to go."""
        if isinstance(error, LostJournalError):
            self._abandon_notes(error)
        with self._wake:
            requests, self._requests = self._requests, []
            flushes, self._flushes = self._flushes, []
            self._due_at = monotonic() + RETRY_SECONDS if self._notes or self._dropped else float("inf")
            if self.is_closed:
                self._due_at = 0.0
        for request in requests:
            if request.future.set_running_or_notify_cancel():
                _set_exception(request.future, error)
        for flushed in flushes:
            _set_exception(flushed, error)
        self._owe_durable(monotonic())
        if self.is_closed:
            self._stop_by = monotonic()

    def _abandon_notes(self, error: LostJournalError) -> None:
        """Notes about records of a file that is gone: the log has them, another file must not."""
        with self._wake:
            notes, self._notes = self._notes, {}
            self._dropped, self._left = set(), set()
        if self._owes and self._owner is not None:
            self._owner.owe_nothing()
        for record_id, events in notes.items():
            for event, note in events.items():
                logger.warning(
                    "%s; not noted: record %d %s %s", error, record_id, event.value, dict(note.values)
                )
                if note.future is not None:
                    _set_result(note.future, None)

    def _owe_dropped(self) -> None:
        """Let other processes see, while the lock is held, which leases are no longer meant."""
        with self._wake:
            dropped = self._dropped - self._owed_leases
        if dropped and self._owe({"lease": lease} for lease in sorted(dropped)) is None:
            self._owed_leases |= dropped

    def _owe_durable(self, noted_before: float) -> None:
        """Make task ids safe in this process's own file while the journal can't take them."""
        with self._wake:
            owed = [
                (record_id, event, note)
                for record_id, events in self._notes.items()
                for event, note in events.items()
                if note.future is not None and not note.future.done() and note.since <= noted_before
            ]
        if not owed:
            return
        error = self._owe(_as_owed(record_id, event, note) for record_id, event, note in owed)
        for record_id, event, note in owed:
            assert note.future is not None
            if error is not None:
                # It stays in memory and is tried again; until then the log has it.
                logger.warning("Not on disk yet: record %d %s %s", record_id, event.value, dict(note.values))
            try:
                self._check_not_anothers(record_id, note.values["task_id"])
            except AnothersIdError as anothers:
                _set_exception(note.future, anothers)
            except JournalError as unread:
                # It is checked when it is written.
                logger.warning("%s", unread)
            _set_result(note.future, None)

    def _check_not_anothers(self, record_id: int, task_id: str) -> None:
        """Check a task id that can't be written yet: the network may have given it to another task.

        Raises:
            AnothersIdError: It did.
            JournalError: The journal can't be read at once.
        """

        def check(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT * FROM entries WHERE id = ?", (record_id,)).fetchone()
            if row is not None:
                check_not_anothers(connection, row, task_id)

        self._readers[0].read(check, 0.0)
        with self._wake:
            others = [events for other, events in self._notes.items() if other != record_id]
        noted = [events[Event.ACCEPTED].values["task_id"] for events in others if Event.ACCEPTED in events]
        if task_id in noted:
            raise AnothersIdError(f"The network answered with the id of another task, {task_id}")

    def _owe(self, notes: Iterator[Mapping[str, Any]]) -> OSError | None:
        try:
            if self._owner is None:
                self._owner = Owner(self.owners_dir)
            self._owes = True
            self._owner.owe(notes)
        except OSError as error:
            return error
        return None

    def _take_back(self, due: _Due, error: JournalError) -> None:
        """Nothing was written: requests end, notes wait for the next time, older ones first."""
        for request in due.requests:
            _set_exception(request.future, error)
        with self._wake:
            self._writing = None
            for record_id, events in self._notes.items():
                older = due.notes.setdefault(record_id, {})
                for event, note in events.items():
                    older.pop(event, None)
                    older[event] = note
            self._notes = due.notes
            self._dropped |= due.dropped
            self._flushes += due.flushes

    def _give_up(self) -> None:
        """The time to close is over: owe what is left."""
        with self._wake:
            notes, self._notes = self._notes, {}
            requests, self._requests = self._requests, []
            flushes, self._flushes = self._flushes, []
        left = [
            _as_owed(record_id, event, note)
            for record_id, events in notes.items()
            for event, note in events.items()
        ]
        if left and (error := self._owe(iter(left))) is not None:
            logger.warning("Notes of %d tasks could not be written: %s", len(notes), error)
        for events in notes.values():
            for note in events.values():
                if note.future is not None:
                    _set_result(note.future, None)
        for request in requests:
            if request.future.set_running_or_notify_cancel():
                _set_exception(request.future, JournalError("The journal was closed"))
        for flushed in flushes:
            _set_exception(flushed, JournalError("The journal was closed"))
        self._end()

    def _end(self) -> None:
        self._has_ended = True
        self._disconnect()
        if self._owner is not None:
            self._owner.release()
            self._owner = None
        self._then()

    def _tell(self, changed: set[int]) -> None:
        for record_id in sorted(changed):
            for listener in list(self.listeners.values()):
                try:
                    listener(record_id)
                except Exception:
                    # Somebody's display must not stand between a task and its journal.
                    logger.exception("A listener of the journal failed")

    # --- forks (see `forks.ForkAware`) --------------------------------------------------------------------

    def before_fork(self) -> None:
        """Keep the connection out of the fork: a child would believe in locks it does not hold."""
        self._in_use.acquire()
        self._wake.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        self._wake.release()
        self._in_use.release()

    def after_fork_in_child(self) -> None:
        """A child is another process: it holds none of its parent's leases and owes none of its notes."""
        if self._owner is not None:
            self._owner.abandon()
        self.listeners.clear()
        self._start_empty()


def _write_behind(writer: Writer) -> None:
    while writer.work():
        pass


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _log(path: Path) -> _Log:
    return _identity(path.with_name(f"{path.name}-wal")), _identity(path.with_name(f"{path.name}-shm"))


def _touched(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _applied(record_id: int, event: Event, note: _Note) -> Callable[[Transaction], None]:
    return lambda change: change.apply(record_id, event, note.values)


def _as_owed(record_id: int, event: Event, note: _Note) -> dict[str, Any]:
    return {"record": record_id, "event": event.value, "values": note.values}


def _owed(note: Mapping[str, Any]) -> Callable[[Transaction], None]:
    return lambda change: change.apply(int(note["record"]), Event(note["event"]), note["values"])


def _set_result(future: Future[T], value: T) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_result(value)


def _set_exception(future: Future[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
