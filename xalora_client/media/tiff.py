"""TIFF files of more than 8 bits a sample, of which Pillow reads few rightly, and what their values mean.

Pillow's libtiff unpacks them all the same: it is shown a file of 8-bit gray whose pixels are the bytes.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import TiffImagePlugin

from .containers import BrokenMediaError
from .image_files import PILLOW_ERRORS, damage_as_broken
from .limits import TooLargeError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_DESCRIPTION, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _PLANAR = 270, 274, 277, 278, 284
_STRIPS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 273, 279, 322, 323, 324, 325
_PREDICTOR, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _ICC_PROFILE, _SUBFILE_TYPE = 317, 338, 339, 34675, 254
_RANGE_TAGS = ((340, 341), (280, 281))
"""SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue."""

_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}  # none, LZW, Deflate, PackBits, Deflate, LZMA, Zstandard
_ZERO_IS_WHITE, _ZERO_IS_BLACK, _RGB, _CMYK = 0, 1, 2, 5
_COLOURS = {_ZERO_IS_WHITE: 1, _ZERO_IS_BLACK: 1, _RGB: 3, _CMYK: 4}
_DTYPES = {
    **{(1, bits): "u2" for bits in range(9, 16)},  # packed, as scanners and cameras write them
    **{(1, bits): f"u{bits // 8}" for bits in (16, 32, 64)},
    **{(2, bits): f"i{bits // 8}" for bits in (16, 32, 64)},
    **{(3, bits): f"f{bits // 8}" for bits in (16, 32, 64)},
}
_UNSPECIFIED, _PREMULTIPLIED = 0, 1
_ONE_PLANE, _PLANES = 1, 2
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3
_MOST_BYTES = 4 * 2**30


@dataclass(frozen=True)
class DeepTiff:
    """A decoded TIFF file.

    Attributes:
        samples: uint16 ``[H, W, C]`` with C of 1 to 4: gray, gray and alpha, RGB, RGBA; or CMYK.
        is_cmyk: Whether it is CMYK, 0 without ink.
        icc_profile: Its colour profile.
        orientation: 1..8, as in EXIF.
        page_kinds: NewSubfileType of each page; the samples are the first one's.
    """

    samples: npt.NDArray[np.uint16]
    is_cmyk: bool
    icc_profile: bytes | None
    orientation: int
    page_kinds: tuple[int, ...]


def read_deep_tiff(data: bytes) -> DeepTiff | None:
    """Decode a TIFF file of 9 to 16, 32 or 64 bits a sample; None for another file, which Pillow may read.

    Raises:
        BrokenMediaError: It is damaged, or the range of its values is not known.
    """
    if data[:4] not in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return None
    pages = list(_pages(data))
    first = _Layout.of(data, pages[0]) if pages else None
    if first is None:
        return None
    tags = pages[0]
    with damage_as_broken():
        samples = first.samples()[..., : first.colours + first.has_alpha]
    values = in_16_bits(samples, tags)
    if first.has_alpha and is_zero_white(tags):
        values[..., -1] = 65535 - values[..., -1]
    if first.is_premultiplied:
        alpha = np.maximum(values[..., -1:], 1).astype(np.float64)
        values[..., :-1] = np.minimum(values[..., :-1] * 65535.0 / alpha + 0.5, 65535).astype(np.uint16)
    profile = tags.get(_ICC_PROFILE)
    orientation = _number(tags, _ORIENTATION, 1)
    return DeepTiff(
        values,
        _number(tags, _PHOTOMETRIC, -1) == _CMYK,
        profile if isinstance(profile, bytes) else None,
        orientation if 1 <= orientation <= 8 else 1,
        tuple(_number(page, _SUBFILE_TYPE, 0) for page in pages),
    )


def in_16_bits(values: npt.NDArray[Any], tags: Mapping[int, Any]) -> npt.NDArray[np.uint16]:
    """Samples as uint16 with 0 for black.

    Args:
        values: Numbers of any kind.
        tags: Of the TIFF file that they come from; empty for another.

    Raises:
        BrokenMediaError: They are not all numbers, or their range is not known.
    """
    is_float = np.issubdtype(values.dtype, np.floating)
    if is_float and np.isnan(values).any():
        raise BrokenMediaError("its pixels are not all numbers (NaN)")
    stated = None if values.dtype == np.uint16 else stated_range(tags)
    if stated is not None:
        low, high = stated
        scaled = (values.astype(np.float64) - low) / (high - low)
        values = (scaled.clip(0, 1) * 65535 + 0.5).astype(np.uint16)
    elif is_float:
        raise BrokenMediaError(
            f"its pixels are {values.dtype.itemsize * 8}-bit floats of unknown range; save it with 16 bits a "
            "channel, or give a float array in 0..1"
        )
    elif values.dtype != np.uint16:
        raise BrokenMediaError(
            "its pixels are signed or 32-bit integers, so their range is unknown; save it with 16 bits a "
            "channel"
        )
    return 65535 - values if is_zero_white(tags) else values


def stated_range(tags: Mapping[int, Any]) -> tuple[float, float] | None:
    """The values of black and white that a TIFF file states; the lower one is 0 where it is left out.

    ImageJ, which writes most files of floats, states it in the description.
    """
    description = str(tags.get(_DESCRIPTION, ""))
    if description.startswith("ImageJ="):
        lines = dict(line.partition("=")[::2] for line in description.splitlines())
        low, high = (_first_number(lines.get(name)) for name in ("min", "max"))
        if low is not None and high is not None and high > low:
            return low, high
    for low_tag, high_tag in _RANGE_TAGS:
        low, high = (_first_number(tags.get(tag)) for tag in (low_tag, high_tag))
        if high is not None and high > (low or 0.0):
            return low or 0.0, high
    return None


def is_zero_white(tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF file says that its zero is white."""
    return bool(tags.get(_PHOTOMETRIC) == _ZERO_IS_WHITE)


