"""``xalora tasks | status | cancel | forget``: list, query, cancel and forget earlier tasks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...client import open_journal
from ...config import load_settings
from ...errors import (
    NOTHING_CHARGED,
    RUNS_ON,
    STILL_RETRIEVABLE,
    AmbiguousCreateError,
    ConfigurationError,
    XaloraError,
)
from ...journal import Journal, Record, TaskState
from ...journal.spending import spending
from ...journal.wholes import parts_of
from ...text import counted, queue_text, seconds_text
from ..command import command, with_client
from ..exit_codes import ExitCode, exit_code_of, most_serious
from ..formats import printable
from ..options import AsJson
from ..screen import Screen, attributes, error_fields
from ..task_lookup import (
    SETTLE_SECONDS,
    Ids,
    chosen_records,
    find_record,
    left_to_its_command,
    own_key_task,
)
from ..task_table import record_document, record_table, state_text

if TYPE_CHECKING:
    from ...client import AsyncXalora
    from ...journal.queries import Which
    from ...results import WorkflowTaskResult
    from ...tasks import WorkflowTask


def sum_text(name: str, sent: Mapping[str, Any]) -> str:
    """``Last run: 8 tasks, about 0.40 by your prices.``"""
    about = "" if sent["cost"] is None else f", about {sent['cost']} by your prices"
    return f"{name}: {counted(sent['tasks'], 'task')}{about}."


@command
def tasks(
    every: Annotated[bool, typer.Option("--all", "-a", help="Include tasks that have ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --all: how many, the latest first.")] = 50,
    as_json: AsJson = False,
) -> ExitCode:
    """List the open tasks in this machine's journal, or all; the frames of a clip in one line."""
    screen = Screen(json=as_json)
    settings = load_settings().settings
    with open_journal(settings) as journal:
        journal.settle(SETTLE_SECONDS)
        spent = spending(journal.read, settings.prices, settings.unpriced)
        left = journal.records(is_left=True)
        # A program gets each task; for people, a clip of a thousand frames must not hide everything else.
        which: Which = {"is_left": not every, "one_a_whole": not as_json}
        records = journal.records(**which, limit=limit if every else None)
        parts = parts_of(journal.read, {record.work.whole.id for record in records if record.work.whole})
        leased = journal.leased()
        total = journal.count(**which)
    if as_json:
        documents = [record_document(record, leased) for record in records]
        screen.document({"tasks": documents, **spent})
        return ExitCode.DONE
    if records:
        screen.show(record_table(records, leased, parts))
    if spent["last_run"] is not None:
        screen.say((sum_text("Last run", spent["last_run"]), "dim"))
    if spent["today"]["tasks"]:
        screen.say((sum_text("Since midnight", spent["today"]), "dim"))
    if total > len(records):
        screen.say((f"{total - len(records)} older tasks are not shown; see --limit.", "dim"))
    idle = [record for record in left if record.id not in leased]
    undecided = sum(record.state is TaskState.UNKNOWN for record in idle)
    parts_left = [record for record in idle if record.work.whole and record.state is not TaskState.UNKNOWN]
    if single := len(idle) - undecided - len(parts_left):
        screen.say(f"{counted(single, 'task')} that no process waits for: xalora resume --all")
    for line in left_to_its_command(parts_left):
        screen.say(line)
    if undecided:
        screen.say(
            f"{counted(undecided, 'unknown outcome')}: look for the job in your account, then run the same "
            "command with --if-unknown resend or forget, or: xalora forget JOB"
        )
    if not records:
        screen.say("No tasks." if every else "No open tasks; --all lists ended ones too.")
    return ExitCode.DONE


