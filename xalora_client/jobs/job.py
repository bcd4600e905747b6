"""One task on its way through the network, followed once for everybody in this process who waits for it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import random
from time import monotonic
from typing import Any, TypeVar

from ..config import Credentials
from ..errors import (
    FIRST_MAY_BE_CHARGED,
    FIRST_PROBABLY_CHARGED,
    MAY_BE_CHARGED,
    NOTHING_CHARGED,
    RUNS_ON,
    STILL_RETRIEVABLE,
    AmbiguousCreateError,
    ClientClosedError,
    NetworkError,
    QueueLimitError,
    ResultDownloadError,
    ResultExpiredError,
    ResultFormatError,
    TaskCanceledError,
    TaskFailedError,
    TaskTimeoutError,
    XaloraError,
)
from ..events import Done, EventCallback, Running, Submitted, TaskEvent, UnknownStatus, Waiting, tell
from ..network.answers import failure_reason, miner_of, result_references
from ..network.sequencer import Network
from ..network.status import CANCELED, FAILED, FINISHED, RUNNING, WAITING, is_terminal
from ..polling.durations import PastRun
from ..polling.failed_polls import REFUSALS, PollTrouble, lost_sight
from ..polling.schedule import PollSchedule, delay_before_deadline
from ..polling.task_kind import TaskKind
from ..results import REMOTE_ENGINE, RunResult, Timing, WorkflowTaskResult
from ..transfer.upload import ImageDelivery
from .async_journal import AsyncJournal
from .preparation import PreparedTask
from .uploads import Uploads

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

CANCEL_ON_EXIT_SECONDS = 3.0
"""How long a cancelled caller is held up so that its remote task can be canceled."""

WITHDRAW_SECONDS = 5.0
"""How long the network may take to confirm a cancel before this machine takes over."""

CONFIRM_POLL_DELAY = 0.2
"""Seconds between two questions whether a cancel has taken effect."""

LEAST_POLL_GAP = 0.1
"""Seconds between two questions about the same task, whatever the reason for the second."""

_CONFLICT = 409

Fetch = Callable[["Job", WorkflowTaskResult], Coroutine[Any, Any, tuple[Path, ...]]]


class AskJournalAgain(Exception):
    """The work has no task after all: its sender ended unanswered, or an older cancel took the task."""


@dataclass
class _Clock:
    """When each part of the task's life began, on the monotonic clock."""

    began: float = field(default_factory=monotonic)
    submitted: float | None = None
    running: float | None = None
    ended: float | None = None
    transferred: float | None = None

    def timing(self) -> Timing:
        return Timing(
            queued=_between(self.submitted, self.running or self.ended),
            running=_between(self.running, self.ended),
            transfer=_between(self.ended, self.transferred),
            total=_between(self.began, self.transferred),
        )


