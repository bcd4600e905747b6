"""Video results as a VIDEO, which stays on disk, and as frames where a node asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...xalora_client.media.result_files import decode_files
from ...xalora_client.results import add_result_to_errors
from ..host.compat import InputImpl
from .image_tensors import COLOUR_CHANNELS, result_preview_of
from .result_lifetimes import keep_alive_with

if TYPE_CHECKING:
    from PIL import Image

    from ...xalora_client.results import RunResult


@dataclass(frozen=True)
class VideoValue:
    """A video result in a graph.

    Attributes:
        video: VIDEO, backed by the downloaded file.
        frames: IMAGE ``[N, H, W, 3]``, None where the node does not decode them.
        fps: Frames per second.
    """

    video: Any
    frames: torch.Tensor | None
    fps: float


class VideoDecoder:
    """Decodes one video.

    Args:
        decode_frames: Whether to decode the frames: a second of 1080p takes 600 MB of memory.
    """

    def __init__(self, *, decode_frames: bool) -> None:
        self._decode_frames = decode_frames

    def add(self, index: int, result: RunResult) -> Image.Image | None:
        """Open the file; its first frame is the preview."""
        first = result.video.frames(0, 1)
        return result_preview_of(first[0]) if len(first) else None

    def close(self, results: Sequence[RunResult]) -> VideoValue:
        """The video, and its frames where they are decoded."""
        (result,) = results
        file = result.video
        video = InputImpl.VideoFromFile(str(file.path))
        keep_alive_with(video, result)
        frames = _frames_of(result) if self._decode_frames else None
        return VideoValue(video, frames, float(file.fps))


def _frames_of(result: RunResult) -> torch.Tensor:
    """The frames in the miner's file; for an animation, not those of the video converted from it."""
    with add_result_to_errors(result):
        frames = torch.from_numpy(decode_files(result.files[:1]))
    return frames if frames.shape[3] == COLOUR_CHANNELS else frames[..., :COLOUR_CHANNELS] * frames[..., 3:]
