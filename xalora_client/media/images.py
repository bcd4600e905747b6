"""Encoded images to numpy: whole or not at all, straight into the array they are wanted in.

Pillow does the decoding, except for most PNG, where PyAV is faster and keeps 16-bit colours at full depth.
Files are opened through the format's own class and not ``Image.open``: that skips the process-wide pixel
limit, which other ComfyUI packs switch off and on, in favour of :data:`MAX_PIXELS`.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import GifImagePlugin, Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from ..errors import STILL_RETRIEVABLE, ResultFormatError
from .containers import BrokenMediaError, PngChunk, check_gif, check_riff, jpeg_segments, png_chunks
from .png_decode import check_png_stream, decode_plain_png, is_plain_png
from .sniff import SNIFF_BYTES, MediaKind, sniff

FloatImages: TypeAlias = npt.NDArray[np.float32]
ImageSource: TypeAlias = bytes | Path

MAX_PIXELS = 16384 * 16384
"""The largest image that is decoded. As float32 RGB it takes 3.2 GB."""

ROWS_AT_ONCE = 32
"""Rows converted in one step: few enough to stay in a core's cache, enough to keep Python out of it."""

_EXIF_ORIENTATION = 0x0112
_EXIF_KEYWORDS = (b"Raw profile type", b"XML:com.adobe.xmp")
_ANIMATIONS = frozenset({MediaKind.ANIMATED_WEBP, MediaKind.GIF})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True)
class Pixels:
    """A decoded image whose rows are handed out a few at a time.

    ``channels`` is 1 (gray), 3 (RGB) or 4 (RGBA); ``maximum`` is the value of full brightness, 255 or 65535;
    ``rows(start, stop)`` gives ``[stop - start, width, channels]``, uint8 or uint16 to match.
    """

    width: int
    height: int
    channels: int
    maximum: int
    rows: Callable[[int, int], npt.NDArray[Any]]
    icc_profile: bytes | None = None

    def write_to(self, out: FloatImages) -> None:
        """Fill ``out``, float32 ``[height, width, 3 or 4]``, with values in 0..1, with no other full copy.

        Alpha that is not in the image is 1, and alpha that has no place in ``out`` is left out.
        """
        target = out
        if out.shape[2] == 4 and self.channels != 4:
            out[..., 3] = 1.0
            target = out[..., :3]
        for start in range(0, self.height, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, self.height)
            rows = self.rows(start, stop)[..., : target.shape[2]]
            np.divide(rows, self.maximum, out=target[start:stop], dtype=np.float32)


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of itself before any pixel is decoded; sizes are after EXIF rotation.

    ``frames`` is 1 for a still image. An animation may claim alpha and be opaque all the same.
    """

    kind: MediaKind
    width: int
    height: int
    has_alpha: bool
    frames: int = 1


def decode_image(source: ImageSource) -> FloatImages:
    """Decode one image.

    Args:
        source: The encoded bytes, or the path of a PNG, JPEG, WebP or GIF file (an animation gives its
            first frame).

    Returns:
        float32 ``[H, W, C]`` in 0..1; C is 4 where the image has transparency, else 3. EXIF rotation is
        applied.

    Raises:
        ResultFormatError: It is not an image this package reads, is truncated or damaged, or has more than
            :data:`MAX_PIXELS` pixels.
    """
    pixels = decode_pixels(source)
    image: FloatImages = np.empty((pixels.height, pixels.width, 4 if pixels.channels == 4 else 3), np.float32)
    pixels.write_to(image)
    return image


def decode_images(sources: Sequence[ImageSource]) -> FloatImages:
    """Decode images straight into one array, several at a time.

    Args:
        sources: At least one image, see :func:`decode_image`; an animation (WebP, GIF) gives all its frames.

    Returns:
        float32 ``[N, H, W, C]`` in 0..1. Where sizes differ, all are brought to the first one's (Lanczos).
        Where any image has transparency C is 4, and the others get alpha 1.

    Raises:
        ResultFormatError: As for :func:`decode_image`; the message names the image by its place.
    """
    if not sources:
        raise ValueError("decode_images needs at least one image")
    headers = [_for_result(read_header, source, place, sources) for place, source in enumerate(sources)]
    height, width = headers[0].height, headers[0].width
    has_alpha = any(
        header.has_alpha and (header.frames == 1 or _for_result(_is_see_through, source, place, sources))
        for place, (source, header) in enumerate(zip(sources, headers, strict=True))
    )
    starts = list(accumulate((header.frames for header in headers), initial=0))
    workers = min(len(sources), os.cpu_count() or 1)
    shape = (starts[-1], height, width, 4 if has_alpha else 3)
    batch = touched(shape) if workers > 1 else np.empty(shape, np.float32)

    def decode_into(place: int) -> None:
        def decode(source: ImageSource) -> None:
            targets = batch[starts[place] : starts[place + 1]]
            for target, pixels in zip(targets, read_frames(source), strict=True):
                fits = (pixels.height, pixels.width) == (height, width)
                (pixels if fits else _resized(pixels, width, height)).write_to(target)

        _for_result(decode, sources[place], place, sources)

    if workers == 1:
        for place in range(len(sources)):
            decode_into(place)
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="xalora-decode") as pool:
            list(pool.map(decode_into, range(len(sources))))
    return batch


def decode_pixels(source: ImageSource) -> Pixels:
    """Decode an image in the depth it is stored in, EXIF rotation applied; of an animation its first frame.

    Raises:
        ResultFormatError: As for :func:`decode_image`.
    """
    pixels: Pixels = _for_result(read_pixels, source, 0, [source])
    return pixels


def count_images(source: ImageSource) -> int:
    """How many images :func:`decode_images` makes of a source, without decoding it.

    Raises:
        ResultFormatError: The header is not one of an image this package reads.
    """
    header: ImageHeader = _for_result(read_header, source, 0, [source])
    return header.frames


def image_size(source: ImageSource) -> tuple[int, int]:
    """The (width, height) of an image from its header, EXIF rotation applied.

    Raises:
        ResultFormatError: The header is not one of an image this package reads.
    """
    header = _for_result(read_header, source, 0, [source])
    return header.width, header.height


def read_header(source: ImageSource) -> ImageHeader:
    """Read an image's size and kind without decoding it. Raises BrokenMediaError."""
    data = _read(source)
    kind, image = open_image(data)
    width, height = image.size
    if _orientation(image, kind, data) >= 5:
        width, height = height, width
    if kind not in _ANIMATIONS:
        return ImageHeader(kind, width, height, _has_alpha(image))
    frames = _frame_count(image, kind, data)
    # Of a moving GIF only the frames themselves tell, since each has a palette of its own.
    may_have_alpha = _has_alpha(image) or (kind is MediaKind.GIF and frames > 1)
    return ImageHeader(kind, width, height, may_have_alpha, frames)


