"""A clip upscaled frame by frame: decoded in order, each distinct frame a task, encoded as they return.

The frames' tasks are ordinary ones: what an earlier call paid for is taken up from the journal. A frame
counts as delivered once its segment is on disk; then its result goes. One class, since reading, encoding and
joining share the call's threads and its folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import av
import numpy as np
import numpy.typing as npt

from ..concurrency import run_all_or_cancel, run_in_thread
from ..errors import ConfigurationError, JournalError, ResultSaveError, ResultTooLargeError, XaloraError
from ..files import digest_of
from ..journal.records import Whole
from ..media import workers
from ..media.animation import on_black
from ..media.clip_writer import SegmentWriter, check_output, fitted, join
from ..media.clips import Clip, open_clip
from ..media.containers import BrokenMediaError
from ..media.images import errors_of_result, read_result_header
from ..media.inputs import digest_of_array
from ..media.limits import TooLargeError, check_frame_size, using
from ..parts import RunPart, check_new, count_new, output_file, seconds_left, tasks_sent, warnings_once
from ..results import REMOTE_ENGINE, add_result_to_errors
from ..text import differing, scaled_text
from .folder import VIDEOS_FOLDER, ClipFolder
from .frames import FrameResult, Frames, VideoOptions
from .plan import ClipPlan, MadeFrame, counts, cut, in_proportion
from .report import UpscaledVideo, VideoProgress

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..config import Settings

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

LOOKED_AT = 3
"""Results whose size is looked at before the first frame is written."""

READ_AT_ONCE = 16
"""How many frames are looked through between two looks for a cancel."""

_FORM = "2"
"""Names how frames are sent and written; a clip that was begun in another form begins anew."""


async def upscale_video(
    client: AsyncXalora,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: VideoOptions,
    run_frame: Callable[[str], RunPart],
) -> UpscaledVideo:
    """Upscale a clip; see :meth:`xalora_client.AsyncXalora.upscale_video`.

    Args:
        run_frame: Given the id of what is sent together, what gets the result of one frame.
    """
    async with _held(client, source, output, options, run_frame) as upscaling:
        return await upscaling.run()


async def look_through(
    client: AsyncXalora,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: VideoOptions,
) -> VideoProgress:
    """How many tasks :func:`upscale_video` would send, or take up; nothing is sent.

    Raises:
        XaloraError: As :func:`upscale_video` before it sends.
    """

    async with _held(client, source, output, options, None) as upscaling:
        await upscaling.prepare()
        return upscaling.progress


@asynccontextmanager
async def _held(
    client: AsyncXalora,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: VideoOptions,
    run_frame: Callable[[str], RunPart] | None,
) -> AsyncIterator[_Upscaling]:
    """A call that has the clip's folder for itself, and ends what it has begun."""
    if options.max_in_flight < 1:
        raise ConfigurationError(f"max_in_flight is {options.max_in_flight}; at least 1 is needed")
    clip, target = await run_in_thread(lambda: _opened(source, output))
    key = options.key
    if key is None:
        key = await run_in_thread(lambda: clip_key(client.settings, clip.path, options.task))
    folder = ClipFolder(client.settings.state_dir / VIDEOS_FOLDER, key)
    with folder.held():
        upscaling = _Upscaling(client, clip, folder, target, options, whole_id_of(key), run_frame)
        with warnings_once():
            try:
                yield upscaling
            finally:
                await upscaling.end()


def clip_key(settings: Settings, path: Path, task: Mapping[str, Any]) -> str:
    """Names what is made of a clip: by its bytes, the network, who pays, and the workflow. Blocking.

    Raises:
        OSError: The clip can't be read.
    """
    own = settings.credentials().consumer_id if settings.api_key is not None else ""
    who = (task.get("consumer_id") or own, task.get("workflow_id") or "")
    named = "\n".join([_FORM, digest_of(path), settings.sequencer_url, *who])
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def whole_id_of(key: str) -> str:
    """Under what id the journal has the frames of the clip with this key, see :class:`.Whole`."""
    return f"video-{key}"


