"""Frames written as H.264: segments of a clip, safe on disk one by one, and joined with the clip's sound."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from ..errors import ConfigurationError
from ..files import Rename, draft_of, settle
from .clips import Clip, Colours
from .media_types import CLIP_CONTAINERS
from .video_decode import EXACTLY, USUAL_CODECS

if TYPE_CHECKING:
    from typing_extensions import Self

H264_ENCODERS = ("libx264", "libopenh264")

_FULL = 2
_LARGE_PIXELS = 4 * 2**20
# What the decoder takes every matrix for that is none of these (`video_decode`).
_BT601 = 5
_RGB, _BT709, _BT2020 = 0, 1, 9
_READ_MATRICES = frozenset({1, 4, 7, 9})


class SegmentWriter:
    """Writes frames to a video file without sound, in order; a context manager.

    The file is whole and on disk after :meth:`finish`; without it nothing is left.

    Args:
        path: The file, which is replaced where it is there.
        time_base: The unit of times, in seconds.
        colours: How the frames' RGB becomes luma and chroma, and what the file declares.
        aspect: Width of a pixel to its height, 0 for none.
    """

    def __init__(
        self, path: Path, time_base: Fraction, rate: Fraction, colours: Colours, aspect: Fraction
    ) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._time_base, self._rate = time_base, rate
        self._colours = _written(colours)
        self._aspect = aspect
        self._reformatter = VideoReformatter()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._first = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._container is not None:
            with suppress(av.FFmpegError, OSError):
                self._container.close()
        self._part.unlink(missing_ok=True)

    def write(self, pixels: npt.NDArray[np.uint8], time: int) -> None:
        """Encode one frame, uint8 ``[H, W, 3]``; odd sides are padded by repeating the last row or column."""
        if pixels.shape[0] % 2 or pixels.shape[1] % 2:
            padding = [(0, side % 2) for side in pixels.shape[:2]]
            pixels = np.pad(pixels, [*padding, (0, 0)], mode="edge")
        if self._stream is None:
            self._open(pixels.shape[1], pixels.shape[0])
            self._first = time
        assert self._stream is not None and self._container is not None
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        matrix = self._colours.matrix if self._colours.matrix in _READ_MATRICES else _BT601
        is_full = self._colours.range == _FULL
        frame = self._reformatter.reformat(
            frame,
            format="yuv420p",
            src_colorspace=Colorspace.DEFAULT,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=matrix,
            dst_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
            interpolation=EXACTLY,
        )
        # The encoder would convert a frame whose range is not that of the stream.
        frame.color_range = self._stream.codec_context.color_range
        frame.pts, frame.time_base = time - self._first, self._time_base
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """End the file; it is safe on disk on return."""
        assert self._stream is not None and self._container is not None
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        settle(self._part, self._path)

    def _open(self, width: int, height: int) -> None:
        encoder = h264_encoder()
        self._container = av.open(str(self._part), "w", format="mp4")
        stream = self._container.add_stream(encoder, rate=self._rate)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context.time_base = self._time_base
        # The order in the file is that of display, so that segments can be joined packet by packet.
        context.max_b_frames = 0
        context.color_range = self._colours.range or 1
        context.color_primaries, context.color_trc = self._colours.primaries, self._colours.transfer
        context.colorspace = self._colours.matrix
        if self._aspect:
            stream.sample_aspect_ratio = self._aspect
        if encoder == "libx264":
            # Visually lossless. Each frame that the encoder looks ahead, it holds.
            options: dict[str, object] = {"crf": "17", "preset": "veryfast"}
            if width * height > _LARGE_PIXELS:
                options["rc-lookahead"] = "2"
                options["threads"] = "2"
            stream.options = options
        self._stream = stream


def h264_encoder() -> str:
    """The H.264 encoder of the installed PyAV.

    Raises:
        ConfigurationError: It has none.
    """
    for name in H264_ENCODERS:
        if name in av.codecs_available:
            return name
    raise ConfigurationError(
        "The installed PyAV has no H.264 encoder",
        next_step="Install PyAV from its own wheels: pip install --force-reinstall av.",
    )


def check_output(clip: Clip, output: Path) -> None:
    """Check, before a task is paid for, that the clip can be written there with its sound.

    Raises:
        ConfigurationError: The suffix, or the container for the codec of the sound, is not fit.
    """
    h264_encoder()
    container = CLIP_CONTAINERS.get(output.suffix.lower())
    if container is None:
        raise ConfigurationError(
            f"{output.name} names no format that videos are written in",
            next_step=f"Take {', '.join(CLIP_CONTAINERS)}.",
        )
    with ExitStack() as stack:
        sounds = _sounds(clip, stack)
        try:
            target = stack.enter_context(av.open(BytesIO(), "w", format=container))
            video = target.add_stream(h264_encoder(), rate=25)
            assert isinstance(video, VideoStream)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for sound in sounds:
                target.add_stream_from_template(sound)
            target.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            codecs = ", ".join(sorted({sound.codec_context.name for sound in sounds}))
            raise ConfigurationError(
                f"{output.name} can't hold the clip's sound ({codecs}): {error}",
                next_step="Give the output the suffix .mkv.",
            ) from error


def join(
    segments: Sequence[Path],
    clip: Clip,
    output: Path,
    is_stopped: Callable[[], bool],
    rename: Rename = Path.replace,
) -> Path:
    """Write the segments' frames, at the clip's times, and the clip's sound to one file. Blocking.

    Args:
        is_stopped: Whether nobody wants the file any more.
        rename: Gives the whole file its name; default: an existing file is replaced.

    Returns:
        The file.

    Raises:
        OSError: It can't be written.
        InterruptedError: It was stopped; nothing is left of it.
    """
    container = CLIP_CONTAINERS[output.suffix.lower()]
    options = {"movflags": "+faststart", "movie_timescale": "90000"} if container != "matroska" else {}
    with draft_of(output) as draft:
        with ExitStack() as stack:
            sounds = _sounds(clip, stack)
            target = stack.enter_context(av.open(str(draft), "w", format=container, options=options))
            first = stack.enter_context(av.open(str(segments[0])))
            video = target.add_stream_from_template(first.streams.video[0])
            video.time_base = clip.time_base
            pairs = {sound.index: target.add_stream_from_template(sound) for sound in sounds}
            for sound in sounds:
                pairs[sound.index].metadata.update(sound.metadata)
            # Side by side in the order of time: the muxer holds what comes early.
            for _, packet in heapq.merge(
                _pictures(segments, clip, video), _heard(sounds, pairs), key=lambda timed: timed[0]
            ):
                if is_stopped():
                    raise InterruptedError
                target.mux(packet)
        return settle(draft, output, rename)


def _written(colours: Colours) -> Colours:
    """The colours that a clip is written in."""
    # What players expect of the frames of a clip that holds RGB.
    if colours.matrix == _RGB:
        return replace(colours, matrix=_BT709, range=1)
    # PyAV 17, the last one for Python 3.10, can't write by this matrix.
    if colours.matrix == _BT2020 and not hasattr(Colorspace, "BT2020"):
        return replace(colours, matrix=_BT709)
    return colours


def fitted(pixels: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[np.uint8]:
    """A frame brought to a size (Lanczos) where it has another."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _sounds(clip: Clip, stack: ExitStack) -> list[AudioStream]:
    """The sound tracks of a clip; its container is open until the stack ends."""
    if not clip.has_audio:
        return []
    # A named format never becomes a playlist, which would open other files.
    opened = av.open(str(clip.path), format=clip.kind.suffix[1:], options=USUAL_CODECS)
    return list(stack.enter_context(opened).streams.audio)


def _pictures(segments: Sequence[Path], clip: Clip, video: Any) -> Iterator[tuple[float, av.Packet[Any]]]:
    frame = 0
    for segment in segments:
        with av.open(str(segment)) as container:
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:
                    continue
                packet.stream, packet.time_base = video, clip.time_base
                packet.pts = packet.dts = clip.times[frame]
                packet.duration = clip.durations[frame]
                yield float(clip.times[frame] * clip.time_base), packet
                frame += 1


def _heard(sounds: Sequence[AudioStream], pairs: dict[int, Any]) -> Iterator[tuple[float, av.Packet[Any]]]:
    if not sounds:
        return
    container: Any = sounds[0].container
    for packet in container.demux(*sounds):
        if packet.dts is not None and packet.size:
            time = float(packet.dts * packet.time_base)
            packet.stream = pairs[packet.stream.index]
            yield time, packet
