"""Parsers of a ComfyUI server's messages and history about one prompt. No I/O."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..workflows.prompt import Prompt, node_title
from .base import EngineProgress

# First four bytes of a binary message (ComfyUI's protocol.py).
_PREVIEW, _TEXT, _PREVIEW_WITH_METADATA = 1, 3, 4

_ENDINGS = frozenset({"execution_success", "execution_error", "execution_interrupted"})

RESULT_KEYS = ("images", "gifs", "videos")
"""Keys of files in a node's output; core's SaveVideo uses ``images`` too, beside an ``animated`` flag."""


@dataclass(frozen=True)
class Message:
    """One websocket message. ``kind`` is the server's event name, or "preview" or "text" for binary ones."""

    kind: str
    data: Mapping[str, Any]
    payload: bytes = b""


def parse_text(raw: str | bytes) -> Message | None:
    """A text message; None for unknown ones."""
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        return None
    data = document.get("data")
    return Message(document["type"], data if isinstance(data, dict) else {})


def parse_binary(raw: bytes) -> Message | None:
    """A binary message: a preview picture or a node's text; None for others and for broken ones."""
    try:
        (kind,) = struct.unpack_from(">I", raw)
        (number,) = struct.unpack_from(">I", raw, 4)
        if kind == _PREVIEW:
            return Message("preview", {}, raw[8:])
        if kind == _PREVIEW_WITH_METADATA:
            metadata = json.loads(raw[8 : 8 + number])
            return Message("preview", metadata if isinstance(metadata, dict) else {}, raw[8 + number :])
        if kind == _TEXT:
            node = raw[8 : 8 + number].decode()
            return Message("text", {"node": node, "text": raw[8 + number :].decode()})
    except (struct.error, ValueError):
        return None
    return None


class RunTracker:
    """The progress of one prompt by the server's messages.

    ``ended`` turns true with the last message; the server's history tells whether the prompt succeeded.
    """

    def __init__(self, prompt: Prompt, prompt_id: str) -> None:
        self.ended = False
        self._prompt = prompt
        self._prompt_id = prompt_id
        self._done: set[str] = set()
        self._current: str | None = None
        self._fractions: dict[str, float] = {}
        self._label = ""

    def waiting(self) -> EngineProgress:
        """The progress before the first message."""
        return EngineProgress(0, len(self._prompt), "waiting in the server's queue")

    def feed(self, message: Message) -> EngineProgress | None:
        """Process a message; gives the new progress where it changed."""
        data = message.data
        # Older servers send previews and texts without a prompt id, to the prompt's own client only.
        if data.get("prompt_id", self._prompt_id) != self._prompt_id:
            return None
        handler = getattr(self, f"_on_{message.kind}", None)
        if message.kind in _ENDINGS or (message.kind == "executing" and data.get("node") is None):
            # Old servers send "executing" without a node at a node's end too, but then without a prompt id.
            self.ended = self.ended or data.get("prompt_id") == self._prompt_id
            return None
        return handler(message) if handler is not None and not self.ended else None

    def _on_execution_start(self, _: Message) -> EngineProgress:
        self._label = "started"
        return self._progress()

    def _on_execution_cached(self, message: Message) -> EngineProgress:
        self._done.update(str(node) for node in message.data.get("nodes") or ())
        return self._progress()

    def _on_executing(self, message: Message) -> EngineProgress:
        # A node inside an expansion counts as the node of the graph that it came from.
        node = str(message.data.get("display_node") or message.data["node"])
        if self._current not in (None, node):
            self._done.add(str(self._current))
        self._current = node
        self._label = node_title(self._prompt, node)
        return self._progress()

    def _on_executed(self, message: Message) -> EngineProgress:
        self._done.add(str(message.data.get("display_node") or message.data.get("node")))
        return self._progress()

    def _on_progress(self, message: Message) -> EngineProgress | None:
        value, maximum = message.data.get("value"), message.data.get("max")
        if not isinstance(value, int | float) or not isinstance(maximum, int | float) or maximum <= 0:
            return None
        # Asynchronous nodes run in parallel: the node that reports need not be the last one started.
        node = str(message.data.get("display_node") or message.data.get("node") or self._current)
        # A node may count to its end more than once; the bar never goes back.
        self._fractions[node] = max(self._fractions.get(node, 0.0), min(1.0, value / maximum))
        title = node_title(self._prompt, node if node in self._prompt else str(self._current))
        self._label = f"{title} {value:g}/{maximum:g}"
        return self._progress()

    def _on_preview(self, message: Message) -> EngineProgress:
        return self._progress(message.payload)

    def _on_text(self, message: Message) -> EngineProgress:
        self._label = str(message.data.get("text"))
        return self._progress()

    def _progress(self, preview: bytes | None = None) -> EngineProgress:
        counted = ((node in self._done) or self._fractions.get(node, 0.0) for node in self._prompt)
        done = sum(float(share) for share in counted)
        return EngineProgress(done, len(self._prompt), self._label, preview)


def result_entries(outputs: Mapping[str, Any], node_id: str) -> list[Mapping[str, str]]:
    """The files that a node reported in a history's ``outputs``: filename, subfolder and type of each."""
    output = outputs.get(node_id)
    if not isinstance(output, Mapping):
        return []
    return [
        entry
        for key in RESULT_KEYS
        for entry in output.get(key) or ()
        if isinstance(entry, Mapping) and entry.get("filename")
    ]


def failure_of(status: Mapping[str, Any], prompt: Prompt) -> str | None:
    """Why a prompt of the history failed, by the title of its node; None where it did not fail."""
    messages = [entry for entry in status.get("messages") or () if isinstance(entry, list | tuple)]
    for kind, data in (entry for entry in messages if len(entry) == 2 and isinstance(entry[1], Mapping)):
        node_id = str(data.get("node_id"))
        node = f'"{node_title(prompt, node_id)}"' if node_id in prompt else str(data.get("node_type"))
        if kind == "execution_error":
            reason = f"{data.get('exception_type')}: {data.get('exception_message')}".strip()
            return f"the node {node} (node {node_id}) failed with {reason}"
        if kind == "execution_interrupted":
            return f"it was interrupted on the server, at the node {node} (node {node_id})"
    if status.get("status_str") == "error":
        return "the server reports an error without a reason"
    return None


def refusal_of(answer: Any, prompt: Prompt) -> str:
    """The reasons of a server's 400 on a prompt, by the titles of the nodes."""
    if not isinstance(answer, Mapping):
        return str(answer)[:300]
    reasons = []
    node_errors = answer.get("node_errors")
    for node_id, problem in node_errors.items() if isinstance(node_errors, Mapping) else ():
        for error in problem.get("errors") or ():
            details = str(error.get("details") or "")
            text = f"{error.get('message')}" + (f": {details}" if details else "")
            reasons.append(f'"{node_title(prompt, node_id)}" (node {node_id}): {text}')
    if not reasons:
        error = answer.get("error")
        message = error.get("message") if isinstance(error, Mapping) else error
        details = str(error.get("details") or "") if isinstance(error, Mapping) else ""
        reasons.append(f"{message} {details}".strip())
    return "; ".join(reasons)
