"""The journal's answer for a task, waited for as long as the caller may, and taken back where it left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any, TypeVar

from ..concurrency import JOURNAL_READS, DaemonThreads, run_in_thread
from ..errors import JournalError
from ..journal import BusyJournalError, Claim, ClaimOptions, Journal, Work, busy_error
from . import messages
from .background import awaited

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""How long a journal that another program holds is waited for before a task is sent."""

KEPT_SECONDS = 0.5
"""How long a held journal is waited for before a kept result is looked for by reading alone."""


_LOOKS = DaemonThreads("xalora-looks", 4)
"""Looks at folders of results. Few, since of hundreds of tasks that begin at once each has one."""


async def claim(
    journal: Journal, work: Work, job_id: str, options: ClaimOptions, deadline: float | None
) -> Claim:
    """The journal's answer.

    A journal that can be read only, or that another program holds, still gives out a kept result.

    Raises:
        JournalError: It can't be written: nothing may be sent that could not be remembered.
        TaskTimeoutError: Another program held it until the deadline.
    """
    folder = await run_in_thread(lambda: journal.look(work), _LOOKS)
    patience = PATIENCE_SECONDS if deadline is None else min(PATIENCE_SECONDS, deadline - monotonic())
    claiming = journal.claim(work, options, job_id=job_id, folder=folder, patience=max(0.0, patience))

    def kept() -> Claim | None:
        record = journal.answering(work, options, patience=0.0)
        if record is None or not record.files:
            return None
        # Without a seed, nobody could be told any more that the result was given out.
        is_shared = work.seeded or record.task_id in options.among
        return Claim(action="kept", record=record) if is_shared else None

    began, has_looked = monotonic(), False
    try:
        answer = awaited(claiming)
        await asyncio.wait({answer}, timeout=min(KEPT_SECONDS, max(0.0, patience)))
        if not answer.done():
            has_looked = True
            if (given := await read(kept)) is not None:
                withdraw(journal, claiming)
                return given
            await asyncio.wait({answer}, timeout=max(0.0, began + patience - monotonic()))
        if answer.done():
            return answer.result()
        raise busy_error(journal.path)
    except JournalError as error:
        withdraw(journal, claiming)
        if not has_looked and (given := await read(kept)) is not None:
            return given
        if isinstance(error, BusyJournalError) and deadline is not None and monotonic() >= deadline - 0.2:
            why = f", since another program holds the journal {journal.path}"
            raise messages.not_sent_in_time(job_id, patience, why) from error
        raise
    except asyncio.CancelledError:
        withdraw(journal, claiming)
        raise


def withdraw(journal: Journal, claiming: Future[Claim] | Future[str]) -> None:
    """Take a claim, or a lease, back; where it was given already, nobody holds it any more."""

    def leave(decided: Future[Any]) -> None:
        if not decided.cancelled() and decided.exception() is None:
            given = decided.result()
            journal.leave(given.lease if isinstance(given, Claim) else given)

    if not claiming.cancel():
        claiming.add_done_callback(leave)


async def read(reading: Callable[[], T | None]) -> T | None:
    """What the journal says; None where it can't be read."""
    try:
        return await run_in_thread(reading, JOURNAL_READS)
    except JournalError:
        return None
