"""Runs the jobs of a command side by side: progress bars, results written to their destinations, reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, TypeAlias

from ..client import open_journal
from ..errors import AmbiguousCreateError, JournalError, UnexpectedError, XaloraError
from ..events import Canceled, EventCallback, FallingBack, TaskEvent
from ..journal import Journal, TaskState
from ..results import REMOTE_ENGINE, RunResult
from ..text import counted, seconds_text
from .command import with_client
from .exit_codes import ExitCode, exit_code_of, most_serious
from .formats import short_path
from .outputs import Destination, check_destinations, is_url, write_result
from .progress import ProgressDisplay
from .screen import Screen, attributes, error_fields

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..config import Settings

logger = logging.getLogger("xalora_client.cli")

RunCall: TypeAlias = "Callable[[AsyncXalora, EventCallback], Coroutine[Any, Any, RunResult]]"
"""Gets the result of one task and reports events meanwhile, as ``AsyncXalora.run`` does."""


@dataclass(frozen=True)
class Job:
    """A task to run, and the destination of its result.

    ``label`` is its name on the screen, ``source`` the input as the user gave it, if there is one.
    """

    label: str
    run: RunCall
    destination: Destination
    source: str | None = None

    @property
    def photograph(self) -> Path | None:
        """The input, where it is a file of this machine."""
        return None if self.source is None or is_url(self.source) else Path(self.source)


@dataclass
class JobReport:
    """The state of a job. At the end it has a ``result`` or an ``error``; an interrupted job has neither.

    ``unsettled`` is set where the network may have a task although this machine made the result.
    """

    job: Job
    started: bool = False
    task_id: str | None = None
    result: RunResult | None = None
    error: XaloraError | None = None
    unsettled: AmbiguousCreateError | None = None
    files: tuple[Path, ...] = ()
    is_canceled: bool = False
    remarks: list[str] = field(default_factory=list)

    @property
    def code(self) -> ExitCode:
        if self.error is not None:
            return exit_code_of(self.error)
        if not self.files:
            return ExitCode.INTERRUPTED
        return ExitCode.DONE if self.unsettled is None else exit_code_of(self.unsettled)

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        result, error = self.result, self.error or self.unsettled
        status = "failed" if self.error is not None else "done" if self.files else "interrupted"
        return {
            "input": self.job.source,
            "label": self.job.label,
            "status": status,
            "files": [str(path) for path in self.files],
            "task_id": result.task_id if result else self.task_id,
            "job_id": getattr(result or error, "job_id", None),
            **attributes(result, "engine", "device", "miner", "note"),
            "reused": result is not None and result.reused,
            "seconds": vars(result.seconds) if result else None,
            "error": error_fields(error) if error else None,
        }


class JobRunner:
    """Runs jobs and keeps their reports.

    Args:
        screen: Where progress and outcomes are printed.
        jobs: The jobs, in the order in which they start.
        force: Replace existing files.
        at_once: How many jobs run at the same time.
        quiet: Print failures only.
    """

    def __init__(
        self, screen: Screen, jobs: Sequence[Job], *, force: bool, at_once: int, quiet: bool = False
    ) -> None:
        self.reports = [JobReport(job) for job in jobs]
        self._screen = screen
        self._force = force
        self._quiet = quiet
        self._slots = asyncio.Semaphore(at_once)

    @property
    def code(self) -> ExitCode:
        """The exit status of all jobs together."""
        return most_serious(report.code for report in self.reports)

    async def run(self, client: AsyncXalora) -> None:
        """Run all jobs; a failure of one does not affect the others. Cancelling this call cancels all."""
        with ProgressDisplay(self._screen.live, len(self.reports)) as display:
            await asyncio.gather(
                *(self._run_one(client, key, report, display) for key, report in enumerate(self.reports))
            )

    async def _run_one(
        self, client: AsyncXalora, key: int, report: JobReport, display: ProgressDisplay
    ) -> None:
        def on_event(event: TaskEvent) -> None:
            report.task_id = event.task_id or report.task_id
            report.is_canceled = report.is_canceled or isinstance(event, Canceled)
            if isinstance(event, FallingBack) and isinstance(event.error, AmbiguousCreateError):
                report.unsettled = event.error
            display.event(key, event)

        async with self._slots:
            report.started = True
            display.start(key, report.job.label)
            try:
                report.result = await report.job.run(client, on_event)
                await self._deliver(client, report, report.result)
            except XaloraError as error:
                report.error = error
            except Exception as error:
                logger.exception("%s ended by an unforeseen error", report.job.label)
                report.error = UnexpectedError.of(error)
            finally:
                display.end(key, counts=report.code is not ExitCode.INTERRUPTED)
        try:
            self._print_outcome(report)
        except OSError as error:
            # Such as a full disk behind stdout: the file of this job is written, the other jobs go on.
            logger.debug("the outcome of %s can't be printed: %s", report.job.label, error)

    async def _deliver(self, client: AsyncXalora, report: JobReport, result: RunResult) -> None:
        writing = asyncio.ensure_future(
            asyncio.to_thread(
                write_result,
                result.files,
                report.job.destination,
                force=self._force,
                photograph=report.job.photograph,
            )
        )
        try:
            written = await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The result is paid for, so it is written in spite of the interrupt.
            report.files = (await writing).files
            client.delivered(result)
            raise
        client.delivered(result)
        if result.engine != REMOTE_ENGINE:
            # Only results of the network are kept; one of this machine costs nothing to repeat.
            for path in result.files:
                path.unlink(missing_ok=True)
        report.files = written.files
        report.remarks.extend(written.remarks)

    def _print_outcome(self, report: JobReport) -> None:
        subject = report.job.label if len(self.reports) > 1 else ""
        if report.error is not None:
            self._screen.error(report.error, subject)
            return
        assert report.result is not None
        if self._quiet:
            return
        self._screen.say(
            ("✓ ", "green"),
            *((f"{report.job.source} -> ", "") if report.job.source else ("", "")),
            (", ".join(short_path(path) for path in report.files), "bold"),
            (f"  {summary(report.result)}", "dim"),
        )
        for remark in report.remarks:
            self._screen.warn(remark)
        if report.unsettled is not None:
            self._screen.error(report.unsettled, subject)


def summary(result: RunResult) -> str:
    """The engine of a result, its time and task: ``the network (miner-7) · 12 s · task 5f0c``."""
    engine = engine_text(result.engine, result.device)
    if result.miner:
        engine += f" ({result.miner})"
    parts = [engine, seconds_text(result.seconds.total)]
    if result.reused:
        parts = [f"kept result of {engine}, nothing was sent"]
    if result.task_id:
        parts.append(f"task {result.task_id}")
    if result.note:
        parts.append(result.note.rstrip("."))
    return " · ".join(parts)


def engine_text(engine: str, device: str | None) -> str:
    """The engine in words; LANCZOS is never presented as a model."""
    if engine == REMOTE_ENGINE:
        return "the network"
    if engine == "pillow":
        return "this machine by LANCZOS, no model"
    return f"this machine by {engine}" + (f" on {device}" if device else "")


def do_jobs(
    screen: Screen,
    settings: Settings,
    jobs: Sequence[Job],
    *,
    force: bool,
    at_once: int | None = None,
    skipped: Sequence[str] = (),
) -> ExitCode:
    """Check the destinations, run the jobs with a new client and report them.

    Ctrl-C cancels their tasks in the network too.

    Args:
        skipped: Inputs without a job, for the JSON document.

    Raises:
        OutputExistsError: A result would replace a file, and ``force`` is not set.
        ConfigurationError: A destination can't be written.
    """
    check_destinations([job.destination for job in jobs], force=force)
    started_at = time()
    with open_journal(settings) as journal:
        runner = JobRunner(screen, jobs, force=force, at_once=at_once or settings.max_in_flight)

        try:
            with_client(settings, journal, runner.run, lambda: _print_cancels(screen, runner.reports))
            code = runner.code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
            # The journal knows the confirmed cancels now that the client is closed. If it can't be read, it
            # has logged that, and the interrupt still counts.
            with suppress(JournalError):
                _print_tasks_left(screen, journal, settings, runner.reports, started_at)
    if screen.json:
        screen.document({"skipped": list(skipped), **document_of(runner.reports, code)})
    return code


def document_of(reports: Sequence[JobReport], code: ExitCode) -> dict[str, Any]:
    """The JSON document of several jobs."""
    return {"results": [report.document() for report in reports], "exit_code": int(code)}


def _print_cancels(screen: Screen, reports: Sequence[JobReport]) -> None:
    """Print why the command does not end at once after an interrupt."""
    interrupted = [report for report in reports if report.started and report.code is ExitCode.INTERRUPTED]
    known = sum(report.task_id is not None for report in interrupted)
    parts = []
    if known:
        parts.append(f"canceling {counted(known, 'task')} in the network")
    if len(interrupted) > known:
        parts.append(f"waiting for the answer to {counted(len(interrupted) - known, 'create')}")
    if parts:
        screen.note(
            f"Interrupted: {' and '.join(parts)}, a few seconds at most (press Ctrl-C again to end at once)."
        )


def _print_tasks_left(
    screen: Screen, journal: Journal, settings: Settings, reports: Sequence[JobReport], started_at: float
) -> None:
    """Print which tasks were canceled and which may run on, after an interrupt and the client's close."""
    for report in reports:
        if report.task_id is None or report.code is not ExitCode.INTERRUPTED:
            continue
        # A journal that another program holds may not say so yet.
        if report.is_canceled:
            screen.note(f"{report.job.label}: task {report.task_id} is canceled")
            continue
        record = journal.by_task_id(report.task_id, settings.sequencer_url)
        if record is not None and record.state is TaskState.FINISHED:
            screen.note(
                f"{report.job.label}: task {report.task_id} has finished and is paid for; for its result: "
                f"xalora resume {report.task_id}"
            )
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
