"""A preloaded Python process: it has imported what tests' programs import, and each program is its fork.

Tests start some fifty ComfyUIs and some hundred commands. On Linux only. The programs' Python runs this file,
too, as that process.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

REQUEST_BYTES = 150_000


class Fork:
    """A process as `subprocess.Popen` has it, as far as it is used here."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = int(os.read(self._status, 8))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Preloaded:
    """Imports `modules`, of other projects only, so that each program reads its own arguments and files.

    Ends with `close()`; what it has started goes on.
    """

    def __init__(self, python: Path, modules: Iterable[str], env: Mapping[str, str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [python, __file__, *modules], stdin=theirs, stdout=subprocess.DEVNULL, env=env
            )
        self._lock = threading.Lock()

    def start(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], streams: Sequence[IO[Any]]
    ) -> Fork:
        """A fork that runs `[python, script, *arguments]` or `[python, "-m", module, *arguments]`.

        `streams` are its standard ones. Of the environment, what Python reads at its start has no effect.
        """
        request = json.dumps({"arguments": command[1:], "cwd": str(cwd), "env": dict(env)}).encode()
        reading, status = os.pipe()
        try:
            with self._lock:
                given = [*(stream.fileno() for stream in streams), status]
                socket.send_fds(self._channel, [request], given)
                pid = int(self._channel.recv(64))
        finally:
            os.close(status)
        return Fork(pid, reading)

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


def serve(channel: socket.socket) -> None:
    """Start a program for each request until the other end is closed; returns in no program."""
    while True:
        request, given, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            _start(json.loads(request), channel, *given)
        for descriptor in given:
            os.close(descriptor)


def _start(request: dict[str, Any], channel: socket.socket, *given: int) -> None:
    """Run the program in a fork, and tell its process id and then its exit status."""
    *_, status = given
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        channel.close()
        _become(request, given)
    channel.send(str(pid).encode())
    # The program and the tests decide when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in (channel.fileno(), *given):
        if descriptor != status:
            os.close(descriptor)
    _, ended = os.waitpid(pid, 0)
    os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
    os._exit(0)


def _become(request: dict[str, Any], given: Sequence[int]) -> None:
    """Run the program as a fresh Python would, and end."""
    for own, descriptor in enumerate(given[:3]):
        os.dup2(descriptor, own)
    for descriptor in given:
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["arguments"]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0] = request["cwd"]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).parent)
        runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    # Nobody waits for what tells a program's exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in sys.argv[1:]:
        with suppress(ImportError):
            importlib.import_module(name)
    serve(socket.socket(fileno=0))
