"""The journal: every task from before it is paid for until its result is in the user's hands.

A long file, since it has all that others may ask of the journal; a quarter of it is what that promises.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from ..concurrency import DaemonThreads
from ..errors import NOTHING_CHARGED, JournalError
from ..polling.durations import HISTORY_LENGTH, PastRun
from ..prices import DailyLimit
from . import forks
from .claiming import answering, decide_claim, has_files
from .database import OldJournalError, Reader, explained
from .queries import IS_OPEN, Which, where
from .records import Claim, ClaimOptions, Folder, Record, Row, Work, record_from_row
from .results_folder import STALE_SECONDS, KeptResults
from .rules import Event
from .transaction import Transaction, kept_files
from .writer import LAG_SECONDS, Listener, Writer

logger = logging.getLogger("xalora_client.journal")

PATIENCE_SECONDS = 30.0
"""How long a journal that another program holds is waited for."""

CLOSING_SECONDS = 1.5
SETTLE_SECONDS = 0.2
"""How long a reading waits for this process's own notes to be written."""

READING_SECONDS = 5.0
"""How long a reading waits while another program keeps readers out, as it opens the journal for example."""

_EVICTIONS = DaemonThreads("xalora-evictions", 1)
"""Looks for partial downloads: a disk that hangs must hold up neither the journal nor its readers."""

LOOK_REST, LONGEST_REST = 50, 10.0
"""The next listing of the results' folder waits so many times as long as the last one took, at most so many
seconds: with thousands of results a listing is slow, and slows other threads."""

JOURNAL_FILE = "journal.sqlite3"


