"""Looks up earlier tasks by id in the journal."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import Settings
from ..errors import STILL_RETRIEVABLE, AmbiguousCreateError, JournalError, MissingKeyError
from ..journal import Journal, Record
from ..text import counted
from .formats import printable

if TYPE_CHECKING:
    from ..tasks import WorkflowTask

logger = logging.getLogger("xalora_client.cli")

SETTLE_SECONDS = 1.0
"""How long a journal that another program holds is waited for before its records are read as they stand."""

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Task ids or job ids.", show_default=False)
]


def find_record(journal: Journal, text: str, settings: Settings) -> Record | None:
    """The record of a task id or job id; None where the journal has none, or can't be read.

    Raises:
        InvalidTaskError: It can be neither.
    """
    from ..handle import checked_task_id

    text = checked_task_id(text)
    try:
        return journal.find(task_id=text, sequencer_url=settings.sequencer_url) or journal.find(job_id=text)
    except JournalError as error:
        logger.warning("%s", error)
        return None


def chosen_records(
    journal: Journal,
    ids: Sequence[str] | None,
    every: bool,
    settings: Settings,
    condition: Callable[[Record], bool],
) -> list[tuple[str, Record | None]]:
    """The tasks named by ``ids``, or ``every`` open or undelivered one that meets the condition.

    Returns:
        Their task ids (the id as given if no task id is known) and records (None if the journal has none).
    """
    if bool(ids) == every:
        raise typer.BadParameter("give ids, or --all")
    if not every:
        found = [(text, find_record(journal, text, settings)) for text in dict.fromkeys(ids or ())]
        return [(record.task_id or text if record else text, record) for text, record in found]
    journal.settle(SETTLE_SECONDS)
    records = journal.records(is_left=True)[::-1]
    here = [record for record in records if record.work.sequencer_url == settings.sequencer_url]
    _note_ignored(len(records) - len(here), "another network", "XALORA_WORKFLOW_URL to that network")
    if settings.api_key is None:
        own = here
    else:
        consumer = settings.credentials().consumer_id
        own = [record for record in here if record.work.consumer_id == consumer or record.work.own_key]
        _note_ignored(len(here) - len(own), "another account", "XALORA_API_KEY to the key of that account")
    return [(record.task_id or record.job_id, record) for record in own if condition(record)]


def left_to_its_command(parts: Sequence[Record]) -> list[str]:
    """For each whole of which these are parts, what goes on with them: a frame is no result of its own."""
    return [
        f"{printable(label)}: {counted(count, 'task')} left; the same command again takes them up"
        for label, count in _by_whole(parts).items()
    ]


def outcomes_of_parts(parts: Sequence[Record]) -> list[AmbiguousCreateError]:
    """An error for each whole of which these are parts whose outcome is unknown."""
    return [
        AmbiguousCreateError(
            f"{label}: what became of {counted(count, 'task')} is not known",
            money="What was sent may exist and be charged.",
            next_step="Look for the jobs in your account; then run the same command again with --if-unknown "
            "resend or forget.",
        )
        for label, count in _by_whole(parts).items()
    ]


def _by_whole(parts: Sequence[Record]) -> Counter[str]:
    return Counter(record.work.whole.label for record in parts if record.work.whole is not None)


def _note_ignored(count: int, whose: str, setting: str) -> None:
    if count:
        logger.warning("%s of %s ignored; set %s", counted(count, "open task"), whose, setting)


def own_key_task(record: Record | None, settings: Settings) -> WorkflowTask | None:
    """A task with the record's own key, asked for in the terminal; None if the settings have its key.

    Raises:
        MissingKeyError: The input is not a terminal.
    """
    from ..tasks import WorkflowTask

    if record is None or not record.work.own_key:
        return None
    consumer = record.work.consumer_id
    if settings.api_key is not None and settings.credentials().consumer_id == consumer:
        return None
    if not sys.stdin.isatty():
        raise MissingKeyError(
            f"Task {record.task_id} has its own key (of consumer {consumer}), which is not stored",
            money=STILL_RETRIEVABLE,
            next_step="Run this in a terminal to enter the key, or set XALORA_API_KEY to it.",
            task_id=record.task_id,
        )
    key = typer.prompt(f"Key of consumer {consumer} for task {record.task_id}", hide_input=True, err=True)

    class KnownTask(WorkflowTask):
        """Carries the key of a task that is known by its id."""

        task_type = "known"

    if key.startswith((f"{consumer}#", f"{consumer}-")):
        return KnownTask(api_key=key)
    return KnownTask(consumer_id=consumer, api_key=key)
