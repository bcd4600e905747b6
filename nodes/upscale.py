"""The node that upscales images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..xalora_client.tasks import UpscalerTask
from . import shared_inputs
from .base import XaloraNode, worded
from .conversion.image_tensors import TensorBatch, split_batch
from .execution.fallback_expansion import AUTO, expand_upscale, upscale_models
from .host.compat import io

if TYPE_CHECKING:
    import torch


class XaloraUpscaleImage(XaloraNode):
    """Upscales each image of a batch as a task of its own."""

    NODE_ID = "XaloraUpscaleImage"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            "Xalora Upscale Image",
            "Upscales images on the Xalora network, each image of a batch as a task of its own, "
            "while the rest of the graph continues.",
            aliases=["upscale", "super resolution", "enlarge", "esrgan"],
            essentials_category="Image Tools",
            enable_expand=True,
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="One image or a batch. An alpha channel is resized here and added again.",
                ),
                io.Combo.Input(
                    "local_model",
                    options=upscale_models(),
                    default=AUTO,
                    optional=True,
                    tooltip="Upscale model that this machine uses when it takes over from the network: a "
                    "file in models/upscale_models, or one that ncnn runs on any machine. auto: the best "
                    "that is there. LANCZOS is no model and adds no detail.",
                ),
                *shared_inputs.batch_inputs(),
                *shared_inputs.run_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    "upscaled", display_name="IMAGE", tooltip="The images, in order, at one size."
                )
            ],
        )

    @classmethod
    @worded
    async def execute(cls, image: torch.Tensor, local_model: str = AUTO, **widgets: Any) -> io.NodeOutput:
        colour, alpha = split_batch(image)
        return await cls.run_tasks(
            upscale_tasks(colour, widgets),
            shared_inputs.run_options(widgets),
            TensorBatch(len(colour), alpha, keep_alpha=False),
            lambda parent, request: expand_upscale(parent, request, len(colour), local_model),
        )


def upscale_tasks(images: Sequence[torch.Tensor], widgets: Mapping[str, Any]) -> list[UpscalerTask]:
    """One task for each image ``[H, W, 3]``."""
    base = shared_inputs.task_options(widgets)
    return [UpscalerTask(image, **base) for image in images]
