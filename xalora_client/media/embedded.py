"""What PNG, JPEG and WebP files hold beside their pixels: the colour profile and EXIF; and EXIF put into one.

All is read from the container itself, since Pillow refuses a whole file for one large or odd value beside its
pixels. What can't be read counts as absent.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from . import exif as exif_blocks
from .containers import (
    PNG_SIGNATURE,
    BrokenMediaError,
    jpeg_segments,
    png_chunk,
    png_chunks,
    riff_chunks,
)
from .media_types import MediaKind

_READ_TEXTS = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1"})
_PNG_COLOURS = frozenset({b"cICP", b"sRGB", b"gAMA", b"cHRM"})
_MOST_INFLATED = 32 * 1024**2
_APP1, _APP2 = 0xE1, 0xE2
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_ICC = b"ICC_PROFILE\0"
_VP8X_ALPHA, _VP8X_EXIF = 0x10, 0x08


@dataclass(frozen=True)
class Embedded:
    """A file's colour profile, EXIF block (a TIFF structure) and XMP packet; None for what is not there."""

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    @property
    def orientation(self) -> int:
        """EXIF's orientation, 1..8."""
        return exif_blocks.orientation(self.exif, self.xmp)

    @property
    def colour_space(self) -> bytes:
        """The colour space of the profile as ICC writes it, such as ``b"RGB "``; empty without a profile."""
        return self.icc_profile[16:20] if self.icc_profile is not None else b""


def read_embedded(kind: MediaKind, data: bytes) -> Embedded:
    """What a file holds beside its pixels; of one that is cut off, what comes before the cut."""
    reader = _READERS.get(kind)
    return reader(data) if reader is not None else Embedded()


def with_exif(kind: MediaKind | None, data: bytes, block: bytes) -> bytes | None:
    """The same file with this EXIF block, its pixels untouched.

    Returns:
        None where the format has no place for it, or the file has an EXIF block of its own.

    Raises:
        BrokenMediaError: The file is damaged.
    """
    writer = _WRITERS.get(kind) if kind is not None else None
    if kind is None or writer is None or read_embedded(kind, data).exif is not None:
        return None
    return writer(data, block)


def _of_png(data: bytes) -> Embedded:
    profile = exif = raw_exif = xmp = None
    seen: set[bytes] = set()  # only the first of each is inflated, whatever a stranger's file repeats
    colours: dict[bytes, bytes] = {}
    is_gray = False
    with suppress(BrokenMediaError):
        for chunk in png_chunks(data, verify=False):
            if chunk.name == b"IHDR":
                is_gray = bytes(chunk.payload[9:10]) in {b"\0", b"\4"}
            if chunk.name in _PNG_COLOURS:
                colours.setdefault(chunk.name, bytes(chunk.payload[:64]))
            if chunk.name == b"iCCP" and _is_first(b"iCCP", seen):
                profile = _inflated(bytes(chunk.payload).partition(b"\0")[2][1:])
            elif chunk.name == b"eXIf":
                exif = bytes(chunk.payload).removeprefix(exif_blocks.PREFIX)
            elif chunk.name in {b"tEXt", b"zTXt", b"iTXt"}:
                keyword = bytes(chunk.payload[:80]).partition(b"\0")[0]
                if keyword in _READ_TEXTS and not _is_first(keyword, seen):
                    continue
                if keyword == b"XML:com.adobe.xmp":
                    xmp = _png_text(chunk.name, bytes(chunk.payload))
                elif keyword in _READ_TEXTS:
                    raw_exif = _raw_profile(_png_text(chunk.name, bytes(chunk.payload)))
    if colours and (profile is None or b"cICP" in colours):
        # Needs NumPy, which the command line starts without.
        from .colour_tags import profile_of_png

        profile = profile_of_png(colours, is_gray=is_gray) or profile
    return Embedded(profile, exif or raw_exif, xmp)


def _is_first(name: bytes, seen: set[bytes]) -> bool:
    is_first = name not in seen
    seen.add(name)
    return is_first


