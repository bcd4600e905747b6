"""The node that upscales images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..xalora_client.errors import InputTooLargeError, InvalidTaskError, XaloraError
from ..xalora_client.journal.records import Whole
from ..xalora_client.parts import PartTask
from ..xalora_client.tasks import UpscalerTask
from ..xalora_client.text import counted
from . import shared_inputs
from .base import XaloraNode, worded
from .conversion.image_tensors import TensorBatch, split_batch
from .conversion.tiled_images import AUTO as AUTO_TILES
from .conversion.tiled_images import NEVER, TILES, Cuts, TiledBatch, cut, smaller_tiles
from .execution.batch_plan import BatchError, charges_of
from .execution.fallback_expansion import AUTO, Expansion, ParentNode, expand_upscale, upscale_models
from .host.comfyui_settings import read_settings
from .host.compat import io
from .shared_inputs import advanced, number

if TYPE_CHECKING:
    import torch

    from ..xalora_client.config import Settings
    from ..xalora_client.journal import ClaimOptions, Journal
    from .execution.node_run import FallbackRequest


TOO_LARGE_FOR_A_REQUEST = "The image is too large for one request"

_SMALLER = {
    **dict.fromkeys(TILES, "Choose smaller tiles, or auto, then press Run."),
    AUTO_TILES: "Make it smaller, or set a store under Settings > Xalora > Input images.",
    NEVER: "Set tile to auto, then press Run: it is cut into tiles then.",
}


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
                advanced(
                    io.Combo.Input(
                        "tile",
                        options=list(TILES),
                        default=TILES[0],
                        optional=True,
                        tooltip="When an image is cut into tiles, each a task, and put together without "
                        "seams. auto: where it is too large for one request. never: not at all. A number: "
                        "each image that is wider or higher than so many pixels, the side of the tiles.",
                    )
                ),
                advanced(
                    number(
                        "max_tasks",
                        "Send nothing if the images need more tasks than this. 0: any number.",
                        maximum=1_000_000,
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    "upscaled", display_name="IMAGE", tooltip="The images, in order, at one size."
                )
            ],
        )

    @classmethod
    @worded
    async def execute(
        cls,
        image: torch.Tensor,
        local_model: str = AUTO,
        tile: str = TILES[0],
        max_tasks: int = 0,
        **widgets: Any,
    ) -> io.NodeOutput:
        colour, alpha = split_batch(image)
        options = shared_inputs.run_options(widgets)
        settings = read_settings().settings
        what = "The image" if len(colour) == 1 else f"The batch of {len(colour)}"
        refused: dict[int, int] = {}
        while True:
            # Not awaited: a node that blocks the prompt's loop would hold up what is sent.
            cuts = cut(colour, tile, inline_limit(settings), refused)
            check = partial(_check_tasks, what, cuts, shared_inputs.task_options(widgets), max_tasks)
            try:
                return await cls.run_tasks(
                    tile_tasks(cuts, widgets) if cuts.are_any else upscale_tasks(cuts.tiles, widgets),
                    options,
                    TiledBatch(cuts, alpha)
                    if cuts.are_any
                    else TensorBatch(len(colour), alpha, keep_alpha=False),
                    partial(_expand, cuts=cuts, local_model=local_model),
                    noun="tile" if cuts.are_any else "image",
                    check=check if max_tasks else None,
                )
            except XaloraError as error:
                smaller = _smaller(error, cuts) if tile == AUTO_TILES else {}
                if not smaller:
                    raise advised(error, _SMALLER[tile]) from error
                refused |= smaller


def _check_tasks(
    what: str,
    cuts: Cuts,
    task_options: Mapping[str, Any],
    most: int,
    journal: Journal,
    settings: Settings,
    claim: ClaimOptions,
) -> None:
    """Check that no more new tasks are needed than the user allows. Blocking.

    Raises:
        ConfigurationError: They are.
    """
    from ..xalora_client.media.inputs import digest_of_array, sent_pixels
    from ..xalora_client.parts import count_new
    from ..xalora_client.tiles.upscaling import check_tasks

    digests = {digest_of_array(sent_pixels(tile)) for tile in cuts.tiles}
    new = count_new(journal, settings, task_options, digests, claim)
    check_tasks(what, sum(plan.count for plan in cuts.images), len(digests), new, most)


def inline_limit(settings: Settings) -> int | None:
    """The most bytes of an image in a request; None where images go by a store."""
    return int(settings.inline_limit) if settings.store_url is None else None


def _smaller(error: XaloraError, cuts: Cuts) -> dict[int, int]:
    """See :func:`.smaller_tiles`; empty where not all that failed was too large."""
    errors = error.errors if isinstance(error, BatchError) else {0: error}
    finished = error.finished if isinstance(error, BatchError) else {}
    return smaller_tiles(cuts, errors, finished) if all(map(is_refused, errors.values())) else {}


def is_refused(error: XaloraError) -> bool:
    """Whether the network found the request too large."""
    from ..xalora_client.tiles.upscaling import TOO_LARGE

    return getattr(error, "status_code", None) == TOO_LARGE


def advised(error: XaloraError, advice: str) -> XaloraError:
    """The error; where an image is too large for one request, and nothing is paid for, with this advice."""
    first = error.first if isinstance(error, BatchError) else error
    is_paid = isinstance(error, BatchError) and error.finished
    if is_paid or not (is_refused(first) or isinstance(first, InputTooLargeError)):
        return error
    return InvalidTaskError(TOO_LARGE_FOR_A_REQUEST, next_step=advice)


def _expand(parent: ParentNode, request: FallbackRequest, cuts: Cuts, local_model: str) -> Expansion:
    """Have this machine make the missing images; where any is cut, all of them.

    Raises:
        XaloraError: Tiles of the network are here, and those of two engines would show where they meet. Or
            this machine can't do it.
    """
    total = len(cuts.images)
    if not cuts.are_any:
        return expand_upscale(parent, request, total, local_model)
    if request.results and request.error is not None:
        made = len(request.results)
        raise BatchError(
            f"{len(request.missing)} of {len(cuts.tiles)} tiles failed: {request.error.what}",
            money=f"{counted(made, 'tile')} finished and paid for. {charges_of(request.errors)}".strip(),
            next_step="Queue the graph again for the missing ones; finished ones are not sent again.",
            errors=dict(enumerate(request.errors)),
            finished={index: result.task_id or "" for index, result in request.results.items()},
            noun="tile",
            total=len(cuts.tiles),
        )
    return expand_upscale(parent, replace(request, missing=tuple(range(total))), total, local_model)


def upscale_tasks(images: Sequence[torch.Tensor], widgets: Mapping[str, Any]) -> list[UpscalerTask]:
    """One task for each image ``[H, W, 3]``."""
    base = shared_inputs.task_options(widgets)
    return [UpscalerTask(image, **base) for image in images]


def tile_tasks(cuts: Cuts, widgets: Mapping[str, Any]) -> list[UpscalerTask]:
    """One task for each tile, all of them parts of one whole."""
    base, total = shared_inputs.task_options(widgets), len(cuts.tiles)
    images = len(cuts.images)
    whole = Whole(f"tiles-{cuts.digest}", "upscale an image" if images == 1 else f"upscale {images} images")
    return [
        PartTask.of(whole, f"tile {number} of {total}", tile, **base)
        for number, tile in enumerate(cuts.tiles, 1)
    ]
