"""Parsers for PNG, JPEG, RIFF, GIF, MP4 and WebM containers, which detect truncation and strip metadata.

They decode no pixels. Pillow can't be relied on to detect truncation: inside ComfyUI other packs switch
``LOAD_TRUNCATED_IMAGES`` on for the whole process, and half an image would then pass for a result.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class BrokenMediaError(ValueError):
    """The bytes are not a complete, readable image. The message is a clause about "it"."""


class PngChunk(NamedTuple):
    """One chunk of a PNG file: its four-letter name, its payload, and its bytes in the file."""

    name: bytes
    payload: memoryview
    raw: memoryview


class JpegSegment(NamedTuple):
    """One segment of a JPEG file: its marker byte, its payload, and its bytes in the file.

    For a start of scan ``raw`` includes the entropy-coded data that follows.
    """

    marker: int
    payload: memoryview
    raw: memoryview


def png_chunks(data: bytes, *, verify: bool = True) -> Iterator[PngChunk]:
    """The chunks of a PNG file up to and including IEND; each CRC is checked if ``verify``.

    Raises:
        BrokenMediaError: A chunk is cut off or damaged, or IEND is missing.
    """
    view = memoryview(data)
    if not data.startswith(PNG_SIGNATURE):
        raise BrokenMediaError("the PNG signature is missing")
    position = len(PNG_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise BrokenMediaError("the PNG file is truncated: it ends before its IEND chunk")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise BrokenMediaError(f"the PNG file is truncated in its {name.decode('latin-1')} chunk")
        payload = view[position + 8 : end - 4]
        if verify and zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise BrokenMediaError(f"the PNG file's {name.decode('latin-1')} chunk fails its checksum")
        yield PngChunk(name, payload, view[position:end])
        if name == b"IEND":
            return
        position = end


SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
_MOST_SEGMENTS = 100_000  # and fill bytes; a camera writes some dozens
_STANDALONE = frozenset({0x01, SOI, *range(0xD0, 0xD8)})
# A marker inside entropy-coded data: FF, then neither a stuffed zero, a restart marker, nor fill.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def png_chunk(name: bytes, payload: bytes) -> bytes:
    """The bytes of one chunk of a PNG file."""
    checksum = zlib.crc32(payload, zlib.crc32(name))
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", checksum)


def jpeg_segments(data: bytes, *, header_only: bool = False) -> Iterator[JpegSegment]:
    """The segments of a JPEG file from SOI to EOI; bytes after EOI are ignored.

    Args:
        header_only: End with the first scan, whose segment then holds all the rest unread.

    Raises:
        BrokenMediaError: A segment is cut off, or EOI is missing.
    """
    view = memoryview(data)
    if data[:2] != b"\xff\xd8":
        raise BrokenMediaError("the JPEG start marker is missing")
    yield JpegSegment(SOI, view[2:2], view[:2])
    position = 2
    truncated = "the JPEG file is truncated: it ends before its end marker"
    for _ in range(_MOST_SEGMENTS):
        if position + 2 > len(data):
            raise BrokenMediaError(truncated)
        if data[position] != 0xFF:
            raise BrokenMediaError("the JPEG file is damaged: a marker is missing between its segments")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == EOI:
            yield JpegSegment(EOI, view[position + 2 : position + 2], view[position : position + 2])
            return
        if marker in _STANDALONE:
            position += 2
            continue
        if position + 4 > len(data):
            raise BrokenMediaError(truncated)
        length = struct.unpack_from(">H", data, position + 2)[0]
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise BrokenMediaError(truncated)
        payload = view[position + 4 : end]
        if marker == SOS:
            if header_only:
                yield JpegSegment(marker, payload, view[position:])
                return
            following = _MARKER_AFTER_SCAN.search(data, end)
            if following is None:
                raise BrokenMediaError(truncated)
            end = following.end() - 2
        yield JpegSegment(marker, payload, view[position:end])
        position = end
    raise BrokenMediaError(f"the JPEG file has more than {_MOST_SEGMENTS:,} segments")


def check_riff(data: bytes) -> None:
    """Check that a RIFF file (WebP) is as long as its header declares.

    Raises:
        BrokenMediaError: It is shorter.
    """
    if len(data) < 12 or len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise BrokenMediaError("the WebP file is truncated: it is shorter than its header says")


def webp_durations(data: bytes) -> list[int]:
    """The duration of each frame of an animated WebP, in milliseconds.

    Raises:
        BrokenMediaError: The file is truncated.
    """
    check_riff(data)
    return [
        int.from_bytes(payload[12:15], "little")
        for name, payload in riff_chunks(data)
        if name == b"ANMF" and len(payload) >= 16
    ]


def webp_size(data: bytes) -> tuple[int, int] | None:
    """The width and height that the first chunk of a WebP file declares; None where it declares none."""
    name, start = data[12:16], data[20:30]
    if len(start) < 10:
        return None
    if name == b"VP8X":
        return int.from_bytes(start[4:7], "little") + 1, int.from_bytes(start[7:10], "little") + 1
    if name == b"VP8L":
        bits = int.from_bytes(start[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The name and payload of each chunk of a RIFF file (WebP).

    Raises:
        BrokenMediaError: A chunk is cut off.
    """
    view = memoryview(data)
    position, end = 12, 8 + struct.unpack_from("<I", data, 4)[0] if len(data) >= 8 else 0
    while position + 8 <= end:
        if position + 8 > len(data):
            raise BrokenMediaError("the WebP file is truncated")
        name, size = struct.unpack_from("<4sI", data, position)
        if position + 8 + size > len(data):
            raise BrokenMediaError("the WebP file is truncated")
        yield name, view[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def check_apng(data: bytes) -> None:
    """Check that an animated PNG is whole and holds as many frames as it declares.

    Raises:
        BrokenMediaError: It does not.
    """
    declared = found = 0
    for chunk in png_chunks(data):
        if chunk.name == b"acTL":
            declared = int.from_bytes(chunk.payload[:4], "big")
        found += chunk.name == b"fcTL"
    if found < declared:
        raise BrokenMediaError(f"the PNG file holds {found} of {declared} frames")


def check_gif(data: bytes) -> None:
    """Check that a GIF file ends with its trailer.

    Raises:
        BrokenMediaError: It does not.
    """
    if not data.rstrip(b"\0").endswith(b";"):
        raise BrokenMediaError("the GIF file is truncated: it ends before its trailer")


_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})


