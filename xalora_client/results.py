"""Results: a status answer of the network, the files of a finished task, the outcomes of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from .errors import (
    MADE_HERE,
    STILL_RETRIEVABLE,
    ResultDownloadError,
    ResultFormatError,
    ResultSaveError,
    XaloraError,
)
from .media.limits import PixelLimits, using

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from .media.video import VideoFile
    from .tasks import WorkflowTask

T = TypeVar("T")

REMOTE_ENGINE = "xalora"

TaskStatus: TypeAlias = Literal["waiting", "running", "finished", "failed", "canceled"]
"""The statuses that the protocol lists; the last three end a task."""


@dataclass(frozen=True)
class WorkflowTaskResult:
    """One answer of ``task_result_query``: the three fields of the Node SDK, and what else the network tells.

    Attributes:
        status: A :data:`TaskStatus`, or whatever else the network sent, which does not end a task.
        result: As it came, None until there is one.
        queue_position: The task's place in the network's queue, counted as the network does.
        miner: The id of the miner that works, or worked, on it.
        inference_seconds: How long the miner computed.
        upload_seconds: How long the miner sent the result to the store.
        message: The network's or the miner's own words, may be empty.
    """

    task_id: str
    status: TaskStatus | str
    result: Any = None
    queue_position: int | None = None
    miner: str | None = None
    inference_seconds: float | None = None
    upload_seconds: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds a task spent in each part of its life; None where that was not observed."""

    queued: float | None = None
    running: float | None = None
    transfer: float | None = None
    total: float | None = None


class _DecodedOnce(Generic[T]):
    """``functools.cached_property`` as it is from Python 3.12 on: before, one result decodes at a time."""

    def __init__(self, decode: Callable[[RunResult], T]) -> None:
        self._decode = decode
        self.__doc__ = decode.__doc__

    def __get__(self, result: RunResult | None, owner: type[RunResult]) -> T:
        if result is None:
            return self  # type: ignore[return-value]
        # Found before this descriptor from now on.
        value = result.__dict__[self._decode.__name__] = self._decode(result)
        return value


class FilesInUse:
    """Held by a result and by what is made of it: while it lives, their files stay where they are."""


