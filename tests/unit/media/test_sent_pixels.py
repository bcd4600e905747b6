"""What leaves the machine is 8-bit RGB or RGBA in sRGB, whatever came in, or nothing."""

from __future__ import annotations

import importlib.util
import io
import struct
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import picture_files as files
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from xalora_client.errors import NOTHING_CHARGED, InputImageError
from xalora_client.media import inputs, png_decode
from xalora_client.media.images import decode_image, decode_images
from xalora_client.media.inputs import prepare_image
from xalora_client.media.media_types import MediaKind
from xalora_client.media.png_encode import encode_png

_skimage = importlib.util.find_spec("skimage")
assert _skimage is not None and _skimage.origin is not None
PHOTOS = Path(_skimage.origin).parent / "data"


@cache
def photo(name: str = "chelsea.png") -> Image.Image:
    with Image.open(PHOTOS / name) as image:
        return Image.fromarray(np.asarray(image.convert("RGB")))


def sent(image: Any) -> Image.Image:
    """What a miner opens."""
    prepared = prepare_image(image)
    opened = Image.open(io.BytesIO(prepared.data))
    opened.load()
    return opened


def as_miner_reads(image: Any) -> npt.NDArray[np.uint8]:
    return np.asarray(sent(image).convert("RGB"))


def off_by(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """The largest difference of two images, in steps of 8 bits."""
    return float(np.abs(one.astype(np.float64) - other).max())


# --- every depth and mode ---------------------------------------------------------------------------------

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
NEAREST = np.round(RAMP / 257).astype(np.uint8)


def tiff16(samples: npt.NDArray[np.uint16]) -> bytes:
    return files.saved(Image.fromarray(samples), "TIFF")


@pytest.mark.parametrize(
    "form",
    [
        Image.fromarray(RAMP),
        Image.fromarray(RAMP.astype(np.int32)),
        files.saved(Image.fromarray(RAMP), "PNG"),
        tiff16(RAMP),
        files.saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    ],
    ids=["pillow", "pillow 32 bit", "png", "tiff", "big-endian tiff"],
)
def test_sixteen_bit_gray_is_no_white(form: Any) -> None:
    assert sent(form).mode == "RGB"
    assert np.array_equal(as_miner_reads(form), np.repeat(NEAREST[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_is_rounded_to_the_nearest(channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (33, 20, channels), dtype=np.uint16)
    data = files.raw_png(samples, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    nearest = np.round(samples / 257).astype(np.uint8)
    expected = nearest[..., {1: [0, 0, 0], 2: [0, 0, 0, 1]}.get(channels, slice(None))]
    assert np.array_equal(np.asarray(sent(data)), expected)


@cache
def forms_of_modes() -> dict[str, tuple[Image.Image, str]]:
    rgba = photo().resize((90, 60))
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    see_through = rgba.convert("RGB").quantize(60)
    see_through.info["transparency"] = 3
    return {
        "1": (rgba.convert("1"), "RGB"),
        "L": (rgba.convert("L"), "RGB"),
        "LA": (rgba.convert("LA"), "RGBA"),
        "La": (rgba.convert("LA").convert("La"), "RGBA"),
        "P": (rgba.convert("RGB").quantize(60), "RGB"),
        "P with a transparent colour": (see_through, "RGBA"),
        "PA": (rgba.convert("RGB").convert("P").convert("PA"), "RGBA"),
        "RGBA": (rgba, "RGBA"),
        "RGBa": (rgba.convert("RGBa"), "RGBA"),
        "RGBX": (rgba.convert("RGB").convert("RGBX"), "RGB"),
        "CMYK": (rgba.convert("RGB").convert("CMYK"), "RGB"),
        "YCbCr": (rgba.convert("RGB").convert("YCbCr"), "RGB"),
        "HSV": (rgba.convert("RGB").convert("HSV"), "RGB"),
    }


@pytest.mark.parametrize("name", forms_of_modes())
def test_every_mode_of_pillow_leaves_as_rgb_or_rgba(name: str) -> None:
    image, mode = forms_of_modes()[name]
    expected = (image.convert("LA") if image.mode == "La" else image).convert(mode)
    given: list[Any] = [image]
    if image.mode in {"1", "L", "LA", "P", "RGB", "RGBA"}:
        given.append(files.saved(image, "PNG"))
    for opened in map(sent, given):
        assert (opened.format, opened.mode) == ("PNG", mode)
        assert np.array_equal(np.asarray(opened), np.asarray(expected))


def test_lab_leaves_as_its_colours() -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(photo(), to_lab)
    assert lab is not None
    assert np.abs(as_miner_reads(lab).astype(int) - np.asarray(photo())).mean() < 2
    assert np.array_equal(as_miner_reads(files.saved(lab, "TIFF")), as_miner_reads(lab))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_leave_as_rgb_or_rgba(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    for array in (pixels, pixels / 255, (pixels / 255).astype(np.float16)):
        assert sent(array).mode == ("RGBA" if channels == 4 else "RGB")
        assert np.array_equal(np.asarray(sent(array)), np.broadcast_to(pixels, (20, 30, max(3, channels))))


@pytest.mark.parametrize("low", [None, -2.0, 100.0])
def test_a_float_tiff_with_a_stated_range(low: float | None) -> None:
    values = np.linspace(low or 0.0, 600.0, 256 * 4, dtype=np.float32).reshape(32, 32)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[341], tags.tagtype[341] = 600.0, 11
    if low is not None:
        tags[340], tags.tagtype[340] = low, 11
    data = files.saved(Image.fromarray(values), "TIFF", tiffinfo=tags)
    expected = (values - (low or 0.0)) / (600.0 - (low or 0.0)) * 255
    assert off_by(as_miner_reads(data)[..., 0], expected) <= 0.51
    with pytest.raises(InputImageError, match="unknown range"):
        prepare_image(files.saved(Image.fromarray(values), "TIFF"))


def test_a_float_tiff_with_the_range_of_imagej() -> None:
    values = np.linspace(-3, 9, 1024, dtype=np.float32).reshape(32, 32)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = "ImageJ=1.54f\nmin=-3.0\nmax=9.0\n"
    data = files.saved(Image.fromarray(values), "TIFF", tiffinfo=tags)
    assert off_by(as_miner_reads(data)[..., 0], (values + 3) / 12 * 255) <= 0.51


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white(dtype: Any) -> None:
    samples = (RAMP >> 8).astype(dtype) if dtype is np.uint8 else RAMP
    top = np.iinfo(dtype).max
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, top - samples, photometric="miniswhite")
    assert off_by(as_miner_reads(buffer.getvalue())[..., 0], samples / top * 255) <= 0.51


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_a_tiff_of_signed_or_32_bit_integers_needs_a_stated_range(dtype: Any) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.full((8, 8), 60, dtype))
    with pytest.raises(InputImageError, match="range is unknown"):
        prepare_image(buffer.getvalue())


# --- colour profiles --------------------------------------------------------------------------------------

PROFILES = {
    "Display-P3": (files.display_p3(), files.srgb_of_p3),
    "Adobe RGB": (files.adobe_rgb(), files.srgb_of_adobe_rgb),
}
# Colours that no display of the other space shows are clipped by both, in another order.
TOLERANCE = 1.5


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG", "pillow", "rotated", "16 bit", "palette"])
def test_a_photograph_of_another_colour_space_is_converted_to_srgb(name: str, form: str) -> None:
    profile, srgb_of = PROFILES[name]
    image = photo("astronaut.png").resize((128, 128))
    given: Any
    if form in {"PNG", "TIFF", "WEBP", "JPEG"}:
        options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {"quality": 98}
        given = files.saved(image, form, icc_profile=profile, **(options if form in {"WEBP", "JPEG"} else {}))
        pixels = np.asarray(Image.open(io.BytesIO(given)))
    elif form == "pillow":
        given = Image.open(io.BytesIO(files.saved(image, "PNG", icc_profile=profile)))
        pixels = np.asarray(image)
    elif form == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        given = files.saved(image, "PNG", icc_profile=profile, exif=exif)
        pixels = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    elif form == "16 bit":
        icc = files.chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))
        given = files.raw_png(np.asarray(image).astype(np.uint16) * 257, 16, 2, icc)
        pixels = np.asarray(image)
    else:
        quantized = image.quantize(100)
        given = files.saved(quantized, "PNG", icc_profile=profile)
        pixels = np.asarray(quantized.convert("RGB"))
    assert off_by(as_miner_reads(given), srgb_of(pixels)) <= TOLERANCE
    assert off_by(as_miner_reads(given), pixels) > 10
    assert not sent(given).info.get("icc_profile")
    if form not in {"pillow", "TIFF"}:
        check_result_of(given)


def check_result_of(data: bytes) -> None:
    """A result of the same bytes is given out in the colours that would be sent of it."""
    right = np.asarray(sent(data))
    for decoded in (decode_image(data), *decode_images([data, data])):
        assert off_by(decoded * 255, right) < 0.01


def test_an_animation_of_another_colour_space_is_given_out_in_srgb() -> None:
    image = photo("astronaut.png").resize((64, 64))
    frames = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    for form in ("WEBP", "PNG"):
        data = files.saved(
            frames[0],
            form,
            save_all=True,
            append_images=frames[1:],
            icc_profile=files.display_p3(),
            **({"lossless": True} if form == "WEBP" else {}),
        )
        decoded = decode_images([data])
        assert len(decoded) == 2
        for one, frame in zip(decoded, frames, strict=True):
            assert off_by(one[..., :3] * 255, files.srgb_of_p3(np.asarray(frame))) <= TOLERANCE


def test_alpha_is_no_colour() -> None:
    rgba = photo().resize((64, 48))
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    given = files.saved(rgba, "PNG", icc_profile=files.display_p3())
    got = np.asarray(sent(given))
    assert np.array_equal(got[..., 3], np.asarray(rgba)[..., 3])
    assert off_by(got[..., :3], files.srgb_of_p3(np.asarray(rgba)[..., :3])) <= TOLERANCE
    check_result_of(given)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "LA"])
