"""Decoding results: every mode and depth, upright, whole or not at all, straight into the batch."""

from __future__ import annotations

import importlib.util
import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from xalora_client.errors import STILL_RETRIEVABLE, ResultFormatError
from xalora_client.media import png_decode
from xalora_client.media.containers import BrokenMediaError
from xalora_client.media.image_files import MAX_PIXELS, read_header
from xalora_client.media.images import decode_image, decode_images
from xalora_client.media.png_encode import encode_png

_skimage = importlib.util.find_spec("skimage")
assert _skimage is not None and _skimage.origin is not None
PHOTOS = Path(_skimage.origin).parent / "data"


def photo(name: str = "chelsea.png") -> Image.Image:
    with Image.open(PHOTOS / name) as image:
        return image.convert("RGB")


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def as_floats(image: Image.Image) -> npt.NDArray[np.float32]:
    """What ComfyUI makes of an 8-bit image."""
    return np.asarray(image).astype(np.float32) / np.float32(255)


def chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def raw_png(pixels: npt.NDArray[Any], *, interlaced: bool = False, keep: float = 1.0) -> bytes:
    """A PNG written by hand; `keep` is how much of its compressed data is there, under correct checksums."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    passes = [pixels]
    if interlaced:
        passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    rows = [row for one_pass in passes if one_pass.size for row in one_pass]
    raw = b"".join(b"\0" + row.astype(f">u{pixels.dtype.itemsize}").tobytes() for row in rows)
    compressed = zlib.compress(raw)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    idat = chunk(b"IDAT", compressed[: int(len(compressed) * keep)])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of inflating a PNG: with ISA-L ahead of FFmpeg, and by FFmpeg."""
    if request.param == "zlib":
        monkeypatch.setattr(png_decode, "isal_zlib", None)
    else:
        assert png_decode.isal_zlib is not None, "the extra `fast` is needed here"
    return str(request.param)


# --- modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["astronaut.png", "rocket.jpg", "retina.jpg", "motorcycle_left.png"])
def test_photographs_decode_as_comfyui_does_and_to_srgb(name: str) -> None:
    decoded = decode_image(PHOTOS / name)
    assert decoded.dtype == np.float32
    image = photo(name)
    if name == "rocket.jpg":  # in Adobe RGB, which ComfyUI takes for sRGB
        with Image.open(PHOTOS / name) as stored:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(stored.info["icc_profile"]))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))
        assert converted is not None
        image = converted
    assert np.array_equal(decoded, as_floats(image))
    assert np.array_equal(decode_image((PHOTOS / name).read_bytes()), decoded)


def test_gray_becomes_three_equal_channels() -> None:
    gray = photo().convert("L")
    for data in (saved(gray, "PNG"), saved(gray, "JPEG", quality=100)):
        decoded = decode_image(data)
        assert decoded.shape == (*gray.size[::-1], 3)
        assert np.array_equal(decoded[..., 0], decoded[..., 1])
        assert np.array_equal(decoded[..., 0], decoded[..., 2])
    assert np.array_equal(decode_image(saved(gray, "PNG"))[..., 0], as_floats(gray))


def test_one_bit_is_black_and_white() -> None:
    decoded = decode_image(saved(Image.fromarray(np.eye(9, dtype=bool)), "PNG"))
    assert np.array_equal(decoded[..., 1], np.eye(9, dtype=np.float32))


def test_alpha_is_kept() -> None:
    rgba = photo().copy()
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    for data in (saved(rgba, "PNG"), saved(rgba, "WEBP", lossless=True, exact=True)):
        assert np.array_equal(decode_image(data), as_floats(rgba))
    gray_alpha = rgba.convert("LA")
    assert np.array_equal(decode_image(saved(gray_alpha, "PNG")), as_floats(gray_alpha.convert("RGBA")))


def test_palettes_with_and_without_transparency() -> None:
    palette = photo().quantize(64)
    assert np.array_equal(decode_image(saved(palette, "PNG")), as_floats(palette.convert("RGB")))
    transparent = decode_image(saved(palette, "PNG", transparency=3))
    assert transparent.shape[2] == 4
    assert np.array_equal(transparent[..., 3] == 0, np.asarray(palette) == 3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_becomes_alpha(mode: str) -> None:
    image = Image.new(mode, (4, 2), "white")
    image.putpixel((1, 1), 0 if mode == "L" else (1, 2, 3))
    decoded = decode_image(saved(image, "PNG", transparency=0 if mode == "L" else (1, 2, 3)))
    assert decoded[..., 3].tolist() == [[1, 1, 1, 1], [1, 0, 1, 1]]


def test_cmyk_jpeg_becomes_rgb() -> None:
    cmyk = photo().convert("CMYK")
    data = saved(cmyk, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        assert np.array_equal(decode_image(data), as_floats(image.convert("RGB")))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (40, 31), (31, 40), (3, 200), (300, 260)])
