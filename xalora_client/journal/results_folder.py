"""The folder of kept results: names, sizes, removal. Which one has to go is the journal's decision."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from time import monotonic, time

from ..errors import NOTHING_CHARGED, STILL_RETRIEVABLE, JournalError
from ..files import digest_of
from ..media.media_types import ANIMATION_SUFFIXES, converted_video_path
from ..transfer.part_file import notes_of, remove_left
from .database import explained

logger = logging.getLogger("xalora_client.journal")

KeptFile = tuple[str, int, str]
"""A file's name relative to the folder, with forward slashes, its size in bytes, and its digest."""

ROOM_BYTES = 32 * 2**20
"""Free disk space without which no task is sent: its result would have no place."""

LOOKED_SECONDS = 0.5
"""How long a look that found room counts: hundreds of tasks may begin at once, and each look writes."""

DRAFT_SECONDS = 90.0
"""The age at which an unfinished file that is no download, and so has no lock, counts as left."""

STALE_SECONDS = 7 * 24 * 3600.0
"""The age at which a partial download goes although there is room for it: nobody has continued it."""

# Downloads under way, the notes beside them, and whole files that did not get their lasting name.
_UNFINISHED = re.compile(r"\.part(\.json)?$|\.[0-9a-f]{8}\.[a-z0-9]+$")
_PROBE_BYTES = 256 * 1024


class KeptResults:
    """The folder `root`; names in the journal are relative to it, so that it can be moved as a whole."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._had_room_at = -LOOKED_SECONDS

    def stem(self, record_id: int | None, job_id: str) -> Path:
        """Where a job's files belong, without suffix; for several, append ``-0``, ``-1`` ...

        The name follows from the record, so that whoever takes it up finds files whose note was lost. It is
        unique even after the journal was started anew.

        Raises:
            JournalError: The folder can't be made.
        """
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", job_id).strip("._")[:80] or "task"
        with explained(self.root, STILL_RETRIEVABLE):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.root / (readable if record_id is None else f"{readable}-{record_id}")

    def refusal(self) -> JournalError | None:
        """Why no result could be stored now, None where one can, or could just now. Blocking."""
        began = monotonic()
        if began - self._had_room_at < LOOKED_SECONDS:
            return None
        try:
            with explained(self.root, NOTHING_CHARGED):
                self.check_room()
        except JournalError as error:
            return error
        self._had_room_at = began
        return None

    def check_room(self) -> None:
        """Check that a result can be stored: the folder can be made and written, and the disk has room.

        Raises:
            OSError: It can't.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".room-", dir=self.root)
        try:
            with os.fdopen(descriptor, "wb") as probe:
                # Quotas and some network disks tell of a lack of room only at a write.
                probe.write(bytes(_PROBE_BYTES))
                probe.flush()
        finally:
            Path(name).unlink()
        free = shutil.disk_usage(self.root).free
        if free < ROOM_BYTES:
            raise OSError(errno.ENOSPC, f"only {free // 2**20} MB free, {ROOM_BYTES // 2**20} MB needed")

    def describe(self, files: Iterable[Path]) -> list[KeptFile]:
        """Name, size and digest of `files`, which must exist in the folder. Blocking: it reads them.

        Raises:
            JournalError: One is missing or lies elsewhere.
        """
        described: list[KeptFile] = []
        for file in files:
            try:
                name = file.resolve().relative_to(self.root.resolve()).as_posix()
                described.append((name, file.stat().st_size, digest_of(file)))
            except (OSError, ValueError) as error:
                raise JournalError(
                    f"{file} can't be journaled as a kept result: {error}",
                    money=STILL_RETRIEVABLE,
                    next_step=f"Result files belong into {self.root}.",
                ) from error
        return described

    def are_there(self, files: Sequence[KeptFile]) -> bool:
        """Whether all have their full size."""
        return all(self._size(name) == size for name, size, *_ in files)

    def size(self, files: Sequence[KeptFile]) -> int:
        """The bytes of `files` and of the videos that were made of them."""
        made = (self._size(video) or 0 for name, *_ in files for video in _made_of(name))
        return sum(size for _, size, *_ in files) + sum(made)

    def remove(self, files: Sequence[KeptFile]) -> bool:
        """Removes `files`, and the videos that were made of them.

        Returns:
            False where one is held open by another program (Windows) and stays.
        """
        for kept, *_ in files:
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
            begun = [name for name in partial if name.lstrip(".").startswith((f"{stem}.", f"{stem}-"))]
            self.remove([*files, *((name, 0, "") for name in begun)])

    def part_sizes(self) -> dict[Path, int]:
        """The files of unfinished downloads and their bytes, the oldest first."""
        found: list[tuple[float, int, Path]] = []
        with suppress(OSError), os.scandir(self.root) as entries:
            for entry in entries:
                if _UNFINISHED.search(entry.name):
                    with suppress(OSError):
                        stat = entry.stat(follow_symlinks=False)
                        found.append((stat.st_mtime, stat.st_size, Path(entry.path)))
        parts = {notes_of(path) for _, _, path in found}
        # The notes of a part go with it.
        return {path: size for _, size, path in sorted(found) if path not in parts}

    def remove_left(self, part: Path, age: float = 0.0) -> bool:
        """Removes a file of an unfinished download if it has that age in seconds; False where it stays."""
        try:
            # What has no notes is no download, and no lock tells whether somebody writes it.
            least = age if notes_of(part).exists() else max(age, DRAFT_SECONDS)
            if time() - part.stat().st_mtime < least:
                return False
        except OSError:
            return False
        return remove_left(part)

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
    return (converted_video_path(path).as_posix(),) if path.suffix in ANIMATION_SUFFIXES else ()
