"""The node that upscales videos."""

from __future__ import annotations

from typing import Any

from . import shared_inputs
from .base import XaloraNode, worded
from .execution.clip_run import ClipRun
from .host.compat import io
from .shared_inputs import advanced, number


class XaloraUpscaleVideo(XaloraNode):
    """Upscales a video frame by frame; each frame that differs is a task of its own."""

    NODE_ID = "XaloraUpscaleVideo"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            "Xalora Upscale Video",
            "Upscales a video of any length on the Xalora network, many frames at a time, while the rest of "
            "the graph continues. Each frame that differs from the others is a task.",
            aliases=["upscale", "video upscale", "super resolution", "enlarge", "esrgan"],
            essentials_category="Video Tools",
            inputs=[
                io.Video.Input(
                    "video", tooltip="The video. Its sound, times and colours stay; a turned one is upright."
                ),
                number(
                    "max_tasks",
                    "Send nothing if the video needs more tasks than this. 0: any number.",
                    maximum=1_000_000,
                ),
                advanced(
                    io.Boolean.Input(
                        "same_engine",
                        default=False,
                        optional=True,
                        tooltip="All frames are made by what makes the first one, the network or this "
                        "machine, so that the picture does not flicker.",
                    )
                ),
                *shared_inputs.batch_inputs(),
                *shared_inputs.run_inputs(),
            ],
            outputs=[
                io.Video.Output("upscaled", display_name="VIDEO", tooltip="The video, as a file on disk.")
            ],
        )

    @classmethod
    @worded
    async def execute(
        cls, video: Any, max_tasks: int = 0, same_engine: bool = False, **widgets: Any
    ) -> io.NodeOutput:
        run = ClipRun(
            origin=cls.origin(),
            video=video,
            options=shared_inputs.run_options(widgets),
            task_options=shared_inputs.task_options(widgets),
            max_tasks=max_tasks or None,
            same_engine=same_engine,
        )
        return io.NodeOutput(await run.video_on_bridge())
