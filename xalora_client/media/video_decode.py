"""Decoding of video files, inside a worker process: the index of frames, and frames as RGB.

One thread decodes, a second converts to RGB and sends the pixels on.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO, Protocol

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from . import limits
from .containers import BrokenMediaError, check_video_container
from .media_types import MediaKind

_FRAMES_IN_FLIGHT = 4
_USUAL_FPS = 24.0
_MOST_THREADS = 16
# What a decoder holds of frames at once: references, and one for each thread.
_FRAMES_HELD = 24
# FFmpeg has hundreds of decoders, and most of its faults lie in the rare ones. Those of sound are for the
# demuxer, which looks into streams that declare too little; sound is never decoded here.
_PICTURE_DECODERS = (
    *("h264", "hevc", "libdav1d", "libaom-av1", "av1", "vp8", "libvpx", "vp9", "libvpx-vp9"),
    *("mpeg4", "mjpeg", "png", "prores", "ffv1"),
)
_SOUND_DECODERS = ("aac", "mp3float", "mp3", "opus", "libopus", "vorbis", "libvorbis", "flac", "pcm_s16le")
USUAL_CODECS = {"codec_whitelist": ",".join((*_PICTURE_DECODERS, *_SOUND_DECODERS))}

EXACTLY = 0x4 | 0x2000 | 0x40000
"""Flags of FFmpeg's scaler: bicubic, colours in full resolution, round to the nearest."""


class Rows(Protocol):
    """Where the pixels of frames go."""

    def image(self, width: int, height: int, channels: int, maximum: int) -> None: ...

    def rows(self, start: int, block: npt.NDArray[Any]) -> None: ...


class UnreadCodecError(BrokenMediaError):
    """Its pictures have a codec that is not decoded here; it may be intact."""


def read_video(file: BinaryIO, kind: MediaKind) -> dict[str, Any]:
    """Size, rate, frame times, turn and colours of a video, as JSON can hold them.

    Raises:
        BrokenMediaError: It is no readable video, or its end is missing.
        TooLargeError: It declares more than the limits allow.
    """
    check_video_container(file)
    with _opened(file, kind) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        limits.check_frame_size(width, height)
        limits.check_frames(stream.frames, 0)
        _declare(stream, 1)
        promised, rate = stream.frames, stream.average_rate
        has_audio = bool(container.streams.audio)
        duration = _seconds(container, stream)
        context = stream.codec_context
        aspect = context.sample_aspect_ratio
        components = () if context.format is None else context.format.components
        bits = max((part.bits for part in components), default=8)
        # WebM keeps alpha beside the pictures, where the decoder does not look.
        tags = {name.lower(): value for name, value in stream.metadata.items()}
        has_alpha = tags.get("alpha_mode") == "1" or any(part.is_alpha for part in components)
        colours = [context.colorspace, context.color_primaries, context.color_trc, context.color_range]
        shown, packets, last_duration = _read_index(container, stream)
        time_base = stream.time_base or Fraction(1, 1000)
    if packets < promised:
        raise BrokenMediaError(f"it holds {packets} of {promised} frames")
    if width <= 0 or height <= 0 or not shown:
        raise BrokenMediaError("it holds no frames")
    swaps_axes, flips_rows, flips_columns = _read_turn(file, kind)
    fps = float(rate) if rate else len(shown) / duration if duration else _USUAL_FPS
    return {
        "size": (height, width) if swaps_axes else (width, height),
        "fps": fps,
        "duration": duration or len(shown) / fps,
        "has_audio": has_audio,
        "times": [time for time, _ in shown],
        "key_frames": [place for place, (_, is_key) in enumerate(shown) if is_key],
        "turn": (swaps_axes, flips_rows, flips_columns),
        "time_base": (time_base.numerator, time_base.denominator),
        "last_duration": last_duration,
        "bits": bits,
        "has_alpha": has_alpha,
        "colours": [int(number) for number in colours],
        "aspect": (aspect.numerator, aspect.denominator) if aspect else (0, 1),
    }


def write_frames(
    file: BinaryIO,
    kind: MediaKind,
    out: Rows,
    *,
    seek: int | None,
    since: int,
    count: int,
    size: Sequence[int],
    turn: Sequence[bool],
    exact: bool = False,
) -> int:
    """Decode frames in the order they are shown, to RGB of ``size`` (width, height), upright.

    Args:
        seek: The time of the key frame to begin at; None for the start of the file.
        since: The time of the first frame wanted, in the stream's time base.
        count: How many frames to give at most.
        turn: Whether to swap the axes, and then to flip rows and columns.
        exact: Round to the nearest step of RGB; else as FFmpeg does by default, which is a step too dark on
            average.

    Returns:
        How many there were. Raises BrokenMediaError.
    """
    written = 0
    write_rgb = _RgbWriter(size, turn, out, EXACTLY if exact else None)
    with _opened(file, kind) as (container, stream), ThreadPoolExecutor(1, "xalora-video") as scaler:
        _declare(stream, count)
        pending: deque[Future[None]] = deque()
        for frame in islice(_decoded_from(container, stream, seek, since), count):
            # The scaler lags a few frames at most, which bounds the memory.
            if len(pending) == _FRAMES_IN_FLIGHT:
                pending.popleft().result()
            pending.append(scaler.submit(write_rgb, frame))
            written += 1
        for future in pending:
            future.result()
    return written