def stored_orientation(data: bytes) -> int:
    """The EXIF orientation that an encoded image asks for, 1..8. Raises BrokenMediaError."""
    kind, image = open_image(data)
    return _orientation(image, kind, data)


def read_frames(source: ImageSource) -> Iterator[Pixels]:
    """Decode an image, or an animation's frames in turn, see :func:`read_pixels`. Raises BrokenMediaError."""
    data = _read(source)
    if sniff(data[:SNIFF_BYTES]) in _ANIMATIONS:
        yield from map(pixels_of, animation_frames(data))
    else:
        yield read_pixels(data)


def animation_frames(data: bytes) -> Iterator[Image.Image]:
    """The frames of a WebP or GIF, each valid until the next is asked for. Raises BrokenMediaError."""
    kind, image = open_image(data)
    orientation = _orientation(image, kind, data)
    for place in range(_frame_count(image, kind, data)):
        try:
            image.seek(place)
        except PILLOW_ERRORS as error:
            raise BrokenMediaError(f"it is truncated or damaged ({error})") from error
        yield _rotated(_loaded(image), orientation)


def _frame_count(image: Image.Image, kind: MediaKind, data: bytes) -> int:
    if kind is MediaKind.GIF:
        check_gif(data)
    else:
        check_riff(data)
    try:
        return int(getattr(image, "n_frames", 1))
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error


def _is_see_through(source: ImageSource) -> bool:
    """Whether any pixel of an animation is not opaque.

    Encoders mark what does not change from frame to frame as transparent, so the header can't tell.
    """
    return any(
        pixels.channels == 4 and bool((pixels.rows(0, pixels.height)[..., 3] != pixels.maximum).any())
        for pixels in read_frames(source)
    )


def read_pixels(source: ImageSource) -> Pixels:
    """See :func:`decode_pixels`. Raises BrokenMediaError."""
    data = _read(source)
    kind, image = open_image(data)
    chunks: list[PngChunk] = []
    if kind is MediaKind.PNG:
        chunks = list(png_chunks(data))
    elif kind is MediaKind.JPEG:
        for _ in jpeg_segments(data):
            pass
    elif kind is MediaKind.GIF:
        check_gif(data)
    else:
        check_riff(data)
    orientation = _orientation(image, kind, data)
    if chunks and is_plain_png(chunks):
        return _plain_png_pixels(data, chunks, image, orientation)
    if chunks and ImageFile.LOAD_TRUNCATED_IMAGES:
        check_png_stream(chunks)
    return pixels_of(_rotated(_loaded(image), orientation))


def pixels_of(image: Image.Image) -> Pixels:
    """Hand out the rows of a Pillow image of any mode with a defined value range. Raises BrokenMediaError."""
    image = _in_plain_mode(image)
    width, height = image.size
    if image.mode.startswith("I;16"):
        dtype: np.dtype[Any] = np.dtype(">u2" if image.mode == "I;16B" else "<u2")
        channels, maximum = 1, 65535
    else:
        dtype = np.dtype(np.uint8)
        channels, maximum = len(image.getbands()), 255

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        strip = image.crop((0, start, width, stop))
        return np.frombuffer(strip.tobytes(), dtype).reshape(stop - start, width, channels)

    return Pixels(width, height, channels, maximum, rows, _icc_profile(image, channels))


