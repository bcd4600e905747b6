"""The background event loop on which all jobs of this process run.

A caller's own loop can be blocked, closed, or have all its tasks cancelled at once (Ctrl-C before Python 3.11
does that). A create whose answer is on its way, or a cancel, must not be torn by that. So jobs live on one
daemon thread with a loop of its own, and callers only wait for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from ..concurrency import DaemonThreads
from ..errors import ClientClosedError
from .background import background
from .fair_loop import fair_loop

T = TypeVar("T")

logger = logging.getLogger("xalora_client")

LEAVING_SECONDS = 4.0
"""How long a cancelled caller waits at most for its call to end: a little over the 3 s of a cancel."""

STRANDED_SECONDS = 0.2
"""How long a journal takes to drop the leases of a call that has ended."""

LOOKING_SECONDS = 0.5
"""How often the hub looks for calls whose callers are gone: their leases keep others from canceling."""

ENDING_SECONDS = 3.0
"""How long such calls are waited for to end."""

TICK_SECONDS = 0.25
"""How long a caller's loop sleeps at most: the Stop of a notebook does not wake it."""

MOST_THREADS = 64
"""Threads for files and names of hosts; each may hang."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def hub() -> asyncio.AbstractEventLoop:
    """The running loop of the jobs, started at the first call."""
    global _loop  # noqa: PLW0603
    with _lock:
        if _loop is None:
            _loop = fair_loop()
            _loop.set_default_executor(DaemonThreads("xalora-files", MOST_THREADS))
            threading.Thread(target=_run, args=(_loop,), name="xalora-jobs", daemon=True).start()
        return _loop


def is_hub(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop is this process's hub, and not that of the process it was forked from."""
    return loop is _loop


def is_on_hub() -> bool:
    """Whether the code that asks runs on the hub's loop."""
    try:
        return asyncio.get_running_loop() is _loop
    except RuntimeError:
        return False


def call_on_hub(function: Callable[..., object], *arguments: object) -> None:
    """Call a function on the hub soon; does nothing where the hub was never started."""
    loop = _loop
    if loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(function, *arguments)


async def on_hub(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the hub and give what it gives.

    A cancelled caller cancels it, and waits for at most 4 s until it has ended.
    """
    if is_on_hub():
        return await coroutine
    loop, own_loop = hub(), asyncio.get_running_loop()
    carrier: asyncio.Task[T] | None = None

    async def carried() -> T:
        nonlocal carrier
        carrier = asyncio.current_task()
        assert carrier is not None
        _callers[carrier] = own_loop
        _look_for_stranded_calls()
        return await coroutine

    future = asyncio.run_coroutine_threadsafe(carried(), loop)
    waiting = asyncio.wrap_future(future)
    try:
        while not (await asyncio.wait({waiting}, timeout=TICK_SECONDS))[0]:
            pass
        return waiting.result()
    except asyncio.CancelledError:
        loop.call_soon_threadsafe(lambda: carrier.cancel() if carrier is not None else future.cancel())
        await asyncio.wait({waiting}, timeout=LEAVING_SECONDS)
        if waiting.done() and not waiting.cancelled():
            error = waiting.exception()
            if isinstance(error, ClientClosedError):
                # The client was closed just before, so the task is not canceled, which the call can't tell.
                logger.warning("%s", error)
        raise


async def end_stranded_calls() -> None:
    """End the calls whose callers can't be answered any more, since their event loops were closed.

    On return their leases are dropped.
    """
    stranded = [call for call, loop in _callers.items() if loop.is_closed() and not call.done()]
    for call in stranded:
        _stranded.add(call)
        call.cancel()
    if stranded:
        await asyncio.wait(stranded, timeout=ENDING_SECONDS)
        # Their journals write that a moment later.
        await asyncio.sleep(STRANDED_SECONDS)


def _look_for_stranded_calls() -> None:
    """Begin to look for them now and then, while there are calls at all."""
    global _looking  # noqa: PLW0603

    async def look() -> None:
        while _callers:
            await asyncio.sleep(LOOKING_SECONDS)
            await end_stranded_calls()

    if _looking is None or _looking.done():
        _looking = background(look())


def is_stranded() -> bool:
    """Whether the current call was ended by `end_stranded_calls`: nobody wanted its task canceled."""
    return asyncio.current_task() in _stranded


_Calls: TypeAlias = "weakref.WeakKeyDictionary[asyncio.Task[Any], asyncio.AbstractEventLoop]"
_callers: _Calls = weakref.WeakKeyDictionary()
_stranded: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
_looking: asyncio.Task[None] | None = None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _after_fork_in_child() -> None:
    # The thread stayed in the parent; the loop's inner parts are the parent's.
    global _loop, _lock, _looking
    if isinstance(_loop, asyncio.BaseEventLoop):
        # Else a connection that is freed here would leave the parent's set of polled ones, which both share.
        _loop._closed = True  # type: ignore[attr-defined]
    _loop, _lock, _looking = None, threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
