"""``xalora upscale`` of an image that no request takes: cut into tiles, and written as they come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..concurrency import run_in_thread
from ..config import Settings
from ..errors import XaloraError
from ..events import EventCallback, FallingBack, TaskEvent, TileProgress
from ..prices import Sent, cost_of, cost_text
from ..results import REMOTE_ENGINE, RunResult, Timing
from ..text import counted, differing
from .destinations import Destination, OutputNameError
from .job_runner import RunCall, WrittenResult
from .options import RunOptions
from .outputs import put, remarks_on_name
from .screen import Screen

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..journal import ClaimOptions, Journal
    from ..tasks import WorkflowTask
    from ..tiles.upscaling import Tiling


@dataclass(frozen=True, kw_only=True)
class TileChoices:
    """What the user chose for images that are cut.

    Args:
        tile: When, and how large the tiles are.
        max_tasks: Above so many new tasks nothing of an image is sent.
        max_in_flight: How many tasks at the same time; None for the setting.
    """

    tile: Tiling = "auto"
    max_tasks: int | None = None
    max_in_flight: int | None = None
    # One image after another: each has many tasks in flight, and takes memory.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)

    @property
    def tries_whole(self) -> bool:
        """Whether an image is sent whole where a request takes it."""
        return self.tile in ("auto", "never")

    async def count(
        self, name: str, task: WorkflowTask, settings: Settings, journal: Journal, claim: ClaimOptions
    ) -> tuple[int, int]:
        """How many tiles an image is cut into, and how many new tasks they are.

        Raises:
            ConfigurationError: They are more than the user allows.
            InputImageError: It can't be read.
        """
        from ..parts import count_new
        from ..tiles.upscaling import check_tasks, tiles_of

        image = task.image_parameters()["image"]
        side = self.tile if isinstance(self.tile, int) else None
        tiles, digests = await run_in_thread(lambda: tiles_of(image, settings, side))
        new = await run_in_thread(lambda: count_new(journal, settings, {}, digests, claim))
        check_tasks(name, tiles, len(digests), new, self.max_tasks)
        return tiles, new


def tiling_of(text: str) -> Tiling:
    """The value of ``--tile``.

    Raises:
        ValueError: It is neither a word for it nor a number.
    """
    words: dict[str, Tiling] = {"auto": "auto", "always": "always", "never": "never"}
    return words[text] if text in words else int(text)


@dataclass(frozen=True, kw_only=True)
class TiledInput:
    """An image that may be cut, and what the command does with it.

    Args:
        image: As a task takes it.
        label: Names it in what is printed.
    """

    image: Any
    label: str
    destination: Destination
    options: RunOptions
    choices: TileChoices
    screen: Screen

    def call(self, whole: RunCall) -> RunCall:
        """The call that upscales the image: as one task where that does, else in tiles.

        Args:
            whole: The call that does it as one task.
        """

        async def run(client: AsyncXalora, on_event: EventCallback) -> RunResult:
            from ..tiles.upscaling import is_too_large

            if self.choices.tries_whole:
                try:
                    return await whole(client, on_event)
                except XaloraError as error:
                    if self.choices.tile == "never" or not is_too_large(error):
                        raise
            async with self.choices.turn:
                return await self._in_tiles(client, on_event)

        return run

    async def _in_tiles(self, client: AsyncXalora, on_event: EventCallback) -> RunResult:
        from ..client import HostOptions

        began = monotonic()
        options, choices = self.options, self.choices
        local = None if options.engine in ("auto", REMOTE_ENGINE) else options.engine
        planned, wanted = 0, _place(self.destination)

        def note(event: TaskEvent) -> None:
            nonlocal planned, wanted
            if isinstance(event, FallingBack) and event.error is not None:
                wanted = _place(self.destination.made_here())
            # Told anew where the network finds the tiles too large.
            if isinstance(event, TileProgress) and event.tiles != planned:
                planned = event.tiles
                self._say_plan(client.settings, event)
            on_event(event)

        made = await client.upscale_image(
            self.image,
            wanted,
            tile="always" if choices.tile == "auto" else choices.tile,
            max_in_flight=choices.max_in_flight,
            max_tasks=choices.max_tasks,
            engine=local,  # type: ignore[arg-type]
            task_options={"timeout_seconds": options.network_timeout},
            on_event=note,
            reuse=client.settings.reuse and not options.no_reuse,
            if_unknown=options.if_unknown,
            timeout=options.timeout,
            fallback="never" if options.engine == REMOTE_ENGINE else options.fallback,
            # Only now is it known who made the image, and which names are free.
            host=HostOptions(renames=lambda draft, _: put(draft, wanted, force=options.force)),
        )
        parts = [f"{made.width}x{made.height}", counted(made.tiles, "tile")]
        if made.sent is not None and made.engine == REMOTE_ENGINE:
            parts.append(f"{counted(made.sent, 'task')} sent")
        return WrittenResult(
            (made.path,),
            made.engine,
            job_id="",
            seconds=Timing(total=monotonic() - began),
            note=" · ".join(parts),
            remarks=(*made.notes, *remarks_on_name(wanted, made.path)),
        )

    def _say_plan(self, settings: Settings, progress: TileProgress) -> None:
        sends = self.options.asks_network(settings)
        cost = cost_of(settings.prices, [Sent("upscaler", None, progress.to_send)]) if sends else None
        estimate = None if cost is None else cost_text(cost)
        by = f"{counted(progress.to_send, 'task')}{f', about {estimate} by your prices' if estimate else ''}"
        if not sends:
            by = "done by this machine, nothing is sent"
        kept = progress.tasks - progress.to_send if sends else 0
        also = f", no new task for {kept:,}" if kept else ""
        differ = differing(progress.tasks, progress.tiles, "tile")
        self.screen.say(f"{self.label}: {differ}{also}: {by}")
        tasks = progress.to_send if sends else 0
        self.screen.event("plan", input=self.label, tiles=progress.tiles, tasks=tasks, estimate=estimate)


def _place(destination: Destination) -> Path:
    """The file of an image in tiles.

    Raises:
        OutputNameError: It goes to standard output.
    """
    if destination.is_stream:
        raise OutputNameError(
            "An image in tiles is written to a file, not to standard output",
            next_step="Name one: -o large.png",
        )
    suffix = ".png" if destination.encoding is None else destination.encoding.format.suffix
    return destination.file(suffix, 0, 1)
