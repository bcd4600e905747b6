"""Where an image is cut into tiles, and how much of each result pixel every tile gives. No I/O.

Both sides of the image are cut alike, so all is said of one side. Each part is sent with ``overlap`` more
pixels at a border with a neighbour. There the results of both are blended across ``overlap`` pixels of the
image, half of them on either side. So a pixel that counts lies at least half the overlap away from where its
tile was cut, and a model that looks less far makes the same of it as in the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from math import ceil, floor, isqrt

import numpy as np
import numpy.typing as npt

from ..errors import ConfigurationError, ResultFormatError

TILE = 2048
"""The side of a tile in pixels: few tasks, and each fits in a request even where it is nothing but noise."""

OVERLAP = 32

SMALLER_TILES = (2048, 1024, 512, 256)
"""The sides of tiles, one after another, where the network finds larger ones too large."""

LEAST_TILE = 64

ALIGNED = 8
"""Borders lie on multiples of this, so that factors of halves, quarters and eighths meet whole pixels."""

_ROOM = 0.98
"""The share of a request's limit for pixels; the rest is for what a PNG of noise has beside them."""


@dataclass(frozen=True)
class Part:
    """A part of a side: the pixels that are sent, and those between its borders; all ends are exclusive."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Side:
    """A side of the image, cut.

    Args:
        length: Of the image, in pixels.
        parts: In order; the borders of neighbours are the same.
        overlap: How many pixels more are sent at a border.
    """

    length: int
    parts: tuple[Part, ...]
    overlap: int

    def weights(self, number: int, factor: Fraction) -> npt.NDArray[np.float32]:
        """What a part gives to each pixel of its result, from 0 to 1; those of all parts sum to 1."""
        part = self.parts[number]
        start, stop = scaled(part.start, factor), scaled(part.stop, factor)
        middles = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
        weights = np.ones(stop - start, np.float32)
        if part.first:
            weights *= self._ramp(middles, part.first, factor)
        if part.last < self.length:
            weights *= np.float32(1) - self._ramp(middles, part.last, factor)
        return weights

    def _ramp(
        self, middles: npt.NDArray[np.float32], border: int, factor: Fraction
    ) -> npt.NDArray[np.float32]:
        """From 0 to 1 across the overlap around a border."""
        place = np.float32(float(border * factor))
        if not self.overlap:
            beyond: npt.NDArray[np.float32] = (middles > place).astype(np.float32)
            return beyond
        width = np.float32(float(self.overlap * factor))
        ramp: npt.NDArray[np.float32] = np.clip((middles - place) / width + np.float32(0.5), 0, 1)
        return ramp

    def counting(self, number: int, factor: Fraction) -> tuple[int, int]:
        """From where to where a part gives anything to the result, in pixels of the result."""
        part, half = self.parts[number], Fraction(self.overlap, 2)
        first = floor((part.first - half) * factor) if part.first else 0
        last = ceil((part.last + half) * factor) if part.last < self.length else self.length * factor
        return max(0, first), min(scaled(self.length, factor), ceil(last))

    def complete(self, number: int, factor: Fraction) -> int:
        """How many pixels of the result are complete with the parts up to this one."""
        if number + 1 == len(self.parts):
            return scaled(self.length, factor)
        return self.counting(number + 1, factor)[0]


@dataclass(frozen=True)
class TilePlan:
    """An image cut into tiles; they are numbered by rows, from 0.

    Args:
        across: Its width, cut into columns.
        down: Its height, cut into rows.
    """

    across: Side
    down: Side

    @property
    def columns(self) -> int:
        return len(self.across.parts)

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return self.columns * len(self.down.parts)

    @property
    def longest(self) -> int:
        """The longest side of any tile."""
        return max(part.stop - part.start for side in (self.across, self.down) for part in side.parts)

    @cached_property
    def tiles(self) -> tuple[tuple[Part, Part], ...]:
        """Of each tile the rows and the columns."""
        return tuple((row, column) for row in self.down.parts for column in self.across.parts)

    def row(self, number: int) -> range:
        """The tiles of a row."""
        return range(number * self.columns, (number + 1) * self.columns)

    def checked_factor(self, number: int, width: int, height: int, told: int) -> Fraction:
        """The same as :meth:`factor`.

        Args:
            told: The number by which an error names the tile.

        Raises:
            ResultFormatError: The result's shape is another one.
        """
        factor = self.factor(number, width, height)
        if factor is None:
            raise ResultFormatError(
                f"The result of tile {told} has {width}x{height} pixels, which is another shape than "
                "the tile's: its workflow can't be used in tiles"
            )
        return factor

    def factor(self, number: int, width: int, height: int) -> Fraction | None:
        """How many times larger a tile's result of this size is; None where its shape is another one."""
        row, column = self.tiles[number]
        sides = (column.stop - column.start, width), (row.stop - row.start, height)
        factor = max(Fraction(got, sent) for sent, got in sides).limit_denominator(ALIGNED)
        return factor if factor and all(abs(sent * factor - got) < 1 for sent, got in sides) else None


