"""A miner's engine that upscales with ncnn, by a model chosen by the image's size."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import thread_time
from typing import Any

import numpy as np

from ..config import UpscaleModelName
from ..engines.ncnn.engine import upscaled
from ..engines.ncnn.models import DEFAULT, lacking
from ..engines.ncnn.upscaler import upscaler
from ..engines.pixels import decode_input
from ..errors import EngineError
from ..media.png_encode import encode_png
from . import DEFAULT_MINERS
from .engines import DefaultEngine, MinerTask
from .miner import DEFAULT_WORKFLOW_IDS

UPSCALE = "upscale"

PATIENCE = 60.0
"""Seconds that one image may take with the best model; a larger one gets a faster model."""

FASTER: tuple[UpscaleModelName, ...] = ("waifu2x-photo", "realesr-animevideov3")
"""The models for larger images, the better first."""

# What a pixel of the input costs, as a share of the best model's cost.
_COST: dict[UpscaleModelName, float] = {"waifu2x-photo": 0.017, "realesr-animevideov3": 0.03}
_PROBE = 48


@dataclass(frozen=True)
class Choice:
    """How an image is upscaled.

    Attributes:
        model: The model.
        factor: How many times wider and higher the result is.
        seconds: How long it will take, as estimated.
    """

    model: UpscaleModelName
    factor: int
    seconds: float


def choose(width: int, height: int, pace: float, factor: int) -> Choice:
    """The model for an image.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        pace: Seconds for a pixel with the best model.
        factor: Of the result with the best model; an image that is too large for it is doubled.
    """
    seconds = width * height * pace
    if seconds <= PATIENCE:
        return Choice(DEFAULT, factor, seconds)
    model = next((model for model in FASTER if not lacking(model)), DEFAULT)
    return Choice(model, 2, seconds * _COST.get(model, 1.0))


Note = Callable[[MinerTask, Choice, int, int], None]
"""Called on a worker thread with the task, the choice, the steps done and the steps in all."""


class ModelEngine:
    """Upscales by a model. A task of the workflow ``lanczos-upscale`` gets LANCZOS, as it asks for.

    Args:
        miners: How many miners share the processor.
        factor: Of results by the best model; larger images are doubled.
        on_progress: Called before the first step with 0 done, and after each step.
    """

    def __init__(
        self, *, miners: int = DEFAULT_MINERS, factor: int = 2, on_progress: Note | None = None
    ) -> None:
        self._threads = max(1, (os.cpu_count() or 1) // max(1, miners))
        self._factor = factor
        self._on_progress = on_progress
        self._other = DefaultEngine()
        self._measuring = Lock()
        self._pace: float | None = None

    @property
    def pace(self) -> float:
        """Seconds for a pixel of an image with the best model on a machine that does nothing else.

        It is measured once.

        Raises:
            XaloraError: The model can't be used.
        """
        with self._measuring:
            if self._pace is None:
                made_by = upscaler(DEFAULT, self._threads)
                # Processor time: the choice of a model must not depend on what else runs just now.
                began = thread_time()
                made_by.upscale(np.zeros((_PROBE, _PROBE, 3), np.float32))
                self._pace = (thread_time() - began) / _PROBE**2
            return self._pace

    def choice(self, width: int, height: int) -> Choice:
        """How an image of this size will be upscaled."""
        return choose(width, height, self.pace, self._factor)

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """See :meth:`.engines.MinerEngine.run`."""
        if task.task_type != "upscaler" or task.workflow_id != UPSCALE:
            return self._other.run(task)
        if task.image is None:
            raise EngineError("Upscaling needs an image")
        image = decode_input(task.image)
        choice = self.choice(image.shape[1], image.shape[0])

        def on_step(done: int, total: int) -> None:
            if self._on_progress is not None:
                self._on_progress(task, choice, done, total)

        on_step(0, 1)
        size = (image.shape[1] * choice.factor, image.shape[0] * choice.factor)
        made_by = upscaler(choice.model, self._threads)
        result = upscaled(made_by, image, size, on_step=on_step, cancel=task.stopped)
        return encode_png(result, threads=1), ".png"


def network_options(engine: ModelEngine) -> dict[str, Any]:
    """Arguments of :class:`.server.Devnet` for miners with this engine."""
    return {
        "engine": engine,
        "workflow_ids": (*DEFAULT_WORKFLOW_IDS, UPSCALE),
        "usual_workflows": {"upscaler": UPSCALE},
    }
