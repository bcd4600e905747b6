"""Limits on the pixels of a result: bytes, frames, and the memory that is free for them.

All sizes are checked as a file declares them, before anything is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from .containers import BrokenMediaError

IMAGE_BYTES = 512 * 2**20
"""The most bytes of pixels, at their stored depth, of one result's images together: 13377x13377 in RGB."""

VIDEO_BYTES = 2 * 2**30
"""The same of a video's frames that are decoded at once, and of an animation: 345 frames of 1080p."""

FRAME_PIXELS = 8192 * 4320
"""The largest frame of a video or an animation, which is H.264's too."""

FRAMES = 100_000
"""The most frames of a video or an animation."""

_FLOAT_BYTES = 4
_MEMORY_KEPT = 256 * 2**20  # for everything else in this process
_CGROUP = Path("/sys/fs/cgroup")


def _nothing(at_once: int, in_all: int) -> None:
    pass


on_declared: Callable[[int, int], None] = _nothing
"""Called with the bytes of pixels that a file within the limits declares, at once and in all."""


class TooLargeError(BrokenMediaError):
    """The file needs more memory or time than the limits allow; it may be intact."""


def check_image(width: int, height: int, stored: int) -> None:
    """Refuse an image whose pixels take ``stored`` bytes. Raises TooLargeError."""
    _check(f"{width}x{height} pixels", stored, IMAGE_BYTES)
    on_declared(stored, stored)


def check_images(stored: int, results: int = 1) -> None:
    """Refuse the images of results whose pixels take ``stored`` bytes together. Raises TooLargeError."""
    _check("pixels", stored, IMAGE_BYTES * results)


def check_frame_size(width: int, height: int) -> None:
    """Refuse frames of a video or an animation that are too large. Raises TooLargeError."""
    if width * height > FRAME_PIXELS:
        raise TooLargeError(f"its frames of {width}x{height} pixels are larger than the 8192x4320 allowed")


def check_frames(frames: int, stored: int) -> None:
    """Refuse to decode so many frames of together ``stored`` bytes of pixels. Raises TooLargeError."""
    if frames > FRAMES:
        raise TooLargeError(f"it claims {frames} frames, more than the {FRAMES} allowed")
    _check("frames", stored, VIDEO_BYTES)


def check_memory(shape: tuple[int, ...]) -> None:
    """Refuse a float32 array that does not fit into the free memory. Raises TooLargeError."""
    wanted, free = math.prod(shape) * _FLOAT_BYTES, free_memory()
    if free is not None and wanted > free - _MEMORY_KEPT:
        raise TooLargeError(f"its pixels need {_mib(wanted)} of memory, and {_mib(max(0, free))} are free")


def free_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not tell."""
    known = [free for free in (_free_of_machine(), _free_of_cgroup()) if free is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _free_of_cgroup() -> int | None:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = (_CGROUP / "memory.stat").read_text().splitlines()
        # Cached files count as used and are given up when memory is short.
        cached = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    except (OSError, ValueError):  # "max", or no control group
        return None
    return max(0, limit - used + cached)


def _check(what: str, stored: int, most: int) -> None:
    if stored > most:
        raise TooLargeError(f"its {what} take {_mib(stored)}, more than the {_mib(most)} allowed")


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
