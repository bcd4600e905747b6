"""Events that a progress callback receives, one class for each step of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from typing import TypeAlias

from .errors import XaloraError

logger = logging.getLogger("xalora_client")


@dataclass(frozen=True, kw_only=True)
class TaskEvent:
    """Base of all events. ``job_id`` is known from the start, ``task_id`` once the network has answered."""

    job_id: str
    task_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Uploading(TaskEvent):
    """An input image is on its way to the user's object store; ``total`` is its size in bytes."""

    total: int


@dataclass(frozen=True, kw_only=True)
class Submitted(TaskEvent):
    """The network accepted the task (from here on it is paid for).

    ``usual_seconds`` is the span in which past runs of the same kind ended, None without history.
    """

    usual_seconds: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Waiting(TaskEvent):
    """The task waits in the network's queue; ``seconds`` since it was submitted.

    ``position`` is its place in the queue, None where the network does not tell.
    """

    seconds: float
    position: int | None = None


@dataclass(frozen=True, kw_only=True)
class Running(TaskEvent):
    """A miner works on the task; ``seconds`` since that was first seen."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class UnknownStatus(TaskEvent):
    """The network reported a status the protocol does not list; shown as it came."""

    status: str


@dataclass(frozen=True, kw_only=True)
class Canceled(TaskEvent):
    """The network says that the task was canceled."""


@dataclass(frozen=True, kw_only=True)
class Downloading(TaskEvent):
    """``received`` of ``total`` bytes of the result are on disk; ``total`` is None where not announced."""

    received: int
    total: int | None


@dataclass(frozen=True, kw_only=True)
class FallingBack(TaskEvent):
    """The task moves to an engine on this machine; ``reason`` is one readable sentence.

    ``error`` is the network's, None where the network was not asked.
    """

    engine: str
    reason: str
    error: XaloraError | None = None


@dataclass(frozen=True, kw_only=True)
class LocalProgress(TaskEvent):
    """A local engine did ``done`` of ``total`` nodes or tiles; ``label`` names the current one.

    ``preview`` is an encoded JPEG or PNG of the unfinished result, where the engine has one.
    """

    engine: str
    done: int
    total: int
    label: str = ""
    preview: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class TileProgress(TaskEvent):
    """How far an image is that is upscaled in tiles; the first comes before any task is sent.

    ``tasks`` of the ``tiles`` differ, each of which is a task; of those, ``done`` have a result and
    ``in_flight`` are under way. When it began, ``to_send`` were new tasks; the others are kept, under way, or
    this machine's. ``seconds_left`` is an estimate, None without one. ``job_id`` names the image.
    """

    tiles: int
    tasks: int
    done: int
    in_flight: int
    to_send: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Done(TaskEvent):
    """The result's files are on disk. ``reused`` when a kept result answered and nothing was sent.

    ``miner`` is the miner's id where the network tells.
    """

    engine: str
    miner: str | None = None
    seconds: float
    files: tuple[Path, ...] = field(default=())
    reused: bool = False


EventCallback: TypeAlias = Callable[[TaskEvent], None]
"""Called on the event loop of the call, where it must return quickly; by the blocking client on a thread.

An exception in it is logged and has no other effect; the callback is not called again for that task.
"""


def tell(listener: EventCallback, event: TaskEvent) -> bool:
    """Call a listener and log what it raises; False where it raised, so that it is not called again."""
    try:
        listener(event)
    except BaseException as error:
        # Ctrl-C and an exit belong to the main thread; anywhere else they would end the jobs' loop.
        if not isinstance(error, Exception) and current_thread() is main_thread():
            raise
        logger.exception("a callback failed at %s", event)
        return False
    return True


def without_exceptions(listener: EventCallback | None) -> EventCallback:
    """``listener`` as one that never raises; after an exception it is not called again. None does nothing."""
    listening = listener is not None

    def call(event: TaskEvent) -> None:
        nonlocal listening
        if listening and listener is not None:
            listening = tell(listener, event)

    return call


class Listeners:
    """The callbacks of those who want to be told each step of one task."""

    def __init__(self) -> None:
        self._callbacks: list[EventCallback] = []
        self._last: TaskEvent | None = None

    def subscribe(self, callback: EventCallback) -> None:
        """Tell `callback` what happens from now on, beginning with the latest event."""
        self._callbacks.append(callback)
        if self._last is not None and not tell(callback, self._last):
            self.unsubscribe(callback)

    def unsubscribe(self, callback: EventCallback) -> None:
        """Tell it nothing more; twice is harmless."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def emit(self, event: TaskEvent) -> None:
        """Tell all of them."""
        self._last = event
        for callback in tuple(self._callbacks):
            if not tell(callback, event):
                self.unsubscribe(callback)
