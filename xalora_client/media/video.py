"""Decoding of video files to numpy arrays, all frames or a range of them.

The array is allocated once and filled in place: one thread decodes, a second converts to RGB and scales.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from ..errors import STILL_RETRIEVABLE, ResultFormatError
from .containers import BrokenMediaError, check_video_container
from .image_files import check_pixel_count
from .images import FloatImages, too_large
from .limits import TooLargeError, check_frames, check_memory

_FRAMES_IN_FLIGHT = 4
_USUAL_FPS = 24.0
# Numbered alike by FFmpeg's codecs and its scaler: BT.709, FCC, SMPTE 240M, BT.2020.
_OTHER_MATRICES = frozenset({1, 4, 7, 9})


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
    _turn: _Turn = field(repr=False)

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
        try:
            check_frames(count, math.prod(shape))
            check_memory(shape)
        except TooLargeError as error:
            raise too_large(f"{count} frames of the video {self.path.name}", error) from error
        batch: FloatImages = np.empty(shape, np.float32)
        if count == 0:
            return batch
        written = 0
        write_rgb = _RgbWriter(self._turn)
        with _opened(self.path) as (container, stream), ThreadPoolExecutor(1, "xalora-video") as scaler:
            pending: deque[Future[None]] = deque()
            for frame in islice(self._decoded_from(container, stream, first), count):
                # The scaler lags a few frames at most, which bounds the memory.
                if len(pending) == _FRAMES_IN_FLIGHT:
                    pending.popleft().result()
                pending.append(scaler.submit(write_rgb, frame, batch[written]))
                written += 1
            for future in pending:
                future.result()
        if written < count:
            raise broken_video(self.path, f"it ends after {first + written} of {self.frame_count} frames")
        return batch

    def verify(self) -> None:
        """Decode the whole file once, holding one frame at a time.

        Raises:
            ResultFormatError: A frame is missing or damaged.
        """
        decoded = 0
        with _opened(self.path) as (container, stream):
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise broken_video(self.path, f"frame {decoded} is damaged")
                decoded += 1
        if decoded < self.frame_count:
            raise broken_video(self.path, f"it ends after {decoded} of {self.frame_count} frames")

    def _decoded_from(
        self, container: InputContainer, stream: VideoStream, first: int
    ) -> Iterator[av.VideoFrame]:
        if first == 0:
            yield from container.decode(stream)
            return
        container.seek(self._index.seek_time(first), stream=stream, backward=True)
        wanted = self._index.times[first]
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= wanted:
                yield frame


def open_video(path: str | os.PathLike[str]) -> VideoFile:
    """Read the header and the frame index of a video file (MP4, WebM), and its first frame's display matrix.

    Raises:
        ResultFormatError: It is no readable video, or its end is missing.
        OSError: The file can't be opened.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            check_video_container(file)
        with _opened(path) as (container, stream):
            width, height = stream.codec_context.width, stream.codec_context.height
            check_pixel_count(width, height)
            promised, rate = stream.frames, stream.average_rate
            has_audio = bool(container.streams.audio)
            duration = _seconds(container, stream)
            index, packets = _read_index(container, stream)
            check_frames(packets, 0)
        turn = _read_turn(path)
    except TooLargeError as error:
        raise too_large(f"The video {path.name}", error) from error
    except BrokenMediaError as error:
        raise broken_video(path, str(error)) from error
    frame_count = len(index.times)
    if packets < promised:
        raise broken_video(path, f"it holds {packets} of {promised} frames")
    if width <= 0 or height <= 0 or frame_count == 0:
        raise broken_video(path, "it holds no frames")
    fps = float(rate) if rate else frame_count / duration if duration else _USUAL_FPS
    if turn.swaps_axes:
        width, height = height, width
    seconds = duration or frame_count / fps
    return VideoFile(path, width, height, fps, frame_count, seconds, has_audio, _index=index, _turn=turn)


