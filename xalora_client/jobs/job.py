"""One job, from before its create to its files, whoever in this process waits for it.

`Job.tell` maps what happened through `journal.rules.step` and carries out the commands; one asyncio task
drives the job through its phases. A cancel runs beside it, so that it never waits behind a poll that hangs.
All of it runs on the hub.

One file, since each function is a step of the same job, and `tell` is read beside all of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar

from ..concurrency import run_in_thread
from ..config import Credentials
from ..errors import (
    NetworkError,
    ResultError,
    XaloraError,
)
from ..events import Canceled, Done, Listeners, Running, UnknownStatus, Waiting
from ..journal import Event, Journal
from ..journal.rules import Command, Ending, Happened, JobState, Phase, step
from ..journal.transaction import NEVER_SENT
from ..media.limits import PixelLimits
from ..network.answers import failure_reason, miner_of, result_references
from ..network.sequencer import Network
from ..network.status import FAILED, FINISHED, RUNNING, WAITING, is_terminal
from ..polling.failed_polls import NOT_FOUND, REFUSALS, FailedPolls, status_unavailable_error
from ..polling.pacing import Pacing
from ..results import REMOTE_ENGINE, RunResult, Timing, WorkflowTaskResult
from ..transfer.upload import ImageDelivery
from . import messages
from .background import background
from .cancellation import Cancellation
from .creating import ClaimAgain, learn_task_id, learn_task_id_at_once, read_record, send_create
from .hub import end_stranded_calls
from .preparation import PreparedTask
from .uploads import Uploads

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

Fetch = Callable[["Job", WorkflowTaskResult], Coroutine[Any, Any, tuple[Path, ...]]]


@dataclass(frozen=True)
class Tools:
    """What all jobs of a client share.

    Args:
        fetch: Brings a finished task's files to disk.
        recover: Finds files that an earlier process brought, before the network is asked.
        uploads: The inputs that lie in the user's store.
        outage_limit: Seconds the sequencer may stay unreachable.
        limits: What the pixels of a result may take.
    """

    network: Network
    journal: Journal
    fetch: Fetch
    recover: Callable[[Job], Coroutine[Any, Any, tuple[Path, ...]]]
    uploads: Uploads
    outage_limit: float
    limits: PixelLimits


@dataclass
class Clock:
    """When each part of the job's life began, on the monotonic clock."""

    began: float = field(default_factory=monotonic)
    submitted: float | None = None
    running: float | None = None
    ended: float | None = None

    def timing(self) -> Timing:
        now = monotonic()
        return Timing(
            queued=_between(self.submitted, self.running or self.ended),
            running=_between(self.running, self.ended),
            transfer=_between(self.ended, now),
            total=_between(self.began, now),
        )


