"""Input images: every form a user may give, and nothing but pixels and their colours leaving the machine."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from xalora_client.errors import NOTHING_CHARGED, InputImageError
from xalora_client.media.images import decode_image
from xalora_client.media.inputs import PreparedImage, is_remote, prepare_image
from xalora_client.media.media_types import MediaKind
from xalora_client.media.png_encode import encode_png

_skimage = importlib.util.find_spec("skimage")
assert _skimage is not None and _skimage.origin is not None
PHOTOS = Path(_skimage.origin).parent / "data"

SECRET = "Rue de la Paix 12, +48.8698, workflow: my secret prompt"
ORIENTATION, MAKE, GPS = 0x0112, 0x010F, 0x8825


def photo(name: str = "chelsea.png") -> Image.Image:
    """A photograph's pixels and nothing else."""
    with Image.open(PHOTOS / name) as image:
        return Image.fromarray(np.asarray(image.convert("RGB")))


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def telling_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[MAKE] = SECRET
    exif.get_ifd(GPS)[1] = "N"
    exif.get_ifd(GPS)[2] = (48.0, 52.0, 10.0)
    return exif


def pixels_of(data: bytes) -> npt.NDArray[Any]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def chunk_names(data: bytes) -> list[bytes]:
    names, position = [], 8
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        names.append(name)
        position += 12 + length
    return names


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_markers(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 2
    while data[position + 1] != 0xDA:
        length = struct.unpack_from(">H", data, position + 2)[0]
        yield data[position + 1], data[position + 4 : position + 2 + length]
        position += 2 + length


# --- nothing but pixels leaves ----------------------------------------------------------------------------


def telling_jpeg(**options: object) -> bytes:
    """A JPEG with everything that cameras, phones and editors put beside the pixels."""
    plain = saved(photo(), "JPEG", quality=90, **options)
    secret = SECRET.encode()
    thumbnail = b"JFIF\0\x01\x02\x00\x00\x01\x00\x01\x04\x04" + (secret + bytes(48))[:48]
    beside = b"".join(
        [
            segment(0xE0, thumbnail),
            segment(0xE0, b"JFXX\0\x10" + secret),
            segment(0xE1, telling_exif().tobytes()),
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + secret),
            segment(0xE2, b"MPF\0" + secret),
            segment(0xED, b"Photoshop 3.0\x008BIM" + secret),
            segment(0xEB, secret),
            segment(0xFE, secret),
        ]
    )
    first_table = plain.index(b"\xff\xdb")
    own_header = plain[2:first_table]
    profile_and_adobe = own_header[own_header.index(b"\xff\xe2") :] if b"\xff\xe2" in own_header else b""
    return (
        b"\xff\xd8"
        + beside
        + profile_and_adobe
        + plain[first_table:]
        + secret
        + b"\xff\xd8"
        + secret
        + b"\xff\xd9"
    )


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_loses_all_but_its_compressed_pixels(progressive: bool) -> None:
    data = telling_jpeg(progressive=progressive)
    prepared = prepare_image(data)
    assert prepared.kind is MediaKind.JPEG
    assert SECRET.encode()[:20] not in prepared.data
    assert prepared.data.endswith(b"\xff\xd9")
    markers = list(jpeg_markers(prepared.data))
    assert [marker for marker, _ in markers if 0xE0 <= marker <= 0xEF or marker == 0xFE] == [0xE0]
    assert markers[0] == (0xE0, b"JFIF\0\x01\x02\x00\x00\x01\x00\x01\x00\x00")
    plain = saved(photo(), "JPEG", quality=90, progressive=progressive)
    assert prepared.data[20:] == plain[20:]
    assert np.array_equal(pixels_of(prepared.data), pixels_of(plain))


def test_comments_between_scans_go_too() -> None:
    plain = saved(photo(), "JPEG", progressive=True)
    second_scan = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    table_before_it = plain.rindex(b"\xff\xc4", 0, second_scan)
    data = plain[:table_before_it] + segment(0xFE, SECRET.encode()) + plain[table_before_it:]
    assert prepare_image(data).data == prepare_image(plain).data


def test_a_jpeg_loses_a_profile_that_says_srgb() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    prepared = prepare_image(telling_jpeg(icc_profile=profile))
    assert prepared.data == prepare_image(telling_jpeg()).data


