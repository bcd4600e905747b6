"""Speaks to a ComfyUI as its frontend does: HTTP for commands, one websocket for what happens."""

from __future__ import annotations

import json
import struct
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
import websocket

from .record import Event, Preview, ProgressText, RunRecord

Prompt = Mapping[str, Mapping[str, Any]]

_BINARY_PREVIEW, _BINARY_TEXT, _BINARY_PREVIEW_WITH_METADATA = 1, 3, 4
_MEDIA_TYPES = {1: "image/jpeg", 2: "image/png"}


class ComfyUIError(AssertionError):
    """ComfyUI did not do what every ComfyUI does."""


class PromptRefusedError(ComfyUIError):
    """The prompt did not validate. `answer` is ComfyUI's own: error, node_errors."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer, indent=1))
        self.answer = answer


class Client:
    """One browser's worth of connection; safe for several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = uuid.uuid4().hex
        self._http = requests.Session()
        self._http.trust_env = False
        self._records: dict[str, RunRecord] = {}
        self._records_lock = threading.Lock()
        self._running: RunRecord | None = None
        self._socket: websocket.WebSocket | None = None
        self._listener: threading.Thread | None = None

    # --- the connection ---

    def connect(self) -> None:
        """Open the websocket and say, as the frontend does, which messages we understand."""
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        sock = websocket.create_connection(address, timeout=30, http_no_proxy=["*"])
        sock.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        sock.settimeout(None)
        self._socket = sock
        self._listener = threading.Thread(
            target=self._listen, args=(sock,), name="comfyui-events", daemon=True
        )
        self._listener.start()

    def disconnect(self) -> None:
        if self._socket is not None:
            self._socket.shutdown()
            self._socket = None
        if self._listener is not None:
            self._listener.join(10)
            self._listener = None

    def get(self, path: str, **params: Any) -> requests.Response:
        """GET a route; AssertionError unless it answers with 2xx."""
        if path == "/xalora/tasks":
            # A page of tasks does not wait for what is about to be written; a single one does.
            self._http.get(f"{self.url}/xalora/tasks/0", timeout=60)
        return self._answered(self._http.get(self.url + path, params=params, timeout=60))

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        """POST JSON to a route; AssertionError unless it answers with 2xx."""
        return self._answered(self._http.post(self.url + path, json=body, timeout=60, **options))

    @staticmethod
    def _answered(response: requests.Response) -> requests.Response:
        if not response.ok:
            raise ComfyUIError(
                f"{response.request.method} {response.url}: {response.status_code} {response.text[:2000]}"
            )
        return response

    # --- prompts ---

    def queue(self, prompt: Prompt, **fields: Any) -> str:
        """Queue a prompt in API format; returns its id. PromptRefusedError when it does not validate."""
        return self.start(prompt, **fields).prompt_id

    def start(self, prompt: Prompt, **fields: Any) -> RunRecord:
        """Queue a prompt; returns the record that grows with it. `fields` go beside it: extra_data, front."""
        record = RunRecord(str(uuid.uuid4()))
        with self._records_lock:
            self._records[record.prompt_id] = record
        body = {"prompt": prompt, "client_id": self.client_id, "prompt_id": record.prompt_id, **fields}
        response = self._http.post(f"{self.url}/prompt", json=body, timeout=60)
        if response.status_code == 400:
            raise PromptRefusedError(response.json())
        if (given := self._answered(response).json()["prompt_id"]) != record.prompt_id:
            # Old versions make up ids of their own.
            with self._records_lock:
                record.prompt_id = given
                self._records[given] = record
        return record

    def run(self, prompt: Prompt, timeout: float = 60.0, **fields: Any) -> RunRecord:
        """Queue a prompt and wait for its end, whichever way it ends: look at `.status`."""
        return self.start(prompt, **fields).wait(timeout)

    def record(self, prompt_id: str) -> RunRecord:
        """What is known about a prompt that this client queued."""
        return self._records[prompt_id]

    def interrupt(self) -> None:
        """The cancel button."""
        self.post("/interrupt")

    def queue_state(self) -> tuple[list[str], list[str]]:
        """Ids of the (running, pending) prompts."""
        state = self.get("/queue").json()
        return [item[1] for item in state["queue_running"]], [item[1] for item in state["queue_pending"]]

    def clear_queue(self) -> None:
        """Drop what has not begun."""
        self.post("/queue", {"clear": True})

    def history(self, prompt_id: str) -> dict[str, Any]:
        """ComfyUI's own record of an ended prompt: outputs, status. Empty while it runs."""
        entry: dict[str, Any] = self.get(f"/history/{prompt_id}").json().get(prompt_id, {})
        return entry

    # --- files and facts ---

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """Schemas of all nodes, or of the one named."""
        info: dict[str, Any] = self.get("/object_info" + (f"/{node}" if node else "")).json()
        return info if node is None else info[node]

    def upload_image(self, source: Path | bytes, name: str | None = None) -> str:
        """Put a file into the input folder as the frontend does; returns the name for LoadImage."""
        data = source if isinstance(source, bytes) else source.read_bytes()
        name = name or (f"{uuid.uuid4().hex}.png" if isinstance(source, bytes) else source.name)
        response = self._http.post(f"{self.url}/upload/image", files={"image": (name, data)}, timeout=60)
        uploaded = self._answered(response).json()
        return "/".join(part for part in (uploaded["subfolder"], uploaded["name"]) if part)

    def files(self, record: RunRecord, node: str | None = None) -> list[bytes]:
        """The files that output nodes wrote (SaveImage, SaveVideo, PreviewImage...), fetched over HTTP."""
        named = [
            item
            for node_id, output in record.outputs.items()
            if node in (None, node_id)
            for items in output.values()
            for item in items
            if isinstance(item, dict) and {"filename", "subfolder", "type"} <= item.keys()
        ]
        return [
            self.get("/view", **{k: item[k] for k in ("filename", "subfolder", "type")}).content
            for item in named
        ]

    def clear_cache(self) -> None:
        """Make ComfyUI forget every cached output, and return only when it has."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        # The worker looks at these flags after a prompt, or when woken with none waiting: a prompt of no
        # consequence behind it makes sure that the next real one finds them done.
        self.run({"1": {"class_type": "XaloraTestClock", "inputs": {"nonce": uuid.uuid4().hex}}}, timeout=60)

    # --- listening ---

    def _listen(self, sock: websocket.WebSocket) -> None:
        why = "the websocket was closed"
        try:
            while True:
                opcode, data = sock.recv_data()
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self._on_json(json.loads(data))
                elif opcode == websocket.ABNF.OPCODE_BINARY:
                    self._on_binary(data)
                elif opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
        except (websocket.WebSocketException, OSError) as error:
            why = f"the websocket broke: {error}"
        with self._records_lock:
            records = list(self._records.values())
        for record in records:
            record.fail(why)

    def _on_json(self, message: dict[str, Any]) -> None:
        data = message.get("data") or {}
        with self._records_lock:
            record = self._records.get(data.get("prompt_id"))
        if message["type"] == "xalora.line" and self._running is not None:
            # The pack's own progress text.
            self._running.note(ProgressText(time.time(), data["node_id"], data["text"]))
            return
        if record is None:
            return
        event = Event(time.time(), message["type"], data)
        if event.type == "execution_start":
            self._running = record
        record.note(event)
        if event.type == "executing" and data.get("node") is None:
            # Sent after the history was written.
            record.end(self.history(record.prompt_id))

    def _on_binary(self, data: bytes) -> None:
        now = time.time()
        (kind,) = struct.unpack(">I", data[:4])
        record = self._running
        if kind == _BINARY_PREVIEW_WITH_METADATA:
            (length,) = struct.unpack(">I", data[4:8])
            metadata = json.loads(data[8 : 8 + length])
            with self._records_lock:
                record = self._records.get(metadata["prompt_id"], record)
            picture = Preview(now, metadata["node_id"], metadata["image_type"], data[8 + length :])
        elif kind == _BINARY_PREVIEW:
            (image_type,) = struct.unpack(">I", data[4:8])
            picture = Preview(now, "", _MEDIA_TYPES[image_type], data[8:])
        elif kind == _BINARY_TEXT:
            (length,) = struct.unpack(">I", data[4:8])
            node, text = data[8 : 8 + length].decode(), data[8 + length :].decode()
            if record is not None:
                record.note(ProgressText(now, node, text))
            return
        else:
            return
        if record is not None:
            record.note(picture)
