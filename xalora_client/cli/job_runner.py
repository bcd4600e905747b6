"""Runs the jobs of a command side by side: progress bars, results written to their destinations, reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import AmbiguousCreateError, UnexpectedError, XaloraError
from ..events import Canceled, Downloading, EventCallback, FallingBack, TaskEvent, TileProgress
from ..results import REMOTE_ENGINE, RunResult
from ..text import seconds_text
from .destinations import STREAM, Destination, is_url
from .event_lines import event_fields, event_name
from .exit_codes import ExitCode, exit_code_of, most_serious
from .formats import short_path
from .outputs import write_result
from .progress import ProgressDisplay
from .screen import Screen, attributes, error_fields, stopping_nothing

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..tasks import WorkflowTask
    from .standard_streams import StdoutBytes
    from .tiles import TileChoices

logger = logging.getLogger("xalora_client.cli")

RunCall: TypeAlias = "Callable[[AsyncXalora, EventCallback], Coroutine[Any, Any, RunResult]]"
"""Gets the result of one task and reports events meanwhile, as ``AsyncXalora.run`` does."""


@dataclass(frozen=True)
class WrittenResult(RunResult):
    """A result whose files are at their destination already; ``remarks`` are for the user."""

    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A task to run, and the destination of its result.

    ``label`` is its name on the screen, ``source`` the input as the user gave it, if there is one, ``data``
    the bytes of that on standard input. ``task`` is what is run, where it is known. ``tiles`` says how an
    image is cut that no request takes, None where none is. ``problem``: why nothing can be done about it.
    ``task_id`` is that of a task that was sent before.
    """

    label: str
    run: RunCall
    destination: Destination
    source: str | None = None
    data: bytes | None = field(default=None, repr=False)
    task: WorkflowTask | None = field(default=None, repr=False)
    tiles: TileChoices | None = None
    problem: XaloraError | None = None
    task_id: str | None = None

    @property
    def source_name(self) -> str | None:
        """The input for a line."""
        return "stdin" if self.source == STREAM else self.source

    @property
    def photograph(self) -> Path | bytes | None:
        """The input, where it is a file of this machine or was piped in."""
        if self.source is None or is_url(self.source):
            return None
        return self.data if self.source == STREAM else Path(self.source)


