"""Pieces of work done side by side: bars while they run, files where they belong, a report of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import AmbiguousCreateError, JournalError, XaloraError
from ..events import EventCallback, FallingBack, TaskEvent
from ..journal import Journal, TaskState
from ..results import REMOTE_ENGINE, RunResult
from .command import run_interruptible
from .exit_codes import ExitCode, exit_code_of, most_serious
from .formats import counted, seconds_text, short_path
from .outputs import Destination, write_result
from .progress import Board
from .screen import Screen, error_fields
from .task_lookup import opened_journal

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..config import Settings

logger = logging.getLogger("xalora_client.cli")

Doing: TypeAlias = Callable[[EventCallback], Coroutine[Any, Any, RunResult]]
"""Does one piece of work, telling each step; e.g. a call of ``AsyncXalora.run``."""


@dataclass(frozen=True)
class Job:
    """A piece of work, and where its result goes.

    ``label`` names it on the screen; ``source`` is the input as the user gave it, where there is one.
    """

    label: str
    do: Doing
    destination: Destination
    source: str | None = None


@dataclass
class Report:
    """How a job stands; in the end exactly one of ``result``, ``error`` and neither (interrupted) is so.

    ``unsettled``: its create may have made a task all the same, whatever this machine has made of it.
    """

    job: Job
    begun: bool = False
    task_id: str | None = None
    result: RunResult | None = None
    error: XaloraError | None = None
    unsettled: AmbiguousCreateError | None = None
    files: tuple[Path, ...] = ()
    remarks: list[str] = field(default_factory=list)

    @property
    def code(self) -> ExitCode:
        if self.error is not None:
            return exit_code_of(self.error)
        if not self.files:
            return ExitCode.INTERRUPTED
        return ExitCode.DONE if self.unsettled is None else exit_code_of(self.unsettled)

    def document(self) -> dict[str, Any]:
        """As it stands in the JSON document."""
        result, error = self.result, self.error or self.unsettled
        status = "failed" if self.error is not None else "done" if self.files else "interrupted"
        return {
            "input": self.job.source,
            "label": self.job.label,
            "status": status,
            "files": [str(path) for path in self.files],
            "task_id": result.task_id if result else self.task_id,
            "job_id": result.job_id if result else error.job_id if error else None,
            "engine": result.engine if result else None,
            "device": result.device if result else None,
            "miner": result.miner if result else None,
            "reused": result.reused if result else False,
            "seconds": vars(result.seconds) if result else None,
            "error": error_fields(error) if error else None,
        }


class Workshop:
    """Does jobs and keeps their reports.

    Args:
        screen: Where to show them.
        jobs: What to do.
        force: Replace files that are in the way.
        at_once: How many at the same time.
        quiet: Say nothing of those that went well.
    """

    def __init__(
        self, screen: Screen, jobs: Sequence[Job], *, force: bool, at_once: int, quiet: bool = False
    ) -> None:
        self.reports = [Report(job) for job in jobs]
        self._screen = screen
        self._force = force
        self._quiet = quiet
        self._places = asyncio.Semaphore(at_once)

    @property
    def code(self) -> ExitCode:
        """Of all jobs together."""
        return most_serious(report.code for report in self.reports)

    async def run(self) -> None:
        """Do all jobs; one failure does not disturb the others. A cancelled call cancels all."""
        with Board(self._screen.live, len(self.reports)) as board:
            await asyncio.gather(*(self._one(key, report, board) for key, report in enumerate(self.reports)))

    async def _one(self, key: int, report: Report, board: Board) -> None:
        def hear(event: TaskEvent) -> None:
            report.task_id = event.task_id or report.task_id
            if isinstance(event, FallingBack) and isinstance(event.error, AmbiguousCreateError):
                report.unsettled = event.error
            board.event(key, event)

        async with self._places:
            report.begun = True
            board.begin(key, report.job.label)
            try:
                report.result = await report.job.do(hear)
                await self._deliver(report, report.result)
            except XaloraError as error:
                report.error = error
            finally:
                board.end(key, counts=report.code is not ExitCode.INTERRUPTED)
        try:
            self._tell(report)
        except OSError as error:
            # A full disk behind stdout: the other tasks are paid for, too, and this one's file is there.
            logger.debug("%s can't be reported: %s", report.job.label, error)

    async def _deliver(self, report: Report, result: RunResult) -> None:
        writing = asyncio.ensure_future(
            asyncio.to_thread(write_result, result.files, report.job.destination, force=self._force)
        )
        try:
            written = await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The result is paid for: an interrupt that comes now does not keep it from being written.
            report.files = (await writing).files
            raise
        if result.engine != REMOTE_ENGINE:
            # Only results of the network are kept: one made here costs nothing to make again.
            for path in result.files:
                path.unlink(missing_ok=True)
        report.files = written.files
        report.remarks.extend(written.remarks)

    def _tell(self, report: Report) -> None:
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
    """What made a result, and how long that took: ``the network (miner-7) · 12 s · task 5f0c``."""
    engine = engine_text(result.engine, result.device)
    if result.miner:
        engine += f" ({result.miner})"
    parts = [engine, seconds_text(result.seconds.total)]
    if result.reused:
        parts = [f"kept result of {engine}, nothing was sent"]
    if result.task_id:
        parts.append(f"task {result.task_id}")
    return " · ".join(parts)


def engine_text(engine: str, device: str | None) -> str:
    """What an engine is called before people: LANCZOS is never passed off as a model."""
    if engine == REMOTE_ENGINE:
        return "the network"
    if engine == "pillow":
        return "this machine by LANCZOS, no model"
    return f"this machine by {engine}" + (f" on {device}" if device else "")


def do_jobs(
    screen: Screen,
    settings: Settings,
    make_jobs: Callable[[AsyncXalora], Sequence[Job]],
    *,
    force: bool,
    at_once: int | None = None,
    skipped: Sequence[str] = (),
) -> ExitCode:
    """Do jobs with a client of their own, and report them. Ctrl-C cancels them in the network, too.

    Args:
        skipped: Inputs that no job was made of, for the JSON document.
    """
    from ..client import AsyncXalora

    began = time()
    with opened_journal(settings) as journal:
        client = AsyncXalora(settings=settings, journal=journal)
        workshop = Workshop(screen, make_jobs(client), force=force, at_once=at_once or settings.max_in_flight)

        async def work() -> None:
            try:
                async with client:
                    await workshop.run()
            except asyncio.CancelledError:
                # Only a client that has closed knows which cancels the network has confirmed.
                # A journal that can't be read has said so before, and must not hide the interrupt.
                with suppress(JournalError):
                    _say_what_runs_on(screen, journal, settings, workshop.reports, began)
                raise

        try:
            run_interruptible(work(), on_interrupt=lambda: _say_what_is_canceled(screen, workshop.reports))
            code = workshop.code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
    if screen.json:
        screen.document({"skipped": list(skipped), **document_of(workshop.reports, code)})
    return code


def document_of(reports: Sequence[Report], code: ExitCode) -> dict[str, Any]:
    """The JSON document of several jobs."""
    return {"results": [report.document() for report in reports], "exit_code": int(code)}


def _say_what_is_canceled(screen: Screen, reports: Sequence[Report]) -> None:
    """On an interrupt: what keeps the command from ending at once."""
    begun = [report for report in reports if report.begun and report.code is ExitCode.INTERRUPTED]
    known = sum(report.task_id is not None for report in begun)
    parts = []
    if known:
        parts.append(f"canceling {counted(known, 'task')} in the network")
    if len(begun) > known:
        parts.append(f"finding out what became of {counted(len(begun) - known, 'create')}")
    if parts:
        screen.note(f"Interrupted: {' and '.join(parts)}, a few seconds at most (Ctrl-C again: at once).")


def _say_what_runs_on(
    screen: Screen, journal: Journal, settings: Settings, reports: Sequence[Report], began: float
) -> None:
    """After an interrupt and the end of the client: which tasks were canceled, and which may run on."""
    for report in reports:
        if report.task_id is None or report.code is not ExitCode.INTERRUPTED:
            continue
        record = journal.by_task_id(report.task_id, settings.sequencer_url)
        if record is not None and record.is_open and journal.attended(record.id):
            screen.note(f"{report.job.label}: task {report.task_id} runs on, another process waits for it")
        elif record is not None and record.is_open:
            screen.warn(
                f"{report.job.label}: task {report.task_id} may run on and be charged; "
                f"cancel it with: xalora cancel {report.task_id}"
            )
        elif record is not None:
            screen.note(f"{report.job.label}: task {report.task_id} is {record.state.value}")
    for record in journal.records(states=[TaskState.UNKNOWN], limit=len(reports)):
        if record.created_at >= began:
            screen.warn(
                f"{record.work.label}: job {record.job_id} was sent and not answered; it may exist and be "
                "charged (see: xalora tasks)"
            )
