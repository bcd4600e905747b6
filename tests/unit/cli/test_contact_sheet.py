"""The contact sheet, and the photographs that the demo shows."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xalora_client.cli.demo.contact_sheet import (
    HEAD,
    MARGIN,
    MOST_PAIRS,
    PADDING,
    PANEL,
    WIDTH,
    Block,
    Pair,
    Still,
    Strip,
    busiest_place,
    draw_sheet,
)
from xalora_client.cli.demo.photographs import shipped_photographs
from xalora_client.errors import ConfigurationError


def noise(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def doubled(path: Path) -> Path:
    target = path.with_name(f"{path.stem}-2x.png")
    with Image.open(path) as image:
        image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS).save(target)
    return target


def first_card(sheet: Path) -> Image.Image:
    with Image.open(sheet) as image:
        image.load()
        # The header is 116 high, a gap follows.
        top = MARGIN + 116 + 28
        width = (WIDTH - 2 * MARGIN - 28) // 2
        return image.crop((MARGIN, top, MARGIN + width, top + HEAD + PANEL + PADDING))


def occurrences(picture: Image.Image, patch: np.ndarray[Any, Any]) -> int:
    pixels = np.asarray(picture)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, patch.shape)
    return int((windows == patch).all((-3, -2, -1)).sum())


def test_both_crops_show_the_same_piece_at_the_same_scale(tmp_path: Path) -> None:
    before = noise(tmp_path / "noise.png", 400, 300)
    after = doubled(before)
    sheet = tmp_path / "sheet.png"
    draw_sheet(sheet, title="t", subtitle="s", pairs=[Pair("noise", "", before, after, (), (0.25, 0.5))])
    card = first_card(sheet)
    # A patch near the detail, clear of the lens: once as the result's own pixels ...
    result = np.asarray(Image.open(after))
    x, y = round(0.25 * 800) - 100, 300 - 120
    assert occurrences(card, result[y : y + 24, x : x + 24]) == 1
    # ... and once as the original's pixels, each doubled to a square.
    original = np.asarray(Image.open(before))
    piece = original[y // 2 : y // 2 + 12, x // 2 : x // 2 + 12]
    assert occurrences(card, piece.repeat(2, 0).repeat(2, 1)) == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
@pytest.mark.parametrize("size", [(1, 1), (20, 30), (2000, 40), (40, 2000)])
def test_pictures_of_any_kind_and_shape_can_be_drawn(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    before = noise(tmp_path / "odd.png", *size, mode)
    sheet = tmp_path / "sheet.png"
    draw_sheet(
        sheet,
        title="Größe ☃",
        subtitle="s",
        pairs=[Pair("odd ☃", "credit", before, doubled(before), ("one", "two"))],
    )
    with Image.open(sheet) as image:
        assert image.width == WIDTH


def test_the_parts_stand_below_each_other(tmp_path: Path) -> None:
    before = noise(tmp_path / "noise.png", 60, 40)
    pair = Pair("noise", "", before, doubled(before))

    def height(**parts: Any) -> int:
        draw_sheet(tmp_path / "sheet.png", title="t", subtitle="s", **parts)
        with Image.open(tmp_path / "sheet.png") as image:
            return image.height

    one = height(pairs=[pair])
    assert height(pairs=[pair, pair]) == one
    assert height(pairs=[pair, pair, pair]) == one + HEAD + PANEL + PADDING + 28
    still = Still("card", before, "some words " * 20)
    blocks = [Block("miner1", "noise", 0.0, 1.5), Block("miner2", "other", 0.5, 0.5)]
    assert height(pairs=[pair], still=still, blocks=blocks) == one
    frames = np.zeros((6, 48, 84, 3), np.uint8)
    assert height(pairs=[pair], strip=Strip("video", frames, ["0 s"] * 6)) > one
    assert height(pairs=[pair] * (MOST_PAIRS + 4)) == height(pairs=[pair] * MOST_PAIRS)


def test_the_busiest_place_is_found() -> None:
    gray = np.full((300, 400), 128, np.uint8)
    gray[200:240, 300:360] = np.random.default_rng(1).integers(0, 256, (40, 60), np.uint8)
    x, y = busiest_place(gray, (60 / 400, 40 / 300))
    assert x == pytest.approx(330 / 400, abs=0.01)
    assert y == pytest.approx(220 / 300, abs=0.01)


def test_the_shipped_photographs_are_free() -> None:
    skimage_data = pytest.importorskip("skimage.data")
    photographs = shipped_photographs()
    assert len(photographs) >= 4
    for photograph in photographs:
        assert photograph.path.is_file()
        statement = " ".join(getattr(skimage_data, photograph.path.stem).__doc__.split())
        licence = "CC0" if "CC0" in photograph.credit else "public domain"
        assert licence in statement, photograph.path.name


def test_without_photographs_the_demo_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        shipped_photographs()
    assert "pip install scikit-image" in str(caught.value)
