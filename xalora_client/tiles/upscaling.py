"""A large image upscaled in tiles: each distinct tile a task, blended and written row by row as they return.

The tiles' tasks are ordinary ones: what an earlier call paid for is taken up from the journal. They count as
delivered once the whole image is on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np

from ..concurrency import run_all_or_cancel, run_decoding, run_in_thread
from ..engines.fallback_policy import falls_back
from ..errors import (
    NOTHING_CHARGED,
    NOTHING_SPENT,
    ConfigurationError,
    InputTooLargeError,
    ResultSaveError,
    XaloraError,
)
from ..events import EventCallback, FallingBack, TaskEvent, TileProgress
from ..files import Rename, draft_of, files_named, settle
from ..journal.records import ClaimOptions, Whole
from ..media import workers
from ..media.clip_writer import fitted
from ..media.containers import BrokenMediaError
from ..media.credits import credits_of
from ..media.image_files import ImageHeader
from ..media.images import errors_of_result, read_result_header
from ..media.inputs import ImageInput, digest_of_array, is_remote, sent_pixels
from ..media.row_writer import check_rows_format, open_rows
from ..parts import (
    PartTask,
    RunPart,
    check_new,
    count_new,
    output_file,
    result_of,
    seconds_left,
    tasks_sent,
    warnings_once,
)
from ..results import REMOTE_ENGINE, RunResult, add_result_to_errors
from ..text import counted, differing, scaled_text
from ..transfer.part_file import remove_left, try_lock
from .blending import Blending, Pixels8
from .plan import OVERLAP, TilePlan, distinct, plan_of, scaled, side_of_tiles, smaller_side

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..config import FallbackPolicy, Settings

Tiling: TypeAlias = Literal["auto", "always", "never"] | int
"""When an image is cut into tiles: where it is too large for one request, always, or never. A number is the
side of the tiles in pixels, and cuts every image that is larger."""

TOO_LARGE = 413
"""The HTTP status of a request that the network finds too large."""


@dataclass(frozen=True, kw_only=True)
class UpscaledImage:
    """An upscaled image on disk, and how it was made.

    Attributes:
        path: The file.
        width, height: Pixels.
        tiles: How many tiles it was cut into; 1 for an image that was sent whole.
        tasks: How many of them differ, each of which was a task.
        sent: How many tasks were sent for it, by earlier calls that were interrupted too; kept results are
            not among them. None where the journal can't be read.
        engine: What made it: ``xalora`` (the network), or an engine of this machine.
        resent: The numbers, from 0, of the tiles whose task failed and was sent again.
        notes: Sentences for people: that tiles were scaled.
    """

    path: Path
    width: int
    height: int
    tiles: int
    tasks: int
    sent: int | None
    engine: str
    resent: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """See :meth:`xalora_client.AsyncXalora.upscale_image`.

    Args:
        side: Of the tiles in pixels; None for the largest that fit in a request.
        policy: When this machine makes the image instead of the network.
        claim: What may answer a tile's task instead of a new one.
        rename: Gives the whole file its name.
    """

    max_in_flight: int
    side: int | None = None
    overlap: int = OVERLAP
    max_tasks: int | None = None
    engine: str | None = None
    policy: FallbackPolicy = "never"
    task: Mapping[str, Any] = field(default_factory=dict)
    claim: ClaimOptions = field(default_factory=ClaimOptions)
    rename: Rename = Path.replace
    on_event: EventCallback = field(default=lambda event: None)


def is_too_large(error: XaloraError) -> bool:
    """Whether an image was not sent, or was refused, for its size."""
    return isinstance(error, InputTooLargeError) or getattr(error, "status_code", None) == TOO_LARGE


def writable(image: ImageInput, output: str | os.PathLike[str]) -> Path:
    """See :func:`.output_file`."""
    is_file = isinstance(image, str | os.PathLike) and not is_remote(image)
    return output_file(output, Path(image).expanduser() if is_file else None, "image")  # type: ignore[arg-type]


async def upscale_whole(
    client: AsyncXalora, run: Callable[[], Awaitable[RunResult]], output: Path
) -> UpscaledImage:
    """Upscale an image as one task, and save the result."""
    result = await run()

    def save() -> tuple[Path, ImageHeader]:
        with add_result_to_errors(result), errors_of_result():
            return result.save(output)[0], read_result_header(result.files[0])

    path, header = await run_in_thread(save)
    client.delivered(result)
    return UpscaledImage(
        path=path,
        width=header.width,
        height=header.height,
        tiles=1,
        tasks=1,
        sent=int(result.engine == REMOTE_ENGINE and not result.reused),
        engine=result.engine,
    )


async def upscale_in_tiles(
    client: AsyncXalora,
    source: ImageInput,
    output: Path,
    options: TileOptions,
    runs_parts: Callable[[str], RunPart],
) -> UpscaledImage:
    """Upscale an image in tiles; see :meth:`xalora_client.AsyncXalora.upscale_image`.

    Args:
        output: A PNG or TIFF file.
        runs_parts: Given the id of what is sent together, what gets the result of one tile.
    """
    if options.max_in_flight < 1:
        raise ConfigurationError(f"max_in_flight is {options.max_in_flight}; at least 1 is needed")
    check_rows_format(output)
    settings = client.settings
    pixels = await run_in_thread(lambda: sent_pixels(source))
    name = Path(source).name if isinstance(source, str | os.PathLike) else "the image"
    photograph = Path(source) if isinstance(source, str | os.PathLike) else None

    async def cut_to(side: int | None) -> tuple[_Image, str]:
        plan, digests = await run_in_thread(lambda: _planned(pixels, settings, side, options.overlap))
        image = _Image(name, pixels, plan, digests, photograph, output)
        return image, _whole_id(digests, settings, options)

    image, run_id = await cut_to(options.side)
    reason, failure = "the fallback policy is local_only", None
    with warnings_once():
        if options.engine is not None:
            reason = f"all tiles of the image are made by {options.engine}"
        elif options.policy != "local_only":
            while True:
                differing = set(image.digests)
                new = await run_in_thread(
                    partial(count_new, client.journal, settings, options.task, differing, options.claim)
                )
                check_tasks(name, image.plan.count, len(differing), new, options.max_tasks)
                tiling = _Tiling(client, image, options, run_id, _Remote(runs_parts(run_id)), new)
                try:
                    return await tiling.run()
                except XaloraError as error:
                    smaller = smaller_side(image.plan)
                    is_refused = is_too_large(error) and options.side is None and smaller is not None
                    if not tiling.made and is_refused:
                        image, run_id = await cut_to(smaller)
                        continue
                    # Tiles of two engines would show where they meet.
                    if tiling.made or not falls_back(options.policy, error):
                        raise
                    reason, failure = error.what, error
                    break
        here = _Here(client, options, reason, failure)
        return await _Tiling(client, image, replace(options, max_in_flight=1), run_id, here).run()


def _whole_id(digests: Sequence[str], settings: Settings, options: TileOptions) -> str:
    """Under what id the journal has the tiles, see :class:`.Whole`."""
    own = settings.credentials().consumer_id if settings.api_key is not None else ""
    who = (options.task.get("consumer_id") or own, options.task.get("workflow_id") or "")
    named = "\n".join([*digests, settings.sequencer_url, *who])
    return f"image-{hashlib.sha256(named.encode()).hexdigest()[:32]}"


def tiles_of(source: ImageInput, settings: Settings, side: int | None = None) -> tuple[int, frozenset[str]]:
    """How many tiles an image is cut into, and the digests of those that differ. Blocking.

    Raises:
        InputImageError: It can't be read.
        ConfigurationError: There are no such tiles.
    """
    plan, digests = _planned(sent_pixels(source), settings, side, OVERLAP)
    return plan.count, frozenset(digests)


def check_tasks(name: str, tiles: int, distinct: int, new: int, most: int | None) -> None:
    """See :func:`.check_new`."""
    next_step = "Raise max_tasks, or have larger tiles made."
    check_new(name, differing(distinct, tiles, "tile"), distinct, new, most, next_step)


def _planned(
    pixels: Pixels8, settings: Settings, side: int | None, overlap: int
) -> tuple[TilePlan, list[str]]:
    """How an image is cut, and a digest of each tile."""
    limit = int(settings.inline_limit) if settings.store_url is None else None
    side = side_of_tiles(side, limit, pixels.shape[2])
    plan = plan_of(pixels.shape[1], pixels.shape[0], side, overlap)
    return plan, [digest_of_array(_cut(pixels, plan, number)) for number in range(plan.count)]


@dataclass(frozen=True)
class _Image:
    """The image, how it is cut, and where it goes."""

    name: str
    pixels: Pixels8 = field(repr=False)
    plan: TilePlan
    digests: list[str]
    photograph: Path | None
    output: Path

    def tile(self, number: int) -> Pixels8:
        """The pixels of a tile."""
        return _cut(self.pixels, self.plan, number)


def _cut(pixels: Pixels8, plan: TilePlan, number: int) -> Pixels8:
    row, column = plan.tiles[number]
    return pixels[row.start : row.stop, column.start : column.stop]


class _Here:
    """Gets results of tiles from one engine of this machine, the first that can make a tile.

    Args:
        error: That of the network for which this machine takes over.
    """

    def __init__(
        self, client: AsyncXalora, options: TileOptions, reason: str, error: XaloraError | None
    ) -> None:
        self._client, self._reason, self._error = client, reason, error
        self._engine = options.engine
        self._on_event: EventCallback | None = options.on_event

    def _tell_once(self, event: TaskEvent) -> None:
        if isinstance(event, FallingBack) and self._on_event is not None:
            self._on_event(event)
            self._on_event = None

    async def __call__(self, task: PartTask) -> RunResult:
        from ..engines.fallback import run_locally

        result = await run_locally(
            task,
            self._client.settings,
            reason=self._reason,
            remote_error=self._error,
            engine=self._engine,  # type: ignore[arg-type]
            on_event=self._tell_once,
        )
        self._engine = result.engine
        return result


class _Remote:
    """Gets results of tiles from the network alone."""

    def __init__(self, run_part: RunPart) -> None:
        self._run_part = run_part

    async def __call__(self, task: PartTask) -> RunResult:
        return await self._run_part(task, lambda event: None, REMOTE_ENGINE)


class _Tiling:
    """One way through all tiles. Rows are blended and written on a thread of their own, in order.

    Attributes:
        made: Results so far, by the first tile that has their content.
    """

    def __init__(
        self,
        client: AsyncXalora,
        image: _Image,
        options: TileOptions,
        run_id: str,
        make: Callable[[PartTask], Awaitable[RunResult]],
        to_send: int = 0,
    ) -> None:
        self._to_send = to_send
        self._client, self._image, self._options, self._run_id = client, image, options, run_id
        self._make = make
        self._first = distinct(image.digests)
        self._results: dict[int, asyncio.Future[RunResult]] = {}
        self._places = asyncio.Semaphore(options.max_in_flight)
        # More would take memory: each is a process that holds the file and its pixels.
        self._decoding = asyncio.Semaphore(2)
        self._failed: BaseException | None = None
        self._in_flight = 0
        self._resent: list[int] = []
        self._scaled = 0
        self._began = 0.0
        self._stopped = threading.Event()
        self._writer = ThreadPoolExecutor(1, "xalora-tiles-writing")
        self.made: dict[int, RunResult] = {}

    async def run(self) -> UpscaledImage:
        self._began = monotonic()
        self._tell()
        loop = asyncio.get_running_loop()
        self._results = {number: loop.create_future() for number in self._first.values()}
        try:
            await run_in_thread(lambda: _remove_left(self._image.output))
            with draft_of(self._image.output) as draft:
                with draft.open("r+b") as file:
                    try_lock(file)
                    width, height = await self._assemble(file)
                path = await run_in_thread(lambda: settle(draft, self._image.output, self._options.rename))
        except OSError as error:
            if isinstance(error, XaloraError):
                raise
            raise self._not_written(error) from error
        finally:
            self._stopped.set()
            await run_in_thread(self._writer.shutdown)
        self._client.note_delivered(
            result.record_id for result in self.made.values() if result.record_id is not None
        )
        return await self._report(path, width, height)

    async def _assemble(self, file: BinaryIO) -> tuple[int, int]:
        """Make all tiles, and write the rows that are complete meanwhile; the size of the whole."""
        writing = asyncio.ensure_future(self._write(file))
        writing.add_done_callback(self._note_writing)
        try:
            await run_all_or_cancel(self._make_tile(number) for number in self._first.values())
            if self._failed is not None:
                raise self._told(self._failed)
            return await writing
        finally:
            self._stopped.set()
            writing.cancel()
            await asyncio.wait({writing})

    def _note_writing(self, writing: asyncio.Future[tuple[int, int]]) -> None:
        # Tiles that are under way are paid for, and end first.
        if not writing.cancelled() and (error := writing.exception()) is not None:
            self._failed = self._failed or error

    # --- tasks ----------------------------------------------------------------------------------------------

    async def _make_tile(self, number: int) -> None:
        async with self._places:
            if self._failed is not None:
                return
            self._in_flight += 1
            self._tell()
            try:
                result = await self._result_of(number)
            except Exception as error:  # noqa: BLE001 - raised once the others have ended
                self._failed = self._failed or error
            else:
                self.made[number] = result
                self._results[number].set_result(result)
            finally:
                self._in_flight -= 1
                self._tell()

    async def _result_of(self, number: int) -> RunResult:
        image = self._image
        part = f"tile {number + 1} of {image.plan.count}"
        whole = Whole(self._run_id, f"upscale {image.name}")
        task = PartTask.of(whole, part, image.tile(number), **self._options.task)
        result, resends = await result_of(lambda: self._make(task), f"Tile {number + 1} of {image.name}")
        if resends:
            self._resent.append(number)
        return result

    # --- rows -----------------------------------------------------------------------------------------------

    async def _write(self, file: BinaryIO) -> tuple[int, int]:
        """Write the rows as their tiles come; the size of the whole image."""
        plan, digests = self._image.plan, self._image.digests
        assembly: _Assembly | None = None
        for row in range(len(plan.down.parts)):
            numbers = [self._first[digests[number]] for number in plan.row(row)]
            results = [await self._results[number] for number in numbers]
            tiles = await asyncio.gather(*(self._decode(result) for result in results))
            if assembly is None:
                assembly = _Assembly(self._image, file, results[0], tiles[0])
            step = partial(assembly.write_row, row, results, tiles, self._stopped)
            del tiles
            await asyncio.get_running_loop().run_in_executor(self._writer, step)
        assert assembly is not None
        self._scaled = assembly.scaled
        return assembly.size

    async def _decode(self, result: RunResult) -> Pixels8:
        async with self._decoding:
            return await run_decoding(partial(_decoded, result))

    # --- words ----------------------------------------------------------------------------------------------

    def _told(self, error: BaseException) -> BaseException:
        """The error with what it means for the other tiles."""
        paid = sum(result.engine == REMOTE_ENGINE for result in self.made.values())
        if paid and isinstance(error, XaloraError):
            own = "" if error.money in NOTHING_SPENT else f"{error.money} "
            made = f"{paid} of {counted(len(self._first), 'tile')}"
            error.money = f"{own}{made} are paid for and kept; the same again sends only the others."
        return error

    def _not_written(self, error: OSError) -> ResultSaveError:
        return ResultSaveError(
            f"The image can't be written to {self._image.output}: {error.strerror or error}",
            money="The tiles that were made are paid for and kept." if self.made else NOTHING_CHARGED,
            next_step="Mend that and run the same again: only the others are sent.",
        )

    def _tell(self) -> None:
        tasks, done = len(self._first), len(self.made)
        progress = TileProgress(
            job_id=self._run_id,
            tiles=self._image.plan.count,
            tasks=tasks,
            done=done,
            in_flight=self._in_flight,
            to_send=self._to_send,
            seconds_left=seconds_left(monotonic() - self._began, done, tasks - done),
        )
        self._options.on_event(progress)

    async def _report(self, path: Path, width: int, height: int) -> UpscaledImage:
        note = scaled_text(self._scaled, "tile", "the first's")
        return UpscaledImage(
            path=path,
            width=width,
            height=height,
            tiles=self._image.plan.count,
            tasks=len(self._first),
            sent=await run_in_thread(lambda: tasks_sent(self._client.journal, self._run_id)),
            engine=next(iter(self.made.values())).engine,
            resent=tuple(sorted(self._resent)),
            notes=(note,) if self._scaled else (),
        )


class _Assembly:
    """Rows of tiles brought to one size, blended, and written; all on one thread.

    The first tile decides how many times larger all are.

    Attributes:
        scaled: How many came in another size.
    """

    def __init__(self, image: _Image, file: BinaryIO, result: RunResult, first: Pixels8) -> None:
        self._plan = image.plan
        self._factor = self._factor_of(0, result, first)
        self._channels = image.pixels.shape[2]
        self._blending = Blending(image.plan, self._factor, self._channels)
        self.size = self._blending.width, self._blending.height
        self.scaled = 0
        exif = None if image.photograph is None else credits_of(image.photograph)
        self._write = open_rows(image.output, file, *self.size, self._channels, exif)

    def write_row(
        self, row: int, results: Sequence[RunResult], tiles: list[Pixels8], stopped: threading.Event
    ) -> None:
        """Write the rows that are complete with this row of tiles, unless it is stopped."""
        numbers = self._plan.row(row)
        fitting = [
            self._fitting(number, result, tile)
            for number, result, tile in zip(numbers, results, tiles, strict=True)
        ]
        tiles.clear()
        for band in self._blending.rows(row, fitting):
            if stopped.is_set():
                return
            self._write(band)

    def _fitting(self, number: int, result: RunResult, pixels: Pixels8) -> Pixels8:
        self.scaled += self._factor_of(number, result, pixels) != self._factor
        down, across = self._plan.tiles[number]
        width, height = (
            scaled(part.stop, self._factor) - scaled(part.start, self._factor) for part in (across, down)
        )
        fitting = fitted(pixels, width, height)
        missing = self._channels - fitting.shape[2]
        if missing > 0:
            return np.pad(fitting, ((0, 0), (0, 0), (0, missing)), constant_values=255)
        return fitting[..., : self._channels]

    def _factor_of(self, number: int, result: RunResult, pixels: Pixels8) -> Fraction:
        height, width = pixels.shape[:2]
        with add_result_to_errors(result):
            return self._plan.checked_factor(number, width, height, number + 1)


def _remove_left(output: Path) -> None:
    """Remove what a process that was killed left of the same file."""
    for left in files_named(output.parent, f".{output.name}.", ".part"):
        remove_left(left)


def _decoded(result: RunResult) -> Pixels8:
    """The pixels ``[H, W, 3 or 4]`` of a result, in sRGB."""
    with add_result_to_errors(result), errors_of_result():
        for image in workers.images("sent_pixels", result.files[0]):
            return image.stored()
        raise BrokenMediaError("it holds no image")
