"""Pictures as people have them: with colour profiles, odd chunks and tags that no library writes."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float64]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Columns are the primaries in XYZ, adapted to D50.
_SRGB = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
_DISPLAY_P3 = np.array(
    [
        [0.5151187, 0.2919778, 0.1571035],
        [0.2411892, 0.6922441, 0.0665668],
        [-0.0010505, 0.0418791, 0.7840713],
    ]
)
_ADOBE_RGB = np.array(
    [
        [0.6097559, 0.2052401, 0.1492240],
        [0.3111242, 0.6256560, 0.0632197],
        [0.0194811, 0.0608902, 0.7448387],
    ]
)
_D50 = np.array([0.9642, 1.0, 0.8249])
_ADOBE_GAMMA = 563 / 256
INKS = np.array([[0.0, 0.6, 0.9], [0.9, 0.05, 0.5], [1.0, 0.9, 0.05], [0.03, 0.03, 0.03]])
"""What cyan, magenta, yellow and black ink let pass of linear red, green and blue, in the tests' press."""


def saved(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with further chunks behind its header."""
    header_end = len(PNG_SIGNATURE) + 25
    return png[:header_end] + b"".join(chunks) + png[header_end:]


def raw_png(samples: npt.NDArray[Any], depth: int, colour_type: int, *chunks: bytes) -> bytes:
    """A PNG of samples ``[H, W, C]`` at any depth, without filters."""
    height, width, _ = samples.shape
    if depth < 8:
        bits = np.unpackbits(samples.astype(np.uint8), axis=2).reshape(height, width, 8)[..., 8 - depth :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    else:
        rows = [row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in samples]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [PNG_SIGNATURE, chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"".join(parts)


# --- colour -----------------------------------------------------------------------------------------------


def linear(encoded: Floats) -> Floats:
    """Light of sRGB values in 0..1; Display-P3 has the same curve."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((np.abs(encoded) + 0.055) / 1.055) ** 2.4)


def encoded(light: Floats) -> Floats:
    """sRGB values in 0..1 of light, which is clipped."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def srgb_of_p3(pixels: npt.NDArray[np.uint8]) -> Floats:
    """The sRGB values, 0..255, of 8-bit Display-P3 pixels."""
    return encoded(linear(pixels / 255) @ (np.linalg.inv(_SRGB) @ _DISPLAY_P3).T) * 255


def srgb_of_adobe_rgb(pixels: npt.NDArray[np.uint8]) -> Floats:
    """The sRGB values, 0..255, of 8-bit Adobe RGB pixels."""
    return encoded((pixels / 255) ** _ADOBE_GAMMA @ (np.linalg.inv(_SRGB) @ _ADOBE_RGB).T) * 255


def srgb_of_cmyk(pixels: npt.NDArray[np.uint8]) -> Floats:
    """The sRGB values, 0..255, of CMYK on the tests' press."""
    return encoded(_printed(pixels / 255)) * 255


def _printed(inks: Floats) -> Floats:
    light = 1 - inks[..., None] * (1 - INKS)
    product: Floats = light.prod(axis=-2)
    return product


@cache
def display_p3() -> bytes:
    steps = np.round(linear(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return _matrix_profile(_DISPLAY_P3, b"curv\0\0\0\0" + struct.pack(">I", 1024) + steps.tobytes())


def adobe_rgb() -> bytes:
    gamma = struct.pack(">IH", 1, round(_ADOBE_GAMMA * 256))
    return _matrix_profile(_ADOBE_RGB, b"curv\0\0\0\0" + gamma)


def gray_gamma(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(_D50), b"kTRC": curve})


@cache
def cmyk_press(grid: int = 17) -> bytes:
    """A profile of the tests' press: a table of Lab values for ``grid`` steps of each ink."""
    steps = np.linspace(0, 1, grid)
    inks = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), axis=-1)
    xyz = _printed(inks) @ _SRGB.T / _D50
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    coded = lab * [65280 / 100, 256, 256] + [0, 32768, 32768]
    table = np.round(coded).clip(0, 65535).astype(">u2").tobytes()
    straight = np.array([0, 65535], ">u2").tobytes()
    identity = struct.pack(">9i", *(round(65536 * value) for value in np.eye(3).ravel()))
    lut = b"mft2\0\0\0\0" + bytes([4, 3, grid, 0]) + identity + struct.pack(">HH", 2, 2)
    lut += straight * 4 + table + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(_D50), b"A2B0": lut})


def _matrix_profile(primaries: Floats, curve: bytes) -> bytes:
    tags = {b"wtpt": _xyz(_D50)}
    for place, channel in enumerate(b"rgb"):
        tags[bytes([channel]) + b"XYZ"] = _xyz(primaries[:, place])
        tags[bytes([channel]) + b"TRC"] = curve
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def _xyz(value: Floats) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * part) for part in value))


def _profile(kind: bytes, colours: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"A test's profile\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78), **tags}
    tags[b"cprt"] = b"text\0\0\0\0none\0"
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I", start + len(body)) + bytes(4) + b"\x02\x40\0\0" + kind + colours + connection
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return header.ljust(128, b"\0") + table + body
