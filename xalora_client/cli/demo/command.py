"""``xalora demo``: upscale photographs and get test cards from a devnet, free and without an account."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ...config import Settings
from ...devnet import DEFAULT_MINERS
from ...engines.ncnn.models import lacking
from ...errors import ConfigurationError
from ...events import EventCallback, LocalProgress, Running, Submitted, TaskEvent
from ...results import RunResult
from ...text import counted, seconds_text
from ..command import command
from ..destinations import Destination, Output, plan_for_inputs
from ..exit_codes import ExitCode, most_serious
from ..formats import printable, short_path, shortened
from ..image_arguments import existing_inputs
from ..job_runner import Job, JobReport, JobRunner, RunCall
from ..options import AsJson, Force
from ..outputs import check_destinations
from ..screen import Screen
from ..signals import run_interruptible
from .photographs import SHIPPED, Photograph

if TYPE_CHECKING:
    from ...client import AsyncXalora
    from ...devnet import Devnet
    from ...devnet.engines import MinerTask
    from ...devnet.model_engine import Choice, ModelEngine
    from ...tasks import WorkflowTask

FOLDER = "demo-output"
SHEET = "contact-sheet.png"
PROMPT = "A lighthouse at dusk, waves rolling in"
INPUT_LIMIT = 200 * 10**6
"""In bytes; large, since the requests stay on this machine."""


FACTOR = 4


@dataclass
class EngineTimer:
    """A miner's engine that records when each task ran; the client's polls are less exact."""

    engine: ModelEngine
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
class DemoTask:
    """A task of the demo: a photograph to upscale, or (without one) a prompt."""

    label: str
    task: WorkflowTask
    destination: Destination
    photograph: Photograph | None = None


@command
def demo(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="Your own pictures. Default: five small photographs."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="Where results and contact sheet go.")
    ] = FOLDER,
    miners: Annotated[int, typer.Option(min=1, max=32, help="How many miners.")] = DEFAULT_MINERS,
    force: Force = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Upscale pictures by Real-ESRGAN with several miners on this machine, then draw a contact sheet.

    Large pictures get a faster model, prompts test cards. The demo starts and ends a network of its own. It
    does not use your key, settings and journal.
    """
    screen = Screen(json=as_json)
    if reason := lacking("realesrgan-x4plus"):
        raise ConfigurationError(
            f"The demo upscales by a model, and {reason}", money="", next_step='pip install "xalora[demo]"'
        )
    photographs = _photographs(images)
    tasks = _demo_tasks(photographs, output)
    sheet = Path(output) / SHEET
    # The default folder belongs to the demo; another one may hold files of the user.
    replace = force or output == FOLDER
    check_destinations([*(task.destination for task in tasks), Destination(sheet, exact=True)], force=replace)
    run = DemoRun(screen, tasks, miners=miners, replace=replace)
    screen.say(
        ("A devnet on this machine: ", "bold"),
        f"{counted(len(photographs), 'picture')} to upscale and two test cards to draw, "
        f"for {counted(miners, 'miner')}. {run.estimate()}",
    )
    started = monotonic()
    try:
        run_interruptible(run.run())
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    seconds = monotonic() - started
    drawn = _draw_sheet(run, sheet, miners)
    screen.show(run.table())
    screen.say(
        ("A test card is a test pattern; no model made it. ", "dim"),
        ("Total includes the time until the client's next poll.", "dim"),
    )
    screen.say(("Results: ", "bold"), f"{short_path(Path(output))}/")
    if drawn:
        screen.say(("Before and after: ", "bold"), short_path(sheet))
    screen.say(("Next: ", "bold"), "xalora demo YOUR.jpg, or xalora devnet for a network that keeps running.")
    code = most_serious(report.code for report in run.reports)
    if as_json:
        screen.document(
            {
                "results": [report.document() for report in run.reports],
                "contact_sheet": str(sheet) if drawn else None,
                "seconds": seconds,
                "exit_code": int(code),
            }
        )
    return code


