"""The node that upscales images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..xalora_client.tasks import UpscalerTask
from . import shared_inputs
from .base import CATEGORY, HIDDEN, XaloraNode
from .conversion.image_tensors import TensorBatch, split_batch
from .execution import fallback_expansion, node_run
from .host.compat import io, schema

if TYPE_CHECKING:
    import torch


class XaloraUpscaleImage(XaloraNode):
    """Upscales each image of a batch as a task of its own."""

    NODE_ID = "XaloraUpscaleImage"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.NODE_ID,
            display_name="Xalora Upscale Image",
            category=CATEGORY,
            description="Upscales images on the Xalora network, each image of a batch as a task of its own, "
            "while the rest of the graph continues.",
            search_aliases=["upscale", "super resolution", "enlarge", "esrgan", "xalora"],
            hidden=list(HIDDEN),
            enable_expand=True,
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="One image or a batch. An alpha channel is resized here and added again.",
                ),
                io.Combo.Input(
                    "local_model",
                    options=fallback_expansion.upscale_models(),
                    default=fallback_expansion.AUTO,
                    optional=True,
                    tooltip="Upscale model in models/upscale_models that this machine uses when it takes "
                    "over from the network. auto: an installed one, else LANCZOS.",
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
    async def execute(
        cls, image: torch.Tensor, local_model: str = fallback_expansion.AUTO, **widgets: Any
    ) -> io.NodeOutput:
        colour, alpha = split_batch(image)
        made = await cls.run_tasks(
            upscale_tasks(colour, widgets),
            shared_inputs.run_options(widgets),
            TensorBatch(len(colour), alpha, keep_alpha=False),
        )
        if isinstance(made, node_run.FallbackRequest):
            here = fallback_expansion.expand_upscale(cls.parent_node(), made, len(colour), local_model)
            return cls.expanded(here, made)
        return io.NodeOutput(made)


def upscale_tasks(images: Sequence[torch.Tensor], widgets: Mapping[str, Any]) -> list[UpscalerTask]:
    """One task for each image ``[H, W, 3]``."""
    base = shared_inputs.task_options(widgets)
    return [UpscalerTask(image, **base) for image in images]
