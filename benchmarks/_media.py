"""Photographs and a clip to measure with, the same at every run. Needs numpy, scikit-image, Pillow, PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]


def photographs(size: int = 2048) -> dict[str, FloatImage]:
    """Float RGB ``[size, size, 3]`` in 0..1: pieces of photographs as shot, one enlarged, and it with noise.

    The enlarged one is smooth and compresses well; the noise is a camera's, 1 % of full scale.
    """
    from PIL import Image
    from skimage import data

    shots = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.retina()]
    draw = np.random.default_rng(3)
    piece = 256
    mosaic = np.empty((size, size, 3), np.float32)
    for index, (top, left) in enumerate(np.ndindex(size // piece, size // piece)):
        shot = shots[index % len(shots)]
        y, x = (int(draw.integers(0, side - piece + 1)) for side in shot.shape[:2])
        place = mosaic[top * piece : (top + 1) * piece, left * piece : (left + 1) * piece]
        place[...] = shot[y : y + piece, x : x + piece]
    mosaic /= 255
    enlarged = Image.fromarray(data.astronaut()).resize((size, size), Image.Resampling.LANCZOS)
    smooth = np.asarray(enlarged, np.float32) / 255
    noisy = smooth + draw.normal(0, 0.01, smooth.shape).astype(np.float32)
    return {"pieces": mosaic, "enlarged": smooth, "with noise": np.clip(noisy, 0, 1)}


def write_clip(path: Path, frames: int = 121, width: int = 1280, height: int = 720) -> Path:
    """An H.264 clip of about 7 Mbit/s: a camera that pans over photographs, with noise."""
    import av
    from av.video.stream import VideoStream

    picture = (photographs(2048)["pieces"] * 255).astype(np.int16)
    draw = np.random.default_rng(4)
    noise = np.rint(draw.normal(0, 4, (height + 64, width + 64, 3))).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=24)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        for index in range(frames):
            x, y = 5 * index, 3 * index
            dx, dy = (int(shift) for shift in draw.integers(0, 64, 2))
            shown = picture[y : y + height, x : x + width] + noise[dy : dy + height, dx : dx + width]
            frame = av.VideoFrame.from_ndarray(np.clip(shown, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_images(folder: Path, size: int = 2048) -> dict[str, Path]:
    """The same photograph as PNG and as JPEG (quality 95), as miners send them."""
    from PIL import Image

    picture = Image.fromarray((photographs(size)["pieces"] * 255 + 0.5).astype(np.uint8))
    paths = {"PNG": folder / "photo.png", "JPEG": folder / "photo.jpg"}
    picture.save(paths["PNG"])
    picture.save(paths["JPEG"], quality=95)
    return paths
