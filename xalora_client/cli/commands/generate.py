"""``xalora upscale | txt2vid | txt2img``: upscale images, make videos and images from prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import load_settings
from ...media.media_types import CLIP_CONTAINERS
from ..clips import ClipChoices, clips_among, do_clips, plan_for_clips
from ..command import command
from ..destinations import (
    PICTURE_SUFFIXES,
    STREAM,
    VIDEO_SUFFIXES,
    Output,
    is_url,
    plan_for_inputs,
    plan_for_names,
)
from ..do_jobs import do_jobs
from ..exit_codes import ExitCode
from ..image_arguments import Inputs, existing_inputs, without_done
from ..job_runner import Job
from ..options import PictureOptions, RunOptions
from ..standard_streams import read_image, read_prompt
from ..tiles import TileChoices, TiledInput, tiling_of

if TYPE_CHECKING:
    from ...tasks import WorkflowTask
    from ...tiles.upscaling import Tiling


Pixels = Annotated[int | None, typer.Option(help="Pixels.", show_default=False)]
FluxPixels = Annotated[int | None, typer.Option(help="512-2048 in steps of 8.", show_default=False)]
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


@command
def upscale(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES",
            help="Images: paths or http(s) URLs; - reads one from standard input. Or clips: MP4, MOV, WebM, "
            "MKV.",
        ),
    ],
    options: RunOptions,
    pictures: PictureOptions,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Take the pictures in folders, and in theirs.")
    ] = False,
    max_in_flight: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=256, help="How many tasks run at the same time.")
    ] = None,
    max_tasks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Send nothing of a clip, or of an image in tiles, that needs more new tasks.",
            show_default=False,
        ),
    ] = None,
    tile: Annotated[
        str,
        typer.Option(
            metavar="auto|always|never|SIDE",
            help="Cut an image into tiles, each a task: auto, where it is too large for one request; or each "
            "that is larger than SIDE pixels.",
        ),
    ] = "auto",
    same_engine: Annotated[
        bool,
        typer.Option(
            "--same-engine", help="Have all frames of a clip made by what makes the first: no flicker."
        ),
    ] = False,
) -> ExitCode:
    """Upscale images; writes each result beside its input as NAME.xalora.png (or .jpg, .webp).

    Of several images it skips those that are such results and those whose result exists already. A result
    that this machine made because the network could not is NAME.local.png, and does not count.

    Of a clip each frame that differs is a task; it is written as NAME.xalora.mp4 (or .mov, .mkv), with its
    sound. The same command after an interrupt goes on where it was.

    An image that is too large for one request is cut into tiles, each a task, and written as PNG or TIFF.
    """
    from ...tasks import UpscalerTask

    inputs = existing_inputs(files, recursive=recursive)
    if clips := clips_among(inputs.sources):
        if tile != "auto":
            raise typer.BadParameter("--tile is for pictures")
        choices = ClipChoices(max_in_flight=max_in_flight, max_tasks=max_tasks, same_engine=same_engine)
        return _upscale_clips(inputs, clips, options, pictures, choices)
    if same_engine:
        raise typer.BadParameter("--same-engine is for clips")
    tiles = TileChoices(tile=_tiling(tile), max_tasks=max_tasks, max_in_flight=max_in_flight)
    places = plan_for_inputs(
        inputs.sources, pictures.output(options.output, PICTURE_SUFFIXES), below=inputs.below
    )
    planned = dict(zip(inputs.sources, places, strict=True))
    screen = options.screen(places)
    chosen = without_done(screen, inputs, planned, force=options.force)
    data = read_image() if STREAM in chosen else None

    def job(source: str) -> Job:
        image = data if source == STREAM else source
        task = UpscalerTask(image=image, timeout_seconds=options.network_timeout)
        label, place, problem = inputs.label(source), planned[source], inputs.unreadable.get(source)
        call = options.call(task)
        if not is_url(source):
            tiled = TiledInput(
                image=image, label=label, destination=place, options=options, choices=tiles, screen=screen
            )
            call = tiled.call(call)
        return Job(label, call, place, source, data, task, None if is_url(source) else tiles, problem)

    return do_jobs(
        screen,
        load_settings().settings,
        [job(source) for source in chosen],
        options,
        at_once=max_in_flight,
        skipped=inputs.skipped(chosen),
    )


def _tiling(text: str) -> Tiling:
    try:
        return tiling_of(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not auto, always, never or a number of pixels", param_hint="--tile"
        ) from None


def _upscale_clips(
    inputs: Inputs, clips: list[str], options: RunOptions, pictures: PictureOptions, choices: ClipChoices
) -> ExitCode:
    if len(clips) < len(inputs.sources):
        raise typer.BadParameter("name clips and pictures in commands of their own", param_hint="FILES")
    if pictures.format is not None or pictures.quality is not None:
        raise typer.BadParameter("--format and --quality are for pictures")
    output = pictures.output(options.output, tuple(CLIP_CONTAINERS))
    planned = dict(zip(clips, plan_for_clips(clips, output), strict=True))
    screen = options.screen()
    chosen = without_done(screen, inputs, planned, force=options.force)
    return do_clips(
        screen,
        load_settings().settings,
        [(source, planned[source]) for source in chosen],
        options,
        choices,
        skipped=inputs.skipped(chosen),
    )


@command
def txt2vid(
    prompt: Annotated[
        str, typer.Argument(help="What the video shows; - reads it from standard input.", show_default=False)
    ],
    video: VideoOptions,
    options: RunOptions,
) -> ExitCode:
    """Make a video from a prompt; writes it to the working directory, named after the prompt."""
    from ...tasks import Text2VideoTask

    prompt = read_prompt() if prompt == STREAM else prompt
    task = Text2VideoTask(prompt=prompt, timeout_seconds=options.network_timeout, **vars(video))
    return _run_prompt(prompt, task, options, PictureOptions().output(options.output, VIDEO_SUFFIXES))


@command
def txt2img(
    prompt: Annotated[
        str, typer.Argument(help="What the image shows; - reads it from standard input.", show_default=False)
    ],
    image: ImageOptions,
    options: RunOptions,
    pictures: PictureOptions,
) -> ExitCode:
    """Make an image from a prompt with a LoRA on Flux; writes it to the working directory."""
    from ...tasks import FluxLoraTask

    prompt = read_prompt() if prompt == STREAM else prompt
    task = FluxLoraTask(prompt=prompt, timeout_seconds=options.network_timeout, **vars(image))
    return _run_prompt(prompt, task, options, pictures.output(options.output, PICTURE_SUFFIXES))


def _run_prompt(prompt: str, task: WorkflowTask, options: RunOptions, output: Output) -> ExitCode:
    (place,) = plan_for_names([prompt], output)
    job = Job(prompt, options.call(task), place, task=task)
    return do_jobs(options.screen([place]), load_settings().settings, [job], options)
