"""Animated WebP and GIF: checked frame by frame, and converted to H.264, which every player shows.

PyAV can't decode animated WebP, so Pillow decodes one frame at a time, and PyAV encodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from ..errors import STILL_RETRIEVABLE, ConfigurationError
from ..files import draft_of
from . import workers
from .containers import webp_durations
from .image_files import animation_frames
from .limits import check_frame_size
from .media_types import MediaKind, sniff
from .video import VideoFile, errors_of_video, open_video

_H264_ENCODERS = ("libx264", "libopenh264")
_UNTIMED_FRAME_MS = 100
# Numbers of ITU-T H.273, but for the range, which is FFmpeg's.
_BT709, _BT601, _VIDEO_RANGE = 1, 6, 1


def animated_webp_to_h264(path: str | os.PathLike[str], dest: str | os.PathLike[str]) -> VideoFile:
    """Convert an animated WebP (or GIF) to an H.264 MP4; the original stays.

    Each frame keeps its own duration, to the millisecond. H.264 needs even sizes: an odd width or height is
    padded by repeating the last column or row. Transparency is put on black. The file declares its colour
    matrix: without one, players guess by the size.

    Args:
        path: The animation; a still WebP or GIF becomes a video of one frame.
        dest: The MP4 to write; an existing file is replaced once the new one is complete.

    Raises:
        ResultFormatError: The animation is truncated or damaged.
        ConfigurationError: The installed PyAV has no H.264 encoder.
    """
    path, dest = Path(path), Path(dest)
    # Two nodes with the same kept result may convert it at the same time.
    with draft_of(dest) as draft:
        with errors_of_video(path):
            header = workers.ask("header", path)
            check_frame_size(header["width"], header["height"])
            frames = (on_black(frame.stored()) for frame in workers.images("frames", path))
            _encode_h264(frames, workers.ask("durations", path), draft)
        draft.replace(dest)
    return open_video(dest)


def check_animation(data: bytes) -> None:
    """Decode every frame of an animation, holding one at a time. Raises BrokenMediaError."""
    for _ in animation_frames(data):
        pass


def animation_durations(data: bytes) -> list[int]:
    """The duration of each frame in milliseconds. Raises BrokenMediaError."""
    if sniff(data) in {MediaKind.GIF, MediaKind.APNG}:
        durations = [frame.info.get("duration", 0) for frame in animation_frames(data)]
    else:
        durations = webp_durations(data) or [0]  # a still one has none
    # Browsers show a frame of at most 10 ms for a tenth of a second.
    return [round(duration) if duration > 10 else _UNTIMED_FRAME_MS for duration in durations]


def on_black(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` uint8 of a frame of 1, 3 or 4 channels; transparency is put on black."""
    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] < 4:
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    image = Image.fromarray(pixels)
    canvas = Image.new("RGB", image.size)
    canvas.paste(image, mask=image.getchannel("A"))
    return np.asarray(canvas)


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
                # MP4 stores durations in decoding order, which is the order of display only without B-frames.
                stream.codec_context.max_b_frames = 0
                _tag_colours(stream)
                if encoder == "libx264":
                    # Visually lossless; slower presets hardly save a byte.
                    stream.options = {"crf": "17", "preset": "veryfast"}
            padding = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(pixels, padding, mode="edge"), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(tick, 1000)
            ticks_at[time] = duration // tick
            time += duration // tick
            _mux(container, stream.encode(frame), ticks_at)
        _mux(container, stream.encode(None), ticks_at)


def _tag_colours(stream: VideoStream) -> None:
    """Declare what swscale makes of RGB: BT.601's matrix in video range, BT.709's primaries and curve."""
    context = stream.codec_context
    context.color_range = _VIDEO_RANGE
    context.color_primaries = context.color_trc = _BT709
    # PyAV before 17 decodes by this matrix whatever the file declares, so it is the safe one in ComfyUI.
    context.colorspace = _BT601


def _mux(container: OutputContainer, packets: list[av.Packet[VideoStream]], ticks_at: dict[int, int]) -> None:
    for packet in packets:
        # Without it the muxer gives the last frame the average duration.
        if packet.pts is not None:
            packet.duration = ticks_at[packet.pts]
        container.mux(packet)
