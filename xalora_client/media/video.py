"""Video files to numpy, all of it or a range of frames, and animated WebP to H.264.

The array is allocated once and filled in place: one thread decodes, a second converts to RGB and scales.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from math import gcd
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer, OutputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from ..errors import STILL_RETRIEVABLE, ConfigurationError, ResultFormatError
from .images import PILLOW_ERRORS, FloatImages, check_pixel_count, open_image
from .sniff import SNIFF_BYTES, MediaKind, sniff
from .structure import BrokenMediaError, check_gif, check_riff, check_video_container, webp_durations

_FRAMES_IN_FLIGHT = 4
_USUAL_FPS = 24.0
_UNTIMED_FRAME_MS = 100
_H264_QUALITY = "17"  # CRF: visually lossless
_H264_ENCODERS = ("libx264", "libopenh264")


@dataclass(frozen=True)
class VideoFile:
    """A video on disk, as :func:`open_video` finds it. Its pixels stay there until :meth:`frames` is called.

    Attributes:
        path: The file.
        width: Pixels, as stored (rotation metadata is not applied).
        height: Pixels.
        fps: Frames per second, the average where the rate varies.
        frame_count: How many frames :meth:`frames` gives.
        duration: Seconds.
        has_audio: Whether there is a sound track (it is not decoded here).
    """

    path: Path
    width: int
    height: int
    fps: float
    frame_count: int
    duration: float
    has_audio: bool
    _index: _FrameIndex = field(repr=False)

    def frames(self, start: int = 0, stop: int | None = None) -> FloatImages:
        """Decode frames ``start`` up to, and without, ``stop``, in the order they are shown.

        Only what lies between the last key frame at or before ``start`` and ``stop`` is decoded.

        Args:
            start: The first frame; negative counts from the end, as in a slice.
            stop: The frame after the last; None for the end.

        Returns:
            float32 ``[N, H, W, 3]`` in 0..1, equal to each frame's RGB bytes divided by 255.

        Raises:
            ResultFormatError: A frame can't be decoded, or the file ends early.
        """
        first, last, _ = slice(start, stop).indices(self.frame_count)
        count = max(0, last - first)
        batch: FloatImages = np.empty((count, self.height, self.width, 3), np.float32)
        if count == 0:
            return batch
        written = 0
        write_rgb = _RgbWriter()
        with _opened(self.path) as (container, stream), ThreadPoolExecutor(1, "xalora-video") as scaler:
            pending: deque[Future[None]] = deque()
            for frame in islice(self._decoded_from(container, stream, first), count):
                # The scaler is a few frames behind at most, so that only the array fills the memory.
                if len(pending) == _FRAMES_IN_FLIGHT:
                    pending.popleft().result()
                pending.append(scaler.submit(write_rgb, frame, batch[written]))
                written += 1
            for future in pending:
                future.result()
        if written < count:
            raise _broken(self.path, f"it ends after {first + written} of {self.frame_count} frames")
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
                    raise _broken(self.path, f"frame {decoded} is damaged")
                decoded += 1
        if decoded < self.frame_count:
            raise _broken(self.path, f"it ends after {decoded} of {self.frame_count} frames")

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
    """Read what a video file (MP4, WebM) says of itself, and where its frames are, without decoding it.

    Raises:
        ResultFormatError: It is no video that can be read, or its end is missing.
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
    except BrokenMediaError as error:
        raise _broken(path, str(error)) from error
    frame_count = len(index.times)
    if packets < promised:
        raise _broken(path, f"it holds {packets} of {promised} frames")
    if width <= 0 or height <= 0 or frame_count == 0:
        raise _broken(path, "it holds no frames")
    fps = float(rate) if rate else frame_count / duration if duration else _USUAL_FPS
    return VideoFile(
        path, width, height, fps, frame_count, duration or frame_count / fps, has_audio, _index=index
    )


def animated_webp_to_h264(path: str | os.PathLike[str], dest: str | os.PathLike[str]) -> VideoFile:
    """Turn an animated WebP (or GIF) into an H.264 MP4 that every player shows; the original stays as it is.

    Each frame keeps its own duration, to the millisecond. H.264 needs even sizes: an odd width or height is
    padded by repeating the last column or row, so that no pixel is lost. Transparency is put on black.

    Args:
        path: The animation; a still WebP or GIF becomes a video of one frame.
        dest: The MP4 to write; an existing file is replaced once the new one is whole.

    Raises:
        ResultFormatError: The animation is truncated or damaged.
        ConfigurationError: The installed PyAV has no H.264 encoder.
    """
    path, dest = Path(path), Path(dest)
    unfinished = dest.with_name(f"{dest.name}.part")
    try:
        data = path.read_bytes()
        _encode_h264(_animation_frames(data), _animation_durations(data), unfinished)
        unfinished.replace(dest)
    except BrokenMediaError as error:
        raise _broken(path, str(error)) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return open_video(dest)


