"""A task's events as they come, as an asynchronous iterator, and its result."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .events import EventCallback, TaskEvent

if TYPE_CHECKING:
    from typing_extensions import Self

    from .results import RunResult


class TaskStream:
    """The events of one task, from :meth:`AsyncXalora.stream`::

        stream = client.stream(task)
        async for event in stream:
            print(event)
        result = await stream.result()

    The task begins with the first event, or result, that is asked for. The iteration ends after the last
    event; an error of the task is raised by it. A stream that is left early (``break``, an exception,
    :meth:`aclose`, the end of its ``async with`` block) cancels the task as a cancelled
    :meth:`AsyncXalora.run` does. It belongs to one event loop and one reader.
    """

    def __init__(self, run: Callable[[EventCallback], Coroutine[Any, Any, RunResult]]) -> None:
        self._run = run
        # None after the last event.
        self._events: asyncio.Queue[TaskEvent | None] = asyncio.Queue()
        self._running: asyncio.Task[RunResult] | None = None
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskEvent:
        if not self._has_ended:
            running = self._begin()
            try:
                event = await self._events.get()
            except asyncio.CancelledError:
                await self.aclose()
                raise
            if event is not None:
                return event
            self._has_ended = True
            running.result()
        raise StopAsyncIteration

    async def result(self) -> RunResult:
        """Wait for the result; events that were not asked for are dropped.

        Raises:
            XaloraError: As :meth:`AsyncXalora.run`.
        """
        running = self._begin()
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Cancel the task if it is not done, for at most 3 s; twice is harmless."""
        running = self._running
        if running is not None and not running.done():
            running.cancel()
            await asyncio.wait({running})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _begin(self) -> asyncio.Task[RunResult]:
        if self._running is None:
            events = self._events
            loop = asyncio.get_running_loop()
            self._running = loop.create_task(self._run(events.put_nowait))
            self._running.add_done_callback(lambda running: _end(running, events))
            dropping = weakref.finalize(self, _cancel, loop, self._running)
            dropping.atexit = False
        return self._running


def _end(running: asyncio.Task[RunResult], events: asyncio.Queue[TaskEvent | None]) -> None:
    # An error that nobody asks for any more is not logged as forgotten.
    _ = running.cancelled() or running.exception()
    events.put_nowait(None)


def _cancel(loop: asyncio.AbstractEventLoop, running: asyncio.Task[RunResult]) -> None:
    if not running.done() and not loop.is_closed():
        loop.call_soon_threadsafe(running.cancel)
