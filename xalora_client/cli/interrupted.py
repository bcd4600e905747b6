"""What an interrupted command says about its tasks: what it waits for, and what runs on."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import Settings
from ..journal import Journal, TaskState
from ..text import counted
from .exit_codes import ExitCode
from .formats import printable
from .job_runner import JobReport
from .screen import Screen


def _unfinished(reports: Sequence[JobReport]) -> list[JobReport]:
    return [report for report in reports if report.started and report.code is ExitCode.INTERRUPTED]


def print_cancels(screen: Screen, reports: Sequence[JobReport]) -> None:
    """Print why the command does not end at once after an interrupt."""
    in_tiles = [report.tiles for report in _unfinished(reports) if report.tiles is not None]
    interrupted = [r for r in _unfinished(reports) if r.tiles is None and not r.is_finished]
    known = sum(report.task_id is not None for report in interrupted)
    parts = []
    if under_way := known + sum(tiles.in_flight for tiles in in_tiles):
        parts.append(f"canceling {counted(under_way, 'task')} in the network")
    if len(interrupted) > known:
        parts.append(f"ending {counted(len(interrupted) - known, 'task')} that may have been sent just now")
    if parts:
        screen.note(f"Interrupted: {' and '.join(parts)}, a few seconds at most (Ctrl-C again ends at once).")


def _has_finished(task_id: str) -> str:
    return f"task {task_id} has finished and is paid for; for its result: xalora resume {task_id}"


def last_words(reports: Sequence[JobReport]) -> str:
    """What may run on where the command ends before its cancels are answered; one line for each task."""
    lines = ["Ended at once."]
    for report in _unfinished(reports):
        if report.tiles is not None:
            running = counted(report.tiles.in_flight, "task")
            lines.append(f"{report.job.label}: {running} may run on and be charged; see: xalora tasks")
        elif report.task_id is None:
            lines.append(
                f"{report.job.label}: if it was sent, it may run on and be charged; see: xalora tasks"
            )
        elif report.is_finished:
            lines.append(f"{report.job.label}: {_has_finished(report.task_id)}")
        elif not report.is_canceled:
            lines.append(
                f"{report.job.label}: task {report.task_id} may run on and be charged; cancel it with: "
                f"xalora cancel {report.task_id}"
            )
    return "".join(f"\n{printable(line)}" for line in lines) + "\n"


def print_tasks_left(
    screen: Screen, journal: Journal, settings: Settings, reports: Sequence[JobReport], started_at: float
) -> None:
    """Print which tasks were canceled and which may run on, after an interrupt and the client's close.

    Raises:
        JournalError: It can't be read.
    """
    for report in _unfinished(reports):
        if report.tiles is not None:
            screen.note(
                f"{report.job.label}: {report.tiles.done} of {counted(report.tiles.tasks, 'tile')} are here, "
                "and what is paid for is kept. The same command goes on from there."
            )
    for report in reports:
        if report.tiles is not None or report.task_id is None or report.code is not ExitCode.INTERRUPTED:
            continue
        # A journal that another program holds may not say so yet.
        if report.is_canceled:
            screen.note(f"{report.job.label}: task {report.task_id} is canceled")
            continue
        record = journal.find(task_id=report.task_id, sequencer_url=settings.sequencer_url)
        if record is not None and record.state is TaskState.FINISHED:
            screen.note(f"{report.job.label}: {_has_finished(report.task_id)}")
        elif record is not None and record.is_open and journal.leased([record.id]):
            screen.note(f"{report.job.label}: task {report.task_id} runs on, another process waits for it")
        elif record is not None and record.is_open:
            screen.warn(
                f"{report.job.label}: task {report.task_id} may run on and be charged; "
                f"cancel it with: xalora cancel {report.task_id}"
            )
        elif record is not None:
            screen.note(f"{report.job.label}: task {report.task_id} is {record.state.value}")
    for record in journal.records(states=[TaskState.UNKNOWN], limit=len(reports)):
        if record.created_at >= started_at:
            screen.warn(
                f"{record.work.label}: job {record.job_id} was sent and not answered; it may exist and be "
                "charged (see: xalora tasks)"
            )
