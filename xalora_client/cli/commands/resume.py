"""``xalora resume``: wait for open tasks and fetch their results."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...client import open_journal
from ...config import load_settings
from ...errors import AmbiguousCreateError, XaloraError
from ...journal import Journal, Record, TaskState
from ..command import command, with_client
from ..destinations import ANY_SUFFIX, InputNames, of_workflow, plan_for_results
from ..do_jobs import document_of
from ..exit_codes import ExitCode, exit_code_of, most_serious
from ..formats import slug
from ..interrupted import tell_results
from ..job_runner import Job, JobRunner, RunCall
from ..options import AsJson, AsLines, Force, Output, PictureOptions, Timeout
from ..outputs import check_destinations
from ..screen import Screen
from ..standard_streams import check_stdout, stdout_for_bytes
from ..task_lookup import Ids, chosen_records, left_to_its_command, outcomes_of_parts, own_key_task
from ..workflow_lookup import catalog_of

if TYPE_CHECKING:
    from ...tasks import WorkflowTask
    from ...workflows import WorkflowCatalog

_UPSCALE = "upscale "
"""What the label of an upscaler's task begins with."""


@command
def resume(
    ids: Ids = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Every open task of this network, and every result that was never written."
        ),
    ] = False,
    output: Output = None,
    *,
    pictures: PictureOptions,
    force: Force = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
    as_lines: AsLines = False,
) -> ExitCode:
    """Wait for open tasks and fetch their results; each goes beside its input, or to the working directory.

    Where a result of that name exists, it gets a number. Frames of a clip are left to the command that makes
    the clip.
    """
    if as_json and as_lines:
        raise typer.BadParameter("--json and --jsonl exclude each other")
    choice = pictures.output(output, ANY_SUFFIX)
    if choice.is_stream:
        check_stdout(document=as_json or as_lines)
    screen = Screen(json=as_json, lines=as_lines, stream=choice.is_stream)
    settings = load_settings().settings
    stdout_context = stdout_for_bytes() if choice.is_stream else nullcontext()
    with stdout_context as stdout, open_journal(settings) as journal:
        # A result that is here and in use is another process's to write, also if it has written it meanwhile.
        leased = journal.leased()
        chosen = chosen_records(
            journal, ids, every, settings, lambda record: record.is_open or record.id not in leased
        )
        parts: list[Record] = []
        if every:
            parts = [record for _, record in chosen if record is not None and record.work.whole is not None]
            chosen = [pair for pair in chosen if pair[1] not in parts]
        for line in left_to_its_command([part for part in parts if part.state is not TaskState.UNKNOWN]):
            screen.note(line)
        undecided = outcomes_of_parts([part for part in parts if part.state is TaskState.UNKNOWN])
        for error in undecided:
            screen.error(error)
        codes = [_reason_to_skip(screen, journal, record) for _, record in chosen]
        ready = [pair for pair, code in zip(chosen, codes, strict=True) if code is None]
        own = [own_key_task(record, settings) for _, record in ready]
        names = InputNames()
        catalog = catalog_of(settings)
        bases = [_base(task_id, record, names, catalog) for task_id, record in ready]
        destinations = plan_for_results(bases, choice)
        check_destinations(destinations, force=force)
        wait = settings.wait_timeout if timeout is None else timeout
        jobs = [
            Job(
                record.work.label if record is not None else task_id,
                _fetch_call(task_id, task, wait),
                destination,
                _input_of(record),
                task_id=task_id,
            )
            for (task_id, record), task, destination in zip(ready, own, destinations, strict=True)
        ]
        runner = JobRunner(screen, jobs, force=force, at_once=settings.max_in_flight, stdout=stdout)
        try:
            if ready:
                with_client(
                    settings,
                    journal,
                    runner.run,
                    lambda: screen.note("Interrupted; no task is canceled."),
                    lambda: "\nEnded at once; no task is canceled.\n",
                )
            elif not chosen and not parts:
                screen.say("No open tasks.")
            code = runner.code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
            tell_results(screen, runner.reports)
    codes += map(exit_code_of, undecided)
    code = most_serious([code, *(code for code in codes if code is not None)])
    if as_json:
        screen.document(document_of(runner.reports, code))
    screen.event("end", exit_code=int(code))
    return code


def _fetch_call(task_id: str, task: WorkflowTask | None, timeout: float) -> RunCall:
    from ...client import HostOptions
    from ...handle import TaskHandle

    return lambda client, on_event: TaskHandle(client, task_id, task).result(
        timeout=timeout, on_event=on_event, host=HostOptions(delivers=True)
    )


def _reason_to_skip(screen: Screen, journal: Journal, record: Record | None) -> ExitCode | None:
    """Print why a record can't be resumed and return the exit status; None if it can be."""
    if record is None or record.task_id is not None:
        return None
    subject = f"{record.work.label} (job {record.job_id})"
    if record.state is TaskState.UNKNOWN:
        screen.error(
            AmbiguousCreateError(
                f"The create of {subject} was sent and never answered",
                money="The task may exist and be charged.",
                next_step="Look for the job in your account; then run the same command again with "
                f"--if-unknown resend or forget, or `xalora forget {record.job_id}`.",
            )
        )
        return ExitCode.OUTCOME_UNKNOWN
    if journal.leased([record.id]):
        screen.note(f"{subject}: another process is sending it now")
        return ExitCode.DONE
    screen.error(XaloraError(f"{subject} was never sent", next_step="Run the same command again to send it."))
    return ExitCode.TASK_FAILED


def _base(task_id: str, record: Record | None, names: InputNames, catalog: WorkflowCatalog) -> Path:
    """The path of a resumed result, without mark and suffix.

    Beside its input, if that folder is there; else in the working directory, named after the input, the
    prompt, or the task id if there is no record.
    """
    if record is None:
        return Path(slug(task_id))
    given, label = record.work.input_path, record.work.label
    if given is not None and os.access(given.parent, os.W_OK):
        base = given.with_name(names.of(given))
        if label.startswith(_UPSCALE):
            return base
        # A workflow's task is called by its title.
        known = (each.name for each in catalog if each.title == label)
        return of_workflow(base, next(known, slug(label)))
    return Path(slug(label.removeprefix(_UPSCALE).rpartition(".")[0] or label))


def _input_of(record: Record | None) -> str | None:
    given = None if record is None else record.work.input_path
    return str(given) if given is not None and given.is_file() else None
