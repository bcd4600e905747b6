"""Forgetting records whose results nothing uses any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Collection

from ...xalora_client.errors import JournalError
from ...xalora_client.journal import Journal

FLUSH_SECONDS = 2.0


async def forget_unused(journal: Journal, record_ids: Collection[int]) -> int:
    """Forget records and their files, except those that something still uses; the number of those forgotten.

    ComfyUI may have dropped an output without Python having freed it, so a garbage collection comes before
    the answer that it is in use.
    """
    forgotten = await asyncio.wrap_future(journal.forget(record_ids))
    if forgotten == len(record_ids):
        return forgotten
    await asyncio.to_thread(gc.collect)
    # What was let go by that is noted behind.
    with contextlib.suppress(asyncio.TimeoutError, JournalError):
        await asyncio.wait_for(asyncio.wrap_future(journal.flushed()), FLUSH_SECONDS)
    return forgotten + await asyncio.wrap_future(journal.forget(record_ids))
