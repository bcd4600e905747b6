"""What of a clip becomes a task, where its segments end, and which results may go. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

SEGMENT_SECONDS = 2.0
"""How much of a clip is written, and safe on disk, at once."""

SEGMENT_FRAMES = 120
"""The most frames of a segment: so many results are kept until it is written."""


@dataclass(frozen=True)
class ClipPlan:
    """The frames of a clip by their content. Equal frames have equal digests, and are one task.

    Args:
        digests: Of each frame's pixels, in the order they are shown.
        segments: Frames that are written to one file, without a gap from the first to the last.
    """

    digests: tuple[str, ...]
    segments: tuple[range, ...]
    _first_use: dict[str, int] = field(init=False, repr=False, compare=False)
    _last_use: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        first: dict[str, int] = {}
        for frame, digest in enumerate(self.digests):
            first.setdefault(digest, frame)
        object.__setattr__(self, "_first_use", first)
        object.__setattr__(self, "_last_use", {digest: frame for frame, digest in enumerate(self.digests)})

    @property
    def distinct(self) -> int:
        """How many frames differ from all others."""
        return len(self._last_use)

    def needed_from(self, start: int) -> list[str]:
        """The contents of the frames from ``start`` on, each once: a result is needed for each."""
        return [digest for digest, last in self._last_use.items() if last >= start]

    def is_first(self, frame: int) -> bool:
        """Whether no frame before is equal."""
        return self._first_use[self.digests[frame]] == frame

    def done_with(self, segment: range) -> list[str]:
        """The contents that no frame after this segment has: their results may go once it is on disk."""
        within = dict.fromkeys(self.digests[frame] for frame in segment)
        return [digest for digest in within if self._last_use[digest] < segment.stop]


def cut(seconds: Sequence[float]) -> tuple[range, ...]:
    """The segments of a clip whose frames are shown at these seconds, in order."""
    segments: list[range] = []
    start = 0
    for frame, time in enumerate(seconds):
        if frame - start >= SEGMENT_FRAMES or time - seconds[start] >= SEGMENT_SECONDS:
            segments.append(range(start, frame))
            start = frame
    segments.append(range(start, len(seconds)))
    return tuple(segments)


def in_proportion(given: tuple[int, int], made: tuple[int, int]) -> bool:
    """Whether a result of this width and height shows all of a frame of that: it is as many times wider as
    higher, but for rounding.
    """
    factor = max(made[0] / given[0], made[1] / given[1])
    return all(abs(side * factor - got) <= max(1.0, factor) for side, got in zip(given, made, strict=True))


def lookahead(max_in_flight: int) -> int:
    """How many frames may be begun beyond those that are safe on disk.

    A whole segment, and some more: a slow task at its end must not leave the other miners idle.
    """
    return SEGMENT_FRAMES + 2 * max_in_flight


@dataclass(frozen=True)
class MadeFrame:
    """How a frame that is in a written segment was made.

    Args:
        frame: Its number, from 0; of equal frames the first.
        engine: ``xalora`` (the network), or an engine of this machine.
        resends: How often its task failed and was sent again.
        is_scaled: It came in another size than the video's, and was scaled to that.
    """

    frame: int
    engine: str
    resends: int = 0
    is_scaled: bool = False


def counts(frames: Collection[MadeFrame]) -> dict[str, int]:
    """How many frames each engine made."""
    return dict(Counter(made.engine for made in frames))
