"""PNG decoding by FFmpeg, which undoes the filters fast but inflates slowly.

Where ``isal`` is installed (extra ``fast``), it inflates two to three times as fast, and FFmpeg gets the same
image with its data stored uncompressed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .containers import PNG_SIGNATURE, BrokenMediaError, PngChunk

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

_FFMPEG_MAX_PIXELS = 1 << 27
_MOST_INFLATED_AHEAD = 256 * 1024**2  # the rows are held twice for it
_STORED_BLOCK_BYTES = 0xFFFF
_CHANNELS_BY_COLOUR_TYPE = {0: 1, 2: 3, 4: 2, 6: 4}
_STORED_CHANNELS = {
    "gray": 1, "ya8": 2, "rgb24": 3, "rgba": 4, "gray16be": 1, "ya16be": 2, "rgb48be": 3, "rgba64be": 4,
}  # fmt: skip


def is_plain_png(chunks: Sequence[PngChunk]) -> bool:
    """Whether FFmpeg reads this PNG: full bytes per sample, no palette, no transparent colour."""
    width, height, depth, colour_type, _ = _header(chunks)
    return (
        depth >= 8
        and colour_type != 3
        and width * height <= _FFMPEG_MAX_PIXELS
        and all(chunk.name != b"tRNS" for chunk in chunks)
    )


def decode_plain_png(data: bytes, chunks: Sequence[PngChunk]) -> npt.NDArray[Any]:
    """The pixels of a PNG that :func:`is_plain_png`.

    Args:
        data: The file.
        chunks: Its chunks, checksums compared.

    Returns:
        ``[H, W, C]`` as stored: C of 1, 2 (gray with alpha), 3 or 4; uint8, or big-endian uint16.

    Raises:
        BrokenMediaError: It is truncated or damaged.
    """
    import av

    stored = _inflated(chunks)
    decoder = av.VideoCodecContext.create("png", "r")
    try:
        frame = [*decoder.decode(av.Packet(data if stored is None else stored)), *decoder.decode(None)][0]
    except (av.FFmpegError, IndexError) as error:
        raise BrokenMediaError(f"it is truncated or damaged ({error})") from error
    channels = _STORED_CHANNELS[frame.format.name]
    dtype = np.dtype(">u2" if frame.format.name.endswith("be") else np.uint8)
    plane = frame.planes[0]
    pixels: npt.NDArray[Any] = np.ndarray(
        (frame.height, frame.width, channels),
        dtype,
        memoryview(plane),
        strides=(plane.line_size, dtype.itemsize * channels, dtype.itemsize),
    )
    # Where the compressed data ends early, FFmpeg reports no error and leaves the missing rows zero. A last
    # row with other values proves that the data is complete; else the stream is inflated to find out.
    is_interlaced = _header(chunks)[4]
    if stored is None and (is_interlaced or not pixels[-1].any()):
        check_png_stream(chunks)
    return pixels


def check_png_stream(chunks: Sequence[PngChunk]) -> None:
    """Inflate the image data for its completeness alone. Raises BrokenMediaError."""
    inflate = zlib.decompressobj()
    try:
        for chunk in chunks:
            if chunk.name == b"IDAT":
                rest: bytes | memoryview = chunk.payload
                while rest and not inflate.eof:
                    inflate.decompress(rest, 1 << 20)
                    rest = inflate.unconsumed_tail
        complete = inflate.eof
    except zlib.error as error:
        raise BrokenMediaError(f"its compressed data is damaged ({error})") from error
    if not complete:
        raise BrokenMediaError("its compressed data ends early")


def _header(chunks: Sequence[PngChunk]) -> tuple[int, int, int, int, bool]:
    """Width, height, depth, colour type, and whether it is interlaced."""
    width, height, depth, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0].payload[:13])
    return width, height, depth, colour_type, interlace != 0


def _inflated(chunks: Sequence[PngChunk]) -> bytes | None:
    """The same PNG with its image data stored uncompressed; None where isal can't inflate it in one go."""
    width, height, depth, colour_type, is_interlaced = _header(chunks)
    size = height * (1 + width * _CHANNELS_BY_COLOUR_TYPE[colour_type] * (depth // 8))
    if isal_zlib is None or is_interlaced or size > _MOST_INFLATED_AHEAD:
        return None
    deflated = b"".join(chunk.payload for chunk in chunks if chunk.name == b"IDAT")
    inflate = isal_zlib.decompressobj()
    try:
        # One byte more than needed: without it, the checksum after the last row would not be compared.
        rows = inflate.decompress(deflated, size + 1)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # isal's stubs take the class for an instance
        raise BrokenMediaError(f"its compressed data is damaged ({error})") from error
    if len(rows) > size:
        # More data than expected: an encoder's oddity, or damage that shows at the end of the stream only.
        check_png_stream(chunks)
    elif len(rows) < size or not inflate.eof:
        raise BrokenMediaError("its compressed data ends early")
    payload = b"".join(_stored(memoryview(rows)[:size]))
    name = b"IDAT"
    checksum = isal_zlib.crc32(payload, isal_zlib.crc32(name))
    return b"".join(
        [
            PNG_SIGNATURE,
            chunks[0].raw,
            struct.pack(">I", len(payload)),
            name,
            payload,
            struct.pack(">I", checksum),
            chunks[-1].raw,
        ]
    )


def _stored(rows: memoryview) -> Iterator[bytes | memoryview]:
    """A zlib stream that holds the rows as they are (RFC 1950 and 1951, 3.2.4)."""
    yield b"\x78\x01"
    for start in range(0, len(rows), _STORED_BLOCK_BYTES):
        block = rows[start : start + _STORED_BLOCK_BYTES]
        is_last = start + len(block) == len(rows)
        yield struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF)
        yield block
    yield struct.pack(">I", isal_zlib.adler32(rows))
