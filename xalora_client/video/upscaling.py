"""A clip upscaled frame by frame: decoded in order, each distinct frame a task, encoded as they return.

The frames' tasks are ordinary ones: what an earlier call paid for is taken up from the journal. A frame
counts as delivered once its segment is on disk; then its result goes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import av
import numpy as np
import numpy.typing as npt

from ..concurrency import run_all_or_cancel, run_in_thread
from ..errors import ConfigurationError, JournalError, ResultSaveError, ResultTooLargeError, XaloraError
from ..files import digest_of
from ..journal.records import Whole
from ..journal.spending import sent_in
from ..media import workers
from ..media.animation import on_black
from ..media.clip_writer import SegmentWriter, check_output, fitted, join
from ..media.clips import Clip, frame_digest, open_clip
from ..media.containers import BrokenMediaError
from ..media.images import errors_of_result
from ..media.limits import FRAME_PIXELS, TooLargeError, check_frame_size, using
from ..parts import PartTask, RunPart, is_sent_again, seconds_left, warnings_once
from ..results import REMOTE_ENGINE, RunResult, add_result_to_errors
from ..text import counted
from .folder import VIDEOS_FOLDER, ClipFolder
from .plan import ClipPlan, MadeFrame, counts, cut, lookahead

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..config import Settings

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

READ_AT_ONCE = 16
"""How many frames are looked through between two looks for a cancel."""

SURELY_FITS = FRAME_PIXELS // 16
"""Pixels of a frame that even four times as wide and high is not too large."""

_FORM = "1"
"""Names how frames are sent and written; a clip that was begun in another form begins anew."""


@dataclass(frozen=True, kw_only=True)
class VideoProgress:
    """How far a clip is.

    Attributes:
        stage: ``reading`` (which frames differ is found out; nothing is sent), ``upscaling``, or ``joining``
            (the file is written).
        frames: How many the clip has.
        tasks: How many of them differ, each of which is a task; 0 while reading.
        left: How many tasks were left when this call began to upscale: those of written segments are not.
        done: Frames that are written, or read.
        made: Results that this call has, of those left.
        in_flight: Tasks under way.
        seconds_left: An estimate, None without one.
    """

    stage: Literal["reading", "upscaling", "joining"]
    frames: int
    tasks: int = 0
    left: int = 0
    done: int = 0
    made: int = 0
    in_flight: int = 0
    seconds_left: float | None = None


ProgressCallback: TypeAlias = Callable[[VideoProgress], None]


@dataclass(frozen=True, kw_only=True)
class UpscaledVideo:
    """An upscaled clip on disk, and how it was made.

    Attributes:
        path: The file.
        width, height: Pixels.
        frames: How many there are.
        tasks: How many of them differ, each of which was a task.
        sent: How many tasks were sent for it, by earlier calls that were interrupted too; kept results of
            equal frames are not among them. None where the journal can't be read.
        engines: How many of the different frames each engine made: ``xalora`` is the network.
        made_here: The numbers, from 0, of the frames that this machine made; of equal ones the first.
        resent: Those of the frames whose task failed and was sent again.
        notes: Sentences for people: that the clip has 10 bits, that frames were scaled.
    """

    path: Path
    width: int
    height: int
    frames: int
    tasks: int
    sent: int | None
    engines: dict[str, int]
    made_here: tuple[int, ...] = ()
    resent: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Result:
    """A frame's result: the file, and what keeps it there."""

    file: Path
    made: MadeFrame
    result: RunResult | None = None


