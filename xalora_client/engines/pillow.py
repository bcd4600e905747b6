"""Engine that upscales by LANCZOS with Pillow: the last resort, without a model or a GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ..media.png_encode import encode_png
from ..workflows.definition import BoundWorkflow
from .base import (
    UPSCALER,
    Availability,
    EngineProgress,
    EngineRun,
    ProgressCallback,
    only_image,
    raise_if_canceled,
    result_path,
    write_result,
)
from .pixels import decode_input, lanczos_upscale

FACTOR = 2
DEVICE = "CPU (LANCZOS)"


class PillowEngine:
    """Doubles the size of images by LANCZOS, so that an upscaling task always has a result."""

    name = "pillow"

    def can_run(self, workflow: BoundWorkflow) -> bool:
        """Upscaling only."""
        return workflow.task_type == UPSCALER

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
        """See :meth:`.base.LocalEngine.run`. The result is a PNG of twice the size, alpha kept."""
        started = time.monotonic()
        raise_if_canceled(cancel, self.name)
        doubled = lanczos_upscale(decode_input(only_image(images, self.name)), FACTOR)
        raise_if_canceled(cancel, self.name)
        path = write_result(result_path(dest, 0, ".png"), encode_png(doubled))
        if on_progress is not None:
            on_progress(EngineProgress(1, 1, "LANCZOS 2x"))
        seconds = time.monotonic() - started
        return EngineRun(
            (path,), self.name, DEVICE, seconds, f"Upscaled {FACTOR}x by LANCZOS, without a model."
        )
