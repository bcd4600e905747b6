"""Engine that upscales with ncnn, on a Vulkan device or the processor. Needs the extra ``xalora[ai]``."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ...config import UpscaleModelName
from ...errors import ConfigurationError
from ...media.png_encode import encode_png
from ...workflows.definition import BoundWorkflow
from ...workflows.upscaling import Size, only_upscales, result_size, uses_model
from ..base import (
    Availability,
    EngineProgress,
    EngineRun,
    ProgressCallback,
    only_image,
    raise_if_canceled,
    result_path,
    write_result,
)
from ..pixels import Floats, decode_input, fitted
from .models import DEFAULT, lacking
from .upscaler import NAME, NcnnUpscaler, OnStep, upscaler

LARGEST_FACTOR = 4
"""A model of a smaller factor runs again on its own result, up to this factor."""


class NcnnEngine:
    """Upscales with a model of ncnn.

    Args:
        model: A packaged model, or a .param or .bin file; None for the default model.
        threads: How many processor threads compute one image; None for all.
    """

    name = NAME

    def __init__(self, model: UpscaleModelName | Path | None = None, *, threads: int | None = None) -> None:
        self._model = DEFAULT if model is None else model
        self._threads = threads

    def can_run(self, workflow: BoundWorkflow) -> bool:
        """Workflows that upscale by a model and do nothing else."""
        return uses_model(workflow) and only_upscales(workflow)

    def available(self) -> Availability:
        """Whether ncnn and the model are there; imports neither."""
        reason = lacking(self._model)
        return Availability(not reason, reason)

    def run(
        self,
        workflow: BoundWorkflow,
        images: Mapping[str, bytes],
        dest: Path,
        *,
        on_progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> EngineRun:
        """See :meth:`..base.LocalEngine.run`. The result is a PNG of the workflow's size, alpha kept."""
        started = time.monotonic()
        raise_if_canceled(cancel, NAME)
        if reason := lacking(self._model):
            raise ConfigurationError(reason)
        image = decode_input(only_image(images, NAME))
        made_by = upscaler(self._model, self._threads)
        size = result_size(workflow, (image.shape[1], image.shape[0]), made_by.model.scale)

        def on_step(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(EngineProgress(done, total, f"step {done}/{total}"))

        result = upscaled(made_by, image, size, on_step=on_step, cancel=cancel)
        path = write_result(result_path(dest, 0, ".png"), encode_png(result))
        seconds = time.monotonic() - started
        return EngineRun((path,), NAME, made_by.device, seconds, note(made_by, image.shape[1], size[0]))


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
