"""A progress bar in a notebook's cell, as HTML that is updated, while a call of a client waits."""

from __future__ import annotations

import asyncio
import html
import logging
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from .events import TaskEvent
from .jobs.progress import TaskProgress

if TYPE_CHECKING:
    from .tasks import WorkflowTask

logger = logging.getLogger("xalora_client")

UPDATE_SECONDS: Final = 0.5
"""Time between two updates. A call that ends before the first shows nothing."""

MOST_LINES: Final = 6


def in_notebook() -> bool:
    """Whether this program is a notebook's kernel; nothing is imported for the answer."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


class NotebookProgress:
    """The bar of one call; an asynchronous context manager. Does nothing outside of notebooks.

    Args:
        tasks: What the call does.
        wanted: Whether a bar is wanted at all, since nobody else shows the progress.
    """

    def __init__(self, tasks: Sequence[WorkflowTask], *, wanted: bool) -> None:
        self._tasks = tasks
        self._is_shown = wanted and in_notebook()
        self._at_work: dict[int, TaskProgress] = {}
        self._done = self._failed = 0
        self._ticking: asyncio.Task[None] | None = None
        self._handle: Any = None
        self._last = ""

    async def __aenter__(self) -> NotebookProgress:
        if self._is_shown:
            self._ticking = asyncio.ensure_future(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ticking is None:
            return
        self._ticking.cancel()
        self._at_work.clear()
        if self._handle is not None:
            self._show()

    def listener(self, index: int) -> Callable[[TaskEvent], None] | None:
        """What is to be told the events of a task from now on; None where nothing is shown."""
        if not self._is_shown:
            return None
        progress = self._at_work[index] = TaskProgress(monotonic())
        return lambda event: progress.apply(event, monotonic())

    def ended(self, index: int, *, failed: bool) -> None:
        """Note that a task has ended."""
        self._at_work.pop(index, None)
        self._done += 1
        self._failed += failed

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(UPDATE_SECONDS)
            self._show()

    def _show(self) -> None:
        page = self._page(monotonic())
        if page == self._last:
            return
        self._last = page
        shown = {"text/html": page, "text/plain": self._line()}
        try:
            if self._handle is None:
                from IPython import display

                show: Any = display.display
                self._handle = show(shown, raw=True, display_id=True)
            else:
                self._handle.update(shown, raw=True)
        except Exception:
            # A bar that can't be shown must not end a task that is paid for.
            logger.debug("the progress bar can't be shown", exc_info=True)

    def _line(self) -> str:
        """``3 of 8 tasks done, 1 failed``, of one task ``done`` or ``failed``."""
        total = len(self._tasks)
        if total == 1:
            return "failed" if self._failed else "done" if self._done else "under way"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done - self._failed} of {total} tasks done{failed}"

    def _page(self, now: float) -> str:
        lines = []
        if len(self._tasks) > 1 or not self._at_work:
            name = self._tasks[0].describe() if len(self._tasks) == 1 else ""
            lines.append(
                _bar(self._done / len(self._tasks), f"{name}: {self._line()}" if name else self._line())
            )
        for index, progress in list(self._at_work.items())[:MOST_LINES]:
            text = f"{self._tasks[index].describe()}: {progress.text(now)}"
            lines.append(_bar(progress.share(now), text))
        if len(self._at_work) > MOST_LINES:
            lines.append(f"<div>and {len(self._at_work) - MOST_LINES} more</div>")
        return "".join(lines)


def _bar(share: float | None, text: str) -> str:
    # Without a value the browser moves the bar.
    value = "" if share is None else f' value="{share:.3f}"'
    return f'<div><progress max="1"{value}></progress> {html.escape(text)}</div>'
