"""``xalora tasks | status | resume | cancel | forget``: what was begun before, here or anywhere."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..config import Settings, load_settings
from ..errors import (
    NOTHING_CHARGED,
    STILL_RETRIEVABLE,
    AmbiguousCreateError,
    ConfigurationError,
    MissingKeyError,
    XaloraError,
)
from ..journal import Entry, Journal, TaskState
from .command import command, run_interruptible
from .exit_codes import ExitCode, exit_code_of, most_serious
from .formats import counted, elapsed_text, printable, seconds_text, shortened
from .options import AsJson, Force, Output, Timeout
from .outputs import check_destinations, plan_for_names
from .screen import Screen, error_fields
from .work import Doing, Job, Workshop, document_of

if TYPE_CHECKING:
    from ..client import AsyncXalora, TaskHandle
    from ..tasks import WorkflowTask

logger = logging.getLogger("xalora_client.cli")

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Task ids or job ids.", show_default=False)
]

AT_NETWORK = (TaskState.SUBMITTED, TaskState.CANCEL_PENDING)

_STATES = {
    TaskState.PREPARED: ("preparing", "cyan"),
    TaskState.SENDING: ("being sent", "cyan"),
    TaskState.FINISHED: ("to download", "cyan"),
    TaskState.KEPT: ("done", "green"),
    TaskState.FAILED: ("failed", "red"),
    TaskState.CANCELED: ("canceled", "dim"),
    TaskState.CANCEL_PENDING: ("cancel not confirmed", "yellow"),
    TaskState.UNKNOWN: ("outcome unknown", "bold yellow"),
    TaskState.NOT_SENT: ("not sent", "dim"),
}


@command
def tasks(
    every: Annotated[bool, typer.Option("--all", "-a", help="Those that have ended, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --all: at most so many, the latest.")] = 50,
    as_json: AsJson = False,
) -> ExitCode:
    """List tasks that this machine knows of: open ones, or all."""
    screen = Screen(json=as_json)
    with _journal(load_settings().settings) as journal:
        still_open = journal.open_entries()
        entries = journal.entries(limit=limit) if every else still_open[::-1]
        attended = {entry.id: journal.attended(entry.id) > 0 for entry in still_open}
        total = journal.count()
    if as_json:
        screen.document({"tasks": [_entry_document(e, attended.get(e.id, False)) for e in entries]})
        return ExitCode.DONE
    if entries:
        screen.show(_table(entries, attended))
    if every and total > len(entries):
        screen.say((f"{total - len(entries)} older ones are not shown; see --limit.", "dim"))
    idle = [entry for entry in still_open if not attended[entry.id]]
    undecided = sum(entry.state is TaskState.UNKNOWN for entry in idle)
    if len(idle) > undecided:
        screen.say(f"{counted(len(idle) - undecided, 'task')} with nobody at work: xalora resume --all")
    if undecided:
        screen.say(
            f"{counted(undecided, 'outcome')} unknown: look for the job in your account, then run the same "
            "command with --if-unknown resend or forget, or: xalora forget JOB"
        )
    if not entries:
        screen.say("No tasks." if every else "No open tasks; --all shows those that have ended.")
    return ExitCode.DONE


@command
def status(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Task id or job id.")],
    as_json: AsJson = False,
) -> ExitCode:
    """Ask the network once how a task stands."""
    from ..journal.rows import without_media

    screen = Screen(json=as_json)
    settings = load_settings().settings
    with _journal(settings) as journal:
        entry = _find(journal, task_id, settings)
        if entry is not None and entry.task_id is None:
            screen.say(f"{entry.work.label} (job {entry.job_id}): {_state_text(entry)}")
            if as_json:
                screen.document(_entry_document(entry, attended=journal.attended(entry.id) > 0))
            return ExitCode.OUTCOME_UNKNOWN if entry.state is TaskState.UNKNOWN else ExitCode.DONE
        known_as = task_id if entry is None else str(entry.task_id)
        own = _own_key_task(entry, settings)

        async def ask(client: AsyncXalora) -> Any:
            return await client.query_task_result(known_as, task=own)

        answer = _with_client(settings, journal, ask)
    screen.say(
        (answer.status, "bold"),
        f"  task {answer.task_id}" + (f"  {entry.work.label}" if entry is not None else ""),
    )
    if answer.result is not None:
        screen.say((str(without_media(answer.result)), "dim"))
    if as_json:
        screen.document(
            {
                "task_id": answer.task_id,
                "job_id": entry.job_id if entry is not None else None,
                "status": answer.status,
                "result": answer.result,
            }
        )
    return ExitCode.DONE


@command
def cancel(
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Every open task of this network.")] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Ask the network to cancel tasks."""
    screen = Screen(json=as_json)
    settings = load_settings().settings
    with _journal(settings) as journal:
        chosen = _chosen(journal, ids, every, settings, lambda entry: entry.state in AT_NETWORK)
        own = [_own_key_task(entry, settings) for _, entry in chosen]
        documents: list[dict[str, Any]] = []
        codes: list[ExitCode] = []

        async def one(client: AsyncXalora, known_as: str, entry: Entry | None, task: Any) -> None:
            document: dict[str, Any] = {"task_id": known_as, "msg": None, "state": None, "error": None}
            try:
                document |= await _cancel(client, known_as, entry, task)
                screen.say(f"task {document['task_id']}: {document['state'] or document['msg']}")
                codes.append(ExitCode.DONE)
            except XaloraError as error:
                document["error"] = error_fields(error)
                screen.error(error, known_as if len(chosen) > 1 else "")
                codes.append(exit_code_of(error))
            documents.append(document)

        async def work(client: AsyncXalora) -> None:
            await asyncio.gather(*(one(client, *pair, task) for pair, task in zip(chosen, own, strict=True)))

        if chosen:
            _with_client(settings, journal, work)
        else:
            screen.say("No open tasks.")
    code = most_serious(codes)
    if as_json:
        screen.document({"tasks": documents, "exit_code": int(code)})
    return code


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
    with _journal(settings) as journal:
        chosen = _chosen(journal, ids, every, settings, lambda _: True)
        codes = [_why_not(screen, journal, entry) for _, entry in chosen]
        ready = [pair for pair, code in zip(chosen, codes, strict=True) if code is None]
        own = [_own_key_task(entry, settings) for _, entry in ready]
        destinations = plan_for_names(
            [_name_for(known_as, entry) for known_as, entry in ready], output if ready else None
        )
        check_destinations(destinations, force=force)
        wait = settings.wait_timeout if timeout is None else timeout
        workshop: Workshop | None = None

        async def work(client: AsyncXalora) -> None:
            nonlocal workshop
            handles = [_handle(client, pair, task) for pair, task in zip(ready, own, strict=True)]
            settled = await asyncio.gather(
                *(_settle_cancel(client, entry, task) for (_, entry), task in zip(ready, own, strict=True))
            )
            jobs = []
            for handle, (_, entry), destination, ended in zip(
                handles, ready, destinations, settled, strict=True
            ):
                label = entry.work.label if entry is not None else handle.task_id
                if ended is None:
                    jobs.append(Job(label, _fetching(handle, wait), destination))
                else:
                    screen.say(f"{label}: task {handle.task_id} is {ended}, as was asked before")
            workshop = Workshop(screen, jobs, force=force, at_once=settings.max_in_flight)
            await workshop.run()

        try:
            if ready:
                _with_client(
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


@command
def forget(
    ids: Ids = None,
    ended: Annotated[bool, typer.Option("--ended", help="All that have ended, with kept results.")] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also tasks that are paid for and still open.")
    ] = False,
) -> ExitCode:
    """Remove tasks, with their kept results, from this machine's journal. The network is not told."""
    if not ids and not ended:
        raise typer.BadParameter("give ids, or --ended")
    screen = Screen()
    settings = load_settings().settings
    codes = [ExitCode.DONE]
    with _journal(settings) as journal:
        for text in ids or ():
            entry = _find(journal, text, settings)
            if entry is None:
                raise typer.BadParameter(f"the journal knows no task or job {text}")
            try:
                _forget(journal, entry, force=force)
            except XaloraError as error:
                screen.error(error)
                codes.append(exit_code_of(error))
            else:
                screen.say(f"{entry.work.label} (job {entry.job_id}) is forgotten")
        if ended:
            screen.say(f"{counted(journal.forget_ended(), 'ended task')} forgotten")
    return most_serious(codes)


