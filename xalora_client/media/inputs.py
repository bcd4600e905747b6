"""Input images of any form, prepared to be sent: complete, upright, in sRGB, and without metadata.

Metadata of a camera or an editor (place, time, names, prompts, colour profiles) never leaves this machine.
JPEG and PNG files of 8-bit RGB in sRGB are stripped without a change to their compressed pixels; everything
else becomes a new PNG of 8-bit RGB or RGBA.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import InputImageError
from .containers import BrokenMediaError, strip_jpeg, strip_png
from .foreign_formats import described
from .image_files import (
    PILLOW_ERRORS,
    check_pixel_count,
    exif_orientation,
    loaded_upright,
    open_image,
    read_header,
)
from .images import ROWS_AT_ONCE, Pixels, pixels_of, pixels_of_array, read_pixels, rotated_array
from .media_types import MediaKind, sniff
from .png_encode import encode_png, to_uint8
from .sent_pixels import as_sent, in_8_bits, is_as_sent
from .tiff import read_deep_tiff

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"
"""A URL (http, https or data:), a path, encoded bytes, a Pillow image, an array, or a torch tensor."""

# Formats of inputs beside those of results. Pillow's others run external programs or are detected too loosely
# for untrusted files.
_OTHER_FORMATS = ("BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF", "QOI")
_ANIMATED_FORMATS = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4  # of a page in a TIFF file
_BRIGHTEST_FLOAT_IMAGE = 2.0


@dataclass(frozen=True)
class PreparedImage:
    """An input image, ready to be sent.

    Attributes:
        data: The encoded file, free of metadata.
        kind: ``MediaKind.PNG`` or ``MediaKind.JPEG``; 8-bit RGB or RGBA in sRGB.
        width: Pixels, as a viewer shows it (EXIF rotation applied).
        height: Pixels.
        pixel_digest: SHA-256 (hex) over the pixels sent and their shape. The same pixels give the same
            digest whether they came as a file, a Pillow image or an array.
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


@dataclass(frozen=True)
class _Opened:
    """An input image, decoded, and how it is encoded for sending. The attributes are those that it gets."""

    pixels: Pixels
    kind: MediaKind
    encode: Callable[[], bytes]
    given_bytes: int | None = None


def is_remote(image: object) -> bool:
    """Whether an input image is a URL (http, https or data:), which is sent unchanged."""
    if not isinstance(image, str):
        return False
    start = image[:8].lower()
    return start.startswith(("http://", "https://")) or (start.startswith("data:") and "," in image)


def prepare_image(image: ImageInput) -> PreparedImage:
    """Prepare an image of this machine to be sent. Blocking and CPU-bound: run it in a thread.

    Args:
        image: A path, encoded bytes, a Pillow image, an array or tensor ``[H, W]``, ``[H, W, C]`` or
            ``[1, H, W, C]`` with C of 1, 3 or 4, uint8 or float in 0..1. URLs are not taken, see
            :func:`is_remote`.

    Raises:
        InputImageError: It can't be read, is truncated, too large to decode, or no single image.
    """
    with _refusals(image):
        opened = _opened(image)
        pixels = opened.pixels
        data = opened.encode()
        size = pixels.width, pixels.height
        return PreparedImage(data, opened.kind, *size, pixel_digest(pixels), opened.given_bytes)


def sent_pixels(image: ImageInput) -> npt.NDArray[np.uint8]:
    """The pixels that :func:`prepare_image` would send, ``[H, W, 3 or 4]`` in sRGB. Blocking and CPU-bound.

    Raises:
        InputImageError: As there.
    """
    with _refusals(image):
        pixels = _opened(image).pixels
        return pixels.rows(0, pixels.height)


def _opened(image: ImageInput) -> _Opened:
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, (str, os.PathLike)):
        return _from_path(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(image))
    return _from_array(_as_array(image))


@contextmanager
def _refusals(image: ImageInput) -> Iterator[None]:
    """Have whatever is wrong with an input image raised as InputImageError."""
    name = f" {os.fspath(image)!r}" if isinstance(image, (str, os.PathLike)) else ""
    try:
        yield
    except BrokenMediaError as error:
        raise _refusal(f"The input image{name} can't be used: {error}") from error
    except InputImageError:
        raise
    except Exception as error:
        # Decoders raise anything on an odd file, and it concerns this image alone.
        reason = f"it can't be decoded ({type(error).__name__}: {error})"
        raise _refusal(f"The input image{name} can't be used: {reason}") from error


def _refusal(
    what: str, next_step: str = "Give a PNG, JPEG or WebP image that opens in a viewer."
) -> InputImageError:
    return InputImageError(what, next_step=next_step)


