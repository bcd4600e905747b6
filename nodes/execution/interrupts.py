"""Stopping a running node when the user presses ComfyUI's cancel button."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..host import compat

T = TypeVar("T")

POLL_SECONDS = 0.2
"""How often ComfyUI's interrupt flag is read; a waiting node is not told of it."""

CANCEL_GRACE_SECONDS = 6.0
"""How long an interrupted node waits for its remote tasks to be canceled before it ends."""

_ending: set[asyncio.Task[Any]] = set()


class Interrupt:
    """Whether the user has pressed cancel since a node started. Create it when the node starts."""

    def __init__(self) -> None:
        self._count_before = compat.interrupt_count()
        self._is_requested = False

    def request(self) -> None:
        """Have this node end as if the user had pressed cancel; others go on."""
        self._is_requested = True

    @property
    def requested(self) -> bool:
        """Whether the user has pressed cancel, even where another node has cleared ComfyUI's flag."""
        return self._is_requested or compat.interrupt_count() != self._count_before or compat.interrupted()

    async def run_until_requested(
        self, coroutine: Coroutine[Any, Any, T], on_cancel: Callable[[], None]
    ) -> T:
        """Run a coroutine on the client's loop until it ends or the user presses cancel.

        Args:
            on_cancel: Called before the coroutine is cancelled, for whatever reason.

        Raises:
            InterruptProcessingException: The user pressed cancel. The coroutine was cancelled and has ended,
                or is still ending after :data:`CANCEL_GRACE_SECONDS`.
        """
        task = asyncio.get_running_loop().create_task(coroutine)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=POLL_SECONDS)
                if self.requested and not task.done():
                    on_cancel()
                    _cancel(task)
                    await asyncio.wait({task}, timeout=CANCEL_GRACE_SECONDS)
                    raise compat.InterruptProcessingException
        except asyncio.CancelledError:
            # Another node has ended the prompt: a task that is already ending is not cancelled twice.
            if task not in _ending:
                on_cancel()
                _cancel(task)
            raise
        if self.requested and task.exception() is not None:
            # An interrupt makes a coroutine fail in several ways; the user hears of one.
            raise compat.InterruptProcessingException
        return task.result()


def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task without waiting for it, and ignore its outcome."""
    _ending.add(task)
    task.add_done_callback(_ending.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()
