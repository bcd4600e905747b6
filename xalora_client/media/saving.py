"""Result files copied or converted to where a user wants them, as Pillow images, and shown in notebooks."""

from __future__ import annotations

import html
import io
import os
import shutil
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ..errors import STILL_RETRIEVABLE, ResultFormatError
from ..files import draft_of, settle_if_free
from . import workers
from .images import errors_of_result
from .media_types import MEDIA_TYPES, MediaKind, sniff_file
from .picture_formats import DEFAULT_QUALITY, PILLOW_NAMES
from .reencoding import on_white
from .result_files import image_files, open_as_video

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_PIXELS = 1024
"""The longer side of an image in a notebook."""
SHOWN_IMAGES = 16
SHOWN_VIDEO_BYTES = 32 * 2**20
"""The largest video that is written into a notebook."""


class ConversionError(OSError):
    """A file can't be written in the format that a suffix names."""


def pil_image(file: Path) -> Image:
    """An image file, or the first frame of an animation, as a Pillow image in mode L, RGB or RGBA.

    Raises:
        ResultFormatError: It is not an image this package can read.
        OSError: It can't be read.
    """
    from PIL import Image

    (file,) = image_files([file])
    with errors_of_result():
        for decoded in workers.images("pixels", file):
            pixels = decoded.stored()
            if decoded.maximum != 255:
                pixels = np.rint(pixels / np.float32(257)).astype(np.uint8)
            return Image.fromarray(pixels[..., 0] if decoded.channels == 1 else pixels)
    raise ResultFormatError(f"The result {file.name} holds no image", money=STILL_RETRIEVABLE)


def save_files(files: Sequence[Path], path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write result files to a path; see :meth:`xalora_client.RunResult.save`. Blocking.

    Raises:
        ConversionError: A file can't be converted to the format that the path's suffix names.
        ResultFormatError: A file that is to be converted can't be decoded.
        OSError: A file can't be read or written.
    """
    target = Path(path).expanduser()
    names_folder = os.fspath(path).endswith(("/", os.sep)) or target.is_dir()
    (target if names_folder else target.parent).mkdir(parents=True, exist_ok=True)
    saved = []
    for number, file in enumerate(files, 1):
        if names_folder:
            place = target / file.name
        else:
            suffix = target.suffix.lower()
            is_known = suffix in MEDIA_TYPES or suffix in PILLOW_NAMES
            name = target.stem if is_known else target.name
            place = target.with_name(
                (name if number == 1 else f"{name}-{number}") + (target.suffix if is_known else file.suffix)
            )
        if not (place.exists() and place.samefile(file)):
            with draft_of(place) as draft:
                with draft.open("wb") as writer:
                    _write(file, place.suffix.lower(), writer)
                draft.replace(place)
        saved.append(place)
    return tuple(saved)


def save_beside_others(files: Sequence[Path], folder: Path, stem: str) -> tuple[Path, ...]:
    """Copy result files into a folder, each to a free name unless its copy is there already. Blocking.

    Args:
        stem: The name without suffix; ``-2``, ``-3`` are added where it is taken.

    Raises:
        OSError: A file can't be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for file in files:
        for number in count(1):
            place = folder / f"{stem if number == 1 else f'{stem}-{number}'}{file.suffix}"
            if place not in saved and _is_copy(place, file):
                break
            if os.path.lexists(place):
                continue
            # Another program may take the name meanwhile.
            with suppress(FileExistsError), draft_of(place) as draft:
                shutil.copyfile(file, draft)
                settle_if_free(draft, place)
                break
        saved.append(place)
    return tuple(saved)


def _is_copy(place: Path, file: Path) -> bool:
    import filecmp

    try:
        return filecmp.cmp(place, file, shallow=False)
    except OSError:
        return False


def _write(file: Path, suffix: str, writer: IO[bytes]) -> None:
    """Copy a file, or convert it where the suffix names another format than it has."""
    kind = sniff_file(file)
    if kind is None or MEDIA_TYPES.get(suffix) == kind.media_type:
        source = file
    elif suffix == MediaKind.MP4.suffix and kind.is_animation:
        source = open_as_video(file).path
    elif suffix in PILLOW_NAMES and not kind.is_video and not kind.is_animation:
        _convert(file, suffix, writer)
        return
    else:
        others = PILLOW_NAMES if not (kind.is_video or kind.is_animation) else ()
        known = dict.fromkeys((kind.suffix, *others, *([MediaKind.MP4.suffix] if kind.is_animation else ())))
        raise ConversionError(f"{file.name} can't be saved as {suffix}; take {', '.join(known)}")
    with source.open("rb") as reader:
        shutil.copyfileobj(reader, writer, 1 << 20)


def _convert(file: Path, suffix: str, writer: IO[bytes]) -> None:
    from PIL import Image

    image, format_name = pil_image(file), PILLOW_NAMES[suffix]
    if format_name in ("JPEG", "BMP") and image.mode == "RGBA":
        image = Image.fromarray(on_white(np.asarray(image)))
    options = {} if format_name in ("PNG", "BMP", "TIFF") else {"quality": DEFAULT_QUALITY}
    try:
        image.save(writer, format_name, **options)
    except (KeyError, ValueError) as error:
        raise ConversionError(f"the installed Pillow does not write it as {suffix} ({error})") from error


def png_of(file: Path) -> bytes:
    """A PNG of an image for a notebook, at most :data:`SHOWN_PIXELS` wide and high."""
    image = pil_image(file)
    image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def is_still(file: Path) -> bool:
    """Whether a file is an image that does not move."""
    kind = sniff_file(file)
    return kind is not None and not kind.is_container and not kind.is_animation


def html_of(files: Sequence[Path]) -> str:
    """HTML that shows result files in a notebook: images side by side, videos with controls."""
    shown = [_html_of_file(file) for file in files[:SHOWN_IMAGES]]
    left = len(files) - len(shown)
    return "".join(shown) + (f"<p>and {left} more</p>" if left else "")


def _html_of_file(file: Path) -> str:
    kind = sniff_file(file)
    if kind is None or (not is_still(file) and file.stat().st_size > SHOWN_VIDEO_BYTES):
        return f"<p>{html.escape(str(file))}</p>"
    if is_still(file):
        return f'<img src="{_data_uri("image/png", png_of(file))}">'
    data = _data_uri(kind.media_type, file.read_bytes())
    return f'<video controls loop src="{data}"></video>' if kind.is_container else f'<img src="{data}">'


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"
