"""Ctrl-C and SIGTERM: the first lets a coroutine clean up, a later one ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from .exit_codes import ExitCode

T = TypeVar("T")

SAME_SECONDS = 1.0
"""A second signal within this time of the first is the same: GNU ``timeout`` sends its signal to the process
and to its group."""


def means_at_once(earlier: int, seconds: float) -> bool:
    """Whether a signal ends the process at once.

    Args:
        earlier: How many signals came before.
        seconds: Since the first of them.
    """
    return earlier >= 2 or (earlier == 1 and seconds >= SAME_SECONDS)


def run_interruptible(
    coroutine: Coroutine[Any, Any, T],
    *,
    on_interrupt: Callable[[], None] = lambda: None,
    last_words: Callable[[], str] = lambda: "",
) -> T:
    """``asyncio.run``, except that Ctrl-C or SIGTERM cancels only ``coroutine`` and lets it clean up.

    On Python 3.10 ``asyncio.run`` would cancel every coroutine at once, among them those that cancel the
    remote tasks. A second signal within a second changes nothing; any further one ends the process at once.

    Args:
        on_interrupt: Called on the event loop at the first signal, before ``coroutine`` is cancelled.
        last_words: What is printed where the process ends at once.

    Raises:
        KeyboardInterrupt: A signal came and ``coroutine`` has ended.
    """

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(coroutine)
        times: list[float] = []

        def interrupt(*_: object) -> None:
            times.append(monotonic())
            if len(times) == 1:
                loop.call_soon_threadsafe(on_interrupt)
                loop.call_soon_threadsafe(task.cancel)
            elif means_at_once(len(times) - 1, times[-1] - times[0]):
                _end_at_once(last_words)

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return await task
        finally:
            # After a signal they stay: the second one of a pair may come while the outcome is printed.
            if not times:
                for number, handler in before.items():
                    signal.signal(number, handler)

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _end_at_once(last_words: Callable[[], str]) -> None:
    # The terminal's own locks may be held by what this signal interrupts.
    with suppress(Exception):
        os.write(2, last_words().encode(errors="replace"))
    os._exit(ExitCode.INTERRUPTED)