class Job:
    """One job, followed once for everybody in this process who waits for it.

    Args:
        tools: What all jobs share.
        credentials: The task's own, used for all its requests.
        job_id: The client's id of it.
        record_id: The journal's record, None where there is none.
        lease: This process's lease on the record, dropped when the job is done and its result is gone.
        pacing: When to ask for the status.
        task_id: Known from the start for a task taken up again.
        in_doubt: An earlier create may have made a task.
        is_anothers: Whether a task id is that of another job of this client.

    Attributes:
        accepted: The task id.
        answered: The network's last answer about a task that has ended.
        fetched: The result, files on disk.
        events: Whoever wants to be told each step.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        credentials: Credentials,
        job_id: str,
        record_id: int | None,
        lease: str,
        pacing: Pacing,
        task_id: str | None = None,
        in_doubt: bool = False,
        is_anothers: Callable[[str], bool] = lambda _: False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.credentials = credentials
        self.is_anothers = is_anothers
        self.job_id = job_id
        self.record_id = record_id
        self.task_id = task_id
        self.status = WAITING
        self._told: dict[str, Any] = {"queue_position": None, "miner": None}
        self.state = JobState(
            phase=Phase.PREPARING if task_id is None else Phase.WAITING,
            task_id_known=task_id is not None,
            in_doubt=in_doubt,
        )
        self.pacing = pacing
        self.accepted: asyncio.Future[str] = loop.create_future()
        self.answered: asyncio.Future[WorkflowTaskResult] = loop.create_future()
        self.fetched: asyncio.Future[RunResult] = loop.create_future()
        self.cancellation = Cancellation()
        self.events = Listeners()
        self.tools = tools
        self.lease = lease
        self.clock = Clock()
        self._error: BaseException | None = None
        self._changed: asyncio.Future[None] = loop.create_future()
        self._driver: asyncio.Task[None] | None = None
        self._may_send = True
        for future in (self.accepted, self.answered, self.fetched):
            # An error is told to whoever waits; if nobody does any more, it is logged and journaled.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())

    # --- rules --------------------------------------------------------------------------------------------

    def tell(self, happened: Happened) -> None:
        """Say what happened; the rules decide what follows."""
        had_wish = self.state.wish is not None
        self.state, commands = step(self.state, happened)
        if had_wish and self.state.wish is None and not self.is_done:
            self.cancellation.wishes_ended += 1
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)
        for command in commands:
            if command is Command.CANCEL:
                self.cancellation.begin(self)
            elif command is Command.STOP_CREATE:
                assert self._driver is not None
                self._may_send = False
                self._driver.cancel()
            elif command is Command.STOP:
                self._stop()

    def create_leaves(self) -> None:
        """The network may have the whole create from now on.

        Raises:
            CancelledError: It must not leave any more. The driver's own cancellation takes some turns of the
                event loop to reach the request, and nobody would wait for the answer.
        """
        if not self._may_send:
            raise asyncio.CancelledError
        self.tell(Happened.CREATE_LEFT)

    @property
    def is_done(self) -> bool:
        """Whether this job has ended; whoever wants the same task asks the journal anew."""
        return self.state.phase is Phase.DONE

    @property
    def was_canceled_before(self) -> bool:
        """Whether the first answer about a task taken up was that it is canceled."""
        return self.state.ending is Ending.CANCELED and not self.state.is_seen

    @property
    def may_be_created(self) -> bool:
        """Whether the network may have, or get, a task of this job that has no id here yet."""
        return self.state.is_out or self.state.in_doubt or not self.state.sends

    async def cancel(self, happened: Happened, within: float) -> None:
        """Have the task canceled, and wait for at most `within` seconds until that is settled."""
        self.cancellation.waited_until = monotonic() + within
        # A call whose event loop was closed waits for nothing any more.
        await end_stranded_calls()
        await learn_task_id_at_once(self)
        self.tell(happened)
        if await self.until(lambda: self._has_no_wish, self.cancellation.waited_until):
            self.cancellation.waited_until = math.inf

    async def until_quiet(self, within: float) -> None:
        """Wait for at most `within` seconds while an answer about a create or a cancel is outstanding.

        What a caller that gave the job up has waited for already is not waited for again.
        """
        await self.until(lambda: self.is_quiet, min(monotonic() + within, self.cancellation.waited_until))

    @property
    def is_quiet(self) -> bool:
        """Whether no answer about a create or a cancel is outstanding."""
        return self.state.phase is not Phase.SENDING and self._has_no_wish

    def take_lease(self, lease: str) -> None:
        """A further caller's lease on the record: one is enough for a process."""
        if self.lease:
            self.tools.journal.leave(lease)
        else:
            self.lease = lease

    @property
    def _has_no_wish(self) -> bool:
        return self.state.wish is None or self.is_done

    async def until(self, holds: Callable[[], bool], deadline: float) -> bool:
        """Wait until something holds of the job; False where the deadline (monotonic clock) came first."""
        while not holds():
            if (left := deadline - monotonic()) <= 0:
                return False
            await self.changed(left)
        return True

    async def changed(self, within: float) -> bool:
        """Wait until something has happened to the job; False where `within` seconds were not enough."""
        done, _ = await asyncio.wait({self._changed}, timeout=within)
        return bool(done)

    def end(self, happened: Happened, error: BaseException) -> None:
        """End the job by what happened; whoever waits gets `error`."""
        self._error = error
        self.tell(happened)

    def _stop(self) -> None:
        """The job is done: whoever waits is told, and nothing is asked any more."""
        error = self._error or messages.closed(self)
        for future in (self.accepted, self.answered, self.fetched):
            if not future.done() and self.state.ending is not Ending.RESULT:
                future.set_exception(error)
        self.pacing.stop()
        self._may_send = False
        if self._driver is not None and self._driver is not asyncio.current_task():
            self._driver.cancel()
        result = self.fetched.result() if self.state.ending is Ending.RESULT else None
        if result is None:
            self.tools.journal.leave(self.lease)
        else:
            release_with(result.in_use, self.tools.journal, self.lease)

    # --- driving ------------------------------------------------------------------------------------------

    def begin(self, prepared: PreparedTask | None, delivery: ImageDelivery, lifetime: float) -> None:
        """Start driving.

        Args:
            prepared: The task to send; None where it was sent, or another process sends it.
            delivery: How local images reach a miner.
            lifetime: Seconds for which an input in the user's store must stay readable.
        """
        if prepared is not None:
            self.state = replace(self.state, sends=True)
            driving = self._drive(lambda: send_create(self, prepared, delivery, lifetime))
        elif self.task_id is None:
            driving = self._drive(lambda: learn_task_id(self))
        else:
            self.clock.submitted = monotonic() - self.pacing.elapsed()
            self.accepted.set_result(self.task_id)
            driving = self._drive(None)
        self._driver = background(driving)
        self._driver.add_done_callback(self._driver_ended)

    async def _drive(self, first: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        try:
            if first is not None:
                await first()
            elif await self._recovered():
                return
            if not self.is_done:
                assert self.task_id is not None
                await self._follow(self.task_id, is_new=first is not None)
        except asyncio.CancelledError:
            # Stopped by the rules, which have told whoever waits. The loop's end tells them here.
            if not self.is_done:
                self.tell(Happened.CLOSED)
        except Exception as error:
            if not isinstance(error, XaloraError):
                logger.exception("job %s ended by an unforeseen error", self.job_id)
                error = messages.unforeseen(self, error)
            if not self.is_done:
                self.end(Happened.OUT_OF_SIGHT, error)

    async def _recovered(self) -> bool:
        """Whether the result is on this disk already, from a process that ended before it could note so."""
        assert self.task_id is not None
        if self.record_id is None or not self.state.fetchers:
            return False
        files = await self.tools.recover(self)
        if not files or self.is_done:
            return False
        self.status = FINISHED
        self.answered.set_result(WorkflowTaskResult(self.task_id, FINISHED))
        described = await run_in_thread(lambda: self.tools.journal.results.describe(files))
        self.finish(files, described, None)
        return True

    def accept(self, task_id: str) -> None:
        """The network has accepted the task."""
        self.task_id = task_id
        self.clock.submitted = monotonic()
        self.pacing.submitted()
        self.tell(Happened.CREATED)

    def _driver_ended(self, driver: asyncio.Task[None]) -> None:
        # Stopped before its first step.
        if not self.is_done:
            if self.state.sends:
                self.tools.journal.note(self.record_id, Event.NOT_SENT, error=NEVER_SENT)
            self.end(Happened.NOT_CREATED, ClaimAgain())

    async def _follow(self, task_id: str, *, is_new: bool) -> None:
        answer = await self._until_ended(task_id, is_new=is_new)
        if answer is None:
            return
        self.clock.ended = monotonic()
        run = self.pacing.ended(is_measure=answer.status == FINISHED and self.state.sends)
        # Before anybody is told, and may end the program.
        await self.tools.uploads.discard(self.job_id)
        measured = None if run is None else (run.at_least, run.at_most)
        event, values = end_of(answer)
        if event is Event.CANCELED:
            record = await read_record(self)
            self.cancellation.asked_at = None if record is None else record.cancel_requested_at
        self.tools.journal.note(self.record_id, event, **values, run=measured, at=time())
        self.answered.set_result(answer)
        if event is Event.FINISHED:
            self.tell(Happened.FINISHED)
        elif event is Event.FAILED:
            self.end(Happened.FAILED, messages.failed(self, answer))
        else:
            self.events.emit(Canceled(job_id=self.job_id, task_id=task_id))
            self.end(Happened.CANCELED, messages.canceled(self, answer))
        if self.state.phase is Phase.FETCHING:
            await self._fetch(answer)

    async def _fetch(self, answer: WorkflowTaskResult) -> None:
        journal = self.tools.journal
        try:
            files = await self.tools.fetch(self, answer)
            described = await run_in_thread(lambda: journal.results.describe(files))
        except XaloraError as error:
            if isinstance(error, ResultError):
                error.miner = _miner_of(answer)
                if error.is_worthless:
                    # Fetching the same again can't help, so the same task asked again must be a new one.
                    journal.note(self.record_id, Event.EXPIRED, error=str(error))
            self.end(Happened.NO_FILES, error)
            return
        self.finish(files, described, answer)

    def finish(
        self, files: Sequence[Path], described: list[tuple[str, int, str]], answer: WorkflowTaskResult | None
    ) -> None:
        """The result's files are on disk, whole."""
        assert self.task_id is not None
        miner = None if answer is None else _miner_of(answer)
        self.tools.journal.note(
            self.record_id, Event.KEPT, files=described, engine=REMOTE_ENGINE, miner=miner, device=None
        )
        timing = self.clock.timing()
        if answer is not None and answer.inference_seconds is not None:
            timing = replace(timing, running=answer.inference_seconds)
        self.fetched.set_result(
            RunResult(
                files=tuple(files),
                engine=REMOTE_ENGINE,
                job_id=self.job_id,
                task_id=self.task_id,
                miner=miner,
                seconds=timing,
                note="" if answer is None else answer.message,
                record_id=self.record_id,
                limits=self.tools.limits,
            )
        )
        logger.info("task %s finished after %.1f s", self.task_id, timing.total or 0.0)
        self.events.emit(
            Done(
                job_id=self.job_id,
                task_id=self.task_id,
                engine=REMOTE_ENGINE,
                miner=miner,
                seconds=timing.total or 0.0,
                files=tuple(files),
            )
        )
        self.tell(Happened.FILES_HERE)

    # --- polling ------------------------------------------------------------------------------------------

    async def _until_ended(self, task_id: str, *, is_new: bool) -> WorkflowTaskResult | None:
        """Ask until the task has ended; None where the job has ended by it."""
        trouble = FailedPolls(self.tools.outage_limit)
        # A task that was journaled, or answered for once, is known to exist.
        is_known = self.record_id is not None
        if is_new:
            await self.pacing.until_next()
        while True:
            self.pacing.asks()
            try:
                answer = await self._ask(task_id)
            except NetworkError as error:
                # To those who only wait for the id this is as good as an answer.
                self.tell(Happened.NOT_ANSWERED)
                # One failed poll says nothing about a task that is known to exist, so the wait goes on.
                if isinstance(error, REFUSALS) and not is_known:
                    self.end(Happened.OUT_OF_SIGHT, error)
                    return None
                pause = trouble.pause_after(error, monotonic())
                if pause is None:
                    self._out_of_sight(error, trouble.seconds(monotonic()))
                    return None
                await self.pacing.back_off(pause)
                continue
            trouble = FailedPolls(self.tools.outage_limit)
            is_known = True
            self._note_status(answer)
            if is_terminal(answer.status):
                return answer
            self.pacing.is_under_way()
            await self.pacing.until_next()

    async def _ask(self, task_id: str) -> WorkflowTaskResult:
        """One poll, or what the cancel beside it hears first."""
        asking = background(self.tools.network.query(self.credentials, task_id, retries=0))
        try:
            await asyncio.wait({asking, self.cancellation.heard}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not asking.done():
                asking.cancel()
        return self.cancellation.heard.result() if self.cancellation.heard.done() else asking.result()

    def _note_status(self, answer: WorkflowTaskResult) -> None:
        changed = answer.status != self.status
        told = {"queue_position": answer.queue_position, "miner": answer.miner}
        is_news = changed or told != self._told
        self.status, self._told = answer.status, told
        ids = {"job_id": self.job_id, "task_id": answer.task_id}
        if is_terminal(answer.status):
            return
        if answer.status == RUNNING and self.clock.running is None:
            self.clock.running = monotonic()
        if is_news:
            self.tools.journal.note(self.record_id, Event.STATUS, status=answer.status, **told, at=time())
        self.tell(Happened.RUNS if answer.status == RUNNING else Happened.WAITS)
        if answer.status == WAITING:
            seconds, position = self.pacing.elapsed(), answer.queue_position
            self.events.emit(
                Waiting(job_id=self.job_id, task_id=answer.task_id, seconds=seconds, position=position)
            )
        elif answer.status == RUNNING:
            self.events.emit(Running(**ids, seconds=monotonic() - (self.clock.running or monotonic())))
        else:
            if changed:
                logger.warning("task %s has the unknown status %r", answer.task_id, answer.status)
            self.events.emit(UnknownStatus(**ids, status=answer.status))

    def _out_of_sight(self, error: NetworkError, seconds: float) -> None:
        assert self.task_id is not None
        if isinstance(error, REFUSALS) and error.status_code in NOT_FOUND:
            self.not_known()
        else:
            self.end(
                Happened.OUT_OF_SIGHT, status_unavailable_error(error, self.task_id, self.job_id, seconds)
            )

    def not_known(self) -> None:
        assert self.task_id is not None
        error = messages.not_known(self)
        self.tools.journal.note(self.record_id, Event.NOT_KNOWN, error=error.what)
        self.end(Happened.NOT_KNOWN, error)


def end_of(answer: WorkflowTaskResult) -> tuple[Event, dict[str, Any]]:
    """How the journal notes the end of a task."""
    told = {"miner": answer.miner, "inference_seconds": answer.inference_seconds}
    if answer.status == FINISHED:
        return Event.FINISHED, {"result": answer.result, **told}
    if answer.status == FAILED:
        return Event.FAILED, {"error": failure_reason(answer.result, answer.message), **told}
    return Event.CANCELED, {"error": answer.message or None, **told}


def _miner_of(answer: WorkflowTaskResult) -> str | None:
    """Who worked on a task: as the network tells, else as a storage key names him."""
    if answer.miner:
        return answer.miner
    references = result_references(answer.result)
    return next((miner for each in references if (miner := miner_of(each, answer.task_id))), None)


def release_with(owner: object, journal: Journal, lease: str) -> None:
    """Drop a lease when `owner` is gone: a result in use keeps its files, whatever the limit."""
    if lease:
        release = weakref.finalize(owner, journal.leave, lease)
        # The journal drops its leases itself when the process ends.
        release.atexit = False


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
