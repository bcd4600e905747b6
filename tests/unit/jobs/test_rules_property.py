"""Random orders of callers, network answers, cancels, crashes and held locks: nothing is paid twice or lost.

The model has three parts. *Disk*: a journal in SQLite's memory, the owners' files, and the results.
*Processes*: the journal's own writer, which writes when the model says so, and jobs that follow `rules.step`;
a crash drops them, with any part of what is not written. *Network*: the tasks that are charged. What
`jobs/job.py` does about commands and answers is done here by hand, one `await` a rule.

`CHAOS=whole` tries many more orders.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xalora_client.journal import BusyJournalError, Claim, ClaimOptions, Event, Journal, TaskState, Work
from xalora_client.journal.database import Reader
from xalora_client.journal.results_folder import KeptFile, KeptResults
from xalora_client.journal.rules import Because, Command, Ending, Happened, JobState, Phase, step
from xalora_client.journal.schema import migrate
from xalora_client.journal.writer import Writer

T = TypeVar("T")

PROCESSES = 2
SEEDED, UNSEEDED = "seeded", "unseeded"
TASKS = {
    name: Work(
        fingerprint=name,
        sequencer_url="http://devnet",
        consumer_id="someone",
        task_type="upscaler",
        seeded=name != UNSEEDED,
    )
    for name in (SEEDED, "another", UNSEEDED)
}
ENDED_AT_NETWORK = ("finished", "failed", "canceled")


# --- Disk -------------------------------------------------------------------------------------------------


class Results(KeptResults):
    """The folder of results in memory: the files that have their lasting names."""

    def __init__(self) -> None:
        super().__init__(Path("/model/results"))
        self.files: set[str] = set()

    def check_room(self) -> None:
        pass

    def _size(self, name: str) -> int | None:
        return 1 if name in self.files else None


class Disk:
    """What outlives a process."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="xalora-model-"))
        self.results = Results()
        self.is_held = False
        self.sqlite = sqlite3.connect(":memory:", isolation_level=None)
        self.sqlite.row_factory = sqlite3.Row
        migrate(self.sqlite)
        self.time = itertools.count(1)

    def rows(self, query: str, values: Sequence[Any] = (), patience: float = 0.0) -> list[sqlite3.Row]:
        """As the reader's."""
        return self.sqlite.execute(query, values).fetchall()

    def read(self, select: Callable[[sqlite3.Connection], T], patience: float) -> T:
        """As the reader's."""
        return select(self.sqlite)


class SteppedWriter(Writer):
    """The journal's writer without its thread."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        path, reader = disk.folder / "journal.sqlite3", cast(Reader, disk)
        super().__init__(path, disk.results, [reader], lambda: float(next(disk.time)))

    def _begin(self) -> None:
        pass

    def _connected(self) -> sqlite3.Connection:
        if self.disk.is_held:
            raise sqlite3.OperationalError("database is locked")
        return self.disk.sqlite

    def flush(self, timeout: float) -> bool:
        return self.write()

    def write(self) -> bool:
        try:
            self._write()
        except BusyJournalError:
            return False
        return True

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._notes or self._dropped)

    def lose(self, losses: int) -> None:
        """Lose those notes whose bit is set; what is safe in the owner's file stays."""
        notes = [
            (events, event)
            for events in self._notes.values()
            for event, note in events.items()
            if note.future is None or not note.future.done()
        ]
        for number, (events, event) in enumerate(notes):
            if losses >> number & 1:
                del events[event]

    def die(self) -> None:
        """The operating system drops the lock with the process."""
        if self._owner is not None:
            self._owner.abandon()


# --- Network ----------------------------------------------------------------------------------------------


@dataclass
class Task:
    """A task that is charged."""

    id: str
    record_id: int
    status: str = "waiting"
    is_known: bool = True
    has_result: bool = True
    is_written_off: bool = False

    @property
    def is_good(self) -> bool:
        if self.is_written_off or not self.is_known or self.status in ("failed", "canceled"):
            return False
        return self.status != "finished" or self.has_result


