"""Pixels in sRGB: of results at their own depth, and as they are sent, in 8 bits that every miner reads."""

from __future__ import annotations

from dataclasses import replace
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
        block = in_8_bits(pixels.rows(start, stop), pixels.maximum)
        colours, alpha = block[..., :_COLOURS], block[..., _COLOURS:]
        if pixels.channels == 1:
            colours = np.broadcast_to(block, (*block.shape[:2], _COLOURS))
        if conversion is not None:
            colours = conversion.pixels(colours)
        return np.concatenate([colours, alpha], axis=2) if alpha.shape[2] else colours

    return Pixels(pixels.width, pixels.height, 4 if pixels.channels == 4 else _COLOURS, 255, rows)


def in_srgb(pixels: Pixels) -> Pixels:
    """The same image with its depth and channels, in sRGB; unchanged where it has no other profile.

    LittleCMS converts in 8 bits, so colours of 16 bits come in 256 steps of each channel.
    """
    conversion = to_srgb_of(pixels.icc_profile)
    if conversion is None:
        return pixels

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        block = pixels.rows(start, stop)
        colours = in_8_bits(block[..., :_COLOURS], pixels.maximum)
        if pixels.channels == 1:
            colours = np.broadcast_to(colours, (*block.shape[:2], _COLOURS))
        converted = conversion.pixels(colours)[..., : min(pixels.channels, _COLOURS)].astype(block.dtype)
        return np.concatenate([converted * (pixels.maximum // 255), block[..., _COLOURS:]], axis=2)

    return replace(pixels, rows=rows, icc_profile=None)


def is_as_sent(pixels: Pixels) -> bool:
    """Whether an image has 8-bit RGB or RGBA pixels in sRGB already; without a profile it counts as sRGB."""
    return pixels.channels >= _COLOURS and pixels.maximum == 255 and to_srgb_of(pixels.icc_profile) is None


def in_8_bits(block: npt.NDArray[Any], maximum: int) -> npt.NDArray[np.uint8]:
    """Samples of 0..``maximum`` (255 or 65535) as 0..255, rounded."""
    if maximum == 255:
        return block
    # 65535 is 255 * 257, so the nearest step is that of the quotient.
    return ((block.astype(np.uint32) + 128) // 257).astype(np.uint8)
