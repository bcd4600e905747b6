"""An event loop that leaves the interpreter to other threads now and then, however busy it is.

Python gives the interpreter to one thread at a time. A thread that wants it while this loop computes waits
for up to 5 ms (`sys.getswitchinterval`), each time that it has read a file or a row. That adds up: while 500
tasks begin, the sidebar's list of tasks took more than a second.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable
from time import monotonic, sleep

BUSY_SECONDS = 0.001
"""How long the loop computes at most, beyond the turn that it is in, before it pauses."""

PAUSE_SECONDS = 0.0001
"""Long enough for a thread to wake up and take the interpreter; giving it up without a pause is not."""


def fair_loop() -> asyncio.AbstractEventLoop:
    """A new loop; on Windows, whose loop has no selector, an ordinary one."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(FairSelector())


class FairSelector(selectors.DefaultSelector):
    """A selector that pauses where the loop has computed for a while without waiting for anything.

    Args:
        clock: Seconds.
        pause: Sleeps for so many seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = monotonic, pause: Callable[[float], None] = sleep
    ) -> None:
        super().__init__()
        self._clock = clock
        self._pause = pause
        self._rested_at = clock()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As its base does. A timeout of 0 or less means that callbacks are ready to run."""
        has_work = timeout is not None and timeout <= 0
        if has_work and self._clock() - self._rested_at < BUSY_SECONDS:
            return super().select(timeout)
        if has_work:
            self._pause(PAUSE_SECONDS)
        ready = super().select(timeout)
        self._rested_at = self._clock()
        return ready
