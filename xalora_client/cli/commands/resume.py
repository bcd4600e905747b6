"""``xalora resume``: open tasks taken up again, and cancels settled that were left open."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import load_settings
from ...errors import AmbiguousCreateError, XaloraError
from ...journal import Journal, Record, TaskState
from ..command import command
from ..exit_codes import ExitCode, most_serious
from ..job_runner import Doing, Job, Workshop, document_of
from ..options import AsJson, Force, Output, Timeout
from ..outputs import check_destinations, plan_for_names
from ..screen import Screen
from ..task_lookup import Ids, chosen_records, opened_journal, own_key_task, with_client
from ..task_table import state_text

if TYPE_CHECKING:
    from ...client import AsyncXalora, TaskHandle
    from ...tasks import WorkflowTask

logger = logging.getLogger("xalora_client.cli")


@command
def resume(
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Every open task of this network.")] = False,
    output: Output = None,
    force: Force = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Take open tasks up again: wait for results and fetch them, settle cancels left open."""
    screen = Screen(json=as_json)
    settings = load_settings().settings
    with opened_journal(settings, needed=every) as journal:
        chosen = chosen_records(journal, ids, every, settings, lambda _: True)
        codes = [_why_not(screen, journal, record) for _, record in chosen]
        ready = [pair for pair, code in zip(chosen, codes, strict=True) if code is None]
        own = [own_key_task(record, settings) for _, record in ready]
        destinations = plan_for_names(
            [_name_for(known_as, record) for known_as, record in ready], output if ready else None
        )
        check_destinations(destinations, force=force)
        wait = settings.wait_timeout if timeout is None else timeout
        workshop: Workshop | None = None

        async def work(client: AsyncXalora) -> None:
            nonlocal workshop
            handles = [_handle(client, pair, task) for pair, task in zip(ready, own, strict=True)]
            settled = await asyncio.gather(
                *(_settle_cancel(client, record, task) for (_, record), task in zip(ready, own, strict=True))
            )
            jobs = []
            for handle, (_, record), destination, ended in zip(
                handles, ready, destinations, settled, strict=True
            ):
                label = record.work.label if record is not None else handle.task_id
                if ended is None:
                    jobs.append(Job(label, _fetching(handle, wait), destination))
                else:
                    screen.say(f"{label}: task {handle.task_id} is {ended}, as was asked before")
            workshop = Workshop(screen, jobs, force=force, at_once=settings.max_in_flight)
            await workshop.run()

        try:
            if ready:
                with_client(
                    settings, journal, work, lambda: screen.note("Leaving; the tasks run on in the network.")
                )
            elif not chosen:
                screen.say("No open tasks.")
            finished = workshop.code if workshop is not None else ExitCode.DONE
        except KeyboardInterrupt:
            finished = ExitCode.INTERRUPTED
    code = most_serious([finished, *(code for code in codes if code is not None)])
    if as_json:
        screen.document(document_of(workshop.reports if workshop is not None else [], code))
    return code


def _handle(client: AsyncXalora, pair: tuple[str, Record | None], task: WorkflowTask | None) -> TaskHandle:
    from ...client import TaskHandle

    return TaskHandle(client, pair[0], task)


def _fetching(handle: TaskHandle, timeout: float) -> Doing:
    return lambda hear: handle.result(timeout=timeout, on_event=hear)


async def _settle_cancel(client: AsyncXalora, record: Record | None, task: WorkflowTask | None) -> str | None:
    """Ask again for a cancel that was not confirmed; how the task ended, or None where a result may come."""
    if record is None or record.state is not TaskState.CANCEL_PENDING:
        return None
    try:
        await client.cancel_task(str(record.task_id), task=task)
    except XaloraError as error:
        logger.warning("%s", error)
    now = client.journal.find(record.id)
    return state_text(now) if now is not None and now.state is TaskState.CANCELED else None


def _why_not(screen: Screen, journal: Journal, record: Record | None) -> ExitCode | None:
    """Why a record can't be resumed, said and as an exit status; None where it can."""
    if record is None or record.task_id is not None:
        return None
    subject = f"{record.work.label} (job {record.job_id})"
    if record.state is TaskState.UNKNOWN:
        screen.error(
            AmbiguousCreateError(
                f"The create of {subject} went out and its outcome was never learned",
                money="It may exist and be charged.",
                next_step="Look for the job in your account; then run the same command again with "
                f"--if-unknown resend or forget, or `xalora forget {record.job_id}`.",
            )
        )
        return ExitCode.OUTCOME_UNKNOWN
    if journal.attended(record.id):
        screen.note(f"{subject}: another process is sending it right now")
        return ExitCode.DONE
    screen.error(XaloraError(f"{subject} was never sent", next_step="Run the same command again to send it."))
    return ExitCode.TASK_FAILED


def _name_for(known_as: str, record: Record | None) -> str:
    """What a resumed result is named after: the input or the prompt, as far as they are known."""
    if record is None:
        return known_as
    label = record.work.label
    return label.removeprefix("upscale ").rpartition(".")[0] or label
