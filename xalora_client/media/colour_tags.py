"""An ICC profile of the colours that a PNG file tells by cICP, or by gAMA and cHRM (PNG, third edition)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Chromaticities = tuple[
    float, float, float, float, float, float, float, float
]  # white, red, green, blue: x and y

_D65 = (0.3127, 0.3290)
_SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# ITU-T H.273, table 2.
_PRIMARIES: dict[int, Chromaticities] = {
    1: _SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
# The curves of H.273's table 3 as ICC's parameters g, a, b, c, d: (ax + b)^g from d on, cx below. Browsers
# show video's own curve (1, 6, 14, 15) as that of sRGB. PQ and HLG (16, 18) go beyond white and have none.
Curve = tuple[float, float, float, float, float]
_SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_CURVES: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 13, 14, 15), _SRGB_CURVE),
    4: (2.2, 1.0, 0.0, 0.0, 0.0),
    5: (2.8, 1.0, 0.0, 0.0, 0.0),
    8: (1.0, 1.0, 0.0, 0.0, 0.0),
}
_SRGB_GAMMA = 1 / 2.2
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of_png(chunks: Mapping[bytes, bytes], *, is_gray: bool) -> bytes | None:
    """A profile of a PNG file's colours.

    Args:
        chunks: The payloads of ``cICP``, ``sRGB``, ``gAMA`` and ``cHRM``, by name, where the file has them.
        is_gray: Whether the pixels are gray, with or without alpha.

    Returns:
        None where they are sRGB, not told, damaged, or brighter than white (PQ, HLG).
    """
    if (told := chunks.get(b"cICP")) is not None and len(told) == 4:
        primaries, curve = _PRIMARIES.get(told[0]), _CURVES.get(told[1])
        # Matrix 0 is RGB, and 1 the full range: PNG allows nothing else that is in use.
        if primaries is not None and curve is not None and told[2:] == b"\0\1":
            return _profile(primaries, curve, is_gray)
        return None
    if b"sRGB" in chunks:
        return None
    primaries, curve = _chromaticities(chunks.get(b"cHRM")), _gamma_curve(chunks.get(b"gAMA"))
    if primaries is None and curve is None:
        return None
    return _profile(primaries or _SRGB, curve or _SRGB_CURVE, is_gray)


def _chromaticities(payload: bytes | None) -> Chromaticities | None:
    if payload is None or len(payload) != 32:
        return None
    numbers = [value / 100_000 for value in struct.unpack(">8I", payload)]
    white_y, *ys = numbers[1::2]
    # Chromaticities of a triangle around the white; anything else is damage.
    if not all(0 < value < 1 for value in numbers) or white_y < 0.05 or min(ys) < 0.001:
        return None
    return (*numbers,)


def _gamma_curve(payload: bytes | None) -> Curve | None:
    """The curve of a gAMA chunk; None for that of sRGB, which is written as 1/2.2."""
    if payload is None or len(payload) != 4:
        return None
    gamma = int.from_bytes(payload, "big") / 100_000
    if not 0.1 <= gamma <= 10 or abs(gamma - _SRGB_GAMMA) < 0.02:
        return None
    return (1 / gamma, 1.0, 0.0, 0.0, 0.0)


def _profile(primaries: Chromaticities, curve: Curve, is_gray: bool) -> bytes | None:
    """An ICC profile, version 4.2, of a matrix and a curve; of a curve alone for gray."""
    parametric = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(curve)
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(_D50)}
    if is_gray:
        tags[b"kTRC"] = parametric
    else:
        try:
            matrix = _to_d50(primaries)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(matrix).all() or np.abs(matrix).max() > 4:
            return None
        for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
            tags[name + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(column)
            tags[name + b"TRC"] = parametric
    return _packed(b"GRAY" if is_gray else b"RGB ", tags)


def _to_d50(primaries: Chromaticities) -> npt.NDArray[np.float64]:
    """The matrix from linear RGB to XYZ, its white adapted to D50 by Bradford's transform."""
    white, *colours = (
        np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in zip(*[iter(primaries)] * 2, strict=True)
    )
    columns = np.stack(colours, axis=1)
    matrix = columns * np.linalg.solve(columns, white)
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted: npt.NDArray[np.float64] = np.linalg.solve(_BRADFORD, scale[:, None] * (_BRADFORD @ matrix))
    return adapted


def _fixed(numbers: npt.NDArray[np.float64] | tuple[float, ...]) -> bytes:
    """ICC's fixed-point numbers: 16 bits before and 16 behind the point."""
    return struct.pack(f">{len(numbers)}i", *(round(float(number) * 65536) for number in numbers))


def _packed(colours: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    begin = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", begin + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = begin + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x04200000, b"mntr", colours, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(_D50)
    return header.ljust(128, b"\0") + table + body
