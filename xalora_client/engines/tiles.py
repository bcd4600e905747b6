"""Tiles of an image, as rectangles without pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image in pixels; ``bottom`` and ``right`` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def side(self) -> int:
        """The longer of its sides."""
        return max(self.height, self.width)

    def widened(self, margin: int, height: int, width: int, align: int = 1) -> Tile:
        """The tile with up to ``margin`` more pixels on every side, within an image of that size.

        Its corner stays on a multiple of ``align``: some models process blocks of pixels, and their result
        depends on the position in the block.
        """
        return Tile(
            max(0, (self.top - margin) // align * align),
            max(0, (self.left - margin) // align * align),
            min(height, self.bottom + margin),
            min(width, self.right + margin),
        )

    def cut(self, side: int, align: int = 1) -> list[Tile]:
        """The tile in about equal parts of at most ``side`` pixels (but at least ``align``) each way."""
        return [
            Tile(top, left, bottom, right)
            for top, bottom in _cuts(self.top, self.bottom, side, align)
            for left, right in _cuts(self.left, self.right, side, align)
        ]


def _cuts(start: int, stop: int, side: int, align: int) -> Iterator[tuple[int, int]]:
    parts = -(-(stop - start) // side)
    step = -(-(stop - start) // parts)
    step = max(align, min(-(-step // align) * align, side // align * align))
    for position in range(start, stop, step):
        yield position, min(position + step, stop)
