"""Engine that upscales by LANCZOS with Pillow, without a model: where the user asks for it by name."""

from __future__ import annotations

import threading

from ..workflows.definition import BoundWorkflow
from ..workflows.upscaling import only_upscales, result_size
from .base import Availability
from .pixels import Floats, lanczos_enlarged
from .upscaling import Made, OnStep, UpscalingEngine

FACTOR = 2
DEVICE = "CPU (LANCZOS)"


class PillowEngine(UpscalingEngine):
    """Enlarges images by LANCZOS, which adds no detail. Where the size is up to a model, it is doubled."""

    name = "pillow"

    def can_run(self, workflow: BoundWorkflow) -> bool:
        """Workflows that upscale and do nothing else."""
        return only_upscales(workflow)

    def available(self) -> Availability:
        """Always: Pillow is a dependency of the package."""
        return Availability(True, device=DEVICE)

    def upscale(
        self, workflow: BoundWorkflow, image: Floats, on_step: OnStep, cancel: threading.Event | None
    ) -> Made:
        """See :meth:`.upscaling.UpscalingEngine.upscale`."""
        size = result_size(workflow, (image.shape[1], image.shape[0]), FACTOR)
        result = lanczos_enlarged(image, size)
        on_step(1, 1)
        note = f"Upscaled {size[0] / image.shape[1]:.3g}x by LANCZOS, without a model."
        return Made(result, DEVICE, note)