def _first_number(value: object) -> float | None:
    if isinstance(value, tuple) and value:
        value = value[0]
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number is caught
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


# --- directories ------------------------------------------------------------------------------------------


def _pages(data: bytes) -> Iterator[Mapping[int, Any]]:
    """The directories of a file, up to the first that can't be read."""
    is_big = b"+" in data[2:4]
    header = data[: 16 if is_big else 8]
    file = io.BytesIO(data)
    seen: set[int] = set()
    try:
        place = TiffImagePlugin.ImageFileDirectory_v2(header).next
        while place and place not in seen:
            seen.add(place)
            directory = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(place)
            directory.load(file)
            yield directory
            place = directory.next
    except PILLOW_ERRORS:
        return


def _numbers(tags: Mapping[int, Any], tag: int, default: Sequence[int] = ()) -> tuple[int, ...]:
    try:
        value = tags.get(tag, tuple(default))
        return tuple(int(each) for each in (value if isinstance(value, tuple) else (value,)))
    except (TypeError, ValueError):
        return ()


def _number(tags: Mapping[int, Any], tag: int, default: int) -> int:
    return next(iter(_numbers(tags, tag)), default)


# --- samples ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Where and how a page's samples are stored.

    A block is a tile or a strip, its sides are in pixels; ``per_pixel`` counts all samples. Samples of fewer
    bits than their type come scaled to all of it.
    """

    data: bytes
    width: int
    height: int
    colours: int
    per_pixel: int
    extra: tuple[int, ...]
    bits: int
    dtype: np.dtype[Any]
    compression: int
    fill_order: int
    predictor: int
    is_planar: bool
    is_tiled: bool
    block_width: int
    block_height: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, data: bytes, tags: Mapping[int, Any]) -> _Layout | None:
        """None for a page that is not of deep samples in a known form. Raises BrokenMediaError."""
        width, height = _number(tags, _WIDTH, 0), _number(tags, _HEIGHT, 0)
        photometric, per_pixel = _number(tags, _PHOTOMETRIC, -1), _number(tags, _SAMPLES, 1)
        depths, formats = set(_numbers(tags, _BITS, (1,))), set(_numbers(tags, _SAMPLE_FORMAT, (1,)))
        colours = _COLOURS.get(photometric, 0)
        if min(width, height) < 1 or not 1 <= colours <= per_pixel or len(depths) != 1 or len(formats) != 1:
            return None
        bits = depths.pop()
        name = _DTYPES.get((formats.pop(), bits))
        compression, planes = _number(tags, _COMPRESSION, 1), _number(tags, _PLANAR, _ONE_PLANE)
        if name is None or compression not in _LOSSLESS or planes not in {_ONE_PLANE, _PLANES}:
            return None
        is_tiled = _TILES in tags
        offsets = _numbers(tags, _TILES if is_tiled else _STRIPS)
        sizes = _numbers(tags, _TILE_BYTES if is_tiled else _STRIP_BYTES)
        if len(offsets) != len(sizes):
            return None
        dtype = np.dtype(("<" if data[:2] == b"II" else ">") + name)
        if width * height * per_pixel * dtype.itemsize > _MOST_BYTES:
            raise TooLargeError(f"it claims {width}x{height} pixels of {per_pixel * dtype.itemsize} bytes")
        return cls(
            data,
            width,
            height,
            colours,
            per_pixel,
            _numbers(tags, _EXTRA_SAMPLES),
            bits,
            dtype,
            compression,
            _number(tags, _FILL_ORDER, 1),
            _number(tags, _PREDICTOR, 1),
            planes == _PLANES and per_pixel > 1,
            is_tiled,
            _number(tags, _TILE_WIDTH, width) if is_tiled else width,
            _number(tags, _TILE_HEIGHT, height)
            if is_tiled
            else min(_number(tags, _ROWS_PER_STRIP, height), height),
            offsets,
            sizes,
        )

    @property
    def has_alpha(self) -> bool:
        """Whether the first sample after the colours is alpha; where nothing is said, a fourth of RGB is."""
        if self.per_pixel == self.colours or self.colours == _COLOURS[_CMYK]:
            return False
        return self.extra[0] != _UNSPECIFIED if self.extra else True

    @property
    def is_premultiplied(self) -> bool:
        return self.has_alpha and self.extra[:1] == (_PREMULTIPLIED,)

    def samples(self) -> npt.NDArray[Any]:
        """``[H, W, per_pixel]`` in the machine's byte order. Raises BrokenMediaError."""
        if min(self.block_width, self.block_height) < 1 or self.predictor not in {1, 2, 3}:
            raise BrokenMediaError("its header is damaged")
        if not self.is_planar:
            return self._plane(self.offsets, self.sizes, self.per_pixel)
        share = len(self.offsets) // self.per_pixel
        planes = [
            self._plane(self.offsets[at : at + share], self.sizes[at : at + share], 1)
            for at in range(0, share * self.per_pixel, share or 1)
        ]
        if len(planes) != self.per_pixel:
            raise BrokenMediaError("its header is damaged")
        return np.concatenate(planes, axis=2)

    def _plane(self, offsets: Sequence[int], sizes: Sequence[int], count: int) -> npt.NDArray[Any]:
        """``[H, W, count]`` of the blocks at these places."""
        across, down = -(-self.width // self.block_width), -(-self.height // self.block_height)
        ends = [start + size for start, size in zip(offsets, sizes, strict=True)]
        if len(offsets) != across * down or max(ends) > len(self.data):
            raise BrokenMediaError("it is truncated or damaged")
        # Whole blocks: the differences of a row go on in what sticks out of the image.
        width = across * self.block_width
        height = down * self.block_height if self.is_tiled else self.height
        block_bytes = -(-self.block_width * count * self.bits // 8)
        stored = self._bytes_of(offsets, sizes, across * block_bytes, height, block_bytes)
        rows = stored.reshape(height, across, block_bytes)
        if self.bits % 8:
            blocks = self._from_bits(rows, count)
        elif self.predictor == _FLOAT_DIFFERENCES:
            blocks = self._from_float_differences(rows, count)
        else:
            blocks = rows.view(self.dtype).reshape(height, across, self.block_width, count)
            blocks = blocks.astype(self.dtype.newbyteorder("="))
            if self.predictor == _DIFFERENCES:
                whole = blocks.view(f"u{self.dtype.itemsize}")
                np.cumsum(whole, axis=2, dtype=whole.dtype, out=whole)
        return blocks.reshape(height, width, count)[: self.height, : self.width]

    def _from_bits(self, rows: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint16]:
        height, across, _ = rows.shape
        samples = self.block_width * count
        places = 2 ** np.arange(self.bits, dtype=np.uint16)[::-1]
        values = np.empty((height, across, samples), np.uint16)
        for row, packed in zip(values, rows, strict=True):
            bits = np.unpackbits(packed, axis=1)[:, : samples * self.bits]
            steps = bits.reshape(across, samples, self.bits) @ places
            row[:] = np.round(steps * (65535 / (2**self.bits - 1)))
        return values.reshape(height, across, self.block_width, count)

    def _from_float_differences(self, rows: npt.NDArray[np.uint8], count: int) -> npt.NDArray[Any]:
        """Undo TIFF's predictor 3: bytes by significance, the highest first, each less the one before."""
        height, across, _ = rows.shape
        steps = rows.reshape(height, across, -1, count)
        summed = np.cumsum(steps, axis=2, dtype=np.uint8)
        by_significance = summed.reshape(height, across, self.dtype.itemsize, self.block_width * count)
        together = np.ascontiguousarray(by_significance.swapaxes(2, 3))
        values: npt.NDArray[Any] = together.view(self.dtype.newbyteorder(">"))
        values = values.astype(self.dtype.newbyteorder("="))
        return values.reshape(height, across, self.block_width, count)

    def _bytes_of(
        self, offsets: Sequence[int], sizes: Sequence[int], row_bytes: int, height: int, block_bytes: int
    ) -> npt.NDArray[np.uint8]:
        """The unpacked bytes ``[height, row_bytes]``, by a directory that says they are gray pixels."""
        tags: dict[int, Sequence[int]] = {
            _WIDTH: [row_bytes],
            _HEIGHT: [height],
            _BITS: [8],
            _COMPRESSION: [self.compression],
            _PHOTOMETRIC: [_ZERO_IS_BLACK],
            _FILL_ORDER: [self.fill_order],
            _SAMPLES: [1],
            _PLANAR: [_ONE_PLANE],
        }
        if self.is_tiled:
            tags |= {_TILE_WIDTH: [block_bytes], _TILE_HEIGHT: [self.block_height]}
            tags |= {_TILES: offsets, _TILE_BYTES: sizes}
        else:
            tags |= {_ROWS_PER_STRIP: [self.block_height], _STRIPS: offsets, _STRIP_BYTES: sizes}
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(_with_directory(self.data, tags)))
        image.load()
        return np.asarray(image)


def _with_directory(data: bytes, tags: Mapping[int, Sequence[int]]) -> bytes:
    """The file with this directory in place of its own; its bytes stay where they are."""
    order = "<" if data[:2] == b"II" else ">"
    place = len(data) + len(data) % 2
    behind = place + 2 + 12 * len(tags) + 4
    entries, lists = struct.pack(f"{order}H", len(tags)), b""
    for tag in sorted(tags):
        values = tags[tag]
        packed = struct.pack(f"{order}{len(values)}L", *values)
        if len(values) > 1:
            packed, lists = struct.pack(f"{order}L", behind + len(lists)), lists + packed
        entries += struct.pack(f"{order}HHL", tag, 4, len(values)) + packed
    header = data[:2] + struct.pack(f"{order}HL", 42, place)
    return header + data[8:] + bytes(len(data) % 2) + entries + bytes(4) + lists