class Job:
    """A task from its create to its result on disk.

    Callers come and go: each waits with a deadline of its own, and leaving does not disturb the others. The
    network is asked by one loop, whoever is waiting.

    Args:
        network: Where the task is.
        journal: Where its steps are written down.
        fetch: Brings the result's files to disk.
        uploads: Knows which inputs lie in the user's store.
        credentials: The task's own, used for all its requests.
        job_id: The client's id of the work.
        record_id: The journal's row, None where there is none.
        lease: This process's interest in that row, given back when the job is dropped.
        schedule: When to ask for the status.
        kind: The tasks of its kind.
        outage_limit: Seconds the sequencer may stay unreachable.
        task_id: Known from the start for a task taken up again.
        submitted_ago: Seconds since such a task was submitted.
        in_doubt: An earlier create of the work may have made a task.

    Attributes:
        waiters: How many callers wait.
        withdrawn: The last of them gave the task up; whoever wants the same work needs a new one.
        cancel_was_asked: It was to be canceled before any of them came, and the network had not confirmed it.
    """

    def __init__(
        self,
        network: Network,
        journal: AsyncJournal,
        fetch: Fetch,
        uploads: Uploads,
        *,
        credentials: Credentials,
        job_id: str,
        record_id: int | None,
        lease: str,
        schedule: PollSchedule,
        kind: TaskKind,
        outage_limit: float,
        usual_seconds: tuple[float, float] | None = None,
        task_id: str | None = None,
        submitted_ago: float = 0.0,
        in_doubt: bool = False,
    ) -> None:
        self.credentials = credentials
        self.job_id = job_id
        self.record_id = record_id
        self.lease = lease
        self.schedule = schedule
        self.task_id = task_id
        self.status = WAITING
        self.waiters = 0
        self.withdrawn = False
        self.cancel_was_asked = False
        self._network = network
        self._journal = journal
        self._fetch = fetch
        self._uploads = uploads
        self._outage_limit = outage_limit
        self._usual_seconds = usual_seconds
        self._kind = kind
        self._asked = -math.inf
        self._seen_under_way = 0.0  # seconds after the submission
        self._next_delays: list[float] = []
        self._listeners: list[EventCallback] = []
        self._last_event: TaskEvent | None = None
        self._clock = _Clock()
        self._creating: asyncio.Task[str] | None = None
        self._polling: asyncio.Task[WorkflowTaskResult] | None = None
        self._following: asyncio.Task[RunResult] | None = None
        self._withdrawal: asyncio.Task[None] | None = None
        self._returning: set[asyncio.Task[None]] = set()
        self._is_sender = False
        self._in_doubt = in_doubt
        self._is_known_to_exist = record_id is not None or task_id is None
        self._create_is_out = False
        self._closed = False
        self._grace_ends: float | None = None
        self._poked = False
        self._backs_off = False
        self._sleeper: asyncio.Future[None] | None = None
        self._deadlines: list[float] = []
        if task_id is not None:
            self._clock.submitted = monotonic() - submitted_ago
        kind.joined(self)

    # --- events -----------------------------------------------------------------------------------------

    def subscribe(self, listener: EventCallback) -> None:
        """Tell ``listener`` what happens from now on, beginning with the latest that has."""
        self._listeners.append(listener)
        if self._last_event is not None:
            self._tell(listener, self._last_event)

    def unsubscribe(self, listener: EventCallback) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, event: TaskEvent) -> None:
        self._last_event = event
        for listener in tuple(self._listeners):
            self._tell(listener, event)

    def _tell(self, listener: EventCallback, event: TaskEvent) -> None:
        if not tell(listener, event):
            self.unsubscribe(listener)

    # --- the create -------------------------------------------------------------------------------------

    def begin_create(self, prepared: PreparedTask, delivery: ImageDelivery, lifetime: float) -> None:
        """Start sending. The create is never torn by a cancelled caller: its answer decides about money.

        Args:
            lifetime: Seconds for which an input in the user's store must stay readable.
        """
        self._is_sender = True
        self._creating = _background(self._create(prepared, delivery, lifetime))

    def begin_waiting_for_owner(self) -> None:
        """Another process is sending this work: learn its task id from the journal."""
        self._creating = _background(self._task_id_from_owner())

    async def submitted(self) -> str:
        """Wait for the task id.

        Raises:
            AskJournalAgain: The process that would have learned it has ended.
            XaloraError: The task was not created, or that is not known.
        """
        if self._creating is not None:
            await asyncio.wait({self._creating})
            if self._creating.cancelled():
                raise self._left_behind()
            return self._creating.result()
        assert self.task_id is not None
        return self.task_id

    async def _create(self, prepared: PreparedTask, delivery: ImageDelivery, lifetime: float) -> str:
        parameters = dict(prepared.parameters)
        try:
            for name, image in prepared.images.items():
                delivered = await delivery.deliver(image, lifetime=lifetime)
                self._uploads.keep(self.job_id, delivered)
                parameters[name] = delivered.reference
            self.task_id = await self._network.create(
                self.credentials,
                job_id=self.job_id,
                task_type=prepared.task.kind_of_task,
                parameters=parameters,
                workflow_id=prepared.task.workflow_id,
                timeout_seconds=prepared.task.timeout_seconds,
                before_attempt=lambda: self._journal.sending(self.record_id),
                handed_over=self._note_handed_over,
                after_refusal=self._hold_back,
            )
        except BaseException as error:
            await self._note_not_created(error)
            raise
        self._clock.submitted = monotonic()
        await self._journal.submitted(self.record_id, self.task_id)
        logger.info("task %s (job %s) submitted", self.task_id, self.job_id)
        self.emit(Submitted(job_id=self.job_id, task_id=self.task_id, usual_seconds=self._usual_seconds))
        return self.task_id

    def _note_handed_over(self) -> None:
        self._create_is_out = True

    async def _hold_back(self, refusal: XaloraError) -> None:
        self._create_is_out = False
        await self._journal.held_back(self.record_id, refusal.what)
        if self._closed or not self.waiters:
            raise refusal

    async def _note_not_created(self, error: BaseException) -> None:
        is_settled = isinstance(error, XaloraError) and not isinstance(error, AmbiguousCreateError)
        if is_settled or not self._create_is_out:
            reason = str(error) or "It was given up before it was sent."
            await self._journal.not_sent(self.record_id, reason)
            if not self._in_doubt:
                await self._uploads.discard(self.job_id)
            elif isinstance(error, XaloraError):
                self._say_that_doubt_remains(error)
            return
        if not isinstance(error, XaloraError):
            logger.warning("job %s was sent, and its answer is not waited for any more", self.job_id)
        reason = str(error) or "It was given up before the network's answer came."
        await self._journal.unknown(self.record_id, self.job_id, reason)

    def _say_that_doubt_remains(self, error: XaloraError) -> None:
        error.money = FIRST_MAY_BE_CHARGED
        if error.status_code == _CONFLICT:
            error.money = FIRST_PROBABLY_CHARGED
            error.next_step = f"Look for job {self.job_id} in your account, and take its task up by its id."

    async def _task_id_from_owner(self) -> str:
        assert self.record_id is not None
        task_id = await self._journal.task_id_from_owner(self.record_id, self.lease)
        if task_id is None:
            raise AskJournalAgain
        self.task_id = task_id
        self._clock.submitted = monotonic()
        return task_id

    # --- waiting ----------------------------------------------------------------------------------------

    async def wait(self, *, timeout: float | None, queue_limit: float | None = None) -> RunResult:
        """Wait for the result.

        Args:
            timeout: Seconds from now; the wait never runs past it. None waits for ever.
            queue_limit: Seconds the task may stay in the network's queue, from when it was accepted.

        Raises:
            TaskTimeoutError: The time ended first. The task runs on.
            QueueLimitError: It was still queued when the limit ended. The task is still queued.
            AskJournalAgain: See :meth:`submitted`.
            XaloraError: The task ended without a result.
        """
        deadline = None if timeout is None else monotonic() + timeout
        following = self._follow_once()
        if deadline is not None:
            self._deadlines.append(deadline)
        try:
            if self._creating is not None:
                await _wait_until(self._creating, deadline)
            queue_deadline = None if queue_limit is None else monotonic() + queue_limit
            await _wait_until(following, _earliest(deadline, queue_deadline))
            is_queued = self.task_id is not None and self.status == WAITING
            if not following.done() and is_queued and _has_passed(queue_deadline):
                raise QueueLimitError(
                    f"The task has waited in the network's queue for {queue_limit:g} s, the limit set",
                    money=RUNS_ON,
                    next_step="Raise the queue limit, or try again when the network is less busy.",
                    task_id=self.task_id,
                    job_id=self.job_id,
                )
            await _wait_until(following, deadline)
            return self._outcome(following, timeout)
        finally:
            if deadline is not None:
                self._deadlines.remove(deadline)

    async def wait_for_answer(self, *, timeout: float | None) -> WorkflowTaskResult:
        """Wait until the task has ended, in whichever way; nothing is downloaded.

        Raises:
            TaskTimeoutError: The time ended first. The task runs on.
        """
        deadline = None if timeout is None else monotonic() + timeout
        polling = self._poll_once()
        if deadline is not None:
            self._deadlines.append(deadline)
        try:
            await _wait_until(polling, deadline)
            return self._outcome(polling, timeout)
        finally:
            if deadline is not None:
                self._deadlines.remove(deadline)

    def _outcome(self, work: asyncio.Task[T], timeout: float | None) -> T:
        if not work.done():
            raise self._time_is_up(timeout or 0.0)
        if work.cancelled():
            raise self._left_behind()
        return work.result()

    def _time_is_up(self, timeout: float) -> TaskTimeoutError:
        waited = f"the {round(timeout, 2):g} s of waiting"
        if self.task_id is not None and self.status == FINISHED:
            what = f"Task {self.task_id} has finished, and its result was not here within {waited}"
            money = STILL_RETRIEVABLE
            next_step = f"Fetch it by the task's id: `xalora resume {self.task_id}`."
        elif self.task_id is not None:
            what = f"Task {self.task_id} did not end within {waited} (last status: {self.status})"
            money = RUNS_ON
            next_step = f"Take it up again by its id: client.task({self.task_id!r}).result(), or `xalora "
            next_step += f"resume {self.task_id}`."
        elif self._may_be_created:
            what = f"The network did not answer the create of job {self.job_id} within {waited}"
            money = MAY_BE_CHARGED
            next_step = "See what became of it with `xalora tasks`."
        else:
            what = f"Job {self.job_id} could not be sent within {waited}"
            money = NOTHING_CHARGED
            next_step = "Try again later, or wait longer."
        return TaskTimeoutError(
            what, money=money, next_step=next_step, task_id=self.task_id, job_id=self.job_id
        )

    def _left_behind(self) -> ClientClosedError:
        """What a caller is told whose job was taken down under it."""
        what = "The client was closed while it waited for "
        if self.task_id is not None:
            what += f"task {self.task_id}"
            money = RUNS_ON
            next_step = f"Take it up again by its id: `xalora resume {self.task_id}`."
        elif self._may_be_created:
            what += f"the network's answer to the create of job {self.job_id}"
            money = MAY_BE_CHARGED
            next_step = "See what became of it with `xalora tasks`."
        else:
            what += f"job {self.job_id} to be sent"
            money = NOTHING_CHARGED
            next_step = "Run it again, and close the client after that."
        return ClientClosedError(
            what, money=money, next_step=next_step, task_id=self.task_id, job_id=self.job_id
        )

    @property
    def _may_be_created(self) -> bool:
        return self._create_is_out or not self._is_sender or self._in_doubt

    def _poll_once(self) -> asyncio.Task[WorkflowTaskResult]:
        if self._polling is None or _ended_by_outage(self._polling):
            self._polling = _background(self._poll())
        return self._polling

    def _follow_once(self) -> asyncio.Task[RunResult]:
        if self._following is None or _ended_by_outage(self._following):
            self._following = _background(self._follow())
        return self._following

    @property
    def ended(self) -> bool:
        """Whether the job has ended, one way or another; the same work asked again is looked up anew."""
        return self._closed or self._create_failed or _is_done(self._following)

    @property
    def result(self) -> RunResult | None:
        """The result, once its files are on disk."""
        following = self._following
        if following is None or not following.done() or following.cancelled() or following.exception():
            return None
        return following.result()

    @property
    def _create_failed(self) -> bool:
        creating = self._creating
        return (
            creating is not None and creating.done() and (creating.cancelled() or bool(creating.exception()))
        )

    def poke(self) -> None:
        """Ask for the status now rather than when the schedule says; once more if that is just being done."""
        self._poked = True
        if self._sleeper is not None:
            _wake(self._sleeper)

    def ask_now(self, again_after: Sequence[float]) -> bool:
        """See :class:`kind.UnderWay`; never where the caller or the network set the pace."""
        if self._sleeper is None or self._backs_off or self.schedule.interval is not None:
            return False
        self._next_delays[:] = again_after
        too_soon = self._asked + LEAST_POLL_GAP - monotonic()
        asyncio.get_running_loop().call_later(max(0.0, too_soon), _wake, self._sleeper)
        return True

    async def _poll(self) -> WorkflowTaskResult:
        """Ask until the task has ended, and write down how."""
        answer = await self._until_terminal(await self.submitted())
        self._clock.ended = now = monotonic()
        run = PastRun(self._seen_under_way, self._elapsed())
        is_measure = answer.status == FINISHED and self._is_sender
        self._kind.ended(self, run if is_measure else None, now)
        await self._journal.settle(self.record_id, answer, unnoticed=run.at_most - run.at_least)
        await self._uploads.discard(self.job_id)
        return answer

    async def _follow(self) -> RunResult:
        answer = await asyncio.shield(self._poll_once())
        task_id = answer.task_id
        if answer.status == FAILED:
            raise TaskFailedError(
                f"The network reports task {task_id} as failed ({failure_reason(answer.result)})",
                money="Whether a failed task is charged is the network's decision; ask with the task id.",
                next_step="Try again; another miner may succeed.",
                task_id=task_id,
                job_id=self.job_id,
            )
        if answer.status == CANCELED:
            raise TaskCanceledError(
                f"Task {task_id} was canceled, by its owner or by the network's own timeout",
                money="Whether a canceled task is charged is the network's decision.",
                next_step="Submit it again, with a longer timeout_seconds if the network ended it.",
                task_id=task_id,
                job_id=self.job_id,
            )
        try:
            files = await self._fetch(self, answer)
        except (ResultExpiredError, ResultFormatError) as error:
            # Fetching the same again cannot help, so the same work asked again must be new work.
            await self._journal.expired(self.record_id, str(error))
            raise
        self._clock.transferred = monotonic()
        miner = next((m for r in result_references(answer.result) if (m := miner_of(r, task_id))), None)
        await self._journal.kept(self.record_id, files, engine=REMOTE_ENGINE, miner=miner)
        timing = self._clock.timing()
        result = RunResult(
            files=files,
            engine=REMOTE_ENGINE,
            job_id=self.job_id,
            task_id=task_id,
            miner=miner,
            seconds=timing,
        )
        logger.info("task %s finished after %.1f s", task_id, timing.total or 0.0)
        self.emit(
            Done(
                job_id=self.job_id,
                task_id=task_id,
                engine=REMOTE_ENGINE,
                miner=miner,
                seconds=timing.total or 0.0,
                files=files,
            )
        )
        return result

    async def _until_terminal(self, task_id: str) -> WorkflowTaskResult:
        trouble = PollTrouble(self._outage_limit)
        if self._creating is not None:
            # Just sent; a task taken up again is asked about at once, since it may have ended long ago.
            await self._sleep(self._next_delay())
        while True:
            self._asked = monotonic()
            try:
                answer = await self._network.query(self.credentials, task_id, retries=0)
            except NetworkError as error:
                # One failed poll says nothing about a task that is known to exist, so the wait goes on.
                if isinstance(error, REFUSALS) and not self._is_known_to_exist:
                    raise
                pause = trouble.pause_after(error, monotonic())
                if pause is None:
                    raise lost_sight(error, task_id, self.job_id, trouble.seconds(monotonic())) from error
                self._backs_off = True
                await self._sleep(pause)
                self._backs_off = False
                continue
            trouble = PollTrouble(self._outage_limit)
            self._is_known_to_exist = True
            await self._note_status(answer)
            if is_terminal(answer.status):
                return answer
            self._seen_under_way = self._elapsed()
            await self._sleep(self._next_delay())

    def _next_delay(self) -> float:
        if self.withdrawn:
            return CONFIRM_POLL_DELAY
        scheduled = self.schedule.next_delay(self._elapsed(), random())
        return min(scheduled, self._next_delays.pop(0)) if self._next_delays else scheduled

    async def _note_status(self, answer: WorkflowTaskResult) -> None:
        changed = answer.status != self.status
        self.status = answer.status
        if answer.status == RUNNING and self._clock.running is None:
            self._clock.running = monotonic()
        if changed and not is_terminal(answer.status):
            await self._journal.status(self.record_id, answer.status)
        ids = {"job_id": self.job_id, "task_id": answer.task_id}
        if answer.status == WAITING:
            self.emit(Waiting(**ids, seconds=self._elapsed()))
        elif answer.status == RUNNING:
            self.emit(Running(**ids, seconds=monotonic() - (self._clock.running or monotonic())))
        elif not is_terminal(answer.status):
            if changed:
                logger.warning("task %s has the unknown status %r", answer.task_id, answer.status)
            self.emit(UnknownStatus(**ids, status=answer.status))

    def _elapsed(self) -> float:
        return monotonic() - (self._clock.submitted or monotonic())

    async def _sleep(self, delay: float) -> None:
        """Sleep for ``delay`` seconds, less if a waiter's deadline comes first or the job is poked."""
        loop = asyncio.get_running_loop()
        now = monotonic()
        nearest = min((d for d in self._deadlines if d > now), default=None)
        self._sleeper = sleeper = loop.create_future()
        timer = loop.call_later(delay_before_deadline(delay, now, nearest), _wake, sleeper)
        try:
            if not self._poked:
                await sleeper
        finally:
            timer.cancel()
            self._poked = False
            self._sleeper = None

    # --- leaving ----------------------------------------------------------------------------------------

    async def withdraw(self, within: float) -> RunResult | None:
        """Give the task up for a caller: cancel it, and give the network ``within`` seconds to confirm.

        Nothing happens to a task that somebody else waits for, here or in another process, or that has ended.
        A create that has not left yet does not leave any more.

        Returns:
            The result, should the task have finished meanwhile; else None. Whether the cancel was confirmed
            is told by :attr:`status`: ``canceled`` if so.
        """
        withdrawal = self._begin_withdrawal()
        if withdrawal is None:
            return None
        deadline = monotonic() + within
        await _wait_until(withdrawal, deadline)
        if self.status == FINISHED:
            await _wait_until(self._follow_once(), deadline)
        return self.result

    async def abandon(self, within: float) -> None:
        """Withdraw for a caller that is itself being cancelled: bounded, and nothing is raised."""
        withdrawal = self._begin_withdrawal()
        if withdrawal is not None:
            self._grace_ends = monotonic() + within
            await _wait_until(withdrawal, self._grace_ends)

    def _begin_withdrawal(self) -> asyncio.Task[None] | None:
        # Decided without waiting: of two callers that give up at once, the second is the last.
        if self.waiters > 1 or self._create_failed or is_terminal(self.status) or self._closed:
            return None
        self.withdrawn = True
        if self._withdrawal is None:
            self._withdrawal = _background(self._withdraw())
        return self._withdrawal

    async def _withdraw(self) -> None:
        creating = self._creating
        if creating is not None and not creating.done() and not self._create_is_out:
            creating.cancel()
            await asyncio.wait({creating})
            if self._is_sender:
                return
            # Another process sends it, and may have left it to this one to cancel.
            self._creating = self._polling = self._following = None
        try:
            if self._is_sender:
                await self.submitted()
            await asyncio.gather(*self._returning)
            task_id = await self._journal.cancel(self.record_id, self.lease, self.task_id)
            if task_id is None:
                return
            self.task_id = task_id
            await self._network.cancel(self.credentials, task_id)
        except XaloraError as error:
            logger.warning("cancel of task %s: %s", self.task_id or self.job_id, error)
            if self.task_id is None:
                return
        self.poke()
        await asyncio.wait({self._poll_once()}, timeout=WITHDRAW_SECONDS)
        # A task that goes on after all is there for whoever wants the same work.
        self.withdrawn = self.status in (CANCELED, FAILED)
        if not is_terminal(self.status):
            logger.warning("the cancel of task %s is not confirmed yet", self.task_id)
            self._withdrawal = None

    def give_back(self, lease: str) -> None:
        """Return the lease of a further caller: the job has one, and one a process is enough."""
        returning = _background(self._journal.leave(lease))
        self._returning.add(returning)
        returning.add_done_callback(self._returning.discard)

    @property
    def is_busy(self) -> bool:
        """Whether something is out in the network whose answer is still to be noted: a create or a cancel."""
        return bool(self._out_there())

    def _out_there(self) -> list[asyncio.Task[Any]]:
        creating = self._creating if self._create_is_out else None
        return [task for task in (creating, self._withdrawal) if task is not None and not task.done()]

    async def landed(self, timeout: float | None = None) -> bool:
        """Wait until the job is not busy any more; False where ``timeout`` seconds were not enough."""
        deadline = None if timeout is None else monotonic() + timeout
        while (out_there := self._out_there()) and not _has_passed(deadline):
            await _wait_until(out_there[0], deadline)
        return not out_there

    async def close(self) -> None:
        """End this job's own coroutines. What is out in the network gets a short grace to be answered."""
        self._closed = True
        self._kind.left(self)
        grace = CANCEL_ON_EXIT_SECONDS if self._grace_ends is None else self._grace_ends - monotonic()
        await self.landed(max(0.0, grace))
        tasks = (self._creating, self._withdrawal, self._polling, self._following)
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, *self._returning, return_exceptions=True)


