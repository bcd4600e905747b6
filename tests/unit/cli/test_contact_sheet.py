"""The demo's contact sheet and photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xalora_client.cli.demo.contact_sheet import (
    CAPTION,
    COLUMNS,
    GAP,
    HEADER,
    MARGIN,
    MOST_PAIRS,
    SIDE,
    Pair,
    draw_sheet,
)
from xalora_client.cli.demo.photographs import FOLDER, SHIPPED, Photograph
from xalora_client.devnet.testcard import render


def noise(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def doubled(path: Path) -> Path:
    target = path.with_name(f"{path.stem}-2x.png")
    with Image.open(path) as image:
        image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS).save(target)
    return target


def first_row(sheet: Path) -> Image.Image:
    with Image.open(sheet) as image:
        image.load()
        top = MARGIN + HEADER
        return image.crop((MARGIN, top, MARGIN + 3 * SIDE + 2 * GAP, top + SIDE))


def occurrences(picture: Image.Image, patch: np.ndarray[Any, Any]) -> int:
    pixels = np.asarray(picture)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, patch.shape)
    return int((windows == patch).all((-3, -2, -1)).sum())


def test_the_details_show_the_same_piece_in_pixels_of_the_result(tmp_path: Path) -> None:
    before = noise(tmp_path / "noise.png", 400, 300)
    after = doubled(before)
    sheet = tmp_path / "sheet.png"
    pair = Pair("noise", "", before, after, "model", "", (0.25, 0.5))
    draw_sheet(sheet, title="t", subtitle="s", pairs=[pair])
    row = first_row(sheet)
    x, y = round(0.25 * 800), round(0.5 * 600)
    # The model's result is LANCZOS here, so it is there twice: as the model's and as LANCZOS.
    result = np.asarray(Image.open(after))[y : y + 12, x : x + 12]
    assert occurrences(row, result) == 2
    # The original's pixels are squares.
    original = np.asarray(Image.open(before))[y // 2 : y // 2 + 6, x // 2 : x // 2 + 6]
    assert occurrences(row, original.repeat(2, 0).repeat(2, 1)) == 1


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
        pairs=[Pair("odd ☃", "credit", before, doubled(before), "made by")],
    )
    with Image.open(sheet) as image:
        assert image.width == 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP


def test_the_tiles_fill_rows_and_the_frames_fill_the_last(tmp_path: Path) -> None:
    before = noise(tmp_path / "noise.png", 60, 40)
    pair = Pair("noise", "", before, doubled(before))
    video = tmp_path / "card.mp4"
    video.write_bytes(render("txt2vid", "1", {"prompt": "a", "length": 5, "width": 64, "height": 64})[0])

    def rows(**parts: Any) -> float:
        draw_sheet(tmp_path / "sheet.png", title="t", subtitle="s", **parts)
        with Image.open(tmp_path / "sheet.png") as image:
            return (image.height - 2 * MARGIN - HEADER + GAP) / (SIDE + CAPTION + GAP)

    assert (rows(pairs=[pair]), rows(pairs=[pair, pair])) == (1, 2)
    assert rows(pairs=[pair], image=before) == rows(pairs=[pair], video=video) == 2
    assert rows(pairs=[pair], image=before, video=video) == 2
    with Image.open(tmp_path / "sheet.png") as image:
        last = image.crop((image.width - MARGIN - SIDE, image.height - MARGIN - CAPTION - SIDE, *image.size))
        assert np.asarray(last.convert("L")).std() > 20
    assert rows(pairs=[pair] * (MOST_PAIRS + 4)) == rows(pairs=[pair] * MOST_PAIRS)


BOXES = {
    "astronaut": ("astronaut", (155, 40, 283, 168)),
    "chelsea": ("chelsea", (75, 0, 375, 300)),
    "coffee": ("coffee", (140, 60, 460, 380)),
    "rocket": ("rocket", (160, 60, 520, 420)),
    "hubble": ("hubble_deep_field", (600, 350, 900, 650)),
}
"""Where in a picture of scikit-image each shipped one is."""


@pytest.mark.parametrize("photograph", SHIPPED, ids=lambda each: each.path.stem)
def test_a_shipped_photograph_is_a_crop_of_a_free_picture(photograph: Photograph) -> None:
    skimage_data = pytest.importorskip("skimage.data")
    name, box = BOXES[photograph.path.stem]
    picture = getattr(skimage_data, name)
    crop = Image.fromarray(picture()).convert("RGB").crop(box).resize((128, 128), Image.Resampling.BOX)
    with Image.open(photograph.path) as shipped:
        np.testing.assert_array_equal(np.asarray(shipped), np.asarray(crop))
    licence = "CC0" if "CC0" in photograph.credit else "public domain"
    assert licence in " ".join(picture.__doc__.split())
    (line,) = (each for each in told().splitlines() if each.startswith(photograph.path.name))
    assert photograph.credit.split(",")[0] in line and licence in line


def told() -> str:
    """The licences that lie beside the pictures."""
    return (FOLDER / "LICENSES.txt").read_text(encoding="utf-8")
