"""One task on its way through the network, followed once for everybody in this process who waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from random import random
from time import monotonic
from typing import Any, TypeVar

from .config import Credentials
from .errors import (
    AmbiguousCreateError,
    NetworkError,
    QueueLimitError,
    RateLimitError,
    ResultDownloadError,
    ResultExpiredError,
    ResultFormatError,
    ServiceError,
    TaskCanceledError,
    TaskFailedError,
    TaskTimeoutError,
    XaloraConnectionError,
    XaloraError,
)
from .events import Done, EventCallback, Running, Submitted, TaskEvent, UnknownStatus, Waiting
from .ledger import Ledger
from .media.delivery import DeliveredImage, ImageDelivery
from .network import RUNS_ON, Network
from .preparation import PreparedTask
from .results import REMOTE_ENGINE, RunResult, Timing, WorkflowTaskResult, miner_of, result_references
from .rules import (
    CANCELED,
    FAILED,
    RUNNING,
    WAITING,
    PollSchedule,
    delay_before_deadline,
    is_terminal,
)

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

CANCEL_ON_EXIT_SECONDS = 3.0
"""How long a cancelled caller is held up so that its remote task can be canceled."""

WITHDRAW_SECONDS = 5.0
"""How long the network may take to confirm a cancel before this machine takes over."""

URL_MARGIN_SECONDS = 3600.0
"""How much longer than the task an uploaded input stays readable: clocks differ, and miners start late."""

Fetch = Callable[["Flight", WorkflowTaskResult], Coroutine[Any, Any, tuple[Path, ...]]]


class OwnerGone(Exception):
    """The process that was sending this work ended before the network answered: ask the journal again."""


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


class Flight:
    """A task from its create to its result on disk.

    Callers come and go: each waits with a deadline of its own, and leaving does not disturb the others. The
    network is asked by one loop, whoever is waiting.

    Args:
        network: Where the task is.
        ledger: Where its steps are written down.
        fetch: Brings the result's files to disk.
        credentials: The task's own, used for all its requests.
        job_id: The client's id of the work.
        entry_id: The journal's row, None where there is none.
        ticket: This process's interest in that row, given back when the flight is dropped.
        schedule: When to ask for the status.
        outage_limit: Seconds the sequencer may stay unreachable.
        task_id: Known from the start for a task taken up again.
        submitted_ago: Seconds since such a task was submitted.
    """

    def __init__(
        self,
        network: Network,
        ledger: Ledger,
        fetch: Fetch,
        *,
        credentials: Credentials,
        job_id: str,
        entry_id: int | None,
        ticket: str,
        schedule: PollSchedule,
        outage_limit: float,
        usual_seconds: tuple[float, float] | None = None,
        task_id: str | None = None,
        submitted_ago: float = 0.0,
    ) -> None:
        self.credentials = credentials
        self.job_id = job_id
        self.entry_id = entry_id
        self.ticket = ticket
        self.schedule = schedule
        self.task_id = task_id
        self.status = WAITING
        self.waiters = 0
        self._network = network
        self._ledger = ledger
        self._fetch = fetch
        self._outage_limit = outage_limit
        self._usual_seconds = usual_seconds
        self._listeners: list[EventCallback] = []
        self._last_event: TaskEvent | None = None
        self._clock = _Clock()
        self._creating: asyncio.Task[str] | None = None
        self._polling: asyncio.Task[WorkflowTaskResult] | None = None
        self._following: asyncio.Task[RunResult] | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._deadlines: list[float] = []
        self._delivered: list[DeliveredImage] = []
        if task_id is not None:
            self._clock.submitted = monotonic() - submitted_ago

    # --- events -----------------------------------------------------------------------------------------

    def subscribe(self, listener: EventCallback) -> None:
        """Tell ``listener`` what happens from now on, beginning with the latest that has."""
        self._listeners.append(listener)
        if self._last_event is not None:
            listener(self._last_event)

    def unsubscribe(self, listener: EventCallback) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, event: TaskEvent) -> None:
        self._last_event = event
        for listener in tuple(self._listeners):
            listener(event)

    # --- the create -------------------------------------------------------------------------------------

    def begin_create(self, prepared: PreparedTask, delivery: ImageDelivery, lifetime: float) -> None:
        """Start sending. The create is never torn by a cancelled caller: its answer decides about money."""
        self._creating = _background(self._create(prepared, delivery, lifetime))

    def begin_waiting_for_owner(self) -> None:
        """Another process is sending this work: learn its task id from the journal."""
        self._creating = _background(self._task_id_from_owner())

    async def submitted(self) -> str:
        """Wait for the task id."""
        if self._creating is not None:
            return await asyncio.shield(self._creating)
        assert self.task_id is not None
        return self.task_id

    async def _create(self, prepared: PreparedTask, delivery: ImageDelivery, lifetime: float) -> str:
        parameters = dict(prepared.parameters)
        try:
            for name, image in prepared.images.items():
                delivered = await delivery.deliver(image, lifetime=lifetime + URL_MARGIN_SECONDS)
                self._delivered.append(delivered)
                parameters[name] = delivered.reference
        except BaseException as error:
            await self._ledger.not_sent(self.entry_id, str(error))
            await self._discard_inputs()
            raise
        try:
            self.task_id = await self._network.create(
                self.credentials,
                job_id=self.job_id,
                task_type=prepared.task.kind_of_task,
                parameters=parameters,
                workflow_id=prepared.task.workflow_id,
                timeout_seconds=prepared.task.timeout_seconds,
                before_attempt=lambda: self._ledger.sending(self.entry_id),
                after_refusal=lambda error: self._ledger.held_back(self.entry_id, error.what),
            )
        except AmbiguousCreateError as error:
            await self._ledger.unknown(self.entry_id, self.job_id, str(error))
            raise
        except XaloraError as error:
            await self._ledger.not_sent(self.entry_id, str(error))
            await self._discard_inputs()
            raise
        self._clock.submitted = monotonic()
        await self._ledger.submitted(self.entry_id, self.task_id)
        logger.info("task %s (job %s) submitted", self.task_id, self.job_id)
        self.emit(Submitted(job_id=self.job_id, task_id=self.task_id, usual_seconds=self._usual_seconds))
        return self.task_id

    async def _task_id_from_owner(self) -> str:
        assert self.entry_id is not None
        task_id = await self._ledger.task_id_from_owner(self.entry_id, self.ticket)
        if task_id is None:
            raise OwnerGone
        self.task_id = task_id
        self._clock.submitted = monotonic()
        return task_id

    async def _discard_inputs(self) -> None:
        for delivered in self._delivered:
            try:
                await delivered.discard()
            except XaloraError as error:
                logger.warning("an uploaded input could not be deleted: %s", error)
        self._delivered.clear()

    # --- waiting ----------------------------------------------------------------------------------------

    async def wait(self, *, timeout: float | None, queue_limit: float | None = None) -> RunResult:
        """Wait for the result.

        Args:
            timeout: Seconds from now; the wait never runs past it. None waits for ever.
            queue_limit: Seconds the task may stay in the network's queue.

        Raises:
            TaskTimeoutError: The time ended first. The task runs on.
            QueueLimitError: It was still queued when the limit ended. The task is still queued.
            XaloraError: The task ended without a result.
        """
        now = monotonic()
        deadline = None if timeout is None else now + timeout
        queue_deadline = None if queue_limit is None else now + queue_limit
        following = self._follow_once()
        if deadline is not None:
            self._deadlines.append(deadline)
        try:
            await _wait_until(following, _earliest(deadline, queue_deadline))
            if not following.done() and self.status == WAITING and _has_passed(queue_deadline):
                raise QueueLimitError(
                    f"The task has waited in the network's queue for {queue_limit:g} s, the limit set",
                    money=RUNS_ON,
                    next_step="Raise the queue limit, or try again when the network is less busy.",
                    task_id=self.task_id,
                    job_id=self.job_id,
                )
            await _wait_until(following, deadline)
            if not following.done():
                raise self._time_is_up(timeout)
            return following.result()
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
            if not polling.done():
                raise self._time_is_up(timeout)
            return polling.result()
        finally:
            if deadline is not None:
                self._deadlines.remove(deadline)

    def _time_is_up(self, timeout: float | None) -> TaskTimeoutError:
        task_id = self.task_id or "not yet known"
        return TaskTimeoutError(
            f"Task {task_id} did not end within the {timeout:g} s of waiting (last status: {self.status})",
            money=RUNS_ON,
            next_step=f"Take it up again by its id: client.task({task_id!r}).result(), or `xalora resume "
            f"{task_id}`.",
            task_id=self.task_id,
            job_id=self.job_id,
        )

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
        """Whether the flight has ended, one way or another; the same work asked again is looked up anew."""
        creating, following = self._creating, self._following
        if creating is not None and creating.done() and (creating.cancelled() or creating.exception()):
            return True
        return following is not None and following.done()

    @property
    def is_out_there(self) -> bool:
        """Whether the network has accepted the task and is not known to have ended it."""
        return self.task_id is not None and not is_terminal(self.status)

    def poke(self) -> None:
        """Ask for the status now rather than when the schedule says."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def _poll(self) -> WorkflowTaskResult:
        """Ask until the task has ended, and write down how."""
        answer = await self._until_terminal(await self.submitted())
        self._clock.ended = monotonic()
        await self._ledger.settle(self.entry_id, answer)
        await self._discard_inputs()
        return answer

    async def _follow(self) -> RunResult:
        answer = await asyncio.shield(self._poll_once())
        task_id = answer.task_id
        if answer.status == FAILED:
            raise TaskFailedError(
                f"The network reports task {task_id} as failed ({_short(answer.result)})",
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
            await self._ledger.expired(self.entry_id, str(error))
            raise
        self._clock.transferred = monotonic()
        miner = next((m for r in result_references(answer.result) if (m := miner_of(r, task_id))), None)
        await self._ledger.kept(self.entry_id, files, engine=REMOTE_ENGINE, miner=miner)
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
        unreachable_since: float | None = None
        failures = 0
        if self._creating is not None:
            # Just sent; a task taken up again is asked about at once, since it may have ended long ago.
            await self._sleep(self.schedule.next_delay(self._elapsed(), random()))
        while True:
            try:
                answer = await self._network.query(self.credentials, task_id, retries=0)
            except (XaloraConnectionError, ServiceError, RateLimitError) as error:
                # One failed poll says nothing about the task, so the wait goes on.
                now = monotonic()
                unreachable_since = unreachable_since or now
                failures += 1
                if now - unreachable_since > self._outage_limit:
                    raise _lost_sight(error, task_id, self.job_id, now - unreachable_since) from error
                told = error.retry_after if isinstance(error, RateLimitError) else None
                await self._sleep(told or min(0.5 * 2 ** min(failures, 4), 8.0) * (0.5 + random() / 2))
                continue
            unreachable_since, failures = None, 0
            await self._note_status(answer)
            if is_terminal(answer.status):
                return answer
            await self._sleep(self.schedule.next_delay(self._elapsed(), random()))

    async def _note_status(self, answer: WorkflowTaskResult) -> None:
        changed = answer.status != self.status
        self.status = answer.status
        if answer.status == RUNNING and self._clock.running is None:
            self._clock.running = monotonic()
        if changed and not is_terminal(answer.status):
            await self._ledger.status(self.entry_id, answer.status)
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
        """Sleep for ``delay`` seconds, less if a waiter's deadline comes first or the flight is poked."""
        loop = asyncio.get_running_loop()
        now = monotonic()
        nearest = min((d for d in self._deadlines if d > now), default=None)
        self._sleeper = sleeper = loop.create_future()
        timer = loop.call_later(delay_before_deadline(delay, now, nearest), _wake, sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()

    # --- leaving ----------------------------------------------------------------------------------------

    async def withdraw(self, within: float) -> RunResult | None:
        """Ask the network to cancel the task, and give it ``within`` seconds to confirm.

        Returns:
            The result, should the task have finished meanwhile; else None. Whether the cancel was confirmed
            is told by :attr:`status`: ``canceled`` if so.
        """
        cancelling = _background(self._cancel())
        following = self._follow_once()
        deadline = monotonic() + within
        await _wait_until(cancelling, deadline)
        self.poke()
        await _wait_until(following, deadline)
        if not cancelling.done():
            cancelling.cancel()
        if following.done():
            if following.exception() is None:
                return following.result()
            if self.status in (CANCELED, FAILED):
                return None
        if self.task_id is not None:
            logger.warning("the cancel of task %s is not confirmed yet", self.task_id)
        self.stop()
        return None

    async def _cancel(self) -> None:
        try:
            task_id = await self.submitted()
            await self._ledger.cancel_pending(self.entry_id)
            await self._network.cancel(self.credentials, task_id)
        except (XaloraError, OwnerGone) as error:
            logger.warning("cancel of task %s: %s", self.task_id or self.job_id, error)

    async def abandon(self, within: float) -> None:
        """Cancel for a caller that is itself being cancelled: bounded, and nothing is raised."""
        withdrawing = _background(self.withdraw(within))
        await asyncio.wait({withdrawing}, timeout=within + 0.5)

    def stop(self) -> None:
        """Stop following. The remote task is not touched."""
        for task in (self._polling, self._following):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """End this flight's own coroutines; a create that is not answered yet gets a short grace."""
        if self._creating is not None and not self._creating.done():
            await asyncio.wait({self._creating}, timeout=CANCEL_ON_EXIT_SECONDS)
            self._creating.cancel()
        self.stop()
        running = [t for t in (self._creating, self._polling, self._following) if t is not None]
        await asyncio.gather(*running, return_exceptions=True)


def _background(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(coroutine)
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


def _earliest(*moments: float | None) -> float | None:
    return min((m for m in moments if m is not None), default=None)


def _has_passed(moment: float | None) -> bool:
    return moment is not None and monotonic() >= moment


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)


def _short(result: Any) -> str:
    text = " ".join(str(result or "no reason given").split())
    return text if len(text) <= 200 else text[:197] + "..."


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


def _lost_sight(error: NetworkError, task_id: str, job_id: str, seconds: float) -> NetworkError:
    return type(error)(
        f"Task {task_id} is out of sight: the sequencer has not answered properly for {seconds:.0f} s "
        f"({error.what})",
        money=RUNS_ON,
        next_step=f"Take it up again by its id when the network is back: `xalora resume {task_id}`.",
        task_id=task_id,
        job_id=job_id,
        status_code=error.status_code,
        error_type=error.error_type,
    )
