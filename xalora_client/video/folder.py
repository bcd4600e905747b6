"""A clip's folder below ``state_dir``: what is known of its frames, and the segments that are written.

A segment counts once its video file has its lasting name; what is known of its frames was written before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from time import time
from typing import Any

from ..errors import ConfigurationError
from ..files import draft_of, files_named, settle
from ..journal.process_locks import Guard
from .plan import MadeFrame

VIDEOS_FOLDER = "videos"
STALE_SECONDS = 30 * 24 * 3600.0
"""The age at which a clip's folder goes that nobody has continued."""

_LOCK = "lock"


class ClipFolder:
    """The folder of one clip.

    Args:
        root: The folder of all clips.
        key: Names the clip, the network and the options that its frames depend on.
    """

    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self.path = root / key

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder for this call alone; others' old ones are removed.

        Raises:
            ConfigurationError: Another call, or process, upscales the same clip.
            OSError: It can't be made.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        guard = Guard(self.path / _LOCK, 0.0)
        try:
            guard.__enter__()
        except OSError as error:
            raise ConfigurationError(
                "The same clip is being upscaled by another call or process",
                next_step="Wait until that has ended.",
            ) from error
        try:
            self._remove_stale()
            yield
        finally:
            guard.__exit__()

    def _remove_stale(self) -> None:
        with suppress(OSError):
            (self.path / _LOCK).touch()
            for other in self._root.iterdir():
                with suppress(OSError):
                    if time() - (other / _LOCK).stat().st_mtime > STALE_SECONDS:
                        with Guard(other / _LOCK, 0.0):
                            shutil.rmtree(other, ignore_errors=True)

    # --- the clip's frames ----------------------------------------------------------------------------------

    def begun(self) -> tuple[tuple[str, ...], int | None] | None:
        """What :meth:`begin` noted; None where that is not there."""
        read = _read(self.path / "frames.json")
        return (tuple(read["digests"]), read["sent_before"]) if isinstance(read, dict) else None

    def begin(self, digests: Sequence[str], sent_before: int | None) -> None:
        """Note the digests of all frames, so that the clip is looked through once.

        Args:
            sent_before: How many tasks earlier calls have sent for the same clip, and were done with.
        """
        _write(self.path / "frames.json", {"digests": list(digests), "sent_before": sent_before})

    # --- segments -------------------------------------------------------------------------------------------

    def segment(self, number: int) -> Path:
        """Where the video of a segment lies."""
        return self.path / f"{number:06}.mp4"

    def written(self) -> int:
        """How many segments are written, from the first on."""
        number = 0
        while self.segment(number).exists():
            number += 1
        return number

    def note(
        self,
        number: int,
        size: tuple[int, int],
        made: Sequence[MadeFrame],
        records: Sequence[tuple[int | None, str]],
    ) -> None:
        """Note how the frames of a segment were made, before its video gets its name.

        Args:
            records: Ids, and job ids, of the records whose results may go then.
        """
        notes = {"size": size, "made": [asdict(frame) for frame in made], "records": list(records)}
        _write(self._notes(number), notes)

    def noted(self, written: int) -> tuple[tuple[int, int] | None, list[MadeFrame]]:
        """The size of the written segments' frames, and how each was made."""
        size: tuple[int, int] | None = None
        made: list[MadeFrame] = []
        for number in range(written):
            read = _read(self._notes(number))
            if isinstance(read, dict):
                size = (int(read["size"][0]), int(read["size"][1]))
                made += [MadeFrame(**frame) for frame in read["made"]]
        return size, made

    def records(self, number: int) -> list[tuple[int, str]]:
        """The records whose results may go, as that segment is written."""
        read = _read(self._notes(number))
        pairs = read["records"] if isinstance(read, dict) else []
        return [(int(record_id), str(job_id)) for record_id, job_id in pairs if record_id is not None]

    def _notes(self, number: int) -> Path:
        return self.path / f"{number:06}.json"

    # --- frames that this machine made ----------------------------------------------------------------------

    def here(self, digest: str) -> tuple[Path, str] | None:
        """A frame that this machine made, and by which engine; None where it did not."""
        for path in files_named(self.path, f"here-{digest}-"):
            return path, path.stem.rpartition("-")[2]
        return None

    def keep_here(self, digest: str, engine: str, file: Path) -> Path:
        """Keep a frame that this machine made, so that the network is not asked for it again."""
        kept = self.path / f"here-{digest}-{engine}{file.suffix}"
        with draft_of(kept) as draft:
            shutil.copyfile(file, draft)
            settle(draft, kept)
        file.unlink(missing_ok=True)
        return kept

    def drop_here(self, digest: str) -> None:
        """Remove such a frame: its segment is written."""
        for path in files_named(self.path, f"here-{digest}-"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it; the clip is written to where the user wants it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write(path: Path, value: Any) -> None:
    with draft_of(path) as draft:
        draft.write_text(json.dumps(value), encoding="utf-8")
        settle(draft, path)
