"""The bar and the line of the node that upscales a video. No I/O and no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...xalora_client.text import counted, differing, seconds_text

if TYPE_CHECKING:
    from ...xalora_client.video.report import UpscaledVideo, VideoProgress


class ClipProgress:
    """A node's bar and line while a video is upscaled."""

    def __init__(self) -> None:
        self._progress: VideoProgress | None = None
        self._cost = ""

    def note(self, progress: VideoProgress, cost: str) -> None:
        """Take in how far the video is; ``cost`` is that of its tasks by the user's prices, may be empty."""
        self._progress, self._cost = progress, cost

    def results(self) -> tuple[int, int]:
        """How many results there are, and of how many tasks."""
        progress = self._progress
        return (
            (0, 0) if progress is None else (progress.tasks - progress.left + progress.made, progress.tasks)
        )

    def bar(self, now: float) -> tuple[float, float]:
        """``(frames done, frames)``"""
        progress = self._progress
        return (0, 1) if progress is None else (progress.done, progress.frames)

    def line(self, now: float) -> str:
        """``512/1500 frames, 8 tasks in flight, about 3 min left``"""
        progress = self._progress
        if progress is None:
            return "reading the video"
        frames = f"{progress.done}/{progress.frames} frames"
        if progress.stage == "reading":
            return f"reading {frames}"
        if progress.stage == "joining":
            return "writing the video"
        if not progress.made and not progress.done:
            cost = f", about {self._cost}" if self._cost else ""
            differ = differing(progress.tasks, progress.frames, "frame")
            return f"{differ}: {counted(progress.to_send, 'task')}{cost}"
        parts = [frames]
        if progress.in_flight:
            parts.append(f"{counted(progress.in_flight, 'task')} in flight")
        if progress.seconds_left:
            parts.append(f"about {seconds_text(progress.seconds_left)} left")
        return ", ".join(parts)


def summary(made: UpscaledVideo, seconds: float) -> str:
    """The line that stays on the node: ``256 x 128, 24 frames in 3.2 s by xalora``."""
    line = f"{made.width} x {made.height}, {made.frames} frames in {seconds_text(seconds)}"
    if len(made.engines) == 1:
        line += f" by {next(iter(made.engines))}"
    else:
        line += ": " + ", ".join(f"{count} by {engine}" for engine, count in made.engines.items())
    return "; ".join([line, *(note.rstrip(".") for note in made.notes)])
