"""What a task does at present, and how far it is, computed from its events. No I/O and no clock."""

from __future__ import annotations

from enum import Enum

from ..events import (
    Done,
    Downloading,
    FallingBack,
    LocalProgress,
    Running,
    Submitted,
    TaskEvent,
    TileProgress,
    UnknownStatus,
    Uploading,
    Waiting,
)
from ..polling.durations import estimated_share
from ..text import bytes_text, counted, elapsed_text, queue_text, span_text

_DOWNLOAD_FROM = 0.9
"""The share at which the download begins; everything before takes most of the time."""


class Step(Enum):
    """A task's steps, in order; the value is the word for it."""

    PREPARING = "preparing"
    UPLOADING = "uploading"
    WAITING = "waiting in queue"
    RUNNING = "running"
    OTHER = "other"
    HERE = "here"
    DOWNLOADING = "downloading"
    ENDED = "done"


class TaskProgress:
    """The state behind a task's line of text and bar.

    Args:
        now: The time of its start. All times are seconds on one monotonic clock of the caller's.

    Attributes:
        step: What it does.
        since: The time at which it began to; None where a duration says nothing.
    """

    def __init__(self, now: float) -> None:
        self.step = Step.PREPARING
        self.since: float | None = now
        self._words = Step.PREPARING.value
        self._submitted: float | None = None
        self._usual: tuple[float, float] | None = None
        self._share: float | None = None

    def apply(self, event: TaskEvent, now: float) -> None:
        """Update from an event; other kinds of events change nothing."""
        match event:
            case Uploading(total=size):
                self._set(Step.UPLOADING, now, f"uploading {bytes_text(size)},")
            case Submitted(usual_seconds=usual):
                self._submitted, self._usual = now, usual or self._usual
                self._set(Step.WAITING, now)
            case Waiting(seconds=seconds, position=position):
                self._submitted = now - seconds
                place = None if position is None else f"{queue_text(position)},"
                self._set(Step.WAITING, self._submitted, place)
            case Running(seconds=seconds):
                self._set(Step.RUNNING, now - seconds)
            case UnknownStatus(status=status):
                self._set(Step.OTHER, None, f"status {status!r}, which this version does not know")
            case Downloading(received=received, total=total):
                share = min(1.0, received / total) if total else 0.0
                known = f" {int(100 * share)} % of {bytes_text(total)}" if total else ""
                self._set(Step.DOWNLOADING, None, f"downloading{known or f', {bytes_text(received)} so far'}")
                self._share = _DOWNLOAD_FROM + (1 - _DOWNLOAD_FROM) * share
            case TileProgress():
                self._set(Step.OTHER, None, tile_words(event))
                self._share = event.done / event.tasks
            case Done():
                self._set(Step.DOWNLOADING, None)
                self._share = 1.0
            case FallingBack(engine=engine):
                self._submitted = self._usual = None
                self._set(Step.HERE, now, f"here, by {engine},")
            case LocalProgress(engine=engine, done=done, total=total):
                self._submitted = self._usual = None
                self._set(Step.HERE, None, f"here, by {engine}: {done} of {total}")
                self._share = min(1.0, done / total) if total else None

    def ended(self) -> None:
        """Note that whoever wanted the result has it."""
        self._set(Step.ENDED, None)
        self._share = 1.0

    def _set(self, step: Step, since: float | None, words: str | None = None) -> None:
        self.step, self.since, self._words, self._share = step, since, words or step.value, None

    def text(self, now: float) -> str:
        """``running 12 s (usually 40-55 s)``"""
        text = self._words
        if self.since is not None:
            text += f" {elapsed_text(now - self.since)}"
        if self._usual is not None and self.step in (Step.WAITING, Step.RUNNING):
            text += f" (usually {span_text(self._usual)})"
        return text

    def share(self, now: float) -> float | None:
        """How far the task is, 0..1: by bytes or steps, else by the usual time, else None."""
        if self._share is not None or self._usual is None or self._submitted is None:
            return self._share
        return _DOWNLOAD_FROM * estimated_share(now - self._submitted, self._usual)


def tile_words(progress: TileProgress) -> str:
    """``5 of 20 tiles, 8 tasks in flight, about 3 min 20 s left``; tiles that are equal count once."""
    parts = [f"{progress.done} of {counted(progress.tasks, 'tile')}"]
    if progress.in_flight:
        parts.append(f"{counted(progress.in_flight, 'task')} in flight")
    if progress.seconds_left is not None and progress.done < progress.tasks:
        parts.append(f"about {elapsed_text(progress.seconds_left)} left")
    return ", ".join(parts)