def plan_of(width: int, height: int, tile: int = TILE, overlap: int = OVERLAP) -> TilePlan:
    """Cut an image into as few tiles as possible, of about equal sizes.

    Args:
        width, height: Of the image, in pixels.
        tile: The longest side of what is sent of a tile, at least 64 and four times the overlap.
        overlap: How many pixels more are sent of a tile on each side that has a neighbour.

    Raises:
        ConfigurationError: ``tile`` is too small.
    """
    least = max(LEAST_TILE, 4 * overlap)
    if overlap < 0 or tile < least:
        raise ConfigurationError(
            f"Tiles of {tile} pixels with an overlap of {overlap} can't be made",
            next_step=f"Give tiles of {least} pixels or more."
            if overlap >= 0
            else "Give an overlap from 0 on.",
        )
    return TilePlan(_cut(width, tile, overlap), _cut(height, tile, overlap))


def _cut(length: int, tile: int, overlap: int) -> Side:
    if length <= tile:
        return Side(length, (Part(0, length, 0, length),), overlap)
    # In steps, of which the last may be cut off.
    steps, most = -(-length // ALIGNED), (tile - 2 * overlap) // ALIGNED
    count = -(-steps // most)
    borders = [*(steps * number // count * ALIGNED for number in range(count)), length]
    return Side(
        length,
        tuple(
            Part(max(0, first - overlap), min(length, last + overlap), first, last)
            for first, last in pairwise(borders)
        ),
        overlap,
    )


def side_of_tiles(side: int | None, limit: int | None, channels: int) -> int:
    """The side of tiles that fit in a request whatever they show.

    Args:
        side: What the user wants; None for the default, or less where the limit demands it.
        limit: The most bytes of an image in a request; None where there is no limit.
        channels: Of the image, of 8 bits.

    Raises:
        ConfigurationError: Such tiles may not fit, which would show when others are paid for.
    """
    most = isqrt(int(limit * _ROOM) // channels) if limit is not None else None
    if most is None:
        return side or TILE
    least = max(LEAST_TILE, 4 * OVERLAP)
    if side is None:
        side = max(min(TILE, most), least)
    if side > most:
        smaller = f", or have tiles of at most {most} pixels made" if most >= least else ""
        raise ConfigurationError(
            f"Tiles of {side} pixels may take more than the {limit} bytes of XALORA_INLINE_LIMIT",
            next_step=f"Raise it{smaller}.",
        )
    return side


def smaller_side(plan: TilePlan) -> int | None:
    """The side of the next smaller tiles than a plan's largest; None where no smaller ones are tried."""
    return next((side for side in SMALLER_TILES if side < plan.longest), None)


def scaled(place: int, factor: Fraction) -> int:
    """A place along a side of the image in pixels of the result, rounded."""
    return floor(place * factor + Fraction(1, 2))


def distinct(digests: Sequence[str]) -> dict[str, int]:
    """The contents of tiles with the first tile that has each."""
    first: dict[str, int] = {}
    for number, digest in enumerate(digests):
        first.setdefault(digest, number)
    return first
