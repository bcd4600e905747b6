"""Results of tiles blended to rows of the whole image, a band at a time. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from .plan import TilePlan, scaled

Pixels8 = npt.NDArray[np.uint8]

BAND = 64
"""Rows of the result that are blended at once, in floats."""


@dataclass
class _Row:
    """The results of a row of tiles, from a row of the whole result on."""

    top: int
    weights: npt.NDArray[np.float32]
    tiles: list[Pixels8]


class Blending:
    """The tiles of an image put together, one row of them after another.

    It holds the results of one row of tiles as they came, and of the row before what the two share.

    Args:
        plan: How the image is cut.
        factor: How many times larger the results are than the tiles.
        channels: Of the results: 3 or 4.
    """

    def __init__(self, plan: TilePlan, factor: Fraction, channels: int) -> None:
        self._plan, self._factor, self._channels = plan, factor, channels
        self.width = scaled(plan.across.length, factor)
        self.height = scaled(plan.down.length, factor)
        self._across = [plan.across.weights(column, factor) for column in range(plan.columns)]
        self._lefts = [scaled(part.start, factor) for part in plan.across.parts]
        self._spans = [plan.across.counting(column, factor) for column in range(plan.columns)]
        self._before: _Row | None = None
        self._done = 0

    def rows(self, number: int, tiles: Sequence[Pixels8]) -> Iterator[Pixels8]:
        """The rows of the result that are complete with this row of tiles, in bands.

        Args:
            number: Of the row of tiles, one after another from 0.
            tiles: Its results ``[H, W, channels]``, from left to right.
        """
        plan, factor = self._plan, self._factor
        top = scaled(plan.down.parts[number].start, factor)
        current = _Row(top, plan.down.weights(number, factor), list(tiles))
        complete = plan.down.complete(number, factor)
        while self._done < complete:
            start, stop = self._done, min(self._done + BAND, complete)
            band = np.zeros((stop - start, self.width, self._channels), np.float32)
            for row in (self._before, current):
                if row is not None:
                    self._add(row, start, stop, band)
            band += np.float32(0.5)
            self._done = stop
            yield band.astype(np.uint8)
        kept = complete - top
        self._before = _Row(
            complete, current.weights[kept:].copy(), [tile[kept:].copy() for tile in current.tiles]
        )

    def _add(self, row: _Row, start: int, stop: int, band: npt.NDArray[np.float32]) -> None:
        first, last = max(start, row.top), min(stop, row.top + len(row.weights))
        if first >= last:
            return
        down = row.weights[first - row.top : last - row.top, None, None]
        target = band[first - start : last - start]
        for tile, across, left, (begin, end) in zip(
            row.tiles, self._across, self._lefts, self._spans, strict=True
        ):
            inside = slice(begin - left, end - left)
            shown = tile[first - row.top : last - row.top, inside]
            target[:, begin:end] += shown * (down * across[None, inside, None])
