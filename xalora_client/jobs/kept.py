"""Kept results as they are given out: their files checked, and what callers get and are told."""

from __future__ import annotations

from contextlib import suppress

from ..events import Done
from ..files import digest_of
from ..journal import IfUnknown, Record, TaskState
from ..media.limits import PixelLimits
from ..results import REMOTE_ENGINE, RunResult, Timing


def are_whole(record: Record) -> bool:
    """Whether the kept files are as they were when they were fetched. Blocking: it reads them.

    Damaged ones are removed, so that nobody takes them for those of a process whose note was lost.
    """
    whole = 0
    for file, digest in zip(record.files, record.digests, strict=True):
        with suppress(OSError):
            if digest_of(file) == digest if digest else file.exists():
                whole += 1
            else:
                file.unlink()
    return whole == len(record.files)


def needs_create(record: Record | None, if_unknown: IfUnknown) -> bool:
    """Whether a task that this record answers, None for no record, is sent to the network."""
    if record is None or record.state in (TaskState.PREPARED, TaskState.NOT_SENT):
        return True
    if record.state is not TaskState.UNKNOWN or if_unknown == "stop":
        return False
    # The network has accepted the task, and only it can say more.
    return if_unknown == "forget" or record.task_id is None


def kept_result(record: Record, limits: PixelLimits) -> RunResult:
    """The result that a record keeps."""
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
        record_id=record.id,
        limits=limits,
    )


def done_again(result: RunResult) -> Done:
    """What a caller is told of a kept result."""
    return Done(
        job_id=result.job_id,
        task_id=result.task_id,
        engine=result.engine,
        seconds=0.0,
        files=result.files,
        reused=True,
    )
