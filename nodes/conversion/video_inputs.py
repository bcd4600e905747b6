"""ComfyUI's VIDEO as a file on disk that a clip can be read from."""

from __future__ import annotations

import secrets
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from ...xalora_client.errors import InvalidTaskError
from ...xalora_client.files import digest_of
from ..host.compat import InputImpl


def video_file(video: Any, folder: Path) -> Path:
    """The file of a VIDEO; where it has none, or is a part of one, a new one in ``folder``. Blocking.

    Frames that are held in memory are written without loss.

    Raises:
        InvalidTaskError: It is no VIDEO.
    """
    if not hasattr(video, "get_components"):
        raise InvalidTaskError(
            f"The input video is of type {type(video).__name__}, which is no VIDEO",
            next_step="Check the node that is linked to it.",
        )
    is_file = isinstance(video, InputImpl.VideoFromFile)
    trim = getattr(video, "get_active_trim_window", None)
    is_whole = trim is None or not any(trim())
    if is_file and is_whole:
        source = video.get_stream_source()
        if isinstance(source, str):
            return Path(source)
        return _named_by_content(folder, ".mp4", lambda path: path.write_bytes(source.getvalue()))
    if is_file:
        return _named_by_content(folder, ".mp4", lambda path: video.save_to(str(path)))
    return _named_by_content(folder, ".mp4", lambda path: _write(path, video.get_components()))


def _named_by_content(folder: Path, suffix: str, write: Any) -> Path:
    """A new file, in a folder whose name follows from its bytes, so that the same video is written once.

    Lists of tasks show the file's own name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{secrets.token_hex(8)}{suffix}"
    try:
        write(part)
        digest = digest_of(part)
        place = folder / digest / f"video{suffix}"
        place.parent.mkdir(exist_ok=True)
        return part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def _write(path: Path, components: Any) -> None:
    """Write frames, float ``[N, H, W, 3]`` in 0..1, as lossless H.264 in RGB, with their sound."""
    images: torch.Tensor = components.images
    rate = Fraction(components.frame_rate)
    sound = components.audio
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264rgb", rate=rate.limit_denominator(1001))
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.options = {"qp": "0", "preset": "ultrafast", "threads": "1"}
        heard: Any = None
        if sound is not None:
            heard = container.add_stream("aac", rate=int(sound["sample_rate"]))
            heard.bit_rate = 192_000
        for image in images:
            pixels = (image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if heard is not None:
            _write_sound(container, heard, sound)


def _write_sound(container: Any, stream: Any, sound: Any) -> None:
    wave = sound["waveform"][0].float().cpu().numpy()
    layout = "mono" if wave.shape[0] == 1 else "stereo"
    wave = np.ascontiguousarray(wave[:2])
    frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
    frame.sample_rate, frame.pts = int(sound["sample_rate"]), 0
    frame.time_base = Fraction(1, frame.sample_rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