def _icc_profile(image: Image.Image, channels: int) -> bytes | None:
    """The image's colour profile, where it is one for the channels that the image has now."""
    profile = image.info.get("icc_profile")
    colour_space = b"GRAY" if channels == 1 else b"RGB "
    return profile if isinstance(profile, bytes) and profile[16:20] == colour_space else None


def _in_plain_mode(image: Image.Image) -> Image.Image:
    """Bring a Pillow image to L, I;16, RGB or RGBA without losing depth or transparency."""
    mode = image.mode
    if mode in {"L", "I;16", "I;16L", "I;16B", "RGB", "RGBA"} and not (
        mode in {"L", "RGB"} and "transparency" in image.info
    ):
        return image
    if mode == "1":
        return image.convert("L")
    if mode == "I":
        # Pillow opened 16-bit gray as 32-bit before 10.3 or so; anything beyond 16 bits has no known range.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BrokenMediaError(
                "its 32-bit integer pixels lie outside 0..65535, so their range is unknown"
            )
        return Image.fromarray(values.astype(np.uint16))
    if mode == "F":
        raise BrokenMediaError("its pixels are 32-bit floats of unknown range; give a float array in 0..1")
    target = "RGBA" if _has_alpha(image) else "RGB"
    try:
        return image.convert(target)
    except ValueError as error:
        raise BrokenMediaError(f"its colour mode {mode} can't be converted to RGB") from error


def _for_result(
    read: Callable[[ImageSource], Any], source: ImageSource, place: int, sources: Sequence[ImageSource]
) -> Any:
    try:
        return read(source)
    except BrokenMediaError as error:
        which = f"Image {place + 1} of {len(sources)} of the result" if len(sources) > 1 else "The result"
        raise ResultFormatError(
            f"{which} can't be read: {error}",
            money=STILL_RETRIEVABLE,
            next_step="Download it again; if it stays broken, the miner wrote it so.",
        ) from error


def _read(source: ImageSource) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else bytes(source)


_OPENERS: dict[MediaKind, Callable[[io.BytesIO], Image.Image]] = {
    MediaKind.PNG: PngImagePlugin.PngImageFile,
    MediaKind.JPEG: JpegImagePlugin.JpegImageFile,
    MediaKind.WEBP: WebPImagePlugin.WebPImageFile,
    MediaKind.ANIMATED_WEBP: WebPImagePlugin.WebPImageFile,
    MediaKind.GIF: GifImagePlugin.GifImageFile,
}
# What Pillow's parsers are seen to raise on damaged files, MemoryError for absurd allocations included.
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
    """Nothing need be wrong with it but its size."""


def check_pixel_count(width: int, height: int) -> None:
    """Refuse what would fill the memory when decoded. Raises TooManyPixelsError."""
    if width * height > MAX_PIXELS:
        raise TooManyPixelsError(
            f"it claims {width}x{height} pixels, more than the {MAX_PIXELS // 1_000_000} million allowed"
        )


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error
    return image


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _rotated(image: Image.Image, orientation: int) -> Image.Image:
    return ImageOps.exif_transpose(image) if orientation != 1 else image


def _orientation(image: Image.Image, kind: MediaKind, data: bytes) -> int:
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
    # Pillow decodes a whole PNG to find EXIF behind the pixels, so it is asked only where there is a sign.
    with suppress(BrokenMediaError):
        for chunk in png_chunks(data, verify=False):
            is_text = chunk.name in {b"tEXt", b"zTXt", b"iTXt"}
            if chunk.name == b"eXIf" or (is_text and bytes(chunk.payload[:24]).startswith(_EXIF_KEYWORDS)):
                return True
    return False


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    whole = pixels.rows(0, pixels.height)
    if pixels.maximum != 255:
        whole = (whole >> 8).astype(np.uint8)
    image = Image.fromarray(whole[..., 0] if pixels.channels == 1 else np.ascontiguousarray(whole))
    return pixels_of(image.resize((width, height), Image.Resampling.LANCZOS))


def _plain_png_pixels(
    data: bytes, chunks: Sequence[PngChunk], image: Image.Image, orientation: int
) -> Pixels:
    whole = _rotated_array(decode_plain_png(data, chunks), orientation)
    height, width, stored = whole.shape
    channels = 4 if stored == 2 else stored

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        block = whole[start:stop]
        return block[..., [0, 0, 0, 1]] if stored == 2 else block

    maximum = 255 if whole.dtype.itemsize == 1 else 65535
    return Pixels(width, height, channels, maximum, rows, _icc_profile(image, channels))


def _rotated_array(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A view of ``[H, W, C]`` pixels as the EXIF orientation says they are to be looked at."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flip_rows = orientation in {3, 4, 7, 8}
    flip_columns = orientation in {2, 3, 6, 7}
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


_PAGE = 4096


def touched(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """An uninitialized float32 array, each page of which has been written to once, by this thread alone.

    The system gives memory at the first write to it. Threads that write to fresh memory side by side wait for
    each other there, for longer than the work they share takes; one thread that goes ahead of them needs a
    tenth of a second for a gigabyte.
    """
    array = np.empty(shape, np.float32)
    array.reshape(-1).view(np.uint8)[::_PAGE] = 0
    return array
