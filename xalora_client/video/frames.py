"""The frames of a clip as tasks: each distinct one once, a few at a time, ahead of what is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..concurrency import run_in_thread
from ..errors import InputImageError
from ..files import Rename
from ..journal.records import ClaimOptions, Whole
from ..media.clips import Clip
from ..media.inputs import digest_of_array
from ..media.limits import FRAME_PIXELS
from ..parts import PartTask, RunPart, result_of
from ..results import REMOTE_ENGINE, RunResult
from .folder import ClipFolder
from .plan import ClipPlan, MadeFrame, lookahead
from .report import ProgressCallback

SURELY_FITS = FRAME_PIXELS // 16
"""Pixels of a frame that even four times as wide and high is not too large."""

Pixels8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class VideoOptions:
    """See :meth:`xalora_client.AsyncXalora.upscale_video`.

    Args:
        claim: What may answer a frame's task instead of a new one.
        asks_network: Whether anything may be sent.
        key: What :func:`.upscaling.clip_key` gives, where it is known.
        rename: Gives the whole file its name.
    """

    max_in_flight: int
    max_tasks: int | None = None
    engine: str | None = None
    same_engine: bool = False
    task: Mapping[str, Any] = field(default_factory=dict)
    claim: ClaimOptions = field(default_factory=ClaimOptions)
    asks_network: bool = True
    key: str | None = None
    rename: Rename = Path.replace
    on_progress: ProgressCallback = field(default=lambda progress: None)


@dataclass
class FrameResult:
    """A frame's result: the file, and what keeps it there."""

    file: Path
    made: MadeFrame
    result: RunResult | None = None


class Frames:
    """The results of a clip's frames.

    Args:
        whole: What lists show the frames as parts of.
        run_frame: Gets the result of one frame.
        read: Has the thread that decodes the clip do a step.
        tell: Called when a task has begun or ended.

    Attributes:
        engine: The one that has to make all frames that begin from now on; None for any.
        made: How many results have come.
        size_known: Set once the first result was decoded, and is not too large.
    """

    def __init__(
        self,
        clip: Clip,
        folder: ClipFolder,
        options: VideoOptions,
        whole: Whole,
        run_frame: RunPart,
        read: Callable[[Callable[[], Pixels8 | None]], Awaitable[Pixels8 | None]],
        tell: Callable[[], None],
    ) -> None:
        self._clip, self._folder, self._options = clip, folder, options
        self._whole, self._run_frame, self._read, self._tell = whole, run_frame, read, tell
        self._places = asyncio.Semaphore(options.max_in_flight)
        self._results: dict[str, asyncio.Future[FrameResult]] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._has_failed = False
        self._written = 0
        self._segment_written = asyncio.Event()
        self.engine = options.engine
        self.made = 0
        self.size_known = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Tasks under way."""
        return len(self._under_way)

    async def make(self, plan: ClipPlan, start: int, reading: Iterator[Pixels8]) -> None:
        """Decode the frames from ``start`` on, and begin a task for each content that has none."""
        self._written = start
        ahead = lookahead(self._options.max_in_flight)
        begun: set[str] = set()
        for frame in range(start, self._clip.frame_count):
            while frame >= self._written + ahead:
                self._segment_written.clear()
                await self._segment_written.wait()
            digest = plan.digests[frame]
            if digest in begun:
                await self._read(lambda: next(reading, None))
                continue
            await self._places.acquire()
            if self._has_failed:
                return
            pixels = await self._read(lambda: next(reading, None))
            assert pixels is not None
            if await run_in_thread(partial(digest_of_array, pixels)) != digest:
                raise _changed(self._clip.path)
            begun.add(digest)
            making = asyncio.ensure_future(self._make(frame, digest, pixels))
            del pixels
            self._under_way.add(making)
            making.add_done_callback(self._ended)
            self._tell()
            if self._options.same_engine and self.engine is None:
                # Its engine makes all others.
                self.engine = (await asyncio.shield(self.result(digest))).made.engine
            if self._clip.width * self._clip.height > SURELY_FITS:
                # Frames that turn out too large are found out with one task.
                await self.size_known.wait()

    def result(self, digest: str) -> asyncio.Future[FrameResult]:
        """The result of the frames with this content, when it has come."""
        result = self._results.get(digest)
        if result is None:
            result = self._results[digest] = asyncio.get_running_loop().create_future()
            # An error that nobody gets to, since an earlier frame failed too, is not reported.
            result.add_done_callback(lambda done: done.cancelled() or done.exception())
        return result

    def take(self, digest: str) -> FrameResult:
        """The result of what no later frame needs; its file goes with the last reference to it."""
        return self._results.pop(digest).result()

    def written_to(self, frame: int) -> None:
        """All frames before this one are safe on disk."""
        self._written = frame
        self._segment_written.set()

    async def ended(self) -> None:
        """Return once no task is under way; what was sent is paid for, and its result is kept."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def cancel(self) -> None:
        """Cancel what is under way."""
        for task in self._under_way:
            task.cancel()
        await self.ended()

    def _ended(self, making: asyncio.Task[None]) -> None:
        self._under_way.discard(making)
        self._places.release()
        self._tell()

    async def _make(self, frame: int, digest: str, pixels: Pixels8) -> None:
        made = self.result(digest)
        try:
            result = await self._made_of(frame, digest, pixels)
        except Exception as error:  # noqa: BLE001 - raised where its frame is written
            self._has_failed = True
            if not made.done():
                made.set_exception(error)
        else:
            self.made += 1
            made.set_result(result)

    async def _made_of(self, frame: int, digest: str, pixels: Pixels8) -> FrameResult:
        kept = await run_in_thread(lambda: self._folder.here(digest))
        if kept is not None:
            return FrameResult(kept[0], MadeFrame(frame, kept[1]))
        task = PartTask.of(self._whole, f"frame {frame + 1}", pixels, **self._options.task)
        del pixels
        result, resends = await result_of(
            lambda: self._run_frame(task, lambda event: None, self.engine),
            f"Frame {frame + 1} of {self._clip.path.name}",
        )
        made, file = MadeFrame(frame, result.engine, resends), result.files[0]
        if result.engine == REMOTE_ENGINE:
            return FrameResult(file, made, result)
        # Nothing else remembers it, and the network would be asked for it again.
        kept_here = await run_in_thread(lambda: self._folder.keep_here(digest, result.engine, file))
        return FrameResult(kept_here, made)


def _changed(clip: Path) -> InputImageError:
    return InputImageError(
        f"{clip.name} was changed while it was being upscaled",
        money="The frames that were made are paid for and kept.",
        next_step="Run the same again: the changed clip begins anew, and equal frames are not sent again.",
    )
