"""What frames of a clip and tiles of an image share: their tasks, resends, estimate, the output's place."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from pydantic import PrivateAttr

from .errors import (
    ConfigurationError,
    JournalError,
    MissingKeyError,
    ResultExpiredError,
    TaskFailedError,
    XaloraError,
)
from .events import EventCallback
from .journal.records import Whole, Work
from .journal.spending import sent_in
from .results import RunResult
from .tasks import UpscalerTask
from .text import counted

if TYPE_CHECKING:
    from .config import Settings
    from .journal import ClaimOptions, Journal
    from .media.inputs import ImageInput

logger = logging.getLogger("xalora_client")

MAX_RESENDS = 2
"""How often a part whose task failed is sent again; each resend is a task. As the nodes do."""

_NO_IMAGE = np.zeros((1, 1, 3), np.uint8)

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


async def result_of(run: Callable[[], Awaitable[RunResult]], name: str) -> tuple[RunResult, int]:
    """The result of a part, and how often its task failed and was sent again.

    Args:
        run: Has the task done.
        name: Of the part, for an error.
    """
    tries: list[XaloraError] = []
    while True:
        try:
            return await run(), len(tries)
        except XaloraError as error:
            tries.append(error)
            if not is_sent_again(tries):
                times = f" {len(tries)} times" if len(tries) > 1 else ""
                error.what = f"{name}{times}: {error.what}"
                error.args = (error.what,)
                raise


def count_new(
    journal: Journal,
    settings: Settings,
    task_options: Mapping[str, Any],
    digests: Collection[str],
    claim: ClaimOptions,
) -> int:
    """How many parts with these pixels need a new task; the others are kept, or under way. Blocking.

    Args:
        digests: Of the pixels of each part, see :func:`.digest_of_array`.
    """
    from .jobs.kept import needs_create
    from .jobs.preparation import credentials_of, fingerprint_with

    default = settings.credentials() if settings.api_key is not None else None
    task = UpscalerTask(image=_NO_IMAGE, **task_options)
    try:
        who = credentials_of(task, default, settings.sequencer_url)
    except MissingKeyError:
        # Nothing in the journal is this consumer's.
        return len(digests)

    def is_new(digest: str) -> bool:
        work = Work(
            fingerprint=fingerprint_with(task, who, settings.sequencer_url, {"image": digest}),
            sequencer_url=settings.sequencer_url,
            consumer_id=who.consumer_id,
            task_type=task.kind_of_task,
            seeded=task.repeatable,
        )
        try:
            return needs_create(journal.answering(work, claim), claim.if_unknown)
        except JournalError:
            return True

    return sum(map(is_new, digests))


def check_new(name: str, differ: str, distinct: int, new: int, most: int | None, next_step: str) -> None:
    """Check that a whole needs no more new tasks than the user allows.

    Args:
        name: Of the whole.
        differ: How many of its parts do, see :func:`.differing`.
        distinct: The same as a number.
        new: How many of those are new tasks.

    Raises:
        ConfigurationError: It does. Nothing was sent.
    """
    if most is None or new <= most:
        return
    kept = f", {distinct - new} of them need none" if new < distinct else ""
    raise ConfigurationError(
        f"{name} needs {counted(new, 'task')} ({differ}{kept}), "
        f"and {most} {'is' if most == 1 else 'are'} the limit",
        next_step=next_step,
    )


def tasks_sent(journal: Journal, run_id: str) -> int | None:
    """How many tasks were ever sent for a whole; None where the journal can't be read. Blocking."""
    try:
        return sum(one.count for one in sent_in(journal.read, run_id))
    except XaloraError:
        return None


def output_file(output: str | os.PathLike[str], given: Path | None, what: str) -> Path:
    """The file that a result may be written to, whose folder is made. Blocking.

    Args:
        given: The file that is upscaled, if it is one.
        what: That is, in a word.

    Raises:
        ConfigurationError: It can't be.
    """
    place = Path(output).expanduser()
    if place.is_dir():
        raise ConfigurationError(f"{place} is a folder", next_step="Name a file.")
    if given is not None and given.exists() and place.resolve() == given.resolve():
        raise ConfigurationError(f"The output is the {what} itself", next_step="Name another file.")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The folder {place.parent} can't be made: {error.strerror or error}",
            next_step="Name another file.",
        ) from error
    return place


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
