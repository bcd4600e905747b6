"""The journal itself: every task from before it is paid for until its result is in the user's hands."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from ..errors import NOT_ACCEPTED, NOTHING_CHARGED, STILL_RETRIEVABLE, JournalError
from ..polling.durations import HISTORY_LENGTH, PastRun, usual_span, watched_duration
from . import forks, process_locks
from .claims import Candidate, best
from .database import BUSY_SECONDS, BusyJournalError, Database
from .queries import where
from .records import Action, Claim, IfUnknown, Record, Work, clean_text, record_from_row, to_json
from .results_folder import KeptResults
from .schema import is_current, migrate
from .states import ENDED, OPEN, Event, TaskState
from .transaction import Transaction, kept_files, no_record

logger = logging.getLogger("xalora_client.journal")

MAY_BE_CHARGED = "Its create may have been charged; nothing is sent again by itself."
WAS_PAID = "The task was paid for."
AT_NETWORK = (TaskState.SUBMITTED, TaskState.CANCEL_PENDING)

EVICTED_AT_ONCE = 20

Listener = Callable[[int], None]


class Journal:
    """A journal of tasks, shared by threads and processes.

    Every method is synchronous, takes well under a millisecond unless another process is writing (then up to
    ``busy_seconds``), and raises `JournalError` where the file can't be used; nothing has changed then, and a
    later call works again once the cause is gone. Every change of state goes through the table in `states`: a
    step that does not fit raises, a late report is ignored; both ways the record is returned as it stands.

    Interest in a record is a *lease* (see `Claim`). Of the lease holders, at most one is the *worker*, who
    alone sends the task, or downloads its result.

    Attributes:
        results_limit_bytes: Size limit of the kept results, None for no limit; may be set at any time.
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
        self.results_limit_bytes = results_limit_bytes
        self._wall, self._monotonic = wall_clock, monotonic_clock
        self._owners_dir = None if path is None else path.with_name(f"{path.name}.owners")
        self._owner: process_locks.Owner | None = None
        self._dead: set[str] = set()
        self._listeners: dict[int, Listener] = {}
        self._listener_keys = itertools.count()
        # When this process's tasks were submitted, by both clocks, for as long as somebody here watches them.
        self._watched: dict[int, tuple[float, float]] = {}
        # Task ids and returned leases that could not be written (disk full, locked): they go with the next
        # successful write.
        self._owed_ids: dict[int, tuple[str, float]] = {}
        self._owed_leases: set[str] = set()
        self._database = Database(path, busy_seconds=busy_seconds)
        forks.register(self)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        try:
            with self._database.write() as connection:
                migrate(connection)
                if self._owners_dir is not None:
                    process_locks.sweep(self._owners_dir)
            with self._change(settled=True):
                pass
        except BusyJournalError:
            # With its tables there, whoever holds it is waited for again when something is to be sent.
            with self._database.read() as connection:
                if not is_current(connection):
                    raise

    # Opening and closing ---------------------------------------------------------------------------------

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
        """Gives back all leases and closes the file; twice is harmless."""
        if self._database.is_open and self._owner is not None:
            try:
                with self._change() as change:
                    for lease in change.own_leases():
                        self._drop(change, lease)
            except JournalError as error:
                # The leases lapse with the lock below all the same.
                logger.warning("The journal was closed without its last changes: %s", error)
        with self._database.lock:
            self._database.close()
            if self._owner is not None:
                self._owner.release()
                self._owner = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Claiming work ---------------------------------------------------------------------------------------

    def claim(
        self,
        work: Work,
        *,
        job_id: str,
        reuse: bool = True,
        among: AbstractSet[str] = frozenset(),
        if_unknown: IfUnknown = "stop",
    ) -> Claim:
        """Decides in one transaction what to do about `work`; see `Claim` for the outcomes.

        Args:
            job_id: The job id to use if a new record is made; an older record keeps its own.
            reuse: Whether a record of the same work may answer; False makes a new one, except where an
                earlier create's outcome was never learned: that is `if_unknown`'s to decide.
            among: Without `reuse`, the ids of the tasks that may answer all the same. Work without a seed
                takes them too, whoever has or had them: naming a task asks for it.
            if_unknown: What to do about an earlier create whose outcome was never learned: send it again
                under the same job id, give it up and begin anew, or stop with the action ``unknown``.
        """
        with self._change(settled=True) as change:
            row = self._answering(change, work, None if reuse else among)
            if row is not None and row["state"] == TaskState.UNKNOWN.value and if_unknown == "forget":
                change.update(row["id"], forgotten=1)
                row = None
            if row is None:
                return _claim(change, "send", change.insert(work, job_id, TaskState.PREPARED))
            return self._take_up(change, row, if_unknown)

    def kept_result(self, work: Work, *, reuse: bool, among: AbstractSet[str] = frozenset()) -> Record | None:
        """The kept result that `claim` would give out for `work`, found without writing anything.

        For a journal that can only be read. Work without a seed gets none unless it is named in `among`:
        nobody could be told any more that the result was given out.
        """
        if reuse and not work.seeded:
            return None
        with self._database.read() as connection:
            looking = Transaction(connection, "", self._wall(), self._results)
            row = self._answering(looking, work, None if reuse else among)
            if row is None or row["state"] != TaskState.KEPT.value:
                return None
            return looking.record(row["id"]) if self._results.intact(kept_files(row)) else None

    def take(self, lease: str) -> bool:
        """Asks to become the worker of the lease's record.

        True: the caller, and nobody else, now sends the record (PREPARED) or downloads its result (FINISHED).
        False: somebody alive does, or there is no such work in the record's present state. Ask again when
        the record changes; a worker that died or left is noticed here.
        """
        with self._change(settled=True) as change:
            row = change.row_of_lease(lease)
            if row is None or row["state"] not in (TaskState.PREPARED.value, TaskState.FINISHED.value):
                return False
            if row["worker"] is None:
                change.update(row["id"], worker=lease)
                return True
            return bool(row["worker"] == lease)

    def hold(self, record_id: int) -> str:
        """A lease for a record: its files stay, and others' cancels don't reach its task."""
        with self._change() as change:
            change.row(record_id)
            change.touch(record_id)
            return change.new_lease(record_id)

    @contextlib.contextmanager
    def holding(self, record_id: int) -> Iterator[Record]:
        """`hold` for the length of a ``with`` block."""
        lease = self.hold(record_id)
        try:
            yield self.record(record_id)
        finally:
            self.leave(lease)

    def others(self, lease: str) -> int:
        """How many other live leases the lease's record has."""
        with self._change(settled=True) as change:
            row = change.row_of_lease(lease)
            return 0 if row is None else change.leases(row["id"]) - 1

    def leave(self, lease: str) -> int:
        """Gives a lease back and returns how many live ones the record has left; twice is harmless.

        A worker that leaves while SENDING leaves the record UNKNOWN. The last one that leaves a PREPARED
        record leaves it NOT_SENT, or UNKNOWN as it was before it was to be sent again. Made for ``finally``:
        a journal that can't be written raises nothing here; the lease goes with the next successful change.
        """
        try:
            with self._change(settled=True) as change:
                return self._drop(change, lease)
        except JournalError as error:
            self._owed_leases.add(lease)
            logger.warning("%s", error)
            return 0

    def leave_later(self, lease: str) -> None:
        """Gives a lease back with the next change. Made for finalizers: no lock, no disk."""
        self._owed_leases.add(lease)

    def cancel(self, lease: str) -> Record | None:
        """Cancels for this lease's holder, leaving the task alone while others want it.

        Returns the record, now CANCEL_PENDING: cancel it at the network, report `canceled`, then `leave`.
        Returns None and gives the lease back where there is nothing to cancel at the network, because
        others wait for the task, it was never sent, or it has ended. While SENDING, wait for the create's
        answer first.
        """
        with self._change(durable=True, settled=True) as change:
            row = change.row_of_lease(lease)
            if row is None:
                return None
            if change.leases(row["id"]) > 1 or TaskState(row["state"]) not in AT_NETWORK:
                self._drop(change, lease)
                return None
            change.step(row["id"], Event.ASK_CANCEL)
            return change.record(row["id"])

    # A task's life ---------------------------------------------------------------------------------------

    def sending(self, record_id: int) -> Record:
        """The create leaves this machine next; on return that is safely on disk.

        Raises:
            JournalError: It can't be written, or the record is not PREPARED, or another's to send. Then send
                nothing.
        """
        with self._change(durable=True) as change:
            row = change.row(record_id)
            if not change.is_own(row["worker"]):
                raise JournalError(
                    f"Record {record_id} of the journal is not this process's to send",
                    job_id=row["job_id"],
                    next_step="Queue the work again; it joins the one that sends it.",
                )
            change.step(record_id, Event.SEND, sent_at=change.now, error=None)
            return change.record(record_id)

    def held_back(self, record_id: int, error: str) -> Record:
        """The create was clearly refused or never left, and will be tried again: SENDING -> PREPARED."""
        return self._step(record_id, Event.HOLD_BACK, money=NOT_ACCEPTED, error=clean_text(error))

    def not_sent(self, record_id: int, error: str) -> Record:
        """The create was clearly refused or never left, and will not be tried again.

        One that was sent again in doubt is UNKNOWN as before: its first create may have made a task.
        """
        with self._change(money=NOT_ACCEPTED) as change:
            change.give_up(change.row(record_id), clean_text(error))
            return change.record(record_id)

    def unknown(self, record_id: int, error: str) -> Record:
        """The create went out and its outcome was not learned."""
        return self._step(
            record_id, Event.LOSE_ANSWER, money=MAY_BE_CHARGED, error=clean_text(error), worker=None
        )

    def submitted(self, record_id: int, task_id: str) -> Record:
        """The network answered the create; on return the task id is safely on disk.

        Raises:
            JournalError: It can't be written. The id is then kept in memory and goes with this process's next
                successful change; log it all the same.
        """
        came_at = self._wall()
        self._watched[record_id] = (came_at, self._monotonic())
        try:
            with self._change(durable=True, money=STILL_RETRIEVABLE) as change:
                change.accept(record_id, task_id, came_at)
                return change.record(record_id)
        except JournalError as error:
            self._owed_ids[record_id] = (task_id, came_at)
            error.task_id = task_id
            raise

    def status(self, record_id: int, status: str) -> Record:
        """The network's word on a task that has not ended; the first ``running`` sets ``started_at``."""
        with self._change(money=STILL_RETRIEVABLE) as change:
            row = change.row(record_id)
            if TaskState(row["state"]) in AT_NETWORK and row["status"] != status:
                change.update(record_id, status=clean_text(status))
                if status == "running" and row["started_at"] is None:
                    change.update(record_id, started_at=change.now)
            return change.record(record_id)

    def finished(self, record_id: int, result: Any, *, unnoticed: float = 0.0) -> Record:
        """The network has the result; `result` is its raw answer (inlined media are left out of the row).

        A task that this process watched from its submission on counts for `past_runs`; its end may have gone
        `unnoticed` for so many seconds. Said again, e.g. with a fresh URL, it replaces the result as long as
        that is not kept.
        """
        with self._change(money=STILL_RETRIEVABLE) as change:
            row = change.row(record_id)
            before = TaskState(row["state"])
            if change.step(record_id, Event.FINISHED) is TaskState.FINISHED:
                change.update(record_id, result=to_json(result), status="finished", error=None)
                if before is not TaskState.FINISHED:
                    change.update(record_id, ended_at=change.now, worker=None)
                    self._note_run(change, row, unnoticed)
            return change.record(record_id)

    def kept(
        self,
        record_id: int,
        files: Iterable[str | os.PathLike[str]],
        *,
        engine: str = "xalora",
        miner: str | None = None,
        device: str | None = None,
    ) -> Record:
        """The result's files are whole in `results_dir`, see `result_stem`. Makes room for them.

        Raises:
            JournalError: A file is missing or lies elsewhere, or the record is not FINISHED or KEPT.
        """
        described = self._results.describe(Path(file) for file in files)
        with self._change(money=STILL_RETRIEVABLE) as change:
            change.step(
                record_id,
                Event.KEEP,
                files=json.dumps(described),
                size=sum(size for _, size in described),
                engine=engine,
                miner=miner,
                device=device,
                worker=None,
            )
            change.touch(record_id)
            record = change.record(record_id)
        try:
            self.evict()
        except JournalError as error:
            logger.warning("No room could be made among the kept results: %s", error)
        return record

    def delivered(self, record_id: int) -> Record:
        """The result is in its user's hands; from now on its files may be evicted."""
        with self._change(money=STILL_RETRIEVABLE) as change:
            if not change.row(record_id)["delivered"]:
                change.update(record_id, delivered=1)
            return change.record(record_id)

    def failed(self, record_id: int, error: str) -> Record:
        """The network reports the task as failed."""
        return self._ended(record_id, Event.FAILED, "failed", clean_text(error))

    def canceled(self, record_id: int) -> Record:
        """The network reports the task as canceled."""
        return self._ended(record_id, Event.CANCELED, "canceled", None)

    def cancel_pending(self, record_id: int) -> Record:
        """The task is to be canceled whoever else waits for it; safely on disk on return.

        A task that has ended stays as it is, and so does one that is not known to the network.
        """
        with self._change(durable=True, money=STILL_RETRIEVABLE) as change:
            if change.state(record_id) in AT_NETWORK:
                change.step(record_id, Event.ASK_CANCEL)
            return change.record(record_id)

    def cancel_withdrawn(self, record_id: int) -> Record:
        """The cancel is not wanted any more, or the network refused it: the task counts as running again."""
        return self._step(record_id, Event.WITHDRAW_CANCEL)

    def expired(self, record_id: int, error: str) -> Record:
        """The network no longer has the result: FINISHED -> FAILED."""
        return self._step(record_id, Event.EXPIRE, money=WAS_PAID, error=clean_text(error), worker=None)

    def refetch(self, record_id: int) -> Record:
        """The kept files are gone or broken; the result is to be downloaded again: KEPT -> FINISHED."""
        return self._step(record_id, Event.REFETCH, files="[]", size=0, worker=None)

    def fell_back(self, job_id: str, *, engine: str, device: str | None = None) -> Record | None:
        """A local engine did a job's work in the network's stead; for the history only. None: no such job."""
        record = self.by_job_id(job_id)
        if record is None:
            return None
        with self._change() as change:
            change.row(record.id)
            change.update(record.id, engine=engine, device=device)
            return change.record(record.id)

    # Reading ---------------------------------------------------------------------------------------------

    def record(self, record_id: int) -> Record:
        """One record as it stands.

        Raises:
            JournalError: There is none (it was forgotten).
        """
        record = self.find(record_id)
        if record is None:
            raise no_record(record_id)
        return record

    def find(self, record_id: int) -> Record | None:
        """One record as it stands, None where it was forgotten."""
        found = self._select("WHERE id = ?", (record_id,))
        return found[0] if found else None

    def by_task_id(self, task_id: str, sequencer_url: str | None = None) -> Record | None:
        """The latest record with this task id (of this network)."""
        found = self._select(
            "WHERE task_id = ? AND (? IS NULL OR sequencer_url = ?) ORDER BY id DESC LIMIT 1",
            (task_id, sequencer_url, sequencer_url),
        )
        return found[0] if found else None

    def by_job_id(self, job_id: str) -> Record | None:
        """The latest record with this job id."""
        found = self._select("WHERE job_id = ? ORDER BY id DESC LIMIT 1", (job_id,))
        return found[0] if found else None

    def records(
        self,
        *,
        states: Iterable[TaskState] | None = None,
        text: str | None = None,
        since: int | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Record]:
        """Records, the latest first.

        Args:
            states: Only these.
            text: Only those with this text in label, ids, type, workflow, engine, miner or error.
            since: Only those changed after this `version`.
            limit: At most so many.
            offset: Leaving out so many first.
        """
        clause, values = where(states, text, since)
        count = -1 if limit is None else limit
        return self._select(f"{clause} ORDER BY id DESC LIMIT ? OFFSET ?", (*values, count, offset))

    def count(
        self, *, states: Iterable[TaskState] | None = None, text: str | None = None, since: int | None = None
    ) -> int:
        """How many records `records` would list without a limit."""
        clause, values = where(states, text, since)
        with self._database.read() as connection:
            return int(connection.execute(f"SELECT count(*) FROM entries {clause}", values).fetchone()[0])

    def open_records(self) -> list[Record]:
        """Records with something left to do or to decide, the oldest first; the dead are buried before.

        Delivered results whose files were evicted are not among them.
        """
        with self._change(settled=True):
            pass
        clause, values = where(OPEN)
        return self._select(f"{clause} AND forgotten = 0 ORDER BY id", values)

    def attended(self, record_id: int) -> int:
        """How many live leases a record has: 0 means that nobody looks after it."""
        with self._change(settled=True) as change:
            return change.leases(record_id)

    def attended_records(self) -> frozenset[int]:
        """Ids of all records with a live lease."""
        with self._change(settled=True) as change:
            rows = change.connection.execute("SELECT DISTINCT entry FROM tickets").fetchall()
            return frozenset(row["entry"] for row in rows)

    def past_runs(self, kind: str, limit: int = HISTORY_LENGTH) -> list[PastRun]:
        """How long the last watched runs of a kind took, the latest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT at_least, at_most FROM past_runs WHERE kind = ? ORDER BY id DESC LIMIT ?",
                (kind, limit),
            ).fetchall()
        return [PastRun(row["at_least"], row["at_most"]) for row in rows]

    def usual(self, kind: str) -> tuple[float, float] | None:
        """The span in seconds that most of the last runs of a kind took; None for fewer than two."""
        return usual_span(self.past_runs(kind))

    def result_stem(self, record: Record) -> Path:
        """Where the record's files belong, without suffix; for several, append ``-0``, ``-1`` ..."""
        with self._database.explained(STILL_RETRIEVABLE):
            return self._results.stem(record.id, record.job_id)

    def version(self) -> int:
        """A number that grows with every change by any process; microseconds, made for polling."""
        return self._counter("version")

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with the id of every record this process changes or removes; returns the way out.

        It is called after the change, in the thread that made it, and must return quickly.
        """
        key = next(self._listener_keys)
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    # Forgetting and making room --------------------------------------------------------------------------

    def forget(self, record_id: int) -> bool:
        """Removes a record and its files; False while somebody looks after it.

        A record that is not ended is removed too: its ids go to the log, and a task of it runs on unseen.
        """
        with self._change(settled=True) as change:
            removed = self._remove(change, change.row(record_id))
        self._results.remove_all(change.left_behind)
        return removed

    def forget_ended(self) -> int:
        """Removes all records that have ended or were given up, with their files; how many those were."""
        with self._change(settled=True) as change:
            clause, values = where(ENDED)
            rows = change.connection.execute(
                f"SELECT * FROM entries {clause} OR forgotten = 1", values
            ).fetchall()
            removed = sum(self._remove(change, row) for row in rows)
        self._results.remove_all(change.left_behind)
        return removed

    def evict(self) -> list[int]:
        """Brings the kept results under their limit; the records that lost their files.

        The least recently used go first. Never those in somebody's hands, and never one that was paid for
        and not yet delivered: it may be the only copy.
        """
        evicted: list[int] = []
        tried = -1
        while self.results_limit_bytes is not None and self._kept_size() > self.results_limit_bytes:
            # Within the change: after it, somebody might have fetched one of them again under the same name.
            # A few at a time, since everybody else waits meanwhile.
            with self._change(settled=True) as change:
                total = self._kept_size()
                rows = change.connection.execute(
                    "SELECT id, used, size, files FROM entries"
                    " WHERE size > 0 AND delivered = 1 AND state = ? AND used > ?"
                    " AND NOT EXISTS (SELECT 1 FROM tickets WHERE entry = entries.id)"
                    " ORDER BY used LIMIT ?",
                    (TaskState.KEPT.value, tried, EVICTED_AT_ONCE),
                ).fetchall()
                for row in rows:
                    if total <= self.results_limit_bytes:
                        break
                    tried = row["used"]
                    if self._results.remove(kept_files(row)):
                        change.update(row["id"], files="[]", size=0)
                        total -= row["size"]
                        evicted.append(row["id"])
            if len(rows) < EVICTED_AT_ONCE:
                break
        return evicted

    def _kept_size(self) -> int:
        return self._counter("kept")

    # Inside ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _change(
        self, *, durable: bool = False, settled: bool = False, money: str = NOTHING_CHARGED
    ) -> Iterator[Transaction]:
        """A write transaction with what is owed to the disk written first; listeners are called after it.

        Args:
            durable: See `Database.write`.
            settled: Bury the dead first, so that every lease is a live one.
            money: See `Database.write`.
        """
        with self._database.write(durable=durable, money=money) as connection:
            if self._owner is None:
                self._owner = process_locks.Owner(self._owners_dir)
            change = Transaction(connection, self._owner.id, self._wall(), self._results)
            paid_ids, paid_leases = dict(self._owed_ids), set(self._owed_leases)
            for record_id, (task_id, came_at) in paid_ids.items():
                if change.find(record_id) is not None:
                    change.accept(record_id, task_id, came_at)
            for lease in paid_leases:
                self._drop(change, lease)
            if settled:
                change.bury(self._is_alive)
            yield change
            change.conclude()
        for record_id in paid_ids:
            self._owed_ids.pop(record_id, None)
        self._owed_leases -= paid_leases
        for record_id in sorted(change.changed):
            for listener in list(self._listeners.values()):
                try:
                    listener(record_id)
                except Exception:
                    # Somebody's display must not stand between a task and its journal.
                    logger.exception("A listener of the journal failed")

    def _step(self, record_id: int, event: Event, *, money: str = STILL_RETRIEVABLE, **values: Any) -> Record:
        with self._change(money=money) as change:
            change.step(record_id, event, **values)
            return change.record(record_id)

    def _ended(self, record_id: int, event: Event, status: str, error: str | None) -> Record:
        with self._change(money=STILL_RETRIEVABLE) as change:
            before = change.state(record_id)
            if change.step(record_id, event) is not before:
                change.update(record_id, status=status, error=error, ended_at=change.now, worker=None)
                self._watched.pop(record_id, None)
            return change.record(record_id)

    def _select(self, clause: str, values: Sequence[Any]) -> list[Record]:
        with self._database.read() as connection:
            rows = connection.execute(f"SELECT * FROM entries {clause}", values).fetchall()
        return [record_from_row(row, self._results.root) for row in rows]

    def _counter(self, name: str) -> int:
        with self._database.read() as connection:
            row = connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
            return int(row[0])

    def _is_alive(self, owner_id: str) -> bool:
        if self._owner is not None and owner_id == self._owner.id:
            return True
        if self._owners_dir is None or owner_id in self._dead:
            return False
        if process_locks.is_alive(self._owners_dir, owner_id):
            return True
        self._dead.add(owner_id)
        return False

    def _drop(self, change: Transaction, lease: str) -> int:
        row = change.row_of_lease(lease)
        if row is None:
            return 0
        left = change.drop_lease(row, lease)
        if not left:
            # From here on nobody watches the network, so an end seen later says nothing about the duration.
            self._watched.pop(row["id"], None)
        return left

    def _answering(
        self, change: Transaction, work: Work, among: AbstractSet[str] | None
    ) -> sqlite3.Row | None:
        rows = {
            row["id"]: row
            for row in change.connection.execute(
                "SELECT * FROM entries WHERE fingerprint = ? AND forgotten = 0", (work.fingerprint,)
            ).fetchall()
            # What may be paid for already is not paid for again unasked, reuse or not.
            if among is None or row["task_id"] in among or row["state"] == TaskState.UNKNOWN.value
        }
        chosen = best(
            (
                Candidate(
                    id=row["id"],
                    state=TaskState(row["state"]),
                    attended=change.leases(row["id"]) > 0,
                    delivered=bool(row["delivered"]),
                    intact=self._results.intact(kept_files(row)),
                )
                for row in rows.values()
            ),
            seeded=work.seeded or among is not None,
        )
        return None if chosen is None else rows[chosen.id]

    def _take_up(self, change: Transaction, row: sqlite3.Row, if_unknown: IfUnknown) -> Claim:
        record_id, state = row["id"], TaskState(row["state"])
        if state is TaskState.UNKNOWN:
            if if_unknown == "stop":
                return Claim(action="unknown", record=change.record(record_id), lease="")
            change.step(record_id, Event.RESEND, in_doubt=1, error=None)
            return _claim(change, "send", record_id)
        if state is TaskState.PREPARED and row["worker"] is None:
            return _claim(change, "send", record_id)
        if state is TaskState.KEPT:
            if self._results.intact(kept_files(row)):
                change.touch(record_id)
                return _claim(change, "kept", record_id)
            change.step(record_id, Event.REFETCH, files="[]", size=0, worker=None)
        cancel_was_asked = state is TaskState.CANCEL_PENDING
        if cancel_was_asked and not change.leases(record_id):
            change.step(record_id, Event.WITHDRAW_CANCEL)
        return _claim(change, "join", record_id, cancel_was_asked=cancel_was_asked)

    def _note_run(self, change: Transaction, row: sqlite3.Row, unnoticed: float) -> None:
        watched = self._watched.pop(row["id"], None)
        if watched is None:
            return
        wall, monotonic = watched
        seconds = watched_duration(self._wall() - wall, self._monotonic() - monotonic)
        if seconds is not None:
            change.note_run(row["kind"], PastRun(max(0.0, seconds - unnoticed), seconds))

    def _remove(self, change: Transaction, row: sqlite3.Row) -> bool:
        if change.leases(row["id"]):
            return False
        if TaskState(row["state"]) not in ENDED:
            logger.info(
                "Forgetting record %s (%s): job %s, task %s",
                row["id"],
                row["state"],
                row["job_id"],
                row["task_id"],
            )
        change.remove(row)
        return True

    # Forks (see `forks.ForkAware`) -----------------------------------------------------------------------

    def before_fork(self) -> None:
        self._database.before_fork()

    def after_fork_in_parent(self) -> None:
        self._database.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """A child is somebody else: it holds none of its parent's leases and owes none of its ids."""
        if self._owner is not None:
            self._owner.abandon()
            self._owner = None
        self._listeners.clear()
        self._watched.clear()
        self._owed_ids.clear()
        self._owed_leases.clear()
        self._database.after_fork_in_child()


def _claim(change: Transaction, action: Action, record_id: int, *, cancel_was_asked: bool = False) -> Claim:
    lease = change.new_lease(record_id)
    if action == "send":
        change.update(record_id, worker=lease)
    return Claim(
        action=action, record=change.record(record_id), lease=lease, cancel_was_asked=cancel_was_asked
    )
