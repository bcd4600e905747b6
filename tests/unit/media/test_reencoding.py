"""Pictures of results encoded anew."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.features
import pytest
from PIL import Image, ImageCms, features

from xalora_client.errors import ConfigurationError, ResultFormatError
from xalora_client.media.media_types import MediaKind
from xalora_client.media.picture_formats import PictureEncoding, PictureFormat
from xalora_client.media.png_encode import encode_png
from xalora_client.media.reencoding import reencoded

SMOOTH = np.linspace(0, 255, 30 * 50 * 3).reshape(30, 50, 3).astype(np.uint8)
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
EVERY = [
    each if each is not PictureFormat.AVIF else pytest.param(each, marks=NEEDS_AVIF) for each in PictureFormat
]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("wanted", EVERY)
@pytest.mark.parametrize("given", ["png", "jpg", "webp"])
def test_a_picture_keeps_its_looks_in_each_format(tmp_path: Path, given: str, wanted: PictureFormat) -> None:
    picture = tmp_path / f"picture.{given}"
    Image.fromarray(SMOOTH).save(picture, quality=95)
    made = opened(reencoded(picture, PictureEncoding(wanted)).data)
    assert made.size == (50, 30) and made.mode == "RGB"
    assert np.abs(np.asarray(made, np.int16) - SMOOTH).mean() < 3


def test_deep_colours_and_wide_ones_become_8_bits_in_srgb(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    deep.write_bytes(encode_png(SMOOTH.astype(np.uint16) * 257))
    assert np.array_equal(
        np.asarray(opened(reencoded(deep, PictureEncoding(PictureFormat.PNG)).data)), SMOOTH
    )
    gray = tmp_path / "gray.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    Image.fromarray(SMOOTH[..., 0]).save(gray, icc_profile=profile)
    made = opened(reencoded(gray, PictureEncoding(PictureFormat.JPG)).data)
    assert made.mode == "RGB" and "icc_profile" not in made.info


def test_transparency_is_kept_where_the_format_has_it(tmp_path: Path) -> None:
    glass = tmp_path / "glass.png"
    pixels = np.dstack([SMOOTH, np.full((30, 50), 0, np.uint8)])
    Image.fromarray(pixels).save(glass)
    webp = reencoded(glass, PictureEncoding(PictureFormat.WEBP))
    assert opened(webp.data).mode == "RGBA" and not webp.lost_alpha
    jpg = reencoded(glass, PictureEncoding(PictureFormat.JPG))
    assert jpg.lost_alpha and opened(jpg.data).getpixel((4, 4)) == (255, 255, 255)


def test_a_lower_quality_is_a_smaller_file(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(picture)
    sizes = [
        len(reencoded(picture, PictureEncoding(PictureFormat.JPG, quality)).data)
        for quality in (20, None, 100)
    ]
    assert sizes == sorted(sizes) and sizes[0] * 2 < sizes[2]


def test_what_a_format_can_not_hold_or_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (16384, 2)).save(wide)
    with pytest.raises(ResultFormatError, match="WEBP can't hold 16384x2"):
        reencoded(wide, PictureEncoding(PictureFormat.WEBP))
    assert opened(reencoded(wide, PictureEncoding(PictureFormat.JPG)).data).size == (16384, 2)
    wide.write_bytes(wide.read_bytes()[:60])
    with pytest.raises(ResultFormatError):
        reencoded(wide, PictureEncoding(PictureFormat.JPG))


def test_only_a_still_picture_of_another_format_or_quality_is_encoded_anew() -> None:
    jpg, sharp = PictureEncoding(PictureFormat.JPG), PictureEncoding(PictureFormat.JPG, 90)
    assert [kind for kind in MediaKind if jpg.changes(kind)] == [MediaKind.PNG, MediaKind.WEBP]
    assert sharp.changes(MediaKind.JPEG) and not jpg.changes(None)


def test_a_pillow_without_avif_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.features, "check", lambda name: False)
    with pytest.raises(ConfigurationError, match="writes no AVIF"):
        PictureEncoding(PictureFormat.AVIF).check()
    PictureEncoding(PictureFormat.WEBP).check()