@dataclass
class JobReport:
    """The state of a job. At the end it has a ``result`` or an ``error``; an interrupted job has neither.

    ``tiles`` is how far an image in tiles is. ``fell_back`` is the network's error where this machine took
    over, ``unsettled`` the same where the network may have a task. ``is_finished``: its result is on its way.
    ``is_told``: its end was printed for ``--jsonl``.
    """

    job: Job
    started: bool = False
    task_id: str | None = None
    result: RunResult | None = None
    error: XaloraError | None = None
    fell_back: XaloraError | None = None
    files: tuple[Path, ...] = ()
    is_canceled: bool = False
    is_finished: bool = False
    is_told: bool = False
    tiles: TileProgress | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def unsettled(self) -> AmbiguousCreateError | None:
        return self.fell_back if isinstance(self.fell_back, AmbiguousCreateError) else None

    @property
    def code(self) -> ExitCode:
        if self.error is not None:
            return exit_code_of(self.error)
        if not self.files:
            return ExitCode.INTERRUPTED
        if self.unsettled is not None:
            return exit_code_of(self.unsettled)
        return ExitCode.DONE if self.fell_back is None else ExitCode.DONE_HERE

    @property
    def place(self) -> str:
        """Where the result is, for a line."""
        if self.job.destination.is_stream:
            return "stdout"
        return ", ".join(short_path(path) for path in self.files)

    @property
    def status(self) -> str:
        """``done``, ``done_here`` (by this machine instead of the network), ``failed`` or ``interrupted``."""
        if self.error is not None:
            return "failed"
        if not self.files:
            return "interrupted"
        return "done" if self.fell_back is None else "done_here"

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        result, error = self.result, self.error or self.fell_back
        return {
            "input": self.job.source,
            "label": self.job.label,
            "status": self.status,
            "files": [str(path) for path in self.files],
            "task_id": result.task_id if result else self.task_id,
            "job_id": getattr(result or error, "job_id", None),
            **attributes(result, "engine", "device", "miner", "note"),
            "reused": result is not None and result.reused,
            "tiles": attributes(self.tiles, "tiles", "tasks", "done") if self.tiles else None,
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
        stdout: Takes the result of a job whose destination is standard output.
    """

    def __init__(
        self,
        screen: Screen,
        jobs: Sequence[Job],
        *,
        force: bool,
        at_once: int,
        quiet: bool = False,
        stdout: StdoutBytes | None = None,
    ) -> None:
        self.reports = [JobReport(job, task_id=job.task_id) for job in jobs]
        self._stdout = stdout
        self._screen = screen
        self._force = force
        self._quiet = quiet
        self._slots = asyncio.Semaphore(at_once)
        self._told: dict[tuple[str, ...], str] = {}

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
            if isinstance(event, TileProgress):
                report.tiles = event
            report.is_canceled = report.is_canceled or isinstance(event, Canceled)
            report.is_finished = report.is_finished or isinstance(event, Downloading)
            if isinstance(event, FallingBack):
                report.fell_back = event.error
            display.event(key, event)
            self._screen.event(event_name(event), **about(report.job), **event_fields(event))

        async with self._slots:
            report.started = True
            display.start(key, report.job.label)
            try:
                if report.job.problem is not None:
                    raise report.job.problem
                report.result = await report.job.run(client, on_event)
                await self._deliver(client, report, report.result)
            except XaloraError as error:
                report.error = error
            except Exception as error:
                logger.exception("%s ended by an unforeseen error", report.job.label)
                report.error = UnexpectedError.of(error)
            finally:
                display.end(key, counts=report.code is not ExitCode.INTERRUPTED)
        report.is_told = True
        with stopping_nothing():
            self._screen.event("result", **report.document())
        with stopping_nothing():
            self._print_outcome(report)

    async def _deliver(self, client: AsyncXalora, report: JobReport, result: RunResult) -> None:
        if isinstance(result, WrittenResult):
            report.files, report.remarks = result.files, [*result.remarks]
            return
        destination = report.job.destination
        if result.engine != REMOTE_ENGINE and report.fell_back is not None:
            destination = destination.made_here()
        writing = asyncio.ensure_future(
            asyncio.to_thread(
                write_result,
                result.files,
                destination,
                force=self._force,
                photograph=report.job.photograph,
                write_stream=None if self._stdout is None else self._stdout.write,
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
            self._print_error(report.error, subject)
            return
        assert report.result is not None
        if self._quiet:
            return
        with stopping_nothing():
            self._screen.say(
                ("✓ ", "green") if report.fell_back is None else ("~ ", "yellow"),
                *((f"{report.job.source_name} -> ", "") if report.job.source else ("", "")),
                (report.place, "bold"),
                (f"  {summary(report.result)}", "dim"),
            )
        for remark in report.remarks:
            self._screen.warn(f"{subject}: {remark}" if subject else remark)
        if report.unsettled is not None:
            self._screen.error(report.unsettled, subject)

    def _print_error(self, error: XaloraError, subject: str) -> None:
        """Print an error; where another job without a task had the same, in short."""
        parts = (type(error).__name__, error.what, error.money, error.next_step)
        first = self._told.setdefault(parts, subject)
        if first != subject and error.task_id is None:
            self._screen.error(f"the same as for {first}. {error.money}".rstrip(), subject)
        else:
            self._screen.error(error, subject)


def about(job: Job) -> dict[str, Any]:
    """Which job an event is of, as JSON."""
    return {"input": job.source, "label": job.label}


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