def test_gray_with_a_profile_of_its_own(form: str) -> None:
    gray = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(4, axis=0))
    given = gray.convert("LA") if form == "LA" else gray
    data = files.saved(given, "PNG" if form == "LA" else form, icc_profile=files.gray_gamma(1.8))
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    expected = files.encoded((stored / 255) ** 1.8) * 255
    assert off_by(as_miner_reads(data)[..., 0], expected) <= TOLERANCE
    check_result_of(data)


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_cmyk_by_its_profile_and_without_one(format_name: str) -> None:
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    inks = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), axis=-1).reshape(81, 81, 4)
    large = np.ascontiguousarray(inks.repeat(8, axis=0).repeat(8, axis=1))
    cmyk = Image.frombytes("CMYK", large.shape[1::-1], large.tobytes())
    options = {"quality": 100, "subsampling": 0} if format_name == "JPEG" else {}
    data = files.saved(cmyk, format_name, icc_profile=files.cmyk_press(), **options)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    assert off_by(as_miner_reads(data), files.srgb_of_cmyk(stored)) <= 6
    assert np.abs(as_miner_reads(data) - files.srgb_of_cmyk(stored)).mean() < 1
    if format_name == "JPEG":
        assert np.array_equal((decode_image(data) * 255).round(), as_miner_reads(data))
    without = files.saved(cmyk, format_name, **options)
    expected = np.asarray(Image.open(io.BytesIO(without)).convert("RGB"))
    assert np.array_equal(as_miner_reads(without), expected)


