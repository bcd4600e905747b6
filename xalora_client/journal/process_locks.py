"""A file lock that tells whether the process that owns leases is still alive, and its notes not yet written.

A process id can't tell (it is reused, and means nothing in another container), a heartbeat lies after a
suspend. A lock on a file can: the operating system drops it with the process, however that dies.

The locks are taken here and not through a lock library because of ``fork``: a child inherits the descriptor,
and must neither keep the dead parent's lock alive nor, by an explicit unlock, take away the living parent's.
Closing the descriptor without unlocking is the only right way, and libraries in use today don't offer it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import sync_folder

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
        # Windows has no shared lock here. Two that probe at the same moment take each other for the owner,
        # so the dead one is noticed a moment later.
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
        # flock, not lockf: a POSIX record lock would vanish when any descriptor of the file is closed, and
        # would not hold between two journals of one process.
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


LOCK_SUFFIX = ".lock"
NOTES_SUFFIX = ".notes"

RESERVED_BYTES = 64 * 1024
"""Room for the notes of some 400 tasks; at most 64 creates of a client are out at a time."""


class Owner:
    """One open journal's sign of life, a locked file named after `id`, and beside it the notes it owes.

    Made inside a write transaction of the journal: that keeps `remove_dead` of another process from meeting
    the file before it is locked.

    Raises:
        OSError: The folder can't be written, or its file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.id = uuid.uuid4().hex
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{self.id}{LOCK_SUFFIX}"
        self._notes = folder / f"{self.id}{NOTES_SUFFIX}"
        self._used = 0
        self._is_reserved = False
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if not _try_lock(self._descriptor):
            os.close(self._descriptor)
            raise OSError(f"{self._path} can't be locked")

    def reserve(self) -> None:
        """Have room for notes on disk: they are written into empty lines that are there already.

        Raises:
            OSError: There is no room.
        """
        if not self._is_reserved:
            self._write(0, b"\n" * RESERVED_BYTES)
            self._is_reserved = True

    def owe(self, notes: Iterable[Mapping[str, Any]]) -> None:
        """Append notes to this owner's file, safely on disk on return.

        Raises:
            OSError: They can't be written.
        """
        lines = "".join(json.dumps(note, separators=(",", ":"), default=str) + "\n" for note in notes)
        self._write(self._used, lines.encode())
        self._used += len(lines.encode())

    def owe_nothing(self) -> None:
        """Remove the notes: the journal has them."""
        if self._is_reserved:
            with contextlib.suppress(OSError):
                self._write(0, b"\n" * max(self._used, RESERVED_BYTES))
        else:
            _remove(self._notes)
        self._used = 0

    def _write(self, place: int, data: bytes) -> None:
        is_new = not self._notes.exists()
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.seek(place)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self._notes.parent)

    def release(self) -> None:
        """End the sign of life; notes that are owed stay for whoever opens the journal next."""
        self.abandon()
        if not self._used:
            _remove(self._notes)
        _remove(self._path)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's lock without taking it away from the parent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_alive(folder: Path, owner_id: str) -> bool:
    """Whether the owner's process holds its lock. Needs no transaction: any number may probe at once."""
    try:
        descriptor = os.open(folder / f"{owner_id}{LOCK_SUFFIX}", os.O_RDWR)
    except FileNotFoundError:
        return False
    except PermissionError:
        # Another user's process. Taking it for dead might pay for its task a second time.
        return True
    try:
        return not _try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def all_owners(folder: Path) -> set[str]:
    """Ids of all owners that left a file in the folder."""
    with contextlib.suppress(OSError):
        return {path.stem for path in folder.iterdir() if path.suffix in (LOCK_SUFFIX, NOTES_SUFFIX)}
    return set()


def owed_notes(folder: Path, owner_id: str) -> Iterator[dict[str, Any]]:
    """The notes that an owner has not written to the journal, the oldest first."""
    with contextlib.suppress(OSError), (folder / f"{owner_id}{NOTES_SUFFIX}").open("rb") as file:
        # An empty line begins the room that is only reserved.
        for line in itertools.takewhile(bytes.strip, file):
            # The last line may have been cut off by the owner's death.
            with contextlib.suppress(ValueError):
                note = json.loads(line)
                if isinstance(note, dict):
                    yield note


def remove_dead(folder: Path, owner_id: str) -> None:
    """Remove a dead owner's files. Call it when its notes are committed."""
    _remove(folder / f"{owner_id}{NOTES_SUFFIX}")
    _remove(folder / f"{owner_id}{LOCK_SUFFIX}")


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


def _remove(path: Path) -> None:
    # Windows keeps a file that somebody is just probing; the next one that looks removes it.
    with contextlib.suppress(OSError):
        path.unlink()
