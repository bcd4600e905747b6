"""Several pieces of work at once, of which none is left behind and none is torn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do several things at once; should one fail, or the caller be cancelled, all end before it raises.

    Each is cancelled once: a second time would hit it while it cancels its remote task. ``gather`` can't do
    that: cancelled, it cancels all and raises with the first that ends, whatever the others are at.
    """
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = next((task for task in tasks if task.done() and not _went_well(task)), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            # Whatever the others end with, the first failure is what is told.
            _ = task.cancelled() or task.exception()
    if failed is not None:
        failed.result()


def _went_well(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is None


T = TypeVar("T")


async def off_loop(step: Callable[[], T]) -> T:
    """Do `step` on another thread; begun, it ends even if the caller is cancelled.

    Once Python has begun to exit there are no threads to be had, and it is done here and now: a task that was
    paid for in the last second must still be written down.
    """
    try:
        doing = asyncio.get_running_loop().run_in_executor(None, step)
    except RuntimeError:
        return step()
    # Shielded: a step whose caller is cancelled while all threads are busy would never be done.
    return await asyncio.shield(doing)
