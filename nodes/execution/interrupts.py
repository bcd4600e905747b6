"""The cancel button, as one running node sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..host import compat

T = TypeVar("T")

LOOK_EVERY = 0.2
"""Seconds between two looks at ComfyUI's flag, which nobody else tells a waiting node of."""

WIND_DOWN_SECONDS = 6.0
"""How long an interrupted node waits for its remote tasks to be canceled before it ends."""

_winding_down: set[asyncio.Task[Any]] = set()


class Interrupt:
    """Made when a node starts; from then on it knows whether the user asked to stop."""

    def __init__(self) -> None:
        self._before = compat.interrupt_count()

    @property
    def requested(self) -> bool:
        """Whether the user has asked to stop since the node began, whoever took ComfyUI's flag away."""
        return compat.interrupt_count() != self._before or compat.interrupted()

    async def guard(self, work: Coroutine[Any, Any, T], on_cancel: Callable[[], None]) -> T:
        """Run ``work``, on the bridge's loop, until it ends or the user asks to stop.

        Args:
            on_cancel: Called before ``work`` is cancelled, for whichever reason.

        Raises:
            InterruptProcessingException: The user asked to stop; ``work`` was cancelled and has wound down,
                or goes on winding down after :data:`WIND_DOWN_SECONDS`.
        """
        task = asyncio.get_running_loop().create_task(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=LOOK_EVERY)
                if self.requested and not task.done():
                    on_cancel()
                    _cancel(task)
                    await asyncio.wait({task}, timeout=WIND_DOWN_SECONDS)
                    raise compat.InterruptProcessingException
        except asyncio.CancelledError:
            # Work that winds down already is not torn: another node has ended the prompt in the meantime.
            if task not in _winding_down:
                on_cancel()
                _cancel(task)
            raise
        if self.requested and task.exception() is not None:
            # An interrupt makes work fail in several ways; the user knows of one.
            raise compat.InterruptProcessingException
        return task.result()


def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel it and let it wind down by itself, whatever it ends with."""
    _winding_down.add(task)
    task.add_done_callback(_winding_down.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    task.cancel()
