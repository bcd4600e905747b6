"""Sends a node's progress to the browser: the bar, the line of text, previews."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from ..host import compat
from .node_progress import PreviewPace

if TYPE_CHECKING:
    from PIL import Image

REFRESH_SECONDS = 0.5


class Progress(Protocol):
    """What a node shows: its bar, as ``(value, total)``, and its line of text, at a time."""

    def bar(self, now: float) -> tuple[float, float]: ...

    def line(self, now: float) -> str: ...


class Reporter:
    """Shows one node's progress until it is closed. Thread-safe.

    Args:
        node_id: A node of the running prompt.
        progress: The progress to show.
    """

    def __init__(self, node_id: str, progress: Progress) -> None:
        self._node_id = node_id
        self._progress = progress
        self._bar = compat.ProgressBar(progress.bar(monotonic())[1], node_id)
        self._shown_line = ""
        self._shown_bar: tuple[float, float] | None = None
        self._previews = PreviewPace()
        self._closed = False

    async def run(self) -> None:
        """Show changes until cancelled."""
        while True:
            self.show()
            await asyncio.sleep(REFRESH_SECONDS)

    def show(self, preview: Image.Image | None = None) -> None:
        """Send what has changed since the last call, and the preview.

        The preview is left out where one was sent a moment ago, unless it is the last one, which stays: that
        of an image in tiles would lack some.
        """
        if self._closed:
            return
        now = monotonic()
        bar, line = self._progress.bar(now), self._progress.line(now)
        if preview is not None and bar[0] < bar[1] and not self._previews.takes(now):
            preview = None
        if bar != self._shown_bar or preview is not None:
            self._shown_bar = bar
            picture = ("JPEG", preview, None) if preview is not None else None
            self._bar.update_absolute(*bar, picture)
        self.say(line)

    def say(self, line: str) -> None:
        """Show this line."""
        if line != self._shown_line and not self._closed:
            self._shown_line = line
            compat.send_line(line, self._node_id)

    def say_last(self, line: str) -> None:
        """Close, and show this line from now on: how the node ended."""
        self._closed = True
        compat.send_line(line, self._node_id)

    def close(self) -> None:
        """Show nothing more: the node or its prompt has ended."""
        self._closed = True