_at_work: set[asyncio.Task[Any]] = set()
"""The loop itself holds its tasks weakly, and nobody else may hold those whose caller has gone."""


def _background(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(coroutine)
    _at_work.add(task)
    task.add_done_callback(_at_work.discard)
    # An error is told to whoever waits; if nobody does any more, it has been logged and journaled already.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def _wait_until(task: asyncio.Task[Any], deadline: float | None) -> None:
    """Wait for ``task`` or the deadline, disturbing neither."""
    timeout = None if deadline is None else max(0.0, deadline - monotonic())
    await asyncio.wait({task}, timeout=timeout)


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _is_done(task: asyncio.Task[Any] | None) -> bool:
    return task is not None and task.done()


def _earliest(*moments: float | None) -> float | None:
    return min((m for m in moments if m is not None), default=None)


def _has_passed(moment: float | None) -> bool:
    return moment is not None and monotonic() >= moment


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)


def _ended_by_outage(work: asyncio.Task[Any]) -> bool:
    """Whether ended work may be begun anew: it ended for a reason that does not settle the task's fate."""
    if not work.done():
        return False
    if work.cancelled():
        return True
    error = work.exception()
    return isinstance(error, NetworkError | ResultDownloadError) and not isinstance(
        error, AmbiguousCreateError | ResultExpiredError
    )
