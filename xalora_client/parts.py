"""Tasks of the parts of one thing, such as frames of a clip: label, resends, estimate, warnings once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import PrivateAttr

from .errors import ResultExpiredError, TaskFailedError, XaloraError
from .events import EventCallback
from .journal.records import Whole
from .results import RunResult
from .tasks import UpscalerTask

if TYPE_CHECKING:
    from .media.inputs import ImageInput

logger = logging.getLogger("xalora_client")

MAX_RESENDS = 2
"""How often a part whose task failed is sent again; each resend is a task. As the nodes do."""

RunPart: TypeAlias = Callable[[UpscalerTask, EventCallback, "str | None"], Awaitable[RunResult]]
"""Gets the result of one part. The engine is the one that has to make it; None for any."""


class PartTask(UpscalerTask):
    """One part of a whole; lists call it by both."""

    _whole: Whole = PrivateAttr()
    _part: str = PrivateAttr()

    @classmethod
    def of(cls, whole: Whole, part: str, pixels: ImageInput, **options: Any) -> PartTask:
        """The task of a part, such as ``frame 1``."""
        task = cls(image=pixels, **options)
        task._whole, task._part = whole, part
        return task

    def describe(self) -> str:
        return f"{self._whole.label}, {self._part}"

    def whole(self) -> Whole:
        return self._whole


def is_sent_again(tries: Sequence[XaloraError]) -> bool:
    """Whether a part whose tasks ended so is sent once more: another miner need not fail as well."""
    last = tries[-1]
    if len(tries) > MAX_RESENDS or not isinstance(last, TaskFailedError | ResultExpiredError):
        return False
    return not (isinstance(last, TaskFailedError) and last.repeats)


def seconds_left(elapsed: float, done: int, left: int) -> float | None:
    """How long the tasks that are left take at the pace so far; None before there is one."""
    return elapsed / done * left if done else None


@contextmanager
def warnings_once() -> Iterator[None]:
    """Log each warning once: a network that is away would say so for each part."""
    once = _Once()
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)


class _Once(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = record.levelno < logging.WARNING or text not in self._logged
        self._logged.add(text)
        return is_new