# --- the journal ------------------------------------------------------------------------------------------


@contextmanager
def _journal(settings: Settings) -> Iterator[Journal]:
    from ..client import JOURNAL_NAME, RESULTS_FOLDER
    from ..journal import open_or_memory

    journal, warning = open_or_memory(
        settings.state_dir / JOURNAL_NAME, settings.state_dir / RESULTS_FOLDER, int(settings.results_limit)
    )
    if warning:
        logger.warning("%s", warning)
    with journal:
        yield journal


def _find(journal: Journal, text: str, settings: Settings) -> Entry | None:
    return journal.by_task_id(text, settings.workflow_url) or journal.by_job_id(text)


def _chosen(
    journal: Journal,
    ids: Sequence[str] | None,
    every: bool,
    settings: Settings,
    suits: Callable[[Entry], bool],
) -> list[tuple[str, Entry | None]]:
    """What the user means, each with its entry where the journal has one."""
    if bool(ids) == every:
        raise typer.BadParameter("give ids, or --all")
    if not every:
        found = [(text, _find(journal, text, settings)) for text in dict.fromkeys(ids or ())]
        return [(entry.task_id or text if entry else text, entry) for text, entry in found]
    entries = journal.open_entries()
    here = [entry for entry in entries if entry.work.sequencer_url == settings.workflow_url]
    if len(here) < len(entries):
        logger.warning(
            "%s of another network left alone; set XALORA_WORKFLOW_URL to reach it",
            counted(len(entries) - len(here), "open task"),
        )
    return [(entry.task_id or entry.job_id, entry) for entry in here if suits(entry)]


