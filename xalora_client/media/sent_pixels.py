"""Pixels as they are sent: 8-bit RGB or RGBA in sRGB, which every miner reads alike, whatever came in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .colour import to_srgb_of
from .images import Pixels

_COLOURS = 3


def as_sent(pixels: Pixels) -> Pixels:
    """The same image in 8-bit RGB, or RGBA where it has alpha, converted to sRGB from its colour profile.

    16 bits are rounded to the nearest of 256 steps, gray becomes three equal channels, and alpha is untouched
    by the profile. The rows are converted when they are read.
    """
    conversion = to_srgb_of(pixels.icc_profile)

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        block = _in_8_bits(pixels.rows(start, stop), pixels.maximum)
        colours, alpha = block[..., :_COLOURS], block[..., _COLOURS:]
        if pixels.channels == 1:
            colours = np.broadcast_to(block, (*block.shape[:2], _COLOURS))
        if conversion is not None:
            colours = conversion.pixels(colours)
        return np.concatenate([colours, alpha], axis=2) if alpha.shape[2] else colours

    return Pixels(pixels.width, pixels.height, 4 if pixels.channels == 4 else _COLOURS, 255, rows)


def is_as_sent(pixels: Pixels) -> bool:
    """Whether an image has 8-bit RGB or RGBA pixels in sRGB already; without a profile it counts as sRGB."""
    return pixels.channels >= _COLOURS and pixels.maximum == 255 and to_srgb_of(pixels.icc_profile) is None


def _in_8_bits(block: npt.NDArray[Any], maximum: int) -> npt.NDArray[np.uint8]:
    if maximum == 255:
        return block
    # 65535 is 255 * 257, so the nearest step is that of the quotient.
    return ((block.astype(np.uint32) + 128) // 257).astype(np.uint8)
