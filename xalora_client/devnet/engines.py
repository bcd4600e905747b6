"""What a miner of the devnet can run: an exact 2x LANCZOS of real pixels, and plainly marked test cards.

A miner runs anything with :meth:`MinerEngine.run`, so that a ComfyUI-backed engine can take the place of
these.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class MinerTask:
    """A task as an engine sees it.

    Args:
        task_id: The network's id.
        task_type: ``upscaler``, ``txt2img``, ``txt2vid`` or what else the miner takes.
        workflow_id: The workflow to run.
        parameters: As the consumer sent them.
        image: The bytes of ``parameters["image"]``, already fetched, where there is such a parameter.
        stopped: Set when nobody wants the result any more; a long engine looks at it.
    """

    task_id: str
    task_type: str
    workflow_id: str
    parameters: Mapping[str, Any]
    image: bytes | None = None
    stopped: threading.Event = field(default_factory=threading.Event)


class EngineError(Exception):
    """The engine cannot do this task; the message goes to the consumer."""


class MinerEngine(Protocol):
    """Runs tasks; called on a worker thread, several at once if the miners share it."""

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """The result file and its suffix (``.png``, ``.mp4``, ...).

        Raises:
            EngineError: The task cannot be done.
        """
        ...


class PillowEngine:
    """``upscaler``: twice the width and height by Pillow's LANCZOS filter; PNG out, alpha kept."""

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """See :meth:`MinerEngine.run`."""
        import numpy as np
        from PIL import Image, ImageOps

        from ..media.png_encode import encode_png

        if task.image is None:
            raise EngineError("The LANCZOS engine needs an image")
        try:
            with Image.open(io.BytesIO(task.image)) as source:
                source.load()
                image = ImageOps.exif_transpose(source)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            raise EngineError(f"Not a readable image: {problem}") from problem
        if image.mode not in ("L", "LA", "RGB", "RGBA"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        doubled = image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS)
        if doubled.mode in ("RGB", "RGBA"):
            # Pillow's own encoder takes several times as long as the upscaling, and the miners share one
            # machine with the client whose speed is looked at.
            return encode_png(np.asarray(doubled), threads=1), ".png"
        file = io.BytesIO()
        doubled.save(file, "PNG", compress_level=1)
        return file.getvalue(), ".png"


class TestcardEngine:
    """``txt2vid`` and ``txt2img``: a test card that bears the parameters; see :mod:`.testcard`."""

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """See :meth:`MinerEngine.run`."""
        from .testcard import render

        try:
            return render(task.task_type, task.workflow_id, task.parameters)
        except ValueError as problem:
            raise EngineError(str(problem)) from problem


@dataclass(frozen=True)
class EngineByType:
    """Each task type to the engine that runs it."""

    engines: Mapping[str, MinerEngine]

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        """See :meth:`MinerEngine.run`."""
        engine = self.engines.get(task.task_type)
        if engine is None:
            raise EngineError(f"This miner runs no {task.task_type!r}, only {', '.join(self.engines)}")
        return engine.run(task)


def default_engine() -> MinerEngine:
    """LANCZOS for ``upscaler``, test cards for the rest: needs nothing but the base install."""
    card = TestcardEngine()
    return EngineByType({"upscaler": PillowEngine(), "txt2img": card, "txt2vid": card})


#: Engines by the name that a command line gives them; see :func:`engine_by_name`.
ENGINES: dict[str, Callable[[], MinerEngine]] = {
    "auto": default_engine,
    "pillow": PillowEngine,
    "testcard": TestcardEngine,
}


def engine_by_name(name: str) -> MinerEngine:
    """A new engine of this name. Raises ``ValueError`` for a name that is none of :data:`ENGINES`."""
    if name not in ENGINES:
        raise ValueError(f"Unknown engine {name!r}; known are {', '.join(ENGINES)}")
    return ENGINES[name]()
