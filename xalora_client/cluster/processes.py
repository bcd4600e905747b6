"""Processes of the cluster on this machine: started in sessions of their own, recorded, ended by their ids.

A session's id can't be given to another process while any process of the session lives, so that those that
their parent has left behind are found as well. Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..files import write_private

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def ends_with_its_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A ``preexec_fn``: the kernel sends the child this signal when the thread that started it ends."""
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


@dataclass(frozen=True)
class Mark:
    """A process id, with its start in clock ticks since the boot: ids are used again."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Mark:
        """The mark of a process that runs."""
        return cls(pid, _stat(pid).start)

    @property
    def is_alive(self) -> bool:
        try:
            stat = _stat(self.pid)
        except OSError:
            return False
        return stat.start == self.start and not stat.is_zombie


@dataclass
class Record:
    """What runs on this machine for one folder, as noted there.

    Attributes:
        supervisor: The process of ``up`` or ``join``.
        sessions: Leaders of the sessions that it started.
        temporary: Ray's folder of sockets and logs.
    """

    supervisor: Mark
    temporary: str
    sessions: list[Mark] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Note it."""
        write_private(_record_path(folder), json.dumps(self, default=vars))

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """What a folder notes; None where nothing runs."""
        try:
            noted = json.loads(_record_path(folder).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        sessions = [Mark(**mark) for mark in noted.pop("sessions")]
        return cls(Mark(**noted.pop("supervisor")), sessions=sessions, **noted)

    def end(self, folder: Path) -> None:
        """Kill all processes of the sessions, and remove what they left and the note."""
        for leader in self.sessions:
            end_session(leader)
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)
        _record_path(folder).unlink(missing_ok=True)


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which gets SIGTERM when this process ends."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=ends_with_its_parent(signal.SIGTERM),  # noqa: PLW1509  # one call into libc
        )


def end_session(leader: Mark, patience: float = 10.0) -> None:
    """Kill all processes of a session, and wait until they are gone."""
    until = time.monotonic() + patience
    while (pids := members(leader)) and time.monotonic() < until:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(leader.pid, os.WNOHANG)
        time.sleep(0.02)


def members(leader: Mark) -> list[int]:
    """The processes of a session that run, and those that they have started in sessions of their own."""
    with suppress(OSError):
        if _stat(leader.pid).start != leader.start:
            # The id was given out again, so the session has ended.
            return []
    running = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                running[int(entry.name)] = _stat(int(entry.name))
    found = {
        pid for pid, stat in running.items() if stat.session == leader.pid and stat.start >= leader.start
    }
    while more := {pid for pid, stat in running.items() if stat.parent in found} - found:
        found |= more
    return [pid for pid in found if not running[pid].is_zombie]


@contextmanager
def sole_user(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process; False where another one has it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _record_path(folder: Path) -> Path:
    return folder / "processes.json"


@dataclass(frozen=True)
class _Stat:
    parent: int
    session: int
    start: int
    is_zombie: bool


def _stat(pid: int) -> _Stat:
    """Raises ``OSError`` where there is no such process."""
    # The name in parentheses may have any character.
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return _Stat(
        parent=int(fields[1]), session=int(fields[3]), start=int(fields[19]), is_zombie=fields[0] in "ZX"
    )
