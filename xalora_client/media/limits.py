"""Limits on the pixels of a result: bytes, frames, and the memory that is free for them.

All sizes are checked as a file declares them, before anything is decoded.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .containers import BrokenMediaError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class PixelLimits:
    """The most bytes of pixels, at their stored depth.

    Args:
        image_bytes: Of one result's images together: 13377x13377 in RGB.
        video_bytes: Of a video's frames that are decoded at once, and of an animation: 345 frames of 1080p.
    """

    image_bytes: int = 512 * 2**20
    video_bytes: int = 2 * 2**30


DEFAULT = PixelLimits()

FRAME_PIXELS = 8192 * 4320
"""The largest frame of a video or an animation, which is H.264's too."""

FRAMES = 100_000
"""The most frames of a video or an animation."""

_FLOAT_BYTES = 4
_PAGE = 4096
_MEMORY_KEPT = 256 * 2**20  # for everything else in this process
_CGROUP = Path("/sys/fs/cgroup")

_in_force: ContextVar[PixelLimits] = ContextVar("pixel_limits", default=DEFAULT)
_allocating = threading.Lock()


def in_force() -> PixelLimits:
    """The limits that count for what this thread, or coroutine, reads now."""
    return _in_force.get()


@contextmanager
def using(limits: PixelLimits) -> Iterator[None]:
    """For the length of a ``with`` block, have these limits count, also in the workers that it asks."""
    before = _in_force.set(limits)
    try:
        yield
    finally:
        _in_force.reset(before)


def _nothing(at_once: int, in_all: int) -> None:
    pass


on_declared: Callable[[int, int], None] = _nothing
"""Called with the bytes of pixels that a file within the limits declares, at once and in all."""


class TooLargeError(BrokenMediaError):
    """The file needs more memory or time than the limits allow; it may be intact."""


def check_image(width: int, height: int, stored: int) -> None:
    """Refuse an image whose pixels take ``stored`` bytes. Raises TooLargeError."""
    _check(f"{width}x{height} pixels", stored, in_force().image_bytes, "IMAGE")
    on_declared(stored, stored)


def check_images(stored: int, results: int = 1) -> None:
    """Refuse the images of results whose pixels take ``stored`` bytes together. Raises TooLargeError."""
    _check("pixels", stored, in_force().image_bytes * results, "IMAGE")


def check_frame_size(width: int, height: int) -> None:
    """Refuse frames of a video or an animation that are too large. Raises TooLargeError."""
    if width * height > FRAME_PIXELS:
        raise TooLargeError(f"its frames of {width}x{height} pixels are larger than the 8192x4320 allowed")


def check_frames(frames: int, stored: int) -> None:
    """Refuse to decode so many frames of together ``stored`` bytes of pixels. Raises TooLargeError."""
    if frames > FRAMES:
        raise TooLargeError(f"it claims {frames} frames, more than the {FRAMES} allowed")
    _check("frames", stored, in_force().video_bytes, "VIDEO")


def allocate(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """An uninitialized float32 array whose memory pages are allocated.

    The system allocates a page at the first write. So what several threads decode at the same time fits into
    the free memory together, and none of them waits for pages while it decodes.

    Raises:
        TooLargeError: It does not fit into the free memory.
    """
    import numpy as np

    wanted = math.prod(shape) * _FLOAT_BYTES
    with _allocating:
        free = free_memory()
        if free is not None and wanted > free - _MEMORY_KEPT:
            said = f"its pixels need {_mib(wanted)} of memory, and {_mib(max(0, free))} are free"
            raise TooLargeError(said)
        # One thread allocates a gigabyte in a tenth of a second; several wait for each other longer.
        array: npt.NDArray[np.float32] = np.empty(shape, np.float32)
        array.reshape(-1).view(np.uint8)[::_PAGE] = 0
    return array


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


def _check(what: str, stored: int, most: int, kind: str) -> None:
    if stored > most:
        raise TooLargeError(
            f"its {what} take {_mib(stored)}, more than the {_mib(most)} allowed (XALORA_MAX_{kind}_BYTES)"
        )


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
