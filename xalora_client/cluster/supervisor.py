"""``up`` and ``join``: start Ray, and on the head the front, start them anew when they end, and stop them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..files import write_private
from . import ray_node
from .machine import Machine
from .processes import Mark, Record, end_session, sole_user, start
from .serve import TOKEN_FILE, Head

Say = Callable[[str], None]

MACHINE_FILE = "machine.json"
_LONGEST_PAUSE = 30.0
_PROBE_SECONDS = 2.0
_LOOK = 0.2


class _Stopped(Exception):
    """A signal came."""


@contextmanager
def _until_signal() -> Iterator[None]:
    """SIGINT and SIGTERM raise :class:`_Stopped` inside and end the block."""

    def stop(*_: object) -> None:
        # Only once: cleaning up must not be torn.
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise _Stopped

    before: dict[int, Any] = {}
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[each] = signal.signal(each, stop)
    try:
        with contextlib.suppress(_Stopped):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Supervisor:
    """Keeps processes of a folder running."""

    folder: Path
    record: Record

    @property
    def temporary(self) -> Path:
        """Ray's folder: its own is open to all users, so it lies in one that is not."""
        return Path(self.record.temporary) / "ray"

    def start(
        self, name: str, command: Sequence[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        process = start(command, environment, log)
        self.record.sessions.append(Mark.of(process.pid))
        self.record.write(self.folder)
        return process

    def end_all(self) -> None:
        for leader in self.record.sessions:
            end_session(leader)
        self.record.sessions.clear()
        self.record.write(self.folder)

    def last_lines(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text("utf-8", "replace").strip()
        return " / ".join(text.splitlines()[-3:])


@contextmanager
def _supervising(folder: Path) -> Iterator[_Supervisor]:
    """Hold a folder; end what an earlier process left, and at the end what this one started.

    Raises:
        ConfigurationError: Another process has the folder.
    """
    with sole_user(folder) as is_sole:
        if not is_sole:
            raise ConfigurationError(
                f"A cluster's process runs already for {folder}",
                money="",
                next_step="Stop it with xalora cluster down, or name another folder by --dir.",
            )
        # Names of results are secrets; Ray opens its files to all users itself.
        os.umask(0o077)
        if left := Record.read(folder):
            left.end(folder)
        temporary = tempfile.mkdtemp(prefix="xalora-cluster-", dir=_short_folder())
        record = Record(Mark.of(os.getpid()), temporary)
        record.write(folder)
        try:
            yield _Supervisor(folder, record)
        finally:
            record.end(folder)


def _short_folder() -> str:
    # Paths of sockets have at most 107 bytes, and Ray appends some 75.
    return tempfile.gettempdir() if len(tempfile.gettempdir()) <= 12 else "/tmp"


def token_file(folder: Path) -> Path:
    """The cluster's token, made at the first call; only its user can read it."""
    path = folder / TOKEN_FILE
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, secrets.token_hex(32))
    return path


def up(
    folder: Path,
    *,
    head: Head,
    machine: Machine | None,
    on_ready: Callable[[], None],
    say: Say,
) -> None:
    """Run the head until a signal comes; for the main thread.

    Args:
        folder: Of its state.
        head: How it serves.
        machine: What this machine lends; None for nothing.
        on_ready: Called once the front answers and Ray runs.
        say: Told what happens.

    Raises:
        ConfigurationError: A port is taken, or Ray does not start.
    """
    host, _, port = head.ray.rpartition(":")
    loopback = not head.network
    with _supervising(folder) as supervisor, _until_signal():
        for address, number in ((head.host, head.port), (host, int(port))):
            _check_free(address, number)
        head.write(folder)
        token, machine_file = token_file(folder), _write_machine(folder, machine)
        ray_environment = ray_node.head_environment(
            token, folder / "gcs", loopback=loopback, machine=machine_file
        )
        ray_command = ray_node.head_command(host, int(port), supervisor.temporary, machine)
        front_environment = ray_node.environment(token, loopback=loopback)
        front_command = [sys.executable, "-m", "xalora_client.cluster.serve", str(folder)]
        pause, was_up = 1.0, False
        while True:
            began = time.monotonic()
            processes = {
                "front": supervisor.start("front", front_command, front_environment),
                "ray": supervisor.start("ray", ray_command, ray_environment),
            }
            is_up = _waits_for_port(head.host, head.port, processes) and _has_started(
                processes["ray"], folder / "ray.log"
            )
            if is_up and not was_up:
                was_up = True
                on_ready()
            ended = _first_ended(processes)
            lines = supervisor.last_lines(ended)
            supervisor.end_all()
            if not was_up:
                raise ConfigurationError(
                    f"The cluster's {ended} process did not start: {lines}",
                    money="",
                    next_step=f"Its log is {folder / ended}.log.",
                )
            pause = 1.0 if time.monotonic() - began > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
            say(f"{ended} ended and starts again in {pause:g} s: {lines}")
            time.sleep(pause)


def join(folder: Path, *, head: str, address: str, token: Path, machine: Machine, say: Say) -> None:
    """Lend this machine to a head until a signal comes; for the main thread.

    Args:
        folder: Of this machine's files.
        head: ``host:port`` of Ray's head.
        address: This machine's address in the cluster's network.
        token: The file of the cluster's token.
        machine: What it lends.
        say: Told what happens.

    Raises:
        ConfigurationError: The head refuses this machine, for its version or token.
    """
    host, _, port = head.rpartition(":")
    with _supervising(folder) as supervisor, _until_signal():
        environment = ray_node.environment(token, loopback=False, machine=_write_machine(folder, machine))
        command = ray_node.machine_command(head, address, supervisor.temporary, machine)
        is_told = False
        while True:
            # Without a head, Ray's process would try for more than a minute, and end in a traceback.
            if not _answers(host, int(port)):
                if not is_told:
                    say(f"nothing answers at {head}; trying until it does")
                is_told = True
                time.sleep(_PROBE_SECONDS)
                continue
            is_told = False
            process = supervisor.start("ray", command, environment)
            if _has_started(process, folder / "ray.log"):
                say(f"{machine.name} has joined the cluster at {head}")
            process.wait()
            log = (folder / "ray.log").read_text("utf-8", "replace")
            lines = supervisor.last_lines("ray")
            supervisor.end_all()
            if refused := ray_node.refusal_in(log):
                raise ConfigurationError(
                    refused, money="", next_step="Install the head's versions here, or copy its token anew."
                )
            say(f"Ray ended here, and starts again: {lines}")
            time.sleep(_PROBE_SECONDS)


def down(folder: Path, patience: float = 15.0) -> bool:
    """Stop what runs for a folder, and remove Ray's tables; False where nothing ran."""
    record = Record.read(folder)
    if record is None:
        return False
    if record.supervisor.is_alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.supervisor.pid, signal.SIGTERM)
        until = time.monotonic() + patience
        while record.supervisor.is_alive and time.monotonic() < until:
            time.sleep(0.05)
        if record.supervisor.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.supervisor.pid, signal.SIGKILL)
    # Its sessions may be others by now than those read above.
    if left := Record.read(folder):
        left.end(folder)
    shutil.rmtree(folder / "gcs", ignore_errors=True)
    return True


def _write_machine(folder: Path, machine: Machine | None) -> Path | None:
    if machine is None:
        return None
    machine.write(folder / MACHINE_FILE)
    return folder / MACHINE_FILE


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as problem:
        raise ConfigurationError(
            f"The cluster can't listen on {host}:{port}: {os.strerror(problem.errno or 0).lower()}",
            money="",
            next_step="Choose another --port or --ray-port, or an address of this machine.",
        ) from None


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


def _waits_for_port(host: str, port: int, processes: dict[str, subprocess.Popen[bytes]]) -> bool:
    """Wait until the front answers; False where a process ended before."""
    while all(process.poll() is None for process in processes.values()):
        if _answers(host, port):
            return True
        time.sleep(_LOOK)
    return False


def _has_started(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until Ray says that it runs; False where it ended before."""
    while process.poll() is None:
        if "Ray runtime started" in log.read_text("utf-8", "replace"):
            return True
        time.sleep(_LOOK)
    return False


def _first_ended(processes: dict[str, subprocess.Popen[bytes]]) -> str:
    """The name of the first process to end."""
    while True:
        for name, process in processes.items():
            if process.poll() is not None:
                return name
        time.sleep(_LOOK)