@dataclass(frozen=True)
class _FrameIndex:
    """Every frame's time in the order shown, in the stream's time base, and the numbers of the key frames."""

    times: tuple[int, ...]
    key_frames: tuple[int, ...]

    def seek_time(self, frame: int) -> int:
        """The time of the last key frame at or before ``frame``."""
        place = bisect_right(self.key_frames, frame) - 1
        return self.times[self.key_frames[place] if place >= 0 else 0]


def check_animation(path: Path) -> None:
    """Decode every frame of an animated WebP or GIF, holding one at a time. Raises BrokenMediaError."""
    for _ in _animation_frames(path.read_bytes()):
        pass


class _RgbWriter:
    """Converts a decoded frame to RGB and scales it into its place in the array."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, out: FloatImages) -> None:
        height, width = out.shape[:2]
        rgb = self._reformatter.reformat(frame, width, height, "rgb24")
        plane = rgb.planes[0]
        pixels: npt.NDArray[np.uint8] = np.ndarray(
            (height, width, 3), np.uint8, memoryview(plane), strides=(plane.line_size, 3, 1)
        )
        np.divide(pixels, 255, out=out, dtype=np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a container and its first video stream; what PyAV raises inside becomes ResultFormatError."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _broken(path, "it holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"  # PyAV before 18 decodes on one thread unless told
            yield container, stream
    except FileNotFoundError:
        raise
    except av.FFmpegError as error:
        raise _broken(path, f"{error.strerror or error}") from error


def _read_index(container: InputContainer, stream: VideoStream) -> tuple[_FrameIndex, int]:
    """The index of the frames shown, and the number of all packets, those for decoding only included."""
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


def _broken(path: Path, reason: str) -> ResultFormatError:
    return ResultFormatError(
        f"The video {path.name} can't be read: {reason}",
        money=STILL_RETRIEVABLE,
        next_step="Download it again; if it stays broken, the miner wrote it so.",
    )


def _animation(data: bytes) -> Image.Image:
    if sniff(data[:SNIFF_BYTES]) is MediaKind.GIF:
        check_gif(data)
    else:
        check_riff(data)
    _, image = open_image(data)
    return image


def _animation_frames(data: bytes) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames of an animation, each ``[H, W, 3]``. Raises BrokenMediaError."""
    image = _animation(data)
    try:
        for place in range(getattr(image, "n_frames", 1)):
            image.seek(place)
            image.load()
            yield np.asarray(_on_black(image))
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error


def _animation_durations(data: bytes) -> list[int]:
    """How long each frame is shown, in milliseconds, without decoding. Raises BrokenMediaError."""
    image = _animation(data)
    count = getattr(image, "n_frames", 1)
    if sniff(data[:SNIFF_BYTES]) is MediaKind.GIF:
        durations = []
        for place in range(count):
            image.seek(place)
            durations.append(image.info.get("duration", 0))
    else:
        durations = webp_durations(data)
    # Browsers show a frame that gives no time, or hardly any, for a tenth of a second.
    shown = [round(duration) if duration > 10 else _UNTIMED_FRAME_MS for duration in durations]
    return shown or [_UNTIMED_FRAME_MS] * count


def _on_black(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    canvas = Image.new("RGB", image.size)
    rgba = image.convert("RGBA")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _encode_h264(frames: Iterable[npt.NDArray[np.uint8]], durations: Sequence[int], dest: Path) -> None:
    """Encode ``[H, W, 3]`` frames of one size, each shown for its duration in milliseconds."""
    encoder = next((name for name in _H264_ENCODERS if name in av.codecs_available), None)
    if encoder is None:
        raise ConfigurationError(
            "The installed PyAV has no H.264 encoder, so an animated WebP can't be turned into MP4",
            money=STILL_RETRIEVABLE,
            next_step="Install PyAV from its own wheels: pip install --force-reinstall av.",
        )
    tick = gcd(*durations)
    ticks_at: dict[int, int] = {}
    time = 0
    with av.open(str(dest), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(encoder, rate=Fraction(1000 * len(durations), sum(durations)))
        assert isinstance(stream, VideoStream)
        for pixels, duration in zip(frames, durations, strict=True):
            height, width = (side + side % 2 for side in pixels.shape[:2])
            if not ticks_at:
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.codec_context.time_base = Fraction(tick, 1000)
                # MP4 counts durations in decoding order: only without B-frames are those the frames' own.
                stream.codec_context.max_b_frames = 0
                if encoder == "libx264":
                    stream.options = {"crf": _H264_QUALITY}
            padding = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(pixels, padding, mode="edge"), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(tick, 1000)
            ticks_at[time] = duration // tick
            time += duration // tick
            _mux(container, stream.encode(frame), ticks_at)
        _mux(container, stream.encode(None), ticks_at)


def _mux(container: OutputContainer, packets: list[av.Packet[VideoStream]], ticks_at: dict[int, int]) -> None:
    for packet in packets:
        # Without it the muxer gives the last frame the average duration.
        if packet.pts is not None:
            packet.duration = ticks_at[packet.pts]
        container.mux(packet)