# --- Processes --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Caller:
    """Somebody who waits for a task."""

    work: str
    how: dict[str, Any]
    wants_files: bool = True
    claiming: Future[Claim] | None = None
    job: Job | None = None
    joined_under_a_wish: bool = False
    wishes: bool = False
    orders: bool = False

    @property
    def joins(self) -> Happened:
        return Happened.JOINED_FOR_FILES if self.wants_files else Happened.JOINED

    @property
    def leaves(self) -> Happened:
        return Happened.LEFT_FOR_FILES if self.wants_files else Happened.LEFT


@dataclass(eq=False)
class Job:
    """A job as `jobs/job.py` drives it, a step at a time."""

    process: Process
    record_id: int
    lease: str
    state: JobState
    task_id: str | None = None
    is_in_doubt: bool = False
    callers: list[Caller] = field(default_factory=list)
    # Of the create: its note, whether the network may have it, and the answer that is on its way.
    sending: Future[None] | None = None
    is_noted: bool = False
    is_out: bool = False
    answer: str | None = None
    is_stopping: bool = False
    # Of the cancel: None, "asked for", "out".
    cancel: str | None = None
    is_first_poll: bool = True
    was_canceled_before: bool = False
    claim_again: bool = False
    is_released: bool = False

    @property
    def is_done(self) -> bool:
        return self.state.phase is Phase.DONE

    def note(self, event: Event, **values: Any) -> None:
        self.process.journal.note(self.record_id, event, **values)

    def tell(self, happened: Happened) -> None:
        self.state, commands = step(self.state, happened)
        for command in commands:
            if command is Command.STOP_CREATE:
                assert not self.is_out, "what the network may have is taken for not sent"
                self.is_stopping = True
            elif command is Command.CANCEL:
                # It is pursued once at a time.
                self.cancel = self.cancel or "asked for"
            elif command is Command.STOP and self.state.ending is not Ending.RESULT:
                self.release()

    def release(self) -> None:
        if not self.is_released:
            self.is_released = True
            self.process.journal.leave(self.lease)

    def end_create(self) -> None:
        """The driver is cancelled amid the create, or the create fails for good."""
        if self.sending is not None:
            self.sending.cancel()
        if self.is_out:
            self.note(Event.ANSWER_LOST, error="not waited for")
        else:
            self.note(Event.NOT_SENT, error="given up")
        was_out, self.is_out, self.is_stopping, self.answer = self.is_out, False, False, None
        if not self.is_done:
            self.claim_again = True
            self.tell(Happened.CREATE_UNKNOWN if was_out else Happened.NOT_CREATED)


class Process:
    """A process with a client: its journal, jobs and callers."""

    def __init__(self, disk: Disk) -> None:
        self.journal = Journal(disk.folder / "journal.sqlite3", disk.results.root)
        self.writer = SteppedWriter(disk)
        self.journal._writer = self.writer
        self.journal.results = disk.results
        self.journal._reader = disk  # type: ignore[assignment]
        self.jobs: dict[int, Job] = {}
        self.callers: list[Caller] = []
        # Leases of claims that were decided for a caller who had left.
        self.late_claims: list[Future[Claim]] = []

    def is_busy(self) -> bool:
        return bool(self.callers or self.live_jobs())

    def live_jobs(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.is_done]

    def is_using(self, lease: str) -> bool:
        """Whether something here still answers for a lease."""
        jobs = any(job.lease == lease and not job.is_released for job in self.all_jobs())
        return jobs or any(
            claiming.done() and not claiming.cancelled() and claiming.result().lease == lease
            for claiming in (*self.late_claims, *(c.claiming for c in self.callers if c.claiming))
        )

    def all_jobs(self) -> list[Job]:
        return [*self.jobs.values(), *(caller.job for caller in self.callers if caller.job)]


# --- The machine ------------------------------------------------------------------------------------------


INDEX = st.integers(0, 11)
CHANGES = st.sampled_from(["running", *["finished"] * 3, "failed", "forgotten", "expired"])


