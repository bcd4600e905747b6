"""The folder of kept results: names, sizes, removal. Which one has to go is the journal's decision."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..errors import STILL_RETRIEVABLE, JournalError
from ..media.sniff import ANIMATION_SUFFIXES, video_made_of

logger = logging.getLogger("xalora_client.journal")

KeptFile = tuple[str, int]
"""A file's name relative to the folder, with forward slashes, and its size in bytes."""


class KeptResults:
    """The folder `root`; names in the journal are relative to it, so that it can be moved as a whole."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stem(self, record_id: int, job_id: str) -> Path:
        """Where a task's files go, without suffix: unique even after the journal was started anew."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", job_id).strip("._")[:80] or "task"
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / f"{readable}-{record_id}"

    def describe(self, files: Iterable[Path]) -> list[KeptFile]:
        """Names and sizes of `files`, which must exist in the folder.

        Raises:
            JournalError: One is missing or lies elsewhere.
        """
        described: list[KeptFile] = []
        for file in files:
            try:
                name = file.resolve().relative_to(self.root.resolve()).as_posix()
                described.append((name, file.stat().st_size))
            except (OSError, ValueError) as error:
                raise JournalError(
                    f"{file} can't be journaled as a kept result: {error}",
                    money=STILL_RETRIEVABLE,
                    next_step=f"Result files belong into {self.root}.",
                ) from error
        return described

    def intact(self, files: Sequence[KeptFile]) -> bool:
        """Whether there are any, and all are there in their full size."""
        return bool(files) and all(self._size(name) == size for name, size in files)

    def size(self, files: Sequence[KeptFile]) -> int:
        """The bytes of `files` and of the videos that were made of them."""
        made = (self._size(video) or 0 for name, _ in files for video in _made_of(name))
        return sum(size for _, size in files) + sum(made)

    def remove(self, files: Sequence[KeptFile]) -> bool:
        """Removes `files`, and the videos that were made of them.

        Returns:
            False where one is held open by another program (Windows) and stays.
        """
        for kept, _ in files:
            for name in (*_made_of(kept), kept):
                try:
                    self._path(name).unlink(missing_ok=True)
                except OSError as error:
                    logger.info("Kept result %s stays for now: %s", name, error)
                    return False
        return True

    def remove_all(self, of_records: Sequence[tuple[str, Sequence[KeptFile]]]) -> None:
        """Removes the files of records that are gone, named by their stems, and unfinished downloads."""
        if not of_records:
            return
        partial = [path.name for path in self.root.glob("*part*")]
        for stem, files in of_records:
            begun = [name for name in partial if name.startswith((f"{stem}.", f"{stem}-"))]
            self.remove([*files, *((name, 0) for name in begun)])

    def _path(self, name: str) -> Path:
        return self.root / PurePosixPath(name)

    def _size(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_size
        except OSError:
            return None


def _made_of(name: str) -> tuple[str, ...]:
    """The name of the video that may have been made of an animation, which no row knows of."""
    path = PurePosixPath(name)
    return (video_made_of(path).as_posix(),) if path.suffix in ANIMATION_SUFFIXES else ()
