"""Forgetting a record whose result nothing uses any more."""

from __future__ import annotations

import asyncio
import gc

from ...xalora_client.journal import Journal

FLUSH_SECONDS = 2.0


async def forget_unused(journal: Journal, record_id: int) -> bool:
    """Forget a record and its files; False where something still uses them.

    ComfyUI may have dropped an output without Python having freed it, so a garbage collection comes before
    the answer that it is in use.
    """
    if await _forgotten(journal, record_id):
        return True
    await asyncio.to_thread(gc.collect)
    # What was let go by that is noted behind.
    await asyncio.to_thread(journal.flush, FLUSH_SECONDS)
    return await _forgotten(journal, record_id)


async def _forgotten(journal: Journal, record_id: int) -> bool:
    removed = await asyncio.wrap_future(journal.forget([record_id]))
    return removed > 0
