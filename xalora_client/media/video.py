"""Video files as numpy arrays, all frames or a range of them; worker processes decode them.

The array is allocated once and filled in place while the next frames are decoded.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import STILL_RETRIEVABLE, ResultFormatError
from . import workers
from .containers import BrokenMediaError
from .images import FloatImages, too_large
from .limits import PixelLimits, TooLargeError, allocate, check_frames, in_force, using
from .media_types import MediaKind, sniff_file


@dataclass(frozen=True)
class VideoFile:
    """A video on disk. Its pixels are read by :meth:`frames`.

    Attributes:
        path: The file.
        width: Pixels, as players show it: turned as its display matrix says.
        height: Pixels.
        fps: Frames per second, the average where the rate varies.
        frame_count: How many frames :meth:`frames` gives.
        duration: Seconds.
        has_audio: Whether there is a sound track (it is not decoded).
    """

    path: Path
    width: int
    height: int
    fps: float
    frame_count: int
    duration: float
    has_audio: bool
    _index: _FrameIndex = field(repr=False)
    _turn: tuple[bool, ...] = field(repr=False)
    _kind: MediaKind = field(repr=False)
    in_use: object = field(default=None, repr=False, compare=False)
    """Keeps the file where it is while this object lives, for a video of a result."""
    _limits: PixelLimits = field(default_factory=in_force, repr=False, compare=False)

    def frames(self, start: int = 0, stop: int | None = None) -> FloatImages:
        """Decode frames ``start`` up to, and without, ``stop``, in the order they are shown.

        Decoding starts at the last key frame at or before ``start``, and ends at ``stop``.

        Args:
            start: The first frame; negative counts from the end, as in a slice.
            stop: The frame after the last; None for the end.

        Returns:
            float32 ``[N, H, W, 3]`` in 0..1, equal to each frame's RGB bytes divided by 255, upright.

        Raises:
            ResultFormatError: A frame can't be decoded, or the file ends early.
        """
        first, last, _ = slice(start, stop).indices(self.frame_count)
        count = max(0, last - first)
        shape = (count, self.height, self.width, 3)
        if count == 0:
            return np.empty(shape, np.float32)
        written = 0
        with errors_of_video(self.path), using(self._limits):
            check_frames(count, math.prod(shape))
            batch = allocate(shape)
            arriving = workers.images(
                "video_frames",
                self.path,
                kind=self._kind.value,
                seek=self._index.seek_time(first) if first else None,
                since=self._index.times[first],
                count=count,
                size=(self.width, self.height),
                turn=self._turn,
            )
            for target, frame in zip(batch, arriving, strict=False):
                frame.write_to(target)
                written += 1
            if written < count:
                raise BrokenMediaError(f"it ends after {first + written} of {self.frame_count} frames")
        return batch

    def _repr_html_(self) -> str | None:
        from .saving import html_of

        with suppress(OSError, ResultFormatError):
            return html_of([self.path])
        return None

    def verify(self) -> None:
        """Decode the whole file once.

        Raises:
            ResultFormatError: A frame is missing or damaged.
        """
        with errors_of_video(self.path):
            workers.ask("check", self.path, kind=self._kind.value)


def open_video(path: str | os.PathLike[str]) -> VideoFile:
    """Read the header and the frame index of a video file (MP4, WebM), and its first frame's display matrix.

    Raises:
        ResultFormatError: It is no readable video, or its end is missing.
        OSError: The file can't be opened.
    """
    path = Path(path)
    with errors_of_video(path):
        kind = sniff_file(path)
        if kind is None or not kind.is_container:
            raise BrokenMediaError("it is no MP4 or WebM video")
        read = workers.ask("video", path, kind=kind.value)
    width, height = read["size"]
    index = _FrameIndex(tuple(read["times"]), tuple(read["key_frames"]))
    return VideoFile(
        path,
        width,
        height,
        read["fps"],
        len(index.times),
        read["duration"],
        read["has_audio"],
        _index=index,
        _turn=tuple(read["turn"]),
        _kind=kind,
    )


@dataclass(frozen=True)
class _FrameIndex:
    """Times of the frames in display order, in the stream's time base, and numbers of the key frames."""

    times: tuple[int, ...]
    key_frames: tuple[int, ...]

    def seek_time(self, frame: int) -> int:
        """The time of the last key frame at or before ``frame``."""
        place = bisect_right(self.key_frames, frame) - 1
        return self.times[self.key_frames[place] if place >= 0 else 0]


@contextmanager
def errors_of_video(path: Path) -> Iterator[None]:
    """Convert what is wrong with a video or an animation to ResultFormatError."""
    try:
        yield
    except TooLargeError as error:
        raise too_large(f"The video {path.name}", error) from error
    except BrokenMediaError as error:
        raise broken_video(path, str(error)) from error


def broken_video(path: Path, reason: str) -> ResultFormatError:
    """The error for a video or an animation that can't be read; ``reason`` is a clause about it."""
    return ResultFormatError(
        f"The video {path.name} can't be read: {reason}",
        money=STILL_RETRIEVABLE,
        next_step="Download it again; if it stays broken, the miner wrote it so.",
    )
