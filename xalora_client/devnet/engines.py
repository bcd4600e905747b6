"""The engines of the devnet's miners: 2x LANCZOS for images, test cards for prompts. No model runs."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import EngineError
from ..serving.requests import reason


@dataclass(frozen=True)
class MinerTask:
    """A task as an engine gets it.

    Args:
        task_id: The network's id.
        task_type: ``upscaler``, ``txt2img``, ``txt2vid`` or another one that the miner takes.
        workflow_id: The workflow to run.
        parameters: As the consumer sent them.
        image: The bytes of ``parameters["image"]``, which the miner has fetched; None without one.
        details: All of ``task_details``, the parameters among them.
        stopped: Set when the result is no longer wanted; a slow engine checks it.
    """

    task_id: str
    task_type: str
    workflow_id: str
    parameters: Mapping[str, Any]
    image: bytes | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)


class MinerEngine(Protocol):
    """Runs tasks. Called on worker threads, by several miners at once if they share it."""

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """The result file and its suffix (``.png``, ``.mp4``, ...).

        Raises:
            XaloraError: The task can't be run; its ``what`` goes to the consumer.
        """
        ...


class DefaultEngine:
    """LANCZOS for ``upscaler``, test cards for ``txt2img`` and ``txt2vid``; needs the base install only."""

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """See :meth:`MinerEngine.run`."""
        if task.task_type == "upscaler":
            if task.image is None:
                raise EngineError("The LANCZOS engine needs an image")
            return _doubled_png(task.image), ".png"
        from .testcard import render

        try:
            return render(task.task_type, task.workflow_id, task.parameters)
        except ValueError as problem:
            raise EngineError(reason(problem)) from problem


def _doubled_png(data: bytes) -> bytes:
    """The image at twice its width and height as PNG; keeps its mode (L, LA, RGB or RGBA)."""
    import numpy as np
    from PIL import Image, ImageOps

    from ..engines.pixels import lanczos_upscale
    from ..media.png_encode import encode_png

    try:
        with Image.open(io.BytesIO(data)) as source:
            source.load()
            image = ImageOps.exif_transpose(source)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise EngineError(f"Not a readable image: {problem}") from problem
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    doubled = lanczos_upscale(np.asarray(image))
    if image.mode in ("RGB", "RGBA"):
        # Pillow's encoder takes several times as long as the upscaling, on the machine of a client whose
        # speed is measured.
        return encode_png(doubled, threads=1)
    file = io.BytesIO()
    Image.fromarray(doubled).save(file, "PNG", compress_level=1)
    return file.getvalue()