@dataclass(frozen=True)
class VideoOptions:
    """See :meth:`xalora_client.AsyncXalora.upscale_video`."""

    max_in_flight: int
    max_tasks: int | None = None
    engine: str | None = None
    same_engine: bool = False
    task: Mapping[str, Any] = field(default_factory=dict)
    on_progress: ProgressCallback = field(default=lambda progress: None)


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
    clip, output = open_clip(Path(source).expanduser()), Path(target).expanduser()
    check_output(clip, output)
    if output.resolve() == clip.path.resolve():
        raise ConfigurationError("The output is the clip itself", next_step="Name another file.")
    if output.is_dir():
        raise ConfigurationError(f"{output} is a folder", next_step="Name a file.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The folder {output.parent} can't be made: {error.strerror or error}",
            next_step="Name another file.",
        ) from error
    return clip, output


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
        self._whole = Whole(run_id, f"upscale {clip.path.name}")
        self._run_frame = None if run_frame is None else run_frame(run_id)
        self._reader = ThreadPoolExecutor(1, "xalora-clip-reading")
        self._decoder = ThreadPoolExecutor(1, "xalora-clip-decoding")
        self._encoder = ThreadPoolExecutor(1, "xalora-clip-writing")
        self._stopped = threading.Event()
        self._reading: Iterator[npt.NDArray[np.uint8]] | None = None
        self._writer: SegmentWriter | None = None
        self._places = asyncio.Semaphore(options.max_in_flight)
        self._results: dict[str, asyncio.Future[_Result]] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._has_failed = False
        self._written = 0
        self._segment_written = asyncio.Event()
        self._engine = options.engine
        self._size: tuple[int, int] | None = None
        self._size_known = asyncio.Event()
        self._made: list[MadeFrame] = []
        self.progress = VideoProgress(stage="reading", frames=clip.frame_count)
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
        self._written = plan.segments[written - 1].stop if written else 0
        await self._release_last(written)
        left = plan.tasks_from(self._written)
        self._tell(stage="upscaling", tasks=plan.distinct, left=left, done=self._written)
        most = self._options.max_tasks
        if most is not None and left > most:
            raise ConfigurationError(
                f"{clip.path.name} needs {counted(left, 'task')} ({plan.distinct} of {clip.frame_count} "
                f"frames differ), and {most} are the limit",
                next_step="Raise max_tasks, or give a shorter clip.",
            )
        return plan, written

    async def run(self) -> UpscaledVideo:
        plan, written = await self.prepare()
        clip, folder = self._clip, self._folder
        logger.info("%s: %d of %d frames differ", clip.path.name, plan.distinct, clip.frame_count)
        if self._options.same_engine and self._engine is None and self._made:
            self._engine = self._made[0].engine
        self._began = monotonic()
        if written < len(plan.segments):
            await self._upscale(plan, written)
        self._tell(stage="joining")
        await self._join([folder.segment(number) for number in range(len(plan.segments))])
        sent = await run_in_thread(self._sent)
        await run_in_thread(folder.remove)
        return self._report(plan, sent)

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
        known = await run_in_thread(self._folder.digests)
        if known is not None and len(known) == count:
            return known
        digests: list[str] = []
        reading = self._reading = self._clip.frames()

        def look() -> None:
            for _ in range(READ_AT_ONCE):
                pixels = next(reading, None)
                if pixels is None:
                    return
                digests.append(frame_digest(pixels))

        while len(digests) < count:
            await self._read(look)
            self._tell(done=len(digests))
        await self._read(lambda: next(reading, None))
        await run_in_thread(lambda: self._folder.keep_digests(digests))
        return tuple(digests)

    # --- tasks and segments ---------------------------------------------------------------------------------

    async def _upscale(self, plan: ClipPlan, first: int) -> None:
        try:
            await run_all_or_cancel([self._feed(plan), self._write(plan, first)])
        except XaloraError:
            # What is under way is paid for, and its results are kept.
            await self._await_frames()
            raise
        finally:
            for task in self._under_way:
                task.cancel()
            await self._await_frames()

    async def _await_frames(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _feed(self, plan: ClipPlan) -> None:
        """Decode the frames that are left, and begin a task for each content that has none."""
        reading = self._reading = self._clip.frames(self._written)
        ahead = lookahead(self._options.max_in_flight)
        begun: set[str] = set()
        for frame in range(self._written, self._clip.frame_count):
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
            begun.add(digest)
            making = asyncio.ensure_future(self._make(frame, digest, pixels, self._result(digest)))
            del pixels
            self._under_way.add(making)
            making.add_done_callback(self._ended)
            self._tell()
            if self._options.same_engine and self._engine is None:
                # Its engine makes all others.
                self._engine = (await asyncio.shield(self._result(digest))).made.engine
            if self._size is None and self._clip.width * self._clip.height > SURELY_FITS:
                # Frames that turn out too large are found out with one task.
                await self._size_known.wait()

    def _ended(self, making: asyncio.Task[None]) -> None:
        self._under_way.discard(making)
        self._places.release()
        self._tell()

    def _result(self, digest: str) -> asyncio.Future[_Result]:
        result = self._results.get(digest)
        if result is None:
            result = self._results[digest] = asyncio.get_running_loop().create_future()
            # An error that nobody gets to, since an earlier frame failed too, is not reported.
            result.add_done_callback(lambda done: done.cancelled() or done.exception())
        return result

    async def _make(
        self,
        frame: int,
        digest: str,
        pixels: npt.NDArray[np.uint8],
        made: asyncio.Future[_Result],
    ) -> None:
        try:
            result = await self._made_of(frame, digest, pixels)
        except Exception as error:  # noqa: BLE001 - raised where its frame is written
            self._has_failed = True
            if not made.done():
                made.set_exception(error)
        else:
            self.progress = replace(self.progress, made=self.progress.made + 1)
            made.set_result(result)

    async def _made_of(self, frame: int, digest: str, pixels: npt.NDArray[np.uint8]) -> _Result:
        kept = await run_in_thread(lambda: self._folder.here(digest))
        if kept is not None:
            return _Result(kept[0], MadeFrame(frame, kept[1]))
        task = PartTask.of(self._whole, f"frame {frame + 1}", pixels, **self._options.task)
        del pixels
        tries: list[XaloraError] = []
        while True:
            try:
                assert self._run_frame is not None
                result = await self._run_frame(task, lambda event: None, self._engine)
                break
            except XaloraError as error:
                tries.append(error)
                if not is_sent_again(tries):
                    self._explain(error, frame, len(tries))
                    raise
        made = MadeFrame(frame, result.engine, len(tries))
        if result.engine == REMOTE_ENGINE:
            return _Result(result.files[0], made, result)
        # Nothing else remembers it, and the network would be asked for it again.
        file = result.files[0]
        return _Result(await run_in_thread(lambda: self._folder.keep_here(digest, result.engine, file)), made)

    def _explain(self, error: XaloraError, frame: int, tries: int) -> None:
        times = f" {tries} times" if tries > 1 else ""
        error.what = f"Frame {frame + 1} of {self._clip.path.name}{times}: {error.what}"
        error.args = (error.what,)

    async def _write(self, plan: ClipPlan, first: int) -> None:
        """Encode the results in order, and make each segment safe on disk."""
        clip = self._clip
        coming = asyncio.ensure_future(self._pixels_of(plan.digests[self._written]))
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
                        coming = asyncio.ensure_future(self._pixels_of(after[0]))
                    await self._encode(partial(self._write_frame, frame, pixels))
                    del pixels
                    self._tell(done=frame + 1)
                await self._end_segment(plan, number, made)
        finally:
            coming.cancel()
            _ = coming.cancelled() or (coming.done() and coming.exception())

    async def _end_segment(self, plan: ClipPlan, number: int, made: list[MadeFrame]) -> None:
        segment = plan.segments[number]
        done = plan.done_with(segment)
        held = [self._results[digest].result().result for digest in done]
        records = [(each.record_id, each.job_id) for each in held if each is not None]
        del held
        await self._encode(lambda: self._finish(number, made, records))
        self._writer = None
        self._made += made
        self._written = segment.stop
        await self._let_go(done)
        self._segment_written.set()

    async def _pixels_of(self, digest: str) -> tuple[npt.NDArray[np.uint8], MadeFrame]:
        result = await self._result(digest)
        pixels = await self._on(self._decoder, lambda: self._pixels(result))
        self._size_known.set()
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

    def _pixels(self, result: _Result) -> npt.NDArray[np.uint8]:
        """A result's pixels ``[H, W, 3]``, brought to the size of the first one's."""
        if result.result is None:
            pixels = _decoded(result.file)
        else:
            with add_result_to_errors(result.result):
                pixels = _decoded(result.file)
        if self._size is None:
            try:
                check_frame_size(pixels.shape[1], pixels.shape[0])
            except TooLargeError as error:
                raise ResultTooLargeError(
                    f"The video can't be written: {error}",
                    money="What was made of it is paid for and kept.",
                    next_step="Scale the clip down first.",
                ) from error
            self._size = (pixels.shape[1], pixels.shape[0])
        if pixels.shape[1::-1] != self._size:
            result.made = replace(result.made, is_scaled=True)
        return fitted(pixels, *self._size)

    async def _let_go(self, digests: list[str]) -> None:
        """Note that these frames are delivered, and remove their results."""
        record_ids: list[int] = []
        for digest in digests:
            held = self._results.pop(digest).result()
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

    async def _join(self, files: list[Path]) -> None:
        def write() -> None:
            join(files, self._clip, self._output, self._stopped.is_set)

        try:
            await self._encode(write)
        except (OSError, av.FFmpegError) as error:
            raise _not_written(self._output, error) from error

    def _sent(self) -> int | None:
        try:
            return sum(one.count for one in sent_in(self._client.journal.read, self._run_id))
        except XaloraError:
            return None

    def _report(self, plan: ClipPlan, sent: int | None) -> UpscaledVideo:
        assert self._size is not None
        notes: list[str] = []
        clip = self._clip
        if clip.bits > 8:
            notes.append(f"The clip has {clip.bits} bits a channel; its frames were sent, and written, in 8.")
        if scaled := sum(made.is_scaled for made in self._made):
            notes.append(f"{counted(scaled, 'frame')} came in another size and were scaled to the first's.")
        width, height = (side + side % 2 for side in self._size)
        return UpscaledVideo(
            path=self._output,
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
        progress = replace(self.progress, in_flight=len(self._under_way), **changes)
        left = None
        if progress.stage == "upscaling" and self._began:
            left = seconds_left(monotonic() - self._began, progress.made, progress.left - progress.made)
        self.progress = replace(progress, seconds_left=left)
        self._options.on_progress(self.progress)


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