def _opened(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> tuple[Clip, Path]:
    """The clip, and the file that it may be written to, whose folder is made."""
    clip = open_clip(Path(source).expanduser())
    check_output(clip, Path(target).expanduser())
    return clip, output_file(target, clip.path, "clip")


class _Upscaling:
    """One call. Reading, decoding and encoding have a thread each, whose steps follow one another."""

    def __init__(
        self,
        client: AsyncXalora,
        clip: Clip,
        folder: ClipFolder,
        output: Path,
        options: VideoOptions,
        run_id: str,
        run_frame: Callable[[str], RunPart] | None,
    ) -> None:
        self._client, self._clip, self._folder, self._output = client, clip, folder, output
        self._options = options
        self._run_id = run_id
        self._run_frame = run_frame
        self._reader = ThreadPoolExecutor(1, "xalora-clip-reading")
        self._decoder = ThreadPoolExecutor(1, "xalora-clip-decoding")
        self._encoder = ThreadPoolExecutor(1, "xalora-clip-writing")
        self._stopped = threading.Event()
        self._reading: Iterator[npt.NDArray[np.uint8]] | None = None
        self._writer: SegmentWriter | None = None
        self._frames: Frames | None = None
        self._sent_before: int | None = 0
        self._start = 0
        self._size: tuple[int, int] | None = None
        self._made: list[MadeFrame] = []
        self.progress = VideoProgress(stage="reading", frames=clip.frame_count, whole_id=run_id)
        self._began = 0.0

    async def prepare(self) -> tuple[ClipPlan, int]:
        """Find out what is left to do: the plan, and how many segments are written.

        Raises:
            ConfigurationError: More tasks are left than the user allows.
        """
        clip, folder = self._clip, self._folder
        plan = ClipPlan(await self._digests(), cut([clip.seconds(n) for n in range(clip.frame_count)]))
        written = min(await run_in_thread(folder.written), len(plan.segments))
        self._size, self._made = await run_in_thread(lambda: folder.noted(written))
        self._start = plan.segments[written - 1].stop if written else 0
        await self._release_last(written)
        needed = plan.needed_from(self._start)
        new = await run_in_thread(lambda: self._count_new(needed))
        self._tell(stage="upscaling", tasks=plan.distinct, left=len(needed), to_send=new, done=self._start)
        check_new(
            clip.path.name,
            differing(plan.distinct, clip.frame_count, "frame"),
            plan.distinct,
            new,
            self._options.max_tasks,
            "Raise max_tasks, or give a shorter clip.",
        )
        return plan, written

    def _count_new(self, needed: list[str]) -> int:
        """How many results of these contents are new tasks."""
        client, options = self._client, self._options
        engines = {options.engine, *(made.engine for made in self._made[:1] if options.same_engine)}
        if not options.asks_network or engines - {None, REMOTE_ENGINE}:
            return 0
        missing = [digest for digest in needed if self._folder.here(digest) is None]
        return count_new(client.journal, client.settings, options.task, missing, options.claim)

    async def run(self) -> UpscaledVideo:
        plan, written = await self.prepare()
        clip, folder = self._clip, self._folder
        logger.info("%s: %d of %d frames differ", clip.path.name, plan.distinct, clip.frame_count)
        self._began = monotonic()
        if written < len(plan.segments):
            await self._upscale(plan, written)
        self._tell(stage="joining")
        path = await self._join([folder.segment(number) for number in range(len(plan.segments))])
        sent, before = await run_in_thread(self._sent), self._sent_before
        sent = None if sent is None or before is None else sent - before
        await run_in_thread(folder.remove)
        return self._report(path, plan, sent)

    async def end(self) -> None:
        """End the threads, after the step that each is in."""
        self._stopped.set()
        writer, reading = self._writer, self._reading
        if writer is not None:
            self._encoder.submit(writer.__exit__, None, None, None)
        if reading is not None:
            self._reader.submit(reading.close)  # type: ignore[attr-defined]

        def wait() -> None:
            for thread in (self._reader, self._decoder, self._encoder):
                thread.shutdown()

        await run_in_thread(wait)

    # --- which frames differ --------------------------------------------------------------------------------

    async def _digests(self) -> tuple[str, ...]:
        count = self._clip.frame_count
        known = await run_in_thread(self._folder.begun)
        if known is not None and len(known[0]) == count:
            digests_before, self._sent_before = known
            return digests_before
        digests: list[str] = []
        reading = self._reading = self._clip.frames()

        def look() -> None:
            for _ in range(READ_AT_ONCE):
                pixels = next(reading, None)
                if pixels is None:
                    return
                digests.append(digest_of_array(pixels))

        while len(digests) < count:
            await self._read(look)
            self._tell(done=len(digests))
        await self._read(lambda: next(reading, None))
        self._sent_before = await run_in_thread(self._sent)
        await run_in_thread(lambda: self._folder.begin(digests, self._sent_before))
        return tuple(digests)

    # --- tasks and segments ---------------------------------------------------------------------------------

    async def _upscale(self, plan: ClipPlan, first: int) -> None:
        assert self._run_frame is not None
        clip, run_id = self._clip, self._run_id
        whole = Whole(run_id, f"upscale {clip.path.name}")
        frames = Frames(
            clip, self._folder, self._options, whole, self._run_frame(run_id), self._read, self._tell
        )
        self._frames = frames
        if self._made:
            frames.size_known.set()
            if self._options.same_engine and frames.engine is None:
                frames.engine = self._made[0].engine
        reading = self._reading = clip.frames(self._start)
        try:
            making, writing = frames.make(plan, self._start, reading), self._write(frames, plan, first)
            await run_all_or_cancel([making, writing])
        except XaloraError:
            # What is under way is paid for, and its results are kept.
            await frames.ended()
            raise
        finally:
            await frames.cancel()

    async def _write(self, frames: Frames, plan: ClipPlan, first: int) -> None:
        """Encode the results in order, and make each segment safe on disk."""
        clip = self._clip
        coming = asyncio.ensure_future(self._pixels_of(frames, plan, plan.digests[self._start]))
        try:
            for number in range(first, len(plan.segments)):
                segment = plan.segments[number]
                path = self._folder.segment(number)
                self._writer = SegmentWriter(path, clip.time_base, _rate(clip), clip.colours, clip.aspect)
                made: list[MadeFrame] = []
                for frame in segment:
                    digest, after = plan.digests[frame], plan.digests[frame + 1 : frame + 2]
                    pixels, how = await coming
                    if plan.is_first(frame):
                        made.append(how)
                    if after and after[0] != digest:
                        # Decoded while this one is encoded.
                        coming = asyncio.ensure_future(self._pixels_of(frames, plan, after[0]))
                    await self._encode(partial(self._write_frame, frame, pixels))
                    del pixels
                    self._tell(done=frame + 1)
                await self._end_segment(frames, plan, number, made)
        finally:
            coming.cancel()
            _ = coming.cancelled() or (coming.done() and coming.exception())

    async def _end_segment(self, frames: Frames, plan: ClipPlan, number: int, made: list[MadeFrame]) -> None:
        segment = plan.segments[number]
        done = plan.done_with(segment)
        held = [frames.result(digest).result().result for digest in done]
        records = [(each.record_id, each.job_id) for each in held if each is not None]
        del held
        await self._encode(lambda: self._finish(number, made, records))
        self._writer = None
        self._made += made
        await self._let_go(frames, done)
        frames.written_to(segment.stop)

    async def _size_of(self, frames: Frames, plan: ClipPlan) -> tuple[int, int]:
        """The size of the video: that of the first result in the clip's proportions.

        One in other proportions may be a miner's fault, so up to three results are looked at. If none has
        them, it is the first one's.
        """
        clip, sizes = self._clip, list[tuple[int, int]]()
        for digest in list(dict.fromkeys(plan.digests[self._start :]))[:LOOKED_AT]:
            result = await frames.result(digest)
            size = await self._on(self._decoder, lambda result=result: _checked_size(result))  # type: ignore[misc]
            # One result of a large frame is enough to begin the others.
            frames.size_known.set()
            sizes.append(size)
            if in_proportion((clip.width, clip.height), size):
                return size
        return sizes[0]

    async def _pixels_of(
        self, frames: Frames, plan: ClipPlan, digest: str
    ) -> tuple[npt.NDArray[np.uint8], MadeFrame]:
        result = await frames.result(digest)
        if self._size is None:
            self._size = await self._size_of(frames, plan)
        pixels = await self._on(self._decoder, lambda: self._pixels(result))
        return pixels, result.made

    def _write_frame(self, frame: int, pixels: npt.NDArray[np.uint8]) -> None:
        assert self._writer is not None
        try:
            self._writer.write(pixels, self._clip.times[frame])
        except (OSError, av.FFmpegError) as error:
            raise _not_written(self._folder.path, error) from error

    def _finish(self, number: int, made: list[MadeFrame], records: list[tuple[int | None, str]]) -> None:
        assert self._writer is not None and self._size is not None
        try:
            self._folder.note(number, self._size, made, records)
            self._writer.finish()
        except (OSError, av.FFmpegError) as error:
            raise _not_written(self._folder.path, error) from error

    def _pixels(self, result: FrameResult) -> npt.NDArray[np.uint8]:
        """A result's pixels ``[H, W, 3]``, brought to the size of the video."""
        if result.result is None:
            pixels = _decoded(result.file)
        else:
            with add_result_to_errors(result.result):
                pixels = _decoded(result.file)
        assert self._size is not None
        if pixels.shape[1::-1] != self._size:
            result.made = replace(result.made, is_scaled=True)
        return fitted(pixels, *self._size)

    async def _let_go(self, frames: Frames, digests: list[str]) -> None:
        """Note that these frames are delivered, and remove their results."""
        record_ids: list[int] = []
        for digest in digests:
            held = frames.take(digest)
            if held.result is None:
                await run_in_thread(lambda digest=digest: self._folder.drop_here(digest))  # type: ignore[misc]
            elif held.result.record_id is not None:
                record_ids.append(held.result.record_id)
            # With it goes the lease on its files.
            held.result = None
            del held
        await self._release(record_ids)

    async def _release(self, record_ids: list[int]) -> None:
        if not record_ids:
            return
        self._client.note_delivered(record_ids)
        # A journal that another program holds keeps the files for longer, until its limit.
        with suppress(JournalError):
            await asyncio.wrap_future(self._client.journal.release_files(record_ids))

    async def _release_last(self, written: int) -> None:
        """Let the results of the last written segment go: its process may have died before it could."""
        journal = self._client.journal

        def still_there() -> list[int]:
            with suppress(JournalError):
                # Their job ids tell whether it is the same journal.
                pairs = self._folder.records(written - 1)
                found = [(journal.find(record_id), job_id) for record_id, job_id in pairs]
                return [
                    record.id for record, job_id in found if record is not None and record.job_id == job_id
                ]
            return []

        if written:
            await self._release(await run_in_thread(still_there))

    # --- the end --------------------------------------------------------------------------------------------

    async def _join(self, files: list[Path]) -> Path:
        def write() -> Path:
            return join(files, self._clip, self._output, self._stopped.is_set, self._options.rename)

        try:
            return await self._encode(write)
        except (OSError, av.FFmpegError) as error:
            raise _not_written(self._output, error) from error

    def _sent(self) -> int | None:
        return tasks_sent(self._client.journal, self._run_id)

    def _report(self, path: Path, plan: ClipPlan, sent: int | None) -> UpscaledVideo:
        assert self._size is not None
        notes: list[str] = []
        clip = self._clip
        if clip.bits > 8:
            notes.append(f"The clip has {clip.bits} bits a channel; its frames were sent, and written, in 8.")
        if clip.has_alpha:
            notes.append("The clip is transparent in parts; that was left out, as H.264 can't hold it.")
        if scaled := sum(made.is_scaled for made in self._made):
            notes.append(scaled_text(scaled, "frame", "the others'"))
        width, height = (side + side % 2 for side in self._size)
        return UpscaledVideo(
            path=path,
            width=width,
            height=height,
            frames=clip.frame_count,
            tasks=plan.distinct,
            sent=sent,
            engines=counts(self._made),
            made_here=tuple(made.frame for made in self._made if made.engine != REMOTE_ENGINE),
            resent=tuple(made.frame for made in self._made if made.resends),
            notes=tuple(notes),
        )

    # --- helpers --------------------------------------------------------------------------------------------

    async def _read(self, step: Callable[[], T]) -> T:
        return await self._on(self._reader, step)

    async def _encode(self, step: Callable[[], T]) -> T:
        return await self._on(self._encoder, step)

    async def _on(self, thread: ThreadPoolExecutor, step: Callable[[], T]) -> T:
        """Have a thread do a step, within the limits of pixels."""
        limits = self._client.settings.pixel_limits

        def limited() -> T:
            with using(limits):
                return step()

        return await asyncio.get_running_loop().run_in_executor(thread, limited)

    def _tell(self, **changes: Any) -> None:
        if (frames := self._frames) is not None:
            changes.update(in_flight=frames.in_flight, made=frames.made)
        progress = replace(self.progress, **changes)
        left = None
        if progress.stage == "upscaling" and self._began:
            left = seconds_left(monotonic() - self._began, progress.made, progress.left - progress.made)
        self.progress = replace(progress, seconds_left=left)
        self._options.on_progress(self.progress)


def _checked_size(result: FrameResult) -> tuple[int, int]:
    """Width and height of a result. Blocking.

    Raises:
        ResultTooLargeError: Frames of that size are not written.
        ResultFormatError: It is no image.
    """
    with ExitStack() as stack:
        if result.result is not None:
            stack.enter_context(add_result_to_errors(result.result))
        with errors_of_result():
            header = read_result_header(result.file)
        try:
            check_frame_size(header.width, header.height)
        except TooLargeError as error:
            raise ResultTooLargeError(
                f"The video can't be written: {error}",
                money="What was made of it is paid for and kept.",
                next_step="Scale the clip down first.",
            ) from error
    return header.width, header.height


def _decoded(file: Path) -> npt.NDArray[np.uint8]:
    with errors_of_result():
        for image in workers.images("sent_pixels", file):
            return on_black(image.stored())
        raise BrokenMediaError("it holds no image")


def _not_written(path: Path, error: OSError | av.FFmpegError) -> ResultSaveError:
    return ResultSaveError(
        f"The video can't be written to {path}: {error.strerror or error}",
        money="The frames that were made are paid for and kept.",
        next_step="Mend that and run the same again: it goes on there.",
    )


def _rate(clip: Clip) -> Fraction:
    """The average number of frames a second."""
    span = (clip.times[-1] - clip.times[0] + clip.durations[-1]) * clip.time_base
    rate = Fraction(clip.frame_count) / span if span else Fraction(25)
    return rate.limit_denominator(1001)
