"""The file of a download that is not whole yet: locked while it is written, taken over once it is left."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO

from ..files import files_named

PART_SUFFIX = ".part"

LOOKED_AT_SECONDS = 2.0
"""For how long at most others lock a file that they do not write; suspended ones may take longer."""

if sys.platform == "win32":

    def try_lock(file: BinaryIO) -> bool | None:
        # A file that is open can't be renamed or removed there.
        return True

else:
    import fcntl

    def try_lock(file: BinaryIO) -> bool | None:
        """Lock an open file; False where somebody else has, None where its file system has no locks."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True


class PartFile:
    """The bytes received so far, and beside them the validator of the version they belong to.

    It is open and locked from its first byte here until it is closed, renamed or removed. So others tell it
    from one that was left behind, however long its process is suspended. All functions block, and may be
    called from any thread.

    Attributes:
        size: The bytes on disk.
        was_continued: They came over several connections.
        is_inherited: The first of them are those of a process that may have died while it wrote.
        validator: Of their version, for If-Range.
    """

    def __init__(self, dest_stem: Path) -> None:
        self.path = dest_stem.with_name(f"{dest_stem.name}{PART_SUFFIX}")
        self.size = 0
        self.was_continued = False
        self.is_inherited = False
        self.validator: str | None = None
        self._dest_stem = dest_stem
        self._notes = notes_of(self.path)
        self._in_doubt = True  # until this process knows the version of the bytes
        self._lock = threading.RLock()
        self._file: BinaryIO | None = None

    def prepare(self) -> int:
        """The bytes to continue from; those of an earlier process count only if their version is known.

        Raises:
            OSError: It can't be written, or somebody else writes it.
        """
        with self._lock:
            if self._file is None and not self.path.exists():
                self.size = 0
                return 0
            file = self._opened()
            if self._in_doubt:
                self._in_doubt = False
                try:
                    self.validator = json.loads(self._notes.read_text())["validator"]
                except (FileNotFoundError, ValueError, KeyError, TypeError):
                    self.validator = None
                if self.validator is None:
                    file.truncate(0)
                self.is_inherited = os.fstat(file.fileno()).st_size > 0
            self.size = os.fstat(file.fileno()).st_size
            return self.size

    def begin(self, content: bytes = b"", validator: str | None = None) -> None:
        """Start a new version."""
        with self._lock:
            self._opened().truncate(0)
            self._in_doubt = False
            self.was_continued = False
            self.is_inherited = False
            self.validator = validator
            self.size = 0
            self._notes.write_text(json.dumps({"validator": validator}))
            self.write(content)

    def write(self, content: bytes) -> None:
        """Append bytes."""
        with self._lock:
            file = self._opened()
            file.seek(self.size)
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            self.size += len(content)

    def close(self) -> None:
        """Leave it to whoever continues it; an empty one is removed."""
        with self._lock:
            if self._file is not None and not self.size:
                self.remove()
            self._close()

    def remove(self) -> None:
        """Remove it; another `prepare` begins anew."""
        with self._lock:
            if sys.platform == "win32":
                self._close()
            self.path.unlink(missing_ok=True)
            self._notes.unlink(missing_ok=True)
            self._close()
            self.size = 0
            self.is_inherited = False
            self.validator = None

    def move_to(self, suffix: str) -> Path:
        """Rename it to its final name, with the suffix of its format."""
        final = self._dest_stem.with_name(self._dest_stem.name + suffix)
        with self._lock:
            if sys.platform == "win32":
                self._close()
            self.path.replace(final)
            self._notes.unlink(missing_ok=True)
            self._close()
        return final

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        give_up_at = monotonic() + LOOKED_AT_SECONDS
        while self._file is None:
            self._file = _open_locked(self.path, is_own=True)
            if self._file is None:
                # Somebody looks at it, to continue or to sweep it, and has it for a moment.
                if monotonic() > give_up_at:
                    raise BlockingIOError(errno.EAGAIN, "another program writes it")
                sleep(0.01)
        return self._file


def take_over(dest_stem: Path, private_stem: Path) -> None:
    """Rename what somebody left of a download, ``<dest_stem>.*.part``, to continue it. Blocking.

    Where the folder can't be read, the download begins anew.
    """
    taken = private_stem.with_name(f"{private_stem.name}{PART_SUFFIX}")
    left: list[Path] = []
    with suppress(OSError):
        left = files_named(dest_stem.parent, f"{dest_stem.name}.", PART_SUFFIX)
    for part in left:
        with suppress(OSError):
            # Without notes it can't be continued; whoever begins a file locks it before it has any.
            if notes_of(part).exists() and (file := _open_locked(part)) is not None:
                with file:
                    notes_of(part).rename(notes_of(taken))
                    _close_on_windows(file)
                    part.rename(taken)
                return


def remove_left(part: Path) -> bool:
    """Remove an unfinished file that nobody writes just now; False where it stays. Blocking."""
    try:
        if (file := _open_locked(part)) is None:
            return False
        with file:
            _close_on_windows(file)
            part.unlink()
            notes_of(part).unlink(missing_ok=True)
    except OSError:
        return False
    return True


def notes_of(part: Path) -> Path:
    """The file beside a partial download that tells its version."""
    return part.with_name(f"{part.name}.json")


def _open_locked(path: Path, *, is_own: bool = False) -> BinaryIO | None:
    """The file, locked; None where somebody else has it, or has just renamed or removed it.

    Args:
        is_own: Make it where it is missing, and do without a lock where there are none.
    """
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | (os.O_CREAT if is_own else 0)
    file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    try:
        is_locked = try_lock(file)
        if (is_locked or (is_own and is_locked is None)) and _is_at(path, file):
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _close_on_windows(file: BinaryIO) -> None:
    # Which renames and removes nothing that is open.
    if sys.platform == "win32":
        file.close()
