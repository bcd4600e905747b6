"""Results that are videos: a VIDEO that stays on disk, and its frames only where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .compat import InputImpl
from .images import preview_of
from .keeping import keep_while

if TYPE_CHECKING:
    from PIL import Image

    from ..xalora_client.results import RunResult


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
        frames = torch.from_numpy(file.frames()) if self._decode_frames else None
        return VideoValue(video, frames, float(file.fps))
