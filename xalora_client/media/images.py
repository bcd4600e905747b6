"""Decoding of image files to numpy arrays, several images into one array where that is asked for.

Pillow decodes, except for most PNG, where PyAV is faster and keeps 16-bit colours at full depth. An image
that is truncated or damaged is an error and never half an array.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from ..concurrency import in_daemon_threads
from ..errors import STILL_RETRIEVABLE, ResultFormatError, ResultTooLargeError
from . import workers
from .colour import lab_to_rgb, to_srgb_of
from .containers import BrokenMediaError, png_chunks
from .image_files import (
    ImageHeader,
    ImageSource,
    OpenedImage,
    animation_frames,
    check_end,
    loaded_upright,
    open_image,
    read_source,
)
from .limits import TooLargeError, allocate, check_image, check_images
from .media_types import MediaKind, sniff, sniff_file
from .png_decode import PngHeader, check_png_stream, decode_plain_png
from .tiff import in_16_bits, is_zero_white

FloatImages: TypeAlias = npt.NDArray[np.float32]

ROWS_AT_ONCE = 32
"""Rows converted in one step: few enough for a core's cache, enough to make Python's overhead small."""


@dataclass(frozen=True)
class Pixels:
    """A decoded image whose rows are read a few at a time.

    ``channels`` is 1 (gray), 3 (RGB) or 4 (RGBA); ``maximum`` is the value of full brightness, 255 or 65535;
    ``rows(start, stop)`` gives ``[stop - start, width, channels]``, uint8 or uint16 to match.
    ``icc_profile`` is that of the colours, None where the file has none for them.
    """

    width: int
    height: int
    channels: int
    maximum: int
    rows: Callable[[int, int], npt.NDArray[Any]]
    icc_profile: bytes | None = None

    def write_to(self, out: FloatImages) -> None:
        """Fill ``out``, float32 ``[height, width, 3 or 4]``, with values in 0..1, without another full copy.

        Missing alpha becomes 1; alpha is dropped where ``out`` has three channels.
        """
        target = out
        if out.shape[2] == 4 and self.channels != 4:
            out[..., 3] = 1.0
            target = out[..., :3]
        for start in range(0, self.height, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, self.height)
            rows = self.rows(start, stop)[..., : target.shape[2]]
            np.divide(rows, self.maximum, out=target[start:stop], dtype=np.float32)


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
            :data:`.image_files.MAX_PIXELS` pixels.
    """
    with errors_of_result():
        for pixels in workers.images("pixels", source):
            shape = (pixels.height, pixels.width, 4 if pixels.channels == 4 else 3)
            image = allocate(shape)
            pixels.write_to(image)
            return image
        raise BrokenMediaError("it holds no image")