def _from_path(path: str | os.PathLike[str]) -> _Opened:
    if is_remote(path):
        raise _refusal("A URL was given where an image on this machine is needed")
    if not os.fspath(path):
        raise _refusal("The input image is an empty path", "Give the path of an image.")
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(
            f"The input image {os.fspath(path)!r} can't be opened: {reason}", "Check the path."
        ) from error
    return _from_bytes(data, Path(path).suffix)


def _from_bytes(data: bytes, suffix: str = "") -> _Opened:
    if not data:
        raise BrokenMediaError("it is empty")
    kind = sniff(data)
    if kind is None or kind.is_container:
        deep = _deep_tiff_pixels(data)
        opened = _from_pillow(open_other(data, suffix)) if deep is None else _in_8_bits(deep)
        return replace(opened, given_bytes=len(data))
    _check_single(read_header(data).frames, "an animation of {} frames")
    pixels = read_pixels(data)
    strip = _STRIPPERS.get(kind)
    if strip is not None and is_as_sent(pixels) and _is_plain_rgb(data):
        return _Opened(pixels, kind, lambda: strip(data))
    return replace(_in_8_bits(pixels), given_bytes=len(data))


_STRIPPERS: dict[MediaKind, Callable[[bytes], bytes]] = {
    MediaKind.PNG: strip_png,
    MediaKind.JPEG: strip_jpeg,
}


def _is_plain_rgb(data: bytes) -> bool:
    """Whether a PNG or JPEG file holds upright RGB or RGBA: no gray, palette, CMYK or transparent colour."""
    opened = open_image(data)
    if opened.embedded.orientation != 1:
        return False
    if opened.png is not None and not (opened.png.is_plain and opened.png.transparent is None):
        return False
    return opened.image.mode in {"RGB", "RGBA"}


def _check_single(images: int, words: str) -> None:
    if images > 1:
        raise _refusal(
            f"The input image is {words.format(images)}, and a task takes one image",
            "Give its frames as images, each to a task of its own.",
        )


def open_other(data: bytes, suffix: str = "") -> Image.Image:
    """Open a file of a format that results do not have, all of it decoded, with Pillow or pillow-heif.

    Raises:
        BrokenMediaError: It can't be read; the reason names the format where it is known.
        InputImageError: It holds several images.
    """
    try:
        image = _opened_by_pillow(data) or _opened_by_pillow_heif(data)
        if image is None:
            words = described(data, suffix)
            raise BrokenMediaError("its format is unknown here" if words is None else f"it is {words}")
        check_pixel_count(*image.size)
        if image.format == "TIFF":
            _check_pages(image)
        elif image.format in _ANIMATED_FORMATS:
            _check_frames(image)
        image.load()
    except (BrokenMediaError, InputImageError):
        raise
    except PILLOW_ERRORS as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error
    return image


def _opened_by_pillow(data: bytes) -> Image.Image | None:
    # Not by Image.open, which has a limit of pixels of its own that other packs change.
    if (words := described(data[:32])) is not None and data[:4] in {b"II*\0", b"MM\0*"}:
        raise BrokenMediaError(f"it is {words}")
    Image.init()
    for name in _OTHER_FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is not None and (accept is None or accept(data[:16]) is True):
            try:
                return factory(io.BytesIO(data), "")
            except SyntaxError as error:
                raise BrokenMediaError(
                    f"it is damaged, or a kind of {name} that is not read here ({error}); save it as PNG"
                ) from error
    return None


def _opened_by_pillow_heif(data: bytes) -> Image.Image | None:
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIF_BRANDS:
        return None
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return image


def _check_frames(image: Image.Image) -> None:
    # A PNG may begin with a still picture that is no part of its animation.
    frames = getattr(image, "n_frames", 1) - bool(image.info.get("default_image"))
    _check_single(frames, "an animation of {} frames")


def _check_pages(image: Image.Image) -> None:
    """See :func:`_check_page_kinds`; for a TIFF file that Pillow has opened."""
    kinds = []
    for place in range(getattr(image, "n_frames", 1)):
        with suppress(*PILLOW_ERRORS):
            image.seek(place)
            kinds.append(getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0))
    image.seek(0)
    _check_page_kinds(kinds)


def _check_page_kinds(kinds: Sequence[int]) -> None:
    """Refuse a TIFF file of several pages, and one that begins with a preview, as cameras' raw files do."""
    if kinds and kinds[0] & _REDUCED:
        raise BrokenMediaError(
            "it begins with a small preview, as a camera's raw file does; export it as PNG, JPEG or TIFF"
        )
    _check_single(sum(not kind & (_REDUCED | _MASK) for kind in kinds), "a document of {} pages")