def telling_png(image: Image.Image, **options: object) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", SECRET)
    text.add_text("prompt", SECRET, zip=True)
    text.add_itxt("XML:com.adobe.xmp", SECRET)
    text.add_itxt("parameters", SECRET, zip=True)
    text.add(b"prVt", SECRET.encode())
    text.add(b"tIME", bytes(7))
    data = saved(image, "PNG", pnginfo=text, exif=telling_exif(), dpi=(72, 72), **options)
    return data + SECRET.encode() + chunk(b"IDAT", SECRET.encode()) + chunk(b"IEND", b"")


def test_a_png_loses_all_but_its_compressed_pixels() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = telling_png(photo(), icc_profile=profile)
    assert {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"pHYs", b"prVt"} <= set(chunk_names(data[:-100]))
    prepared = prepare_image(data)
    assert prepared.kind is MediaKind.PNG
    assert set(chunk_names(prepared.data)) == {b"IHDR", b"IDAT", b"IEND"}
    assert SECRET.encode() not in prepared.data
    assert np.array_equal(pixels_of(prepared.data), pixels_of(data))
    # The compressed pixels are those of the file, byte for byte.
    assert (
        prepared.data[prepared.data.index(b"IDAT") :] == data[data.index(b"IDAT") : data.index(b"IEND") + 8]
    )


def test_a_palette_png_leaves_as_its_colours_and_transparency() -> None:
    palette = photo().quantize(200)
    data = telling_png(palette, transparency=5)
    prepared = prepare_image(data)
    assert set(chunk_names(prepared.data)) == {b"IHDR", b"IDAT", b"IEND"}
    assert np.array_equal(decode_image(prepared.data), decode_image(data))
    assert np.array_equal(pixels_of(prepared.data)[..., 3] == 0, np.asarray(palette) == 5)


@pytest.mark.parametrize("format_name", ["WEBP", "TIFF"])
def test_other_formats_become_a_png_without_metadata(format_name: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, Any] = {"lossless": True, "xmp": SECRET.encode()} if format_name == "WEBP" else {}
    data = saved(photo(), format_name, exif=telling_exif(), icc_profile=profile, **options)
    prepared = prepare_image(data)
    assert prepared.kind is MediaKind.PNG
    assert np.array_equal(pixels_of(prepared.data), np.asarray(photo()))
    assert set(chunk_names(prepared.data)) == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_rotation_is_applied_before_the_tag_is_dropped(format_name: str, orientation: int) -> None:
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = saved(photo(), format_name, exif=telling_exif(orientation), **options)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    prepared = prepare_image(data)
    assert (prepared.width, prepared.height) == upright.size
    assert np.array_equal(pixels_of(prepared.data), np.asarray(upright))
    assert SECRET.encode()[:20] not in prepared.data
    assert prepared.pixel_digest == prepare_image(np.asarray(upright)).pixel_digest


def test_a_pillow_image_is_turned_upright_and_keeps_no_metadata() -> None:
    data = saved(photo(), "JPEG", exif=telling_exif(6))
    with Image.open(io.BytesIO(data)) as image:
        prepared = prepare_image(image)
    assert (prepared.width, prepared.height) == photo().size[::-1]
    assert set(chunk_names(prepared.data)) == {b"IHDR", b"IDAT", b"IEND"}
    assert prepared.pixel_digest == prepare_image(data).pixel_digest


# --- every form, the same pixels --------------------------------------------------------------------------


def test_the_same_pixels_have_one_digest_whatever_their_form(tmp_path: Path) -> None:
    image = photo("astronaut.png")
    pixels = np.asarray(image)
    path = tmp_path / "astronaut.png"
    image.save(path)
    forms: dict[str, Any] = {
        "path": path,
        "path as str": str(path),
        "bytes": path.read_bytes(),
        "another compression": saved(image, "PNG", compress_level=0),
        "bmp": saved(image, "BMP"),
        "lossless webp": saved(image, "WEBP", lossless=True),
        "pillow": image,
        "uint8": pixels,
        "float32": (pixels / 255).astype(np.float32),
        "float64": pixels / 255,
        "batch of one": pixels[np.newaxis],
        "not contiguous": np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0),
        "memoryview of a file": memoryview(path.read_bytes()),
    }
    prepared = {name: prepare_image(form) for name, form in forms.items()}
    assert {image.pixel_digest for image in prepared.values()} == {prepared["path"].pixel_digest}
    for name, image in prepared.items():
        assert (image.kind, image.width, image.height) == (MediaKind.PNG, 512, 512), name
        assert np.array_equal(pixels_of(image.data), pixels), name


