"""The demo's contact sheet: details of photographs before, by LANCZOS and after, and test cards."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ...media.colour import to_srgb_of
from ...media.video import open_video
from ..formats import shortened

BACKGROUND = (20, 22, 26)
TILE = (31, 34, 40)
TEXT = (236, 236, 232)
MUTED = (150, 156, 166)
ACCENT = (240, 176, 72)

COLUMNS = 3
SIDE = 320  # of a tile's picture
CAPTION = 54
MARGIN = 20
GAP = 8
HEADER = 92
MOST_PAIRS = 16

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Pair:
    """A photograph and its upscaled version.

    ``detail`` is the middle of the close-up, as shares of width and height. ``model`` names what made the
    version, ``made_by`` the engine and the miner.
    """

    title: str
    credit: str
    before: Path
    after: Path
    model: str = ""
    made_by: str = ""
    detail: tuple[float, float] = (0.5, 0.5)


def draw_sheet(
    path: Path,
    *,
    title: str,
    subtitle: str,
    pairs: Sequence[Pair],
    image: Path | None = None,
    video: Path | None = None,
) -> None:
    """Draw the sheet and write it as PNG. Blocking; one full-size photograph is held at a time.

    A pixel of a result is a pixel of the sheet: reduced pictures hide what a model has added.

    Args:
        path: An existing file is replaced.
        title: Stands above everything.
        subtitle: Stands below the title, a line or two.
        pairs: The first :data:`MOST_PAIRS` are drawn, a row each; the subtitle counts the rest.
        image: The test card image, if there is one.
        video: The test card video, if there is one; its frames fill the last row.
    """
    shown = pairs[:MOST_PAIRS]
    if len(pairs) > len(shown):
        subtitle += f" {len(pairs) - len(shown)} more are not shown here."
    tiles = [tile for pair in shown for tile in _pair_tiles(pair)]
    if image is not None:
        picture = _opened(image)
        tiles.append(_tile(_whole(picture), "TEST CARD image", _size(picture)))
    if video is not None:
        tiles += _video_tiles(video, -len(tiles) % COLUMNS or COLUMNS)

    rows = -(-len(tiles) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + HEADER + rows * (SIDE + CAPTION + GAP) - GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, TEXT, _font(32))
    draw.multiline_text((MARGIN, MARGIN + 34), textwrap.fill(subtitle, 108), ACCENT, _font(18))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        corner = (MARGIN + column * (SIDE + GAP), MARGIN + HEADER + row * (SIDE + CAPTION + GAP))
        sheet.paste(tile, corner)
    sheet.save(path, "PNG")


def _pair_tiles(pair: Pair) -> list[Image.Image]:
    """The same detail before, enlarged by LANCZOS, and after: all in pixels of the result."""
    before, after = _opened(pair.before), _opened(pair.after)
    size = min(SIDE, after.width), min(SIDE, after.height)
    left, top = (
        min(max(0, round(share * whole - part / 2)), whole - part)
        for share, whole, part in zip(pair.detail, after.size, size, strict=True)
    )
    piece = (left, top, left + size[0], top + size[1])
    across, down = before.width / after.width, before.height / after.height
    source = left * across, top * down, piece[2] * across, piece[3] * down
    scale = f"{after.width / before.width:g}x"
    # NEAREST makes each pixel a square.
    old = before.resize(size, Image.Resampling.NEAREST, box=source)
    lanczos = before.resize(size, Image.Resampling.LANCZOS, box=source)
    return [
        _tile(old, pair.title, pair.credit or _size(before)),
        _tile(lanczos, f"LANCZOS {scale}", "a filter, no model"),
        _tile(after.crop(piece), pair.model, pair.made_by),
    ]


def _video_tiles(path: Path, count: int) -> list[Image.Image]:
    """Frames spread evenly over the video."""
    video = open_video(path)
    tiles = []
    for number in np.linspace(0, video.frame_count - 1, count).round().astype(int).tolist():
        frame = Image.fromarray(np.rint(video.frames(number, number + 1)[0] * 255).astype(np.uint8))
        moment = f"{number / video.fps:.2f} s of {video.frame_count / video.fps:.2f} s"
        tiles.append(_tile(_whole(frame), "TEST CARD video", f"{_size(frame)}, {moment}"))
    return tiles


def _tile(picture: Image.Image, title: str, note: str) -> Image.Image:
    """A picture in the middle of a square, with two lines of text below it."""
    tile = Image.new("RGB", (SIDE, SIDE + CAPTION), TILE)
    tile.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    draw = ImageDraw.Draw(tile)
    draw.text((10, SIDE + 4), shortened(title, 32), TEXT, _font(18))
    draw.text((10, SIDE + 28), shortened(note, 40), MUTED, _font(15))
    return tile


def _whole(picture: Image.Image) -> Image.Image:
    """The picture reduced (or enlarged) to fit a tile."""
    return ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)


def _size(picture: Image.Image) -> str:
    return f"{picture.width} x {picture.height}"


def _opened(path: Path) -> Image.Image:
    """The picture upright and as RGB in sRGB, transparency on the colour of a tile."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        conversion = to_srgb_of(file.info.get("icc_profile"))
        if conversion is not None and conversion.mode == image.mode:
            return conversion.image(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, (*TILE, 255)), image).convert("RGB")
        return image.convert("RGB")


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