def test_a_profile_that_does_not_fit_or_is_damaged_counts_as_none() -> None:
    image = photo().resize((64, 48))
    pixels = np.asarray(image)
    for profile in (files.cmyk_press(3), files.gray_gamma(1.8), files.display_p3()[:200], b"x" * 300):
        assert np.array_equal(as_miner_reads(files.saved(image, "PNG", icc_profile=profile)), pixels)


def test_files_of_srgb_keep_their_compressed_pixels() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format_name in ("PNG", "JPEG"):
        plain = files.saved(photo(), format_name)
        with_profile = prepare_image(files.saved(photo(), format_name, icc_profile=srgb))
        assert with_profile.data == prepare_image(plain).data
        assert with_profile.kind is MediaKind[format_name]
        assert with_profile.given_bytes is None


# --- intact files that Pillow refuses ---------------------------------------------------------------------


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(png_decode, "isal_zlib", None)


@cache
def odd_pngs() -> dict[str, bytes]:
    image = photo().resize((64, 48))
    plain = files.saved(image, "PNG")
    text = b'{"workflow": 1}' * 200_000
    large = files.display_p3() + bytes(3_000_000)
    return {
        "compressed text": files.with_chunks(
            plain, files.chunk(b"zTXt", b"workflow\0\0" + zlib.compress(text))
        ),
        "international text": files.with_chunks(
            plain, files.chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(text))
        ),
        "many texts": files.with_chunks(plain, *[files.chunk(b"tEXt", b"a\0" + text)] * 30),
        "broken compressed text": files.with_chunks(plain, files.chunk(b"zTXt", b"workflow\0\0garbage")),
        "unknown compression of a text": files.with_chunks(plain, files.chunk(b"zTXt", b"workflow\0\7xx")),
        "broken profile": files.with_chunks(plain, files.chunk(b"iCCP", b"icc\0\0garbage")),
        "empty profile": files.with_chunks(plain, files.chunk(b"iCCP", b"")),
        "huge profile": files.with_chunks(plain, files.chunk(b"iCCP", b"icc\0\0" + zlib.compress(large))),
        "odd size in metres": files.with_chunks(plain, files.chunk(b"pHYs", b"\0")),
        "odd time": files.with_chunks(plain, files.chunk(b"tIME", b"\0")),
        "odd gamma": files.with_chunks(plain, files.chunk(b"gAMA", b"\0"), files.chunk(b"cHRM", b"\0")),
        "odd exif": files.with_chunks(plain, files.chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")),
    }