def _deep_tiff_pixels(data: bytes) -> Pixels | None:
    """The pixels of a TIFF file of more than 8 bits a sample; None for another file."""
    if described(data[:32]) is not None or (tiff := read_deep_tiff(data)) is None:
        return None
    _check_page_kinds(tiff.page_kinds)
    samples = rotated_array(tiff.samples, tiff.orientation)
    if tiff.is_cmyk:
        return pixels_of(Image.fromarray(in_8_bits(samples, 65535), "CMYK"), tiff.icc_profile)
    colours = b"GRAY" if samples.shape[2] < 3 else b"RGB "
    profile = tiff.icc_profile
    fits = profile is not None and profile[16:20] == colours
    return pixels_of_array(samples, profile if fits else None)


def _from_pillow(image: Image.Image) -> _Opened:
    check_pixel_count(*image.size)
    if 0 in image.size:
        raise BrokenMediaError("it has no pixels")
    if image.format == "TIFF":
        _check_pages(image)
    elif image.format in _ANIMATED_FORMATS:
        _check_frames(image)
    profile = image.info.get("icc_profile")
    turned = loaded_upright(image, exif_orientation(image))
    return _in_8_bits(pixels_of(turned, profile if isinstance(profile, bytes) else None))


def _in_8_bits(pixels: Pixels) -> _Opened:
    sent = as_sent(pixels)
    if is_as_sent(pixels):
        whole = sent.rows(0, sent.height)
    else:
        # Some rows at a time: 16 bits are rounded in 32.
        whole = np.empty((sent.height, sent.width, sent.channels), np.uint8)
        for start in range(0, sent.height, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, sent.height)
            whole[start:stop] = sent.rows(start, stop)
    sent = replace(sent, rows=lambda start, stop: whole[start:stop])  # converted once
    return _Opened(sent, MediaKind.PNG, lambda: encode_png(whole))


def _as_array(image: Any) -> npt.NDArray[Any]:
    # A torch tensor, possibly on a GPU, possibly of a type numpy lacks; a file has `detach` too.
    if hasattr(image, "detach") and hasattr(image, "cpu"):
        image = image.detach().cpu()
        if str(image.dtype) == "torch.bfloat16":
            image = image.float()
    if isinstance(image, (list, tuple)):
        raise _refusal(
            f"The input image is a list of {len(image)}, and a task takes one image",
            "Make one task of each.",
        )
    if not hasattr(image, "__array__"):
        raise _refusal(
            f"The input image is of type {type(image).__name__}, which is no image",
            "Give a path, a URL, bytes, a Pillow image, a numpy array or a torch tensor.",
        )
    return np.asarray(image)


def _from_array(array: npt.NDArray[Any]) -> _Opened:
    array = checked_array(array)
    if array.shape[2] == 1:
        array = np.broadcast_to(array, (*array.shape[:2], 3))
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
    return _Opened(pixels, MediaKind.PNG, lambda: encode_png(array))


def checked_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array, as :func:`prepare_image` takes it, as ``[H, W, C]``.

    Raises:
        InputImageError: It is no image, or would turn out black or white.
    """
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
        if not (np.isfinite(array.max()) and np.isfinite(array.min())):
            raise _refusal(
                f"The input array {shape} holds no numbers in {_share_of_odd(array)} values, which are "
                "infinite or NaN and would turn out black or white",
                "Look at what made it: a VAE in half precision gives such images.",
            )
        sample = array[:: max(1, array.shape[0] // 64)]
        brightness = np.fmin(np.fmax(sample, 0), 255).mean(dtype=np.float64)
        if brightness > _BRIGHTEST_FLOAT_IMAGE:
            raise _refusal(
                "The input array's float values go far beyond 1, so it would turn out white",
                "Floats must be in 0..1: divide by 255, or give uint8.",
            )
    return array


def _share_of_odd(array: npt.NDArray[Any]) -> str:
    count = array.size - int(np.isfinite(array).sum())
    return "all" if count == array.size else f"{count} of {array.size}"


def pixel_digest(pixels: Pixels) -> str:
    """See :class:`PreparedImage`; of pixels as they are sent."""
    shape = f"{pixels.height}x{pixels.width}x{pixels.channels}/{pixels.maximum}"
    digest = hashlib.sha256(f"{shape}\n".encode())
    for start in range(0, pixels.height, ROWS_AT_ONCE):
        rows = pixels.rows(start, min(start + ROWS_AT_ONCE, pixels.height))
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()


def digest_of_array(pixels: npt.NDArray[np.uint8]) -> str:
    """What :class:`PreparedImage` has as digest of these pixels ``[H, W, 3 or 4]`` in sRGB."""
    height, width, channels = pixels.shape
    return pixel_digest(Pixels(width, height, channels, 255, lambda start, stop: pixels[start:stop]))
