"""Folders that are costly to make, kept for every clone of this user."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import say


def cache_folder() -> Path:
    """`$XALORA_DEV_CACHE`, else `xalora-dev` in the user's cache folder."""
    if own := os.environ.get("XALORA_DEV_CACHE"):
        return Path(own).expanduser().resolve()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "xalora-dev"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xalora-dev"


def fingerprint(*parts: str) -> str:
    """Twelve hex digits that change with any part."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; another process that wants it waits, and says so. A dead process holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another run that makes {what}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Cached:
    """One folder, whole or not there: its `.complete` file is written last, and without it all starts anew.

    It is made where it stays, since virtual environments cannot be moved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def complete(self) -> bool:
        return (self.folder / ".complete").is_file()

    @contextmanager
    def being_made(self) -> Iterator[Path | None]:
        """Gives the empty folder to fill, or None when it is complete already."""
        if self.complete:
            yield None
            return
        with locked(self.folder.with_name(self.folder.name + ".lock"), self.folder.name):
            # Another run may have made it while this one waited.
            if self.complete:
                yield None
                return
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            yield self.folder
            (self.folder / ".complete").touch()

    def discard(self) -> None:
        """Have it made anew the next time."""
        (self.folder / ".complete").unlink(missing_ok=True)
