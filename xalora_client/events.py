"""What a progress callback receives while a task lives: one small frozen class a step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
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
    """The task waits in the network's queue; ``seconds`` since it was submitted."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Running(TaskEvent):
    """A miner works on the task; ``seconds`` since that was first seen."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class UnknownStatus(TaskEvent):
    """The network reported a status the protocol does not list; shown as it came."""

    status: str


@dataclass(frozen=True, kw_only=True)
class Downloading(TaskEvent):
    """``received`` of ``total`` bytes of the result are on disk; ``total`` is None where not announced."""

    received: int
    total: int | None


@dataclass(frozen=True, kw_only=True)
class FallingBack(TaskEvent):
    """The work moves to an engine on this machine; ``reason`` is one readable sentence.

    ``error`` is what the network ended with, where it was asked.
    """

    engine: str
    reason: str
    error: XaloraError | None = None


@dataclass(frozen=True, kw_only=True)
class LocalProgress(TaskEvent):
    """A local engine did ``done`` of ``total`` nodes or tiles; ``label`` says what it is at.

    ``preview`` is an encoded JPEG or PNG of the unfinished result, where the engine has one.
    """

    engine: str
    done: int
    total: int
    label: str = ""
    preview: bytes | None = field(default=None, repr=False)


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
"""Called on the client's event loop; it must return quickly.

What it raises is logged and disturbs nothing; it is not called again for the same task then.
"""


def tell(listener: EventCallback, event: TaskEvent) -> bool:
    """Call a listener; False where it raised: no display may stand between a task and its result."""
    try:
        listener(event)
    except Exception:
        logger.exception("a callback failed at %s", event)
        return False
    return True


def guarded(listener: EventCallback | None) -> EventCallback:
    """``listener`` as one that never raises: it is not called again after it did, nor where it is None."""
    listening = listener is not None

    def hear(event: TaskEvent) -> None:
        nonlocal listening
        if listening and listener is not None:
            listening = tell(listener, event)

    return hear