@dataclass(frozen=True)
class RunResult:
    """The result of a finished task, its files on disk.

    The files lie in the state folder. They stay as long as this object, or a :attr:`video` made of it, is
    referenced and its client is open. Afterwards they stay until the folder outgrows ``results_limit``
    (4 GiB); then the least recently used go first. With ``journal="memory"`` they go when the client is
    closed. :meth:`save` them, or run with ``output_dir=``, to keep them.

    In a notebook the result shows its images or its video.

    Attributes:
        files: The result's files in order, named by content (png, jpg, webp, mp4). A file in a format that
            this package does not read is kept as it came.
        engine: ``xalora`` (the network), or ``comfyui``, ``torch``, ``ncnn`` or ``pillow`` (this machine).
        device: The engine's device, where known (``cuda``, ``cpu``, ...).
        miner: The miner's id, where known.
        task_id: The network's id; None for a task that ran on this machine.
        reused: A kept result answered; nothing was sent and nothing charged.
        note: A sentence for people, may be empty (which local model was chosen).
    """

    files: tuple[Path, ...]
    engine: str
    job_id: str
    task_id: str | None = None
    device: str | None = None
    miner: str | None = None
    seconds: Timing = field(default_factory=Timing)
    reused: bool = False
    note: str = ""
    record_id: int | None = field(default=None, repr=False, compare=False)
    """The journal's record, for `AsyncXalora.delivered`."""
    in_use: FilesInUse = field(default_factory=FilesInUse, repr=False, compare=False)
    limits: PixelLimits = field(default=PixelLimits(), repr=False, compare=False)
    """What its pixels may take, by the settings of the client that fetched it."""

    @_DecodedOnce
    def images(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The result as images, ``[N,H,W,C]`` float32 in 0..1 (C is 3, or 4 with alpha).

        All of its image files, and all frames of an animation (WebP, PNG, GIF), in order. A video's frames
        are decoded in full: use :attr:`video` to take them on demand.

        Raises:
            ResultFormatError: The files are not images this package can read.
            ResultDownloadError: They are no longer there.
        """
        from .media.result_files import decode_files

        with add_result_to_errors(self):
            return decode_files(self.files)

    @_DecodedOnce
    def video(self) -> VideoFile:
        """The result's first file as a video: its path, size, fps, and frames on demand.

        An animation (WebP, PNG, GIF), or a still WebP, is converted to H.264; the original is kept beside it.

        Raises:
            ResultFormatError: The result is not a video.
            ResultDownloadError: Its files are no longer there.
        """
        from .media.result_files import open_as_video

        with add_result_to_errors(self):
            return replace(open_as_video(self.files[0]), in_use=self.in_use)

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Copy the result's files to a path, replacing what is there. Blocking.

        Args:
            path: A folder (one that exists, or a path that ends in ``/``): the files keep their names. Else a
                file, whose folder is made where it is missing; further files get ``-2``, ``-3``, ... An image
                is converted to what the suffix names (png, jpg, webp, avif, tiff, bmp; 8 bits a channel;
                quality 95 where lossy), an animation to ``.mp4``. Without a known suffix the result's own
                is added.

        Returns:
            The files written, in order.

        Raises:
            ResultSaveError: A file can't be written, or not in the format that the suffix names. It is an
                OSError too.
            ResultFormatError: A file that is to be converted can't be decoded.
            ResultDownloadError: The result's files are no longer there.
        """
        from .media.saving import save_files

        with add_result_to_errors(self):
            self._check_there()
            try:
                return save_files(self.files, path)
            except OSError as error:
                raise self._not_saved(path, error) from error

    def to_bytes(self, index: int = 0) -> bytes:
        """The bytes of one file, as the network gave them. Blocking.

        Args:
            index: Which of :attr:`files`.

        Raises:
            IndexError: There are fewer files.
            ResultDownloadError: The file is no longer there.
        """
        file = self.files[index]
        with add_result_to_errors(self):
            return file.read_bytes()

    def pil(self, index: int = 0) -> Image:
        """One file as a Pillow image, upright, in mode L, RGB or RGBA, 8 bits a channel. Blocking.

        Args:
            index: Which of :attr:`files`; an animation gives its first frame.

        Raises:
            IndexError: There are fewer files.
            ResultFormatError: The file is not an image this package can read.
            ResultDownloadError: It is no longer there.
        """
        from .media.saving import pil_image

        file = self.files[index]
        with add_result_to_errors(self):
            return pil_image(file)

    def saved_in(self, folder: Path, stem: str) -> RunResult:
        """The same result with its files in a folder of the user's; for ``output_dir``. Blocking.

        Raises:
            ResultDownloadError: Its files are no longer there.
            ResultSaveError: A file can't be written.
        """
        from .media.saving import save_beside_others

        with add_result_to_errors(self):
            self._check_there()
            try:
                return replace(self, files=save_beside_others(self.files, folder, stem))
            except OSError as error:
                raise self._not_saved(folder, error) from error

    def _check_there(self) -> None:
        for file in self.files:
            file.stat()

    def _not_saved(self, path: str | os.PathLike[str], error: OSError) -> ResultSaveError:
        return ResultSaveError(
            f"The result can't be saved to {os.fspath(path)}: {error.strerror or error}",
            money=MADE_HERE if self.task_id is None else STILL_RETRIEVABLE,
            next_step=f"It is kept as {', '.join(str(file) for file in self.files)}.",
            task_id=self.task_id,
            job_id=self.job_id,
        )

    def _repr_png_(self) -> bytes | None:
        from .media.saving import is_still, png_of

        # A file that can't be shown is printed by its name.
        with suppress(OSError, XaloraError):
            if len(self.files) == 1 and is_still(self.files[0]):
                return png_of(self.files[0])
        return None

    def _repr_html_(self) -> str | None:
        from .media.saving import html_of, is_still

        with suppress(OSError, XaloraError):
            if len(self.files) > 1 or not is_still(self.files[0]):
                return html_of(self.files)
        return None


@contextmanager
def add_result_to_errors(result: RunResult) -> Iterator[None]:
    """Read a result's files within its limits, and complete an error about them: task, money, next step."""
    try:
        with using(result.limits):
            yield
    except OSError as error:
        if isinstance(error, XaloraError):
            raise
        raise ResultDownloadError(
            f"The result {result.files[0]} can no longer be read: {error.strerror or error}",
            money=MADE_HERE if result.task_id is None else STILL_RETRIEVABLE,
            next_step="Run the same task again: its result is fetched anew while the network has it.",
            task_id=result.task_id,
            job_id=result.job_id,
        ) from error
    except ResultFormatError as error:
        error.job_id, error.task_id = result.job_id, result.task_id
        if result.task_id is None:
            error.money, error.next_step = MADE_HERE, f"Look at {result.files[0]}."
        else:
            error.money = STILL_RETRIEVABLE
            error.next_step = (
                f"It is kept as {result.files[0]}, and answers equal tasks. To run the task again, which is "
                "charged again, forget it first: in ComfyUI's sidebar, or by "
                f"`xalora forget {result.task_id}`."
            )
        raise
    except XaloraError:
        raise
    except Exception as error:
        raise unreadable(error, task_id=result.task_id, job_id=result.job_id) from error


def unreadable(error: Exception, *, task_id: str | None, job_id: str) -> ResultFormatError:
    """The error of one task, for whatever its result caused: it comes from a stranger's machine."""
    subject = f"The result of task {task_id}" if task_id else "The result"
    return ResultFormatError(
        f"{subject} can't be used: it causes {type(error).__name__}",
        money=MADE_HERE if task_id is None else STILL_RETRIEVABLE,
        next_step="Fetch it again by the task's id; if it stays so, the miner wrote it so.",
        task_id=task_id,
        job_id=job_id,
    )


@dataclass(frozen=True)
class Outcome:
    """How one task of a batch ended: exactly one of ``result`` and ``error`` is set."""

    index: int
    task: WorkflowTask
    result: RunResult | None = None
    error: XaloraError | None = None

    def unwrap(self) -> RunResult:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result