def _forget(journal: Journal, entry: Entry, *, force: bool) -> None:
    if entry.state in (*AT_NETWORK, TaskState.FINISHED) and not force:
        raise ConfigurationError(
            f"Task {entry.task_id} ({entry.work.label}) is still open",
            money=STILL_RETRIEVABLE,
            next_step="Resume or cancel it, or forget it all the same with --force.",
        )
    if not journal.forget(entry.id):
        raise ConfigurationError(
            f"{entry.work.label} (job {entry.job_id}) is in the hands of another process",
            money=NOTHING_CHARGED,
            next_step="Wait until that has ended.",
        )


# --- the network ------------------------------------------------------------------------------------------


def _with_client(
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


def _own_key_task(entry: Entry | None, settings: Settings) -> WorkflowTask | None:
    """A task that carries the key of its own which this entry was paid with, asked for in the terminal.

    Raises:
        MissingKeyError: There is nobody to ask.
    """
    from ..tasks import WorkflowTask

    if entry is None or not entry.work.own_key:
        return None
    consumer = entry.work.consumer_id
    if settings.api_key is not None and settings.credentials().consumer_id == consumer:
        return None
    if not sys.stdin.isatty():
        raise MissingKeyError(
            f"Task {entry.task_id} has a key of its own (of consumer {consumer}), which is kept nowhere",
            money=STILL_RETRIEVABLE,
            next_step="Run this in a terminal to be asked for it, or set XALORA_API_KEY to it.",
            task_id=entry.task_id,
        )
    key = typer.prompt(f"Key of consumer {consumer} for task {entry.task_id}", hide_input=True, err=True)
    if key.startswith((f"{consumer}#", f"{consumer}-")):
        return WorkflowTask(api_key=key)
    return WorkflowTask(consumer_id=consumer, api_key=key)


def _handle(client: AsyncXalora, pair: tuple[str, Entry | None], task: WorkflowTask | None) -> TaskHandle:
    from ..client import TaskHandle

    return TaskHandle(client, pair[0], task)


def _fetching(handle: TaskHandle, timeout: float) -> Doing:
    return lambda hear: handle.result(timeout=timeout, on_event=hear)


async def _cancel(
    client: AsyncXalora, known_as: str, entry: Entry | None, task: WorkflowTask | None
) -> dict[str, Any]:
    if entry is not None and entry.task_id is None:
        kind = AmbiguousCreateError if entry.state is TaskState.UNKNOWN else ConfigurationError
        raise kind(
            f"{entry.work.label}: its task id is not known ({_state_text(entry)}), so it can't be canceled",
            money="Look for the job in your account." if kind is AmbiguousCreateError else NOTHING_CHARGED,
            job_id=entry.job_id,
        )
    answer = await client.cancel_task(known_as, task=task)
    now = client.journal.find(entry.id) if entry is not None else None
    return {"task_id": known_as, "msg": answer["msg"], "state": _state_text(now) if now else None}


async def _settle_cancel(client: AsyncXalora, entry: Entry | None, task: WorkflowTask | None) -> str | None:
    """Ask again for a cancel that was not confirmed; how the task ended, or None where a result may come."""
    if entry is None or entry.state is not TaskState.CANCEL_PENDING:
        return None
    try:
        await client.cancel_task(str(entry.task_id), task=task)
    except XaloraError as error:
        logger.warning("%s", error)
    now = client.journal.find(entry.id)
    return _state_text(now) if now is not None and now.state is TaskState.CANCELED else None


def _why_not(screen: Screen, journal: Journal, entry: Entry | None) -> ExitCode | None:
    """Why an entry can't be resumed, said and as an exit status; None where it can."""
    if entry is None or entry.task_id is not None:
        return None
    subject = f"{entry.work.label} (job {entry.job_id})"
    if entry.state is TaskState.UNKNOWN:
        screen.error(
            AmbiguousCreateError(
                f"The create of {subject} went out and its outcome was never learned",
                money="It may exist and be charged.",
                next_step="Look for the job in your account; then run the same command again with "
                f"--if-unknown resend or forget, or `xalora forget {entry.job_id}`.",
            )
        )
        return ExitCode.OUTCOME_UNKNOWN
    if journal.attended(entry.id):
        screen.note(f"{subject}: another process is sending it right now")
        return ExitCode.DONE
    screen.error(XaloraError(f"{subject} was never sent", next_step="Run the same command again to send it."))
    return ExitCode.TASK_FAILED


# --- showing ----------------------------------------------------------------------------------------------


def _name_for(known_as: str, entry: Entry | None) -> str:
    """What a resumed result is named after: the input or the prompt, as far as they are known."""
    if entry is None:
        return known_as
    label = entry.work.label
    return label.removeprefix("upscale ").rpartition(".")[0] or label


def _state_text(entry: Entry) -> str:
    if entry.state is TaskState.SUBMITTED:
        return {"waiting": "queued", None: "submitted"}.get(entry.status, entry.status or "")
    if entry.forgotten:
        return "outcome unknown, given up"
    return _STATES[entry.state][0] + (" (files made room)" if entry.evicted else "")


def _table(entries: Sequence[Entry], attended: dict[int, bool]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("Age", "What", "State", "Took"):
        table.add_column(name)
    table.add_column("Task id", no_wrap=True)
    now = datetime.now(timezone.utc).timestamp()
    for entry in entries:
        style = _STATES.get(entry.state, ("", "cyan"))[1]
        state = _state_text(entry) + (", in hand" if attended.get(entry.id) else "")
        what = shortened(printable(entry.work.label), 40)
        if entry.error and entry.state in (TaskState.FAILED, TaskState.NOT_SENT):
            what += f"\n{shortened(printable(entry.error), 60)}"
        table.add_row(
            Text(elapsed_text(now - entry.created_at), style="dim"),
            Text(what),
            Text(printable(state), style=style),
            Text(seconds_text(entry.total_seconds), style="dim"),
            Text(printable(entry.task_id or f"job {entry.job_id}")),
        )
    return table


def _entry_document(entry: Entry, attended: bool) -> dict[str, Any]:
    work = entry.work
    return {
        "task_id": entry.task_id,
        "job_id": entry.job_id,
        "state": entry.state.value,
        "status": entry.status,
        "open": entry.is_open,
        "attended": attended,
        "label": work.label,
        "task_type": work.task_type,
        "workflow_id": work.workflow_id,
        "workflow_url": work.sequencer_url,
        "consumer_id": work.consumer_id,
        "created_at": entry.created_at,
        "submitted_at": entry.submitted_at,
        "started_at": entry.started_at,
        "ended_at": entry.ended_at,
        "engine": entry.engine,
        "miner": entry.miner,
        "device": entry.device,
        "error": entry.error,
        "files": [str(path) for path in entry.files],
    }
