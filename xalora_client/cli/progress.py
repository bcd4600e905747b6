"""Live progress bars in a terminal: one for each running task, and one for all if there are several."""

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
from ..polling.durations import estimated_share
from ..text import bytes_text, elapsed_text, queue_text, span_text
from .formats import printable, shortened

if TYPE_CHECKING:
    from typing_extensions import Self

LABEL_WIDTH = 30
BAR_WIDTH = 24


class ProgressDisplay:
    """Live progress bars; a context manager.

    Args:
        console: The terminal, or None to show nothing.
        total: How many tasks there will be.
    """

    def __init__(self, console: Console | None, total: int) -> None:
        self._console = console
        self._total = total
        self._overall: TaskID | None = None
        self._bars: dict[int, TaskID] = {}
        self._tasks: dict[int, TaskProgress] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            _TaskBar(bar_width=BAR_WIDTH),
            _TaskText(),
            console=console,
            transient=True,
            # rich would redirect both streams; one that goes to a file must not be touched.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
            disable=console is None,
        )

    def __enter__(self) -> Self:
        if self._console is not None:
            self._progress.start()
        if self._total > 1:
            self._overall = self._progress.add_task("all", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._console is not None:
            self._progress.stop()

    def start(self, key: int, label: str) -> None:
        """Add a bar for a task."""
        task = self._tasks[key] = TaskProgress(monotonic())
        self._bars[key] = self._progress.add_task(
            shortened(printable(label), LABEL_WIDTH), total=None, progress=task
        )

    def event(self, key: int, event: TaskEvent) -> None:
        """Apply an event of the client to the task's bar."""
        self._tasks[key].apply(event, monotonic())

    def end(self, key: int, *, counts: bool) -> None:
        """Remove the task's bar; ``counts`` adds it to those done."""
        self._progress.remove_task(self._bars[key])
        if counts and self._overall is not None:
            self._progress.advance(self._overall)


class _TaskBar(BarColumn):
    """The fraction of a task, as far as it is known; a pulse where it is not."""

    def render(self, task: Task) -> ProgressBar:
        progress: TaskProgress | None = task.fields.get("progress")
        if progress is None:
            return super().render(task)
        fraction = progress.fraction(monotonic())
        return ProgressBar(
            total=1.0,
            completed=fraction or 0.0,
            width=self.bar_width,
            pulse=fraction is None,
            animation_time=task.get_time(),
        )


class _TaskText(ProgressColumn):
    def render(self, task: Task) -> Text:
        progress: TaskProgress | None = task.fields.get("progress")
        if progress is None:
            return Text(f"{int(task.completed)} of {int(task.total or 0)} done")
        return Text(printable(progress.text(monotonic())), style="dim")


class TaskProgress:
    """What one task does at present, for how long, and how far it is.

    Args:
        now: When its job started. All times are seconds on one monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self._activity = "preparing"
        self._since: float | None = now
        self._submitted: float | None = None
        self._usual: tuple[float, float] | None = None
        self._share: float | None = None

    def apply(self, event: TaskEvent, now: float) -> None:
        """Update from an event; other kinds of events change nothing."""
        if isinstance(event, Uploading):
            self._set(f"uploading {bytes_text(event.total)}", now)
        elif isinstance(event, Submitted):
            self._submitted = now
            self._usual = event.usual_seconds or self._usual
            self._set("submitted", now)
        elif isinstance(event, Waiting):
            self._submitted = now - event.seconds
            self._set("queued" if event.position is None else queue_text(event.position), self._submitted)
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

    def _set(self, activity: str, since: float | None) -> None:
        self._activity, self._since, self._share = activity, since, None

    def text(self, now: float) -> str:
        """``running 12 s · usually 40-55 s``"""
        text = self._activity
        if self._since is not None:
            text += f" {elapsed_text(now - self._since)}"
        if self._usual is not None and self._share is None:
            text += f" · usually {span_text(self._usual)}"
        return text

    def fraction(self, now: float) -> float | None:
        """How far the task is, 0..1: by bytes or steps, else by the usual time, else None."""
        if self._share is not None:
            return min(1.0, self._share)
        if self._usual is None or self._submitted is None:
            return None
        return estimated_share(now - self._submitted, self._usual)