def test_gray_has_the_digest_of_its_three_channels() -> None:
    gray = photo().convert("L")
    pixels = np.asarray(gray)
    forms: list[Any] = [gray, pixels, pixels[..., None], pixels[None, ..., None], saved(gray, "PNG")]
    forms += [gray.convert("RGB"), np.repeat(pixels[..., None], 3, axis=2)]
    assert len({prepare_image(form).pixel_digest for form in forms}) == 1


@pytest.mark.parametrize("format_name", ["WEBP", "GIF", "PNG"])
def test_an_animation_is_refused_rather_than_cut_to_its_first_frame(format_name: str) -> None:
    frames = [photo().crop((place, 0, place + 40, 30)) for place in range(3)]
    data = saved(frames[0], format_name, save_all=True, append_images=frames[1:])
    with pytest.raises(InputImageError, match="an animation of 3 frames, and a task takes one image"):
        prepare_image(data)
    prepare_image(saved(frames[0], format_name))


def test_different_pixels_and_shapes_have_different_digests() -> None:
    pixels = np.asarray(photo()).copy()
    one_off = pixels.copy()
    one_off[17, 4, 1] ^= 1
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    reshaped = pixels.reshape(pixels.shape[1], pixels.shape[0], 3)
    digests = [prepare_image(form).pixel_digest for form in (pixels, one_off, opaque, reshaped)]
    assert len(set(digests)) == 4
    deep = encode_png(pixels.astype(np.uint16) * 257)
    assert prepare_image(deep).pixel_digest == digests[0]


def test_a_jpeg_counts_by_what_it_decodes_to() -> None:
    data = saved(photo(), "JPEG")
    assert prepare_image(data).pixel_digest == prepare_image(pixels_of(data)).pixel_digest


def test_alpha_and_palette_and_one_bit_of_pillow() -> None:
    rgba = photo().copy()
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    assert np.array_equal(pixels_of(prepare_image(rgba).data), np.asarray(rgba))
    for mode in ("LA", "P", "1", "CMYK", "YCbCr", "HSV"):
        image = rgba.convert(mode)
        expected = image.convert("RGBA" if mode in ("LA", "P") else "RGB")
        assert np.array_equal(
            decode_image(prepare_image(image).data), np.asarray(expected).astype(np.float32) / np.float32(255)
        ), mode


def test_a_32_bit_image_of_8_bit_values_is_as_bright_as_it_was() -> None:
    gray = photo().convert("L")
    assert np.array_equal(
        pixels_of(prepare_image(gray.convert("I")).data), pixels_of(prepare_image(gray).data)
    )


class Tensor:
    """What of a torch tensor is used here: it may be on a GPU, want gradients, have a type numpy lacks."""

    def __init__(self, values: npt.NDArray[Any], dtype: str, steps: tuple[str, ...] = ()) -> None:
        self.values, self.dtype, self.steps = values, dtype, steps

    def detach(self) -> Tensor:
        return Tensor(self.values, self.dtype, (*self.steps, "detach"))

    def cpu(self) -> Tensor:
        return Tensor(self.values, self.dtype, (*self.steps, "cpu"))

    def float(self) -> Tensor:
        return Tensor(self.values, "torch.float32", (*self.steps, "float"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if self.dtype == "torch.bfloat16" or self.steps[:2] != ("detach", "cpu"):
            raise TypeError("can't convert this tensor to numpy")
        return self.values


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_tensors_are_taken_off_their_device(dtype: str) -> None:
    pixels = np.asarray(photo())
    tensor: Any = Tensor((pixels[None] / 255).astype(np.float32), dtype)
    assert prepare_image(tensor).pixel_digest == prepare_image(pixels).pixel_digest


def test_the_image_stays_out_of_the_repr() -> None:
    prepared = prepare_image(photo())
    assert repr(prepared) == f"PreparedImage(PNG, 451x300, {len(prepared.data)} bytes)"
    assert isinstance(prepared, PreparedImage)


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), "UpscalerTask.for_batch"),
        (np.zeros((0, 8, 8, 3), np.float32), "batch of 0"),
        (np.zeros((3, 20, 20), np.uint8), "channels first"),
        (np.zeros((20, 20, 2), np.uint8), r"\[20, 20, 2\]"),
        (np.zeros((20,), np.uint8), r"\[20\]"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), "is no image"),
        (np.zeros((0, 20, 3), np.uint8), "no pixels"),
        (np.zeros((8, 8, 3), bool), "type is bool"),
        (np.zeros((8, 8, 3), np.int64), "type is int64"),
        (np.zeros((8, 8, 3), np.uint16), "type is uint16"),
        (np.zeros((8, 8, 3), np.complex64), "type is complex64"),
        (np.full((8, 8, 3), 128.0, np.float32), "divide by 255"),
    ],
)
def test_arrays_that_are_no_image_are_refused_readably(array: npt.NDArray[Any], says: str) -> None:
    with pytest.raises(InputImageError, match=says) as caught:
        prepare_image(array)
    assert caught.value.money == NOTHING_CHARGED
    assert caught.value.next_step


