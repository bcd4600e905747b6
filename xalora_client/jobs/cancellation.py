"""Pursues the cancel of a job's task, beside the job's driver: it never waits behind a poll that hangs."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from time import monotonic, time
from typing import TYPE_CHECKING, TypeVar

from ..concurrency import JOURNAL_READS, run_in_thread
from ..errors import JournalError, NetworkError, RequestRefusedError, XaloraError
from ..journal import Event
from ..journal.rules import Because, Happened
from ..network.status import is_terminal
from ..polling.failed_polls import NOT_FOUND, REFUSAL_SECONDS, REFUSALS
from ..results import WorkflowTaskResult
from .background import awaited, background, within

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from .job import Job

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

CANCEL_SECONDS = 10.0
"""How long a cancel is pursued; not confirmed by then, it lapses."""

TRY_SECONDS = 3.0
"""How long one request to cancel, or to confirm it, may take."""

RETRY_SECONDS = 0.5
DROP_SECONDS = 0.3
"""How long a held journal is waited for before leases are read as they stand; and the pause after that."""

LOOK_SECONDS = 2.0
"""How long the journal is asked who else waits; a disk that hangs must not keep the request from leaving."""

REFUSED_SECONDS = 3.0
"""How long a refusal of a task that runs on is taken for a passing fault."""

CONFIRM_SECONDS = 0.2
"""Pause between two questions whether a cancel has taken effect."""


_PASSING = (401, 403, *NOT_FOUND)


class Cancellation:
    """The cancel of one job's task. It does not hold the job: a result in use would stay until a collection.

    Attributes:
        answer: The network's answer to the last cancel, None before there is one.
        lapse: Why the last cancel was not confirmed, where there is an error to tell.
        heard: The network's answer about a task that has ended, where it came here first.
        wishes_ended: How many wishes to cancel the task came to nothing.
        asked_at: When the cancel that took effect was asked for, as the journal says; unix seconds.
        waited_until: Until when a caller that left has waited for it, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.answer: dict[str, str] | None = None
        self.lapse: XaloraError | None = None
        self.heard: asyncio.Future[WorkflowTaskResult] = asyncio.get_running_loop().create_future()
        self.wishes_ended = 0
        self.asked_at: float | None = None
        self.waited_until = math.inf
        self._deadline = 0.0
        self._pursuing: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None

    def begin(self, job: Job) -> None:
        """Pursue it until it is confirmed, refused, or 10 s have passed; not twice at a time."""
        if self._pursuing is not None and not self._pursuing.done():
            return
        # An earlier cancel that came to nothing answers no later one.
        self.answer, self.lapse = None, None
        self._deadline = monotonic() + CANCEL_SECONDS
        self._pursuing = background(self._pursue(job))

    async def until_pursued(self, seconds: float) -> None:
        """Wait until nothing more is asked, or this time has passed."""
        if self._pursuing is not None:
            await asyncio.wait({self._pursuing}, timeout=seconds)

    async def _pursue(self, job: Job) -> None:
        try:
            await self._pursue_once(job)
        finally:
            self._hold_again(job)

    def _hold_again(self, job: Job) -> None:
        """A job that goes on has a lease on its record: it was dropped to see who else wants a cancel."""
        journal = job.tools.journal
        record_id = job.record_id
        if job.is_done or job.lease or record_id is None:
            return

        async def hold() -> None:
            with suppress(JournalError):
                lease = await asyncio.wrap_future(journal.hold(record_id))
                if job.is_done:
                    journal.leave(lease)
                else:
                    job.take_lease(lease)

        self._holding = background(hold())

    async def _pursue_once(self, job: Job) -> None:
        others_wait = job.state.wish is Because.CALLER_LEAVES and await self._others_wait(job)
        # Meanwhile somebody may have joined, or the user may have ordered it.
        if job.state.wish is None:
            return
        if others_wait and job.state.wish is Because.CALLER_LEAVES:
            job.tell(Happened.OTHERS_WAIT)
            return
        is_noted = False
        began = monotonic()
        # However long it took to learn who else waits, the request leaves once.
        self._deadline = max(self._deadline, began + TRY_SECONDS)
        while not job.is_done and monotonic() < self._deadline:
            request = background(self._request(job))
            if not is_noted:
                # The request leaves first, the note follows.
                job.tell(Happened.CANCEL_SENT)
                job.tools.journal.note(job.record_id, Event.CANCEL_REQUESTED, at=time())
                is_noted = True
            is_answered = await request
            has_ended = await self._has_ended(job)
            while self.answer is not None and not has_ended and monotonic() < self._deadline:
                await asyncio.sleep(CONFIRM_SECONDS)
                has_ended = await self._has_ended(job)
            is_refused = is_answered and self.lapse is not None
            if has_ended or (is_answered and not is_refused):
                break
            if is_refused and (self._is_final(self.lapse) or monotonic() >= began + REFUSED_SECONDS):
                break
            await asyncio.sleep(RETRY_SECONDS)
        if not job.is_done and not self.heard.done():
            logger.warning("the cancel of task %s is not confirmed; it may run on", job.task_id)
            job.tools.journal.note(job.record_id, Event.CANCEL_LAPSED)
            job.tell(Happened.CANCEL_LAPSED)

    async def _request(self, job: Job) -> bool:
        """Ask once for the cancel; whether the network has answered, in whichever way."""
        assert job.task_id is not None
        try:
            self.answer = await self._try(job.tools.network.cancel(job.credentials, job.task_id, retries=0))
            self.lapse = None
        except REFUSALS as refusal:
            self.lapse = refusal
            return not self._may_be_too_new(job, refusal)
        except XaloraError as error:
            self.lapse = error
            return False
        except asyncio.TimeoutError:
            return False
        except Exception:
            # While Python exits, no thread may be left to resolve a name, for example.
            logger.exception("the cancel of task %s could not be sent", job.task_id)
            return False
        return True

    async def _has_ended(self, job: Job) -> bool:
        """Ask for the status; whether the task has ended, or is not known."""
        assert job.task_id is not None
        try:
            answer = await self._try(job.tools.network.query(job.credentials, job.task_id, retries=0))
        except RequestRefusedError as error:
            is_gone = error.status_code in NOT_FOUND and not self._may_be_too_new(job, error)
            if is_gone and self.answer is None and not job.is_done:
                job.not_known()
            return job.is_done
        except (XaloraError, asyncio.TimeoutError):
            return job.is_done
        if is_terminal(answer.status) and not self.heard.done():
            self.heard.set_result(answer)
            job.pacing.poke()
        return is_terminal(answer.status) or job.is_done

    def _is_final(self, refusal: XaloraError | None) -> bool:
        """Whether the network means it: it knows the task, and says that it can't be canceled."""
        return isinstance(refusal, NetworkError) and refusal.status_code not in _PASSING

    def _may_be_too_new(self, job: Job, refusal: XaloraError) -> bool:
        """Whether the network may not know the task yet, as its polls are given time for, too."""
        is_new = job.record_id is not None and job.pacing.elapsed() < REFUSAL_SECONDS
        return isinstance(refusal, NetworkError) and refusal.status_code in NOT_FOUND and is_new

    async def _others_wait(self, job: Job) -> bool:
        """Whether a lease of somebody else alive keeps the task.

        Of two processes that leave at once, each sees the other's lease. So the own one is dropped then, and
        whoever sees none after that is the last.
        """
        journal = job.tools.journal
        record_id = job.record_id
        if record_id is None:
            return False

        def others() -> bool:
            return bool(journal.leased([record_id], besides=job.lease))

        try:
            if self._holding is not None:
                # The lease that it takes is this job's own, once the job has it.
                await asyncio.wait({self._holding}, timeout=DROP_SECONDS)
            if not await self._looked(others):
                return False
            looks, pause = 0, 0.0
            while looks < 2 and job.state.wish is not None and monotonic() < self._deadline:
                # Whoever has joined and left meanwhile brought a lease, too.
                own, job.lease = job.lease, ""
                journal.leave(own)
                await asyncio.sleep(pause)
                pause = DROP_SECONDS
                # A look counts once the own lease is dropped. Others who leave just now, and do not know the
                # task's id yet, drop theirs a moment later; with a held journal, when it is free.
                flushed = awaited(journal.flushed())
                await asyncio.wait({flushed}, timeout=DROP_SECONDS)
                if flushed.done() and flushed.exception() is None:
                    looks += 1
                if not await self._looked(others):
                    return False
            return True
        except (JournalError, asyncio.TimeoutError):
            return False

    async def _looked(self, others: Callable[[], bool]) -> bool:
        return await within(background(run_in_thread(others, JOURNAL_READS)), LOOK_SECONDS)

    async def _try(self, request: Coroutine[Any, Any, T]) -> T:
        left = max(0.0, self._deadline - monotonic())
        return await within(background(request), min(TRY_SECONDS, left))
