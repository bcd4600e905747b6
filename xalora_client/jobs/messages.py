"""Errors that end a wait for a job: what happened, what it means for the money, what to do next. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import (
    CANCELED_THERE,
    FIRST_MAY_BE_CHARGED,
    FIRST_PROBABLY_CHARGED,
    MAY_BE_CHARGED,
    NOT_CONFIRMED,
    NOTHING_CHARGED,
    RUNS_ON,
    STILL_RETRIEVABLE,
    AmbiguousCreateError,
    ClientClosedError,
    JournalError,
    QueueLimitError,
    TaskCanceledError,
    TaskFailedError,
    TaskNotKnownError,
    TaskTimeoutError,
    UnexpectedError,
    XaloraError,
)
from ..journal import Record
from ..network.answers import NO_REASON, REASON_LIMIT, failure_reason
from ..network.outside import printable
from ..network.status import FINISHED
from ..results import WorkflowTaskResult

if TYPE_CHECKING:
    from .job import Job

_CONFLICT = 409
# How a miner says that it can't read an image in the request, mostly with the beginning of it.
_REFUSES_INLINE = re.compile(r"\bdata:image|\bdata[ -]?ur[il]s?\b|\bscheme\W{1,4}data\b", re.IGNORECASE)


def failed(job: Job, answer: WorkflowTaskResult) -> TaskFailedError:
    """The network reports the task as failed."""
    reason = failure_reason(answer.result, answer.message)
    error = TaskFailedError(
        f"The network reports task {job.task_id} as failed ({reason})",
        money="Whether a failed task is charged is the network's decision; ask with the task id.",
        next_step="Correct what the reason names, or try again: another miner may succeed.",
        task_id=job.task_id,
        job_id=job.job_id,
    )
    error.reason = "" if reason == NO_REASON else reason
    error.miner = answer.miner
    if _REFUSES_INLINE.search(reason):
        error.repeats = True
        error.next_step = (
            "This miner takes no images in the request: set XALORA_STORE_URL, so that they go by your store, "
            "or inline_limit=0, so that none is sent."
        )
    return error


def canceled(job: Job, answer: WorkflowTaskResult) -> TaskCanceledError:
    """The network reports the task as canceled."""
    why = f" ({printable(answer.message, REASON_LIMIT)})" if answer.message else ""
    return TaskCanceledError(
        f"Task {job.task_id} was canceled, by its owner or by the network's own timeout{why}",
        money="Whether a canceled task is charged is the network's decision.",
        next_step="Submit it again, with a longer timeout_seconds if the network ended it.",
        task_id=job.task_id,
        job_id=job.job_id,
    )


def not_known(job: Job) -> TaskNotKnownError:
    """The network has forgotten the task."""
    return TaskNotKnownError(
        f"The network does not know task {job.task_id} any more",
        money="Whether it was charged is not known here.",
        next_step='Run it with if_unknown="forget" (`--if-unknown forget`) to pay for a new task, or forget '
        "it in the list of tasks.",
        task_id=job.task_id,
        job_id=job.job_id,
    )


def timed_out(job: Job, timeout: float) -> TaskTimeoutError:
    """A caller's time to wait is over."""
    waited = f"the {round(timeout, 2):g} s of waiting"
    if job.task_id is not None and job.status == FINISHED:
        what = f"Task {job.task_id} has finished, and its result was not here within {waited}"
        money = STILL_RETRIEVABLE
        next_step = f"Fetch it by the task's id: `xalora resume {job.task_id}`."
    elif job.task_id is not None:
        what = f"Task {job.task_id} did not end within {waited} (last status: {job.status})"
        money = RUNS_ON
        next_step = f"Take it up again by its id: client.task({job.task_id!r}).result(), or `xalora "
        next_step += f"resume {job.task_id}`."
    elif job.may_be_created:
        what = f"The network did not answer the create of job {job.job_id} within {waited}"
        money = MAY_BE_CHARGED
        next_step = "See what became of it with `xalora tasks`."
    else:
        return not_sent_in_time(job.job_id, timeout)
    return TaskTimeoutError(what, money=money, next_step=next_step, task_id=job.task_id, job_id=job.job_id)


def not_sent_in_time(job_id: str | None, timeout: float, why: str = "") -> TaskTimeoutError:
    """A caller's time to wait is over before anything was sent; ``timeout`` is what was left of it."""
    return TaskTimeoutError(
        f"{f'Job {job_id}' if job_id else 'The task'} could not be sent {_within(timeout)}{why}",
        money=NOTHING_CHARGED,
        next_step="Try again later, or wait longer.",
        job_id=job_id,
    )


