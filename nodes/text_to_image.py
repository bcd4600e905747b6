"""Text to image with a LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..xalora_client.errors import InvalidTaskError
from ..xalora_client.tasks import FLUX_ASPECT_RATIOS, FluxLoraTask
from . import shared_inputs
from .base import CATEGORY, HIDDEN, XaloraNode
from .conversion.images import TensorBatch
from .execution import fallback, node_run
from .host.compat import io, schema
from .shared_inputs import seed_input, seeds_from
from .text_to_video import prompt_input

WORKFLOW_DEFAULT = "workflow's own"
MAX_BATCH = 64


def image_inputs() -> list[io.Input]:
    """An image's own parameters; 0 and "workflow's own" leave them to the workflow."""
    return [
        io.Int.Input(
            "batch_size",
            default=1,
            min=1,
            max=MAX_BATCH,
            optional=True,
            tooltip="Images to make, each as a task of its own with the seeds seed, seed + 1, ...",
        ),
        io.Combo.Input(
            "aspect_ratio",
            options=[WORKFLOW_DEFAULT, *FLUX_ASPECT_RATIOS],
            default=WORKFLOW_DEFAULT,
            optional=True,
            tooltip="A usual size. custom: as width and height say.",
        ),
        _size("width"),
        _size("height"),
        shared_inputs.advanced(
            io.Int.Input(
                "steps",
                default=0,
                min=0,
                max=100,
                optional=True,
                tooltip="Denoising steps. 0: as the workflow has it.",
            )
        ),
        shared_inputs.advanced(
            io.Float.Input(
                "guidance",
                default=-1.0,
                min=-1.0,
                max=100.0,
                step=0.1,
                optional=True,
                tooltip="Flux guidance. -1: as the workflow has it.",
            )
        ),
        shared_inputs.advanced(
            io.Float.Input(
                "strength_model",
                default=-1.0,
                min=-1.0,
                max=1.0,
                step=0.05,
                optional=True,
                tooltip="Strength of the LoRA. -1: as the workflow has it.",
            )
        ),
    ]


def lora_input() -> io.Input:
    return io.String.Input("lora_name", default="", tooltip="File name of the LoRA, as the network knows it.")


def image_tasks(prompt: str, lora_name: str, seed: int, widgets: Mapping[str, Any]) -> list[FluxLoraTask]:
    """The tasks that a node's widgets ask for, one an image.

    Raises:
        InvalidTaskError: They do not fit the workflow.
    """
    if not lora_name.strip():
        raise InvalidTaskError(
            "No LoRA is named", next_step="Give lora_name, the file name of a LoRA as the network knows it."
        )
    given = {name: widgets[name] for name in ("width", "height", "steps") if widgets.get(name)}
    given |= {name: widgets[name] for name in ("guidance", "strength_model") if widgets.get(name, -1.0) >= 0}
    if widgets.get("aspect_ratio", WORKFLOW_DEFAULT) != WORKFLOW_DEFAULT:
        given["aspect_ratio"] = widgets["aspect_ratio"]
    given |= shared_inputs.task_options(widgets)
    given |= {"prompt": shared_inputs.checked_prompt(prompt), "lora_name": lora_name.strip()}
    return [FluxLoraTask(noise_seed=one, **given) for one in seeds_from(seed, widgets.get("batch_size", 1))]


class XaloraTextToImage(XaloraNode):
    """Makes images from a prompt, with a LoRA on Flux."""

    NODE_ID = "XaloraTextToImage"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.NODE_ID,
            display_name="Xalora Text to Image",
            category=CATEGORY,
            description="Makes images from a prompt on the Xalora network, with a LoRA on Flux, each image "
            "of a batch as a task of its own, while the rest of the graph goes on.",
            search_aliases=["txt2img", "t2i", "image generation", "flux", "lora", "xalora"],
            hidden=list(HIDDEN),
            enable_expand=True,
            inputs=[
                prompt_input(),
                lora_input(),
                seed_input(),
                *image_inputs(),
                *shared_inputs.batch_inputs(),
                *shared_inputs.task_inputs(),
                *shared_inputs.wait_inputs(),
                *shared_inputs.money_inputs(),
                *shared_inputs.fallback_inputs(),
            ],
            outputs=[io.Image.Output("images", display_name="IMAGE", tooltip="In order of their seeds.")],
        )

    @classmethod
    async def execute(cls, prompt: str, lora_name: str, seed: int, **widgets: Any) -> io.NodeOutput:
        tasks = image_tasks(prompt, lora_name, seed, widgets)
        made = await cls.run_tasks(tasks, shared_inputs.run_options(widgets), TensorBatch(len(tasks)))
        if isinstance(made, node_run.HandedOver):
            return cls.expanded(fallback.images_here(cls.place(), made, tasks), made)
        return io.NodeOutput(made)


def _size(name: str) -> io.Input:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=2048,
        step=64,
        optional=True,
        tooltip=f"{name.capitalize()} in pixels, 512 to 2048 in steps of 64, with the aspect ratio custom. "
        "0: as the workflow makes it by itself.",
    )
