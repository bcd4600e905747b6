"""From a task to its job: the journal says whether to send the work, join it, or take it up."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import aiohttp

from ..config import Credentials, IfUnknown, Settings
from ..errors import AmbiguousCreateError, ClientClosedError, JournalError
from ..network.sequencer import Network
from ..network.status import is_terminal
from ..polling.durations import usual_span
from ..polling.schedule import PollSchedule
from ..polling.task_kind import TaskKind
from ..results import REMOTE_ENGINE, RunResult, Timing, WorkflowTaskResult
from ..transfer.upload import LONGEST_SIGNATURE, ImageDelivery
from .async_journal import AsyncJournal
from .fetching import Fetcher
from .job import CANCEL_ON_EXIT_SECONDS, WITHDRAW_SECONDS, Job
from .preparation import PreparedTask, credentials_of, prepare
from .uploads import Uploads

if TYPE_CHECKING:
    from ..journal import Record
    from ..tasks import WorkflowTask

logger = logging.getLogger("xalora_client")

CLOSED_BEFORE = "The client was closed before the task was sent"

URL_MARGIN_SECONDS = 3600.0
"""How much longer than the task an uploaded input stays readable: clocks differ, and miners start late."""


@dataclass(frozen=True)
class Booking:
    """A caller's place on a job, or the kept result that makes one needless.

    ``cancel_was_asked`` tells that the job's task was to be canceled before this caller came, and that the
    network has not confirmed it.
    """

    record_id: int | None
    job: Job | None = None
    cancel_was_asked: bool = False
    kept: RunResult | None = None
    kept_lease: str = ""


class Dispatcher:
    """Knows every job of this process.

    Args:
        network: The sequencer.
        journal: The journal, kept going when it fails.
        session: For downloads; it never carries a key.
        delivery: How local images reach a miner.
        settings: The client's settings.
        credentials: The client's own, None where no key is set.
    """

    def __init__(
        self,
        network: Network,
        journal: AsyncJournal,
        session: aiohttp.ClientSession,
        delivery: ImageDelivery,
        settings: Settings,
        credentials: Credentials | None,
    ) -> None:
        self.journal = journal
        self.uploads = Uploads()
        self._network = network
        self._fetcher = Fetcher(network, journal, session, settings.result_base_url)
        self._delivery = delivery
        self._settings = settings
        self._credentials = credentials
        # Half the cores, the rest is for sending: were a batch prepared at once, its first task would be
        # sent with its last.
        self._preparing = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
        self._jobs: dict[int, Job] = {}
        self._loose: set[Job] = set()
        self._kinds: WeakValueDictionary[str, TaskKind] = WeakValueDictionary()
        self._task_credentials: dict[str, Credentials] = {}
        self._landings: set[asyncio.Task[None]] = set()
        self._seats = 0
        self._all_left = asyncio.Event()
        self._closed = False

    # --- finding the job -------------------------------------------------------------------------------

    async def book(
        self,
        task: WorkflowTask,
        *,
        reuse: bool,
        if_unknown: IfUnknown,
        reuse_among: AbstractSet[str] = frozenset(),
        schedule: PollSchedule | None = None,
    ) -> Booking:
        """A place on the job that does this work, or the kept result of it.

        Raises:
            AmbiguousCreateError: An earlier create of the same work has an unknown outcome.
            ClientClosedError: The client was closed meanwhile.
            XaloraError: The task can't be prepared.
        """
        async with self._preparing:
            prepared = await prepare(task, self._credentials, self._settings.sequencer_url)
        kind = await self._kind(prepared.kind)
        usual = usual_span(kind.past_runs)
        while True:
            try:
                claim = await self.journal.claim(
                    prepared, self._settings.sequencer_url, reuse, reuse_among, if_unknown
                )
            except JournalError:
                if self._closed:
                    raise ClientClosedError(CLOSED_BEFORE) from None
                raise
            # Until somebody answers for the lease nothing is awaited: a caller cancelled there would take
            # it along, and nobody could ever send this work again.
            if self._closed:
                await self.journal.leave(claim.lease)
                raise ClientClosedError(CLOSED_BEFORE)
            record = claim.record
            if claim.action == "unknown":
                raise _outcome_unknown(record)
            if claim.action == "kept":
                return Booking(record.id, kept=_kept_result(record), kept_lease=claim.lease)
            under_way = self._jobs.get(record.id)
            if under_way is None or under_way.ended:
                job = self._new_job(prepared, record, claim.lease, schedule, kind, usual)
                self._jobs[record.id] = job
                if claim.action == "send":
                    self._send(job, prepared)
                elif record.task_id is None:
                    job.begin_waiting_for_owner()
                job.cancel_was_asked = claim.cancel_was_asked
                return self._seat(job)
            under_way.give_back(claim.lease)
            if not under_way.withdrawn:
                under_way.cancel_was_asked |= claim.cancel_was_asked
                return self._seat(under_way)
            # Somebody has just given this work up. Once that is through, the journal says what is left of it.
            if not await under_way.landed(WITHDRAW_SECONDS):
                reuse, reuse_among = False, frozenset()

    async def take_up(
        self,
        task_id: str,
        credentials: Credentials | None = None,
        schedule: PollSchedule | None = None,
    ) -> Booking:
        """A place on the job of a task that was submitted before, here or anywhere.

        Raises:
            MissingKeyError: No key is known to ask with.
        """
        record = await self.journal.record_of_task(task_id, self._settings.sequencer_url)
        job = self._job_of(record, task_id)
        if job is not None:
            return self._seat(job)
        credentials = credentials or self.credentials_for(task_id)
        kind = await self._kind(record.work.kind) if record is not None else TaskKind()
        lease = await self.journal.hold(record.id) if record is not None else ""
        if record is not None and record.files and all(file.exists() for file in record.files):
            return Booking(record.id, kept=_kept_result(record), kept_lease=lease)
        job = self._job_of(record, task_id)
        if job is not None:
            job.give_back(lease)
            return self._seat(job)
        job = Job(
            self._network,
            self.journal,
            self._fetcher.fetch,
            self.uploads,
            credentials=credentials,
            job_id=record.job_id if record is not None else task_id,
            record_id=record.id if record is not None else None,
            lease=lease,
            schedule=schedule or PollSchedule(kind.past_runs),
            kind=kind,
            outage_limit=self._settings.outage_limit,
            task_id=task_id,
            submitted_ago=_seconds_since_submission(record),
        )
        if record is not None:
            self._jobs[record.id] = job
        else:
            self._loose.add(job)
        return self._seat(job)

    def _seat(self, job: Job) -> Booking:
        job.waiters += 1
        self._seats += 1
        self._all_left.clear()
        return Booking(job.record_id, job, cancel_was_asked=job.cancel_was_asked)

    def _job_of(self, record: Record | None, task_id: str) -> Job | None:
        """The job that follows a task, unless it has ended or been given up."""
        job = self._jobs.get(record.id) if record is not None else self._with_task_id(task_id)
        return None if job is None or job.ended or job.withdrawn else job

    def _with_task_id(self, task_id: str) -> Job | None:
        jobs = (*self._jobs.values(), *self._loose)
        return next((job for job in jobs if job.task_id == task_id), None)

    def _new_job(
        self,
        prepared: PreparedTask,
        record: Record,
        lease: str,
        schedule: PollSchedule | None,
        kind: TaskKind,
        usual_seconds: tuple[float, float] | None,
    ) -> Job:
        return Job(
            self._network,
            self.journal,
            self._fetcher.fetch,
            self.uploads,
            credentials=prepared.credentials,
            job_id=record.job_id,
            record_id=record.id,
            lease=lease,
            schedule=schedule or PollSchedule(kind.past_runs),
            kind=kind,
            outage_limit=self._settings.outage_limit,
            usual_seconds=usual_seconds,
            in_doubt=record.in_doubt,
            task_id=record.task_id,
            submitted_ago=_seconds_since_submission(record),
        )

    async def _kind(self, name: str) -> TaskKind:
        kind = self._kinds.get(name)
        if kind is None:
            # Of several that ask at once, all wait for what is known, and the first one's are everybody's.
            kind = self._kinds.setdefault(name, TaskKind(await self.journal.past_runs(name)))
        return kind

    def _send(self, job: Job, prepared: PreparedTask) -> None:
        timeout = prepared.task.timeout_seconds
        # Without a timeout of its own a task may be queued for days, whatever time its caller waits. What is
        # uploaded is deleted at the task's end, however long it could be read.
        lifetime = timeout + URL_MARGIN_SECONDS if timeout else LONGEST_SIGNATURE.total_seconds()
        job.begin_create(prepared, self._delivery, lifetime)

    def credentials_for(self, task_id: str, task: WorkflowTask | None = None) -> Credentials:
        """Whose key polls and cancels this task.

        Raises:
            MissingKeyError: No key is known.
        """
        if task is not None:
            return credentials_of(task, self._credentials)
        job = self._with_task_id(task_id)
        if job is not None:
            return job.credentials
        return self._task_credentials.get(task_id) or self._settings.credentials()

    # --- leaving ------------------------------------------------------------------------------------------

    async def leave(self, booking: Booking) -> None:
        """Give a place back. The last to leave takes the job down; the remote task is not touched.

        A create or a cancel that is out goes on without the caller until its answer is noted.
        """
        job = booking.job
        if job is None:
            await self.journal.leave(booking.kept_lease)
            return
        job.waiters -= 1
        self._seats -= 1
        if not self._seats:
            self._all_left.set()
        if job.task_id is not None and job.credentials != self._credentials:
            self._task_credentials[job.task_id] = job.credentials
        if job.waiters == 0:
            landing = asyncio.get_running_loop().create_task(self._land(job))
            self._landings.add(landing)
            landing.add_done_callback(self._landings.discard)
            if not job.is_busy:
                await asyncio.shield(landing)

    async def _land(self, job: Job) -> None:
        await job.landed()
        if job.waiters:
            return
        self._loose.discard(job)
        if job.record_id is not None and self._jobs.get(job.record_id) is job:
            del self._jobs[job.record_id]
        await job.close()
        if job.result is not None:
            self.journal.hold_while(job.result, job.lease)
        else:
            await self.journal.leave(job.lease)

    async def note_end(self, answer: WorkflowTaskResult) -> None:
        """Write down what an answer says of a task's end, if it has ended, and clean up after it."""
        if not is_terminal(answer.status):
            return
        record = await self.journal.record_of_task(answer.task_id, self._settings.sequencer_url)
        if record is not None:
            await self.journal.settle(record.id, answer)
            await self.uploads.discard(record.job_id)

    def poke(self, task_id: str) -> None:
        """Ask for a task's status now, wherever it is waited for."""
        for job in (*self._jobs.values(), *self._loose):
            if job.task_id == task_id:
                job.poke()

    async def close(self) -> None:
        """Take all jobs down; those who wait are told so by a ClientClosedError."""
        self._closed = True
        jobs = [*self._jobs.values(), *self._loose]
        await asyncio.gather(*(job.close() for job in jobs))
        if self._seats:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._all_left.wait(), CANCEL_ON_EXIT_SECONDS)
        await asyncio.gather(*self._landings, return_exceptions=True)


def _kept_result(record: Record) -> RunResult:
    return RunResult(
        files=record.files,
        engine=record.engine or REMOTE_ENGINE,
        job_id=record.job_id,
        task_id=record.task_id,
        device=record.device,
        miner=record.miner,
        seconds=Timing(
            queued=record.queued_seconds, running=record.running_seconds, total=record.total_seconds
        ),
        reused=True,
    )


def _seconds_since_submission(record: Record | None) -> float:
    if record is None or record.submitted_at is None:
        return 0.0
    return max(0.0, time() - record.submitted_at)


def _outcome_unknown(record: Record) -> AmbiguousCreateError:
    return AmbiguousCreateError(
        f"An earlier create of the same work (job {record.job_id}) went out and its outcome "
        "was never learned",
        money="That task may exist and be charged, so nothing was sent now.",
        next_step='Look for the job in your account. Then choose: if_unknown="resend" sends it again under '
        'the same job id, "forget" pays for a new one (`--if-unknown resend|forget`).',
        job_id=record.job_id,
    )
