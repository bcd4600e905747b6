"""TIFF files of more than 8 bits a sample as input: every form gives the pixels that it shows."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import picture_files as files
import pytest
import tifffile
from PIL import Image, ImageFile

from xalora_client import InputImageError
from xalora_client.media.inputs import prepare_image

HEIGHT, WIDTH = 37, 53
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH] / [[[HEIGHT]], [[WIDTH]]]
RGB = np.stack([COLUMNS, ROWS, (ROWS + COLUMNS) / 2], axis=-1)
"""Colours in 0..1, ``[H, W, 3]``."""

DEEP = (RGB * 65535).astype(np.uint16)
ALPHA = np.full((HEIGHT, WIDTH, 1), 40000, np.uint16)
ZERO_TO_ONE = [(340, "f", 3, (0.0,) * 3, True), (341, "f", 3, (1.0,) * 3, True)]
ROUNDED, HALF_ROUNDED = 0.51, 0.57  # in steps of 8 bits; half floats are coarser themselves


def written(samples: npt.NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **{"photometric": "rgb", **options})
    return buffer.getvalue()


def sent(data: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(prepare_image(data).data)), np.float64)


def off_by(data: bytes, right: npt.NDArray[Any]) -> float:
    """The largest difference between what is sent and ``right``, 0..255."""
    made = sent(data)
    assert made.shape == right.shape
    return float(np.abs(made - right).max())


def raw_tiff(strip: bytes, **tags: int | tuple[int, ...]) -> bytes:
    """A little-endian file of one strip; names of tags as in tifffile."""
    numbers = {tifffile.TIFF.TAGS[name]: value for name, value in tags.items()}
    numbers |= {273: 8, 279: len(strip), 278: HEIGHT, 256: WIDTH, 257: HEIGHT}
    place = 8 + len(strip)
    behind = place + 6 + 12 * len(numbers)
    entries, lists = struct.pack("<H", len(numbers)), b""
    for tag, value in sorted(numbers.items()):
        many = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(many)}L", *many)
        if len(many) > 1:
            packed, lists = struct.pack("<L", behind + len(lists)), lists + packed
        entries += struct.pack("<HHL", tag, 4, len(many)) + packed
    return b"II*\0" + struct.pack("<L", place) + strip + entries + bytes(4) + lists


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float32, np.float64])
def test_every_way_to_store_colours(
    compression: str | None, byteorder: str, planarconfig: str, tile: tuple[int, int] | None, dtype: Any
) -> None:
    samples = DEEP if dtype is np.uint16 else RGB.astype(dtype)
    if planarconfig == "separate":
        samples = np.moveaxis(samples, -1, 0)
    data = written(
        samples,
        compression=compression,
        byteorder=byteorder,
        planarconfig=planarconfig,
        tile=tile,
        rowsperstrip=None if tile else 7,
        extratags=[] if dtype is np.uint16 else ZERO_TO_ONE,
    )
    assert off_by(data, RGB * 255) < (HALF_ROUNDED if dtype is np.float16 else ROUNDED)


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_differences_of_samples(tile: tuple[int, int] | None, byteorder: str) -> None:
    data = written(DEEP, compression="zlib", predictor=True, tile=tile, byteorder=byteorder)
    assert off_by(data, RGB * 255) < ROUNDED


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_differences_of_floats(bits: int) -> None:
    values = RGB.astype(f">f{bits // 8}")
    by_significance = values.reshape(HEIGHT, WIDTH * 3, 1).view(np.uint8).swapaxes(1, 2)
    steps = by_significance.reshape(HEIGHT, -1, 3)
    differences = np.diff(steps, axis=1, prepend=np.zeros((HEIGHT, 1, 3), np.uint8))
    data = raw_tiff(
        zlib.compress(differences.astype(np.uint8).tobytes()),
        BitsPerSample=(bits,) * 3,
        SampleFormat=(3,) * 3,
        SamplesPerPixel=3,
        Compression=8,
        PhotometricInterpretation=2,
        Predictor=3,
        MinSampleValue=(0,) * 3,
        MaxSampleValue=(1,) * 3,
    )
    assert off_by(data, RGB * 255) < (HALF_ROUNDED if bits == 16 else ROUNDED)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate"])
def test_every_compression_of_gray(compression: str) -> None:
    image = Image.fromarray(DEEP[..., 0])
    data = files.saved(image, "TIFF", compression=compression)
    assert off_by(data, np.repeat(RGB[..., :1] * 255, 3, axis=2)) < ROUNDED


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("count", [1, 3])
def test_packed_samples(bits: int, count: int) -> None:
    values = np.round(RGB[..., :count] * (2**bits - 1)).astype(">u2")
    rows = np.unpackbits(values.view(np.uint8).reshape(HEIGHT, WIDTH * count, 2), axis=2)
    data = raw_tiff(
        np.packbits(rows[:, :, 16 - bits :].reshape(HEIGHT, -1), axis=1).tobytes(),
        BitsPerSample=(bits,) * count,
        SamplesPerPixel=count,
        Compression=1,
        PhotometricInterpretation=2 if count == 3 else 1,
    )
    right = np.broadcast_to(RGB[..., :count] * 255, RGB.shape)
    assert off_by(data, right) < ROUNDED + 0.13
    if (bits, count) == (12, 1):
        opened = Image.open(io.BytesIO(data))
        made = np.asarray(Image.open(io.BytesIO(prepare_image(opened).data)), np.float64)
        assert np.abs(made - right).max() < ROUNDED + 0.13


def test_alpha_gray_ink_and_large_files() -> None:
    right = np.concatenate([RGB * 255, ALPHA / 257], axis=2)
    straight = np.concatenate([DEEP, ALPHA], axis=2)
    assert off_by(written(straight, extrasamples=["unassalpha"]), right) < ROUNDED
    premultiplied = np.concatenate([(DEEP * (ALPHA / 65535)).round().astype(np.uint16), ALPHA], axis=2)
    assert off_by(written(premultiplied, extrasamples=["assocalpha"]), right) < ROUNDED + 0.01
    assert off_by(written(straight, extrasamples=["unspecified"]), RGB * 255) < ROUNDED
    gray = np.repeat(RGB[..., :1] * 255, 3, axis=2)
    with_alpha = np.concatenate([DEEP[..., :1], ALPHA], axis=2)
    for photometric, samples in [
        ("minisblack", with_alpha),
        ("miniswhite", np.concatenate([65535 - DEEP[..., :1], ALPHA], axis=2)),
    ]:
        data = written(samples, photometric=photometric, extrasamples=["unassalpha"])
        assert off_by(data, np.concatenate([gray, ALPHA / 257], axis=2)) < ROUNDED
    inks = np.concatenate([65535 - DEEP, np.zeros_like(ALPHA)], axis=2)
    assert off_by(written(inks, photometric="separated"), RGB * 255) < 1.01
    assert off_by(written(DEEP, bigtiff=True), RGB * 255) < ROUNDED


def test_a_profile_and_an_orientation_count() -> None:
    profile = files.display_p3()
    tags = [(34675, "B", len(profile), profile, True), (274, "H", 1, 6, True)]
    right = np.rot90(files.srgb_of_p3((DEEP / 257).round().astype(np.uint8)), -1)
    assert off_by(written(DEEP, extratags=tags), right) < 4
    gray = files.gray_gamma(1.8)
    other = [(34675, "B", len(gray), gray, True)]
    assert off_by(written(DEEP, extratags=other), RGB * 255) < ROUNDED, "it is none of colours"


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (RGB.astype(np.float16), "16-bit floats of unknown range; save it with 16 bits a channel"),
        (RGB.astype(np.float32), "32-bit floats of unknown range; save it with 16 bits a channel"),
        ((RGB * 2**32).astype(np.uint32), "range is unknown; save it with 16 bits a channel"),
        ((RGB * 32767).astype(np.int16), "range is unknown; save it with 16 bits a channel"),
        (np.stack([DEEP, DEEP]), "a document of 2 pages"),
    ],
)
def test_what_has_no_known_pixels_is_refused_with_a_way_out(samples: Any, words: str) -> None:
    with pytest.raises(InputImageError, match=words):
        prepare_image(written(samples))


def test_values_that_are_no_numbers_are_refused() -> None:
    values = RGB.astype(np.float32)
    values[3, 4] = np.nan
    with pytest.raises(InputImageError, match="not all numbers"):
        prepare_image(written(values, extratags=ZERO_TO_ONE))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("is_tolerant", [False, True])
def test_half_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, compression: str | None, is_tolerant: bool
) -> None:
    """Also where another pack has told Pillow to be tolerant."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", is_tolerant)
    data = written(DEEP, compression=compression)
    with pytest.raises(InputImageError):
        prepare_image(data[: len(data) - 2000])


def test_damage_is_an_error_of_the_input_alone() -> None:
    data = written(DEEP, compression="zlib", tile=(16, 32))
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            damaged[place] = generator.integers(0, 256)
        try:
            prepare_image(bytes(damaged))
        except InputImageError:
            continue
