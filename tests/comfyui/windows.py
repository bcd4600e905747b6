"""An open browser window, as far as the server tells it of tasks."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
import uuid
from typing import Any

import websocket
from harness import ComfyUI


class Window:
    """An open browser window: the pushed messages of one kind, with the times they came at."""

    def __init__(self, comfyui: ComfyUI, kind: str) -> None:
        address = f"{comfyui.url.replace('http', 'ws', 1)}/ws?clientId={uuid.uuid4().hex}"
        self._socket = websocket.create_connection(address, timeout=30, http_no_proxy=["*"])
        self._kind = kind
        self.messages: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                message = self._socket.recv()
            except (websocket.WebSocketException, OSError):
                return
            if isinstance(message, str) and message:
                event = json.loads(message)
                if event["type"] == self._kind:
                    self.messages.put((time.monotonic(), event["data"]))

    def close(self) -> None:
        self._socket.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.shutdown()