def verify(file: BinaryIO, kind: MediaKind) -> None:
    """Decode the whole file once, holding one frame at a time. Raises BrokenMediaError.

    Of a codec that is not decoded here the container is checked alone: other programs may play it.
    """
    try:
        frame_count = len(read_video(file, kind)["times"])
    except UnreadCodecError:
        return
    decoded = 0
    with _opened(file, kind) as (container, stream):
        _declare(stream, frame_count)
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise BrokenMediaError(f"frame {decoded} is damaged")
            decoded += 1
            if decoded > limits.FRAMES:
                raise limits.TooLargeError(f"it holds more than {limits.FRAMES} frames")
    if decoded < frame_count:
        raise BrokenMediaError(f"it ends after {decoded} of {frame_count} frames")


def has_picture(file: BinaryIO, kind: MediaKind) -> bool:
    """Whether a video container holds more than sound and a cover; True where it can't be read."""
    try:
        file.seek(0)
        with av.open(file, format=kind.suffix[1:], options=USUAL_CODECS) as container:
            return any(not _is_cover(stream) for stream in container.streams.video)
    except av.FFmpegError:
        return True


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _declare(stream: VideoStream, frames: int) -> None:
    frame_bytes = stream.codec_context.width * stream.codec_context.height * 3
    limits.on_declared(frame_bytes * _FRAMES_HELD, frame_bytes * frames)


def _decoded_from(
    container: InputContainer, stream: VideoStream, seek: int | None, since: int
) -> Iterator[av.VideoFrame]:
    if seek is None:
        yield from container.decode(stream)
        return
    container.seek(seek, stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= since:
            yield frame


def _read_turn(file: BinaryIO, kind: MediaKind) -> tuple[bool, bool, bool]:
    """The turn that the first frame's display matrix asks for, to a multiple of a right angle.

    Axes are swapped first, then rows and columns flipped.
    """
    matrix: Any = None
    # A damaged first frame is found by whoever decodes it.
    with suppress(BrokenMediaError), _opened(file, kind) as (container, stream):
        for frame in container.decode(stream):
            matrix = frame.side_data.get("DISPLAYMATRIX")
            break
    if matrix is None:
        return False, False, False
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


class _RgbWriter:
    """Converts a decoded frame to RGB, scales it, and sends it on upright."""

    def __init__(
        self, size: Sequence[int], turn: Sequence[bool], out: Rows, interpolation: int | None
    ) -> None:
        self._reformatter = VideoReformatter()
        self._interpolation = interpolation
        self._width, self._height = size
        self._swaps_axes, self._flips_rows, self._flips_columns = turn
        self._out = out

    def __call__(self, frame: av.VideoFrame) -> None:
        width, height = self._width, self._height
        if self._swaps_axes:
            width, height = height, width
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=self._interpolation)
        plane = rgb.planes[0]
        pixels: npt.NDArray[np.uint8] = np.ndarray(
            (height, width, 3), np.uint8, memoryview(plane), strides=(plane.line_size, 3, 1)
        )
        if self._swaps_axes:
            pixels = pixels.swapaxes(0, 1)
        pixels = pixels[:: -1 if self._flips_rows else 1, :: -1 if self._flips_columns else 1]
        self._out.image(self._width, self._height, 3, 255)
        self._out.rows(0, pixels)


@contextmanager
def _opened(file: BinaryIO, kind: MediaKind) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a container of a known kind and its first video stream; FFmpeg's errors become BrokenMediaError.

    A named format never becomes a playlist, which would open other files.
    """
    file.seek(0)
    try:
        with av.open(file, format=kind.suffix[1:], options=USUAL_CODECS) as container:
            if not container.streams.video:
                raise BrokenMediaError("it holds no picture, only sound")
            stream = container.streams.video[0]
            if (codec := stream.codec_context.name) not in _PICTURE_DECODERS:
                raise UnreadCodecError(f"its codec {codec} is not one of those that are decoded here")
            stream.thread_type = "AUTO"  # PyAV before 18 decodes on one thread by default
            stream.codec_context.thread_count = min(os.cpu_count() or 1, _MOST_THREADS)
            yield container, stream
    except av.FFmpegError as error:
        raise BrokenMediaError(f"{error.strerror or error}") from error


def _read_index(container: InputContainer, stream: VideoStream) -> tuple[list[tuple[int, bool]], int, int]:
    """Times and key frames of what is displayed, in order; the number of all packets; how long the last
    frame is shown, 0 where that is not told."""
    shown: list[tuple[int, bool]] = []
    packets = 0
    last_time, last_duration = -1, 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        packets += 1
        if packets > limits.FRAMES:
            raise limits.TooLargeError(f"it holds more than {limits.FRAMES} frames")
        time = packet.pts if packet.pts is not None else packet.dts
        if not packet.is_discard:
            place = time if time is not None else len(shown)
            shown.append((place, packet.is_keyframe))
            if place >= last_time:
                last_time, last_duration = place, packet.duration or 0
    shown.sort()
    return shown, packets, last_duration


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0