def decode_images(sources: Sequence[ImageSource], *, results: int = 1) -> FloatImages:
    """Decode images straight into one array, several at a time.

    Args:
        sources: At least one image, see :func:`decode_image`; an animation (WebP, PNG, GIF)
            gives all its frames.
        results: How many results they come from; the limit of pixels counts for each.

    Returns:
        float32 ``[N, H, W, C]`` in 0..1. Where sizes differ, all are brought to the first one's (Lanczos).
        Where any image has transparency C is 4, and the others get alpha 1.

    Raises:
        ResultFormatError: As for :func:`decode_image`; the message names the image by its place.
        ResultTooLargeError: All together have more pixels than the limits allow, or than memory is free.
    """
    if not sources:
        raise ValueError("decode_images needs at least one image")
    if len(sources) == 1 and results == 1 and not _is_animation(sources[0]):
        return decode_image(sources[0])[np.newaxis]
    headers: list[ImageHeader] = []
    with_alpha = False
    for place, source in enumerate(sources):
        with errors_of_result(place, len(sources)):
            header = read_result_header(source)
            headers.append(header)
            check_image(header.width, header.height, header.stored_bytes // header.frames)
            if header.has_alpha and not with_alpha:
                with_alpha = header.frames == 1 or bool(workers.ask("see_through", source))
            check_images(sum(header.stored_bytes for header in headers), results)
    height, width = headers[0].height, headers[0].width
    starts = list(accumulate((header.frames for header in headers), initial=0))
    threads = min(len(sources), os.cpu_count() or 1)
    shape = (starts[-1], height, width, 4 if with_alpha else 3)
    with errors_of_result():
        batch = allocate(shape)

    def decode_into(place: int) -> None:
        targets = batch[starts[place] : starts[place + 1]]
        with errors_of_result(place, len(sources)):
            for target, pixels in zip(targets, workers.images("frames", sources[place]), strict=True):
                if (pixels.height, pixels.width) == (height, width):
                    pixels.write_to(target)
                else:
                    _resized(pixels_of_array(pixels.stored()), width, height).write_to(target)

    in_daemon_threads(decode_into, range(len(sources)), threads)
    return batch


def _is_animation(source: ImageSource) -> bool:
    kind = sniff_file(source) if isinstance(source, Path) else sniff(source)
    return kind is not None and kind.is_animation


def count_images(source: ImageSource) -> int:
    """The number of images that :func:`decode_images` makes of a source; only the header is read.

    Raises:
        ResultFormatError: The header is not one of an image this package reads.
    """
    with errors_of_result():
        return read_result_header(source).frames


def read_result_header(source: ImageSource) -> ImageHeader:
    """See :func:`.image_files.read_header`; for a result. Raises BrokenMediaError."""
    read = workers.ask("header", source)
    return ImageHeader(**{**read, "kind": MediaKind.named(read["kind"])})


def read_frames(source: ImageSource) -> Iterator[Pixels]:
    """Decode an image, or an animation's frames in turn, see :func:`read_pixels`. Raises BrokenMediaError."""
    data = read_source(source)
    kind = sniff(data)
    if kind is not None and kind.is_animation:
        profile = open_image(data).embedded.icc_profile
        for frame in animation_frames(data):
            yield pixels_of(frame, profile)
    else:
        yield read_pixels(data)


def is_see_through(source: ImageSource) -> bool:
    """Whether any pixel of an animation is not opaque.

    Encoders mark unchanged pixels of later frames as transparent, so the header can't tell.
    """
    return any(
        pixels.channels == 4 and bool((pixels.rows(0, pixels.height)[..., 3] != pixels.maximum).any())
        for pixels in read_frames(source)
    )


def read_pixels(source: ImageSource, *, is_result: bool = False) -> Pixels:
    """Decode an image at its stored depth, EXIF rotation applied; of an animation its first frame.

    Raises BrokenMediaError.

    Args:
        is_result: Whether the limits for results count; otherwise the file is the user's own.
    """
    data = read_source(source)
    opened = open_image(data)
    if is_result:
        check_image(*opened.image.size, opened.frame_bytes)
    if opened.kind.is_animation:
        check_end(opened.kind, data)
        return pixels_of(opened.frame(0), opened.embedded.icc_profile)
    if opened.png is not None:
        return _png_pixels(data, opened, opened.png)
    check_end(opened.kind, data)
    image = loaded_upright(opened.image, opened.embedded.orientation)
    return pixels_of(image, opened.embedded.icc_profile)


def _png_pixels(data: bytes, opened: OpenedImage, header: PngHeader) -> Pixels:
    chunks = list(png_chunks(data))
    embedded = opened.embedded
    profile = embedded.icc_profile if embedded.colour_space == header.colours else None
    if header.is_plain:
        pixels = pixels_of_array(
            rotated_array(decode_plain_png(header, chunks), embedded.orientation), profile
        )
    else:
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            check_png_stream(chunks)
        if header.transparent is not None:
            # Pillow compares it with samples of another depth.
            opened.image.info.pop("transparency", None)
        pixels = pixels_of(loaded_upright(opened.image, embedded.orientation), profile)
    return pixels if header.transparent is None else _with_transparent_colour(pixels, header.transparent)


def _with_transparent_colour(pixels: Pixels, colour: tuple[int, ...]) -> Pixels:
    """The same gray or RGB pixels with alpha, 0 where they have this colour."""

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        block = pixels.rows(start, stop)
        alpha = np.where((block == colour).all(axis=2, keepdims=True), 0, pixels.maximum)
        colours = np.broadcast_to(block, (*block.shape[:2], 3))
        return np.concatenate([colours, alpha.astype(block.dtype)], axis=2)

    return replace(pixels, channels=4, rows=rows)


def pixels_of(image: Image.Image, profile: bytes | None = None) -> Pixels:
    """The pixels of a Pillow image of any mode with a defined value range.

    Args:
        profile: Its colour profile; CMYK is converted to sRGB with it.

    Raises:
        BrokenMediaError: Its mode has no defined value range, or no way to RGB.
    """
    if image.mode not in _MODES_OF_PROFILES.get(profile[16:20] if profile is not None else b"", ()):
        profile = None
    if image.mode == "CMYK" and (conversion := to_srgb_of(profile)) is not None:
        image, profile = conversion.image(image), None
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

    return Pixels(width, height, channels, maximum, rows, profile)


_MODES_OF_PROFILES = {
    b"GRAY": {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F"},
    b"RGB ": {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr"},
    b"CMYK": {"CMYK"},
}


_BITS_PER_SAMPLE = 258


def _in_plain_mode(image: Image.Image) -> Image.Image:
    """Convert a Pillow image to L, I;16, RGB or RGBA without loss of depth or transparency."""
    mode = image.mode
    if mode.startswith("I;16") and (tags := _tiff_tags(image)):
        values = np.asarray(image).astype(np.uint16)
        if tags.get(_BITS_PER_SAMPLE) == (12,):  # which Pillow does not scale
            values = (values * (65535 / 4095) + 0.5).astype(np.uint16)
        # Pillow knows at 8 bits and fewer that zero may be white.
        image = Image.fromarray(65535 - values if is_zero_white(tags) else values)
    if mode in {"L", "I;16", "I;16L", "I;16B", "RGB", "RGBA"} and not (
        mode in {"L", "RGB"} and "transparency" in image.info
    ):
        return image
    if mode == "1":
        return image.convert("L")
    if mode in {"I", "F"}:
        return _in_16_bits(image)
    try:
        if mode == "LAB":
            return lab_to_rgb(image)
        if mode == "La":
            image = image.convert("LA")
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    except ValueError as error:
        raise BrokenMediaError(f"its colour mode {mode} can't be converted to RGB") from error


def _in_16_bits(image: Image.Image) -> Image.Image:
    """An I;16 image of one of 32-bit numbers. Raises BrokenMediaError where their range is not known."""
    values, tags = np.asarray(image), _tiff_tags(image)
    if image.mode == "I" and image.format is None and values.min() >= 0 and values.max() <= 255:
        # Of no file: what `convert("I")` makes of 8 bits. Read as 16 bits, it would be black.
        return Image.fromarray(values.astype(np.uint8))
    if image.mode == "I" and not tags and values.min() >= 0 and values.max() <= 65535:
        # Pillow opened a 16-bit PNG as 32-bit before 10.3 or so.
        return Image.fromarray(values.astype(np.uint16))
    return Image.fromarray(in_16_bits(values, tags))


def _tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    return tags


@contextmanager
def errors_of_result(place: int = 0, total: int = 1) -> Iterator[None]:
    """Convert what is wrong with an image of a result to ResultFormatError."""
    try:
        yield
    except BrokenMediaError as error:
        which = f"Image {place + 1} of {total} of the result" if total > 1 else "The result"
        if isinstance(error, TooLargeError):
            raise too_large(which, error) from error
        raise ResultFormatError(
            f"{which} can't be read: {error}",
            money=STILL_RETRIEVABLE,
            next_step="Download it again; if it stays broken, the miner wrote it so.",
        ) from error


def too_large(subject: str, error: TooLargeError) -> ResultTooLargeError:
    """The error for a result that goes beyond the limits; ``subject`` begins its sentence."""
    return ResultTooLargeError(
        f"{subject} can't be read: {error}",
        money=STILL_RETRIEVABLE,
        next_step="Open its file in another program, or ask for a smaller result.",
    )


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    whole = pixels.rows(0, pixels.height)
    if pixels.maximum != 255:
        whole = (whole >> 8).astype(np.uint8)
    image = Image.fromarray(whole[..., 0] if pixels.channels == 1 else np.ascontiguousarray(whole))
    return pixels_of(image.resize((width, height), Image.Resampling.LANCZOS))


def pixels_of_array(whole: npt.NDArray[Any], profile: bytes | None = None) -> Pixels:
    """The pixels of ``[H, W, C]``, uint8 or uint16; C of 2 is gray with alpha."""
    height, width, stored = whole.shape
    channels = 4 if stored == 2 else stored

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        block = whole[start:stop]
        return block[..., [0, 0, 0, 1]] if stored == 2 else block

    maximum = 255 if whole.dtype.itemsize == 1 else 65535
    return Pixels(width, height, channels, maximum, rows, profile)


def rotated_array(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A view of ``[H, W, C]`` pixels with the EXIF orientation applied."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flip_rows = orientation in {3, 4, 7, 8}
    flip_columns = orientation in {2, 3, 6, 7}
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
