"""A preloaded Python process: it has imported what ComfyUI imports, and each test's ComfyUI is its fork.

Tests start some fifty. On Linux only. ComfyUI's Python runs this file, too, as that process.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

PRELOADED = (
    "torch",
    "torchvision",
    "transformers",
    "scipy.stats",
    "scipy.integrate",
    "alembic.command",
    "sqlalchemy.orm",
    "kornia.filters",
    "spandrel",
    "torchsde",
    "aiohttp.web",
    "pydantic_settings",
    "requests",
    "av",
)
"""Of other projects only, so that each ComfyUI reads its own arguments and files."""

REQUEST_BYTES = 150_000


class Fork(psutil.Process):
    """A process as `subprocess.Popen` has it, as far as it is used here. Nobody learns its exit status."""

    def __init__(self, pid: int, stdin: IO[bytes]) -> None:
        super().__init__(pid)
        self.stdin = stdin

    def poll(self) -> int | None:
        """None while it runs."""
        with suppress(psutil.NoSuchProcess):
            if self.is_running() and self.status() != psutil.STATUS_ZOMBIE:
                return None
        return 0

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has ended; raises `subprocess.TimeoutExpired`."""
        try:
            return super().wait(timeout)
        except psutil.TimeoutExpired as error:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0) from error


class Preloaded:
    """Ends with `close()`; what it has started goes on."""

    def __init__(self, python: Path) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [python, __file__], stdin=theirs, stdout=subprocess.DEVNULL, env=plain_environment()
            )
        self._lock = threading.Lock()

    def start(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: IO[bytes]) -> Fork:
        """A fork that runs a command of this Python, `[python, script, *arguments]`."""
        request = json.dumps({"arguments": command[1:], "cwd": str(cwd), "env": dict(env)}).encode()
        reading, writing = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._channel, [request], [reading, log.fileno()])
                pid = int(self._channel.recv(64))
        finally:
            os.close(reading)
        return Fork(pid, os.fdopen(writing, "wb"))

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


def plain_environment() -> dict[str, str]:
    """The tests' environment without what is meant for the client, pytest, or their own Python."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("XALORA_", "PYTEST_", "PYTHONPATH"))}
    return {**own, "PYTHONUNBUFFERED": "1"}


def serve(channel: socket.socket) -> None:
    """Fork for each request until the other end is closed; returns in no fork."""
    while True:
        request, given, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 2)
        if not request:
            return
        stdin, log = given
        pid = os.fork()
        if pid == 0:
            channel.close()
            _become(json.loads(request), stdin, log)
        channel.send(str(pid).encode())
        os.close(stdin)
        os.close(log)


def _become(request: dict[str, Any], stdin: int, log: int) -> None:
    """Run the script as a fresh Python would, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for own, given in ((0, stdin), (1, log), (2, log)):
        os.dup2(given, own)
    os.closerange(3, max(stdin, log) + 1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    # Nobody waits for the forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    serve(socket.socket(fileno=0))
