"""A caller's hold on a job: `async with` joins the job and leaves it, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

from ..errors import NOT_CONFIRMED, ServiceError, TaskCanceledError, XaloraError
from ..events import EventCallback
from ..journal.rules import Ending, Happened, Phase
from ..network.status import CANCELED, FINISHED, WAITING
from ..results import RunResult, WorkflowTaskResult
from . import messages
from .cancellation import CANCEL_SECONDS
from .creating import ClaimAgain
from .hub import is_stranded
from .job import Job

T = TypeVar("T")

Join = Callable[[Job, "float | None"], None]
"""Joins a job, given when a cancel of its task was asked for that is under way, None where there is none."""

CONFIRM_SECONDS = 3.0
"""How long a caller that gives a task up waits for the network to confirm the cancel."""


class Caller:
    """Waits for a job with a deadline of its own; leaving does not disturb others who wait.

    Args:
        find: Finds the job, or makes one, and has the caller join it in the same step; asked again where a
            job came to nothing by somebody else's doing.
        wants_files: Whether the result's files are wanted on this disk.
        on_event: Told each step.
        cancels: Whether a cancelled caller cancels the remote task; asked at that time.
        claims: Whether `find` claims a task, so that one that was canceled before is asked for anew.

    Attributes:
        job: The job.
    """

    job: Job

    def __init__(
        self,
        find: Callable[[Join], Awaitable[None]],
        *,
        wants_files: bool,
        on_event: EventCallback | None,
        cancels: Callable[[], bool],
        claims: bool,
    ) -> None:
        self._find = find
        self._joined, self._left = (
            (Happened.JOINED_FOR_FILES, Happened.LEFT_FOR_FILES)
            if wants_files
            else (Happened.JOINED, Happened.LEFT)
        )
        self._on_event = on_event
        self._cancels = cancels
        self._claims = claims
        self._wishes_ended_before: int | None = None
        self._cancel_asked_at: float | None = None
        self._is_in = False

    async def __aenter__(self) -> Caller:
        try:
            await self._find(self._join)
        except BaseException as error:
            # It may be cancelled after the job was joined, and before it hears of that.
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            is_cancelled = self._is_in and isinstance(error, asyncio.CancelledError)
            if is_cancelled and not is_stranded() and self._cancels():
                await self.job.cancel(Happened.WISHED, CONFIRM_SECONDS)
        finally:
            self._leave()

    def _join(self, job: Job, cancel_asked_at: float | None) -> None:
        self.job, self._cancel_asked_at, self._is_in = job, cancel_asked_at, True
        job.tell(self._joined)
        self._wishes_ended_before = None if job.state.wish is None else job.cancellation.wishes_ended
        if self._on_event is not None:
            job.events.subscribe(self._on_event)

    def _leave(self) -> None:
        if not self._is_in:
            return
        self._is_in = False
        if self._on_event is not None:
            self.job.events.unsubscribe(self._on_event)
        self.job.tell(self._left)

    # --- waiting ------------------------------------------------------------------------------------------

    async def task_id(self) -> str:
        """The task's id, as soon as the network has accepted it.

        The id of a task that was submitted before is given out once the network has been asked about it: it
        may have been canceled meanwhile, or is being canceled.

        Raises:
            XaloraError: The task was not created, or that is not known.
        """
        while True:
            task_id = await self._until(lambda job: job.accepted, None, 0.0)
            job = self.job
            if not self._claims:
                return task_id
            while not job.is_done and (job.state.wish is not None or not job.state.is_seen):
                await job.changed(CANCEL_SECONDS)
            if not (job.state.ending is Ending.CANCELED and self._is_older_cancel(job)):
                return task_id
            self._leave()
            await self._find(self._join)

    async def answer(self, timeout: float | None, *, deadline: float | None = None) -> WorkflowTaskResult:
        """The network's answer once the task has ended, in whichever way; nothing is downloaded.

        Raises:
            TaskTimeoutError: The time ended first. The task runs on.
        """
        if deadline is None and timeout is not None:
            deadline = monotonic() + timeout
        return await self._until(lambda job: job.answered, deadline, timeout or 0.0)

    async def result(
        self, timeout: float | None, *, deadline: float | None = None, queue_limit: float | None = None
    ) -> RunResult:
        """The result, files on disk.

        Args:
            timeout: Seconds that the caller waits in all; None waits for ever.
            deadline: When they end, on the monotonic clock; default: so many seconds from now.
            queue_limit: Seconds the task may stay in the network's queue, from when it was accepted.

        Raises:
            TaskTimeoutError: The time ended first. The task runs on.
            QueueLimitError: It was still queued when the limit ended. The task is still queued.
            XaloraError: The task ended without a result.
        """
        if deadline is None and timeout is not None:
            deadline = monotonic() + timeout
        return await self._until(lambda job: job.fetched, deadline, timeout or 0.0, queue_limit)

    async def _until(
        self,
        awaited: Callable[[Job], asyncio.Future[T]],
        deadline: float | None,
        timeout: float,
        queue_limit: float | None = None,
    ) -> T:
        while True:
            job = self.job
            future = awaited(job)
            with job.pacing.deadline(deadline):
                if queue_limit is not None:
                    await self._leave_queue(job, future, deadline, queue_limit)
                await _wait(future, deadline)
            if not future.done():
                raise messages.timed_out(job, timeout)
            try:
                value = future.result()
            except ClaimAgain:
                pass
            except TaskCanceledError:
                # That cancel was meant for whoever asked before; what is asked for now is a new task.
                if not self._is_older_cancel(job):
                    raise
            else:
                is_canceled = isinstance(value, WorkflowTaskResult) and value.status == CANCELED
                if not (is_canceled and self._is_older_cancel(job)):
                    return value
            self._leave()
            await self._find(self._join)

    def _is_older_cancel(self, job: Job) -> bool:
        if not self._claims or job.was_canceled_before:
            return self._claims
        # The wish that it joined under, of this process or of another.
        is_own = self._wishes_ended_before == job.cancellation.wishes_ended
        return is_own or (
            self._cancel_asked_at is not None and self._cancel_asked_at == job.cancellation.asked_at
        )

    async def _leave_queue(
        self, job: Job, future: asyncio.Future[Any], deadline: float | None, queue_limit: float
    ) -> None:
        """Wait until the task is no longer queued.

        Raises:
            QueueLimitError: It still is at the limit.
        """
        await _wait(job.accepted, deadline)
        limit = monotonic() + queue_limit
        await _wait(future, limit if deadline is None else min(limit, deadline))
        is_queued = job.task_id is not None and job.status == WAITING
        if not future.done() and is_queued and monotonic() >= limit:
            raise messages.queue_limit_reached(job, queue_limit)

    # --- giving up ----------------------------------------------------------------------------------------

    async def give_up(self, error: XaloraError, timeout: float, deadline: float) -> RunResult | None:
        """Have the task canceled, since this caller takes no more part in it; at most 3 s.

        Nothing happens to a task that somebody else waits for, here or in another process.

        Args:
            error: Why; it is told where the cancel was confirmed.
            timeout: Seconds that the caller waits in all.
            deadline: When they end; a result that is on its way is waited for until then, and for 3 s.

        Returns:
            The result, should the task have finished meanwhile; else None.

        Raises:
            TaskTimeoutError: It has finished, and its result is not here in time.
            XaloraError: It has ended meanwhile without a result that can be had.
        """
        deadline = max(deadline, monotonic() + CONFIRM_SECONDS)
        job = self.job
        await job.cancel(Happened.WISHED, CONFIRM_SECONDS)
        if job.status == FINISHED:
            await _wait(job.fetched, deadline)
            if not job.fetched.done():
                raise messages.timed_out(job, timeout) from error
            return job.fetched.result()
        if job.status == CANCELED:
            messages.add_canceled(error)
        elif job.is_done and job.fetched.exception() is not error:
            return job.fetched.result()
        elif job.state.wish is not None or job.cancellation.lapse is not None:
            messages.add_not_confirmed(error)
        return None

    async def withdraw(self) -> None:
        """Have the task canceled unless somebody else waits for it; at most 3 s.

        Other callers in this process may be about to leave as well.
        """
        job, deadline = self.job, monotonic() + CONFIRM_SECONDS
        await job.until(lambda: job.state.callers <= 1 or job.is_done, deadline)
        await job.cancel(Happened.WISHED, max(0.0, deadline - monotonic()))

    async def cancel_by_order(self) -> dict[str, str]:
        """Have the task canceled whoever waits for it: ``{task_id, msg}``.

        Raises:
            NetworkError: The cancel is refused, or not confirmed; the task may run on.
        """
        job = self.job
        task_id = job.task_id or ""
        deadline = monotonic() + CANCEL_SECONDS + CONFIRM_SECONDS
        job.tell(Happened.ORDERED)
        while job.state.wish is not None and not job.is_done and (left := deadline - monotonic()) > 0:
            # An accepted request is an answer; that the status follows is only waited for a little.
            within = min(left, CONFIRM_SECONDS) if job.cancellation.answer is not None else left
            if not await job.changed(within) and job.cancellation.answer is not None:
                break
        # A poll may have ended the job while the request to cancel was out.
        if job.is_done and job.cancellation.answer is None:
            await job.cancellation.until_pursued(CONFIRM_SECONDS)
        if job.cancellation.answer is not None and job.cancellation.lapse is None:
            return job.cancellation.answer
        is_over = job.is_done and job.state.ending is not Ending.OUT_OF_SIGHT
        if is_over or job.state.phase is Phase.FETCHING:
            # Raises where the network does not know the task.
            answer = job.answered.result()
            return {"task_id": task_id, "msg": f"The task is {answer.status}."}
        raise job.cancellation.lapse or ServiceError(
            f"The network does not answer the request to cancel task {task_id}",
            money=NOT_CONFIRMED,
            next_step=f"Try again: `xalora cancel {task_id}`.",
            task_id=task_id,
        )


async def _wait(future: asyncio.Future[Any], deadline: float | None) -> None:
    """Wait for `future` or the deadline, disturbing neither."""
    timeout = None if deadline is None else max(0.0, deadline - monotonic())
    await asyncio.wait({future}, timeout=timeout)
