"""Helpers for coroutines that run together, and for blocking calls on another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar


async def run_all_or_cancel(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines together; on failure or cancellation cancel the rest once and wait for all.

    Each is cancelled once: a second time would hit it while it cancels its remote task. ``gather`` can't do
    that: cancelled, it cancels all and raises with the first that ends, without waiting for the others.
    """
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in coroutines]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = next((task for task in tasks if task.done() and not _succeeded(task)), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            # Only the first failure is raised; asyncio logs exceptions that nothing retrieved.
            _ = task.cancelled() or task.exception()
    if failed is not None:
        failed.result()


def _succeeded(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is None


T = TypeVar("T")


async def run_in_thread(step: Callable[[], T]) -> T:
    """Run a blocking call on another thread; once begun, it ends even if the caller is cancelled.

    While Python exits, no thread can be started, and the call runs on this one: a task that was paid for in
    the last second must still be recorded.
    """
    try:
        running = asyncio.get_running_loop().run_in_executor(None, step)
    except RuntimeError:
        return step()
    # Shielded: a step whose caller is cancelled while all threads are busy would never run.
    return await asyncio.shield(running)
