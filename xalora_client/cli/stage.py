"""Where a task stands, from its events: a sentence and a fraction for its line on the screen. No I/O."""

from __future__ import annotations

from ..events import (
    Downloading,
    FallingBack,
    LocalProgress,
    Running,
    Submitted,
    TaskEvent,
    UnknownStatus,
    Uploading,
    Waiting,
)
from .formats import bytes_text, elapsed_text, span_text

ALMOST = 0.95
"""How full a bar gets on the usual time alone: only the task's end fills it."""


class Stage:
    """One task's stage. Times are seconds on any one clock that runs evenly.

    Args:
        now: When the work on the task began.
    """

    def __init__(self, now: float) -> None:
        self._what = "preparing"
        self._since: float | None = now
        self._submitted: float | None = None
        self._usual: tuple[float, float] | None = None
        self._share: float | None = None

    def apply(self, event: TaskEvent, now: float) -> None:
        """Take in an event; those that say nothing about the stage leave it as it is."""
        if isinstance(event, Uploading):
            self._set(f"uploading {bytes_text(event.total)}", now)
        elif isinstance(event, Submitted):
            self._submitted = now
            self._usual = event.usual_seconds or self._usual
            self._set("submitted", now)
        elif isinstance(event, Waiting):
            self._submitted = now - event.seconds
            self._set("queued", self._submitted)
        elif isinstance(event, Running):
            self._set("running", now - event.seconds)
        elif isinstance(event, UnknownStatus):
            self._set(f"status {event.status!r}", None)
        elif isinstance(event, Downloading):
            total = "" if event.total is None else f" of {bytes_text(event.total)}"
            self._set(f"downloading {bytes_text(event.received)}{total}", None)
            self._share = event.received / event.total if event.total else None
        elif isinstance(event, FallingBack):
            self._submitted = self._usual = None
            self._set(f"here, by {event.engine}", now)
        elif isinstance(event, LocalProgress):
            self._submitted = self._usual = None
            self._set(f"here, by {event.engine}: {event.done} of {event.total}", None)
            self._share = event.done / event.total if event.total else None

    def _set(self, what: str, since: float | None) -> None:
        self._what, self._since, self._share = what, since, None

    def text(self, now: float) -> str:
        """``running 12 s · usually 40-55 s``"""
        text = self._what
        if self._since is not None:
            text += f" {elapsed_text(now - self._since)}"
        if self._usual is not None and self._share is None:
            text += f" · usually {span_text(self._usual)}"
        return text

    def fraction(self, now: float) -> float | None:
        """How far the task is, 0..1: bytes or steps done, else an estimate by the usual time, else None."""
        if self._share is not None:
            return min(1.0, self._share)
        if self._usual is None or self._submitted is None:
            return None
        return max(0.0, min(ALMOST, (now - self._submitted) / max(self._usual[1], 0.1)))
