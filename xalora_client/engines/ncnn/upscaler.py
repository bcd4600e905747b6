"""Upscales arrays by a model with ncnn: in stages and tiles, on a Vulkan device or the processor."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ...config import UpscaleModelName
from ..base import local_error, raise_if_canceled, turn
from ..pixels import Floats
from ..tiles import Tile
from ..upscaling import OnStep
from .models import NcnnModel, tried
from .net import ModelError, Net
from .param import TAIL_OVERLAP, Stages

logger = logging.getLogger("xalora_client.engines")

NAME = "ncnn"

TILE = 256
"""Side of the tiles of a model without stages, in pixels of the input, without their overlap."""

TRUNK_PIXELS = 360 * 360
"""The most pixels that a trunk computes at once: it takes some 20 KB of memory for each."""

TAIL_TILE = 64


class NcnnUpscaler:
    """A model, loaded. Threads may share it; they compute beside each other.

    Args:
        model: The model.
        threads: How many processor threads compute one image; None for all.
        tile: Side of the tiles without their overlap, in pixels of the input; None for what suits the model.
        overlap: Of tiles, in pixels of the input; None for the model's own.

    Raises:
        ConfigurationError: The model can't be loaded.
    """

    def __init__(
        self,
        model: NcnnModel,
        *,
        threads: int | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> None:
        self.model = model
        cores = os.cpu_count() or 1
        self._threads = threads or cores
        self._turns = threading.BoundedSemaphore(max(1, cores // self._threads))
        self._tile = tile
        self._overlap = model.overlap if overlap is None else overlap
        if self._overlap < model.border:
            raise ValueError(f"{model.name} takes {model.border} pixels of each side: overlap them")
        self._gpu = model.gpu
        if model.gpu_error:
            logger.warning("%s is not used for upscaling: %s", model.gpu_name, model.gpu_error)
        self._net = self._loaded()

    @property
    def device(self) -> str:
        """The device for people: the Vulkan device's name, or ``cpu``."""
        return "cpu" if self._gpu is None else f"vulkan:{self._gpu} {self.model.gpu_name}"

    def upscale(
        self, image: Floats, *, on_step: OnStep | None = None, cancel: threading.Event | None = None
    ) -> Floats:
        """Upscale one image by the model's own factor.

        Args:
            image: float32 ``[H, W, 3]`` in 0..1.
            on_step: Called after each step: a part of the model, or of a tile.
            cancel: When set, stops at the next step.

        Returns:
            float32 ``[H * scale, W * scale, 3]`` in 0..1.

        Raises:
            EngineCanceledError: ``cancel`` was set.
            EngineError: It can't be computed, for a lack of memory for example.
        """
        tiles = self._tiles(*image.shape[:2])
        total = self.steps(*image.shape[:2])
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if on_step is not None:
                on_step(done, total)
            raise_if_canceled(cancel, NAME)

        # More images at a time would take memory and make none of them faster.
        with turn(self._turns, cancel, NAME):
            try:
                return self._run(image, tiles, step)
            except ModelError as error:
                if self._gpu is None:
                    raise local_error(
                        f"ncnn can't run {self.model.name}: {error}",
                        "Close other programs, or take a smaller image.",
                    ) from error
                self._leave_gpu(error)
                done = 0
                return self._run(image, tiles, step)

    def steps(self, height: int, width: int) -> int:
        """How many steps an image takes."""
        return sum(self._steps_of(tile) for tile in self._tiles(height, width))

    def _run(self, image: Floats, tiles: list[Tile], step: Callable[[], None]) -> Floats:
        scale = self.model.scale
        height, width = image.shape[:2]
        result = np.empty((height * scale, width * scale, 3), np.float32)
        border = self.model.border
        padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge") if border else image
        for tile in tiles:
            for part, pixels in self._upscaled(padded, tile, height, width, step):
                result[part.top * scale : part.bottom * scale, part.left * scale : part.right * scale] = (
                    pixels
                )
        return np.clip(result, 0.0, 1.0, out=result)

    def _tiles(self, height: int, width: int) -> list[Tile]:
        whole = Tile(0, 0, height, width)
        if self._tile is not None:
            return whole.cut(self._tile)
        if self.model.stages is None:
            return whole.cut(TILE)
        if height * width <= TRUNK_PIXELS:
            return [whole]
        return whole.cut(int(TRUNK_PIXELS**0.5) - 2 * self._overlap)

    def _steps_of(self, tile: Tile) -> int:
        if self.model.stages is None:
            return len(self.model.pauses) + 1
        return len(self.model.stages.blocks) + 1 + len(tile.cut(TAIL_TILE))

    def _upscaled(
        self, padded: Floats, tile: Tile, height: int, width: int, step: Callable[[], None]
    ) -> Iterator[tuple[Tile, Floats]]:
        """The parts of a tile with their pixels, ``[H * scale, W * scale, 3]``."""
        border = self.model.border
        # In pixels of the image; at the image's edges it goes past them by the border.
        wide = Tile(
            max(tile.top - self._overlap, -border),
            max(tile.left - self._overlap, -border),
            min(tile.bottom + self._overlap, height + border),
            min(tile.right + self._overlap, width + border),
        )
        given = padded[wide.top + border : wide.bottom + border, wide.left + border : wide.right + border]
        pixels = given.transpose(2, 0, 1)
        if self.model.stages is None:
            made = self._whole(pixels, step)
            # The model has taken its border off.
            yield tile, self._cut(made, tile, wide.top + border, wide.left + border)
            return
        features = self._features(pixels, self.model.stages, step)
        for part in tile.cut(TAIL_TILE):
            # The overlap's own end is no end of the image: the tail goes on in it.
            around = Tile(
                max(part.top - TAIL_OVERLAP, wide.top),
                max(part.left - TAIL_OVERLAP, wide.left),
                min(part.bottom + TAIL_OVERLAP, wide.bottom),
                min(part.right + TAIL_OVERLAP, wide.right),
            )
            area = features[
                :,
                around.top - wide.top : around.bottom - wide.top,
                around.left - wide.left : around.right - wide.left,
            ]
            made = self._net.start(self.model.stages.features, area).take(self.model.stages.output)
            step()
            yield part, self._cut(made, part, around.top, around.left)

    def _whole(self, pixels: Floats, step: Callable[[], None]) -> Floats:
        """The model's result, part by part, so that a cancel does not wait for the whole."""
        extraction = self._net.start(self._net.input, pixels)
        for blob in self.model.pauses:
            if self._gpu is None:  # a Vulkan device would copy each blob to here
                extraction.advance(blob)
            step()
        made = extraction.take(self._net.output)
        step()
        return made

    def _features(self, pixels: Floats, stages: Stages, step: Callable[[], None]) -> Floats:
        """The trunk's result, block by block, so that a cancel does not wait for the whole."""
        extraction = self._net.start(self._net.input, pixels)
        for blob in stages.blocks:
            extraction.advance(blob)
            step()
        features = extraction.take(stages.features)
        step()
        return features

    def _cut(self, made: Floats, tile: Tile, top: int, left: int) -> Floats:
        """A tile's pixels out of a result that begins at ``top`` and ``left`` of the image."""
        scale = self.model.scale
        y, x = (tile.top - top) * scale, (tile.left - left) * scale
        cut = made[:, y : y + tile.height * scale, x : x + tile.width * scale]
        if cut.shape[1:] != (tile.height * scale, tile.width * scale) or not np.isfinite(cut).all():
            raise ModelError(f"its result of the shape {made.shape} is no image")
        pixels: Floats = cut.transpose(1, 2, 0)
        return pixels

    def _loaded(self) -> Net:
        try:
            return Net(self.model.param, self.model.weights, threads=self._threads, gpu=self._gpu)
        except ModelError as error:
            if self._gpu is None:
                raise local_error(
                    f"ncnn can't load {self.model.name}: {error}", "Install it again."
                ) from error
            self._leave_gpu(error)
            return self._net

    def _leave_gpu(self, error: ModelError) -> None:
        """Go on with the processor for good."""
        logger.warning("%s fails at upscaling (%s); the processor goes on", self.device, error)
        self._gpu = None
        self._net = self._loaded()


_upscalers: dict[tuple[UpscaleModelName | Path, int | None], NcnnUpscaler] = {}
_loading = threading.Lock()


def upscaler(model: UpscaleModelName | Path, threads: int | None = None) -> NcnnUpscaler:
    """The process's only upscaler of this kind: loading takes time, and each copy hundreds of megabytes.

    Raises:
        ConfigurationError: The model is not installed, or no model.
        EngineError: It can't be loaded.
    """
    with _loading:
        if (model, threads) not in _upscalers:
            _upscalers[model, threads] = NcnnUpscaler(tried(model), threads=threads)
        return _upscalers[model, threads]
