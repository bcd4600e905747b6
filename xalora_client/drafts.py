"""Draft files: written beside the place of a file, and renamed to its name once they are whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_NAME = 200
"""Bytes of the file's name that its draft repeats; file systems allow 255."""


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
