"""The client's hold on the journal: asynchronous, and still going when the journal can't be written.

The rule for a journal that fails: where nothing was sent yet, the error is raised, since sending what the
journal can't remember would mean paying again for it; everywhere else a warning with the ids goes to the log,
and the work goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from ..concurrency import off_loop
from ..config import IfUnknown
from ..errors import JournalError
from ..journal import BusyJournalError, Claim, Journal, Record, TaskState, Work
from ..network.answers import failure_reason
from ..network.status import CANCELED, FAILED, FINISHED
from ..polling.durations import PastRun
from ..results import WorkflowTaskResult
from .preparation import PreparedTask

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

CLAIM_PATIENCE_SECONDS = 30.0
"""How long a journal that another program holds is waited for before work is sent."""

WATCH_SECONDS = 0.1
"""How often another process's progress on a shared task is looked at; a read takes microseconds."""


class AsyncJournal:
    """Writes a task's steps into the journal, off the event loop."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._strays: set[asyncio.Task[None]] = set()
        # Two clients that write one file destroy it, and only the journal could give them turns.
        self._out_of_turn: set[int] = set()
        self._mark = secrets.token_hex(4)

    # --- claiming -----------------------------------------------------------------------------------------

    async def claim(
        self,
        prepared: PreparedTask,
        sequencer_url: str,
        reuse: bool,
        reuse_among: AbstractSet[str],
        if_unknown: IfUnknown,
    ) -> Claim:
        """What to do about the work.

        A kept result is given out, without a lease, by a journal that can be read only.

        Raises:
            JournalError: The journal can't be written, or another program holds it and does not let go.
                Nothing may be sent then: it could not be remembered, and may be paid for already.
        """
        work = Work(
            fingerprint=prepared.fingerprint,
            sequencer_url=sequencer_url,
            consumer_id=prepared.credentials.consumer_id,
            task_type=prepared.task.kind_of_task,
            workflow_id=prepared.task.workflow_id,
            kind=prepared.kind,
            label=prepared.task.describe(),
            seeded=prepared.task.repeatable,
            own_key=prepared.task.api_key is not None,
            details=_details(prepared),
        )
        claim = lambda: self.journal.claim(  # noqa: E731
            work, job_id=prepared.job_id, reuse=reuse, among=reuse_among, if_unknown=if_unknown
        )
        try:
            return await self._with_lease(
                self._patient(claim, CLAIM_PATIENCE_SECONDS), lambda claim: claim.lease
            )
        except JournalError as error:
            kept = await self._tolerant(
                lambda: self.journal.kept_result(work, reuse=reuse, among=reuse_among),
                f"job {prepared.job_id} is not sent",
            )
            if kept is None:
                raise
            logger.warning("journal: %s - the result that was kept is read all the same", error.what)
            return Claim(action="kept", record=kept, lease="")

    async def hold(self, record_id: int) -> str:
        """A lease that keeps a record's files, and its task from being canceled by others."""
        hold = lambda: self.journal.hold(record_id)  # noqa: E731
        return await self._with_lease(self._tolerant(hold, f"record {record_id} is not held"), str) or ""

    def hold_while(self, alive: object, lease: str) -> None:
        """Give a lease back when ``alive`` is gone: a result in hand keeps its files, whatever the limit."""
        if lease:
            release = weakref.finalize(alive, self.journal.leave_later, lease)
            # The journal gives back its leases itself when the process ends.
            release.atexit = False

    async def leave(self, lease: str) -> None:
        if lease:
            await self._tolerant(lambda: self.journal.leave(lease), "a place is not given back")

    # --- a task's steps -----------------------------------------------------------------------------------

    async def sending(self, record_id: int | None) -> None:
        """The create leaves next.

        Raises:
            JournalError: That can't be written down; nothing may be sent then.
        """
        if record_id is not None:
            await asyncio.to_thread(self.journal.sending, record_id)

    async def held_back(self, record_id: int | None, error: str) -> None:
        """The create surely made no task and will be sent again: a crash in the pause leaves no doubt."""
        await self._note(record_id, lambda i: self.journal.held_back(i, error), "nothing was sent")

    async def submitted(self, record_id: int | None, task_id: str) -> None:
        await self._note(
            record_id, lambda i: self.journal.submitted(i, task_id), f"task {task_id} is paid for"
        )

    async def not_sent(self, record_id: int | None, error: str) -> None:
        await self._note(record_id, lambda i: self.journal.not_sent(i, error), "nothing was sent")

    async def unknown(self, record_id: int | None, job_id: str, error: str) -> None:
        await self._note(
            record_id, lambda i: self.journal.unknown(i, error), f"the outcome of job {job_id} is unknown"
        )

    async def status(self, record_id: int | None, status: str) -> None:
        await self._note(record_id, lambda i: self.journal.status(i, status), f"status {status}")

    async def finished(self, record_id: int | None, result: Any, *, unnoticed: float = 0.0) -> None:
        await self._note(
            record_id,
            lambda i: self.journal.finished(i, result, unnoticed=unnoticed),
            "the task has finished",
        )

    async def kept(
        self, record_id: int | None, files: tuple[Path, ...], *, engine: str, miner: str | None
    ) -> None:
        await self._note(
            record_id,
            lambda i: self.journal.kept(i, files, engine=engine, miner=miner),
            f"the result is {files}",
        )

    async def delivered(self, record_id: int | None) -> None:
        await self._note(record_id, self.journal.delivered, "the result was delivered")

    async def failed(self, record_id: int | None, error: str) -> None:
        await self._note(record_id, lambda i: self.journal.failed(i, error), error)

    async def expired(self, record_id: int | None, error: str) -> None:
        await self._note(record_id, lambda i: self.journal.expired(i, error), error)

    async def canceled(self, record_id: int | None) -> None:
        await self._note(record_id, self.journal.canceled, "the task was canceled")

    async def cancel(self, record_id: int | None, lease: str, task_id: str | None) -> str | None:
        """The id of the task to cancel for a lease's holder, noted as to be canceled.

        None where others wait for it, in this process or another, or where there is nothing to cancel.
        """
        if record_id is None or not lease:
            return task_id
        try:
            record = await off_loop(lambda: self.journal.cancel(lease))
        except JournalError as error:
            logger.warning("journal: %s - task %s is canceled all the same", error.what, task_id)
            return task_id
        return None if record is None else record.task_id

    async def cancel_pending(self, record_id: int | None) -> None:
        await self._note(record_id, self.journal.cancel_pending, "a cancel is not confirmed")

    async def cancel_withdrawn(self, record_id: int | None) -> None:
        """The network refused a cancel, so the task counts as running."""
        record = await self.record(record_id) if record_id is not None else None
        if record is not None and record.state is TaskState.CANCEL_PENDING:
            await self._note(record_id, self.journal.cancel_withdrawn, "the cancel was refused")

    async def settle(
        self, record_id: int | None, answer: WorkflowTaskResult, *, unnoticed: float = 0.0
    ) -> None:
        """Write down how a task ended, if it has; ``unnoticed`` as for :meth:`Journal.finished`."""
        if answer.status == FINISHED:
            await self.finished(record_id, answer.result, unnoticed=unnoticed)
        elif answer.status == FAILED:
            await self.failed(record_id, failure_reason(answer.result))
        elif answer.status == CANCELED:
            await self.canceled(record_id)

    async def fell_back(self, job_id: str | None, engine: str, device: str | None) -> None:
        """An engine of this machine did the work of a create or task that came to nothing."""
        if job_id is not None:
            await self._tolerant(
                lambda: self.journal.fell_back(job_id, engine=engine, device=device),
                f"{engine} took over from job {job_id}",
            )

    # --- reading ------------------------------------------------------------------------------------------

    async def record(self, record_id: int) -> Record | None:
        return await self._tolerant(lambda: self.journal.find(record_id), f"record {record_id} can't be read")

    async def record_of_task(self, task_id: str, sequencer_url: str) -> Record | None:
        return await self._tolerant(
            lambda: self.journal.by_task_id(task_id, sequencer_url), f"task {task_id} goes on unjournaled"
        )

    async def past_runs(self, kind: str) -> list[PastRun]:
        return await self._tolerant(lambda: self.journal.past_runs(kind), "no history") or []

    # --- sharing with other processes ---------------------------------------------------------------------

    async def task_id_from_owner(self, record_id: int, lease: str) -> str | None:
        """The task id of work that another process is sending; None when that process ended without one."""
        while True:
            record = await self.record(record_id)
            if record is None:
                return None
            if record.task_id is not None:
                return record.task_id
            if record.state not in (TaskState.PREPARED, TaskState.SENDING):
                return None
            if record.state is TaskState.PREPARED and await self._take(lease):
                return None
            if record.state is TaskState.SENDING:
                # Settles the record should its sender have died, which no row change would tell.
                await self._take(lease)
            await asyncio.sleep(WATCH_SECONDS)

    @contextlib.asynccontextmanager
    async def download_turn(self, record_id: int | None, lease: str) -> AsyncIterator[tuple[Path, ...]]:
        """A turn at downloading: of several processes that share a task, one downloads at a time.

        A journal that can't be asked is not waited for: then everybody downloads, each to files of its own.

        Yields:
            The files, where another process has them already; else an empty tuple.
        """
        while record_id is not None and lease:
            is_ours = await self._take(lease)
            if is_ours is None:
                self._out_of_turn.add(record_id)
            if is_ours is not False:
                break
            record = await self.record(record_id)
            if record is None or record.state is not TaskState.FINISHED:
                break
            await asyncio.sleep(WATCH_SECONDS)
        record = await self.record(record_id) if record_id is not None else None
        files = record.files if record is not None else ()
        yield files if all(file.exists() for file in files) else ()

    async def _take(self, lease: str) -> bool | None:
        """See `Journal.take`; None where the journal can't be asked."""
        return await self._tolerant(lambda: self.journal.take(lease), "a task can't be taken over")

    async def result_stem(self, record_id: int | None, job_id: str) -> Path:
        """Where a result's files go, without suffix: to this client's own place where no turn was given."""
        record = await self.record(record_id) if record_id is not None else None
        if record is None:
            stem = self.journal.results_dir / re.sub(r"[^A-Za-z0-9._-]+", "_", job_id)
        else:
            stem = await asyncio.to_thread(self.journal.result_stem, record)
            if record_id not in self._out_of_turn:
                return stem
        return stem.with_name(f"{stem.name}-{self._mark}")

    # --- failing gently -----------------------------------------------------------------------------------

    async def _note(self, record_id: int | None, step: Callable[[int], Record], told_instead: str) -> None:
        if record_id is not None:
            await self._tolerant(lambda: step(record_id), told_instead)

    async def _with_lease(self, step: Coroutine[Any, Any, T], lease_of: Callable[[T], str]) -> T:
        """A step that gives a lease: a caller cancelled meanwhile does not take it along."""
        taking = asyncio.ensure_future(step)
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            stray = asyncio.ensure_future(self._leave_stray(taking, lease_of))
            self._strays.add(stray)
            stray.add_done_callback(self._strays.discard)
            raise

    async def _leave_stray(self, taking: asyncio.Future[T], lease_of: Callable[[T], str]) -> None:
        with contextlib.suppress(JournalError):
            taken = await taking
            if taken is not None:
                await self.leave(lease_of(taken))

    async def _patient(self, step: Callable[[], T], patience: float) -> T:
        """A step that waits for other programs to let go of the journal, for so many seconds in all."""
        began = monotonic()
        while True:
            try:
                return await off_loop(step)
            except BusyJournalError as error:
                if monotonic() - began >= patience:
                    raise BusyJournalError(
                        f"{error.what}, again and again for {patience:g} s",
                        next_step="Close the program that holds it, then try again.",
                    ) from error
                logger.info("journal: %s - trying again", error.what)
            await asyncio.sleep(WATCH_SECONDS)

    async def _tolerant(self, step: Callable[[], T], told_instead: str) -> T | None:
        try:
            return await off_loop(step)
        except JournalError as error:
            logger.warning("journal: %s - %s", error.what, told_instead)
            return None


def _details(prepared: PreparedTask) -> dict[str, Any]:
    """The parameters worth showing later: no pixels, and no query of a URL, which may sign it."""
    return {
        name: _unsigned(value) for name, value in prepared.parameters.items() if name not in prepared.images
    }


def _unsigned(value: Any) -> Any:
    if isinstance(value, str):
        return value.partition("?")[0] if value.lower().startswith(("http://", "https://")) else value
    if isinstance(value, Mapping):
        return {name: _unsigned(item) for name, item in value.items()}
    return [_unsigned(item) for item in value] if isinstance(value, list | tuple) else value