def _money_of_task(job: Job) -> str:
    return STILL_RETRIEVABLE if job.status == FINISHED else RUNS_ON


def _within(timeout: float) -> str:
    waited = round(timeout, 2)
    return f"within the {waited:g} s of waiting" if waited > 0 else "within the time to wait"


def unforeseen(job: Job, error: Exception) -> UnexpectedError:
    """An exception that nobody foresaw ended the job."""
    unexpected = UnexpectedError.of(error)
    unexpected.job_id, unexpected.task_id = job.job_id, job.task_id
    if job.task_id is not None:
        unexpected.money = _money_of_task(job)
        unexpected.next_step = f"Take it up again by its id: `xalora resume {job.task_id}`."
    return unexpected


def not_looked_up(task_id: str, timeout: float) -> TaskTimeoutError:
    """A caller's time to wait is over while the journal, held by another program, is waited for."""
    return TaskTimeoutError(
        f"Task {task_id} could not be looked up in the journal {_within(timeout)}",
        money="The task itself is not affected.",
        next_step=f"Take it up again by its id: `xalora resume {task_id}`.",
        task_id=task_id,
    )


def queue_limit_reached(job: Job, limit: float) -> QueueLimitError:
    """The task is still queued when the caller's limit ends."""
    return QueueLimitError(
        f"The task has waited in the network's queue for {limit:g} s, the limit set",
        money=RUNS_ON,
        next_step="Raise the queue limit, or try again when the network is less busy.",
        task_id=job.task_id,
        job_id=job.job_id,
    )


def closed(job: Job) -> ClientClosedError:
    """The client was closed while a caller waited."""
    what = "The client was closed while it waited for "
    if job.task_id is not None:
        what += f"{'the result of ' if job.status == FINISHED else ''}task {job.task_id}"
        money = _money_of_task(job)
        next_step = f"Take it up again by its id: `xalora resume {job.task_id}`."
    elif job.may_be_created:
        what += f"the network's answer to the create of job {job.job_id}"
        money = MAY_BE_CHARGED
        next_step = "See what became of it with `xalora tasks`."
    else:
        what += f"job {job.job_id} to be sent"
        money = NOTHING_CHARGED
        next_step = "Run it again, and close the client after that."
    return ClientClosedError(what, money=money, next_step=next_step, task_id=job.task_id, job_id=job.job_id)


def outcome_unknown(record: Record) -> AmbiguousCreateError:
    """A claim that meets a record whose task may or may not exist."""
    if record.task_id is not None:
        return AmbiguousCreateError(
            f"The network does not know the earlier task {record.task_id} any more",
            money="Whether it was charged is not known here, so nothing was sent now.",
            next_step='To pay for a new one: if_unknown="forget" (`--if-unknown forget`), or forget it in '
            "the list of tasks.",
            job_id=record.job_id,
            task_id=record.task_id,
        )
    return AmbiguousCreateError(
        f"An earlier create of the same task (job {record.job_id}) went out and its outcome is not known",
        money="That task may exist and be charged, so nothing was sent now.",
        next_step='Look for the job in your account. Then choose: if_unknown="resend" sends it again under '
        'the same job id, "forget" pays for a new one (`--if-unknown resend|forget`).',
        job_id=record.job_id,
    )


def anothers_id(error: JournalError, job_id: str) -> AmbiguousCreateError:
    """The network answered a create with the id of another task."""
    return AmbiguousCreateError(
        error.what,
        money=MAY_BE_CHARGED,
        next_step="Look for the job in your account, and tell whoever runs the sequencer.",
        job_id=job_id,
    )


def add_doubt(error: XaloraError, job_id: str) -> None:
    """Have the error of a create that was sent again tell of the first one, whose outcome is not known."""
    error.money = FIRST_MAY_BE_CHARGED
    if error.status_code == _CONFLICT:
        error.money = FIRST_PROBABLY_CHARGED
        error.next_step = f"Look for job {job_id} in your account, and take its task up by its id."


def add_canceled(error: XaloraError) -> None:
    """Have an error that ended the wait say that the task was canceled then, rather than that it runs on."""
    if isinstance(error, QueueLimitError):
        error.cancel_confirmed = True
    if isinstance(error, QueueLimitError | TaskTimeoutError):
        error.money = CANCELED_THERE
        error.next_step = "Run it again with a longer limit, or when the network is less busy."


def add_not_confirmed(error: XaloraError) -> None:
    """Have an error that ended the wait say that a cancel was asked for, and that the task may run on."""
    if isinstance(error, QueueLimitError | TaskTimeoutError):
        error.money = NOT_CONFIRMED
