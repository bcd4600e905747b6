"""Pictures written some rows at a time."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from xalora_client.errors import ConfigurationError
from xalora_client.media.exif import credits_block
from xalora_client.media.row_writer import check_rows_format, open_rows


def written(path: Path, pixels: np.ndarray, stops: list[int], exif: bytes | None = None) -> None:
    height, width, channels = pixels.shape
    with path.open("w+b") as file:
        write = open_rows(path, file, width, height, channels, exif)
        for start, stop in pairwise([0, *stops, height]):
            write(pixels[start:stop])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("stops", [[], [1, 2, 64], [99]])
def test_the_pixels_come_back(tmp_path: Path, suffix: str, channels: int, stops: list[int]) -> None:
    draw = np.random.default_rng(channels)
    noise = draw.integers(0, 256, (50, 70, channels), dtype=np.uint8)
    gradient = np.add.outer(np.arange(50), np.arange(70))[..., None].repeat(channels, 2).astype(np.uint8)
    pixels = np.concatenate([noise, gradient])
    path = tmp_path / f"picture{suffix}"
    written(path, pixels, stops)
    with Image.open(path) as image:
        assert image.mode == {3: "RGB", 4: "RGBA"}[channels]
        assert np.array_equal(np.asarray(image), pixels)


def test_a_png_takes_date_and_author(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Ada"
    block = credits_block(exif.tobytes().removeprefix(b"Exif\0\0"))
    assert block is not None
    path = tmp_path / "picture.png"
    written(path, np.zeros((9, 9, 3), np.uint8), [4], block)
    with Image.open(path) as image:
        assert image.getexif()[0x013B] == "Ada"


def test_a_tiff_beyond_4_gb_is_a_bigtiff(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    with path.open("w+b") as file:
        open_rows(path, file, 40_000, 40_000, 3, None)
    with tifffile.TiffFile(path) as opened:
        assert opened.is_bigtiff and opened.pages[0].shape == (40_000, 40_000, 3)
    path.unlink()


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"large.jpg: .*as PNG or TIFF"):
        check_rows_format(tmp_path / "large.jpg")


def test_a_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    check_rows_format(tmp_path / "large.png")
    with pytest.raises(ConfigurationError, match=r"pip install xalora\[tiff\]"):
        check_rows_format(tmp_path / "large.tif")
