"""Small pictures of inputs and results for the sidebar, in ComfyUI's temp folder, which a restart empties."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ...xalora_client.files import draft_of
from ..host import compat

if TYPE_CHECKING:
    from PIL import Image

Kind: TypeAlias = Literal["input", "result"]

PREVIEW_PIXELS = 256
"""The longest side of a result's picture, which lists show."""

INPUT_PIXELS = 1024
"""The same of an input's, which the task's view lays over the result: a smaller one would look too bad."""

_QUALITY = 82

_with_input: dict[str, None] = {}


def save_input_preview(job_id: str, picture: Image.Image) -> None:
    """Save a small copy of a job's input image."""
    _write(_preview_path("input", job_id), lambda: picture, INPUT_PIXELS)
    _with_input[job_id] = None


def jobs_with_input() -> list[str]:
    """Ids of the jobs whose input was saved as a small picture, in the order of saving."""
    return list(_with_input)


def has_input_preview(job_id: str) -> bool:
    """Whether a small copy of a job's input was saved; known without a look at the disk."""
    return job_id in _with_input


def kept_preview(kind: Kind, job_id: str) -> Path | None:
    """The small picture of a job's input or result; None until it was created."""
    path = _preview_path(kind, job_id)
    return path if path.is_file() else None


def result_preview(job_id: str, file: Path) -> Path:
    """A small picture of a result, created at its first use: the image, or a video's first frame. Blocking.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not an image or video.
    """
    path = _preview_path("result", job_id)
    if not path.is_file():
        _write(path, lambda: _picture_of(file), PREVIEW_PIXELS)
    return path


def _picture_of(file: Path) -> Image.Image:
    import numpy as np
    from PIL import Image

    from ...xalora_client.errors import XaloraError
    from ...xalora_client.media.media_types import sniff_file
    from ...xalora_client.media.video import open_video
    from ...xalora_client.media.workers import images

    kind = sniff_file(file)
    if kind is not None and kind.is_container:
        try:
            frame = open_video(file).frames(0, 1)[0]
        except XaloraError as error:
            raise ValueError(str(error)) from error
        return Image.fromarray((frame * 255 + 0.5).astype("uint8"), "RGB")
    for small in images("preview", file, side=PREVIEW_PIXELS):
        stored = small.stored()
        return Image.fromarray(np.ascontiguousarray(stored[..., 0] if small.channels == 1 else stored))
    raise ValueError("it holds no image")


def _write(path: Path, picture: Callable[[], Image.Image], longest: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = picture()
    small.thumbnail((longest, longest), reducing_gap=2.0)
    if small.mode not in ("RGB", "RGBA"):
        small = small.convert("RGBA" if "transparency" in small.info or small.mode == "LA" else "RGB")
    with draft_of(path) as draft:
        small.save(draft, "WEBP", quality=_QUALITY, method=2)
        draft.replace(path)


def _preview_path(kind: Kind, job_id: str) -> Path:
    # The beginning of a job id is the user's choice, so it is not safe as a file name.
    name = hashlib.sha256(job_id.encode()).hexdigest()[:32]
    return compat.temp_directory() / "xalora" / f"{kind}-{name}.webp"
