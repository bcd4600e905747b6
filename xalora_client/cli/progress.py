"""Live bars in a terminal: a line for each task under way, and one for all where there are several."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from ..events import (
    Downloading,
    FallingBack,
    LocalProgress,
    Running,
    Submitted,
    TaskEvent,
    UnknownStatus,
    Uploading,
    Waiting,
)
from .formats import bytes_text, elapsed_text, printable, shortened, span_text

if TYPE_CHECKING:
    from typing_extensions import Self

LABEL_WIDTH = 30
BAR_WIDTH = 24


class Board:
    """Shows tasks while they are under way; a context manager.

    Args:
        console: The terminal, or None to show nothing.
        total: How many tasks there will be.
    """

    def __init__(self, console: Console | None, total: int) -> None:
        self._progress: Progress | None = None
        self._overall: TaskID | None = None
        self._total = total
        self._lines: dict[int, TaskID] = {}
        self._stages: dict[int, Stage] = {}
        if console is not None:
            self._progress = Progress(
                SpinnerColumn(finished_text=" "),
                TextColumn("{task.description}", markup=False),
                _StageBar(bar_width=BAR_WIDTH),
                _StageText(),
                console=console,
                transient=True,
                # rich would take over both streams; one that goes to a file must stay as it is.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
            if self._total > 1:
                self._overall = self._progress.add_task("all", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, key: int, label: str) -> None:
        """A task is taken in hand."""
        if self._progress is None:
            return
        stage = self._stages[key] = Stage(monotonic())
        self._lines[key] = self._progress.add_task(
            shortened(printable(label), LABEL_WIDTH), total=None, stage=stage
        )

    def event(self, key: int, event: TaskEvent) -> None:
        """What the client tells about it."""
        if key in self._stages:
            self._stages[key].apply(event, monotonic())

    def end(self, key: int, *, counts: bool) -> None:
        """Its line goes; ``counts``: it is one more of those that are done."""
        if self._progress is None or key not in self._lines:
            return
        self._progress.remove_task(self._lines.pop(key))
        del self._stages[key]
        if counts and self._overall is not None:
            self._progress.advance(self._overall)


class _StageBar(BarColumn):
    """Filled by what the stage knows; a pulse where it knows nothing."""

    def render(self, task: Task) -> ProgressBar:
        stage: Stage | None = task.fields.get("stage")
        if stage is None:
            return super().render(task)
        fraction = stage.fraction(monotonic())
        return ProgressBar(
            total=1.0,
            completed=fraction or 0.0,
            width=self.bar_width,
            pulse=fraction is None,
            animation_time=task.get_time(),
        )


class _StageText(ProgressColumn):
    def render(self, task: Task) -> Text:
        stage: Stage | None = task.fields.get("stage")
        if stage is None:
            return Text(f"{int(task.completed)} of {int(task.total or 0)} done")
        return Text(printable(stage.text(monotonic())), style="dim")


ALMOST = 0.95
"""How full a bar gets on the usual time alone: only the task's end fills it."""


class Stage:
    """One task's stage. Times are seconds on any one clock that runs evenly.

    Args:
        now: When the work on the task began.
    """

    def __init__(self, now: float) -> None:
        self._what = "preparing"
        self._since: float | None = now
        self._submitted: float | None = None
        self._usual: tuple[float, float] | None = None
        self._share: float | None = None

    def apply(self, event: TaskEvent, now: float) -> None:
        """Take in an event; those that say nothing about the stage leave it as it is."""
        if isinstance(event, Uploading):
            self._set(f"uploading {bytes_text(event.total)}", now)
        elif isinstance(event, Submitted):
            self._submitted = now
            self._usual = event.usual_seconds or self._usual
            self._set("submitted", now)
        elif isinstance(event, Waiting):
            self._submitted = now - event.seconds
            self._set("queued", self._submitted)
        elif isinstance(event, Running):
            self._set("running", now - event.seconds)
        elif isinstance(event, UnknownStatus):
            self._set(f"status {event.status!r}", None)
        elif isinstance(event, Downloading):
            total = "" if event.total is None else f" of {bytes_text(event.total)}"
            self._set(f"downloading {bytes_text(event.received)}{total}", None)
            self._share = event.received / event.total if event.total else None
        elif isinstance(event, FallingBack):
            self._submitted = self._usual = None
            self._set(f"here, by {event.engine}", now)
        elif isinstance(event, LocalProgress):
            self._submitted = self._usual = None
            self._set(f"here, by {event.engine}: {event.done} of {event.total}", None)
            self._share = event.done / event.total if event.total else None

    def _set(self, what: str, since: float | None) -> None:
        self._what, self._since, self._share = what, since, None

    def text(self, now: float) -> str:
        """``running 12 s · usually 40-55 s``"""
        text = self._what
        if self._since is not None:
            text += f" {elapsed_text(now - self._since)}"
        if self._usual is not None and self._share is None:
            text += f" · usually {span_text(self._usual)}"
        return text

    def fraction(self, now: float) -> float | None:
        """How far the task is, 0..1: bytes or steps done, else an estimate by the usual time, else None."""
        if self._share is not None:
            return min(1.0, self._share)
        if self._usual is None or self._submitted is None:
            return None
        return max(0.0, min(ALMOST, (now - self._submitted) / max(self._usual[1], 0.1)))