def _is_to_be_noted(job: Job) -> bool:
    may_be_sent = job.state.sends and job.task_id is None and not job.is_stopping
    return may_be_sent and not (job.sending or job.is_noted or job.is_out)


def _is_to_leave(job: Job) -> bool:
    return job.is_noted and not job.is_stopping


def _is_out(job: Job) -> bool:
    return job.is_out


def _is_stopping(job: Job) -> bool:
    return job.is_stopping


def _is_learning(job: Job) -> bool:
    return not job.state.sends and job.task_id is None


def _is_followed(job: Job) -> bool:
    return job.task_id is not None and job.state.phase is not Phase.FETCHING


def _is_fetching(job: Job) -> bool:
    return job.state.phase is Phase.FETCHING


def _is_to_be_canceled(job: Job) -> bool:
    return job.cancel == "asked for"


def _is_being_canceled(job: Job) -> bool:
    return job.cancel == "out" and job.state.wish is not None


def rule_for(wanted: Callable[[Job], bool], function: Callable[..., None], **how: Any) -> Any:
    """A rule that does `function` to one of the jobs that are wanted; it is tried only where there is one."""

    def run(self: Machine, index: int, **values: Any) -> None:
        jobs = self.jobs(wanted)
        function(self, jobs[index % len(jobs)], **values)

    run.__name__ = function.__name__
    return precondition(lambda self: bool(self.jobs(wanted)))(rule(index=INDEX, **how)(run))