@pytest.mark.parametrize("name", odd_pngs())
def test_odd_things_beside_the_pixels_do_not_matter(name: str, inflater: None) -> None:
    data, pixels = odd_pngs()[name], np.asarray(photo().resize((64, 48)))
    if name == "huge profile":
        pixels = as_miner_reads(files.saved(Image.fromarray(pixels), "PNG", icc_profile=files.display_p3()))
    else:
        assert np.array_equal((decode_image(data) * 255).round(), pixels)
        assert np.array_equal((decode_images([data, data])[1] * 255).round(), pixels)
    assert np.array_equal(as_miner_reads(data), pixels)


def exif_of(*entries: tuple[int, int, int, bytes], order: str = ">") -> bytes:
    """An EXIF block of entries (tag, type, count, value of 4 bytes)."""
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in sorted(entries):
        body += struct.pack(order + "HHI", tag, kind, count) + value
    return (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", 8) + body + bytes(4)


def orientations(order: str) -> dict[str, bytes]:
    """Blocks that say 6, with something odd beside it, or in an odd type."""
    short = struct.pack(order + "HH", 6, 0)
    six = (0x0112, 3, 1, short)
    return {
        "a negative resolution": exif_of(six, (0x011A, 9, 1, struct.pack(order + "i", -5)), order=order),
        "signed bytes": exif_of(six, (0x9999, 6, 4, b"\xff\xfe\xfd\xfc"), order=order),
        "an unknown type": exif_of(six, (0x010F, 99, 1, bytes(4)), order=order),
        "a value outside": exif_of(six, (0x010F, 2, 5000, struct.pack(order + "I", 9000)), order=order),
        "a double and an undefined": exif_of(
            six, (0x0111, 12, 1, bytes(4)), (0x927C, 7, 4, b"abcd"), order=order
        ),
        "as a long": exif_of((0x0112, 4, 1, struct.pack(order + "I", 6)), order=order),
        "as a byte": exif_of((0x0112, 1, 1, b"\6\0\0\0"), order=order),
        "as a signed short": exif_of((0x0112, 8, 1, short), order=order),
    }


@pytest.mark.parametrize("name", orientations(">"))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_only_the_orientation_of_odd_exif_is_of_interest(name: str, order: str, format_name: str) -> None:
    block = orientations(order)[name]
    image = photo().resize((64, 48))
    options: dict[str, Any] = {"lossless": True} if format_name == "WEBP" else {}
    data = files.saved(image, format_name, exif=b"Exif\0\0" + block, **options)
    stored = Image.open(io.BytesIO(files.saved(image, format_name, **options)))
    expected = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(as_miner_reads(data), expected)
    assert np.array_equal((decode_image(data) * 255).round(), expected)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_is_none(value: int) -> None:
    block = exif_of((0x0112, 3, 1, struct.pack(">HH", value, 0)))
    data = files.saved(photo(), "PNG", exif=b"Exif\0\0" + block)
    assert np.array_equal(as_miner_reads(data), np.asarray(photo()))


def test_the_orientation_in_a_text_of_imagemagick_or_in_xmp_counts_too() -> None:
    image = photo().resize((64, 48))
    expected = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    block = b"Exif\0\0" + exif_of((0x0112, 3, 1, struct.pack(">HH", 6, 0)))
    raw = PngImagePlugin.PngInfo()
    raw.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    for text in (raw, xmp):
        assert np.array_equal(as_miner_reads(files.saved(image, "PNG", pnginfo=text)), expected)


def test_what_a_decoder_raises_unforeseen_is_this_images_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class OddError(Exception):
        pass

    def decode(_: object) -> None:
        raise OddError("as nobody foresaw")

    monkeypatch.setattr(inputs, "read_pixels", decode)
    with pytest.raises(InputImageError, match="OddError: as nobody foresaw") as caught:
        prepare_image(files.saved(photo(), "PNG"))
    assert caught.value.money == NOTHING_CHARGED


# --- refused before anything is sent ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("share", ["all", "one"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float, share: str, dtype: Any) -> None:
    array = np.full((16, 20, 3), value if share == "all" else 0.5, dtype)
    array[3, 4, 1] = value
    with pytest.raises(InputImageError, match=r"holds no numbers in (all|1 of 960) values") as caught:
        prepare_image(array)
    assert caught.value.money == NOTHING_CHARGED
    with pytest.raises(InputImageError, match=r"not all numbers|unknown range"):
        prepare_image(Image.fromarray(array[..., 0].astype(np.float32)))


def frames(count: int = 3) -> list[Image.Image]:
    return [photo().crop((place, 0, place + 40, 30)) for place in range(count)]


def animated(format_name: str, **options: Any) -> bytes:
    return files.saved(frames()[0], format_name, save_all=True, append_images=frames()[1:], **options)


@cache
def animations() -> dict[str, tuple[bytes, str]]:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 300_000)
    return {
        "gif": (animated("GIF"), "an animation of 3 frames"),
        "webp": (animated("WEBP"), "an animation of 3 frames"),
        "apng": (animated("PNG"), "an animation of 3 frames"),
        "apng with a workflow before it": (animated("PNG", pnginfo=text), "an animation of 3 frames"),
        "apng with a still before it": (animated("PNG", default_image=True), "an animation of 2 frames"),
        "avif": (animated("AVIF"), "an animation of 3 frames"),
        "tiff": (animated("TIFF"), "a document of 3 pages"),
    }