class DemoRun:
    """Runs the demo's tasks on a devnet of its own and reports who ran them and how long."""

    def __init__(self, screen: Screen, tasks: Sequence[DemoTask], *, miners: int, replace: bool) -> None:
        from ...devnet.model_engine import ModelEngine

        self.tasks = tasks
        self.reports: list[JobReport] = []
        self._screen = screen
        self._miners = miners
        self._replace = replace
        self._timer = EngineTimer(ModelEngine(miners=miners, factor=FACTOR, on_progress=self._note_progress))
        self._choices: dict[str, Choice] = {}
        self._listeners: dict[str, EventCallback] = {}
        self._submitted: dict[str, float] = {}
        self._miner_of: dict[str, str | None] = {}

    async def run(self) -> None:
        """Start the devnet, run the tasks, stop the devnet. Only the results are left on this machine."""
        from ...client import AsyncXalora
        from ...devnet import Devnet
        from ...devnet.model_engine import network_options

        self._loop = asyncio.get_running_loop()
        key = f"demo#{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory(prefix="xalora-demo-") as state:
            # The miners poll more often than the client, so that the times show work and not waiting.
            async with Devnet(
                miners=self._miners,
                api_key=key,
                miner_poll=0.05,
                **{**network_options(self._timer.engine), "engine": self._timer},
            ) as network:
                # Not loaded, so that the user's own settings (a store, a journal) have no effect.
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
        jobs = [Job(task.label, self._call(task.task), task.destination) for task in self.tasks]
        runner = JobRunner(
            self._screen, jobs, force=self._replace, at_once=client.settings.max_in_flight, quiet=True
        )
        self.reports = runner.reports
        await runner.run(client)
        for task_id in network.task_ids():
            self._miner_of[task_id] = network.task(task_id).miner_id

    def _call(self, task: WorkflowTask) -> RunCall:
        async def run(client: AsyncXalora, on_event: EventCallback) -> RunResult:
            def note_submit(event: TaskEvent) -> None:
                if isinstance(event, Submitted) and event.task_id is not None:
                    self._submitted.setdefault(event.task_id, monotonic())
                    self._listeners[event.task_id] = on_event
                # The miner tells more of the task than the network does.
                if not (isinstance(event, Running) and event.task_id in self._choices):
                    on_event(event)

            return await client.run(task, on_event=note_submit)

        return run

    def _note_progress(self, task: MinerTask, choice: Choice, done: int, total: int) -> None:
        """Show a miner's progress; called on its thread."""
        self._choices[task.task_id] = choice
        event = LocalProgress(job_id="", task_id=task.task_id, engine=choice.model, done=done, total=total)
        listener = self._listeners.get(task.task_id)
        if listener is not None:
            self._loop.call_soon_threadsafe(listener, event)

    def estimate(self) -> str:
        """How long the upscaling will take, as a sentence."""
        from PIL import Image

        choices = []
        for task in self.tasks:
            if task.photograph is not None:
                # One that can't be read fails as a task.
                with suppress(OSError, ValueError, SyntaxError), Image.open(task.photograph.path) as image:
                    choices.append(self._timer.engine.choice(*image.size))
        at_once = max(1, min(self._miners, os.cpu_count() or 1))
        seconds = max(
            [sum(each.seconds for each in choices) / at_once, *(each.seconds for each in choices)],
            default=0.0,
        )
        models = dict.fromkeys(f"{each.model} {each.factor}x" for each in choices)
        return f"{', '.join(models)}: about {seconds_text(seconds)}." if choices else ""

    def made_by(self, report: JobReport) -> str:
        """The model, or TEST CARD."""
        choice = self._choices.get(report.task_id or "")
        return "TEST CARD" if choice is None else f"{choice.model} {choice.factor}x"

    def miner(self, report: JobReport) -> str:
        """The name of the miner that ran the task."""
        return self._miner_of.get(report.task_id or "") or "-"

    def engine_seconds(self, report: JobReport) -> float | None:
        """How long the miner's engine ran."""
        return _between(self._timer.started, self._timer.ended, report.task_id)

    def table(self) -> Table:
        """Every task with its miner and times."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("Task", "Engine", "Miner"):
            table.add_column(name)
        for name in ("Queued", "Run", "Transfer", "Total"):
            table.add_column(name, justify="right")
        for task, report in zip(self.tasks, self.reports, strict=True):
            seconds = report.result.seconds if report.result else None
            table.add_row(
                Text(shortened(printable(task.label), 30)),
                Text(self.made_by(report), style="yellow"),
                Text(self.miner(report)),
                seconds_text(_between(self._submitted, self._timer.started, report.task_id)),
                seconds_text(self.engine_seconds(report)),
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
        return list(SHIPPED)
    return [Photograph(Path(name), Path(name).name) for name in existing_inputs(images, "IMAGES").sources]


def _demo_tasks(photographs: Sequence[Photograph], output: str) -> list[DemoTask]:
    from ...tasks import FluxLoraTask, Text2VideoTask, UpscalerTask

    places = plan_for_inputs([str(each.path) for each in photographs], Output(f"{output}/"))
    tasks = [
        DemoTask(each.path.name, UpscalerTask(image=str(each.path)), place, each)
        for each, place in zip(photographs, places, strict=True)
    ]
    for name, task in (
        ("test-card-video", Text2VideoTask(prompt=PROMPT, workflow_id="1", seed=7)),
        ("test-card-image", FluxLoraTask(prompt=PROMPT, lora_name="none", workflow_id="3", noise_seed=7)),
    ):
        tasks.append(DemoTask(name, task, Destination(Path(output) / name)))
    return tasks


def _draw_sheet(demo_run: DemoRun, sheet: Path, miners: int) -> bool:
    """Draw the contact sheet of the results; False where no photograph was upscaled."""
    from .contact_sheet import Pair, draw_sheet

    pairs: list[Pair] = []
    cards: dict[str, Path] = {}
    models: dict[str, int] = {}
    for demo_task, report in zip(demo_run.tasks, demo_run.reports, strict=True):
        photo = demo_task.photograph
        if not report.files:
            continue
        if photo is None:
            cards[demo_task.task.task_type] = report.files[0]
            continue
        made_by = f"with ncnn by {demo_run.miner(report)}"
        model = demo_run.made_by(report)
        models[model] = models.get(model, 0) + 1
        pairs.append(
            Pair(photo.title, photo.credit, photo.path, report.files[0], model, made_by, photo.detail)
        )
    if pairs:
        draw_sheet(
            sheet,
            title="Xalora demo",
            subtitle=", ".join(f"{counted(count, 'picture')} by {model}" for model, count in models.items())
            + f" on {counted(miners, 'miner')} of a devnet here, and two test cards. "
            "Left to right: before, LANCZOS, the model; a pixel of the result is a pixel here.",
            pairs=pairs,
            image=cards.get("txt2img"),
            video=cards.get("txt2vid"),
        )
    return bool(pairs)
