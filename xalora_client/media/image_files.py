"""Image files opened with Pillow before any pixel is decoded: format, size, EXIF orientation, frames.

Files are opened through the format's own class and not ``Image.open``: that skips the process-wide pixel
limit, which other ComfyUI packs switch off and on, in favour of :data:`MAX_PIXELS`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from .containers import (
    BrokenMediaError,
    check_apng,
    check_gif,
    check_riff,
    jpeg_segments,
    png_chunks,
    strip_jpeg,
    strip_png,
    webp_size,
)
from .embedded import Embedded, read_embedded
from .limits import TooLargeError, check_frame_size, check_frames, check_image
from .media_types import MediaKind, sniff
from .png_decode import PngHeader, read_png_header

ImageSource: TypeAlias = bytes | Path

MAX_PIXELS = 16384 * 16384
"""The largest image that is decoded. As float32 RGB it takes 3.2 GB."""

_EXIF_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageHeader:
    """Kind, size and frames of an image by its header; the size is after EXIF rotation.

    ``frames`` is 1 for a still image. An animation may claim alpha and be opaque all the same.
    ``stored_bytes`` is what the pixels of all frames take at their stored depth.
    """

    kind: MediaKind
    width: int
    height: int
    has_alpha: bool
    frames: int
    stored_bytes: int


@dataclass(frozen=True)
class OpenedImage:
    """An image file opened with Pillow, nothing decoded yet; ``png`` is set for a PNG."""

    kind: MediaKind
    image: Image.Image
    embedded: Embedded
    png: PngHeader | None = None

    @property
    def frames(self) -> int:
        """The frames of an animation, 1 for a still image. Raises BrokenMediaError."""
        if not self.kind.is_animation:
            return 1
        with damage_as_broken():
            return int(getattr(self.image, "n_frames", 1)) - self._frames_before

    @property
    def frame_bytes(self) -> int:
        """The bytes that the pixels of one frame take at their stored depth."""
        width, height = self.image.size
        depth = self.png.depth if self.png is not None else 8
        channels = 4 if has_alpha(self) else max(_LEAST_CHANNELS.get(self.image.mode, 3), 1)
        return width * height * channels * (2 if depth == 16 else 1)

    @property
    def _frames_before(self) -> int:
        # A PNG may begin with a picture for programs that show no animation, which is no part of it.
        return 1 if self.kind is MediaKind.APNG and self.image.info.get("default_image") else 0

    def frame(self, place: int) -> Image.Image:
        """Decode one frame, upright; valid until the next is asked for. Raises BrokenMediaError."""
        with damage_as_broken():
            self.image.seek(place + self._frames_before)
        return loaded_upright(self.image, self.embedded.orientation)


def read_header(source: ImageSource) -> ImageHeader:
    """Read an image's size and kind without decoding it. Raises BrokenMediaError."""
    data = read_source(source)
    opened = open_image(data)
    width, height = opened.image.size
    if opened.embedded.orientation >= 5:
        width, height = height, width
    if opened.kind.is_animation:
        check_end(opened.kind, data)
    frames = opened.frames
    # Each frame of an animation may have a palette or a size of its own, so the header does not tell.
    may_have_alpha = has_alpha(opened) or (opened.kind in {MediaKind.GIF, MediaKind.APNG} and frames > 1)
    return ImageHeader(opened.kind, width, height, may_have_alpha, frames, frames * opened.frame_bytes)


def animation_frames(data: bytes) -> Iterator[Image.Image]:
    """The frames of a WebP, PNG or GIF, each valid until the next is asked for.

    Raises:
        TooLargeError: They have more pixels than :data:`.limits.VIDEO_BYTES` allows.
        BrokenMediaError: The file is truncated or damaged.
    """
    opened = open_image(data)
    check_end(opened.kind, data)
    frames = opened.frames
    check_frame_size(*opened.image.size)
    check_image(*opened.image.size, opened.frame_bytes)
    check_frames(frames, frames * opened.frame_bytes)
    for place in range(frames):
        yield opened.frame(place)


def check_end(kind: MediaKind, data: bytes) -> None:
    """Check that an image file has its end. Raises BrokenMediaError."""
    if kind is MediaKind.APNG:
        check_apng(data)
    elif kind is MediaKind.PNG:
        for _ in png_chunks(data):
            pass
    elif kind is MediaKind.JPEG:
        for _ in jpeg_segments(data):
            pass
    elif kind is MediaKind.GIF:
        check_gif(data)
    else:
        check_riff(data)


def read_source(source: ImageSource) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else bytes(source)


_OPENERS: dict[MediaKind, Callable[[io.BytesIO], Image.Image]] = {
    MediaKind.PNG: PngImagePlugin.PngImageFile,
    MediaKind.APNG: PngImagePlugin.PngImageFile,
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
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)


@contextmanager
def damage_as_broken() -> Iterator[None]:
    """Convert what Pillow raises on a damaged file to BrokenMediaError."""
    try:
        yield
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error


def open_image(data: bytes) -> OpenedImage:
    """Open an encoded image with Pillow, decoding nothing yet. Raises BrokenMediaError."""
    kind = sniff(data)
    opener = _OPENERS.get(kind) if kind is not None else None
    if kind is None or opener is None:
        raise BrokenMediaError("it is no PNG, JPEG, WebP or GIF image")
    png = read_png_header(data) if kind in _PNG_KINDS else None
    if png is not None:
        check_pixel_count(png.width, png.height)
    if kind in _WEBP_KINDS and (size := webp_size(data)) is not None:
        # Pillow allocates its canvas when it opens the file.
        check_pixel_count(*size)
        check_image(*size, size[0] * size[1] * 3)
    try:
        image = opener(io.BytesIO(_bare(kind, data)))
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"its header is damaged or cut off ({error})") from error
    check_pixel_count(*image.size)
    return OpenedImage(kind, image, read_embedded(kind, data), png)


_PNG_KINDS = frozenset({MediaKind.PNG, MediaKind.APNG})
_WEBP_KINDS = frozenset({MediaKind.WEBP, MediaKind.ANIMATED_WEBP})
_LEAST_CHANNELS = {"1": 1, "L": 1, "I;16": 2, "I": 2, "CMYK": 4}


def _bare(kind: MediaKind, data: bytes) -> bytes:
    """The file without what Pillow need not see: it refuses an intact one for a large or an odd text."""
    try:
        if kind in _PNG_KINDS:
            return strip_png(data, verify=False)
        return strip_jpeg(data, header_only=True) if kind is MediaKind.JPEG else data
    except BrokenMediaError:
        return data  # cut off; its header may be there


def check_pixel_count(width: int, height: int) -> None:
    """Refuse an image that would fill the memory. Raises TooLargeError."""
    if width * height > MAX_PIXELS:
        raise TooLargeError(
            f"it claims {width}x{height} pixels, more than the {MAX_PIXELS // 1_000_000} million allowed"
        )


def loaded_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Decode an opened image and apply its EXIF orientation. Raises BrokenMediaError."""
    with damage_as_broken():
        image.load()
        return upright(image, orientation)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """A Pillow image turned as EXIF's orientation says; nothing of its EXIF is read or written."""
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def has_alpha(opened: OpenedImage) -> bool:
    """Whether an image is said to have transparency."""
    if opened.png is not None:
        return opened.png.has_alpha
    return opened.image.has_transparency_data


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of a Pillow image, 1..8; 1 where there is none or it can't be read."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except PILLOW_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