@pytest.mark.parametrize("name", animations())
def test_several_images_in_one_file_are_refused(name: str) -> None:
    data, words = animations()[name]
    for form in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(InputImageError, match=f"{words}, and a task takes one image") as caught:
            prepare_image(form)
        assert caught.value.money == NOTHING_CHARGED


def test_one_frame_of_an_animation_and_a_photograph_with_a_preview_are_one_image() -> None:
    first, *more = frames()
    animation = Image.open(io.BytesIO(animated("GIF")))
    animation.seek(2)
    assert prepare_image(animation.copy()).width == 40
    # Phones keep a second view behind the photograph (MPO).
    mpo = files.saved(first, "MPO", save_all=True, append_images=more)
    for form in (mpo, Image.open(io.BytesIO(mpo))):
        assert prepare_image(form).width == 40
    assert prepare_image(files.saved(first, "PNG", save_all=True)).width == 40


def tiff_pages(*pages: tuple[Image.Image, int]) -> bytes:
    """A TIFF file of pages, each with its NewSubfileType."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer) as writer:
        for image, kind in pages:
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            tags[254] = kind
            image.save(writer, "TIFF", tiffinfo=tags)
            writer.newFrame()
    return buffer.getvalue()


def test_a_thumbnail_behind_the_page_is_no_second_page() -> None:
    image = photo()
    small = image.resize((45, 30))
    assert prepare_image(tiff_pages((image, 0), (small, 1))).width == 451
    with pytest.raises(InputImageError, match="camera's raw file"):
        prepare_image(tiff_pages((small, 1), (image, 0)))


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(300), "a.exr", "OpenEXR"),
        (b"SDPX" + bytes(2048), "a.dpx", "DPX"),
        (b"XPDS" + bytes(2048), "a.dpx", "DPX"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "a.hdr", "Radiance HDR"),
        (files.saved(Image.new("RGB", (8, 8)), "TGA"), "a.TGA", "TGA"),
        (files.saved(Image.new("RGB", (8, 8)), "TGA"), "unnamed", "TGA"),
        (b"8BPS\0\1" + bytes(300), "a.psd", "Photoshop"),
        (b"%PDF-1.7\n", "a.pdf", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "a.svg", "SVG"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(300), "a.cr2", "raw file"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(300), "a.cr3", "raw file"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(300), "a.raf", "raw file"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(300), "a.mp4", "a video"),
        (b"\xff\x0a" + bytes(300), "a.jxl", "JPEG XL"),
        (b"hello", "notes.txt", "format is unknown"),
    ],
)
def test_a_format_that_is_not_read_gets_words_that_fit_it(
    data: bytes, name: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputImageError, match=words) as caught:
        prepare_image(path)
    assert caught.value.money == NOTHING_CHARGED


def test_heic_and_avif_are_read() -> None:
    import pillow_heif

    image = photo()
    heic = io.BytesIO()
    pillow_heif.from_pillow(image).save(heic, quality=95)
    for data in (heic.getvalue(), files.saved(image, "AVIF", quality=95)):
        assert np.abs(as_miner_reads(data).astype(int) - np.asarray(image)).mean() < 3


def test_heic_of_a_phone_is_upright_and_in_srgb() -> None:
    import pillow_heif

    image = photo("astronaut.png").resize((128, 96))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a phone"
    heic = io.BytesIO()
    pillow_heif.from_pillow(image).save(
        heic, quality=-1, chroma=444, icc_profile=files.display_p3(), exif=exif.tobytes()
    )
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    got = as_miner_reads(heic.getvalue())
    assert got.shape == turned.shape
    assert np.abs(got - files.srgb_of_p3(turned)).mean() < 2
    assert b"a phone" not in prepare_image(heic.getvalue()).data


def test_heic_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200)
    with pytest.raises(InputImageError, match=r"HEIC.*xalora\[heif\]"):
        prepare_image(heic)


# --- transparent colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("depth", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_a_transparent_colour_at_every_depth(depth: int, channels: int, turned: bool, inflater: None) -> None:
    top = (1 << depth) - 1
    samples = np.random.default_rng(2).integers(0, top, (24, 32, channels), endpoint=True)
    colour = samples[0, 0]
    if depth == 16:
        samples[1, 1] = colour ^ 1  # the same in 8 bits
    chunks = [files.chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in colour))]
    if turned:
        chunks.append(files.chunk(b"eXIf", exif_of((0x0112, 3, 1, struct.pack(">HH", 3, 0)))))
    data = files.raw_png(samples, depth, 0 if channels == 1 else 2, *chunks)
    expected = samples[::-1, ::-1] if turned else samples
    for decoded in (decode_image(data), decode_images([data])[0], decode_images([data, data])[1]):
        assert decoded.shape == (24, 32, 4)
        assert np.array_equal(decoded[..., 3] == 0, (expected == colour).all(axis=2))
        assert np.allclose(decoded[..., :3], np.broadcast_to(expected / top, (24, 32, 3)), atol=1e-6)
    assert sent(data).mode == "RGBA"


def test_one_and_several_agree_on_every_file() -> None:
    image = photo().resize((30, 20))
    kinds = [
        files.saved(form.convert(mode), "PNG") for form, mode in [(image, "1"), (image, "L"), (image, "LA")]
    ]
    kinds += [files.saved(image, name) for name in ("JPEG", "WEBP", "GIF")]
    kinds += [encode_png(np.full((20, 30, channels), 300, np.uint16)) for channels in (1, 3, 4)]
    kinds += [files.saved(image.quantize(9), "PNG", transparency=b"\0\x80")]
    for data in kinds:
        assert np.array_equal(decode_image(data), decode_images([data])[0])
