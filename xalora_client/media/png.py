"""Pixels to PNG, fast: rounded, filtered and deflated block by block on a few threads.

Every block of rows is one independent deflate stream, ended on a byte boundary, and one IDAT chunk; strung
together they are the single zlib stream that a PNG holds. ISA-L does the deflating where ``isal`` is
installed (extra ``fast``), zlib elsewhere.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
_BLOCK_BYTES = 256 * 1024  # of filtered rows: with its float copy it fits a core's second-level cache
_ADLER_MODULUS = 65521
_ZLIB_HEADER = b"\x78\x01"
_SAMPLED_ROWS = 16  # one in so many is looked at to choose a filter
_FLAT_SHARE = 0.4  # of residuals that are not zero, in drawings and screenshots
_NONE, _SUB, _UP, _AVERAGE = range(4)

Bytes2D = npt.NDArray[np.uint8]


class _Block(NamedTuple):
    deflated: bytes
    adler: int
    size: int


def encode_png(
    array: npt.NDArray[Any], *, threads: int | None = None, icc_profile: bytes | None = None
) -> bytes:
    """Encode an image as PNG.

    Args:
        array: ``[H, W, C]`` with C of 1 (gray), 3 (RGB) or 4 (RGBA); uint8, uint16 (gives 16 bits a channel),
            or any float type with values in 0..1. Floats are rounded to the nearest of 256 steps, clipped,
            and NaN becomes 0. It may be a view of any strides.
        threads: How many threads work at it; None for one a core, at most 8.
        icc_profile: A colour profile to embed.

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
    rows_in_block = max(1, min(height, _BLOCK_BYTES // (width * channels + 1)))
    starts = range(0, height, rows_in_block)
    workers = min(threads or min(os.cpu_count() or 1, 8), len(starts))
    blocks: list[_Block] = [_Block(b"", 1, 0)] * len(starts)

    def work(worker: int) -> None:
        scratch = _RowFilter(array, rows_in_block)
        for index in range(worker, len(starts), workers):
            filtered, is_flat = scratch.filtered(starts[index])
            deflated = _deflate(filtered, is_flat=is_flat, last=index == len(starts) - 1)
            blocks[index] = _Block(deflated, _adler32(filtered), filtered.nbytes)

    if workers == 1:
        work(0)
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="xalora-png") as pool:
            list(pool.map(work, range(workers)))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", header)]
    if icc_profile is not None:
        parts += _chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc_profile))
    parts += _chunk(b"IDAT", _ZLIB_HEADER)
    adler = 1
    for block in blocks:
        parts += _chunk(b"IDAT", block.deflated)
        adler = _adler32_combine(adler, block.adler, block.size)
    parts += _chunk(b"IDAT", struct.pack(">I", adler))
    parts += _chunk(b"IEND", b"")
    return b"".join(parts)


def to_uint8(block: npt.NDArray[Any], scratch: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]) -> None:
    """Round pixels in 0..1 to 0..255 (uint8 is copied as it is); NaN becomes 0. All three have one shape."""
    if block.dtype == np.uint8:
        out[...] = block
        return
    np.multiply(block, 255, out=scratch, dtype=np.float32, casting="same_kind")
    scratch += np.float32(0.5)
    np.clip(scratch, 0, 255, out=scratch)
    try:
        with np.errstate(invalid="raise"):
            out[...] = scratch
    except FloatingPointError:
        np.nan_to_num(scratch, copy=False, nan=0.0)
        out[...] = scratch


class _RowFilter:
    """Rounds and filters blocks of one image's rows, with scratch memory of its own (one for each thread)."""

    def __init__(self, array: npt.NDArray[Any], rows_in_block: int) -> None:
        _, width, channels = array.shape
        self._array = array
        self._rows = rows_in_block
        self._step = channels
        shape = (rows_in_block + 1, width, channels)
        self._float = np.empty(shape if array.dtype != np.uint8 else (0,), np.float32)
        self._pixels = np.empty(shape, np.uint8)
        self._filtered = np.empty((rows_in_block, width * channels + 1), np.uint8)
        self._mean = np.empty((rows_in_block, (width - 1) * channels), np.uint8)
        self._shared = np.empty_like(self._mean)

    def filtered(self, start: int) -> tuple[Bytes2D, bool]:
        """The filtered rows from ``start`` on, valid until the next call, and whether they are mostly 0."""
        rows = min(self._rows, self._array.shape[0] - start)
        first = max(start - 1, 0)
        block = self._array[first : start + rows]
        pixels = self._pixels[1 - (start - first) : 1 + rows]
        to_uint8(block, self._float[: len(block)], pixels)
        if start == 0:
            self._pixels[0] = 0
        flat = self._pixels[: rows + 1].reshape(rows + 1, -1)
        out = self._filtered[:rows]
        kind, is_flat = self._choose(flat)
        out[:, 0] = kind
        self._apply(kind, flat[1:], flat[:-1], out[:, 1:])
        return out, is_flat

    def _choose(self, flat: Bytes2D) -> tuple[int, bool]:
        """The filter with the smallest residuals on a sample of the rows, as PNG's own heuristic has it."""
        above, current = flat[:-1:_SAMPLED_ROWS], flat[1::_SAMPLED_ROWS]
        sample = np.empty_like(current)

        def cost(kind: int) -> int:
            self._apply(kind, current, above, sample)
            return int(np.abs(sample.view(np.int8)).view(np.uint8).sum(dtype=np.uint32))

        kind = min((_AVERAGE, _SUB, _UP, _NONE), key=cost)
        self._apply(kind, current, above, sample)
        return kind, bool(np.count_nonzero(sample) < _FLAT_SHARE * sample.size)

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
            mean, shared = self._mean[: len(current)], self._shared[: len(current)]
            left, up = current[:, :-step], above[:, step:]
            # floor((a + b) / 2) without leaving 8 bits: the bits both have, and half of those one has.
            np.bitwise_xor(left, up, out=mean)
            np.right_shift(mean, 1, out=mean)
            np.bitwise_and(left, up, out=shared)
            np.add(mean, shared, out=mean)
            out[:, :step] = current[:, :step] - (above[:, :step] >> 1)
            np.subtract(current[:, step:], mean, out=out[:, step:])


def _deflate_with_zlib(filtered: Bytes2D, *, is_flat: bool, last: bool) -> bytes:
    # Filtered photographs hardly repeat: run lengths and Huffman codes give a full search's size, sooner.
    # Screenshots and drawings do repeat, and a search is both smaller and faster there.
    strategy = zlib.Z_DEFAULT_STRATEGY if is_flat else zlib.Z_RLE
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return stream.compress(filtered.data) + stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _deflate_with_isal(filtered: Bytes2D, *, is_flat: bool, last: bool) -> bytes:
    stream = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    head: bytes = stream.compress(filtered.data)
    tail: bytes = stream.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_SYNC_FLUSH)
    return head + tail


_deflate: Callable[..., bytes]
_adler32: Callable[[Bytes2D], int]
if isal_zlib is None:
    _deflate, _adler32 = _deflate_with_zlib, zlib.adler32
else:
    _deflate, _adler32 = _deflate_with_isal, isal_zlib.adler32


def _adler32_combine(first: int, second: int, second_size: int) -> int:
    """The Adler-32 of two byte strings in a row, from each one's own and the second one's length."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER_MODULUS
    high = ((first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)) % _ADLER_MODULUS
    return high << 16 | low


def _chunk(name: bytes, payload: bytes) -> list[bytes]:
    crc = zlib.crc32(payload, zlib.crc32(name))
    return [struct.pack(">I", len(payload)), name, payload, struct.pack(">I", crc)]
