"""One picture of a whole run: every photograph before and after at the same scale, and a strip of a video."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps

BACKGROUND = (20, 22, 26)
CARD = (31, 34, 40)
WELL = (13, 14, 17)
TEXT = (236, 236, 232)
MUTED = (150, 156, 166)
ACCENT = (240, 176, 72)
LANE = (58, 96, 140)

WIDTH = 2080
MARGIN = 48
GAP = 28
PADDING = 24
PANEL = 344  # before and after, in pixels of the result
HEAD = 92  # of a card, above its pictures
LENS = 132  # the magnifier in a panel's corner
LENS_ZOOM = 4
STRIP_FRAMES = 6
MOST_PAIRS = 16
MOST_LANES = 8

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Pair:
    """A photograph and what was made of it, larger by a whole number or not.

    ``captions`` are short lines beside it. ``detail`` is where to look closely, as shares of width and
    height; None finds the busiest place.
    """

    title: str
    credit: str
    before: Path
    after: Path
    captions: Sequence[str] = ()
    detail: tuple[float, float] | None = None


@dataclass(frozen=True)
class Still:
    """A picture with nothing before it, and what is to be said of it."""

    title: str
    path: Path
    text: str


@dataclass(frozen=True)
class Block:
    """Somebody at work on something: seconds from the beginning of the run."""

    who: str
    what: str
    start: float
    end: float


@dataclass(frozen=True)
class Strip:
    """Frames of a video, ``[N, H, W, 3]`` uint8, spread evenly over it, with a label each."""

    title: str
    frames: npt.NDArray[np.uint8]
    labels: Sequence[str]


def draw_sheet(
    path: Path,
    *,
    title: str,
    subtitle: str,
    pairs: Sequence[Pair],
    still: Still | None = None,
    blocks: Sequence[Block] = (),
    strip: Strip | None = None,
) -> None:
    """Draw the sheet and write it as PNG. Blocking; one full-size photograph is held at a time.

    Args:
        path: Where; an existing file is replaced.
        title, subtitle: Above everything.
        pairs: At most :data:`MOST_PAIRS` are drawn, the subtitle tells of the rest.
        still: A single picture, if any.
        blocks: Who was at what and when; drawn beside ``still``.
        strip: Frames of a video, if any.
    """
    shown = pairs[:MOST_PAIRS]
    if len(pairs) > len(shown):
        subtitle += f" {len(pairs) - len(shown)} more are not shown here."
    width = (WIDTH - 2 * MARGIN - GAP) // 2
    cells = [_draw_pair(pair, width) for pair in shown]
    if still is not None:
        cells.append(_draw_still(still, blocks, width))
    rows: list[list[Image.Image]] = [[_draw_header(title, subtitle)]]
    rows += [cells[start : start + 2] for start in range(0, len(cells), 2)]
    if strip is not None:
        rows.append([_draw_strip(strip)])

    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (WIDTH, 2 * MARGIN + sum(heights) + GAP * (len(rows) - 1)), BACKGROUND)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (MARGIN + column * (width + GAP), top))
        top += height + GAP
    sheet.save(path, "PNG")


# --- the parts of the sheet -------------------------------------------------------------------------------


def _draw_header(title: str, subtitle: str) -> Image.Image:
    image = Image.new("RGB", (WIDTH - 2 * MARGIN, 116), BACKGROUND)
    _text(image, (0, 0), title, TEXT, 56)
    _text(image, (2, 78), subtitle, ACCENT, 28)
    return image


def _draw_pair(pair: Pair, width: int) -> Image.Image:
    before, after = _opened(pair.before), _opened(pair.after)
    scale = after.width / before.width
    # Both crops show the same piece; the original's pixels are enlarged as squares, so that each can be seen.
    size = (min(PANEL, after.width), min(PANEL, after.height))
    left, top = _corner(pair.detail, before, after, size)
    crop = after.crop((left, top, left + size[0], top + size[1]))
    region = (left / scale, top / scale, (left + size[0]) / scale, (top + size[1]) / scale)
    original = before.resize(size, Image.Resampling.NEAREST, box=region)

    card = _card(width, HEAD + PANEL + PADDING)
    _text(card, (PADDING, PADDING - 6), pair.title, TEXT, 32)
    _text(card, (width - PADDING, PADDING + 4), pair.credit, MUTED, 22, right=True)
    target = _lens_target(crop)
    for x, picture, label in (
        (width - PADDING - 2 * PANEL - 16, original, f"before, each pixel {scale:g}x"),
        (width - PADDING - PANEL, crop, "after, 1:1"),
    ):
        _text(card, (x, HEAD - 36), label, MUTED, 22)
        _draw_panel(card, picture, (x, HEAD), target)
    room = width - 3 * PADDING - 2 * PANEL - 16
    lines = [f"{before.width} x {before.height}", f"{after.width} x {after.height}", *pair.captions]
    overview = ImageOps.contain(before, (room, PANEL - 28 * len(lines) - 16), Image.Resampling.LANCZOS)
    card.paste(overview, (PADDING, HEAD))
    box = [round(value * overview.width / before.width) for value in region]
    ImageDraw.Draw(card).rectangle(
        (PADDING + box[0], HEAD + box[1], PADDING + box[2] - 1, HEAD + box[3] - 1), outline=ACCENT, width=3
    )
    for number, line in enumerate(reversed(lines)):
        colour = MUTED if number < len(pair.captions) else TEXT
        _text(card, (PADDING, HEAD + PANEL - 24 - 28 * number), line, colour, 22)
    return card


def _draw_panel(
    card: Image.Image, picture: Image.Image, corner: tuple[int, int], target: tuple[int, int] | None
) -> None:
    """A crop in its square, and in the lower right corner a lens over ``target``, pixels as squares."""
    left, top = corner
    draw = ImageDraw.Draw(card)
    draw.rectangle((left, top, left + PANEL - 1, top + PANEL - 1), fill=WELL)
    card.paste(picture, (left + (PANEL - picture.width) // 2, top + (PANEL - picture.height) // 2))
    if target is None:
        return
    side = LENS // LENS_ZOOM
    x, y = target
    lens = picture.resize((LENS, LENS), Image.Resampling.NEAREST, box=(x, y, x + side, y + side))
    draw.rectangle(
        (left + x - 2, top + y - 2, left + x + side + 1, top + y + side + 1), outline=TEXT, width=2
    )
    corner_x, corner_y = left + PANEL - LENS - 10, top + PANEL - LENS - 10
    draw.rectangle((corner_x - 3, corner_y - 3, corner_x + LENS + 2, corner_y + LENS + 2), fill=TEXT)
    card.paste(lens, (corner_x, corner_y))


def _draw_still(still: Still, blocks: Sequence[Block], width: int) -> Image.Image:
    card = _card(width, HEAD + PANEL + PADDING)
    _text(card, (PADDING, PADDING - 6), still.title, TEXT, 32)
    top = HEAD - 32
    room = (width // 2, HEAD + PANEL - top)
    picture = ImageOps.contain(_opened(still.path), room, Image.Resampling.LANCZOS)
    card.paste(picture, (PADDING, top))
    left = 2 * PADDING + picture.width
    for line in _wrapped(still.text, _font(22), width - PADDING - left):
        _text(card, (left, top - 4), line, MUTED, 22)
        top += 30
    if blocks:
        _draw_lanes(card, blocks, (left, top + 24, width - PADDING, HEAD + PANEL))
    return card


def _draw_lanes(card: Image.Image, blocks: Sequence[Block], box: tuple[int, int, int, int]) -> None:
    """A lane for each worker, a block for each piece of work, the time from left to right."""
    left, top, right, bottom = box
    workers = sorted({block.who for block in blocks})[:MOST_LANES]
    end = max(block.end for block in blocks) or 1.0
    name_width = 16 + max(round(_font(22).getlength(_drawable(name))) for name in workers)
    begin, per_second = left + name_width, (right - left - name_width) / end
    height = min(58, (bottom - 34 - top) // len(workers))
    draw = ImageDraw.Draw(card)
    for number, name in enumerate(workers):
        y = top + number * height
        _text(card, (left, y + (height - 8) // 2 - 12), name, MUTED, 22)
        draw.rectangle((begin, y, right, y + height - 8), fill=WELL)
        for block in (block for block in blocks if block.who == name):
            start, stop = begin + block.start * per_second, begin + block.end * per_second
            draw.rectangle((start + 1, y, max(stop - 1, start + 3), y + height - 8), fill=LANE)
            label = _fitting(block.what, _font(18), stop - start - 12)
            _text(card, (start + 7, y + (height - 8) // 2 - 10), label, TEXT, 18)
    y = top + len(workers) * height
    _text(card, (begin, y), "0 s", MUTED, 20)
    _text(card, (right, y), f"{end:.1f} s", MUTED, 20, right=True)


def _draw_strip(strip: Strip) -> Image.Image:
    width = WIDTH - 2 * MARGIN
    count = len(strip.frames)
    frame_width = (width - 2 * PADDING - (count - 1) * 12) // count
    height, natural = strip.frames.shape[1:3]
    frame_height = round(frame_width * height / natural)
    card = _card(width, PADDING + 52 + frame_height + 34 + PADDING)
    _text(card, (PADDING, PADDING - 6), strip.title, TEXT, 32)
    for number, (frame, label) in enumerate(zip(strip.frames, strip.labels, strict=True)):
        x, y = PADDING + number * (frame_width + 12), PADDING + 52
        small = Image.fromarray(frame).resize((frame_width, frame_height), Image.Resampling.LANCZOS)
        card.paste(small, (x, y))
        _text(card, (x, y + frame_height + 8), label, MUTED, 22)
    return card


# --- where to look ----------------------------------------------------------------------------------------


def _corner(
    detail: tuple[float, float] | None, before: Image.Image, after: Image.Image, size: tuple[int, int]
) -> tuple[int, int]:
    """The upper left corner, in pixels of the result, of the piece that is shown closely."""
    x, y = detail or busiest_place(
        np.asarray(before.convert("L")), (size[0] / after.width, size[1] / after.height)
    )
    return (
        min(max(0, round(x * after.width - size[0] / 2)), after.width - size[0]),
        min(max(0, round(y * after.height - size[1] / 2)), after.height - size[1]),
    )


def _lens_target(crop: Image.Image) -> tuple[int, int] | None:
    """The upper left corner of what the lens shows: busy, and not under the lens; None for small crops."""
    side = LENS // LENS_ZOOM
    # The middle of the width, and of the height what the lens leaves free: an edge makes a poor detail.
    left, right = crop.width // 6, crop.width * 5 // 6
    top, bottom = crop.height // 6, crop.height - LENS - 24
    if bottom - top < side or right - left < side:
        return None
    region = np.asarray(crop.convert("L"))[top:bottom, left:right]
    height, width = region.shape
    x, y = busiest_place(region, (side / width, side / height))
    return (
        left + min(max(0, round(x * width - side / 2)), width - side),
        top + min(max(0, round(y * height - side / 2)), height - side),
    )


def busiest_place(gray: npt.NDArray[np.uint8], window: tuple[float, float]) -> tuple[float, float]:
    """The middle of the window with the most contrast between neighbours.

    Args:
        gray: uint8 ``[H, W]``.
        window: Its width and height as shares of the picture's.

    Returns:
        Shares of width and height.
    """
    step = max(1, max(gray.shape) // 512)
    small = gray[::step, ::step].astype(np.float32)
    energy = np.zeros_like(small)
    energy[:, 1:] += np.abs(np.diff(small, axis=1))
    energy[1:] += np.abs(np.diff(small, axis=0))
    height, width = small.shape
    rows, columns = (
        min(side, max(1, round(side * share)))
        for side, share in zip((height, width), window[::-1], strict=True)
    )
    sums = np.pad(energy.cumsum(0, np.float64).cumsum(1), ((1, 0), (1, 0)))
    total = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    y, x = np.unravel_index(int(total.argmax()), total.shape)
    return (float(x) + columns / 2) / width, (float(y) + rows / 2) / height


# --- small things -----------------------------------------------------------------------------------------


def _opened(path: Path) -> Image.Image:
    """The picture upright and as RGB, transparency on black."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, (*WELL, 255)), image).convert("RGB")
        return image.convert("RGB")


def _card(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), BACKGROUND)
    ImageDraw.Draw(image).rounded_rectangle((0, 0, width - 1, height - 1), 14, fill=CARD)
    return image


def _text(
    image: Image.Image,
    corner: tuple[float, float],
    text: str,
    fill: tuple[int, int, int],
    size: int,
    *,
    right: bool = False,
) -> None:
    """Text from its upper left corner on, or with ``right`` ending at its upper right one."""
    text, font = _drawable(text), _font(size)
    x = corner[0] - font.getlength(text) if right else corner[0]
    ImageDraw.Draw(image).text((x, corner[1]), text, fill, font)


def _wrapped(text: str, font: Font, width: float) -> Iterator[str]:
    line = ""
    for word in _drawable(text).split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield line
            line = word
        else:
            line = longer
    yield line


def _fitting(text: str, font: Font, width: float) -> str:
    """As much of the text as fits, nothing where that says nothing."""
    whole = text = _drawable(text)
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text if text == whole or len(text) > 3 else ""


def _drawable(text: str) -> str:
    """Text in the characters that Pillow's own font has, accents dropped."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)