def rule_for_process(wanted: Callable[[Process], bool], function: Callable[..., None], **how: Any) -> Any:
    """The same for one of the processes."""

    def run(self: Machine, index: int, **values: Any) -> None:
        processes = [process for process in self.processes if wanted(process)]
        function(self, processes[index % len(processes)], **values)

    run.__name__ = function.__name__
    return precondition(lambda self: any(map(wanted, self.processes)))(rule(index=INDEX, **how)(run))


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.disk = Disk()
        self.sync = mock.patch.object(os, "fsync")
        self.sync.start()
        self.processes = [Process(self.disk) for _ in range(PROCESSES)]
        self.tasks: dict[str, Task] = {}
        self.received: list[tuple[str, Future[None], Process]] = []
        self.resent: set[int] = set()
        self.job_ids = itertools.count(1)
        self.unknown = 0

    # --- helpers ------------------------------------------------------------------------------------------

    def pick(self, items: list[T], index: int) -> T | None:
        return items[index % len(items)] if items else None

    def jobs(self, wanted: Callable[[Job], bool]) -> list[Job]:
        return [job for process in self.processes for job in process.live_jobs() if wanted(job)]

    def waiting(self) -> list[tuple[Process, Caller]]:
        return [(process, caller) for process in self.processes for caller in process.callers]

    def name(self, record_id: int) -> str:
        return f"result-{record_id}"

    def is_good(self, record_id: int) -> bool:
        """Whether a result of this record can be had, or may be on its way."""
        return self.name(record_id) in self.disk.results.files or any(
            task.is_good for task in self.tasks.values() if task.record_id == record_id
        )

    # --- callers ------------------------------------------------------------------------------------------

    @rule(
        index=st.sampled_from([0, 0, 1]),
        work=st.sampled_from([SEEDED, SEEDED, SEEDED, "another", UNSEEDED]),
        reuse=st.booleans(),
        again=st.sampled_from([False, False, False, True]),
        if_unknown=st.sampled_from(["stop", "stop", "resend", "forget"]),
        wants_files=st.booleans(),
        steps=st.integers(0, 3),
    )
    def ask(
        self,
        index: int,
        work: str,
        reuse: bool,
        again: bool,
        if_unknown: str,
        wants_files: bool,
        steps: int,
    ) -> None:
        """Somebody wants a task, and all goes well for a few steps."""
        process = self.processes[index % PROCESSES]
        how = {"reuse": reuse, "again": again, "if_unknown": if_unknown}
        caller = Caller(work, how, wants_files)
        process.callers.append(caller)
        self.claim(process, caller)
        for _ in range(steps):
            if caller.job is not None and not caller.job.is_done:
                self.go_on(caller.job)

    def claim(self, process: Process, caller: Caller) -> None:
        # The claim checks what it finds inside its own transaction.
        decide = process.journal._request

        def checked(change: Callable[[Any], Claim], **options: Any) -> Future[Claim]:
            def with_check(transaction: Any) -> Claim:
                claim = change(transaction)
                self.check_claim(claim, caller, transaction)
                return claim

            return decide(with_check, **options)

        with mock.patch.object(process.journal, "_request", checked):
            job_id = f"job-{next(self.job_ids)}"
            caller.claiming = process.journal.claim(
                TASKS[caller.work], ClaimOptions(**caller.how), job_id=job_id
            )
        self.write(process)

    def check_claim(self, claim: Claim, caller: Caller, transaction: Any) -> None:
        """A new task is paid for only where none of the same work can still be had."""
        if claim.action != "send":
            return
        if claim.record.in_doubt:
            self.resent.add(claim.record.id)
        seeded = TASKS[caller.work].seeded
        for row in self.disk.rows(f"SELECT * FROM entries WHERE fingerprint = '{caller.work}'"):
            if row["id"] == claim.record.id or caller.how["again"] or row["forgotten"]:
                continue
            is_under_way = any(
                job.record_id == row["id"] and job.state.sends and not job.is_stopping
                for job in self.jobs(lambda job: job.task_id is None)
            )
            if not (is_under_way or self.is_good(row["id"])):
                continue
            if row["delivered"] and (not caller.how["reuse"] or not seeded):
                continue
            if row["state"] == "unknown" and caller.how["if_unknown"] != "stop":
                continue
            if not seeded and transaction.leases(row["id"]):
                continue
            raise AssertionError(f"paid twice: {caller.work} is there as record {row['id']} ({row['state']})")

    def claimed(self, process: Process, caller: Caller, claim: Claim) -> None:
        """As `Dispatcher._join_job_for`."""
        caller.claiming = None
        record = claim.record
        if claim.action == "unknown":
            process.callers.remove(caller)
            return
        job = process.jobs.get(record.id)
        if job is not None and not job.is_done:
            process.journal.leave(claim.lease)
            self.join(caller, job)
            return
        state = JobState(sends=True)
        if claim.action != "send":
            known = record.task_id is not None
            state = JobState(phase=Phase.WAITING if known else Phase.PREPARING, task_id_known=known)
        job = Job(process, record.id, claim.lease, state, record.task_id, record.in_doubt)
        process.jobs[record.id] = job
        if claim.action == "kept":
            job.state = JobState(phase=Phase.DONE, ending=Ending.RESULT)
            del process.jobs[record.id]
        self.join(caller, job)

    def join(self, caller: Caller, job: Job) -> None:
        caller.job = job
        caller.joined_under_a_wish = job.state.wish is not None
        job.callers.append(caller)
        job.tell(caller.joins)

    def leave(self, caller: Caller) -> Job:
        job = caller.job
        assert job is not None
        caller.job = None
        job.callers.remove(caller)
        job.tell(caller.leaves)
        if job.is_done and not job.callers:
            # Nobody has the result any more.
            job.release()
        return job

    def answered(self) -> list[tuple[Process, Caller]]:
        return [(p, c) for p, c in self.waiting() if c.job is not None and c.job.is_done]

    @precondition(lambda self: bool(self.answered()))
    @rule(index=INDEX)
    def answer_caller(self, index: int) -> None:
        """A caller whose job has ended hears of it."""
        picked = self.pick(self.answered(), index)
        assert picked is not None
        process, caller = picked
        job = caller.job
        assert job is not None
        is_older_cancel = job.state.ending is Ending.CANCELED and (
            caller.joined_under_a_wish or job.was_canceled_before
        )
        if job.state.ending in (Ending.RESULT, Ending.ANSWERED) and not caller.orders:
            job.note(Event.DELIVERED)
        self.leave(caller)
        if not caller.orders and (job.claim_again or is_older_cancel):
            self.claim(process, caller)
        else:
            process.callers.remove(caller)

    def give_up(self, process: Process, which: int, wishes: bool) -> None:
        """A caller leaves: in a claim, or a job; with a wish that the task be canceled, or without."""
        caller = process.callers[which % len(process.callers)]
        if caller.job is None:
            assert caller.claiming is not None
            if not caller.claiming.cancel():
                process.late_claims.append(caller.claiming)
            caller.claiming = None
        elif wishes and not (caller.orders or caller.wishes):
            caller.wishes = True
            caller.job.tell(Happened.WISHED)
            # It waits a little for the cancel, and leaves by a later turn.
            return
        else:
            self.leave(caller)
        process.callers.remove(caller)

    caller_gives_up = rule_for_process(
        lambda process: bool(process.callers),
        give_up,
        which=INDEX,
        wishes=st.sampled_from([True, True, False]),
    )

    @precondition(lambda self: bool(self.received))
    @rule(index=INDEX, task=INDEX)
    def order_cancel(self, index: int, task: int) -> None:
        """The user cancels a task by its id, in some process."""
        process = self.processes[index % PROCESSES]
        record = self.pick(self.disk.rows("SELECT * FROM entries WHERE task_id IS NOT NULL"), task)
        if record is None:
            return
        job = next((job for job in process.live_jobs() if job.task_id == record["task_id"]), None)
        if job is None:
            job = process.jobs.get(record["id"])
        if job is None or job.is_done:
            holding = process.journal.hold(record["id"])
            if not process.writer.write():
                holding.cancel()
            lease = "" if holding.cancelled() else holding.result()
            state = JobState(phase=Phase.WAITING, task_id_known=True)
            job = process.jobs[record["id"]] = Job(process, record["id"], lease, state, record["task_id"])
        caller = Caller(record["fingerprint"], {}, wants_files=False, orders=True)
        process.callers.append(caller)
        self.join(caller, job)
        job.tell(Happened.ORDERED)

    # --- the create ---------------------------------------------------------------------------------------

    def note_sending(self, job: Job) -> None:
        job.sending = job.process.journal.sending(job.record_id)
        self.write(job.process)

    sending_is_noted = rule_for(_is_to_be_noted, note_sending)

    def send(self, job: Job, outcome: str, is_dropped_as_double: bool) -> None:
        assert job.callers, "sent for nobody"
        assert job.state.wish is None, "sent, though it is to be canceled"
        job.is_noted = False
        job.is_out = True
        job.tell(Happened.CREATE_LEFT)
        job.answer = outcome
        if outcome == "accepted":
            before = [task for task in self.tasks.values() if task.record_id == job.record_id]
            if before:
                assert job.record_id in self.resent, f"record {job.record_id} is charged twice"
            if before and is_dropped_as_double:
                job.answer = before[0].id
            else:
                job.answer = f"task-{len(self.tasks) + 1}"
                self.tasks[job.answer] = Task(job.answer, job.record_id)
                for task in before:
                    # By `if_unknown`: its id was never received, and the record follows the new one.
                    task.is_written_off = True

    create_leaves = rule_for(
        _is_to_leave,
        send,
        outcome=st.sampled_from(["accepted", "accepted", "refused", "held back", "held back", "vanished"]),
        is_dropped_as_double=st.booleans(),
    )

    def hold_back(self, job: Job) -> None:
        job.is_noted = job.is_out = False
        job.answer = None
        job.note(Event.HELD_BACK, error="429")
        job.tell(Happened.CREATE_HELD_BACK)

    create_never_leaves = rule_for(_is_to_leave, hold_back)

    def answer_create(self, job: Job, is_lost: bool) -> None:
        answer, job.answer = job.answer, None
        assert answer is not None
        if answer == "held back" and not is_lost:
            self.hold_back(job)
            return
        job.is_out = False
        if is_lost or answer == "vanished":
            self.unknown += answer in self.tasks
            job.note(Event.ANSWER_LOST, error="reset")
            job.tell(Happened.CREATE_UNKNOWN)
        elif answer == "refused":
            job.note(Event.NOT_SENT, error="402")
            job.tell(Happened.NOT_CREATED)
        else:
            job.task_id = answer
            self.received.append((answer, job.process.journal.accepted(job.record_id, answer), job.process))
            job.is_first_poll = False
            job.tell(Happened.CREATED)

    create_is_answered = rule_for(_is_out, answer_create, is_lost=st.sampled_from([False, False, True]))

    def stop_create(self, job: Job) -> None:
        job.end_create()

    create_is_stopped = rule_for(_is_stopping, stop_create)

    def learn_task_id(self, job: Job, is_settled: bool) -> None:
        """As `Job._learn_task_id`: another process sends the create."""
        record = job.process.journal.find(job.record_id)
        assert record is not None
        if record.task_id is not None:
            job.task_id = record.task_id
            job.tell(Happened.CREATED)
        elif is_settled or record.state not in (TaskState.PREPARED, TaskState.SENDING):
            job.claim_again = True
            job.tell(Happened.NOT_CREATED)

    task_id_is_learned = rule_for(_is_learning, learn_task_id, is_settled=st.booleans())

    # --- the task -----------------------------------------------------------------------------------------

    @precondition(lambda self: bool(self.tasks))
    @rule(index=INDEX, change=CHANGES)
    def network_goes_on(self, index: int, change: str) -> None:
        task = self.pick(list(self.tasks.values()), index)
        assert task is not None
        if change == "forgotten":
            task.is_known = False
        elif change == "expired":
            task.has_result = task.has_result and task.status != "finished"
        elif task.status not in ENDED_AT_NETWORK:
            task.status = change

    def poll(self, job: Job, is_reachable: bool = True) -> None:
        task = self.tasks[job.task_id or ""]
        is_first, job.is_first_poll = job.is_first_poll, False
        if not is_reachable:
            job.tell(Happened.OUT_OF_SIGHT)
        elif not task.is_known:
            job.note(Event.NOT_KNOWN, error="404")
            job.tell(Happened.NOT_KNOWN)
        elif task.status == "finished":
            job.note(Event.FINISHED, result="https://result")
            job.tell(Happened.FINISHED)
        elif task.status == "failed":
            job.note(Event.FAILED, error="oom")
            job.tell(Happened.FAILED)
        elif task.status == "canceled":
            job.was_canceled_before = is_first
            job.note(Event.CANCELED)
            job.tell(Happened.CANCELED)
        else:
            job.note(Event.STATUS, status=task.status)
            job.tell(Happened.RUNS if task.status == "running" else Happened.WAITS)

    job_polls = rule_for(_is_followed, poll, is_reachable=st.sampled_from([True, True, True, False]))

    def fetch(self, job: Job, outcome: str = "whole") -> None:
        name = self.name(job.record_id)
        if outcome == "not now":
            job.tell(Happened.NO_FILES)
        elif name not in self.disk.results.files and not self.tasks[job.task_id or ""].is_good:
            job.note(Event.EXPIRED, error="gone")
            job.tell(Happened.NO_FILES)
        else:
            self.disk.results.files.add(name)
            if outcome == "whole":
                files: list[KeptFile] = [(name, 1, "")]
                job.note(Event.KEPT, files=files)
                job.tell(Happened.FILES_HERE)

    job_fetches = rule_for(
        _is_fetching, fetch, outcome=st.sampled_from(["whole", "whole", "renamed only", "not now"])
    )

    # --- the cancel ---------------------------------------------------------------------------------------

    def request_cancel(self, job: Job, outcome: str) -> None:
        """As `Job._cancel`, up to the network's answer."""
        others = job.process.journal.leased([job.record_id], besides=job.lease)
        if job.state.wish is Because.CALLER_LEAVES and others:
            job.cancel = None
            job.tell(Happened.OTHERS_WAIT)
            return
        if job.state.wish is None:
            job.cancel = None
            return
        self.check_cancel(job)
        job.cancel = "out"
        job.tell(Happened.CANCEL_SENT)
        job.note(Event.CANCEL_REQUESTED)
        task = self.tasks[job.task_id or ""]
        if outcome == "confirmed" and task.is_known and task.status not in ENDED_AT_NETWORK:
            task.status = "canceled"

    cancel_is_requested = rule_for(
        _is_to_be_canceled,
        request_cancel,
        outcome=st.sampled_from(["confirmed", "confirmed", "refused", "never"]),
    )

    def check_cancel(self, job: Job) -> None:
        """A request to cancel has a wish in force, and a wish takes no task from others who wait for it."""
        assert job.state.wish is not None
        if job.state.wish is Because.CALLER_LEAVES:
            others = self.jobs(lambda other: other is not job and other.record_id == job.record_id)
            assert not [other for other in others if other.lease], "canceled under somebody else's hands"
            for caller in job.callers:
                assert caller.wishes or caller.orders or caller.joined_under_a_wish

    def lapse(self, job: Job) -> None:
        job.cancel = None
        job.note(Event.CANCEL_LAPSED)
        job.tell(Happened.CANCEL_LAPSED)

    cancel_lapses = rule_for(_is_being_canceled, lapse)

    # --- a friendly world ---------------------------------------------------------------------------------

    def go_on(self, job: Job) -> None:
        """The next step of a job in which nothing goes wrong."""
        if _is_stopping(job):
            job.end_create()
        elif _is_learning(job):
            self.learn_task_id(job, True)
        elif _is_to_be_noted(job):
            self.note_sending(job)
        elif _is_to_leave(job):
            self.send(job, "accepted", True)
        elif _is_out(job):
            self.answer_create(job, False)
        elif _is_to_be_canceled(job):
            self.request_cancel(job, "confirmed")
        elif _is_fetching(job):
            self.fetch(job)
        elif _is_followed(job):
            task = self.tasks[job.task_id or ""]
            if task.status not in ENDED_AT_NETWORK:
                task.status = "finished"
            self.poll(job)

    job_goes_on = rule_for(lambda job: True, go_on)

    # --- disk, lock and crash -----------------------------------------------------------------------------

    def write(self, process: Process) -> None:
        """The writer writes what is due, and those who waited for it go on."""
        process.writer.write()
        self.hear_writer(process)

    write_something = rule_for_process(lambda process: process.writer.has_work, write)

    def hear_writer(self, process: Process) -> None:
        for late in [late for late in process.late_claims if late.done()]:
            process.late_claims.remove(late)
            process.journal.leave(late.result().lease)
        for caller in list(process.callers):
            if caller.claiming is not None and caller.claiming.done():
                self.claimed(process, caller, caller.claiming.result())
        for job in process.live_jobs():
            if job.sending is not None and job.sending.done() and not job.sending.cancelled():
                sending, job.sending = job.sending, None
                if sending.exception() is None:
                    job.is_noted = True
                else:
                    job.note(Event.NOT_SENT, error="refused by the journal")
                    job.tell(Happened.NOT_CREATED)

    def pass_half_a_second(self, process: Process) -> None:
        """What D3 says about a journal that can't take a task id."""
        if not process.writer.write():
            process.writer._owe_durable(float("inf"))
        self.hear_writer(process)

    half_a_second_passes = rule_for_process(lambda process: process.writer.has_work, pass_half_a_second)

    @precondition(lambda self: self.disk.is_held or bool(self.waiting()))
    @rule()
    def lock_is_taken_or_released(self) -> None:
        self.disk.is_held = not self.disk.is_held

    def end(self, process: Process, how: str, losses: int, is_first: bool) -> None:
        """A process is killed, with any part of its notes written, or closes; another one takes its place."""
        self.unknown += sum(job.answer in self.tasks for job in process.live_jobs())
        if how == "closes":
            self.close(process, is_first)
        else:
            if is_first:
                self.pass_half_a_second(process)
            process.writer.lose(losses)
            if how == "is killed after a write":
                process.writer.write()
        process.writer.die()
        self.processes[self.processes.index(process)] = Process(self.disk)

    process_ends = rule_for_process(
        Process.is_busy,
        end,
        how=st.sampled_from(["is killed", "is killed after a write", "closes"]),
        losses=st.integers(0, 255),
        is_first=st.booleans(),
    )

    def close(self, process: Process, tells_first: bool) -> None:
        for caller in process.callers:
            if caller.claiming is not None:
                caller.claiming.cancel()
        for job in process.live_jobs():
            is_creating = job.state.sends and job.task_id is None
            job.tell(Happened.CLOSED)
            if is_creating and tells_first:
                job.end_create()
        process.writer.is_closed = True
        if not process.writer.write():
            process.writer._give_up()

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def no_received_task_id_is_unreachable(self) -> None:
        on_disk = {row["task_id"] for row in self.disk.rows("SELECT task_id FROM entries")}
        owed = "".join(file.read_text() for file in self.disk.folder.glob("*/*.notes"))
        for task_id, safe, process in self.received:
            if safe.done() and not safe.cancelled():
                held = any(
                    note.values.get("task_id") == task_id
                    for events in process.writer._notes.values()
                    for note in events.values()
                )
                assert task_id in on_disk or f'"{task_id}"' in owed or held, f"{task_id} is lost"

    @invariant()
    def a_lease_has_somebody_who_answers_for_it(self) -> None:
        for row in self.disk.rows("SELECT * FROM tickets"):
            for process in self.processes:
                if row["owner"] == process.writer.owner_id:
                    assert process.is_using(row["ticket"]) or row["ticket"] in process.writer.left()

    @invariant()
    def a_wish_is_pursued_until_it_lapses_or_the_job_ends(self) -> None:
        for process in self.processes:
            for job in process.all_jobs():
                if job.state.wish is not None:
                    assert not job.is_done
                    assert job.cancel is not None or job.is_stopping or job.is_out

    # --- the end ------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "disk"):
            return
        try:
            self.come_to_rest()
        finally:
            self.sync.stop()
            for process in self.processes:
                process.writer.die()
            self.disk.sqlite.close()
            shutil.rmtree(self.disk.folder)

    def come_to_rest(self) -> None:
        """Everything that was begun ends, nobody waits for ever, and no lease stays."""
        self.disk.is_held = False
        for _ in range(60):
            for process in self.processes:
                self.write(process)
            for job in self.jobs(lambda job: True):
                if not job.is_done:
                    self.go_on(job)
            while self.answered():
                self.answer_caller(0)
            if not self.waiting() and not self.jobs(lambda job: True):
                break
        else:
            raise AssertionError(f"somebody waits for ever: {self.jobs(lambda job: True)}")
        for process in self.processes:
            # A change that settles drops the leases of the dead.
            settled = process.journal.forget([])
            self.write(process)
            assert settled.result(0) == 0
        assert self.disk.rows("SELECT * FROM tickets") == []
        assert not [row for row in self.disk.rows("SELECT * FROM entries") if row["state"] == "sending"]
        for task_id, safe, _ in self.received:
            if safe.done() and not safe.cancelled():
                rows = self.disk.rows(f"SELECT * FROM entries WHERE task_id = '{task_id}'")
                assert rows, f"{task_id} is lost"
        # Only what the network accepted without our receipt of the id is unknown.
        assert len(self.tasks.keys() - {task_id for task_id, *_ in self.received}) <= self.unknown
        # Whoever asks now gets what is there, without paying where that can still be had.
        for work in TASKS:
            self.ask(0, work, True, False, "stop", True, 0)


WHOLE = os.environ.get("CHAOS") == "whole"

TestMachine = pytest.mark.timeout(7200 if WHOLE else 300)(Machine.TestCase)
TestMachine.settings = settings(
    max_examples=10_000 if WHOLE else 150,
    stateful_step_count=100 if WHOLE else 50,
    deadline=None,
    # The same orders each time in `make test`, new ones each time at full length.
    derandomize=not WHOLE,
    database=None,
    suppress_health_check=list(HealthCheck),
)