def has_picture(path: Path) -> bool:
    """Whether a video container holds more than sound and a cover; True where it can't be read."""
    try:
        with av.open(str(path)) as container:
            return any(not _is_cover(stream) for stream in container.streams.video)
    except av.FFmpegError:
        return True


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


@dataclass(frozen=True)
class _Turn:
    """How a stored frame becomes upright: axes swapped first, then rows and columns flipped."""

    swaps_axes: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def __call__(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of ``[H, W, C]``, upright."""
        if self.swaps_axes:
            frame = frame.swapaxes(0, 1)
        return frame[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]


def _read_turn(path: Path) -> _Turn:
    """The turn that the first frame's display matrix asks for, to a multiple of a right angle."""
    matrix: Any = None
    # A damaged first frame is found by whoever decodes it.
    with suppress(ResultFormatError), _opened(path) as (container, stream):
        for frame in container.decode(stream):
            matrix = frame.side_data.get("DISPLAYMATRIX")
            break
    if matrix is None:
        return _Turn()
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Turn(True, flips_rows=b < 0, flips_columns=c < 0)
    return _Turn(False, flips_rows=d < 0, flips_columns=a < 0)


@dataclass(frozen=True)
class _FrameIndex:
    """Times of the frames in display order, in the stream's time base, and numbers of the key frames."""

    times: tuple[int, ...]
    key_frames: tuple[int, ...]

    def seek_time(self, frame: int) -> int:
        """The time of the last key frame at or before ``frame``."""
        place = bisect_right(self.key_frames, frame) - 1
        return self.times[self.key_frames[place] if place >= 0 else 0]


class _RgbWriter:
    """Converts a decoded frame to RGB, scales it and turns it into its place in the array."""

    def __init__(self, turn: _Turn) -> None:
        self._reformatter = VideoReformatter()
        self._turn = turn

    def __call__(self, frame: av.VideoFrame, out: FloatImages) -> None:
        height, width = out.shape[1::-1] if self._turn.swaps_axes else out.shape[:2]
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", **_colour_arguments(frame))
        plane = rgb.planes[0]
        pixels: npt.NDArray[np.uint8] = np.ndarray(
            (height, width, 3), np.uint8, memoryview(plane), strides=(plane.line_size, 3, 1)
        )
        np.divide(self._turn(pixels), 255, out=out, dtype=np.float32)


def _colour_arguments(frame: av.VideoFrame) -> dict[str, int]:
    """The colour arguments that PyAV before 17 needs; without them it takes every matrix for BT.601's."""
    if frame.colorspace not in _OTHER_MATRICES:
        return {}
    return {
        "src_colorspace": frame.colorspace,
        "dst_colorspace": Colorspace.DEFAULT,
        "src_color_range": frame.color_range or ColorRange.MPEG,
        "dst_color_range": ColorRange.JPEG,
    }


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a container and its first video stream; PyAV's errors become ResultFormatError."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise broken_video(path, "it holds no picture, only sound")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"  # PyAV before 18 decodes on one thread by default
            yield container, stream
    except FileNotFoundError:
        raise
    except av.FFmpegError as error:
        raise broken_video(path, f"{error.strerror or error}") from error


def _read_index(container: InputContainer, stream: VideoStream) -> tuple[_FrameIndex, int]:
    """The index of the displayed frames, and the number of packets, those not displayed included."""
    shown: list[tuple[int, bool]] = []
    packets = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        packets += 1
        time = packet.pts if packet.pts is not None else packet.dts
        if not packet.is_discard:
            shown.append((time if time is not None else len(shown), packet.is_keyframe))
    shown.sort()
    times = tuple(time for time, _ in shown)
    return _FrameIndex(times, tuple(place for place, (_, is_key) in enumerate(shown) if is_key)), packets


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def broken_video(path: Path, reason: str) -> ResultFormatError:
    """The error for a video or an animation that can't be read; ``reason`` is a clause about it."""
    return ResultFormatError(
        f"The video {path.name} can't be read: {reason}",
        money=STILL_RETRIEVABLE,
        next_step="Download it again; if it stays broken, the miner wrote it so.",
    )
