"""Results that are videos: a VIDEO that stays on disk, and its frames only where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...xalora_client.media.result_files import decode_files
from ..host.compat import InputImpl
from .held_results import keep_while
from .images import COLOUR_CHANNELS, preview_of

if TYPE_CHECKING:
    from PIL import Image

    from ...xalora_client.results import RunResult


@dataclass(frozen=True)
class VideoValue:
    """What a video result becomes in a graph.

    Attributes:
        video: VIDEO, backed by the downloaded file.
        frames: IMAGE ``[N, H, W, 3]``, None where they were not asked for.
        fps: Frames per second.
    """

    video: Any
    frames: torch.Tensor | None
    fps: float


class VideoSink:
    """Takes one video.

    Args:
        decode_frames: Whether the frames are wanted as well: a second of 1080p takes 600 MB of memory.
    """

    def __init__(self, *, decode_frames: bool) -> None:
        self._decode_frames = decode_frames

    def add(self, index: int, result: RunResult) -> Image.Image | None:
        """Look at the file; its first frame is the preview."""
        first = result.video.frames(0, 1)
        return preview_of(first[0]) if len(first) else None

    def close(self, results: Sequence[RunResult]) -> VideoValue:
        """The video, and its frames where they are wanted."""
        (result,) = results
        file = result.video
        video = InputImpl.VideoFromFile(str(file.path))
        keep_while(video, result)
        frames = _frames_of(result) if self._decode_frames else None
        return VideoValue(video, frames, float(file.fps))


def _frames_of(result: RunResult) -> torch.Tensor:
    """The frames as the miner made them: of an animation not those of the video that it was turned into."""
    frames = torch.from_numpy(decode_files(result.files[:1]))
    return frames if frames.shape[3] == COLOUR_CHANNELS else frames[..., :COLOUR_CHANNELS] * frames[..., 3:]
