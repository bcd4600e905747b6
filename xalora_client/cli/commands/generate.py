"""``xalora upscale | txt2vid | txt2img``: pictures and videos for files and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ...config import Settings, load_settings
from ..command import command
from ..exit_codes import ExitCode
from ..formats import counted
from ..job_runner import Doing, Job, do_jobs
from ..options import (
    AsJson,
    Engine,
    EngineChoice,
    Fallback,
    FallbackChoice,
    Force,
    IfUnknown,
    IfUnknownChoice,
    MaxInFlight,
    NetworkTimeout,
    NoReuse,
    Output,
    Timeout,
    WorkflowId,
)
from ..outputs import (
    Destination,
    check_destinations,
    is_result,
    is_url,
    named,
    plan_for_inputs,
    plan_for_names,
)
from ..screen import Screen

if TYPE_CHECKING:
    from ...client import AsyncXalora
    from ...engines.fallback import EngineName
    from ...tasks import WorkflowTask


@dataclass(frozen=True)
class Way:
    """How a piece of work is to be done: what the options of a command say together."""

    engine: Engine = Engine.AUTO
    fallback: Fallback | None = None
    if_unknown: IfUnknown = IfUnknown.STOP
    no_reuse: bool = False
    timeout: float | None = None

    def __post_init__(self) -> None:
        fitting = {Engine.AUTO: None, Engine.XALORA: Fallback.NEVER}.get(self.engine, Fallback.LOCAL_ONLY)
        if fitting is not None and self.fallback not in (None, fitting):
            raise typer.BadParameter(
                f"--engine {self.engine.value} leaves nothing for --fallback to decide; leave one out"
            )

    def doing(self, client: AsyncXalora, task: WorkflowTask) -> Doing:
        """The call that does a task this way."""
        settings = client.settings
        if self.engine not in (Engine.AUTO, Engine.XALORA):
            from ...engines.fallback import run_locally

            name = cast("EngineName", self.engine.value)
            return lambda hear: run_locally(
                task, settings, reason=f"--engine {name}", engine=name, on_event=hear
            )
        options: dict[str, Any] = {
            "reuse": settings.reuse and not self.no_reuse,
            "if_unknown": self.if_unknown.value,
            "timeout": self.timeout,
        }
        if self.engine is Engine.XALORA:
            options["fallback"] = "never"
        elif self.fallback is not None:
            options["fallback"] = self.fallback.value
        return lambda hear: client.run(task, on_event=hear, **options)


@dataclass(frozen=True)
class Piece:
    """A task with its name on the screen and the place of its result."""

    label: str
    task: WorkflowTask
    destination: Destination
    source: str | None = None


def do_pieces(
    pieces: Sequence[Piece],
    way: Way,
    settings: Settings,
    *,
    force: bool,
    as_json: bool,
    at_once: int | None = None,
    skipped: Sequence[str] = (),
) -> ExitCode:
    """Check that every result has a place, then do the work and report it.

    Args:
        skipped: Inputs that are passed over, for the JSON document.
    """
    check_destinations([piece.destination for piece in pieces], force=force)

    def jobs(client: AsyncXalora) -> list[Job]:
        return [
            Job(piece.label, way.doing(client, piece.task), piece.destination, piece.source)
            for piece in pieces
        ]

    return do_jobs(Screen(json=as_json), settings, jobs, force=force, at_once=at_once, skipped=skipped)


def existing_inputs(files: Sequence[str], called: str = "FILES") -> list[str]:
    """The inputs, each once.

    Raises:
        typer.BadParameter: One is neither a file nor a URL.
    """
    for name in files:
        if not is_url(name) and not Path(name).is_file():
            what = "is a folder" if Path(name).is_dir() else "does not exist"
            raise typer.BadParameter(f"{name} {what}", param_hint=called)
    once = {name if is_url(name) else str(Path(name).resolve()): name for name in reversed(files)}
    return list(reversed(once.values()))


@command
def upscale(
    files: Annotated[list[str], typer.Argument(metavar="FILES", help="Images: paths or http(s) URLs.")],
    output: Output = None,
    force: Force = False,
    as_json: AsJson = False,
    engine: EngineChoice = Engine.AUTO,
    fallback: FallbackChoice = None,
    if_unknown: IfUnknownChoice = IfUnknown.STOP,
    no_reuse: NoReuse = False,
    timeout: Timeout = None,
    network_timeout: NetworkTimeout = None,
    max_in_flight: MaxInFlight = None,
) -> ExitCode:
    """Upscale images; each result lies beside its input as NAME.xalora.png (or .jpg, .webp).

    Of several images, those that are such results, and those whose result is there already, are skipped.
    """
    from ...tasks import UpscalerTask

    way = Way(engine, fallback, if_unknown, no_reuse, timeout)
    inputs = existing_inputs(files)
    planned = dict(zip(inputs, plan_for_inputs(inputs, output), strict=True))
    wanted = _wanted(Screen(json=as_json), planned, force=force)
    pieces = [
        Piece(
            _short_name(source),
            UpscalerTask(image=source, timeout_seconds=network_timeout),
            planned[source],
            source,
        )
        for source in wanted
    ]
    return do_pieces(
        pieces,
        way,
        load_settings().settings,
        force=force,
        as_json=as_json,
        at_once=max_in_flight,
        skipped=[source for source in inputs if source not in wanted],
    )


def _wanted(screen: Screen, planned: Mapping[str, Destination], *, force: bool) -> list[str]:
    """The inputs that are to be done, and a note on the others: ``*.png`` means more the second time."""
    if len(planned) == 1:
        return list(planned)
    fresh = [source for source in planned if not is_result(source)]
    if not fresh:
        # Nothing but results is what was meant.
        fresh = list(planned)
    elif len(fresh) < len(planned):
        made = [Path(source) for source in planned if is_result(source)]
        screen.note(
            f"Skipped: {named(made)}, made by this command. To upscale such a file once more, name it alone."
        )
    if force:
        return fresh
    there = [planned[source].taken() for source in fresh]
    if any(there):
        screen.note(
            f"Skipped: {counted(sum(map(bool, there)), 'image')} whose result is there already "
            f"({named([path for paths in there for path in paths])}). --force makes them again and replaces "
            "the files, -o writes elsewhere."
        )
    return [source for source, paths in zip(fresh, there, strict=True) if not paths]


@command
def txt2vid(
    prompt: Annotated[str, typer.Argument(help="What the video shows.", show_default=False)],
    width: Annotated[int | None, typer.Option(help="Pixels.", show_default=False)] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.", show_default=False)] = None,
    length: Annotated[int | None, typer.Option(help="Frames.", show_default=False)] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", show_default=False)] = None,
    quality: Annotated[int | None, typer.Option(help="Of the encoder, 1-100.", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes the result repeatable, and reusable.", show_default=False)
    ] = None,
    workflow_id: WorkflowId = None,
    output: Output = None,
    force: Force = False,
    as_json: AsJson = False,
    engine: EngineChoice = Engine.AUTO,
    fallback: FallbackChoice = None,
    if_unknown: IfUnknownChoice = IfUnknown.STOP,
    no_reuse: NoReuse = False,
    timeout: Timeout = None,
    network_timeout: NetworkTimeout = None,
) -> ExitCode:
    """Make a video from a prompt; it goes into the working directory, named after the prompt."""
    from ...tasks import Text2VideoTask

    task = Text2VideoTask(
        prompt=prompt,
        width=width,
        height=height,
        length=length,
        fps=fps,
        steps=steps,
        quality=quality,
        seed=seed,
        workflow_id=workflow_id,
        timeout_seconds=network_timeout,
    )
    return do_pieces(
        [Piece(prompt, task, plan_for_names([prompt], output)[0])],
        Way(engine, fallback, if_unknown, no_reuse, timeout),
        load_settings().settings,
        force=force,
        as_json=as_json,
    )


@command
def txt2img(
    prompt: Annotated[str, typer.Argument(help="What the image shows.", show_default=False)],
    lora: Annotated[
        str, typer.Option(metavar="NAME", help="The LoRA, as the network knows it.", show_default=False)
    ],
    aspect_ratio: Annotated[
        str | None,
        typer.Option(help='Such as "16:9 landscape 1344x768", or "custom".', show_default=False),
    ] = None,
    width: Annotated[int | None, typer.Option(help="512-2048 in steps of 64.", show_default=False)] = None,
    height: Annotated[int | None, typer.Option(help="512-2048 in steps of 64.", show_default=False)] = None,
    guidance: Annotated[float | None, typer.Option(help="Flux guidance.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", show_default=False)] = None,
    strength: Annotated[float | None, typer.Option(help="Of the LoRA, 0-1.", show_default=False)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes the result repeatable, and reusable.", show_default=False)
    ] = None,
    workflow_id: WorkflowId = None,
    output: Output = None,
    force: Force = False,
    as_json: AsJson = False,
    engine: EngineChoice = Engine.AUTO,
    fallback: FallbackChoice = None,
    if_unknown: IfUnknownChoice = IfUnknown.STOP,
    no_reuse: NoReuse = False,
    timeout: Timeout = None,
    network_timeout: NetworkTimeout = None,
) -> ExitCode:
    """Make an image from a prompt with a LoRA on Flux; it goes into the working directory."""
    from ...tasks import FluxLoraTask

    task = FluxLoraTask(
        prompt=prompt,
        lora_name=lora,
        aspect_ratio=aspect_ratio,
        width=width,
        height=height,
        guidance=guidance,
        steps=steps,
        strength_model=strength,
        noise_seed=seed,
        workflow_id=workflow_id,
        timeout_seconds=network_timeout,
    )
    return do_pieces(
        [Piece(prompt, task, plan_for_names([prompt], output)[0])],
        Way(engine, fallback, if_unknown, no_reuse, timeout),
        load_settings().settings,
        force=force,
        as_json=as_json,
    )


def _short_name(source: str) -> str:
    return source.rpartition("/")[2] or source if is_url(source) else Path(source).name
