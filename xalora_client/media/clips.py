"""Video clips of the user's, of any length: their frames one by one, their times, and how they look.

Unlike :mod:`.video` nothing is collected: a worker process decodes, and holds a few frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputImageError
from . import workers
from .containers import BrokenMediaError
from .media_types import MediaKind, sniff_clip


@dataclass(frozen=True)
class Colours:
    """How a video says its colours are to be read: numbers of ITU-T H.273, but for the range.

    Args:
        matrix: From RGB to luma and chroma; 2 where the file does not say.
        primaries, transfer: The same; 2 where the file does not say.
        range: FFmpeg's: 1 video (16..235), 2 full, 0 where the file does not say.
    """

    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    range: int = 0


@dataclass(frozen=True)
class Clip:
    """A video file, read by :func:`open_clip`.

    Attributes:
        path: The file.
        width, height: Pixels, upright: turned as its display matrix says.
        times: When each frame is shown, in order, in units of ``time_base``; each later than the one before.
        durations: For how long, in the same units.
        time_base: Seconds.
        bits: Of a sample; frames have 8 whatever this is.
        has_alpha: Whether parts of it are transparent; frames have no alpha whatever this is.
        aspect: Width of a pixel to its height; 0 where the file does not say.
        has_audio: Whether there is a sound track.
    """

    path: Path
    width: int
    height: int
    times: tuple[int, ...]
    durations: tuple[int, ...]
    time_base: Fraction
    bits: int
    has_alpha: bool
    colours: Colours
    aspect: Fraction
    has_audio: bool
    key_frames: tuple[int, ...]
    turn: tuple[bool, ...]
    kind: MediaKind
    shown_at: tuple[int, ...]

    @property
    def frame_count(self) -> int:
        """How many frames there are."""
        return len(self.times)

    def seconds(self, frame: int) -> float:
        """When a frame is shown, from the first one on."""
        return float((self.times[frame] - self.times[0]) * self.time_base)

    def frames(self, start: int = 0) -> Iterator[npt.NDArray[np.uint8]]:
        """Decode the frames from ``start`` on, in the order they are shown; the caller may take its time.

        Returns:
            uint8 ``[H, W, 3]``, RGB, upright, one after another.

        Raises:
            InputImageError: A frame can't be decoded, or the file ends early.
        """
        seek = [self.shown_at[frame] for frame in self.key_frames if frame <= start]
        written = start
        try:
            for pixels in workers.streamed(
                "video_frames",
                self.path,
                kind=self.kind.value,
                seek=seek[-1] if start and seek else None,
                since=self.shown_at[start] if start else self.shown_at[0],
                count=self.frame_count - start,
                size=(self.width, self.height),
                turn=self.turn,
                exact=True,
            ):
                yield pixels
                written += 1
        except BrokenMediaError as error:
            raise _broken(self.path, str(error)) from error
        if written < self.frame_count:
            raise _broken(self.path, f"it ends after {written} of {self.frame_count} frames")


def open_clip(path: Path) -> Clip:
    """Read the index of a video file: MP4, MOV, WebM or Matroska. Blocking.

    Raises:
        InputImageError: It is no readable video, or its end is missing.
    """
    try:
        kind = sniff_clip(path)
        if kind is None:
            raise BrokenMediaError("it is no MP4, MOV, WebM or Matroska video")
        read: dict[str, Any] = workers.ask("video", path, kind=kind.value)
    except BrokenMediaError as error:
        raise _broken(path, str(error)) from error
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    width, height = read["size"]
    times = _increasing(read["times"])
    gaps = [after - before for before, after in pairwise(times)]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 1
    aspect = Fraction(*read["aspect"])
    return Clip(
        path=path,
        width=width,
        height=height,
        times=times,
        durations=(*gaps, read["last_duration"] or usual),
        time_base=Fraction(*read["time_base"]),
        bits=read["bits"],
        has_alpha=read["has_alpha"],
        colours=Colours(*read["colours"]),
        aspect=1 / aspect if aspect and read["turn"][0] else aspect,
        has_audio=read["has_audio"],
        key_frames=tuple(read["key_frames"]),
        turn=tuple(read["turn"]),
        kind=kind,
        shown_at=tuple(read["times"]),
    )


def _increasing(times: Sequence[int]) -> tuple[int, ...]:
    """The times, of which none is that of the frame before: containers take no two frames at once."""
    increasing: list[int] = []
    for time in times:
        increasing.append(time if not increasing else max(time, increasing[-1] + 1))
    return tuple(increasing)


def _broken(path: Path, reason: str) -> InputImageError:
    return InputImageError(
        f"The video {os.fspath(path)!r} can't be used: {reason}",
        next_step="Give a video that plays, such as MP4, MOV, WebM or MKV.",
    )
