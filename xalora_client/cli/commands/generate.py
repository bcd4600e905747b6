"""``xalora upscale | txt2vid | txt2img``: upscale images, make videos and images from prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import load_settings
from ...text import counted
from ..command import command
from ..exit_codes import ExitCode
from ..job_runner import Job, do_jobs
from ..options import RunOptions
from ..outputs import (
    Destination,
    is_result,
    is_url,
    named,
    plan_for_inputs,
    plan_for_names,
)
from ..screen import Screen

if TYPE_CHECKING:
    from ...tasks import WorkflowTask


Pixels = Annotated[int | None, typer.Option(help="Pixels.", show_default=False)]
FluxPixels = Annotated[int | None, typer.Option(help="512-2048 in steps of 64.", show_default=False)]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.", show_default=False)]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Repeats a result; a kept one is reused.", show_default=False)
]
WorkflowId = Annotated[
    str | None, typer.Option(metavar="ID", help="The workflow of the network that runs the task.")
]


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """The parameters of :class:`~xalora_client.tasks.Text2VideoTask`, without the prompt."""

    width: Pixels = None
    height: Pixels = None
    length: Annotated[int | None, typer.Option(help="Frames.", show_default=False)] = None
    fps: Annotated[int | None, typer.Option(help="Frames per second.", show_default=False)] = None
    steps: Steps = None
    quality: Annotated[
        int | None, typer.Option(help="Quality of the encoder, 1-100.", show_default=False)
    ] = None
    seed: Seed = None
    workflow_id: WorkflowId = None


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The parameters of :class:`~xalora_client.tasks.FluxLoraTask`, without the prompt."""

    lora_name: Annotated[
        str,
        typer.Option("--lora", metavar="NAME", help="Name of the LoRA on the network.", show_default=False),
    ]
    aspect_ratio: Annotated[
        str | None,
        typer.Option(help='Such as "16:9 landscape 1344x768", or "custom".', show_default=False),
    ] = None
    width: FluxPixels = None
    height: FluxPixels = None
    guidance: Annotated[float | None, typer.Option(help="Flux guidance.", show_default=False)] = None
    steps: Steps = None
    strength_model: Annotated[
        float | None, typer.Option("--strength", help="Strength of the LoRA, 0-1.", show_default=False)
    ] = None
    noise_seed: Seed = None
    workflow_id: WorkflowId = None


def existing_inputs(files: Sequence[str], called: str = "FILES") -> list[str]:
    """The inputs without duplicates.

    Raises:
        typer.BadParameter: An input is neither a file nor a URL.
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
    options: RunOptions,
    max_in_flight: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=256, help="How many tasks run at the same time.")
    ] = None,
) -> ExitCode:
    """Upscale images; writes each result beside its input as NAME.xalora.png (or .jpg, .webp).

    Of several images it skips those that are such results and those whose result exists already.
    """
    from ...tasks import UpscalerTask

    screen = Screen(json=options.as_json)
    inputs = existing_inputs(files)
    planned = dict(zip(inputs, plan_for_inputs(inputs, options.output), strict=True))
    chosen = _without_done(screen, planned, force=options.force)
    jobs = [
        Job(
            _short_name(source),
            options.call(UpscalerTask(image=source, timeout_seconds=options.network_timeout)),
            planned[source],
            source,
        )
        for source in chosen
    ]
    return do_jobs(
        screen,
        load_settings().settings,
        jobs,
        force=options.force,
        at_once=max_in_flight,
        skipped=[source for source in inputs if source not in chosen],
    )


def _without_done(screen: Screen, planned: Mapping[str, Destination], *, force: bool) -> list[str]:
    """The inputs to upscale, with a note on those skipped: a second ``*.png`` matches results too."""
    if len(planned) == 1:
        return list(planned)
    fresh = [source for source in planned if not is_result(source)]
    if not fresh:
        # The user named results only, so these are the inputs.
        fresh = list(planned)
    elif len(fresh) < len(planned):
        results = [Path(source) for source in planned if is_result(source)]
        screen.note(
            f"Skipped results of this command: {named(results)}. To upscale such a file, name it alone."
        )
    if force:
        return fresh
    existing = [planned[source].taken() for source in fresh]
    if any(existing):
        screen.note(
            f"Skipped: {counted(sum(map(bool, existing)), 'image')} whose result exists already "
            f"({named([path for paths in existing for path in paths])}). --force replaces these files, "
            "-o writes elsewhere."
        )
    return [source for source, paths in zip(fresh, existing, strict=True) if not paths]


@command
def txt2vid(
    prompt: Annotated[str, typer.Argument(help="What the video shows.", show_default=False)],
    video: VideoOptions,
    options: RunOptions,
) -> ExitCode:
    """Make a video from a prompt; writes it to the working directory, named after the prompt."""
    from ...tasks import Text2VideoTask

    task = Text2VideoTask(prompt=prompt, timeout_seconds=options.network_timeout, **vars(video))
    return _run_prompt(prompt, task, options)


@command
def txt2img(
    prompt: Annotated[str, typer.Argument(help="What the image shows.", show_default=False)],
    image: ImageOptions,
    options: RunOptions,
) -> ExitCode:
    """Make an image from a prompt with a LoRA on Flux; writes it to the working directory."""
    from ...tasks import FluxLoraTask

    task = FluxLoraTask(prompt=prompt, timeout_seconds=options.network_timeout, **vars(image))
    return _run_prompt(prompt, task, options)


def _run_prompt(prompt: str, task: WorkflowTask, options: RunOptions) -> ExitCode:
    job = Job(prompt, options.call(task), plan_for_names([prompt], options.output)[0])
    return do_jobs(Screen(json=options.as_json), load_settings().settings, [job], force=options.force)


def _short_name(source: str) -> str:
    return source.rpartition("/")[2] or source if is_url(source) else Path(source).name
