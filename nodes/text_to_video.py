"""The node that makes a video from a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..xalora_client.tasks import Text2VideoTask
from . import shared_inputs
from .base import XaloraNode, worded
from .conversion.videos import VideoDecoder, VideoValue
from .execution.fallback_expansion import expand_video
from .host.compat import ExecutionBlocker, io
from .shared_inputs import advanced, number, seed_input

FRAMES_OFF = (
    "decode_frames is off, so the IMAGE output has no frames. Switch it on, or use the VIDEO output instead."
)

SIZE_TOOLTIP = "{} in pixels. Hosted workflow 1 makes {} only, workflow 2 256 to 1024 in steps of 8."


def prompt_input() -> io.Input:
    """The ``prompt`` widget."""
    return io.String.Input(
        "prompt",
        default="",
        multiline=True,
        dynamic_prompts=True,
        tooltip="Description of the result. {a|b} picks one of the words for each run.",
    )


def video_inputs() -> list[io.Input]:
    """The parameters of a video, with hosted workflow 1's values; 0, in older graphs, leaves them to it."""
    return [
        number("width", SIZE_TOOLTIP.format("Width", 848), default=848, maximum=8192, step=8),
        number("height", SIZE_TOOLTIP.format("Height", 480), default=480, maximum=8192, step=8),
        number(
            "length",
            "Number of frames. Hosted workflow 1 takes 37 to 73, workflow 2 16 to 128.",
            default=73,
            maximum=10_000,
        ),
        number("fps", "Frames per second. Hosted workflow 1 makes 24 only.", default=24, maximum=120),
        advanced(number("steps", "Denoising steps. 0: the workflow's own.", default=30, maximum=100)),
        advanced(
            number("quality", "Quality of the encoder. 0: the workflow's own.", default=80, maximum=100)
        ),
    ]


def video_task(prompt: str, seed: int, widgets: Mapping[str, Any]) -> Text2VideoTask:
    """The task for a node's widgets.

    Raises:
        InvalidTaskError: A value is invalid for the workflow.
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
        return cls.schema(
            "Xalora Text to Video",
            "Makes a video from a prompt on the Xalora network, while the rest of the graph continues.",
            aliases=["txt2vid", "t2v", "video generation", "hunyuan", "mochi"],
            essentials_category="Video Tools",
            enable_expand=True,
            inputs=[
                prompt_input(),
                seed_input(),
                shared_inputs.decode_frames_input(),
                *video_inputs(),
                *shared_inputs.run_inputs(),
            ],
            outputs=[
                io.Video.Output("video", display_name="VIDEO", tooltip="The video, as a file on disk."),
                io.Image.Output(
                    "frames", display_name="IMAGE", tooltip="Its frames; empty with decode_frames off."
                ),
                io.Float.Output("frame_rate", display_name="fps", tooltip="Frames per second."),
            ],
        )

    @classmethod
    @worded
    async def execute(
        cls, prompt: str, seed: int, decode_frames: bool = True, **widgets: Any
    ) -> io.NodeOutput:
        task = video_task(prompt, seed, widgets)
        return await cls.run_tasks(
            [task],
            shared_inputs.run_options(widgets),
            VideoDecoder(decode_frames=decode_frames),
            lambda parent, request: expand_video(parent, request, task, decode_frames=decode_frames),
            lambda made: [made.video, frames_output(made), made.fps],
            noun="video",
        )


def frames_output(made: VideoValue) -> Any:
    """The frames as an output, which blocks the nodes behind it where they are not decoded."""
    return ExecutionBlocker(FRAMES_OFF) if made.frames is None else made.frames
