"""Fast PNG encoding: pixels are rounded, filtered and deflated block by block on a few threads.

Every block of rows is an independent deflate stream that ends on a byte boundary, and one IDAT chunk; in
sequence they form the zlib stream of the PNG. ISA-L deflates where ``isal`` is installed (extra ``fast``),
zlib elsewhere.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
# Of filtered rows in one step. Smaller blocks fit the caches better but take longer: with more and shorter
# steps the threads wait for the interpreter.
_BLOCK_BYTES = 1536 * 1024
_ROUNDED_AT_ONCE = 128 * 1024  # floats, so that they stay in the cache
_MOST_THREADS = 4  # each has 5 MB of scratch; sending is slower than encoding with far fewer
_ADLER_MODULUS = 65521
_ZLIB_HEADER = b"\x78\x01"
_SAMPLED_ROWS = 16  # every so many rows one is sampled, to tell drawings from photographs
# Every so many rows one is filtered in each way, to choose a filter. 101 is prime, to avoid the edges of
# JPEG's blocks or tiles, where a row has little in common with the one above.
_TRIED_ROWS = 101
_DRAWING_SHARE = 0.4  # of residuals that are not zero: fewer in drawings and screenshots
_ROUGH_SHARE = 0.85  # more where every surface has grain
_ZERO, _HALF, _FULL = np.float32(0), np.float32(0.5), np.float32(255)
_NONE, _SUB, _UP, _AVERAGE = range(4)

Bytes2D = npt.NDArray[np.uint8]


class _Block(NamedTuple):
    """Encoded rows: their IDAT chunk, and their part of the checksum of all rows."""

    chunk: list[bytes]
    adler: int
    size: int


def encode_png(array: npt.NDArray[Any], *, threads: int | None = None) -> bytes:
    """Encode an image as PNG.

    Args:
        array: ``[H, W, C]`` with C of 1 (gray), 3 (RGB) or 4 (RGBA); uint8, uint16 (gives 16 bits a channel),
            or any float type with values in 0..1. Floats are rounded to the nearest of 256 steps, clipped,
            and NaN becomes 0. It may be a view of any strides.
        threads: How many threads encode; None for one per core, at most 4.

    Raises:
        ValueError: Any other shape or type.
    """
    if array.ndim != 3 or array.shape[2] not in _COLOUR_TYPES or 0 in array.shape:
        raise ValueError(f"encode_png needs [H, W, 1, 3 or 4], not {list(array.shape)}")
    colour_type = _COLOUR_TYPES[array.shape[2]]
    depth = 8
    if array.dtype == np.uint16:
        depth = 16
        array = array.astype(">u2", order="C").view(np.uint8)  # PNG filters bytes, whatever the depth
    elif array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"encode_png needs uint8, uint16 or float pixels, not {array.dtype}")
    height, width, channels = array.shape
    in_blocks = height * (width * channels + 1) / _BLOCK_BYTES
    workers = min(threads or min(os.cpu_count() or 1, _MOST_THREADS), math.ceil(in_blocks))
    # As many blocks as give every thread the same share.
    rows_in_block = math.ceil(height / (workers * max(1, round(in_blocks / workers))))
    starts = range(0, height, rows_in_block)
    blocks: dict[int, _Block] = {}
    waiting = deque(starts)

    def encode_blocks() -> None:
        row_filter = _RowFilter(array, rows_in_block)
        while True:
            try:
                start = waiting.popleft()
            except IndexError:
                return
            filtered = row_filter.filtered(start)
            deflated = _deflate(filtered, last=start == starts[-1])
            blocks[start] = _Block(_chunk(b"IDAT", *deflated), _adler32(filtered), filtered.nbytes)

    if workers == 1:
        encode_blocks()
    else:
        with ThreadPoolExecutor(workers - 1, thread_name_prefix="xalora-png") as pool:
            # This thread takes its share: the system often puts two new ones on one core.
            others = [pool.submit(encode_blocks) for _ in range(workers - 1)]
            encode_blocks()
            for done in others:
                done.result()

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", header)]
    parts += _chunk(b"IDAT", _ZLIB_HEADER)
    adler = 1
    for start in starts:
        block = blocks[start]
        parts += block.chunk
        adler = _adler32_combine(adler, block.adler, block.size)
    parts += _chunk(b"IDAT", struct.pack(">I", adler))
    parts += _chunk(b"IEND", b"")
    return b"".join(parts)


class PngWriter:
    """Writes a PNG of 8 bits a channel, some rows at a time.

    Args:
        file: Where it is written.
        width, height: Pixels.
        channels: 3 (RGB) or 4 (RGBA).
        exif: A block of EXIF to put into it.
    """

    def __init__(
        self, file: BinaryIO, width: int, height: int, channels: int, exif: bytes | None = None
    ) -> None:
        self._file = file
        self._height, self._written = height, 0
        self._above: Bytes2D = np.empty((0, width, channels), np.uint8)
        self._adler = 1
        header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
        file.write(b"\x89PNG\r\n\x1a\n")
        file.writelines(_chunk(b"IHDR", header))
        if exif is not None:
            file.writelines(_chunk(b"eXIf", exif))
        file.writelines(_chunk(b"IDAT", _ZLIB_HEADER))

    def write(self, rows: npt.NDArray[np.uint8]) -> None:
        """Write the next rows, ``[N, width, channels]``; the last ones end the file."""
        with_above = np.concatenate([self._above, rows])
        filtered = _RowFilter(with_above, len(rows)).filtered(len(self._above))
        self._written += len(rows)
        is_last = self._written == self._height
        self._file.writelines(_chunk(b"IDAT", *_deflate(filtered, last=is_last)))
        self._adler = _adler32_combine(self._adler, _adler32(filtered), filtered.nbytes)
        self._above = rows[-1:].copy()
        if is_last:
            self._file.writelines(_chunk(b"IDAT", struct.pack(">I", self._adler)))
            self._file.writelines(_chunk(b"IEND", b""))


def to_uint8(block: npt.NDArray[Any], scratch: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]) -> None:
    """Round pixels in 0..1 to 0..255 (uint8 is copied as it is); NaN becomes 0.

    ``scratch`` holds as many rows of the same shape as are to be rounded at once.
    """
    if block.dtype == np.uint8:
        out[...] = block
        return
    with np.errstate(invalid="raise"):
        for start in range(0, len(block), len(scratch)):
            rows = block[start : start + len(scratch)]
            rounded = scratch[: len(rows)]
            np.multiply(rows, _FULL, out=rounded, dtype=np.float32, casting="same_kind")
            np.add(rounded, _HALF, out=rounded)
            np.clip(rounded, _ZERO, _FULL, out=rounded)
            try:
                out[start : start + len(rows)] = rounded
            except FloatingPointError:
                np.nan_to_num(rounded, copy=False, nan=0.0)
                out[start : start + len(rows)] = rounded


class _RowFilter:
    """Rounds and filters blocks of one image's rows, with scratch memory of its own (one for each thread)."""

    def __init__(self, array: npt.NDArray[Any], rows_in_block: int) -> None:
        _, width, channels = array.shape
        shape = (rows_in_block + 1, width, channels)  # with the row above
        self._array = array
        self._rows_in_block = rows_in_block
        self._step = channels
        at_once = max(1, min(rows_in_block + 1, _ROUNDED_AT_ONCE // (width * channels)))
        self._float = np.empty((at_once, width, channels) if array.dtype != np.uint8 else (0,), np.float32)
        self._pixels = np.empty(shape, np.uint8)
        self._filtered = np.empty((rows_in_block, width * channels + 1), np.uint8)
        self._mean = np.empty((rows_in_block, (width - 1) * channels), np.uint8)

    def filtered(self, start: int) -> Bytes2D:
        """The filtered rows of the block that begins at ``start``; valid until the next call."""
        block = self._array[max(start - 1, 0) : start + self._rows_in_block]
        rows = len(block)
        if start == 0:
            self._pixels[0] = 0
            to_uint8(block, self._float, self._pixels[1 : rows + 1])
        else:
            rows -= 1
            to_uint8(block, self._float, self._pixels[: rows + 1])
        flat = self._pixels.reshape(len(self._pixels), -1)
        above, current, out = flat[:rows], flat[1 : rows + 1], self._filtered[:rows]
        tried = slice(min(rows - 1, _TRIED_ROWS // 2), None, _TRIED_ROWS)
        kind = self._choose(current[tried], above[tried])
        out[:, 0] = kind
        self._apply(kind, current, above, out[:, 1:])
        return out

    def _choose(self, current: Bytes2D, above: Bytes2D) -> int:
        """The filter that makes a sample of the rows smallest."""
        residuals = np.empty_like(current)

        def cost(kind: int) -> int:
            self._apply(kind, current, above, residuals)
            return _cost(residuals)

        return min((_AVERAGE, _SUB, _UP, _NONE), key=cost)

    def _apply(self, kind: int, current: Bytes2D, above: Bytes2D, out: Bytes2D) -> None:
        step = self._step
        if kind == _NONE:
            out[...] = current
        elif kind == _UP:
            np.subtract(current, above, out=out)
        elif kind == _SUB:
            out[:, :step] = current[:, :step]
            np.subtract(current[:, step:], current[:, :-step], out=out[:, step:])
        else:
            left, up, mean, rest = current[:, :-step], above[:, step:], self._mean[: len(out)], out[:, step:]
            # floor((a + b) / 2) within 8 bits: the common bits, and half of the others.
            np.bitwise_xor(left, up, out=mean)
            np.right_shift(mean, 1, out=mean)
            np.bitwise_and(left, up, out=rest)
            np.add(mean, rest, out=mean)
            out[:, :step] = current[:, :step] - (above[:, :step] >> 1)
            np.subtract(current[:, step:], mean, out=rest)


def _deflate_with_zlib(filtered: Bytes2D, *, last: bool) -> tuple[bytes, bytes]:
    # A search for repetitions pays where many residuals are zero. In photographs run lengths and Huffman
    # codes give the same size sooner, and rough ones have no runs.
    sample = filtered[::_SAMPLED_ROWS]
    busy_share = np.count_nonzero(sample) / sample.size
    if busy_share < _DRAWING_SHARE:
        strategy = zlib.Z_DEFAULT_STRATEGY
    else:
        strategy = zlib.Z_RLE if busy_share < _ROUGH_SHARE else zlib.Z_HUFFMAN_ONLY
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    head = stream.compress(filtered.data)
    return head, stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _deflate_with_isal(filtered: Bytes2D, *, last: bool) -> tuple[bytes, bytes]:
    stream = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    head = stream.compress(filtered.data)
    return head, stream.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)


def _sum_of(residuals: Bytes2D) -> int:
    """PNG's own heuristic: cheap, but it ignores repetitions."""
    return int(np.abs(residuals.view(np.int8)).view(np.uint8).sum(dtype=np.uint32))


def _deflated_size_of(residuals: Bytes2D) -> int:
    return sum(map(len, _deflate_with_isal(residuals, last=True)))


_deflate: Callable[..., tuple[bytes, bytes]]
_cost: Callable[[Bytes2D], int]
_adler32: Callable[[Bytes2D], int]
_crc32: Callable[..., int]
if isal_zlib is None:
    _deflate, _cost, _adler32, _crc32 = _deflate_with_zlib, _sum_of, zlib.adler32, zlib.crc32
else:
    _deflate, _cost = _deflate_with_isal, _deflated_size_of
    _adler32, _crc32 = isal_zlib.adler32, isal_zlib.crc32


def _adler32_combine(first: int, second: int, second_size: int) -> int:
    """The Adler-32 of two byte strings in a row, from each one's own and the second one's length."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER_MODULUS
    high = ((first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)) % _ADLER_MODULUS
    return high << 16 | low


def _chunk(name: bytes, *payload: bytes) -> list[bytes]:
    crc = _crc32(name)
    for part in payload:
        crc = _crc32(part, crc)
    return [struct.pack(">I", sum(map(len, payload))), name, *payload, struct.pack(">I", crc)]
