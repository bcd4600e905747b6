"""PNG decoding by FFmpeg, which undoes the filters fast but inflates slowly.

Where ``isal`` is installed (extra ``fast``), it inflates two to three times as fast, and FFmpeg gets the same
image with its data stored uncompressed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .containers import PNG_SIGNATURE, BrokenMediaError, PngChunk, png_chunks

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

_FFMPEG_MAX_PIXELS = 1 << 27
_MOST_INFLATED_AHEAD = 256 * 1024**2  # the rows are held twice for it
_STORED_BLOCK_BYTES = 0xFFFF
_PIXEL_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND"})
_CHANNELS_BY_COLOUR_TYPE = {0: 1, 2: 3, 4: 2, 6: 4}
_STORED_CHANNELS = {
    "gray": 1, "ya8": 2, "rgb24": 3, "rgba": 4, "gray16be": 1, "ya16be": 2, "rgb48be": 3, "rgba64be": 4,
}  # fmt: skip


_GRAY, _RGB, _PALETTE = 0, 2, 3
_DEPTHS = {_GRAY: {1, 2, 4, 8, 16}, _RGB: {8, 16}, _PALETTE: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}


class PngHeader(NamedTuple):
    """A PNG's size, bits a sample, colour type and transparency.

    ``transparent`` holds the samples of the colour that is transparent, scaled to 0..255 below 8 bits; a
    palette has alpha values of its own instead, and ``has_alpha`` tells of either, and of an alpha channel.
    """

    width: int
    height: int
    depth: int
    colour_type: int
    is_interlaced: bool
    has_alpha: bool
    transparent: tuple[int, ...] | None

    @property
    def colours(self) -> bytes:
        """The colour space of its samples, as ICC writes it."""
        return b"GRAY" if self.colour_type in {0, 4} else b"RGB "

    @property
    def is_plain(self) -> bool:
        """Whether FFmpeg reads it: full bytes per sample, no palette."""
        return (
            self.depth >= 8
            and self.colour_type != _PALETTE
            and self.width * self.height <= _FFMPEG_MAX_PIXELS
        )


def read_png_header(data: bytes) -> PngHeader:
    """The header of a PNG, which may be cut off behind it. Raises BrokenMediaError."""
    transparency = None
    chunks = png_chunks(data, verify=False)
    first = next(chunks)
    if first.name != b"IHDR" or len(first.payload) < 13:
        raise BrokenMediaError("the PNG file does not begin with its header")
    width, height, depth, colour_type, _, _, interlace = struct.unpack_from(">IIBBBBB", first.payload)
    if depth not in _DEPTHS.get(colour_type, ()) or not width or not height:
        raise BrokenMediaError("the PNG file's header is damaged")
    with suppress(BrokenMediaError):
        for chunk in chunks:
            if chunk.name == b"IDAT":
                break
            if chunk.name == b"tRNS":
                transparency = bytes(chunk.payload)
    transparent = None
    samples = {_GRAY: 1, _RGB: 3}.get(colour_type, 0)
    if transparency is not None and samples and len(transparency) >= 2 * samples:
        top = (1 << depth) - 1
        scale = 255 // top if depth < 8 else 1
        transparent = tuple(
            (value & top) * scale for value in struct.unpack_from(f">{samples}H", transparency)
        )
    is_seen_through = transparent is not None or (colour_type == _PALETTE and transparency is not None)
    return PngHeader(
        width,
        height,
        depth,
        colour_type,
        interlace != 0,
        colour_type in {4, 6} or is_seen_through,
        transparent,
    )


def decode_plain_png(header: PngHeader, chunks: Sequence[PngChunk]) -> npt.NDArray[Any]:
    """The pixels of a PNG that :attr:`PngHeader.is_plain`, without its transparent colour.

    Args:
        header: Its header.
        chunks: Its chunks, checksums compared.

    Returns:
        ``[H, W, C]`` as stored: C of 1, 2 (gray with alpha), 3 or 4; uint8, or big-endian uint16.

    Raises:
        BrokenMediaError: It is truncated or damaged.
    """
    import av

    stored = _inflated(header, chunks)
    # FFmpeg gives up where something beside the pixels is broken, so it sees nothing else.
    data = stored if stored is not None else _only_pixels(chunks)
    decoder = av.VideoCodecContext.create("png", "r")
    try:
        frame = [*decoder.decode(av.Packet(data)), *decoder.decode(None)][0]
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
    if stored is None and (header.is_interlaced or not pixels[-1].any()):
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


def _only_pixels(chunks: Sequence[PngChunk]) -> bytes:
    return b"".join([PNG_SIGNATURE, *(chunk.raw for chunk in chunks if chunk.name in _PIXEL_CHUNKS)])


def _inflated(header: PngHeader, chunks: Sequence[PngChunk]) -> bytes | None:
    """The same PNG with its image data stored uncompressed; None where isal can't inflate it in one go."""
    channels = _CHANNELS_BY_COLOUR_TYPE[header.colour_type]
    size = header.height * (1 + header.width * channels * (header.depth // 8))
    if isal_zlib is None or header.is_interlaced or size > _MOST_INFLATED_AHEAD:
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
