"""What engines that upscale an image themselves have in common: its file, progress, the result's file."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy.typing as npt

from ..errors import ConfigurationError
from ..media.png_encode import encode_png
from ..workflows.definition import BoundWorkflow
from ..workflows.upscaling import only_upscales, uses_model
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
from .pixels import Floats, decode_input

OnStep: TypeAlias = Callable[[int, int], None]
"""Called with the steps done and the steps in all; the latter may grow."""


@dataclass(frozen=True)
class Made:
    """An upscaled image: ``[H, W, 3 or 4]``, float in 0..1 or uint8. See EngineRun for the rest."""

    pixels: npt.NDArray[Any]
    device: str
    note: str


class UpscalingEngine(ABC):
    """A :class:`.base.LocalEngine` that upscales one image. Subclasses say by what.

    Attributes:
        name: See :class:`.base.LocalEngine`.
        step: What a step is called in the progress.
    """

    name: ClassVar[str]
    step: ClassVar[str] = "step"

    def can_run(self, workflow: BoundWorkflow) -> bool:
        """Workflows that upscale by a model and do nothing else."""
        return uses_model(workflow) and only_upscales(workflow)

    @abstractmethod
    def available(self) -> Availability:
        """See :meth:`.base.LocalEngine.available`."""

    @abstractmethod
    def upscale(
        self, workflow: BoundWorkflow, image: Floats, on_step: OnStep, cancel: threading.Event | None
    ) -> Made:
        """Of float32 ``[H, W, 3 or 4]`` in 0..1 to the workflow's size, alpha kept; raises as ``run``."""

    def run(
        self,
        workflow: BoundWorkflow,
        images: Mapping[str, bytes],
        dest: Path,
        *,
        on_progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> EngineRun:
        """See :meth:`.base.LocalEngine.run`. The result is a PNG of the workflow's size, alpha kept."""
        started = time.monotonic()
        raise_if_canceled(cancel, self.name)
        if not (available := self.available()):
            raise ConfigurationError(available.reason)
        image = decode_input(only_image(images, self.name))

        def on_step(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(EngineProgress(done, total, f"{self.step} {done}/{total}"))

        made = self.upscale(workflow, image, on_step, cancel)
        raise_if_canceled(cancel, self.name)
        path = write_result(result_path(dest, 0, ".png"), encode_png(made.pixels))
        return EngineRun((path,), self.name, made.device, time.monotonic() - started, made.note)
