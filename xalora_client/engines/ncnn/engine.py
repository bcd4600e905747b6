"""Engine that upscales with ncnn, on a Vulkan device or the processor. Needs the extra ``xalora[ai]``."""

from __future__ import annotations

import threading
from pathlib import Path

from ...config import UpscaleModelName
from ...workflows.definition import BoundWorkflow
from ...workflows.upscaling import Size, result_size
from ..base import Availability
from ..pixels import Floats, fitted
from ..upscaling import Made, OnStep, UpscalingEngine
from .models import DEFAULT, lacking
from .upscaler import NAME, NcnnUpscaler, upscaler

LARGEST_FACTOR = 4
"""A model of a smaller factor runs again on its own result, up to this factor."""


class NcnnEngine(UpscalingEngine):
    """Upscales with a model of ncnn.

    Args:
        model: A packaged model, or a .param or .bin file; None for the default model.
        threads: How many processor threads compute one image; None for all.
    """

    name = NAME

    def __init__(self, model: UpscaleModelName | Path | None = None, *, threads: int | None = None) -> None:
        self._model = DEFAULT if model is None else model
        self._threads = threads

    def available(self) -> Availability:
        """Whether ncnn and the model are there; imports neither."""
        reason = lacking(self._model)
        return Availability(not reason, reason)

    def upscale(
        self, workflow: BoundWorkflow, image: Floats, on_step: OnStep, cancel: threading.Event | None
    ) -> Made:
        """See :meth:`..upscaling.UpscalingEngine.upscale`."""
        made_by = upscaler(self._model, self._threads)
        size = result_size(workflow, (image.shape[1], image.shape[0]), made_by.model.scale)
        result = upscaled(made_by, image, size, on_step=on_step, cancel=cancel)
        return Made(result, made_by.device, note(made_by, image.shape[1], size[0]))


def upscaled(
    made_by: NcnnUpscaler,
    image: Floats,
    size: Size,
    *,
    on_step: OnStep | None = None,
    cancel: threading.Event | None = None,
) -> Floats:
    """Upscale an image to an exact size.

    Args:
        made_by: The model; it runs again on its result where it is too small, see :data:`LARGEST_FACTOR`.
        image: float32 ``[H, W, 3 or 4]`` in 0..1.
        size: Width and height of the result.
        on_step: Called with the steps done and the steps in all.
        cancel: When set, stops at the next step.

    Returns:
        float32 ``[height, width, C]`` in 0..1.

    Raises:
        EngineCanceledError: ``cancel`` was set.
        EngineError: It can't be computed.
    """
    scale = made_by.model.scale
    height, width = image.shape[:2]
    shapes = [(height * scale**n, width * scale**n) for n in range(passes(scale, width, size[0]))]
    total = sum(made_by.steps(*shape) for shape in shapes)
    before = 0
    made = image[..., :3]
    for shape in shapes:

        def step(done: int, _total: int, before: int = before) -> None:
            if on_step is not None:
                on_step(before + done, total)

        made = made_by.upscale(made, on_step=step, cancel=cancel)
        before += made_by.steps(*shape)
    return fitted(made, image, size)


def passes(scale: int, width: int, wanted: int) -> int:
    """How often a model of this scale runs to make ``wanted`` pixels of ``width``."""
    count = 1
    while width * scale**count < wanted and scale ** (count + 1) <= LARGEST_FACTOR:
        count += 1
    return count


def note(made_by: NcnnUpscaler, width: int, wanted: int) -> str:
    """What was done, as a sentence."""
    model = made_by.model
    count = passes(model.scale, width, wanted)
    text = f"Upscaled with {model.name} ({model.scale}x{', twice' if count > 1 else ''})"
    if width * model.scale**count != wanted:
        text += f", resized to {wanted / width:.3g}x by LANCZOS"
    if not model.is_packaged:
        text += f", in tiles that overlap by {model.overlap} pixels"
    return f"{text}."
