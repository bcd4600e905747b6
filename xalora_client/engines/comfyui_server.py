"""The HTTP routes and the websocket of a ComfyUI server. Blocking, without retries."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from ..config import is_loopback
from ..errors import ConfigurationError
from .comfyui_events import Message, parse_binary, parse_text

logger = logging.getLogger("xalora_client.engines")

_CHUNK_BYTES = 1 << 20


class UnreachableError(Exception):
    """The connection was refused, reset or not made."""


class SilentError(UnreachableError):
    """The server accepted the connection, but gave no answer in time."""


class RefusedError(Exception):
    """The server answered with an HTTP error. ``body`` is parsed JSON where it is JSON, else text."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body


class ComfyUIServer:
    """One server.

    Args:
        url: Its base URL, such as ``http://127.0.0.1:8188``.
        timeout: Seconds that one request may go without an answer.

    Raises:
        ConfigurationError: ``url`` is not an http or https URL.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"{url!r} is not the URL of a ComfyUI server",
                next_step="Give one such as http://127.0.0.1:8188.",
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._local = is_loopback(url)
        # A proxy of the user's network can't reach this machine's own servers.
        handlers = [urllib.request.ProxyHandler({})] if self._local else []
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Any:
        """GET a route that answers JSON. Raises UnreachableError or RefusedError."""
        return self._json(path)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON; gives the answer's JSON or None. Raises UnreachableError or RefusedError."""
        return self._json(path, json.dumps(body).encode(), "application/json")

    def upload_image(self, data: bytes, filename: str, subfolder: str) -> str:
        """Put an image into the server's input folder.

        An existing file with this name and content is used; if its content differs, the new file gets another
        name.

        Returns:
            The name that a LoadImage node takes.
        """
        boundary = uuid.uuid4().hex
        lines = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{subfolder}\r\n',
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n',
            "Content-Type: application/octet-stream\r\n\r\n",
        ]
        body = b"".join(["".join(lines).encode(), data, f"\r\n--{boundary}--\r\n".encode()])
        answer = self._json("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        if not isinstance(answer, Mapping) or not answer.get("name"):
            raise RefusedError(200, answer)
        return "/".join(part for part in (answer.get("subfolder"), answer["name"]) if part)

    def download(self, entry: Mapping[str, str], path: Path, cancel: threading.Event | None = None) -> None:
        """Stream a file of the server's to ``path``; stops early, without an error, when ``cancel`` is set.

        Raises UnreachableError (also when the file comes to less than announced) or RefusedError.
        """
        query = {key: str(entry.get(key) or "") for key in ("filename", "subfolder", "type")}
        with self._open(f"/view?{urllib.parse.urlencode(query)}") as response:
            announced = response.headers.get("Content-Length")
            received = 0
            with path.open("wb") as file:
                while chunk := self._read(response, _CHUNK_BYTES):
                    if cancel is not None and cancel.is_set():
                        return
                    file.write(chunk)
                    received += len(chunk)
            if announced is not None and received != int(announced):
                raise UnreachableError(f"{received} of {announced} bytes of {query['filename']} arrived")

    def object_info(self, classes: Iterable[str]) -> dict[str, Any]:
        """The server's description of these node classes; classes it does not have are left out."""
        found: dict[str, Any] = {}
        for name in sorted(set(classes)):
            answer = self.get(f"/object_info/{urllib.parse.quote(name, safe='')}")
            if isinstance(answer, Mapping):
                found.update(answer)
        return found

    def device(self) -> str:
        """The server's device."""
        stats = self.get("/system_stats")
        devices = stats.get("devices") if isinstance(stats, Mapping) else None
        names = [str(device.get("name")) for device in devices or () if isinstance(device, Mapping)]
        return names[0] if names else "unknown device"

    def queue_ids(self) -> tuple[set[str], set[str]]:
        """Ids of the prompts that are (running, waiting)."""
        answer = self.get("/queue")
        running, waiting = (answer.get(key) or () for key in ("queue_running", "queue_pending"))
        return {str(prompt[1]) for prompt in running}, {str(prompt[1]) for prompt in waiting}

    def history(self, prompt_id: str) -> Mapping[str, Any] | None:
        """The history entry of a prompt that has ended, None where there is none."""
        answer = self.get(f"/history/{prompt_id}")
        entry = answer.get(prompt_id) if isinstance(answer, Mapping) else None
        return entry if isinstance(entry, Mapping) else None

    def listen(self, client_id: str) -> EventStream:
        """Open a websocket. Raises UnreachableError."""
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        return EventStream(address, timeout=self.timeout, direct=self._local)

    def _json(self, path: str, body: bytes | None = None, content_type: str = "") -> Any:
        with self._open(path, body, content_type) as response:
            text = self._read(response)
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise RefusedError(response.status, text[:300].decode(errors="replace")) from None

    def _open(self, path: str, body: bytes | None = None, content_type: str = "") -> HTTPResponse:
        headers = {"Content-Type": content_type} if body is not None else {}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            response: HTTPResponse = self._opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(1 << 20).decode(errors="replace")
            try:
                reason = json.loads(text)
            except ValueError:
                reason = text.strip()
            raise RefusedError(error.code, reason) from None
        except (OSError, HTTPException) as error:
            raise _connection_problem(error) from error
        return response

    def _read(self, response: HTTPResponse, size: int | None = None) -> bytes:
        try:
            return response.read(size)
        except (OSError, HTTPException) as error:
            raise _connection_problem(error) from error


def _connection_problem(error: Exception) -> UnreachableError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    kind = SilentError if isinstance(cause, TimeoutError) else UnreachableError
    return kind(str(cause) or type(cause).__name__)


class EventStream:
    """A websocket to the server, read on a thread of its own; it may break, and be opened again.

    The thread lets the caller of :meth:`get` check other things in between (a cancel event, the clock).

    Raises:
        UnreachableError: It can't be opened at first.
    """

    def __init__(self, address: str, *, timeout: float, direct: bool) -> None:
        self._address = address
        self._options: dict[str, Any] = {"timeout": timeout}
        if direct:
            # websocket-client heeds its own exception only beside a proxy of its own, here one never used.
            self._options |= {"http_proxy_host": "none.invalid", "http_no_proxy": ["*"]}
        self._socket: Any = None
        self._open()

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def get(self, seconds: float) -> Message | None:
        """The next message, None after ``seconds`` without one, and when the socket has broken."""
        if self._socket is None:
            time.sleep(seconds)
            return None
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            return None
        if message is None:
            self.close()
        return message

    def reopen(self) -> None:
        """Try to listen again; without success the run goes on without progress."""
        try:
            self._open()
        except UnreachableError as problem:
            logger.debug("no websocket to %s: %s", self._address, problem)

    def close(self) -> None:
        """End the thread and close the socket."""
        if self._socket is not None:
            # Closing alone would not end the thread's read.
            self._socket.abort()
            self._thread.join()
            self._socket.shutdown()
            self._socket = None

    def _open(self) -> None:
        import websocket

        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        try:
            # ComfyUI refuses foreign origins; a program sends none.
            opened = websocket.create_connection(self._address, suppress_origin=True, **self._options)
            opened.send(json.dumps(flags))
        except (OSError, websocket.WebSocketException) as error:
            raise _connection_problem(error) from error
        # Silence is normal: a model may take minutes to load.
        opened.settimeout(None)
        self._socket = opened
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="xalora-comfyui-events", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        """Queue what arrives, and None at the end."""
        import websocket

        try:
            while True:
                opcode, data = self._socket.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
                message = parse_binary(data) if opcode == websocket.ABNF.OPCODE_BINARY else parse_text(data)
                if message is not None:
                    self._messages.put(message)
        except (OSError, websocket.WebSocketException) as error:
            logger.debug("the websocket to %s broke: %s", self._address, error)
        finally:
            self._messages.put(None)
