"""``xalora demo``: the whole way of a task on this machine, free of charge and without an account."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ...config import Settings
from ...events import EventCallback, Submitted, TaskEvent
from ..command import command, run_interruptible
from ..commands.generate import existing_inputs
from ..exit_codes import ExitCode, most_serious
from ..formats import counted, printable, seconds_text, short_path, shortened
from ..job_runner import Doing, Job, Report, Workshop
from ..options import AsJson, Force
from ..outputs import Destination, check_destinations, plan_for_inputs
from ..screen import Screen
from .photographs import Photograph, shipped_photographs

if TYPE_CHECKING:
    from ...client import AsyncXalora
    from ...devnet.engines import MinerEngine, MinerTask
    from ...devnet.server import Devnet
    from ...tasks import WorkflowTask
    from .contact_sheet import Block, Strip

FOLDER = "demo-output"
SHEET = "contact-sheet.png"
PROMPT = "A lighthouse at dusk, waves rolling in"
CARD_TEXT = (
    "What the devnet answers to a prompt: a drawing that bears the request, plainly no model's work. "
    "The lanes show which miner was at what, and when."
)
INPUT_LIMIT = 200 * 10**6
"""Bytes; here the request goes no further than to this machine."""


@dataclass
class Stopwatch:
    """A miner's engine, and when it was at which task: what a client sees only at its next poll."""

    engine: MinerEngine
    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """See :meth:`MinerEngine.run`."""
        self.started[task.task_id] = monotonic()
        try:
            return self.engine.run(task)
        finally:
            self.ended[task.task_id] = monotonic()


@dataclass(frozen=True)
class Exhibit:
    """One piece of the demo: a photograph to upscale, or (without one) a prompt."""

    label: str
    made_by: str
    task: WorkflowTask
    destination: Destination
    photograph: Photograph | None = None