def test_every_png_keeps_its_depth(
    shape: tuple[int, int],
    dtype: type[np.unsignedinteger[Any]],
    channels: int,
    interlaced: bool,
    inflater: str,
) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (*shape, channels), dtype=dtype, endpoint=True)
    expected = pixels.astype(np.float32) / np.float32(top)
    if channels <= 2:
        expected = expected[..., [0, 0, 0] if channels == 1 else [0, 0, 0, 1]]
    assert np.array_equal(decode_image(raw_png(pixels, interlaced=interlaced)), expected)


def test_webp_lossy_lossless_and_animated() -> None:
    image = photo()
    assert np.array_equal(decode_image(saved(image, "WEBP", lossless=True)), as_floats(image))
    lossy = saved(image, "WEBP", quality=80)
    with Image.open(io.BytesIO(lossy)) as reference:
        assert np.array_equal(decode_image(lossy), as_floats(reference))
    second = Image.new("RGB", image.size)
    animated = saved(image, "WEBP", save_all=True, append_images=[second], duration=50, lossless=True)
    assert np.array_equal(decode_image(animated), as_floats(image))


# --- orientation ------------------------------------------------------------------------------------------


def size_of(data: bytes) -> tuple[int, int]:
    header = read_header(data)
    return header.width, header.height


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photo().crop((0, 0, 61, 40))
    for data in (saved(image, "JPEG", exif=exif), saved(image, "PNG", exif=exif)):
        with Image.open(io.BytesIO(data)) as reference:
            upright = ImageOps.exif_transpose(reference)
        assert np.array_equal(decode_image(data), as_floats(upright))
        assert size_of(data) == upright.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_at_sixteen_bits(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight_bits = np.asarray(photo().crop((0, 0, 61, 40)))
    plain = encode_png(eight_bits.astype(np.uint16) * 257)
    header_end = 8 + 25
    rotated = plain[:header_end] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[header_end:]
    same_in_8_bits = saved(Image.fromarray(eight_bits), "PNG", exif=exif)
    assert np.allclose(decode_image(rotated), decode_image(same_in_8_bits), atol=1e-7)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_passed_over() -> None:
    data = saved(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decode_image(data).shape == (300, 451, 3)


# --- batches ----------------------------------------------------------------------------------------------


def test_a_batch_holds_each_image_in_its_place() -> None:
    images = [photo().rotate(90 * turn).resize((120, 80)) for turn in range(4)]
    batch = decode_images([saved(image, "PNG") for image in images])
    assert batch.shape == (4, 80, 120, 3)
    for decoded, image in zip(batch, images, strict=True):
        assert np.array_equal(decoded, as_floats(image))


def test_other_sizes_are_brought_to_the_first_ones() -> None:
    small, large = photo("coffee.png").resize((90, 60)), photo("astronaut.png")
    gray16 = np.full((7, 5, 1), 0x8080, np.uint16)
    batch = decode_images([saved(small, "PNG"), saved(large, "JPEG", quality=100), encode_png(gray16)])
    assert batch.shape == (3, 60, 90, 3)
    assert np.array_equal(batch[0], as_floats(small))
    with Image.open(io.BytesIO(saved(large, "JPEG", quality=100))) as reference:
        assert np.array_equal(batch[1], as_floats(reference.resize((90, 60), Image.Resampling.LANCZOS)))
    assert np.allclose(batch[2], 0x80 / 255)


def test_one_image_with_alpha_gives_all_of_them_alpha() -> None:
    plain = photo().resize((30, 20))
    transparent = plain.copy()
    transparent.putalpha(7)
    gray = plain.convert("L")
    batch = decode_images([saved(plain, "PNG"), saved(transparent, "PNG"), saved(gray, "PNG")])
    assert batch.shape == (3, 20, 30, 4)
    assert np.array_equal(batch[0], as_floats(plain.convert("RGBA")))
    assert np.array_equal(batch[1], as_floats(transparent))
    assert np.array_equal(batch[2], as_floats(gray.convert("RGBA")))


def test_the_pixels_are_decoded_into_the_batch_itself() -> None:
    data = saved(photo("retina.jpg"), "JPEG")
    decode_images([data])
    tracemalloc.start()
    try:
        batch = decode_images([data, data])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.05 * batch.nbytes


def test_an_empty_batch_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        decode_images([])


# --- broken files -----------------------------------------------------------------------------------------

WHOLE = {
    "png": saved(photo(), "PNG"),
    "png16": encode_png(np.asarray(photo()).astype(np.uint16) * 257),
    "jpeg": saved(photo(), "JPEG"),
    "progressive jpeg": saved(photo(), "JPEG", progressive=True),
    "webp": saved(photo(), "WEBP"),
    "lossless webp": saved(photo(), "WEBP", lossless=True),
    "gif": saved(photo(), "GIF"),
}


@pytest.fixture(params=[False, True], ids=["by itself", "beside packs that tolerate truncation"])
def tolerant_pillow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Many ComfyUI packs switch this on for the whole process; no result may become half an image by it."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)
    return bool(request.param)


@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_is_never_half_an_image(name: str, tolerant_pillow: bool) -> None:
    data = WHOLE[name]
    assert decode_image(data).shape == (300, 451, 3)
    for length in [*range(0, 64), *range(64, len(data), max(1, len(data) // 40)), len(data) - 1]:
        with pytest.raises(ResultFormatError) as caught:
            decode_image(data[:length])
        assert caught.value.money == STILL_RETRIEVABLE


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bottom", ["colourful", "black"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_missing_rows_under_correct_checksums_are_noticed(
    dtype: type[np.unsignedinteger[Any]], bottom: str, interlaced: bool, tolerant_pillow: bool, inflater: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (60, 60, 3), dtype=dtype)
    if bottom == "black":
        pixels[40:] = 0
    assert decode_image(raw_png(pixels, interlaced=interlaced)).shape == (60, 60, 3)
    with pytest.raises(ResultFormatError):
        decode_image(raw_png(pixels, interlaced=interlaced, keep=0.6))


@pytest.mark.parametrize("place", [2, 1000, 30_000])
def test_damaged_data_under_correct_checksums_is_noticed(place: int, inflater: str) -> None:
    data = raw_png(np.asarray(photo()))
    start = data.index(b"IDAT")
    size = struct.unpack(">I", data[start - 4 : start])[0]
    damaged = bytearray(data[start + 4 : start + 4 + size])
    damaged[place] ^= 0xFF
    with pytest.raises(ResultFormatError):
        decode_image(data[: start - 4] + chunk(b"IDAT", bytes(damaged)) + chunk(b"IEND", b""))


def test_data_after_the_last_row_is_left_alone(inflater: str) -> None:
    pixels = np.asarray(photo())
    data = raw_png(np.concatenate([pixels, pixels[:5]]))
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    data = data[:8] + chunk(b"IHDR", header) + data[33:]
    assert np.array_equal(decode_image(data), as_floats(photo()))


def test_missing_rows_of_a_palette_png_are_noticed(tolerant_pillow: bool) -> None:
    data = saved(photo().quantize(256), "PNG")
    start = data.index(b"IDAT")
    size = struct.unpack(">I", data[start - 4 : start])[0]
    idat = chunk(b"IDAT", data[start + 4 : start + 4 + size // 2])
    with pytest.raises(ResultFormatError):
        decode_image(data[: start - 4] + idat + chunk(b"IEND", b""))


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(WHOLE["png"])
    data[len(data) // 2] ^= 1
    with pytest.raises(ResultFormatError, match="checksum"):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"<html>404</html>", saved(photo(), "BMP"), WHOLE["png"][:8] + bytes(500)]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ResultFormatError):
        decode_image(data)
    with pytest.raises(BrokenMediaError):
        read_header(data)


def test_the_broken_one_of_a_batch_is_named() -> None:
    with pytest.raises(ResultFormatError, match="Image 2 of 3"):
        decode_images([WHOLE["png"], WHOLE["jpeg"][:-2], WHOLE["webp"]])


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        WHOLE["png"][:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(ResultFormatError, match="60000x60000 pixels, more than the 268 million"):
        decode_image(bomb)
    with pytest.raises(BrokenMediaError, match="60000x60000"):
        read_header(bomb)


def test_pillows_own_limit_does_not_refuse_what_is_allowed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    assert decode_image(WHOLE["png"]).shape == (300, 451, 3)
    assert MAX_PIXELS == 16384**2


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_the_size_is_read_from_the_header(name: str) -> None:
    assert size_of(WHOLE[name]) == (451, 300)


def test_the_size_needs_no_pixels() -> None:
    assert size_of(WHOLE["png"][:8000]) == (451, 300)
    assert size_of(WHOLE["jpeg"][:1000]) == (451, 300)
