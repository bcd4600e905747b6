"""The interface of local engines, and what they share. Blocking: the client runs them in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from ..errors import EngineError
from ..files import draft_of
from ..workflows.check import MissingFile
from ..workflows.definition import BoundWorkflow

LOCAL_MONEY = "Work on this machine is not charged."

TURN_SECONDS = 0.2
"""How long a run that waits for its turn may not notice a cancel."""


class EngineCanceledError(EngineError):
    """The run was stopped by its cancel event; it left no result file."""


class MissingFilesError(EngineError):
    """Model files that the workflow names are not installed where it would run.

    ``missing`` lists them with their folders.
    """

    missing: tuple[MissingFile, ...] = ()


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run anything on this machine; it is true in a condition when it can.

    ``reason`` is a sentence that says why not, and what would help; ``device`` is the engine's device.
    """

    ok: bool
    reason: str = ""
    device: str = ""

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class EngineProgress:
    """How far a run is: ``done`` of ``total`` nodes, tiles or steps (``done`` may be a fraction).

    ``label`` names the current one ("Sample 5/20"). ``preview`` is the unfinished result as JPEG or PNG,
    where the engine has one.
    """

    done: float
    total: float
    label: str = ""
    preview: bytes | None = None


ProgressCallback: TypeAlias = Callable[[EngineProgress], None]
"""Called on the thread that runs the engine."""


@dataclass(frozen=True)
class EngineRun:
    """A finished run.

    ``files`` are on disk and complete; ``engine`` and ``device`` are "comfyui" and "cuda:0 NVIDIA H100", for
    example; ``seconds`` is the wall time; ``note`` is a sentence for people, may be empty (which model file
    was chosen).
    """

    files: tuple[Path, ...]
    engine: str
    device: str
    seconds: float
    note: str = ""


class LocalEngine(Protocol):
    """Runs bound workflows on this machine. Methods block; call them from a worker thread."""

    @property
    def name(self) -> str:
        """Its name in results and logs: ``comfyui``, ``torch``, ``ncnn`` or ``pillow``."""
        ...

    def can_run(self, workflow: BoundWorkflow) -> bool:
        """Whether this engine runs such workflows; no I/O."""
        ...

    def available(self) -> Availability:
        """Whether it could start now; quick, and never raises for a missing part."""
        ...

    def run(
        self,
        workflow: BoundWorkflow,
        images: Mapping[str, bytes],
        dest: Path,
        *,
        on_progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> EngineRun:
        """Run it to its end.

        Args:
            workflow: What to run.
            images: Encoded image files (PNG, JPEG, WebP) by image parameter.
            dest: Where the result goes: a path without its suffix; the suffix follows the content. A second
                file gets ``-2`` before it, and so on.
            on_progress: Called with the progress.
            cancel: When set, the run stops within a few seconds and raises EngineCanceledError.

        Raises:
            ConfigurationError: A package or a setting is missing.
            MissingFilesError: Model files are missing.
            EngineCanceledError: ``cancel`` was set.
            EngineError: It failed; the message says at which node or why.
        """
        ...


def result_path(dest: Path, number: int, suffix: str) -> Path:
    """Path of the ``number``-th result file (from 0) of a run."""
    stem = dest.name if number == 0 else f"{dest.name}-{number + 1}"
    return dest.with_name(stem + suffix)


def write_result(path: Path, data: bytes) -> Path:
    """Write a result such that a file under its final name is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        draft.write_bytes(data)
        return draft.replace(path)


def local_error(what: str, next_step: str) -> EngineError:
    """An error of a run on this machine."""
    return EngineError(what, money=LOCAL_MONEY, next_step=next_step)


def raise_if_canceled(cancel: threading.Event | None, engine: str) -> None:
    """Raise EngineCanceledError when ``cancel`` is set."""
    if cancel is not None and cancel.is_set():
        raise EngineCanceledError(f"The run on the {engine} engine was canceled", money=LOCAL_MONEY)


@contextmanager
def turn(
    turns: threading.Lock | threading.BoundedSemaphore, cancel: threading.Event | None, engine: str
) -> Iterator[None]:
    """Wait for a turn, and hold it.

    Raises:
        EngineCanceledError: ``cancel`` was set.
    """
    while not turns.acquire(timeout=TURN_SECONDS):
        raise_if_canceled(cancel, engine)
    try:
        raise_if_canceled(cancel, engine)
        yield
    finally:
        turns.release()


def only_image(images: Mapping[str, bytes], engine: str) -> bytes:
    """The one image of an upscaling run.

    Raises:
        EngineError: There is none, or more than one.
    """
    if len(images) != 1:
        raise local_error(
            f"The {engine} engine upscales one image at a time, and was given {len(images)}",
            "Run one task for each image.",
        )
    return next(iter(images.values()))


def missing_files_error(title: str, missing: Sequence[MissingFile], where: str) -> MissingFilesError:
    """One error for all files that are not installed."""
    error = MissingFilesError(
        f"Workflow {title} can't run on {where}, which lacks " + ", ".join(str(file) for file in missing),
        money=LOCAL_MONEY,
        next_step="Put the files into those folders of ComfyUI, or choose others that are installed.",
    )
    error.missing = tuple(missing)
    return error