def _png_text(name: bytes, payload: bytes) -> bytes | None:
    value = payload.partition(b"\0")[2]
    if name == b"tEXt":
        return value
    if name == b"zTXt":
        return _inflated(value[1:])
    is_compressed, text = value[:1] == b"\1", value[2:].partition(b"\0")[2].partition(b"\0")[2]
    return _inflated(text) if is_compressed else text


def _raw_profile(text: bytes | None) -> bytes | None:
    """ImageMagick's text form of a block: a name and a length on lines of their own, then hex digits."""
    if text is None:
        return None
    try:
        block = bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except ValueError:
        return None
    return block.removeprefix(exif_blocks.PREFIX)


def _inflated(data: bytes) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(data, _MOST_INFLATED)
    except zlib.error:
        return None
    return content if inflate.eof else None


def _of_jpeg(data: bytes) -> Embedded:
    exif = xmp = None
    profile_parts: dict[int, bytes] = {}
    with suppress(BrokenMediaError):
        for segment in jpeg_segments(data, header_only=True):
            payload = bytes(segment.payload)
            if segment.marker == _APP1 and payload.startswith(exif_blocks.PREFIX) and exif is None:
                exif = payload.removeprefix(exif_blocks.PREFIX)
            elif segment.marker == _APP1 and payload.startswith(_JPEG_XMP):
                xmp = payload.removeprefix(_JPEG_XMP)
            elif segment.marker == _APP2 and payload.startswith(_JPEG_ICC) and len(payload) > 14:
                profile_parts[payload[12]] = payload[14:]
    profile = b"".join(part for _, part in sorted(profile_parts.items()))
    return Embedded(profile or None, exif, xmp)


def _of_webp(data: bytes) -> Embedded:
    found: dict[bytes, bytes] = {}
    with suppress(BrokenMediaError):
        for name, payload in riff_chunks(data):
            if name in {b"ICCP", b"EXIF", b"XMP "}:
                found.setdefault(name, bytes(payload))
    exif = found.get(b"EXIF")
    if exif is not None:
        exif = exif.removeprefix(exif_blocks.PREFIX)
    return Embedded(found.get(b"ICCP"), exif, found.get(b"XMP "))


def _into_png(data: bytes, block: bytes) -> bytes:
    parts: list[bytes | memoryview] = [PNG_SIGNATURE]
    for chunk in png_chunks(data):
        parts.append(chunk.raw)
        if chunk.name == b"IHDR":
            parts.append(png_chunk(b"eXIf", block))
    return b"".join(parts)


def _into_jpeg(data: bytes, block: bytes) -> bytes:
    payload = exif_blocks.PREFIX + block
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def _into_webp(data: bytes, block: bytes) -> bytes:
    chunks = [(name, bytes(payload)) for name, payload in riff_chunks(data)]
    if not chunks or chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _vp8x_of(*chunks[0])))
    flags = chunks[0][1]
    chunks[0] = (b"VP8X", bytes([flags[0] | _VP8X_EXIF]) + flags[1:])
    chunks.append((b"EXIF", block))
    body = b"".join(
        name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
        for name, payload in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _vp8x_of(name: bytes, payload: bytes) -> bytes:
    """The extended header for a WebP file of one simple chunk."""
    if name == b"VP8L" and len(payload) >= 5:
        bits = int.from_bytes(payload[1:5], "little")
        width, height, has_alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    elif name == b"VP8 " and len(payload) >= 10:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", payload, 6))
        has_alpha = False
    else:
        raise BrokenMediaError("the WebP file begins with no image")
    flags = _VP8X_ALPHA if has_alpha else 0
    return bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


_READERS: dict[MediaKind, Callable[[bytes], Embedded]] = {
    MediaKind.PNG: _of_png,
    MediaKind.APNG: _of_png,
    MediaKind.JPEG: _of_jpeg,
    MediaKind.WEBP: _of_webp,
    MediaKind.ANIMATED_WEBP: _of_webp,
}
_WRITERS: dict[MediaKind, Callable[[bytes, bytes], bytes]] = {
    MediaKind.PNG: _into_png,
    MediaKind.APNG: _into_png,
    MediaKind.JPEG: _into_jpeg,
    MediaKind.WEBP: _into_webp,
    MediaKind.ANIMATED_WEBP: _into_webp,
}