def strip_png(data: bytes, *, verify: bool = True) -> bytes:
    """A PNG file reduced to the chunks for its pixels, an animation's too; its colour profile is dropped.

    Raises:
        BrokenMediaError: As :func:`png_chunks`.
    """
    kept = [chunk.raw for chunk in png_chunks(data, verify=verify) if chunk.name in _PNG_PIXELS]
    return b"".join([PNG_SIGNATURE, *kept])


_APP0, _APP14, _APP15, _COMMENT = 0xE0, 0xEE, 0xEF, 0xFE


def strip_jpeg(data: bytes, *, header_only: bool = False) -> bytes:
    """A JPEG file without comments, EXIF, XMP, colour profile, thumbnails and trailing bytes.

    Adobe's colour transform and the compressed pixels stay.

    Args:
        header_only: Leave all behind the start of the first scan as it is, which is faster.

    Raises:
        BrokenMediaError: As :func:`jpeg_segments`.
    """
    parts: list[bytes | memoryview] = []
    for segment in jpeg_segments(data, header_only=header_only):
        if segment.marker == _APP0:
            if bytes(segment.payload[:5]) == b"JFIF\0" and len(segment.payload) >= 14:
                # Version and density, without the thumbnail.
                parts.append(b"\xff\xe0\x00\x10" + bytes(segment.payload[:12]) + b"\0\0")
        elif segment.marker == _APP14:
            if bytes(segment.payload[:5]) == b"Adobe" and len(segment.payload) >= 12:
                parts.append(b"\xff\xee\x00\x0e" + bytes(segment.payload[:12]))
        elif segment.marker != _COMMENT and not _APP0 < segment.marker <= _APP15:
            parts.append(segment.raw)
    return b"".join(parts)


_EBML_SIGNATURE = b"\x1a\x45\xdf\xa3"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"


def check_video_container(file: BinaryIO) -> None:
    """Check that no outermost box of an MP4 or WebM file reaches beyond the end of the file.

    Args:
        file: A seekable binary file; its position is moved.

    Raises:
        BrokenMediaError: One does: the file is truncated.
    """
    size = file.seek(0, 2)
    file.seek(0)
    end = _webm_end(file) if file.read(4) == _EBML_SIGNATURE else _mp4_end(file, size)
    if end is not None and end > size:
        raise BrokenMediaError(f"it is truncated: {size} of at least {end} bytes are there")


def _mp4_end(file: BinaryIO, size: int) -> int:
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # to the end of the file
            return size
        if length < 8:
            raise BrokenMediaError("its MP4 boxes are damaged")
        position += length
    return position


def _webm_end(file: BinaryIO) -> int | None:
    """The offset of the end; None for a recording of open length."""
    file.seek(4)
    header_size = _read_ebml_size(file)
    if header_size is None:
        return None
    file.seek(header_size, 1)
    if file.read(4) != _MATROSKA_SEGMENT:
        raise BrokenMediaError("its WebM segment is missing")
    segment_size = _read_ebml_size(file)
    return None if segment_size is None else file.tell() + segment_size


def _read_ebml_size(file: BinaryIO) -> int | None:
    """An EBML variable-length size: one byte and as many as its leading zeros; None if unknown."""
    first = file.read(1)
    if not first or not first[0]:
        raise BrokenMediaError("its WebM header is damaged or cut off")
    more = 8 - first[0].bit_length()
    value = first[0] & (0x7F >> more)
    value = int.from_bytes(bytes([value]) + file.read(more), "big")
    return None if value == (1 << (7 * (more + 1))) - 1 else value