@command
def status(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Task id or job id.")],
    as_json: AsJson = False,
) -> ExitCode:
    """Ask the network once for the status of a task."""
    from ...journal.records import without_media

    screen = Screen(json=as_json)
    settings = load_settings().settings
    with open_journal(settings) as journal:
        record = find_record(journal, task_id, settings)
        if record is not None and record.task_id is None:
            screen.say(f"{record.work.label} (job {record.job_id}): {state_text(record)}")
            if as_json:
                screen.document(record_document(record, journal.leased([record.id])))
            return ExitCode.OUTCOME_UNKNOWN if record.state is TaskState.UNKNOWN else ExitCode.DONE
        known_as = task_id if record is None else str(record.task_id)
        own = own_key_task(record, settings)

        async def query(client: AsyncXalora) -> WorkflowTaskResult:
            return await client.query_task_result(known_as, task=own)

        answer = with_client(settings, journal, query)
    screen.say(
        (answer.status, "bold"),
        f"  task {answer.task_id}" + (f"  {record.work.label}" if record is not None else ""),
    )
    told = [
        *([queue_text(answer.queue_position)] if answer.queue_position is not None else ()),
        *([f"miner {answer.miner}"] if answer.miner else ()),
        *([f"computed in {seconds_text(answer.inference_seconds)}"] if answer.inference_seconds else ()),
        *([answer.message] if answer.message else ()),
    ]
    if told:
        screen.say(printable(", ".join(told)))
    if answer.result is not None:
        screen.say((str(without_media(answer.result)), "dim"))
    if as_json:
        screen.document(
            {
                "task_id": answer.task_id,
                "job_id": record.job_id if record is not None else None,
                "status": answer.status,
                "result": answer.result,
                **attributes(
                    answer, "queue_position", "miner", "inference_seconds", "upload_seconds", "message"
                ),
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
    with open_journal(settings) as journal:
        chosen = chosen_records(journal, ids, every, settings, _is_at_network)
        own = [own_key_task(record, settings) for _, record in chosen]
        nothing: dict[str, Any] = {"msg": None, "state": None, "error": None, "finished": False}
        documents = [{"task_id": known_as, **nothing} for known_as, _ in chosen]
        codes: list[ExitCode] = []

        def fail(document: dict[str, Any], error: XaloraError) -> None:
            document["error"] = error_fields(error)
            screen.error(error, document["task_id"] if len(chosen) > 1 else "")

        async def cancel_one(
            client: AsyncXalora, document: dict[str, Any], record: Record | None, task: WorkflowTask | None
        ) -> None:
            try:
                document |= await _cancel(client, document["task_id"], record, task)
                screen.say(f"task {document['task_id']}: {_outcome(document, record)}")
                codes.append(ExitCode.DONE)
            except XaloraError as error:
                fail(document, error)
                codes.append(exit_code_of(error))

        async def cancel_all(client: AsyncXalora) -> None:
            records = [record for _, record in chosen]
            await asyncio.gather(
                *(cancel_one(client, *each) for each in zip(documents, records, own, strict=True))
            )

        if chosen:
            try:
                last_words = "\nEnded at once. What is not confirmed may run on and be charged.\n"
                with_client(settings, journal, cancel_all, last_words=lambda: last_words)
            except KeyboardInterrupt:
                codes.append(ExitCode.INTERRUPTED)
                for document in documents:
                    if document["msg"] is None and document["error"] is None:
                        fail(document, _interrupted(document["task_id"]))
        else:
            screen.say("No open tasks.")
    code = most_serious(codes)
    if as_json:
        screen.document({"tasks": documents, "exit_code": int(code)})
    return code


@command
def forget(
    ids: Ids = None,
    ended: Annotated[bool, typer.Option("--ended", help="All ended tasks, with their kept results.")] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also open tasks, which are paid for.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --ended: do not ask; nor without a terminal.")
    ] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Remove tasks and their kept results from this machine's journal. The network is not informed."""
    if not ids and not ended:
        raise typer.BadParameter("give ids, or --ended")
    screen = Screen(json=as_json)
    settings = load_settings().settings
    codes = [ExitCode.DONE]
    documents: list[dict[str, Any]] = []
    ended_count = 0
    with open_journal(settings) as journal:
        for text in ids or ():
            record = find_record(journal, text, settings)
            if record is None:
                raise typer.BadParameter(f"the journal knows no task or job {text}")
            document: dict[str, Any] = {"task_id": record.task_id, "job_id": record.job_id, "error": None}
            documents.append(document)
            try:
                _forget(journal, record, force=force)
            except XaloraError as error:
                document["error"] = error_fields(error)
                screen.error(error)
                codes.append(exit_code_of(error))
            else:
                screen.say(f"{record.work.label} (job {record.job_id}) is forgotten")
        if ended and (yes or _wants_to_forget(journal)):
            ended_count = journal.forget().result()
            screen.say(f"{counted(ended_count, 'ended task')} forgotten")
    code = most_serious(codes)
    if as_json:
        screen.document({"tasks": documents, "ended": ended_count, "exit_code": int(code)})
    return code


def _is_at_network(record: Record) -> bool:
    return record.task_id is not None and record.state in (TaskState.SUBMITTED, TaskState.UNKNOWN)


def _wants_to_forget(journal: Journal) -> bool:
    """Whether the user agrees to lose all kept results; yes where nobody can be asked."""
    records = journal.records(is_open=False)
    if not records or sys.stdin is None or not sys.stdin.isatty():
        return True
    kept = sum(bool(record.files) for record in records)
    question = f"Forget {counted(len(records), 'ended task')}, and delete {counted(kept, 'kept result')}?"
    return bool(typer.confirm(question, default=False, err=True))


def _forget(journal: Journal, record: Record, *, force: bool) -> None:
    if record.is_left and record.state in (TaskState.SUBMITTED, TaskState.FINISHED) and not force:
        raise ConfigurationError(
            f"Task {record.task_id} ({record.work.label}) "
            + ("is still open" if record.is_open else "has a result that was never written"),
            money=STILL_RETRIEVABLE,
            next_step="Resume or cancel it, or forget it with --force.",
        )
    if not journal.forget([record.id]).result():
        raise ConfigurationError(
            f"Another process works on {record.work.label} (job {record.job_id})",
            money=_money(record),
            next_step="Wait until that process has ended.",
        )


def _money(record: Record) -> str:
    if record.task_id is not None:
        return STILL_RETRIEVABLE if record.state is TaskState.FINISHED else RUNS_ON
    if record.state in (TaskState.PREPARED, TaskState.NOT_SENT):
        return NOTHING_CHARGED
    return "It may exist and be charged."


def _interrupted(known_as: str) -> XaloraError:
    return XaloraError(
        "Interrupted before the cancel was answered",
        money="The task may run on and be charged.",
        next_step="Run the same command again.",
        task_id=known_as,
    )


def _outcome(document: dict[str, Any], before: Record | None) -> str:
    """The outcome of a cancel in words."""
    if document["finished"]:
        known_as = document["task_id"]
        return f"nothing to cancel, it has finished and is paid for; for its result: xalora resume {known_as}"
    state = str(document["state"] or document["msg"])
    return f"nothing to cancel, {state} before" if before is not None and not before.is_open else state


async def _cancel(
    client: AsyncXalora, known_as: str, record: Record | None, task: WorkflowTask | None
) -> dict[str, Any]:
    if record is not None and record.task_id is None:
        kind = AmbiguousCreateError if record.state is TaskState.UNKNOWN else ConfigurationError
        raise kind(
            f"{record.work.label}: its task id is not known ({state_text(record)}), so it can't be canceled",
            money=_money(record),
            next_step="Look for the job in your account." if kind is AmbiguousCreateError else "",
            job_id=record.job_id,
        )
    answer = await client.cancel_task(known_as, task=task)
    now = client.journal.find(record.id) if record is not None else None
    return {
        "task_id": known_as,
        "msg": answer["msg"],
        "state": state_text(now) if now else None,
        "finished": now is not None and now.is_undelivered,
    }