class Journal:
    """A journal of tasks, shared by threads and processes; making one touches no disk.

    Changes that must be on disk before the caller goes on give a `concurrent.futures.Future`; all else is a
    `note`, which never waits (see `Writer`). Readings never wait for another program's write lock.

    Interest in a record is a *lease* (see `Claim`). Of the lease holders, at most one is the *worker*, who
    alone sends the task.

    Attributes:
        results: The folder of kept results.

    Args:
        path: The file; None for a journal in a temporary folder, with its results, that lives as long as this
            object.
        results_dir: Folder of the kept results.
        results_limit_bytes: Size limit of the kept results, None for no limit; may be set at any time.
            So may the attribute ``daily_limit``, which no new task exceeds.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        results_dir: str | os.PathLike[str] | None = None,
        results_limit_bytes: int | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        folder: str | None = None
        if path is None:
            folder = tempfile.mkdtemp(prefix="xalora-")
            path, results_dir = Path(folder, JOURNAL_FILE), results_dir or Path(folder, "results")
        self.path = Path(path).absolute()
        self.results_limit_bytes = results_limit_bytes
        self.daily_limit = DailyLimit()
        self._wall = wall_clock
        self.results = KeptResults(Path(results_dir or self.path.with_name("results")).absolute())
        self._reader = Reader(self.path)
        # What windows show does not queue behind the readings of hundreds of tasks.
        self._windows_reader = Reader(self.path)
        self._readers = (self._reader, self._windows_reader)
        self._writer = Writer(self.path, self.results, self._readers, wall_clock)
        self._listener_keys = itertools.count()
        self._evicting: Future[None] | None = None
        self._look_again_at = 0.0
        self._as_written = threading.local()
        self._folder, self._made_by = folder, os.getpid()
        self._dropping = weakref.finalize(self, _drop, self._writer, self._readers, folder, os.getpid())
        # At the program's end the notes are written before it ends; see `_close_all`.
        self._dropping.atexit = False
        _in_use.add(self)
        forks.register(self._writer)
        for reader in self._readers:
            forks.register(reader)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None,
        results_dir: str | os.PathLike[str] | None = None,
        results_limit_bytes: int | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
        patience: float = PATIENCE_SECONDS,
    ) -> Journal:
        """A journal that has been written once, so that a file that can't be used is noticed here. Blocking.

        Raises:
            JournalError: It can't be read or written, another program holds it for more than `patience`
                seconds, or a newer version wrote it.
        """
        journal = cls(path, results_dir, results_limit_bytes, wall_clock=wall_clock)
        try:
            journal._ensure_usable(patience)
        except BaseException:
            journal.close()
            raise
        return journal

    def _ensure_usable(self, patience: float = PATIENCE_SECONDS) -> None:
        """Write once, with what dead processes owed. Blocking.

        Raises:
            JournalError: As for `open`.
        """
        self._request(lambda change: None, patience=patience, settles=True).result()

    def settle(self, patience: float) -> None:
        """The same where it can be done within `patience` seconds: leases of dead processes are dropped."""
        with contextlib.suppress(JournalError):
            self._ensure_usable(patience)

    def close(self) -> None:
        """Write what is noted, for at most 1.5 s, drop all leases and close the file; twice is harmless."""
        self._dropping.detach()
        _close(self._readers)
        self._writer.close(CLOSING_SECONDS)
        _clean_up(self._readers, self._folder, self._made_by)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- changes that are awaited -------------------------------------------------------------------------

    def claim(
        self,
        work: Work,
        options: ClaimOptions | None = None,
        *,
        job_id: str,
        folder: Folder | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Future[Claim]:
        """Decide in one transaction what to do about a task; see `Claim` and `rules.choose`.

        Cancelled in time, it leaves nothing behind. A caller that can't tell drops the lease of its claim.

        Args:
            job_id: The job id to use if a new record is made; an older record keeps its own.
            folder: What `look` said. Without, kept files are taken to be there, and to have room.

        Raises (in the future):
            JournalError: It can't be written, or there is no place for a result. Nothing may be sent then.
            DailyLimitError: A new task would be over :attr:`daily_limit`.
        """
        how, seen = options or ClaimOptions(), folder or Folder()

        def decide(change: Transaction) -> Claim:
            able = replace(seen, refusal=self._writer.refusal or seen.refusal)
            return decide_claim(change, work, how, job_id, able, self.daily_limit)

        return self._request(decide, patience=patience, settles=True)

    def look(self, work: Work) -> Folder:
        """What a claim of this task has to know of the folder of results.

        Blocking. Looked at before the claim and not within: a disk that hangs must not hold up the journal.
        """
        return Folder(self.results.refusal(), self._gone(work))

    def _gone(self, work: Work) -> frozenset[str]:
        query = "SELECT files FROM entries WHERE fingerprint = ? AND files <> '[]'"
        try:
            rows = self.read(query, (work.fingerprint,), patience=0.0)
        except JournalError:
            # Whoever gives files out looks at them again.
            return frozenset()
        return frozenset(row["files"] for row in rows if not self.results.are_there(kept_files(row)))

    def hold(self, record_id: int, *, patience: float = PATIENCE_SECONDS) -> Future[str]:
        """A lease on a record: its files stay, and others' cancels don't reach its task."""

        def lease(change: Transaction) -> str:
            change.row(record_id)
            change.touch(record_id)
            return change.new_lease(record_id)

        return self._request(lease, patience=patience)

    def sending(self, record_id: int, *, patience: float = PATIENCE_SECONDS) -> Future[None]:
        """Note that the create leaves next.

        Raises (in the future):
            JournalError: It can't be written, or the record is not PREPARED, or not this process's to send.
                Then send nothing.
        """

        def send(change: Transaction) -> None:
            row = change.row(record_id)
            if not change.is_own(row["worker"]):
                raise JournalError(
                    f"Record {record_id} of the journal is not this process's to send",
                    job_id=row["job_id"],
                    next_step="Run the task again; it joins the process that sends it.",
                )
            change.apply(record_id, Event.SEND, {})
            # The answer, which costs money, must find room on a disk that is full by then.
            with explained(self.path, NOTHING_CHARGED):
                self._writer.reserve()

        return self._request(send, patience=patience)

    def accepted(self, record_id: int, task_id: str) -> Future[None]:
        """Note the task id that the network answered.

        The future is done when it is safe on disk: in the journal, or beside it while that can't be written.

        Raises (in the future):
            AnothersIdError: The network has given the id to another task.
        """
        values = {"task_id": task_id, "at": self._wall()}
        noted = self._writer.note(record_id, Event.ACCEPTED, values, durable=True)
        assert noted is not None
        return noted

    def forget(self, record_ids: Collection[int] | None = None) -> Future[int]:
        """Remove records and their files, except those with a lease; the number of those removed.

        A record that has not ended is removed too: its ids go to the log, and its task runs on unseen.

        Args:
            record_ids: Which ones; None for all that have ended or were given up.
        """

        def remove(change: Transaction) -> int:
            if record_ids is None:
                rows = change.connection.execute(f"SELECT * FROM entries WHERE NOT {IS_OPEN}").fetchall()
            else:
                rows = [row for row in map(change.find, record_ids) if row is not None]
            removed = 0
            for row in rows:
                if not change.leases(row["id"]):
                    _log_if_open(row)
                    change.remove(row)
                    removed += 1
            return removed

        return self._request(remove, patience=PATIENCE_SECONDS, settles=True)

    def release_files(self, record_ids: Collection[int]) -> Future[None]:
        """Remove the kept files of results that were delivered and have no lease; the records stay."""

        def release(change: Transaction) -> None:
            for record_id in record_ids:
                row = change.find(record_id)
                if row is None or not row["delivered"] or not row["size"] or change.leases(record_id):
                    continue
                if self.results.remove(kept_files(row)):
                    change.update(record_id, files="[]", size=0)

        return self._request(release, patience=PATIENCE_SECONDS, settles=True)

    # --- notes --------------------------------------------------------------------------------------------

    def note(self, record_id: int | None, event: Event, **values: Any) -> None:
        """Have what happened to a record written; never waits, never raises. None: there is no record."""
        if record_id is not None:
            self._writer.note(record_id, event, values)
            if event is Event.KEPT:
                self.evict()

    def leave(self, lease: str) -> None:
        """Drop a lease; never waits. Twice is harmless.

        A worker that leaves while SENDING leaves the record UNKNOWN. The last one that leaves a PREPARED
        record leaves it NOT_SENT, or UNKNOWN as it was before it was to be sent again.
        """
        if lease:
            self._writer.drop(lease)

    def flushed(self) -> Future[None]:
        """Write all notes now; the future is done when they are on disk."""
        return self._writer.flushed()

    # --- readings -----------------------------------------------------------------------------------------

    def find(
        self,
        record_id: int | None = None,
        *,
        task_id: str | None = None,
        job_id: str | None = None,
        sequencer_url: str | None = None,
    ) -> Record | None:
        """The record with this id, or the latest with this task id or job id; None where there is none.

        Args:
            sequencer_url: Only one of this network.
        """
        ids = {"id": record_id, "task_id": task_id, "job_id": job_id, "sequencer_url": sequencer_url}
        given = {name: value for name, value in ids.items() if value is not None}
        clause = " AND ".join(f"{name} = ?" for name in given)
        return next(iter(self._select(f"WHERE {clause} ORDER BY id DESC LIMIT 1", [*given.values()])), None)

    def records(self, *, limit: int | None = None, offset: int = 0, **which: Unpack[Which]) -> list[Record]:
        """Records, the latest first.

        Args:
            limit: At most so many.
            offset: Leaving out so many first.
            **which: See :class:`.Which`; all without.
        """
        clause, values = where(**which)
        count = -1 if limit is None else limit
        # Sorted by ids alone, since indexes have those.
        ids = f"SELECT id FROM entries {clause} ORDER BY id DESC LIMIT ? OFFSET ?"
        return self._select(f"WHERE id IN ({ids}) ORDER BY id DESC", (*values, count, offset))

    def count(self, **which: Unpack[Which]) -> int:
        """The number of records that `records` would list without a limit."""
        clause, values = where(**which)
        return int(self._read(f"SELECT count(*) AS many FROM entries {clause}", values)[0]["many"])

    def leased(self, record_ids: Collection[int] | None = None, besides: str = "") -> frozenset[int]:
        """Ids of records with a lease of a living process; asked without waiting for anybody.

        Args:
            record_ids: Only of these.
            besides: A lease that does not count.
        """
        query, values = "SELECT ticket, entry, owner FROM tickets", []
        if record_ids is not None:
            query += " WHERE entry IN (SELECT value FROM json_each(?))"
            values = [json.dumps(list(record_ids))]
        # Nothing that is not written yet matters to this, so that is not waited for.
        rows = [row for row in self.read(query, values) if row["ticket"] != besides]
        with explained(self.path):
            held = {owner: self._writer.held_by(owner) for owner in {row["owner"] for row in rows}}
        return frozenset(row["entry"] for row in rows if held[row["owner"]](row["ticket"]))

    def past_runs(self, kind: str, limit: int = HISTORY_LENGTH) -> list[PastRun]:
        """How long the last watched runs of a kind took, the latest first."""
        query = "SELECT at_least, at_most FROM past_runs WHERE kind = ? ORDER BY id DESC LIMIT ?"
        # They are only of help, so nobody waits for them.
        rows = self._read(query, (kind, limit), patience=0.0)
        return [PastRun(row["at_least"], row["at_most"]) for row in rows]

    def answering(
        self, work: Work, options: ClaimOptions, patience: float = READING_SECONDS
    ) -> Record | None:
        """The record that `claim` would answer with at present, found by reading alone; None for a new one.

        It has no files where `claim` would find them gone.
        """
        gone = self._gone(work)
        row = answering(partial(self.read, patience=patience), work, options, gone)
        if row is None:
            return None
        record = record_from_row(row, self.results.root)
        return record if has_files(row, gone) else replace(record, files=(), digests=())

    def read(self, query: str, values: Sequence[Any], patience: float = READING_SECONDS) -> Sequence[Row]:
        """The rows of a SELECT, as they are on disk. For functions that count or sum; see `spending`.

        Args:
            patience: Seconds to wait while another program keeps readers out.
        """
        select = self._windows_reader.rows_at_once if self._is_as_written else self._reader.rows
        try:
            return select(query, values, patience)
        except OldJournalError:
            # The first writing brings it up to date; another process may be about to.
            self._ensure_usable(max(patience, SETTLE_SECONDS))
            return select(query, values, patience)

    @contextlib.contextmanager
    def as_written(self) -> Iterator[None]:
        """For the length of a ``with`` block, have this thread read what is on disk already.

        Other readings wait for notes of this process that are about to be written, for a moment each, and for
        each other, and for busy threads at each row. For windows that are told of every change anyway, see
        `subscribe`.
        """
        self._as_written.is_wanted = True
        try:
            yield
        finally:
            self._as_written.is_wanted = False

    def version(self) -> int:
        """A number that grows with every change by any process; microseconds, made for polling."""
        return int(self._read("SELECT value FROM counters WHERE name = 'version'", ())[0]["value"])

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the id of every record this process changes or removes; returns the way out.

        It is called after the change, in the journal's own thread, and must return quickly.
        """
        key = next(self._listener_keys)
        self._writer.listeners[key] = listener

        def unsubscribe() -> None:
            self._writer.listeners.pop(key, None)

        return unsubscribe

    # --- inside -------------------------------------------------------------------------------------------

    def evict(self) -> None:
        """Have the kept results brought under their limit, the least recently used first; never waits.

        Partial downloads count too, and those that nobody continues go before any result, and after a week in
        any case. Never results with a lease, and never one that was not delivered: it may be the only copy.
        """
        is_due = self._evicting is not None and not (self._evicting.running() or self._evicting.done())
        if not is_due:
            self._evicting = _EVICTIONS.submit(self._look_and_evict)

    def _look_and_evict(self) -> None:
        time.sleep(max(0.0, self._look_again_at - time.monotonic()))
        began = time.monotonic()
        parts = self.results.part_sizes()
        self._look_again_at = time.monotonic() + min(LOOK_REST * (time.monotonic() - began), LONGEST_REST)
        parts = {
            part: size for part, size in parts.items() if not self.results.remove_left(part, STALE_SECONDS)
        }
        if self.results_limit_bytes is not None:
            how = {"patience": 0.0, "settles": True, "within": LAG_SECONDS}
            self._request(lambda change: self._evict(change, parts), **how)

    def _evict(self, change: Transaction, parts: Mapping[Path, int]) -> None:
        if self.results_limit_bytes is not None and not change.evict(self.results_limit_bytes, parts):
            # Everybody else waits meanwhile.
            self.evict()

    def _request(self, change: Callable[[Transaction], Any], **how: Any) -> Future[Any]:
        return self._writer.request(change, **how)

    def _read(self, query: str, values: Sequence[Any], patience: float = READING_SECONDS) -> Sequence[Row]:
        if not self._is_as_written:
            self._writer.flush(SETTLE_SECONDS)
        return self.read(query, values, patience)

    @property
    def _is_as_written(self) -> bool:
        return getattr(self._as_written, "is_wanted", False)

    def _select(self, clause: str, values: Sequence[Any]) -> list[Record]:
        rows = self._read(f"SELECT * FROM entries {clause}", values)
        return [record_from_row(row, self.results.root) for row in rows]


