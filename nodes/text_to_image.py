"""The node that makes images from a prompt, with a LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..xalora_client.errors import InvalidTaskError
from ..xalora_client.tasks import FLUX_ASPECT_RATIOS, FluxLoraTask
from . import shared_inputs
from .base import XaloraNode, worded
from .conversion.image_tensors import TensorBatch
from .execution.fallback_expansion import expand_images
from .host.compat import io
from .shared_inputs import advanced, number, seed_input, seeds_from
from .text_to_video import prompt_input

WORKFLOW_DEFAULT = "workflow's own"
SQUARE = "1:1 square 1024x1024"
MAX_BATCH = 64
SIZE_TOOLTIP = "{} in pixels, 512 to 2048 in steps of 64, for the aspect ratio custom. Else it has no effect."


def image_inputs() -> list[io.Input]:
    """The parameters of an image. 0, -1 and "workflow's own", in older graphs, leave them to the workflow."""
    return [
        io.Int.Input(
            "batch_size",
            default=1,
            min=1,
            max=MAX_BATCH,
            optional=True,
            tooltip="Number of images, each a task of its own, with the seeds seed, seed + 1, ...",
        ),
        io.Combo.Input(
            "aspect_ratio",
            options=[*FLUX_ASPECT_RATIOS, WORKFLOW_DEFAULT],
            default=SQUARE,
            optional=True,
            tooltip="A standard size. custom: the advanced inputs width and height set it.",
        ),
        advanced(number("width", SIZE_TOOLTIP.format("Width"), default=1024, maximum=2048, step=64)),
        advanced(number("height", SIZE_TOOLTIP.format("Height"), default=1024, maximum=2048, step=64)),
        advanced(number("steps", "Denoising steps. 0: the workflow's own.", default=15, maximum=100)),
        _strength("guidance", "Flux guidance. -1: the workflow's own.", default=3.5, maximum=100.0, step=0.1),
        _strength(
            "strength_model",
            "Strength of the LoRA. -1: the workflow's own.",
            default=1.0,
            maximum=1.0,
            step=0.05,
        ),
    ]


def lora_input() -> io.Input:
    return io.String.Input("lora_name", default="", tooltip="File name of the LoRA in the network.")


def image_tasks(prompt: str, lora_name: str, seed: int, widgets: Mapping[str, Any]) -> list[FluxLoraTask]:
    """The tasks for a node's widgets, one for each image.

    Raises:
        InvalidTaskError: A value is invalid for the workflow.
    """
    if not lora_name.strip():
        raise InvalidTaskError(
            "No LoRA is chosen", next_step="Set lora_name to the file name of a LoRA in the network."
        )
    given = {name: widgets[name] for name in ("width", "height", "steps") if widgets.get(name)}
    given |= {name: widgets[name] for name in ("guidance", "strength_model") if widgets.get(name, -1.0) >= 0}
    aspect_ratio = widgets.get("aspect_ratio", WORKFLOW_DEFAULT)
    if aspect_ratio != WORKFLOW_DEFAULT:
        given["aspect_ratio"] = aspect_ratio
        if aspect_ratio != "custom":
            # The widgets' values are of no use, and two tasks that differ in them only are the same.
            given = {name: value for name, value in given.items() if name not in ("width", "height")}
    given |= shared_inputs.task_options(widgets)
    given |= {"prompt": shared_inputs.checked_prompt(prompt), "lora_name": lora_name.strip()}
    return [FluxLoraTask(noise_seed=one, **given) for one in seeds_from(seed, widgets.get("batch_size", 1))]


class XaloraTextToImage(XaloraNode):
    """Makes images from a prompt, with a LoRA on Flux."""

    NODE_ID = "XaloraTextToImage"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema(
            "Xalora Text to Image",
            "Makes images from a prompt on the Xalora network, with a LoRA on Flux, each image "
            "of a batch as a task of its own, while the rest of the graph continues.",
            aliases=["txt2img", "t2i", "image generation", "flux", "lora"],
            essentials_category="Basics",
            enable_expand=True,
            inputs=[
                prompt_input(),
                lora_input(),
                seed_input(),
                *image_inputs(),
                *shared_inputs.batch_inputs(),
                *shared_inputs.run_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    "images", display_name="IMAGE", tooltip="The images, in the order of their seeds."
                )
            ],
        )

    @classmethod
    @worded
    async def execute(cls, prompt: str, lora_name: str, seed: int, **widgets: Any) -> io.NodeOutput:
        tasks = image_tasks(prompt, lora_name, seed, widgets)
        return await cls.run_tasks(
            tasks,
            shared_inputs.run_options(widgets),
            TensorBatch(len(tasks)),
            lambda parent, request: expand_images(parent, request, tasks),
        )


def _strength(name: str, tooltip: str, *, default: float, maximum: float, step: float) -> io.Input:
    return advanced(
        io.Float.Input(
            name, default=default, min=-1.0, max=maximum, step=step, optional=True, tooltip=tooltip
        )
    )