@command
def demo(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="Your own pictures; else some photographs."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything goes.")
    ] = FOLDER,
    miners: Annotated[int, typer.Option(min=1, max=32, help="How many miners.")] = 3,
    force: Force = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Upscale pictures with several miners on this machine, and see a test card video come back.

    A network of its own is started and ended; your key, settings and journal are not touched.
    """
    screen = Screen(json=as_json)
    photographs = _photographs(images)
    exhibits = _exhibits(photographs, output)
    sheet = Path(output) / SHEET
    # The folder of its own name is the demo's; anywhere else it may be a guest.
    replace = force or output == FOLDER
    check_destinations(
        [*(exhibit.destination for exhibit in exhibits), Destination(sheet, exact=True)], force=replace
    )
    os.environ["no_proxy"] = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1")))
    screen.say(
        ("A devnet on this machine: ", "bold"),
        f"{counted(len(photographs), 'picture')} to upscale by LANCZOS and two test cards to draw, "
        f"for {counted(miners, 'miner')}.",
    )
    run = DemoRun(screen, exhibits, miners=miners, replace=replace)
    began = monotonic()
    try:
        run_interruptible(run.run())
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    took = monotonic() - began
    drawn = _draw(run, sheet, took, miners)
    screen.show(run.table())
    screen.say(
        ("LANCZOS is a resampling filter and a test card is a drawing: no AI model ran here. ", "dim"),
        ("Total includes the time until the client's next poll.", "dim"),
    )
    screen.say(("Results: ", "bold"), f"{short_path(Path(output))}/")
    if drawn:
        screen.say(("Before and after: ", "bold"), short_path(sheet))
    screen.say(("Next: ", "bold"), "xalora demo YOUR.jpg, or xalora devnet for a network that stays.")
    code = most_serious(report.code for report in run.reports)
    if as_json:
        screen.document(
            {
                "results": [report.document() for report in run.reports],
                "contact_sheet": str(sheet) if drawn else None,
                "seconds": took,
                "exit_code": int(code),
            }
        )
    return code


class DemoRun:
    """The devnet, the client and the tasks, and in the end their figures."""

    def __init__(self, screen: Screen, exhibits: Sequence[Exhibit], *, miners: int, replace: bool) -> None:
        from ...devnet.engines import default_engine

        self.exhibits = exhibits
        self.reports: list[Report] = []
        self._screen = screen
        self._miners = miners
        self._replace = replace
        self._watch = Stopwatch(default_engine())
        self._submitted: dict[str, float] = {}
        self._miner_of: dict[str, str | None] = {}

    async def run(self) -> None:
        """Do everything; nothing is left on this machine but the results."""
        from ...client import AsyncXalora
        from ...devnet.server import Devnet

        key = f"demo#{secrets.token_hex(8)}"
        # Miners that look more often than the client keep the figures about the work and not the waiting.
        with tempfile.TemporaryDirectory(prefix="xalora-demo-") as state:
            async with Devnet(
                miners=self._miners, api_key=key, engine=self._watch, miner_poll=0.05
            ) as network:
                # Made by hand, so that nothing of the user's own settings (a store, a journal) is used.
                settings = Settings(
                    api_key=key,
                    workflow_url=network.url,
                    state_dir=Path(state),
                    fallback="never",
                    inline_limit=INPUT_LIMIT,
                    max_in_flight=self._miners * 2,
                )
                async with AsyncXalora(settings=settings) as client:
                    await self._run_with(client, network)

    async def _run_with(self, client: AsyncXalora, network: Devnet) -> None:
        jobs = [
            Job(exhibit.label, self._doing(client, exhibit.task), exhibit.destination)
            for exhibit in self.exhibits
        ]
        workshop = Workshop(
            self._screen, jobs, force=self._replace, at_once=client.settings.max_in_flight, quiet=True
        )
        self.reports = workshop.reports
        await workshop.run()
        for task_id in network.task_ids():
            self._miner_of[task_id] = network.task(task_id).miner_id

    def _doing(self, client: AsyncXalora, task: WorkflowTask) -> Doing:
        def do(hear: EventCallback) -> Any:
            def note(event: TaskEvent) -> None:
                if isinstance(event, Submitted) and event.task_id is not None:
                    self._submitted.setdefault(event.task_id, monotonic())
                hear(event)

            return client.run(task, on_event=note)

        return do

    def miner(self, report: Report) -> str:
        """Who did it."""
        return self._miner_of.get(report.task_id or "") or "-"

    def ran(self, report: Report) -> float | None:
        """Seconds of the miner's engine."""
        return _between(self._watch.started, self._watch.ended, report.task_id)

    def blocks(self) -> list[Block]:
        """Which miner was at which task when, from the first submit on."""
        from .contact_sheet import Block

        began = min(self._submitted.values(), default=0.0)
        return [
            Block(
                self.miner(report),
                Path(exhibit.label).stem,
                max(0.0, self._watch.started[report.task_id] - began),
                self._watch.ended[report.task_id] - began,
            )
            for exhibit, report in zip(self.exhibits, self.reports, strict=True)
            if report.task_id in self._watch.ended
        ]

    def table(self) -> Table:
        """Every task with its figures."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("Task", "Engine", "Miner"):
            table.add_column(name)
        for name in ("Queued", "Run", "Transfer", "Total"):
            table.add_column(name, justify="right")
        for exhibit, report in zip(self.exhibits, self.reports, strict=True):
            seconds = report.result.seconds if report.result else None
            table.add_row(
                Text(shortened(printable(exhibit.label), 30)),
                Text(exhibit.made_by, style="yellow"),
                Text(self.miner(report)),
                seconds_text(_between(self._submitted, self._watch.started, report.task_id)),
                seconds_text(self.ran(report)),
                seconds_text(seconds.transfer if seconds else None),
                Text(seconds_text(seconds.total), style="bold") if seconds else Text("failed", style="red"),
            )
        return table


def _between(earlier: dict[str, float], later: dict[str, float], task_id: str | None) -> float | None:
    if task_id is None or task_id not in earlier or task_id not in later:
        return None
    return max(0.0, later[task_id] - earlier[task_id])


def _photographs(images: Sequence[str] | None) -> list[Photograph]:
    if not images:
        return shipped_photographs()
    return [Photograph(Path(name), Path(name).name) for name in existing_inputs(images, "IMAGES")]


def _exhibits(photographs: Sequence[Photograph], output: str) -> list[Exhibit]:
    from ...tasks import FluxLoraTask, Text2VideoTask, UpscalerTask

    places = plan_for_inputs([str(each.path) for each in photographs], f"{output}/")
    exhibits = [
        Exhibit(each.path.name, "LANCZOS 2x", UpscalerTask(image=str(each.path)), place, each)
        for each, place in zip(photographs, places, strict=True)
    ]
    for name, task in (
        ("test-card-video", Text2VideoTask(prompt=PROMPT, workflow_id="1", seed=7)),
        ("test-card-image", FluxLoraTask(prompt=PROMPT, lora_name="none", workflow_id="3", noise_seed=7)),
    ):
        exhibits.append(Exhibit(name, "TEST CARD", task, Destination(Path(output) / name)))
    return exhibits


# --- the contact sheet ------------------------------------------------------------------------------------


def _draw(run: DemoRun, sheet: Path, took: float, miners: int) -> bool:
    """Draw the contact sheet of what has come back; False where no photograph has."""
    from .contact_sheet import Pair, Still, draw_sheet

    pairs: list[Pair] = []
    still: Still | None = None
    strip: Strip | None = None
    for exhibit, report in zip(run.exhibits, run.reports, strict=True):
        if not report.files:
            continue
        photo = exhibit.photograph
        if photo is not None:
            captions = ("by LANCZOS", f"{run.miner(report)}, {seconds_text(run.ran(report))}")
            pairs.append(Pair(photo.title, photo.credit, photo.path, report.files[0], captions, photo.detail))
        elif exhibit.task.task_type == "txt2vid":
            strip = _strip(report.files[0])
        else:
            still = Still("TEST CARD image", report.files[0], CARD_TEXT)
    if not pairs:
        return False
    draw_sheet(
        sheet,
        title="Xalora demo",
        subtitle=f"{counted(len(pairs), 'picture')} upscaled 2x by LANCZOS on {counted(miners, 'miner')} of "
        f"a devnet on this machine, with two test cards in {seconds_text(took)}. Not an AI upscale.",
        pairs=pairs,
        still=still,
        blocks=run.blocks(),
        strip=strip,
    )
    return True


def _strip(path: Path) -> Strip:
    import numpy as np

    from ...media.video import open_video
    from .contact_sheet import STRIP_FRAMES, Strip

    video = open_video(path)
    places = [round(n * (video.frame_count - 1) / (STRIP_FRAMES - 1)) for n in range(STRIP_FRAMES)]
    frames = np.stack([np.rint(video.frames(n, n + 1)[0] * 255).astype(np.uint8) for n in places])
    return Strip(
        f"TEST CARD video: {video.width} x {video.height}, {video.frame_count} frames at {video.fps:g} fps",
        frames,
        [f"{n / video.fps:.2f} s" for n in places],
    )
