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

from ..events import TaskEvent
from .formats import printable, shortened
from .stage import Stage

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
