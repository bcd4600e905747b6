"""The demo's contact sheet: a grid of photographs before and after, a test card and frames of a video."""

from __future__ import annotations

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

COLUMNS = 6
SIDE = 320  # of a tile's picture
CAPTION = 84
MARGIN = 44
GAP = 20
HEADER = 124
ZOOM = 2  # of the result's pixels in a close-up
MOST_PAIRS = 16
LEAST_FRAMES = 4

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Pair:
    """A photograph and its upscaled version.

    ``detail`` is the middle of the close-up, as shares of width and height.
    """

    title: str
    credit: str
    before: Path
    after: Path
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

    Args:
        path: An existing file is replaced.
        title: Stands above everything.
        subtitle: Stands below the title.
        pairs: The first :data:`MOST_PAIRS` are drawn, three tiles each; the subtitle counts the rest.
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
        free = -len(tiles) % COLUMNS
        tiles += _video_tiles(video, free if free >= LEAST_FRAMES else free + COLUMNS)

    rows = -(-len(tiles) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + HEADER + rows * (SIDE + CAPTION + GAP) - GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, TEXT, _font(56))
    draw.text((MARGIN, MARGIN + 68), subtitle, ACCENT, _font(28))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        corner = (MARGIN + column * (SIDE + GAP), MARGIN + HEADER + row * (SIDE + CAPTION + GAP))
        sheet.paste(tile, corner)
    sheet.save(path, "PNG")


def _pair_tiles(pair: Pair) -> list[Image.Image]:
    """The whole photograph, and the same piece of it before and after, at the same scale."""
    before, after = _opened(pair.before), _opened(pair.after)
    scale = after.width / before.width
    size = min(SIDE // ZOOM, after.width), min(SIDE // ZOOM, after.height)
    left, top = (
        min(max(0, round(share * whole - part / 2)), whole - part)
        for share, whole, part in zip(pair.detail, after.size, size, strict=True)
    )
    piece = (left, top, left + size[0], top + size[1])
    overview = _whole(before)
    ratio = overview.width / after.width
    ImageDraw.Draw(overview).rectangle([round(edge * ratio) for edge in piece], outline=ACCENT, width=3)
    shown = (size[0] * ZOOM, size[1] * ZOOM)
    old_piece = left / scale, top / scale, (left + size[0]) / scale, (top + size[1]) / scale
    # NEAREST makes each pixel a square.
    old = before.resize(shown, Image.Resampling.NEAREST, box=old_piece)
    new = after.resize(shown, Image.Resampling.NEAREST, box=piece)
    return [
        _tile(overview, pair.title, pair.credit),
        _tile(old, f"before: {_size(before)}", f"each pixel {scale * ZOOM:g}x"),
        _tile(new, f"after: {_size(after)}", pair.made_by),
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
    draw.text((14, SIDE + 12), shortened(title, 28), TEXT, _font(24))
    draw.text((14, SIDE + 46), shortened(note, 32), MUTED, _font(20))
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
