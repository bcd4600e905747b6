"""Engine that upscales by a model file with torch and spandrel, on CUDA, MPS or CPU.

Images are cut into tiles that fit the memory. Needs the extra ``xalora[local]``; torch is imported at the
first run.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..workflows.definition import BoundWorkflow
from ..workflows.upscaling import result_size
from .base import Availability, local_error, raise_if_canceled, turn
from .pixels import Floats, fitted, lanczos_resize
from .tiles import Tile
from .upscaling import Made, OnStep, UpscalingEngine

logger = logging.getLogger("xalora_client.engines")

NAME = "torch"

INSTALL = 'Install it with: pip install "xalora[local]".'
CONFIGURE = "Set XALORA_UPSCALE_MODEL to one that exists."

DEFAULT_TILE = 512
SMALLEST_TILE = 32
"""Tiles are halved on a lack of memory down to this side; in smaller ones the overlap would dominate."""

MARGINS = (8, 16, 24, 32, 48, 64)
"""The overlaps that :meth:`TorchUpscaler.measure_overlap` chooses from, in pixels of the input."""

_PROBE_CORE = 16  # pixels of the patch whose surroundings are varied to measure the overlap
_PROBE_LIMIT = 0.1 / 255  # the largest change by the surroundings


class TorchUpscaler:
    """A model file on a device, ready for images.

    Args:
        model_path: A single-image model that spandrel can load (.pth, .safetensors, ...).
        device: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``; None for the best there is.
        tile: Side of the largest tile in pixels of the input, without its overlap.
        overlap: How far each tile reaches into its neighbours, in pixels of the input; the result of that
            part is dropped, so that no seams show. None measures it for this model, see
            :meth:`measure_overlap`.
        half: Compute in 16 bits; None for yes on CUDA where the model supports it.
        cancel: When set, stops at the next layer of the model that measures the overlap.

    Raises:
        ConfigurationError: torch or spandrel is not installed, or the file is no such model.
        EngineCanceledError: ``cancel`` was set.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        device: str | None = None,
        tile: int = DEFAULT_TILE,
        overlap: int | None = None,
        half: bool | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self._torch = _import_torch()
        self.device = self._torch.device(device or _best_device(self._torch))
        self.descriptor = _load(model_path, self.device)
        self.scale: int = self.descriptor.scale
        self._align: int = self.descriptor.size_requirements.multiple_of
        self.tile = self._tile_of(tile)
        with self._stopped_by(cancel):
            self.overlap = self.measure_overlap() if overlap is None else overlap
        wants_half = self.device.type == "cuda" and self.descriptor.supports_half
        if wants_half if half is None else half:
            self.descriptor.half()

    @property
    def device_name(self) -> str:
        """The device for people: ``cuda:0 NVIDIA H100``, ``mps``, ``cpu``."""
        if self.device.type == "cuda":
            return f"{self.device} {self._torch.cuda.get_device_name(self.device)}"
        return str(self.device)

    def upscale(
        self,
        image: Floats,
        *,
        factor: float | None = None,
        on_tile: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Floats:
        """Upscale one image.

        Args:
            image: float32 ``[H, W, 3 or 4]`` in 0..1; alpha is enlarged by LANCZOS.
            factor: Resize the result to this many times the input's size by LANCZOS; None keeps the model's
                own factor.
            on_tile: Called with (tiles done, tiles in all); the latter grows when tiles are halved.
            cancel: When set, stops at the next layer of the model: a tile takes minutes on some processors.

        Returns:
            float32 ``[H * f, W * f, C]`` in 0..1.

        Raises:
            EngineCanceledError: ``cancel`` was set.
            EngineError: The memory does not suffice even for the smallest tile.
        """
        height, width, channels = image.shape
        result = np.empty((height * self.scale, width * self.scale, channels), np.float32)
        with self._stopped_by(cancel):
            self._fill(result, image, on_tile or (lambda _done, _total: None))
        if channels == 4:
            result[..., 3:] = lanczos_resize(image[..., 3:], result.shape[1], result.shape[0])
        if factor is not None and factor != self.scale:
            result = lanczos_resize(result, round(width * factor), round(height * factor))
        return result

    def measure_overlap(self) -> int:
        """The receptive field: the smallest of :data:`MARGINS` beyond which pixels have no effect.

        A patch of noise is upscaled with more and more of its surroundings, until more of them change its
        middle by less than a tenth of an 8-bit step. The effective receptive field of a deep network is
        smaller than the theoretical one and depends on its weights, so it is measured.
        """
        widest = MARGINS[-1]
        side = _PROBE_CORE + 2 * widest
        generator = np.random.default_rng(0)
        noise = generator.random((side, side, 3), dtype=np.float32)

        def middle(margin: int) -> Floats:
            cut = Tile(widest, widest, widest + _PROBE_CORE, widest + _PROBE_CORE)
            return self._upscale_tile(noise, cut, margin)

        expected = middle(widest)
        for margin in MARGINS[:-1]:
            if np.abs(middle(margin) - expected).max() <= _PROBE_LIMIT:
                return margin
        return widest

    @contextmanager
    def _stopped_by(self, cancel: threading.Event | None) -> Iterator[None]:
        """Meanwhile, each layer of the model raises EngineCanceledError once ``cancel`` is set."""

        def check(_module: object, _inputs: object) -> None:
            raise_if_canceled(cancel, NAME)

        hooks = [module.register_forward_pre_hook(check) for module in self.descriptor.model.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _fill(self, result: Floats, image: Floats, on_tile: Callable[[int, int], None]) -> None:
        whole = Tile(0, 0, *image.shape[:2])
        # Such a model takes the complete image and tiles it itself.
        tiles_itself = self.descriptor.tiling.name == "INTERNAL"
        todo = deque([whole] if tiles_itself else whole.cut(self.tile, self._align))
        done = 0
        while todo:
            tile = todo[0]
            try:
                pixels = self._upscale_tile(image, tile, self.overlap)
            except RuntimeError as error:
                if not _is_out_of_memory(self._torch, error):
                    raise
                reason = str(error).splitlines()[0]
            else:
                todo.popleft()
                area = np.s_[
                    tile.top * self.scale : tile.bottom * self.scale,
                    tile.left * self.scale : tile.right * self.scale,
                ]
                result[..., :3][area] = pixels
                done += 1
                on_tile(done, done + len(todo))
                continue
            # After the handler, nothing refers to the failed tile's memory any more.
            self._halve(tile, reason)
            todo = deque(part for left in todo for part in left.cut(self.tile, self._align))

    def _halve(self, tile: Tile, reason: str) -> None:
        if self.device.type == "cuda":
            self._torch.cuda.empty_cache()
        half = self._tile_of(min(self.tile, tile.side) // 2)
        if half < SMALLEST_TILE or half >= tile.side:
            raise local_error(
                f"The memory of {self.device_name} does not suffice for a tile of {tile.side} px ({reason})",
                "Close other programs that use it, or take a smaller model.",
            )
        logger.info("out of memory at a tile of %d pixels, trying %d", tile.side, half)
        self.tile = half

    def _tile_of(self, side: int) -> int:
        return max(self._align, side // self._align * self._align)

    def _upscale_tile(self, image: Floats, tile: Tile, margin: int) -> Floats:
        """The upscaled pixels of one tile, ``[height * scale, width * scale, 3]``."""
        wide = tile.widened(margin, image.shape[0], image.shape[1], self._align)
        pixels = np.ascontiguousarray(image[wide.top : wide.bottom, wide.left : wide.right, :3])
        made = self._infer(pixels)
        top, left = (tile.top - wide.top) * self.scale, (tile.left - wide.left) * self.scale
        return made[top : top + tile.height * self.scale, left : left + tile.width * self.scale]

    def _infer(self, pixels: Floats) -> Floats:
        torch = self._torch
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        # A model for gray images gets the three channels as three images.
        is_gray = self.descriptor.input_channels == 1
        tensor = tensor[:, None] if is_gray else tensor[None]
        tensor = tensor.to(self.device, self.descriptor.dtype)
        made = torch.cat([self.descriptor(one[None]) for one in tensor])
        if self.descriptor.dtype != torch.float32 and not torch.isfinite(made).all():
            logger.info("the model overflows 16 bits, going on in 32")
            self.descriptor.float()
            return self._infer(pixels)
        made = (made[:, 0] if is_gray else made[0]).permute(1, 2, 0)
        result: Floats = made.float().cpu().numpy()
        return result


class TorchEngine(UpscalingEngine):
    """Upscales with a model file on this machine's own device. The model is loaded once.

    Args:
        model_path: The model file; None makes the engine unavailable.
        **options: Of :class:`TorchUpscaler`.
    """

    name = NAME
    step = "tile"

    def __init__(self, model_path: Path | None, **options: Any) -> None:
        self._model_path = model_path
        self._options = options
        self._upscaler: TorchUpscaler | None = None
        # One image at a time: two would compete for the same memory.
        self._lock = threading.Lock()

    def available(self) -> Availability:
        """Whether torch, spandrel and the model file are there; imports nothing."""
        missing = [package for package in ("torch", "spandrel") if importlib.util.find_spec(package) is None]
        if missing:
            return Availability(False, f"{' and '.join(missing)} not installed. {INSTALL}")
        if self._model_path is None:
            return Availability(False, f"No model file is configured. {CONFIGURE}")
        if not self._model_path.is_file():
            return Availability(False, f"The model file {self._model_path} is missing. {CONFIGURE}")
        return Availability(True, device=self._upscaler.device_name if self._upscaler else "")

    def upscale(
        self, workflow: BoundWorkflow, image: Floats, on_step: OnStep, cancel: threading.Event | None
    ) -> Made:
        """See :meth:`.upscaling.UpscalingEngine.upscale`."""
        assert self._model_path is not None
        with turn(self._lock, cancel, NAME):
            if self._upscaler is None:
                self._upscaler = TorchUpscaler(self._model_path, **self._options, cancel=cancel)
            upscaler = self._upscaler
            made = upscaler.upscale(image[..., :3], on_tile=on_step, cancel=cancel)
        width, height = image.shape[1], image.shape[0]
        size = result_size(workflow, (width, height), upscaler.scale)
        note = f"Upscaled with {self._model_path.name} ({upscaler.scale}x"
        note += (
            ")." if size[0] == width * upscaler.scale else f", resized to {size[0] / width:.3g}x by LANCZOS)."
        )
        return Made(fitted(made, image, size), upscaler.device_name, note)


def _import_torch() -> Any:
    try:
        import spandrel  # noqa: F401
        import torch
    except ImportError as error:
        raise ConfigurationError(
            f"Upscaling on this machine needs {error.name}, which is not installed", next_step=INSTALL
        ) from error
    return torch


def _load(model_path: Path, device: Any) -> Any:
    import spandrel

    try:
        # spandrel's loader refuses pickles that contain more than tensors.
        descriptor = spandrel.ModelLoader().load_from_file(model_path)
    except Exception as error:
        # Each architecture raises other errors for a file that does not fit.
        raise _no_model(model_path, f"{type(error).__name__}: {error}".splitlines()[0]) from error
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise _no_model(model_path, "it needs a mask besides the image")
    if descriptor.input_channels not in (1, 3) or descriptor.output_channels != descriptor.input_channels:
        raise _no_model(model_path, f"it takes images of {descriptor.input_channels} channels")
    if descriptor.scale < 2:
        raise _no_model(model_path, "it restores images without enlarging them")
    return descriptor.to(device).eval()


def _no_model(model_path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{model_path} can't be used as an upscale model: {reason}",
        next_step="Take another file, such as a Real-ESRGAN one.",
    )


def _best_device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _is_out_of_memory(torch: Any, error: RuntimeError) -> bool:
    """Whether the memory did not suffice; MPS and the CPU raise a plain RuntimeError."""
    if isinstance(error, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "can't allocate memory", "not enough memory"))
