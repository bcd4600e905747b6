"""Upscaling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..xalora_client.tasks import UpscalerTask
from . import options, runner
from .compat import io, schema
from .images import ImageBatch, split_batch

if TYPE_CHECKING:
    import torch

CATEGORY = "Xalora"


class XaloraUpscaleImage(io.ComfyNode):
    """Upscales each image of a batch as a task of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="XaloraUpscaleImage",
            display_name="Xalora Upscale Image",
            category=CATEGORY,
            description="Upscales images on the Xalora network, each image of a batch as a task of its own, "
            "while the rest of the graph goes on.",
            search_aliases=["upscale", "super resolution", "enlarge", "esrgan", "xalora"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="One image or a batch. A fourth channel is resized here and rejoined.",
                ),
                *options.batch_inputs(),
                *options.task_inputs(),
                *options.wait_inputs(),
                *options.money_inputs(),
                *options.fallback_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    "upscaled", display_name="IMAGE", tooltip="The images, in order, at one size."
                )
            ],
        )

    @classmethod
    async def execute(cls, image: torch.Tensor, **widgets: Any) -> io.NodeOutput:
        colour, alpha = split_batch(image)
        base = options.task_options(widgets)
        ran = await runner.run(
            cls.hidden.unique_id,
            [UpscalerTask(one, **base) for one in colour],
            options.run_options(widgets),
            ImageBatch(len(colour), alpha, keep_alpha=False),
        )
        assert isinstance(ran, runner.Ran)
        return io.NodeOutput(ran.value)
