"""Sends a job's create, or learns the task id from the process that sends it."""

from __future__ import annotations

import asyncio
import logging
import weakref
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from ..concurrency import JOURNAL_READS, run_in_thread
from ..errors import AmbiguousCreateError, JournalError, XaloraError
from ..events import Submitted
from ..journal import BusyJournalError, Event, Record, TaskState
from ..journal.rules import Happened
from ..journal.transaction import NEVER_SENT, AnothersIdError
from ..transfer.upload import ImageDelivery
from . import messages
from .background import background, within
from .preparation import PreparedTask
from .untaken import warn_if_untaken

if TYPE_CHECKING:
    from .job import Job

logger = logging.getLogger("xalora_client")

WATCH_SECONDS = 0.1
"""How often another process's progress with a create is looked at."""

SETTLE_SECONDS = 1.0
"""How long it is looked at before the journal is asked whether that process is alive."""

LEARN_SECONDS = 1.0
"""How long a caller that leaves waits to learn the task's id."""

GIVEN_UP_AMID = "It was given up before the network's answer came."


class ClaimAgain(Exception):
    """The job came to nothing by somebody else's doing; who still wants the task asks the journal again."""


async def send_create(job: Job, prepared: PreparedTask, delivery: ImageDelivery, lifetime: float) -> None:
    """Send the create; on return the job has a task id, safe on disk, or has ended.

    Args:
        lifetime: Seconds for which an input in the user's store must stay readable.
    """
    journal, record_id = job.tools.journal, job.record_id
    assert record_id is not None

    async def hold_back(refusal: XaloraError) -> None:
        journal.note(record_id, Event.HELD_BACK, error=refusal.what)
        job.tell(Happened.CREATE_HELD_BACK)
        # The rules may have stopped the create; the cancellation arrives here.
        await asyncio.sleep(0)

    try:
        if not prepared.task.is_hosted:
            # Only miners that have this workflow can run it: a task for nobody would wait for ever.
            await job.tools.network.check_taken(
                job.credentials,
                task_type=prepared.task.kind_of_task,
                workflow_id=prepared.task.workflow_id,
            )
        parameters = dict(prepared.parameters)
        for name, image in prepared.images.items():
            delivered = await delivery.deliver(image, lifetime=lifetime)
            job.tools.uploads.keep(job.job_id, delivered)
            parameters[name] = delivered.reference
        task_id = await job.tools.network.create(
            job.credentials,
            job_id=job.job_id,
            task_type=prepared.task.kind_of_task,
            task_details={**prepared.more_details, "parameters": parameters},
            workflow_id=prepared.task.workflow_id,
            timeout_seconds=prepared.task.timeout_seconds,
            before_attempt=lambda: asyncio.wrap_future(journal.sending(record_id)),
            handed_over=job.create_leaves,
            after_refusal=hold_back,
        )
    except BaseException as error:  # noqa: BLE001  # whatever ends the create is noted, a cancellation too
        await _not_created(job, error)
        return
    is_anothers = job.is_anothers(task_id)
    # Noted before anything else is done about it: a cancel leaves at once, and the note can't be lost.
    noted = journal.accepted(record_id, task_id)
    if not is_anothers:
        job.accept(task_id)
    try:
        await asyncio.shield(asyncio.wrap_future(noted))
    except AnothersIdError as error:
        # The id is another task's: whether this one has a task is not known.
        journal.note(record_id, Event.ANSWER_LOST, error=error.what)
        if not job.is_done:
            job.end(Happened.CREATE_UNKNOWN, messages.anothers_id(error, job.job_id))
        return
    except JournalError as error:
        # It runs on all the same, and is paid for.
        logger.warning("%s", error)
    if is_anothers:
        job.accept(task_id)
    logger.info("task %s (job %s) submitted", task_id, job.job_id)
    usual = job.pacing.usual_seconds
    job.events.emit(Submitted(job_id=job.job_id, task_id=task_id, usual_seconds=usual))
    if not job.accepted.done():
        job.accepted.set_result(task_id)
    task = prepared.task
    background(warn_if_untaken(weakref.ref(job), task.kind_of_task, task.workflow_id))


async def _not_created(job: Job, error: BaseException) -> None:
    is_settled = isinstance(error, XaloraError) and not isinstance(error, AmbiguousCreateError)
    is_sure = is_settled or not job.state.is_out
    event = Event.NOT_SENT if is_sure else Event.ANSWER_LOST
    reason = str(error) or (NEVER_SENT if is_sure else GIVEN_UP_AMID)
    job.tools.journal.note(job.record_id, event, error=reason)
    if isinstance(error, asyncio.CancelledError):
        if not is_sure:
            logger.warning("job %s was sent, and its answer is not waited for any more", job.job_id)
        error = ClaimAgain()
    elif not isinstance(error, XaloraError):
        logger.error("job %s could not be sent", job.job_id, exc_info=error)
    elif is_sure and job.state.in_doubt:
        messages.add_doubt(error, job.job_id)
    if not job.is_done:
        job.end(Happened.NOT_CREATED if is_sure else Happened.CREATE_UNKNOWN, error)
    if is_sure and not job.state.in_doubt:
        await job.tools.uploads.discard(job.job_id)


async def learn_task_id_at_once(job: Job) -> None:
    """Learn the task id, if another process has just been given it: a cancel needs it."""
    if job.task_id is not None or job.state.sends or job.record_id is None:
        return
    record = await read_record(job)
    if record is not None and record.task_id is not None and job.task_id is None and not job.is_done:
        _learned(job, record.task_id)


async def read_record(job: Job) -> Record | None:
    """The job's record; None where there is none, or where it can't be read within a second."""
    journal, record_id = job.tools.journal, job.record_id
    if record_id is not None:
        with suppress(JournalError, asyncio.TimeoutError):
            reading = background(run_in_thread(lambda: journal.find(record_id), JOURNAL_READS))
            return await within(reading, LEARN_SECONDS)
    return None


def _learned(job: Job, task_id: str) -> None:
    job.accept(task_id)
    if not job.accepted.done():
        job.accepted.set_result(task_id)


async def learn_task_id(job: Job) -> None:
    """Learn the task id from the journal; another process sends the create. Callers have deadlines."""
    journal, record_id = job.tools.journal, job.record_id
    assert record_id is not None
    settle_at = monotonic() + SETTLE_SECONDS
    while True:
        try:
            record = await run_in_thread(lambda: journal.find(record_id), JOURNAL_READS)
        except BusyJournalError:
            continue
        if job.task_id is not None:
            return
        if record is not None and record.task_id is not None:
            _learned(job, record.task_id)
            return
        is_under_way = record is not None and record.state in (TaskState.PREPARED, TaskState.SENDING)
        if not is_under_way or monotonic() >= settle_at:
            # Should the sender have died, or left, the journal gives the create to whoever claims it.
            job.end(Happened.NOT_CREATED, ClaimAgain())
            return
        await asyncio.sleep(WATCH_SECONDS)
