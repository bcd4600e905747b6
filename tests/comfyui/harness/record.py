"""What one prompt did, as its browser would have seen it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Status = Literal["success", "error", "interrupted"]

_ENDINGS: dict[str, Status] = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}


@dataclass(frozen=True)
class Event:
    """One JSON message of the websocket; `at` is `time.time()` on arrival here."""

    at: float
    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class ProgressText:
    at: float
    node: str
    text: str


@dataclass(frozen=True)
class Preview:
    """A preview picture: `data` is a whole JPEG or PNG file, `node` the node it stands on."""

    at: float
    node: str
    media_type: str
    data: bytes


@dataclass
class RunRecord:
    """Grows while the prompt runs; `wait` returns it once ComfyUI has also written its history."""

    prompt_id: str
    queued_at: float = field(default_factory=time.time)
    events: list[Event] = field(default_factory=list)
    texts: list[ProgressText] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)
    ended_at: float | None = None

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._failure: str | None = None

    # --- waiting ---

    def wait(self, timeout: float = 60.0) -> RunRecord:
        """Block until the prompt has ended, whichever way. AssertionError after `timeout` seconds."""
        self._wait_until(lambda: self.ended_at is not None, timeout, "the end of the prompt")
        return self

    def wait_for(
        self,
        type: str,
        timeout: float = 60.0,
        *,
        node: str | None = None,
        where: Callable[[Event], bool] | None = None,
    ) -> Event:
        """The first event of this type (on this node, if given) for which `where` holds."""

        def found() -> Event | None:
            return next((event for event in self.of(type, node) if where is None or where(event)), None)

        self._wait_until(
            lambda: found() is not None, timeout, f"{type!r}" + (f" on node {node}" if node else "")
        )
        event = found()
        assert event is not None
        return event

    def wait_for_text(self, part: str, timeout: float = 60.0, *, node: str | None = None) -> ProgressText:
        """The first progress text that contains `part`."""

        def found() -> ProgressText | None:
            return next((text for text in self.texts_of(node) if part in text.text), None)

        self._wait_until(lambda: found() is not None, timeout, f"the text {part!r}")
        text = found()
        assert text is not None
        return text

    def _wait_until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: done() or self._failure or self.ended_at is not None, timeout)
            if done():
                return
            why = self._failure or (
                f"it ended as {self.status}" if self.ended_at else f"{timeout:g} s passed"
            )
        raise AssertionError(f"Waited for {what} of prompt {self.prompt_id}, but {why}. {self.describe()}")

    # --- reading ---

    @property
    def status(self) -> Status | None:
        """How it ended; None while it runs."""
        for event in reversed(self.events):
            # A blocked output is told as an execution_error of its own, and does not end the prompt.
            if event.type in _ENDINGS and event.data.get("exception_type") != "ExecutionBlocked":
                return _ENDINGS[event.type]
        return None

    @property
    def seconds(self) -> float:
        """From queueing to the end."""
        assert self.ended_at is not None, "the prompt still runs"
        return self.ended_at - self.queued_at

    @property
    def error(self) -> dict[str, Any]:
        """Of a failed prompt: node_id, node_type, exception_type, exception_message, traceback."""
        return self.of("execution_error")[-1].data

    @property
    def blocked(self) -> list[dict[str, Any]]:
        """Messages of nodes that an ExecutionBlocker kept from running."""
        errors = (event.data for event in self.of("execution_error"))
        return [data for data in errors if data["exception_type"] == "ExecutionBlocked"]

    @property
    def cached(self) -> set[str]:
        """The nodes that ComfyUI took from its own cache."""
        return {node for event in self.of("execution_cached") for node in event.data["nodes"]}

    @property
    def outputs(self) -> dict[str, Any]:
        """Node id -> what its `ui` said, from the history."""
        outputs: dict[str, Any] = self.history.get("outputs", {})
        return outputs

    def of(self, type: str, node: str | None = None) -> list[Event]:
        """Events of one type in order of arrival. `progress_state` belongs to every node it speaks of."""

        def concerns(event: Event) -> bool:
            named = event.data.get("node", event.data.get("node_id"))
            return node is None or named == node or node in event.data.get("nodes", ())

        return [event for event in list(self.events) if event.type == type and concerns(event)]

    def texts_of(self, node: str | None = None) -> list[ProgressText]:
        return [text for text in list(self.texts) if node is None or text.node == node]

    def progress_of(self, node: str) -> list[tuple[float, float]]:
        """(value, max) of a node's bar, repeats left out."""
        steps: list[tuple[float, float]] = []
        for event in self.of("progress_state", node):
            state = event.data["nodes"][node]
            if (step := (state["value"], state["max"])) not in steps[-1:]:
                steps.append(step)
        return steps

    def array(self, node: str) -> np.ndarray[Any, Any]:
        """What an XaloraTestDump node wrote."""
        return np.load(Path(self.outputs[node]["npy"][0]))

    def describe(self) -> str:
        """For failure messages."""
        lines = [f"Status {self.status}, {len(self.events)} events."]
        lines += [
            f"  {event.at - self.queued_at:7.3f} s {event.type} {str(event.data)[:400]}"
            for event in self.events
        ]
        lines += [
            f"  {text.at - self.queued_at:7.3f} s text on {text.node}: {text.text}" for text in self.texts
        ]
        return "\n".join(lines)

    # --- written by the client's listening thread ---

    def note(self, item: Event | ProgressText | Preview) -> None:
        with self._changed:
            if isinstance(item, Event):
                self.events.append(item)
            elif isinstance(item, ProgressText):
                self.texts.append(item)
            else:
                self.previews.append(item)
            self._changed.notify_all()

    def end(self, history: dict[str, Any]) -> None:
        with self._changed:
            self.history = history
            self.ended_at = time.time()
            self._changed.notify_all()

    def fail(self, why: str) -> None:
        """The connection is gone: whoever waits is told, instead of waiting for the ceiling."""
        with self._changed:
            if self.ended_at is None:
                self._failure = why
                self._changed.notify_all()
