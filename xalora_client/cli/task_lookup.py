"""What this machine knows of earlier tasks: finding them in the journal, reaching them in the network."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import Settings
from ..errors import STILL_RETRIEVABLE, MissingKeyError
from ..journal import Journal, Record, TaskState
from .command import run_interruptible
from .formats import counted

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..tasks import WorkflowTask

logger = logging.getLogger("xalora_client.cli")

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Task ids or job ids.", show_default=False)
]

AT_NETWORK = (TaskState.SUBMITTED, TaskState.CANCEL_PENDING)


@contextmanager
def opened_journal(settings: Settings, *, needed: bool = False) -> Iterator[Journal]:
    """The journal of these settings, or one in memory where that can't be used.

    Args:
        needed: The answer is in the journal alone, and one in memory would say that there is nothing.

    Raises:
        JournalError: It can't be used, and is ``needed``.
    """
    from ..client import open_journal

    with open_journal(settings, or_memory=not needed) as journal:
        yield journal


def find_record(journal: Journal, text: str, settings: Settings) -> Record | None:
    return journal.by_task_id(text, settings.sequencer_url) or journal.by_job_id(text)


def chosen_records(
    journal: Journal,
    ids: Sequence[str] | None,
    every: bool,
    settings: Settings,
    suits: Callable[[Record], bool],
) -> list[tuple[str, Record | None]]:
    """What the user means, each with its record where the journal has one."""
    if bool(ids) == every:
        raise typer.BadParameter("give ids, or --all")
    if not every:
        found = [(text, find_record(journal, text, settings)) for text in dict.fromkeys(ids or ())]
        return [(record.task_id or text if record else text, record) for text, record in found]
    records = journal.open_records()
    here = [record for record in records if record.work.sequencer_url == settings.sequencer_url]
    if len(here) < len(records):
        logger.warning(
            "%s of another network left alone; set XALORA_WORKFLOW_URL to reach it",
            counted(len(records) - len(here), "open task"),
        )
    return [(record.task_id or record.job_id, record) for record in here if suits(record)]


def with_client(
    settings: Settings,
    journal: Journal,
    work: Callable[[AsyncXalora], Awaitable[Any]],
    on_interrupt: Callable[[], None] = lambda: None,
) -> Any:
    from ..client import AsyncXalora

    async def run() -> Any:
        async with AsyncXalora(settings=settings, journal=journal) as client:
            return await work(client)

    return run_interruptible(run(), on_interrupt=on_interrupt)


def own_key_task(record: Record | None, settings: Settings) -> WorkflowTask | None:
    """A task that carries the key of its own which this record was paid with, asked for in the terminal.

    Raises:
        MissingKeyError: There is nobody to ask.
    """
    from ..tasks import WorkflowTask

    if record is None or not record.work.own_key:
        return None
    consumer = record.work.consumer_id
    if settings.api_key is not None and settings.credentials().consumer_id == consumer:
        return None
    if not sys.stdin.isatty():
        raise MissingKeyError(
            f"Task {record.task_id} has a key of its own (of consumer {consumer}), which is kept nowhere",
            money=STILL_RETRIEVABLE,
            next_step="Run this in a terminal to be asked for it, or set XALORA_API_KEY to it.",
            task_id=record.task_id,
        )
    key = typer.prompt(f"Key of consumer {consumer} for task {record.task_id}", hide_input=True, err=True)
    if key.startswith((f"{consumer}#", f"{consumer}-")):
        return WorkflowTask(api_key=key)
    return WorkflowTask(consumer_id=consumer, api_key=key)