def test_values_a_little_out_of_range_are_clipped() -> None:
    pixels = np.linspace(-0.2, 1.3, 300, dtype=np.float32).reshape(10, 10, 3)
    expected = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    assert np.array_equal(pixels_of(prepare_image(pixels).data), expected)


def test_files_that_are_no_image_are_refused_readably(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    with pytest.raises(InputImageError, match=r"notes\.txt.*unknown"):
        prepare_image(text)
    with pytest.raises(InputImageError, match=r"missing\.png.*No such file"):
        prepare_image(tmp_path / "missing.png")
    with pytest.raises(InputImageError, match="can't be opened"):
        prepare_image(tmp_path)
    with pytest.raises(InputImageError, match="can't be opened"):
        prepare_image("nul\0byte.png")
    with pytest.raises(InputImageError, match="empty"):
        prepare_image(b"")
    with pytest.raises(InputImageError, match="empty path"):
        prepare_image("")
    with pytest.raises(InputImageError, match="a list of 2, and a task takes one image"):
        prepare_image([text, text])  # type: ignore[arg-type]
    with pytest.raises(InputImageError, match="of type dict"):
        prepare_image({"image": 1})  # type: ignore[arg-type]
    with pytest.raises(InputImageError, match="URL"):
        prepare_image("https://example.com/a.png")


# TIFF and BMP have no end marker: with Pillow told to be tolerant, nothing tells that rows are missing.
@pytest.mark.parametrize(
    ("format_name", "tolerant"),
    [(name, False) for name in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")]
    + [(name, True) for name in ("PNG", "JPEG", "WEBP")],
)
def test_truncated_files_are_refused(
    format_name: str, tolerant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    data = saved(photo(), format_name)
    prepare_image(data)
    for share in (0.1, 0.5, 0.95):
        with pytest.raises(InputImageError, match="can't be used"):
            prepare_image(data[: int(len(data) * share)])


def test_decompression_bombs_are_refused_readably() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    png_bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))
    with pytest.raises(InputImageError, match="50000x50000"):
        prepare_image(png_bomb + chunk(b"IEND", b""))
    bmp_bomb = bytearray(saved(Image.new("1", (32, 32)), "BMP"))
    bmp_bomb[18:26] = struct.pack("<ii", 50_000, 50_000)
    with pytest.raises(InputImageError, match="50000x50000"):
        prepare_image(bytes(bmp_bomb))


def test_floats_of_unknown_range_in_pillow_images_are_refused() -> None:
    with pytest.raises(InputImageError, match="unknown range"):
        prepare_image(Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(InputImageError, match="range is unknown"):
        prepare_image(Image.fromarray(np.full((4, 4), 70_000, np.int32)))
    with pytest.raises(InputImageError, match="no pixels"):
        prepare_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("image", "remote"),
    [
        ("https://example.com/a.png", True),
        ("http://127.0.0.1:8000/a.png?x=1", True),
        ("HTTPS://EXAMPLE.COM/A.PNG", True),
        ("data:image/png;base64,AAAA", True),
        ("photo.png", False),
        ("http:photo.png", False),
        ("data:photo.png", False),
        ("//[photo.png", False),
        ("http://[::1/photo.png", True),
        ("/home/me/photo.png", False),
        (r"C:\photos\photo.png", False),
        ("file:///home/me/photo.png", False),
        ("ftp://example.com/a.png", False),
        (Path("http:/x"), False),
        (b"https://example.com/a.png", False),
        (None, False),
    ],
)
def test_urls_are_told_from_paths(image: object, remote: bool) -> None:
    assert is_remote(image) is remote
