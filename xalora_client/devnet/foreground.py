"""A devnet, or miners for one, in the foreground of a command line until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from .miner import MinerPool
from .server import Devnet

T = TypeVar("T")


def serve_forever(on_ready: Callable[[Devnet], None], **options: Any) -> None:
    """Run a devnet until a signal comes, then stop it; for the main thread.

    Args:
        on_ready: Called once the devnet serves, to print its ``url`` and ``api_key``.
        options: Arguments of :class:`Devnet`.

    Raises:
        OSError: The port is taken.
        ValueError: An option is invalid.
    """
    asyncio.run(_until_signal(Devnet(**options), on_ready))


def run_miners(sequencer_url: str, *, on_ready: Callable[[], None] = lambda: None, **options: Any) -> None:
    """Run miners until a signal comes, then stop them; for the main thread.

    Args:
        sequencer_url: Base URL of the sequencer.
        on_ready: Called once the miners have started.
        options: Arguments of :class:`~.miner.MinerPool`.

    Raises:
        ValueError: An option is invalid.
    """
    # Miners of several processes must not share a name.
    pool = MinerPool(sequencer_url, **{"name_prefix": f"miner_{secrets.token_hex(2)}_"} | options)
    asyncio.run(_until_signal(pool, lambda _: on_ready()))


async def _until_signal(service: AbstractAsyncContextManager[T], on_ready: Callable[[T], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Not loop.add_signal_handler: Windows has none.
    before = {
        number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        async with service as running:
            on_ready(running)
            await stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
