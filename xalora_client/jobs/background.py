"""Coroutines that run beside their caller on the hub's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_at_work: set[asyncio.Task[Any]] = set()
"""The loop holds its tasks weakly, and nobody else may hold those whose caller has gone."""


def background(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run a coroutine beside its caller; its error, if nobody asks for it, is not reported."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _at_work.add(task)
    task.add_done_callback(_at_work.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def awaited(future: Future[T]) -> asyncio.Future[T]:
    """A future of another thread for this loop; its error, if nobody asks for it, is not reported."""
    own = asyncio.wrap_future(future)
    own.add_done_callback(lambda done: done.cancelled() or done.exception())
    return own


async def within(task: asyncio.Task[T], seconds: float) -> T:
    """The task's value within so many seconds; after them it is cancelled.

    Raises:
        asyncio.TimeoutError: The seconds have passed.
    """
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        task.cancel()
        raise asyncio.TimeoutError
    return task.result()
