"""Video files as cameras and programs write them: with sound, at uneven times, turned, of 10 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from xalora_client.cli.demo.photographs import SHIPPED

TICKS = 12800
FRAME_TICKS = 512  # of 25 frames a second
SOUND_RATE = 48000
Frames = Sequence[npt.NDArray[np.uint8]]


def moving_photograph(count: int, width: int = 96, height: int = 64, *, hold: int = 1) -> list[Any]:
    """Windows that move over a photograph; each is shown for ``hold`` frames."""
    with Image.open(SHIPPED[0].path) as image:
        pixels = np.asarray(image.convert("RGB").resize((width + 2 * count, height + count)))
    places = [frame // hold for frame in range(count)]
    return [np.ascontiguousarray(pixels[n : n + height, 2 * n : 2 * n + width]) for n in places]


def write_video(
    path: Path,
    frames: Frames,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, TICKS),
    sound: str | None = "aac",
    colours: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    turn: int = 0,
    lossless: bool = False,
    group: int = 12,
) -> Path:
    """Write a video.

    Args:
        times: Of the frames, in units of ``time_base``; default: 25 a second.
        sound: The codec of a tone beside it; None for none.
        colours: Matrix, primaries, transfer and range.
        turn: The turn in the display matrix, in degrees.
        lossless: Equal frames stay equal.
        group: Frames from a key frame to the next.
    """
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.time_base = time_base
        if codec == "libx264":
            stream.options = {"g": str(group), "bf": "2", **({"qp": "0"} if lossless else {})}
        elif codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        if colours is not None:
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = colours
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        tone = container.add_stream(sound, rate=SOUND_RATE) if sound else None
        step = int(Fraction(1, 25) / time_base)
        for place, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.shape[2] == 3 else "rgba")
            frame.pts = place * step if times is None else times[place]
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            for start in range(0, len(frames) * SOUND_RATE // 25, 1024):
                wave = np.sin(np.arange(start, start + 1024) * 0.05).astype(np.float32) * 0.3
                heard = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
                container.mux(tone.encode(heard))
            container.mux(tone.encode(None))
    if turn:
        _turn(path, turn)
    return path


def _turn(path: Path, degrees: int) -> None:
    """Put a turn into the display matrix of an MP4's video track, as phones write it."""
    data = bytearray(path.read_bytes())
    # The first matrix is the movie's, the second that of the first track.
    upright = b"".join(n.to_bytes(4, "big") for n in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
    place = data.index(upright, data.index(b"tkhd"))
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    values = (a, b, 0, -b, a, 0, 0, 0)
    turned = b"".join((n * 0x10000).to_bytes(4, "big", signed=True) for n in values)
    data[place : place + 32] = turned
    path.write_bytes(data)


@dataclass(frozen=True)
class Track:
    """One track of a file: seconds and bytes of each packet, in order, and how long the last one lasts."""

    times: list[Fraction]
    data: list[bytes]
    last: Fraction


def track(path: Path, kind: str) -> Track:
    """Read the first track of a kind: ``video`` or ``audio``."""
    with av.open(str(path)) as container:
        stream: Any = next(each for each in container.streams if each.type == kind)
        packets = [packet for packet in container.demux(stream) if packet.size]
        timed = sorted(
            (packet.pts * packet.time_base, packet.duration * packet.time_base) for packet in packets
        )
        return Track([time for time, _ in timed], [bytes(packet) for packet in packets], timed[-1][1])


def played(path: Path) -> list[npt.NDArray[np.uint8]]:
    """The frames of a video as RGB, decoded without the package; not turned."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
