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

from ..events import LocalProgress, TaskEvent
from ..jobs.progress import TaskProgress
from ..text import elapsed_text
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
        self._tasks: dict[int, _Shown] = {}
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
        task = self._tasks[key] = _Shown(monotonic())
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


class _Shown(TaskProgress):
    """A task's progress; of work on this machine it says what the steps are and how long the others take."""

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self._here = ""
        self._first: tuple[float, float] | None = None

    def apply(self, event: TaskEvent, now: float) -> None:
        super().apply(event, now)
        self._here = ""
        if not isinstance(event, LocalProgress):
            self._first = None
            return
        first_at, first = self._first = self._first or (now, event.done)
        step, _, count = event.label.rpartition(" ")
        step = step if step and count == f"{event.done}/{event.total}" else "step"
        self._here = f"here, by {event.engine}: {step} {event.done:,} of {event.total:,}"
        if first < event.done < event.total:
            left = (now - first_at) / (event.done - first) * (event.total - event.done)
            self._here += f", about {elapsed_text(left)} left"

    def text(self, now: float) -> str:
        return self._here or super().text(now)


class _TaskBar(BarColumn):
    """How far a task is, as far as it is known; a pulse where it is not."""

    def render(self, task: Task) -> ProgressBar:
        progress: TaskProgress | None = task.fields.get("progress")
        if progress is None:
            return super().render(task)
        share = progress.share(monotonic())
        return ProgressBar(
            total=1.0,
            completed=share or 0.0,
            width=self.bar_width,
            pulse=share is None,
            animation_time=task.get_time(),
        )


class _TaskText(ProgressColumn):
    def render(self, task: Task) -> Text:
        progress: TaskProgress | None = task.fields.get("progress")
        if progress is None:
            return Text(f"{int(task.completed)} of {int(task.total or 0)} done")
        return Text(printable(progress.text(monotonic())), style="dim")
