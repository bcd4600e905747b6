"""Who of those named in the journal is still alive.

A process id can't tell (it is reused, and means nothing in another container), a heartbeat lies after a
suspend. A lock on a file can: the operating system drops it with the process, however that dies.

The locks are taken here and not through a lock library because of ``fork``: a child inherits the descriptor,
and must neither keep the dead parent's lock alive nor, by an explicit unlock, take away the living parent's.
Closing the descriptor without unlocking is the only right way, and libraries in use today don't offer it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        # flock, not lockf: a POSIX record lock would vanish when any descriptor of the file is closed, and
        # would not hold between two journals of one process.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Owner:
    """One open journal's sign of life: a locked file named after `id`, for as long as it is open."""

    def __init__(self, folder: Path | None) -> None:
        """Makes and locks the file in `folder`; None makes an owner nobody else can see.

        Call it inside a write transaction of the journal: that keeps `sweep` of another process from meeting
        the file before it is locked.

        Raises:
            OSError: The folder can't be written, or its file system has no locks.
        """
        self.id = uuid.uuid4().hex
        self._descriptor: int | None = None
        self._path: Path | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = _lock_path(folder, self.id)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if not _try_lock(self._descriptor):
            os.close(self._descriptor)
            raise OSError(f"{self._path} can't be locked")

    def release(self) -> None:
        """Ends the sign of life."""
        self.abandon()
        if self._path is not None:
            _remove(self._path)

    def abandon(self) -> None:
        """In a forked child: lets go of the parent's lock without taking it away from the parent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Guard:
    """A lock on `path` between processes for the length of a ``with`` block.

    Raises:
        OSError: Not to be had within `seconds`.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + self._seconds
        while not _try_lock(self._descriptor):
            if time.monotonic() > deadline:
                os.close(self._descriptor)
                raise OSError(f"{self._path} is locked by another process")
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def is_alive(folder: Path, owner_id: str) -> bool:
    """Whether the owner's process holds its lock. Call it inside a write transaction of the journal.

    Two processes probing at the same moment would take each other's probe for the owner; the journal's
    write lock keeps them apart.
    """
    path = _lock_path(folder, owner_id)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except PermissionError:
        # Another user's process. Taking it for dead might pay for its work a second time.
        return True
    try:
        dead = _try_lock(descriptor)
    finally:
        os.close(descriptor)
    if dead:
        _remove(path)
    return not dead


def sweep(folder: Path) -> None:
    """Removes the files of the dead. Call it inside a write transaction of the journal."""
    for path in folder.glob("*.lock"):
        is_alive(folder, path.stem)


def _lock_path(folder: Path, owner_id: str) -> Path:
    return folder / f"{owner_id}.lock"


def _remove(path: Path) -> None:
    # Windows keeps a file that somebody is just probing; the next sweep gets it.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        path.unlink()
