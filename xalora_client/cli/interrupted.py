"""What an interrupted command says about its tasks: what it waits for, and what runs on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..config import Settings
from ..journal import Journal, Record, TaskState
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
    under_way = known + sum(tiles.in_flight for tiles in in_tiles)
    note_cancels(screen, under_way, len(interrupted) - known)


def note_cancels(screen: Screen, under_way: int, unanswered: int = 0) -> None:
    """Print that so many tasks are being canceled, and so many creates ended."""
    parts = []
    if under_way:
        parts.append(f"canceling {counted(under_way, 'task')} in the network")
    if unanswered:
        parts.append(f"ending {counted(unanswered, 'task')} that may have been sent just now")
    if parts:
        screen.note(f"Interrupted: {' and '.join(parts)}, a few seconds at most (Ctrl-C again ends at once).")


def _has_finished(task_id: str) -> str:
    return f"task {task_id} has finished and is paid for; for its result: xalora resume {task_id}"


def last_words(reports: Sequence[JobReport]) -> str:
    """What may run on where the command ends before its cancels are answered; one line for each task."""
    lines = []
    for report in _unfinished(reports):
        if report.tiles is not None:
            lines += parts_in_flight(report.job.label, report.tiles.in_flight)
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
    return ended_at_once(lines)


def ended_at_once(lines: Iterable[str]) -> str:
    """The last words of a command, with these lines."""
    return "".join(f"\n{printable(line)}" for line in ("Ended at once.", *lines)) + "\n"


def parts_in_flight(label: str, count: int) -> list[str]:
    """The line of the last words about the tasks of a whole; none without any."""
    if not count:
        return []
    return [f"{label}: {counted(count, 'task')} may run on and be charged; see: xalora tasks"]


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
            print_parts_left(screen, journal, report.job.label, report.tiles.job_id)
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
        elif record is not None and record.is_open:
            _print_left(screen, journal, report.job.label, [record])
        elif record is not None:
            screen.note(f"{report.job.label}: task {report.task_id} is {record.state.value}")
    unanswered = {report.job.label for report in _unfinished(reports) if report.task_id is None}
    for record in journal.records(states=[TaskState.NOT_SENT, TaskState.CANCELED]) if unanswered else ():
        if record.created_at >= started_at and record.work.label in unanswered:
            unanswered.remove(record.work.label)
            is_canceled = record.state is TaskState.CANCELED
            became = f"task {record.task_id} is canceled" if is_canceled else "was not sent"
            screen.note(f"{record.work.label}: {became}")
    for record in journal.records(states=[TaskState.UNKNOWN]):
        if record.created_at >= started_at and record.task_id is None and record.work.whole is None:
            _print_left(screen, journal, record.work.label, [record])


def tell_results(screen: Screen, reports: Sequence[JobReport]) -> None:
    """Print the ``result`` line of ``--jsonl`` for each task that was interrupted before it had one."""
    for report in reports:
        if not report.is_told:
            report.is_told = True
            screen.event("result", **report.document())


def print_parts_left(screen: Screen, journal: Journal, label: str, whole_id: str) -> None:
    """Print how many tasks of a whole may run on, after an interrupt and the client's close.

    Raises:
        JournalError: It can't be read.
    """
    _print_left(screen, journal, label, journal.records(is_open=True, whole_id=whole_id))


def _print_left(screen: Screen, journal: Journal, label: str, records: Sequence[Record]) -> None:
    """Print which of a label's open tasks others wait for, and which may run on or exist."""
    leased = journal.leased([record.id for record in records])
    idle = [record for record in records if record.id not in leased]
    if elsewhere := [each for each in records if each.id in leased and each.state is not TaskState.FINISHED]:
        screen.note(f"{label}: not canceled, another process waits for {_named(elsewhere)}")
    if running := [each for each in idle if each.task_id and each.state is not TaskState.FINISHED]:
        cancel = "cancel every open task with: xalora cancel --all"
        if len(running) == 1:
            cancel = f"cancel it with: xalora cancel {running[0].task_id}"
        screen.warn(f"{label}: {_named(running)} may run on and be charged; {cancel}")
    if sent := [each for each in idle if not each.task_id and each.state is not TaskState.PREPARED]:
        screen.warn(
            f"{label}: no answer came to the create of {_named(sent)}, which may exist and be charged "
            "(see: xalora tasks)"
        )


def _named(records: Sequence[Record]) -> str:
    """Tasks for a sentence."""
    if len(records) > 1:
        return counted(len(records), "task")
    (record,) = records
    return f"task {record.task_id}" if record.task_id else f"job {record.job_id}"
