"""The PNG encoder against Pillow's decoder: every pixel, whatever the shape, strides, depth or threads."""

from __future__ import annotations

import importlib.util
import io
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from xalora_client.media import png_encode
from xalora_client.media.png_encode import encode_png

_skimage = importlib.util.find_spec("skimage")
assert _skimage is not None and _skimage.origin is not None
PHOTOS = Path(_skimage.origin).parent / "data"


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    """Pillow's reading of a PNG, `[H, W, C]`; all checksums are checked on the way."""
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def photo(name: str) -> npt.NDArray[np.uint8]:
    with Image.open(PHOTOS / name) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(params=["isal", "zlib"])
def deflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to deflate, whichever the machine would take by itself."""
    if request.param == "isal":
        pytest.importorskip("isal")
        monkeypatch.setattr(png_encode, "_deflate", png_encode._deflate_with_isal)
        monkeypatch.setattr(png_encode, "_cost", png_encode._deflated_size_of)
    else:
        monkeypatch.setattr(png_encode, "_deflate", png_encode._deflate_with_zlib)
        monkeypatch.setattr(png_encode, "_cost", png_encode._sum_of)
    return str(request.param)


SHAPES = [
    (1, 1, 1), (1, 1, 3), (1, 1, 4), (1, 7, 3), (7, 1, 3), (2, 2, 3), (3, 1001, 4), (1001, 3, 1),
    (129, 257, 3), (400, 641, 3), (333, 512, 4), (700, 701, 1), (3, 100_001, 3),
]  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_random_pixels_come_back_exactly(shape: tuple[int, int, int], threads: int, deflater: str) -> None:
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(decoded(encode_png(pixels, threads=threads)), pixels)


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"])
def test_photographs_come_back_exactly_from_floats(name: str, deflater: str) -> None:
    pixels = photo(name)
    for dtype in (np.float32, np.float64):
        assert np.array_equal(decoded(encode_png((pixels / 255).astype(dtype))), pixels)


def test_half_precision_is_precise_enough_for_8_bits() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    assert np.array_equal(decoded(encode_png((pixels / 255).astype(np.float16))), pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (300, 256, 3)),
        np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 300, 3)),
        np.add.outer(np.arange(500), np.arange(400)).astype(np.uint8)[..., None].repeat(3, 2),
        np.zeros((300, 300, 3), np.uint8),
        np.full((300, 300, 4), 255, np.uint8),
        (np.indices((300, 300)).sum(0) % 2 * 255).astype(np.uint8)[..., None],
    ],
    ids=["across", "down", "diagonal", "black", "white", "checkerboard"],
)
def test_drawn_pictures_come_back_exactly_and_small(pixels: npt.NDArray[np.uint8], deflater: str) -> None:
    data = encode_png(pixels)
    assert np.array_equal(decoded(data), pixels)
    assert len(data) < pixels.size / 5


def test_every_filter_is_undone_by_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = photo("chelsea.png")
    for kind in (png_encode._NONE, png_encode._SUB, png_encode._UP, png_encode._AVERAGE):
        monkeypatch.setattr(png_encode._RowFilter, "_choose", lambda self, current, above, kind=kind: kind)
        assert np.array_equal(decoded(encode_png(pixels)), pixels)


def test_views_of_any_strides_are_taken() -> None:
    pixels = photo("astronaut.png")
    floats = (pixels / 255).astype(np.float32)
    for view in (pixels[::-1], pixels[:, ::-1], pixels[::2, ::3], pixels.swapaxes(0, 1), pixels[..., ::-1]):
        assert np.array_equal(decoded(encode_png(view)), view)
    channels_first = np.ascontiguousarray(floats.transpose(2, 0, 1))
    assert np.array_equal(decoded(encode_png(channels_first.transpose(1, 2, 0))), pixels)
    big_endian = floats.astype(">f4")
    assert np.array_equal(decoded(encode_png(big_endian)), pixels)
    read_only = floats.copy()
    read_only.flags.writeable = False
    assert np.array_equal(decoded(encode_png(read_only)), pixels)


def test_floats_are_rounded_and_not_truncated() -> None:
    steps = (np.arange(256, dtype=np.float32) / 255)[None, :, None]
    for offset in (-0.499, -0.25, 0.0, 0.25, 0.499):
        assert np.array_equal(decoded(encode_png(steps + np.float32(offset / 255)))[0, :, 0], np.arange(256))


def test_out_of_range_and_missing_values() -> None:
    row = np.array([-1.0, -0.001, 0.5, 1.001, 40.0, np.inf, -np.inf, np.nan], np.float32)
    assert decoded(encode_png(row[None, :, None])).ravel().tolist() == [0, 0, 128, 255, 255, 255, 0, 0]


def test_the_array_is_left_as_it_is() -> None:
    floats = np.array([[[np.nan], [2.0], [-1.0]]], np.float32)
    before = floats.tobytes()
    encode_png(floats)
    assert floats.tobytes() == before


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_come_back_exactly(channels: int) -> None:
    from xalora_client.media.images import read_pixels

    pixels = np.random.default_rng(3).integers(0, 65536, (61, 47, channels), dtype=np.uint16)
    read = read_pixels(encode_png(pixels))
    assert read.maximum == 65535
    assert np.array_equal(read.rows(0, 61), pixels)


def test_a_screenshot_stays_near_a_full_search(deflater: str) -> None:
    screenshot = Image.new("RGB", (800, 600), (245, 245, 248))
    draw = ImageDraw.Draw(screenshot)
    for line in range(30):
        draw.text(
            (40, 20 * line),
            f"line {line}: the quick brown fox jumps over {line * line} lazy dogs" * 2,
            "navy",
        )
    buffer = io.BytesIO()
    screenshot.save(buffer, "PNG", compress_level=4)
    assert len(encode_png(np.asarray(screenshot))) <= 1.5 * len(buffer.getvalue())


def test_a_photograph_stays_near_a_full_search(deflater: str) -> None:
    pixels = photo("astronaut.png")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    assert len(encode_png(pixels)) <= 1.15 * len(buffer.getvalue())


def test_no_second_copy_of_the_floats_is_made() -> None:
    floats = np.random.default_rng(5).random((1500, 1500, 3), np.float32)
    tracemalloc.start()
    try:
        data = encode_png(floats)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The blocks and the file joined from them, and each thread's few rows: noise deflates to its own size.
    assert peak < 2 * len(data) + 8 * 1024**2
    assert peak < floats.nbytes


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((4, 4, 3), np.int32),
        np.zeros((4, 4, 3), bool),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_what_is_no_image_is_refused(array: npt.NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="encode_png needs"):
        encode_png(array)
