"""Small files that declare, or become, very many pixels, or take very long to decode."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

_MIB = 1 << 20


def png(width: int, height: int, *, extra: bytes = b"", after: bytes = b"", honest: bool = True) -> bytes:
    """A black RGB image; dishonest, its pixels are missing."""
    rows = _deflated(height * (1 + 3 * width)) if honest else zlib.compress(b"\0\0\0\0")
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    end = after + _png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + _png_chunk(b"IDAT", rows) + end


def png_text(mib: int) -> bytes:
    """A chunk of text that inflates to so many MiB."""
    return _png_chunk(b"zTXt", b"Comment\0\0" + _deflated(mib * _MIB))


def gif(width: int, height: int, frames: int) -> bytes:
    """An animation whose frames of one pixel each make the decoder restore the whole canvas."""
    frame = b"\x21\xf9\x04\x09\x01\0\0\0\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0"
    return (
        b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"
    )


def animated_webp(width: int, height: int, frames: int) -> bytes:
    """An animation of 16x16 pixels on a canvas of any size."""
    stored = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(stored, "WEBP", lossless=True)

    def number(value: int) -> bytes:
        return value.to_bytes(3, "little")

    def chunk(name: bytes, payload: bytes) -> bytes:
        return name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)

    place = number(0) + number(0) + number(15) + number(15) + number(40) + b"\0"
    header = chunk(b"VP8X", b"\x02\0\0\0" + number(width - 1) + number(height - 1))
    picture = chunk(b"ANMF", place + stored.getvalue()[12:])
    body = b"WEBP" + header + chunk(b"ANIM", b"\0" * 6) + picture * frames
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: each walks over all of its blocks."""
    stored = io.BytesIO()
    Image.new("L", (side, side), 7).save(stored, "JPEG", quality=1, progressive=True)
    data = stored.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last : data.rindex(b"\xff\xd9")] * scans + b"\xff\xd9"


def mp4_of_samples(samples: int, tracks: int = 1) -> bytes:
    """An MP4 whose tables of a few bytes declare so many frames."""

    def box(name: bytes, *payload: bytes) -> bytes:
        content = b"".join(payload)
        return struct.pack(">I", 8 + len(content)) + name + content

    def full(name: bytes, *payload: bytes) -> bytes:
        return box(name, b"\0\0\0\0", *payload)

    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    entry = b"\0" * 6 + b"\0\1" + b"\0" * 16 + struct.pack(">HH", 64, 64) + b"\0\x48\0\0" * 2 + b"\0" * 4
    entry += b"\0\1" + b"\0" * 32 + b"\0\x18\xff\xff"
    tables = (
        full(b"stsd", struct.pack(">I", 1), box(b"mp4v", entry)),
        full(b"stts", struct.pack(">III", 1, samples, 1)),
        full(b"stsc", struct.pack(">IIII", 1, 1, samples, 1)),
        full(b"stsz", struct.pack(">II", 4, samples)),
        full(b"stco", struct.pack(">II", 1, 40)),
    )
    media = full(b"mdhd", struct.pack(">IIII", 0, 0, 1000, samples), b"\x55\xc4\0\0")
    handler = full(b"hdlr", b"\0\0\0\0vide", b"\0" * 13)
    info = box(b"minf", full(b"vmhd", b"\0" * 8), box(b"stbl", *tables))
    parts = [full(b"mvhd", struct.pack(">IIII", 0, 0, 1000, samples), b"\0" * 80)]
    for number in range(1, tracks + 1):
        head = struct.pack(">IIIII", 0, 0, number, 0, samples) + b"\0" * 16 + matrix
        head += struct.pack(">II", 64 << 16, 64 << 16)
        parts.append(box(b"trak", full(b"tkhd", head), box(b"mdia", media, handler, info)))
    brand = box(b"ftyp", b"isom\0\0\2\0isom")
    return brand + box(b"mdat", b"\0" * 64) + box(b"moov", *parts)


def _png_chunk(name: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(name))
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", checksum)


def _deflated(size: int) -> bytes:
    stream = zlib.compressobj(9)
    zeros = b"\0" * _MIB
    parts = [stream.compress(zeros) for _ in range(size // _MIB)]
    return b"".join([*parts, stream.compress(b"\0" * (size % _MIB)), stream.flush()])
