"""Image files opened with Pillow before any pixel is decoded: format, size, EXIF orientation, frames.

Files are opened through the format's own class and not ``Image.open``: that skips the process-wide pixel
limit, which other ComfyUI packs switch off and on, in favour of :data:`MAX_PIXELS`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import GifImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from .containers import BrokenMediaError, check_gif, check_riff, jpeg_segments, png_chunks
from .media_types import SNIFF_BYTES, MediaKind, sniff

ImageSource: TypeAlias = bytes | Path

MAX_PIXELS = 16384 * 16384
"""The largest image that is decoded. As float32 RGB it takes 3.2 GB."""

_EXIF_ORIENTATION = 0x0112
_EXIF_KEYWORDS = (b"Raw profile type", b"XML:com.adobe.xmp")
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True)
class ImageHeader:
    """Kind, size and frames of an image by its header; the size is after EXIF rotation.

    ``orientation`` is EXIF's, 1..8; ``frames`` is 1 for a still image. An animation may claim alpha and be
    opaque all the same.
    """

    kind: MediaKind
    width: int
    height: int
    has_alpha: bool
    orientation: int
    frames: int


def read_header(source: ImageSource) -> ImageHeader:
    """Read an image's size and kind without decoding it. Raises BrokenMediaError."""
    data = read_source(source)
    kind, image = open_image(data)
    width, height = image.size
    orientation = image_orientation(image, kind, data)
    if orientation >= 5:
        width, height = height, width
    frames = _frame_count(image, kind, data) if kind.is_animation else 1
    # Each frame of a GIF animation has a palette of its own, so the header does not tell.
    may_have_alpha = has_alpha(image) or (kind is MediaKind.GIF and frames > 1)
    return ImageHeader(kind, width, height, may_have_alpha, orientation, frames)


def animation_frames(data: bytes) -> Iterator[Image.Image]:
    """The frames of a WebP or GIF, each valid until the next is asked for. Raises BrokenMediaError."""
    kind, image = open_image(data)
    orientation = image_orientation(image, kind, data)
    for place in range(_frame_count(image, kind, data)):
        with damage_as_broken():
            image.seek(place)
        yield loaded_upright(image, orientation)


def _frame_count(image: Image.Image, kind: MediaKind, data: bytes) -> int:
    check_end(kind, data)
    with damage_as_broken():
        return int(getattr(image, "n_frames", 1))


def check_end(kind: MediaKind, data: bytes) -> None:
    """Check that a JPEG, WebP or GIF file has its end. Raises BrokenMediaError."""
    if kind is MediaKind.JPEG:
        for _ in jpeg_segments(data):
            pass
    elif kind is MediaKind.GIF:
        check_gif(data)
    elif kind is not MediaKind.PNG:
        check_riff(data)


def read_source(source: ImageSource) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else bytes(source)


_OPENERS: dict[MediaKind, Callable[[io.BytesIO], Image.Image]] = {
    MediaKind.PNG: PngImagePlugin.PngImageFile,
    MediaKind.JPEG: JpegImagePlugin.JpegImageFile,
    MediaKind.WEBP: WebPImagePlugin.WebPImageFile,
    MediaKind.ANIMATED_WEBP: WebPImagePlugin.WebPImageFile,
    MediaKind.GIF: GifImagePlugin.GifImageFile,
}
# What Pillow's parsers raise on damaged files; MemoryError comes from absurd sizes.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)


@contextmanager
def damage_as_broken() -> Iterator[None]:
    """Convert what Pillow raises on a damaged file to BrokenMediaError."""
    try:
        yield
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error


def open_image(data: bytes) -> tuple[MediaKind, Image.Image]:
    """Open an encoded image with Pillow, decoding nothing yet. Raises BrokenMediaError."""
    kind = sniff(data[:SNIFF_BYTES])
    opener = _OPENERS.get(kind) if kind is not None else None
    if kind is None or opener is None:
        raise BrokenMediaError("it is no PNG, JPEG, WebP or GIF image")
    try:
        image = opener(io.BytesIO(data))
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"its header is damaged or cut off ({error})") from error
    check_pixel_count(*image.size)
    return kind, image


class TooManyPixelsError(BrokenMediaError):
    """The image is too large to be decoded; it may be intact."""


def check_pixel_count(width: int, height: int) -> None:
    """Refuse an image that would fill the memory. Raises TooManyPixelsError."""
    if width * height > MAX_PIXELS:
        raise TooManyPixelsError(
            f"it claims {width}x{height} pixels, more than the {MAX_PIXELS // 1_000_000} million allowed"
        )


def loaded_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Decode an opened image and apply its EXIF orientation. Raises BrokenMediaError."""
    with damage_as_broken():
        image.load()
        return ImageOps.exif_transpose(image) if orientation != 1 else image


def has_alpha(image: Image.Image) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def image_orientation(image: Image.Image, kind: MediaKind, data: bytes) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or it can't be read."""
    if kind is MediaKind.GIF or (kind is MediaKind.PNG and not _may_hold_exif(data)):
        return 1
    return exif_orientation(image)


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of a Pillow image, 1..8; 1 where there is none or it can't be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except PILLOW_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _may_hold_exif(data: bytes) -> bool:
    # Pillow decodes a complete PNG to find EXIF behind the pixels, so the chunks are looked through first.
    with suppress(BrokenMediaError):
        for chunk in png_chunks(data, verify=False):
            is_text = chunk.name in {b"tEXt", b"zTXt", b"iTXt"}
            if chunk.name == b"eXIf" or (is_text and bytes(chunk.payload[:24]).startswith(_EXIF_KEYWORDS)):
                return True
    return False
