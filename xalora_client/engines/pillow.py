"""Engine that upscales by LANCZOS with Pillow, without a model: where the user asks for it by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ..media.png_encode import encode_png
from ..workflows.definition import BoundWorkflow
from ..workflows.upscaling import only_upscales, result_size
from .base import (
    Availability,
    EngineProgress,
    EngineRun,
    ProgressCallback,
    only_image,
    raise_if_canceled,
    result_path,
    write_result,
)
from .pixels import decode_input, lanczos_enlarged

FACTOR = 2
DEVICE = "CPU (LANCZOS)"


class PillowEngine:
    """Enlarges images by LANCZOS, which adds no detail."""

    name = "pillow"

    def can_run(self, workflow: BoundWorkflow) -> bool:
        """Workflows that upscale and do nothing else."""
        return only_upscales(workflow)

    def available(self) -> Availability:
        """Always: Pillow is a dependency of the package."""
        return Availability(True, device=DEVICE)

    def run(
        self,
        workflow: BoundWorkflow,
        images: Mapping[str, bytes],
        dest: Path,
        *,
        on_progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> EngineRun:
        """See :meth:`.base.LocalEngine.run`. The result is a PNG of the workflow's size, alpha kept.

        Where the size is up to a model's own factor, it is doubled.
        """
        started = time.monotonic()
        raise_if_canceled(cancel, self.name)
        image = decode_input(only_image(images, self.name))
        size = result_size(workflow, (image.shape[1], image.shape[0]), FACTOR)
        result = lanczos_enlarged(image, size)
        raise_if_canceled(cancel, self.name)
        path = write_result(result_path(dest, 0, ".png"), encode_png(result))
        if on_progress is not None:
            on_progress(EngineProgress(1, 1, "LANCZOS"))
        note = f"Upscaled {size[0] / image.shape[1]:.3g}x by LANCZOS, without a model."
        return EngineRun((path,), self.name, DEVICE, time.monotonic() - started, note)
