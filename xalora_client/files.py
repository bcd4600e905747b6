"""Files that appear whole: drafts beside their place, renames that are safe on disk, and digests of files."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

_BLOCK_BYTES = 1024 * 1024

LONGEST_NAME = 200
"""Bytes of the file's name that its draft repeats; file systems allow 255."""

Rename: TypeAlias = Callable[[Path, Path], Path]
"""Renames a whole draft to its place, or to another one in that folder; returns which."""


@contextmanager
def draft_of(place: Path, mode: int = 0o666) -> Iterator[Path]:
    """An empty file of a new name in the folder of `place`; removed at the end unless the body renames it.

    ``draft.replace(place)`` at the body's end makes readers see the old file or the new one, whole.

    Args:
        mode: Permissions of the draft, and so of the file; less the process's umask.
    """
    name = place.name.encode(errors="ignore")[:LONGEST_NAME].decode(errors="ignore")
    draft = place.with_name(f".{name}.{secrets.token_hex(4)}.part")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_whole(place: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Write a file that appears whole; a link in its place is replaced, not followed. Blocking."""
    with draft_of(place, mode) as draft:
        draft.write_bytes(data.encode() if isinstance(data, str) else data)
        draft.replace(place)


def write_private(place: Path, data: bytes | str) -> None:
    """The same for a file that only its user can read. Blocking."""
    write_whole(place, data, 0o600)


def settle_if_free(draft: Path, place: Path) -> None:
    """Give a whole draft its final name, which no other file has. Blocking.

    Raises:
        FileExistsError: The name is taken.
    """
    try:
        # In one step: killed in between, a program would leave an empty file that counts as the result.
        place.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:
        # There are no hard links on FAT and some shares.
        place.open("xb").close()
        draft.replace(place)


def settle(draft: Path, place: Path, rename: Rename = Path.replace) -> Path:
    """Rename a whole draft to its final name, safely on disk on return; returns that. Blocking."""
    with draft.open("r+b") as file:
        os.fsync(file.fileno())
    settled = rename(draft, place)
    sync_folder(settled.parent)
    return settled


def sync_folder(folder: Path) -> None:
    """Have a folder's names safely on disk on return; Windows does not need it. Blocking."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_named(folder: Path, beginning: str, end: str = "") -> list[Path]:
    """The files of a folder whose names begin and end so; none where there is no folder. Blocking.

    For names that occur once: a pattern is compiled, and kept, each time.

    Raises:
        OSError: It can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    # What both take may not overlap.
    names = [name for name in names if name.startswith(beginning) and name[len(beginning) :].endswith(end)]
    return [folder / name for name in names]


def digest_of(path: Path) -> str:
    """A digest of a file's bytes. Blocking.

    Raises:
        OSError: It can't be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
