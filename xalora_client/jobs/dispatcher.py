"""From a task to its job: the journal says whether to send it, join it, or give out its kept result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from time import monotonic, time
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ..concurrency import run_in_thread
from ..config import Credentials, IfUnknown, Settings
from ..errors import (
    STILL_RETRIEVABLE,
    ClientClosedError,
    JournalError,
    RequestRefusedError,
    ResultDownloadError,
)
from ..events import EventCallback
from ..journal import Claim, ClaimOptions, Event, Journal, Record
from ..journal.rules import Ending, Happened, Phase
from ..network.sequencer import Network
from ..network.status import is_terminal
from ..polling.failed_polls import NOT_FOUND
from ..polling.pacing import Pacing
from ..polling.schedule import PollSchedule
from ..polling.task_kind import TaskKind
from ..results import WorkflowTaskResult
from ..tasks import WorkflowTask
from ..transfer.upload import LONGEST_SIGNATURE, ImageDelivery
from . import messages
from .callers import Caller, Join
from .cancellation import CANCEL_SECONDS
from .claims import KEPT_SECONDS, claim, read, withdraw
from .job import Job, Tools, end_of, release_with
from .kept import are_whole, done_again, kept_result
from .preparation import Preparation, PreparedTask, credentials_of, work_of

T = TypeVar("T")

CLOSED_BEFORE = "The client was closed before the task was sent"

CLOSING_SECONDS = 3.0
"""How long answers about creates and cancels that are out are waited for when the client closes."""

LATE_SECONDS = 0.05

URL_MARGIN_SECONDS = 3600.0
"""How much longer than the task an uploaded input stays readable: clocks differ, and miners start late."""


class Dispatcher:
    """Knows every job of a client.

    Args:
        tools: What all jobs share.
        delivery: How local images reach a miner.
        settings: The client's settings.
        credentials: The client's own, None where no key is set.
    """

    def __init__(
        self, tools: Tools, delivery: ImageDelivery, settings: Settings, credentials: Credentials | None
    ) -> None:
        self.journal: Journal = tools.journal
        self.network: Network = tools.network
        self._tools = tools
        self._delivery = delivery
        self._settings = settings
        self._credentials = credentials
        self._preparation = Preparation()
        self._jobs: dict[int | str, Job] = {}
        self._kinds: WeakValueDictionary[str, TaskKind] = WeakValueDictionary()
        self._task_credentials: dict[str, Credentials] = {}
        self._closed = False

    # --- callers ------------------------------------------------------------------------------------------

    def caller(
        self,
        task: WorkflowTask,
        options: ClaimOptions,
        *,
        deadline: float | None = None,
        wants_files: bool = True,
        on_event: EventCallback | None = None,
        cancels: Callable[[], bool] = lambda: True,
        interval: float | None = None,
    ) -> Caller:
        """A caller of the job that does this task; `async with` joins it and leaves it.

        Args:
            deadline: Until when to wait for the journal, on the monotonic clock.
            wants_files: Whether the result's files are wanted on this disk.
            cancels: Whether a cancelled caller cancels the remote task; asked at that time.
            interval: Seconds between two polls; None adapts them to the task.

        Raises (when entered):
            AmbiguousCreateError: The outcome of an earlier create of the same task is not known.
            ClientClosedError: The client was closed meanwhile.
            TaskTimeoutError: The deadline came first; nothing was sent.
            XaloraError: The task can't be prepared, or can't be remembered.
        """
        prepared: PreparedTask | None = None

        async def find(join: Join) -> None:
            nonlocal prepared
            if prepared is None:
                prepared = await self._prepare(task, deadline)
            # The journal's own words on why it took too long come first.
            late = None if deadline is None else deadline + LATE_SECONDS
            finding = self._join_job_for(prepared, options, deadline, interval, join)
            await _before(
                finding, late, lambda waited: messages.not_sent_in_time(None, waited - LATE_SECONDS)
            )

        return Caller(find, wants_files=wants_files, on_event=on_event, cancels=cancels, claims=True)

    def caller_of(
        self,
        task_id: str,
        *,
        credentials: Credentials | None = None,
        deadline: float | None = None,
        wants_files: bool = True,
        on_event: EventCallback | None = None,
        cancels: Callable[[], bool] = lambda: False,
        interval: float | None = None,
    ) -> Caller:
        """A caller of the job of a task that was submitted before, here or anywhere.

        Args:
            deadline: Until when to wait for the journal, on the monotonic clock.

        Raises (when entered):
            MissingKeyError: No key is known to ask with.
            TaskTimeoutError: The deadline came first.
        """

        async def find(join: Join) -> None:
            finding = self._join_job_of(task_id, credentials, interval, wants_files, join)
            await _before(finding, deadline, lambda waited: messages.not_looked_up(task_id, waited))

        return Caller(find, wants_files=wants_files, on_event=on_event, cancels=cancels, claims=False)

    # --- finding the job ----------------------------------------------------------------------------------

    async def _prepare(self, task: WorkflowTask, deadline: float | None) -> PreparedTask:
        return await _before(
            self._preparation.prepare(task, self._credentials, self._settings.sequencer_url),
            deadline,
            lambda waited: messages.not_sent_in_time(None, waited),
        )

    async def _join_job_for(
        self,
        prepared: PreparedTask,
        options: ClaimOptions,
        deadline: float | None,
        interval: float | None,
        join: Join,
    ) -> None:
        """Have the caller join the job of the record that answers.

        The job is found, or made, and joined in one step: a job that nobody has joined has nobody to end it.
        """
        kind = await self._kind(prepared.kind)
        claim = await self._claim(prepared, options, deadline)
        if claim.action == "unknown" and options.if_unknown == "resend":
            settled = await self._settled(claim.record, prepared.credentials)
            claim = await self._claim(prepared, replace(options, if_unknown=settled), deadline)
        is_whole = claim.action == "kept" and await self._check(claim.record, claim.lease)
        # Until a job answers for the lease nothing is awaited: a caller cancelled there would take it along.
        record = claim.record
        if self._closed:
            self.journal.leave(claim.lease)
            raise ClientClosedError(CLOSED_BEFORE)
        if claim.action == "unknown":
            raise messages.outcome_unknown(record)
        asked_at = record.cancel_requested_at
        if asked_at is not None and abs(time() - asked_at) >= CANCEL_SECONDS:
            asked_at = None
        under_way = self._under_way(record.id)
        if under_way is not None:
            under_way.take_lease(claim.lease)
            join(under_way, asked_at)
            return
        job = self._new_job(record, claim.lease, prepared.credentials, kind, interval)
        if claim.action == "kept":
            self._give_out(job, record, claim.lease, is_whole)
            join(job, None)
            return
        sent = prepared if claim.action == "send" else None
        job.begin(sent, self._delivery, _lifetime(prepared.task.timeout_seconds))
        join(job, asked_at)

    async def _settled(self, record: Record, credentials: Credentials) -> IfUnknown:
        """What to do about a task that the network did not know any more, once it was asked again.

        Raises:
            NetworkError: It can't be asked. Nothing was sent.
        """
        assert record.task_id is not None
        try:
            await self.network.query(credentials, record.task_id)
        except RequestRefusedError as error:
            if error.status_code not in NOT_FOUND:
                raise
            return "forget"
        self.journal.note(record.id, Event.ACCEPTED, task_id=record.task_id, at=record.submitted_at or time())
        return "stop"

    async def _join_job_of(
        self,
        task_id: str,
        credentials: Credentials | None,
        interval: float | None,
        wants_files: bool,
        join: Join,
    ) -> None:
        """Have the caller join the job of a task, found or made in the same step."""
        url = self._settings.sequencer_url
        record = await read(lambda: self.journal.find(task_id=task_id, sequencer_url=url))
        if record is not None and wants_files and record.delivered and not record.files:
            # Its id was handed out. Until the files are too, they are still to be fetched.
            self.journal.note(record.id, Event.WANTED)
        under_way = self._with_task_id(task_id) or (record and self._under_way(record.id))
        if under_way:
            join(under_way, None)
            return
        credentials = credentials or self.credentials_for(task_id)
        kind = await self._kind(record.work.kind) if record is not None else TaskKind()
        lease = await self._lease(record)
        is_whole = record is not None and bool(record.files) and await self._check(record, lease)
        if (under_way := self._with_task_id(task_id)) is not None:
            self.journal.leave(lease)
            join(under_way, None)
            return
        job = self._new_job(record, lease, credentials, kind, interval, task_id)
        if record is not None and record.files:
            self._give_out(job, record, lease, is_whole)
        else:
            job.begin(None, self._delivery, 0.0)
        join(job, None)

    def _new_job(
        self,
        record: Record | None,
        lease: str,
        credentials: Credentials,
        kind: TaskKind,
        interval: float | None,
        task_id: str | None = None,
    ) -> Job:
        schedule = PollSchedule(kind.past_runs) if interval is None else PollSchedule(interval=interval)
        pacing = Pacing(schedule, kind)
        if record is not None and record.submitted_at is not None:
            pacing.submitted(max(0.0, time() - record.submitted_at))
        job = Job(
            self._tools,
            credentials=credentials,
            job_id=record.job_id if record is not None else task_id or "",
            record_id=None if record is None else record.id,
            lease=lease,
            pacing=pacing,
            task_id=task_id or (record.task_id if record is not None else None),
            in_doubt=record is not None and record.in_doubt,
            is_anothers=lambda given: self._with_task_id(given) is not None,
        )
        if credentials != self._credentials:
            job.accepted.add_done_callback(lambda accepted: self._remember(accepted, credentials))
        key = job.job_id if record is None else record.id
        self._jobs[key] = job
        # A job that has ended is not kept: with it its result, and its lease, would stay.
        job.fetched.add_done_callback(lambda _: self._forget(key, job))
        return job

    def _forget(self, key: int | str, job: Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]

    def _remember(self, accepted: asyncio.Future[str], credentials: Credentials) -> None:
        """Whose key a task with a key of its own is asked about with."""
        if not accepted.cancelled() and accepted.exception() is None:
            self._task_credentials[accepted.result()] = credentials

    async def _check(self, record: Record, lease: str) -> bool:
        """Whether the kept files are as they were when they came; damaged ones are removed.

        A caller that is cancelled here drops the lease: no job answers for it yet.
        """
        try:
            return await run_in_thread(lambda: are_whole(record))
        except BaseException:
            self.journal.leave(lease)
            raise

    def _give_out(self, job: Job, record: Record, lease: str, is_whole: bool) -> None:
        """Have the kept files answer if they are whole; else they are fetched anew."""
        if is_whole:
            self._jobs.pop(record.id, None)
            job.pacing.stop()
            result = kept_result(record, self._tools.limits)
            release_with(result.in_use, self.journal, lease)
            job.fetched.set_result(result)
            job.state = replace(job.state, phase=Phase.DONE, ending=Ending.RESULT, is_seen=True)
            if record.task_id is not None:
                job.accepted.set_result(record.task_id)
                job.answered.set_result(WorkflowTaskResult(record.task_id, "finished", record.result))
            job.events.emit(done_again(result))
            return
        self.journal.note(record.id, Event.FILES_GONE)
        if record.task_id is None:
            job.tell(Happened.NO_FILES)
            raise ResultDownloadError(
                f"The kept result of job {record.job_id} was damaged or removed",
                money=STILL_RETRIEVABLE,
                next_step="Run the task again.",
                job_id=record.job_id,
            )
        job.begin(None, self._delivery, 0.0)

    def _under_way(self, record_id: int) -> Job | None:
        job = self._jobs.get(record_id)
        if job is not None and job.is_done:
            del self._jobs[record_id]
            return None
        return job

    def _with_task_id(self, task_id: str) -> Job | None:
        return next((job for job in self._live() if job.task_id == task_id), None)

    def _live(self) -> Iterator[Job]:
        for key, job in list(self._jobs.items()):
            if job.is_done:
                self._jobs.pop(key, None)
            else:
                yield job

    async def _claim(self, prepared: PreparedTask, options: ClaimOptions, deadline: float | None) -> Claim:
        work = work_of(prepared, self._settings.sequencer_url)
        return await claim(self.journal, work, prepared.job_id, options, deadline)

    async def hold(self, job: Job, owner: object) -> None:
        """Keep a lease on the job's record until `owner` is gone."""
        if job.record_id is not None:
            release_with(owner, self.journal, await self._lease_on(job.record_id))

    async def _lease(self, record: Record | None) -> str:
        return "" if record is None else await self._lease_on(record.id)

    async def _lease_on(self, record_id: int) -> str:
        holding = self.journal.hold(record_id, patience=KEPT_SECONDS)
        try:
            return await asyncio.wrap_future(holding)
        except JournalError:
            return ""
        except asyncio.CancelledError:
            withdraw(self.journal, holding)
            raise

    async def _kind(self, name: str) -> TaskKind:
        kind = self._kinds.get(name)
        if kind is None:
            # Of several that ask at once, all wait for what is known, and the first one's are everybody's.
            runs = await read(lambda: self.journal.past_runs(name)) or []
            kind = self._kinds.setdefault(name, TaskKind(runs))
        return kind

    # --- tasks by their ids -------------------------------------------------------------------------------

    def credentials_for(self, task_id: str, task: WorkflowTask | None = None) -> Credentials:
        """Whose key polls and cancels this task.

        Raises:
            MissingKeyError: No key is known.
        """
        if task is not None:
            return credentials_of(task, self._credentials, self._settings.sequencer_url)
        job = self._with_task_id(task_id)
        if job is not None:
            return job.credentials
        return self._task_credentials.get(task_id) or self._settings.credentials()

    async def query(self, task_id: str, task: WorkflowTask | None = None) -> WorkflowTaskResult:
        """Ask once for a task's status, and note how it ended if it has.

        Raises:
            NetworkError: The status could not be read.
        """
        answer = await self.network.query(self.credentials_for(task_id, task), task_id)
        await self._note_end(answer)
        return answer

    async def cancel(self, task_id: str, task: WorkflowTask | None = None) -> dict[str, str]:
        """Have a task canceled, whoever waits for it: ``{task_id, msg}``.

        Raises:
            NetworkError: The cancel is refused, or not confirmed; the task may run on.
        """
        credentials = self.credentials_for(task_id, task)
        async with self.caller_of(task_id, credentials=credentials, wants_files=False) as caller:
            return await caller.cancel_by_order()

    async def _note_end(self, answer: WorkflowTaskResult) -> None:
        if not is_terminal(answer.status):
            return
        url = self._settings.sequencer_url
        record = await read(lambda: self.journal.find(task_id=answer.task_id, sequencer_url=url))
        if record is not None:
            event, values = end_of(answer)
            self.journal.note(record.id, event, **values)
            await self._tools.uploads.discard(record.job_id)

    # --- closing ------------------------------------------------------------------------------------------

    async def close(self, *, cancel: bool = False) -> None:
        """End all jobs; those who wait are told so by a ClientClosedError.

        Args:
            cancel: Have their tasks canceled first, for at most 3 s, unless other processes wait for them.
        """
        self._closed = True
        jobs = list(self._live())
        if cancel:
            await asyncio.gather(*(job.cancel(Happened.ALL_LEAVE, CLOSING_SECONDS) for job in jobs))
        await self.until_quiet()
        for job in jobs:
            job.tell(Happened.CLOSED)
        # Those who waited leave before the journal is closed.
        await asyncio.sleep(0)

    @property
    def is_idle(self) -> bool:
        """Whether no job of it is under way."""
        return next(self._live(), None) is None

    async def until_settled(self) -> None:
        """Wait until all cancels are confirmed, refused, or have lapsed; at most 10 s."""
        deadline = monotonic() + CANCEL_SECONDS
        for job in list(self._live()):
            await job.until(lambda job=job: job.is_quiet, deadline)  # type: ignore[misc]

    async def until_quiet(self) -> None:
        """Wait for answers about creates and cancels that are out; at most 3 s."""
        await asyncio.gather(*(job.until_quiet(CLOSING_SECONDS) for job in self._live()))


async def _before(
    coroutine: Coroutine[Any, Any, T], deadline: float | None, late: Callable[[float], Exception]
) -> T:
    """The coroutine's value before a deadline.

    Raises:
        Exception: What `late` makes of the seconds there were, where the deadline came first.
    """
    if deadline is None:
        return await coroutine
    began = monotonic()
    working = asyncio.ensure_future(coroutine)
    try:
        await asyncio.wait({working}, timeout=max(0.0, deadline - began))
        if working.done():
            return working.result()
        raise late(deadline - began)
    finally:
        working.cancel()


def _lifetime(timeout: float | None) -> float:
    # Without a timeout of its own a task may be queued for days, whatever time its caller waits. What is
    # uploaded is deleted at the task's end, however long it could be read.
    return timeout + URL_MARGIN_SECONDS if timeout else LONGEST_SIGNATURE.total_seconds()
