"""PNG files that tell their colours by cICP, gAMA and cHRM, without a profile."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import picture_files as files
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from xalora_client.media.colour import to_srgb_of
from xalora_client.media.colour_tags import profile_of_png
from xalora_client.media.images import decode_image
from xalora_client.media.inputs import prepare_image

STEPS = np.arange(0, 256, 15)
COLOURS = (
    np.stack(np.meshgrid(STEPS, STEPS, STEPS, indexing="ij"), axis=-1).reshape(18, -1, 3).astype(np.uint8)
)
GRAYS = np.arange(256, dtype=np.uint8).reshape(16, 16)

P3_PRIMARIES = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
SRGB_GAMMA = struct.pack(">I", 45455)
LINEAR = struct.pack(">I", 100_000)


def png(pixels: npt.NDArray[Any], chunks: dict[str, bytes], **options: Any) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, payload in chunks.items():
        info.add(name.encode(), payload)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, **options)
    return buffer.getvalue()


def as_sent(data: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(prepare_image(data).data)).convert("RGB")).astype(np.float64)


@pytest.mark.parametrize(
    "chunks",
    [
        {"cICP": bytes([12, 13, 0, 1])},
        {"cHRM": P3_PRIMARIES, "gAMA": SRGB_GAMMA},
        {"cICP": bytes([12, 13, 0, 1]), "sRGB": b"\0", "gAMA": SRGB_GAMMA, "cHRM": SRGB_PRIMARIES},
    ],
    ids=["cICP", "cHRM", "cICP before the others"],
)
def test_display_p3_is_sent_as_srgb(chunks: dict[str, bytes]) -> None:
    assert np.abs(as_sent(png(COLOURS, chunks)) - files.srgb_of_p3(COLOURS).clip(0, 255)).max() < 1.5


def test_cicp_is_believed_before_a_profile() -> None:
    data = png(COLOURS, {"cICP": bytes([1, 13, 0, 1])}, icc_profile=files.display_p3())
    assert np.array_equal(as_sent(data), COLOURS)


def test_linear_light_is_sent_as_srgb() -> None:
    assert np.abs(as_sent(png(COLOURS, {"gAMA": LINEAR})) - files.encoded(COLOURS / 255) * 255).max() < 1.5


def test_gray_with_a_gamma_stays_gray_and_is_converted() -> None:
    sent = as_sent(png(GRAYS, {"gAMA": struct.pack(">I", 55556)}))
    wanted = files.encoded((GRAYS / 255) ** 1.8) * 255
    assert np.ptp(sent, axis=-1).max() == 0
    assert np.abs(sent[..., 0] - wanted).max() < 2


@pytest.mark.parametrize(
    "chunks",
    [
        {"cICP": bytes([1, 13, 0, 1])},
        {"cICP": bytes([9, 16, 0, 1])},  # PQ: brighter than white
        {"cICP": bytes([12, 13, 1, 1])},  # no RGB
        {"cICP": b"\x0c"},
        {"sRGB": b"\0", "gAMA": LINEAR},
        {"gAMA": SRGB_GAMMA, "cHRM": SRGB_PRIMARIES},
        {"gAMA": bytes(4)},
        {"cHRM": bytes(32)},
        {"cHRM": struct.pack(">8I", *[33333] * 8)},
    ],
)
def test_srgb_and_what_can_not_be_understood_stay_as_they_are(chunks: dict[str, bytes]) -> None:
    data = png(COLOURS, chunks)
    assert np.array_equal(as_sent(data), COLOURS)
    assert np.array_equal(np.round(decode_image(data) * 255), COLOURS)


@given(
    st.fixed_dictionaries(
        {},
        optional={name: st.binary(max_size=40) for name in (b"cICP", b"sRGB", b"gAMA", b"cHRM")}
        | {b"cHRM": st.binary(min_size=32, max_size=32)},
    ),
    st.booleans(),
)
def test_damage_is_no_error(chunks: dict[bytes, bytes], is_gray: bool) -> None:
    to_srgb_of(profile_of_png(chunks, is_gray=is_gray))
