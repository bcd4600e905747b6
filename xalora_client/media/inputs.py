"""Input images of any form, prepared to be sent: complete, upright, and without metadata.

Metadata of a camera or an editor (place, time, names, prompts) never leaves this machine. JPEG and PNG files
are stripped without a change to their compressed pixels; everything else becomes a new PNG.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..errors import InputImageError
from .containers import BrokenMediaError, strip_jpeg, strip_png
from .image_files import (
    PILLOW_ERRORS,
    check_pixel_count,
    exif_orientation,
    loaded_upright,
    read_header,
)
from .images import ROWS_AT_ONCE, Pixels, pixels_of, read_pixels
from .media_types import SNIFF_BYTES, MediaKind, sniff
from .png_encode import encode_png, to_uint8

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"
"""A URL (http, https or data:), a path, encoded bytes, a Pillow image, an array, or a torch tensor."""

_REMOTE_SCHEMES = frozenset({"http", "https", "data"})
# Formats of inputs beside those of results. Pillow's others run external programs or are detected too loosely
# for untrusted files.
_OTHER_FORMATS = ("BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF", "QOI", "HEIF")
_BRIGHTEST_FLOAT_IMAGE = 2.0


@dataclass(frozen=True)
class PreparedImage:
    """An input image, ready to be sent.

    Attributes:
        data: The encoded file, free of metadata.
        kind: ``MediaKind.PNG`` or ``MediaKind.JPEG``.
        width: Pixels, as a viewer shows it (EXIF rotation applied).
        height: Pixels.
        pixel_digest: SHA-256 (hex) over the decoded pixels and their shape. The same 8-bit pixels give the
            same digest whether they came as a file with its colour profile, a Pillow image or an array.
        given_bytes: The size of the given file, where it had to be encoded anew.
    """

    data: bytes
    kind: MediaKind
    width: int
    height: int
    pixel_digest: str
    given_bytes: int | None = None

    def __repr__(self) -> str:
        return f"PreparedImage({self.kind.name}, {self.width}x{self.height}, {len(self.data)} bytes)"


def is_remote(image: object) -> bool:
    """Whether an input image is a URL (http, https or data:), which is sent unchanged."""
    return isinstance(image, str) and urlsplit(image[:64]).scheme.lower() in _REMOTE_SCHEMES


def prepare_image(image: ImageInput) -> PreparedImage:
    """Prepare an image of this machine to be sent. Blocking and CPU-bound: run it in a thread.

    Args:
        image: A path, encoded bytes, a Pillow image, an array or tensor ``[H, W]``, ``[H, W, C]`` or
            ``[1, H, W, C]`` with C of 1, 3 or 4, uint8 or float in 0..1. URLs are not taken, see
            :func:`is_remote`.

    Raises:
        InputImageError: It can't be read, is truncated, too large to decode, or no single image.
    """
    try:
        if isinstance(image, Image.Image):
            return _from_pillow(image)
        if isinstance(image, (str, os.PathLike)):
            return _from_path(image)
        if isinstance(image, (bytes, bytearray, memoryview)):
            return _from_bytes(bytes(image))
        return _from_array(_as_array(image))
    except BrokenMediaError as error:
        name = f" {os.fspath(image)!r}" if isinstance(image, (str, os.PathLike)) else ""
        raise _refusal(f"The input image{name} can't be used: {error}") from error


def _refusal(
    what: str, next_step: str = "Give a PNG, JPEG or WebP image that opens in a viewer."
) -> InputImageError:
    return InputImageError(what, next_step=next_step)


def _from_path(path: str | os.PathLike[str]) -> PreparedImage:
    if is_remote(path):
        raise _refusal("A URL was given where an image on this machine is needed")
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(
            f"The input image {os.fspath(path)!r} can't be opened: {reason}", "Check the path."
        ) from error
    return _from_bytes(data)


def _from_bytes(data: bytes) -> PreparedImage:
    if not data:
        raise BrokenMediaError("it is empty")
    kind = sniff(data[:SNIFF_BYTES])
    if kind is not None and not kind.is_container:
        header = read_header(data)
        if header.frames > 1:
            raise _refusal(
                f"The input image is an animation of {header.frames} frames, and a task takes one image",
                "Give its frames as images, each to a task of its own.",
            )
        pixels = read_pixels(data)
        strip = _STRIPPERS.get(kind)
        if strip is not None and header.orientation == 1:
            return _prepared(strip(data), kind, pixels)
        return replace(_encoded(pixels), given_bytes=len(data))
    return replace(_from_pillow(_open_other(data)), given_bytes=len(data))


_STRIPPERS: dict[MediaKind, Callable[[bytes], bytes]] = {
    MediaKind.PNG: strip_png,
    MediaKind.JPEG: strip_jpeg,
}


def _open_other(data: bytes) -> Image.Image:
    Image.init()
    formats = [name for name in _OTHER_FORMATS if name in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        check_pixel_count(*image.size)
        image.load()
    except BrokenMediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenMediaError(f"it has too many pixels to be decoded ({error})") from error
    except UnidentifiedImageError as error:
        raise BrokenMediaError("its format is unknown here (HEIC needs converting first)") from error
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error
    return image


def _from_pillow(image: Image.Image) -> PreparedImage:
    check_pixel_count(*image.size)
    if 0 in image.size:
        raise BrokenMediaError("it has no pixels")
    return _encoded(pixels_of(loaded_upright(image, exif_orientation(image))))


def _encoded(pixels: Pixels) -> PreparedImage:
    whole = pixels.rows(0, pixels.height)
    return _prepared(encode_png(whole, icc_profile=pixels.icc_profile), MediaKind.PNG, pixels)


def _as_array(image: Any) -> npt.NDArray[Any]:
    if hasattr(image, "detach"):  # a torch tensor, possibly on a GPU, possibly of a type numpy lacks
        image = image.detach().cpu()
        if str(image.dtype) == "torch.bfloat16":
            image = image.float()
    if not hasattr(image, "__array__"):
        raise _refusal(
            f"The input image is of type {type(image).__name__}, which is no image",
            "Give a path, a URL, bytes, a Pillow image, a numpy array or a torch tensor.",
        )
    return np.asarray(image)


def _from_array(array: npt.NDArray[Any]) -> PreparedImage:
    array = _checked_array(array)
    height, width, channels = array.shape
    is_float = array.dtype != np.uint8

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        block = array[start:stop]
        if not is_float:
            return block
        rounded = np.empty(block.shape, np.uint8)
        to_uint8(block, np.empty(block.shape, np.float32), rounded)
        return rounded

    pixels = Pixels(width, height, channels, 255, rows)
    return _prepared(encode_png(array), MediaKind.PNG, pixels)


def _checked_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array as ``[H, W, C]``. Raises InputImageError."""
    shape = list(array.shape)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise _refusal(
            f"The input array's type is {array.dtype}",
            "Give uint8 (0..255) or a float type with values in 0..1.",
        )
    if array.ndim == 4:
        if array.shape[0] != 1:
            raise _refusal(
                f"The input array {shape} is a batch of {array.shape[0]} images, and a task takes one",
                "Make one task an image with UpscalerTask.for_batch(array).",
            )
        array = array[0]
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[2] not in {1, 3, 4}:
        hint = ""
        if array.ndim == 3 and array.shape[0] in {1, 3, 4}:
            hint = " It looks like channels first: transpose it with array.transpose(1, 2, 0)."
        raise _refusal(
            f"The input array's shape {shape} is no image",
            f"Give [H, W, C] with C of 1, 3 or 4, or [H, W].{hint}",
        )
    if 0 in array.shape:
        raise _refusal(f"The input array {shape} has no pixels")
    check_pixel_count(array.shape[1], array.shape[0])
    if array.dtype != np.uint8:
        sample = array[:: max(1, array.shape[0] // 64)]
        brightness = np.fmin(np.fmax(sample, 0), 255).mean(dtype=np.float64)  # NaN counts as 0
        if brightness > _BRIGHTEST_FLOAT_IMAGE:
            raise _refusal(
                "The input array's float values go far beyond 1, so it would turn out white",
                "Floats must be in 0..1: divide by 255, or give uint8.",
            )
    return array


def _prepared(data: bytes, kind: MediaKind, pixels: Pixels) -> PreparedImage:
    return PreparedImage(data, kind, pixels.width, pixels.height, _digest(pixels))


def _digest(pixels: Pixels) -> str:
    # Gray is spread to three channels, as decoding does: a gray file and its RGB array have one digest.
    channels = max(pixels.channels, 3)
    digest = hashlib.sha256(f"{pixels.height}x{pixels.width}x{channels}/{pixels.maximum}\n".encode())
    for start in range(0, pixels.height, ROWS_AT_ONCE):
        rows = pixels.rows(start, min(start + ROWS_AT_ONCE, pixels.height))
        if pixels.channels == 1:
            rows = np.repeat(rows, 3, axis=2)
        if pixels.maximum != 255:
            rows = rows.astype("<u2")
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()
