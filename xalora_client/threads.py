"""Short blocking work off the event loop, for as long as Python gives out threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

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