_in_use: weakref.WeakSet[Journal] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for journal in list(_in_use):
        journal.close()


def _drop(writer: Writer, readers: Sequence[Reader], temporary: str | None, made_by: int) -> None:
    """Close what nobody holds any more.

    Garbage is collected on any thread, amid another journal's transaction too, so nothing is waited for.
    """
    _close(readers)
    if temporary is None:
        writer.end(CLOSING_SECONDS, lambda: _close(readers))
    else:
        # Nobody else has this one.
        writer.close(CLOSING_SECONDS)
        _clean_up(readers, temporary, made_by)


def _close(readers: Sequence[Reader]) -> None:
    for reader in readers:
        reader.close()


def _clean_up(readers: Sequence[Reader], temporary: str | None, made_by: int) -> None:
    # SQLite moves its log into the file when the last connection is closed, and only one that writes can.
    # So the readers are closed before the writer, and again if one was opened meanwhile.
    _close(readers)
    # Not a forked child's to remove.
    if temporary is not None and made_by == os.getpid():
        shutil.rmtree(temporary, ignore_errors=True)


def _log_if_open(row: Row) -> None:
    if row["state"] not in ("finished", "failed", "canceled", "not_sent"):
        logger.info(
            "Forgetting record %s (%s): job %s, task %s",
            row["id"],
            row["state"],
            row["job_id"],
            row["task_id"],
        )
