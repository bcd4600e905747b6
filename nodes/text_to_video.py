"""Text to video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..xalora_client.tasks import Text2VideoTask
from . import shared_inputs
from .base import CATEGORY, HIDDEN, XaloraNode
from .conversion.videos import VideoSink
from .execution import fallback, node_run
from .host.compat import ExecutionBlocker, io, schema
from .shared_inputs import seed_input

FRAMES_OFF = (
    "decode_frames is off, so the IMAGE output has no frames. Switch it on, or use the VIDEO output instead."
)


def prompt_input() -> io.Input:
    """The prompt of a text-to-anything node."""
    return io.String.Input(
        "prompt",
        default="",
        multiline=True,
        dynamic_prompts=True,
        tooltip="What it shows, in words. {a|b} picks one of the words for each run.",
    )


def video_inputs() -> list[io.Input]:
    """A video's own parameters. 0 everywhere: what the workflow makes by itself."""
    return [
        _number("width", 8192, "Width in pixels.", step=8),
        _number("height", 8192, "Height in pixels.", step=8),
        _number("length", 10_000, "Number of frames."),
        _number("fps", 120, "Frames per second."),
        shared_inputs.advanced(_number("steps", 100, "Denoising steps.")),
        shared_inputs.advanced(_number("quality", 100, "Quality of the encoder.")),
    ]


def video_task(prompt: str, seed: int, widgets: Mapping[str, Any]) -> Text2VideoTask:
    """The task that a node's widgets ask for.

    Raises:
        InvalidTaskError: They do not fit the workflow.
    """
    names = ("width", "height", "length", "fps", "steps", "quality")
    given = {name: widgets[name] for name in names if widgets.get(name)}
    return Text2VideoTask(
        prompt=shared_inputs.checked_prompt(prompt), seed=seed, **given, **shared_inputs.task_options(widgets)
    )


class XaloraTextToVideo(XaloraNode):
    """Makes a video from a prompt."""

    NODE_ID = "XaloraTextToVideo"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.NODE_ID,
            display_name="Xalora Text to Video",
            category=CATEGORY,
            description="Makes a video from a prompt on the Xalora network, while the rest of the graph goes "
            "on.",
            search_aliases=["txt2vid", "t2v", "video generation", "hunyuan", "mochi", "xalora"],
            hidden=list(HIDDEN),
            enable_expand=True,
            inputs=[
                prompt_input(),
                seed_input(),
                shared_inputs.decode_frames_input(),
                *video_inputs(),
                *shared_inputs.task_inputs(),
                *shared_inputs.wait_inputs(),
                *shared_inputs.money_inputs(),
                *shared_inputs.fallback_inputs(),
            ],
            outputs=[
                io.Video.Output("video", display_name="VIDEO", tooltip="The video, still on disk."),
                io.Image.Output("frames", display_name="IMAGE", tooltip="Its frames, with decode_frames on."),
                io.Float.Output("frame_rate", display_name="fps", tooltip="Frames per second."),
            ],
        )

    @classmethod
    async def execute(
        cls, prompt: str, seed: int, decode_frames: bool = True, **widgets: Any
    ) -> io.NodeOutput:
        task = video_task(prompt, seed, widgets)
        made = await cls.run_tasks(
            [task],
            shared_inputs.run_options(widgets),
            VideoSink(decode_frames=decode_frames),
            noun="video",
        )
        if isinstance(made, node_run.HandedOver):
            here = fallback.video_here(cls.place(), made, task, decode_frames=decode_frames)
            return cls.expanded(here, made)
        frames = ExecutionBlocker(FRAMES_OFF) if made.frames is None else made.frames
        return io.NodeOutput(made.video, frames, made.fps)


def _number(name: str, maximum: int, tooltip: str, step: int = 1) -> io.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=maximum,
        step=step,
        optional=True,
        tooltip=f"{tooltip} 0: as the workflow makes it by itself.",
    )
