"""Moving broadcast-style test cards: what the devnet's miners answer where no model runs.

A card bears the prompt, size, seed, frame number and the words TEST CARD, so that nobody takes it for a
model's work. The same parameters give the same bytes; another seed gives visibly other pixels.
"""

from __future__ import annotations

import colorsys
import io
import math
import random
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LARGEST_SIDE = 4096
_MOST_FRAMES = 1024

_BACKGROUND = (52, 56, 64)
_GRID = (104, 110, 122)
_WHITE = (240, 240, 236)
_BLACK = (16, 18, 22)
_MUTED = (150, 156, 168)
# The bars of a broadcast card at 75 %: white, yellow, cyan, green, magenta, red, blue.
_BARS = (
    (191, 191, 191),
    (191, 191, 0),
    (0, 191, 191),
    (0, 191, 0),
    (191, 0, 191),
    (191, 0, 0),
    (0, 0, 191),
)


# From the full range of JPEG to the limited one of video.
_TO_LUMA = [round(16 + level * 219 / 255) for level in range(256)]
_TO_CHROMA = [round(128 + (level - 128) * 224 / 255) for level in range(256)]

# Lines of text are so far apart, in font sizes.
_LEADING = 1.22
# Pixels from which on a card is drawn at its own size.
_LARGE = 4_000_000
_TRAIL = 9
_MARK_COLUMNS, _MARK_ROWS = 9, 4
# The band of the circle in which a block swings, in tenths of the diameter from the top.
_SWING = (7.0, 8.0)


@dataclass(frozen=True)
class Card:
    """What a test card shows. Sizes in pixels, ``fps`` in frames a second, ``details`` name and value."""

    title: str
    prompt: str
    width: int
    height: int
    seed: int | None
    frames: int = 1
    fps: float = 24.0
    details: tuple[tuple[str, str], ...] = ()


def render(task_type: str, workflow_id: str, parameters: Mapping[str, Any]) -> tuple[bytes, str]:
    """A test card for a ``txt2vid`` or ``txt2img`` task; returns the file and its suffix.

    Workflow ``1`` and other videos: H.264 MP4, 848x480, 73 frames, 24 fps unless the parameters say
    otherwise. Workflow ``2``: animated WebP, 848x480, 37 frames. Workflow ``3``: JPEG, 680x1024. Other
    images: PNG, 1024x1024.

    Raises:
        ValueError: The task type is neither, or a size, length or rate is out of range.
    """
    if task_type == "txt2vid":
        webp = workflow_id == "2"
        card = Card(
            title="MOCHI-FP8" if webp else "HUNYUAN-FP8" if workflow_id == "1" else f"WORKFLOW {workflow_id}",
            prompt=str(parameters.get("prompt", "")),
            width=_whole(parameters, "width", 848, _LARGEST_SIDE) // 2 * 2,
            height=_whole(parameters, "height", 480, _LARGEST_SIDE) // 2 * 2,
            seed=_seed(parameters, "seed"),
            frames=_whole(parameters, "length", 37 if webp else 73, _MOST_FRAMES),
            fps=_whole(parameters, "fps", 24, 240),
            details=_shown(parameters, "steps", "quality"),
        )
        return (animated_webp(card), ".webp") if webp else (h264(card), ".mp4")
    if task_type == "txt2img":
        jpeg = workflow_id == "3"
        width, height = _image_size(parameters, (680, 1024) if jpeg else (1024, 1024))
        card = Card(
            title="FLUX-LORA" if jpeg else f"WORKFLOW {workflow_id}",
            prompt=str(parameters.get("prompt", "")),
            width=width,
            height=height,
            seed=_seed(parameters, "noise_seed"),
            details=_shown(parameters, "lora_name", "strength_model", "guidance", "steps"),
        )
        return (jpeg_image(card), ".jpg") if jpeg else (png(card), ".png")
    raise ValueError(f"There is no test card for {task_type!r}, only for txt2vid and txt2img")


def png(card: Card) -> bytes:
    """The card's first frame as PNG."""
    return _still(card, "PNG", compress_level=1)


def jpeg_image(card: Card) -> bytes:
    """The card's first frame as JPEG."""
    return _still(card, "JPEG", quality=92, subsampling=0)


def animated_webp(card: Card) -> bytes:
    """The card as animated WebP that loops."""
    file = io.BytesIO()
    first, *others = frames(card)
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=_durations(card),
        loop=0,
        quality=75,
        method=0,
    )
    return file.getvalue()


def h264(card: Card) -> bytes:
    """The card as H.264 in MP4, yuv420p, its index at the front."""
    # A real file, because moving the index to the front reads back what was written.
    with tempfile.TemporaryDirectory(prefix="xalora-testcard-") as folder:
        path = Path(folder, "card.mp4")
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=round(card.fps))
            stream.width, stream.height = card.width, card.height
            stream.pix_fmt = "yuv420p"
            # One thread: the bytes then do not depend on how many cores a machine has.
            stream.options = {
                "preset": "veryfast",
                "crf": "20",
                "tune": "animation",
                "threads": "1",
                "x264-params": "colorprim=smpte170m:transfer=smpte170m:colormatrix=smpte170m:range=tv",
            }
            for image in frames(card):
                container.mux(stream.encode(_yuv420(image)))
            container.mux(stream.encode())
        return path.read_bytes()


def frames(card: Card) -> Iterator[Image.Image]:
    """Every frame of the card as an RGB image, in order."""
    painter = _Painter(card)
    for number in range(card.frames):
        yield painter.frame(number)


def _yuv420(image: Image.Image) -> av.VideoFrame:
    """The image in BT.601 limited range, by Pillow, whose arithmetic is the same wherever it runs."""
    y, cb, cr = image.convert("YCbCr").split()
    planes = y.point(_TO_LUMA), cb.reduce(2).point(_TO_CHROMA), cr.reduce(2).point(_TO_CHROMA)
    stacked = np.concatenate([np.asarray(plane).ravel() for plane in planes])
    return av.VideoFrame.from_ndarray(stacked.reshape(-1, image.width), format="yuv420p")


# Reading parameters


def _whole(parameters: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    least = 16 if name in ("width", "height") else 1
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in {least}..{most}, not {value}")
    return int(value)


def _seed(parameters: Mapping[str, Any], name: str) -> int | None:
    value = parameters.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return value


def _image_size(parameters: Mapping[str, Any], default: tuple[int, int]) -> tuple[int, int]:
    """Width and height; a choice such as ``16:9 landscape 1344x768`` carries its own."""
    choice = re.search(r"(\d+)x(\d+)", str(parameters.get("aspect_ratio", "")))
    named = {"width": int(choice[1]), "height": int(choice[2])} if choice else parameters
    return (
        _whole(named, "width", default[0], _LARGEST_SIDE),
        _whole(named, "height", default[1], _LARGEST_SIDE),
    )


def _shown(parameters: Mapping[str, Any], *names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(parameters[name])) for name in names if name in parameters)


def _durations(card: Card) -> list[int]:
    """Whole milliseconds of each frame whose sum stays true to the frame rate."""
    marks = [round(number * 1000 / card.fps) for number in range(card.frames + 1)]
    return [after - before for before, after in pairwise(marks)]


def _still(card: Card, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    next(frames(card)).save(file, form, **options)
    return file.getvalue()


# Painting

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]


def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=max(6.0, size))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("Test cards need a Pillow that was built with FreeType")
    return font


def _tint(hue: float, lightness: float, saturation: float) -> Color:
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """Break the text into lines of this width; words longer than a line are broken too.

    Stops after ``most`` lines and one more, which tells that the text is longer.
    """
    # Letter by letter, so that even a prompt of one endless word costs linear time. Kerning is left out.
    advance = {letter: font.getlength(letter) for letter in {*text, " "}}
    lines: list[str] = []
    line, used = "", 0.0
    for word in text.split():
        length = sum(advance[letter] for letter in word)
        if line and used + advance[" "] + length <= width:
            line, used = f"{line} {word}", used + advance[" "] + length
            continue
        if line:
            lines.append(line)
        line, used = "", 0.0
        for letter in word:
            if line and used + advance[letter] > width:
                lines.append(line)
                line, used = "", 0.0
            line, used = line + letter, used + advance[letter]
        if len(lines) > most:
            break
    return [*lines, line][: most + 1] if line else lines


def _fit(
    text: str, width: float, height: float, *, largest: float, smallest: float
) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """The largest font in which the wrapped text fits the box, and its lines; cut short if none does."""
    size = largest
    while True:
        font = _font(size)
        room = max(1, int(height / (font.size * _LEADING)))
        lines = _wrap(text, font, width, room)
        if len(lines) <= room:
            return font, lines
        if size <= smallest:
            last = lines[room - 1]
            while last and font.getlength(last + "...") > width:
                last = last[:-1]
            return font, [*lines[: room - 1], last.rstrip() + "..."]
        size = max(smallest, size * 0.9)


class _Painter:
    """Draws what stays once, at twice the size so that its edges come out smooth, and what moves on each
    frame."""

    def __init__(self, card: Card) -> None:
        self._card = card
        # Twice the size on each side is four times the memory: a large card goes without.
        self._smooth = 2 if card.width * card.height <= _LARGE else 1
        luck = random.Random(f"test card {card.seed}")
        self._hue = luck.random()
        self._accent = _tint(self._hue, 0.62, 0.75)
        self._marks = [luck.random() < 0.5 for _ in range(_MARK_COLUMNS * _MARK_ROWS)]

        width, height = card.width, card.height
        edge = min(width, height) / 26
        self._edge = edge
        inner_width, inner_height = width - 2 * edge, height - 2 * edge
        gap = edge * 0.9
        self._wide = width >= height * 1.15
        if self._wide:
            side = min(inner_height, inner_width * 0.52) - gap
            self._center = (edge + gap / 2 + side / 2 + gap * 0.4, height / 2)
            left = self._center[0] + side / 2 + gap
            self._panel = (left, edge + gap, width - edge - gap, height - edge - gap)
        else:
            side = min(inner_width - gap, inner_height * 0.56)
            self._center = (width / 2, edge + gap * 0.7 + side / 2)
            top = self._center[1] + side / 2 + gap * 0.7
            self._panel = (edge + gap, top, width - edge - gap, height - edge - gap)
        self._radius = side * 0.455
        self._orbit = side * 0.485
        self._base = self._still_part()
        self._dots = [self._dot(step) for step in range(_TRAIL)]

    def frame(self, number: int) -> Image.Image:
        """The card at this frame, counted from 0."""
        image = self._base.copy()
        card = self._card
        # One round in two seconds.
        turn = number / card.fps / 2
        for step in reversed(range(_TRAIL)):
            angle = 2 * math.pi * (turn - step * 0.012) - math.pi / 2
            dot = self._dots[step]
            x = self._center[0] + self._orbit * math.cos(angle) - dot.width / 2
            y = self._center[1] + self._orbit * math.sin(angle) - dot.height / 2
            image.paste(self._accent, (round(x), round(y)), dot)
        self._draw_block(image, turn)
        self._draw_counter(image, number)
        return image

    def _dot(self, step: int) -> Image.Image:
        size = max(3, round(self._edge * 0.62 * (1 - 0.6 * step / _TRAIL)))
        dot = Image.new("L", (size * 4, size * 4), 0)
        ImageDraw.Draw(dot).ellipse((0, 0, size * 4 - 1, size * 4 - 1), fill=round(255 * (1 - step / _TRAIL)))
        return dot.resize((size, size), Image.Resampling.BOX)

    def _draw_block(self, image: Image.Image, turn: float) -> None:
        """The block that swings to and fro in the band under the name."""
        left, top, right, bottom = self._row(*_SWING)
        swing = 0.5 - 0.5 * math.cos(2 * math.pi * turn)
        size = (bottom - top) * 0.6
        middle = (top + bottom) / 2
        x = left + size + swing * (right - left - 3 * size)
        ImageDraw.Draw(image).rectangle(
            (round(x), round(middle - size / 2), round(x + size), round(middle + size / 2)), fill=_WHITE
        )

    def _draw_counter(self, image: Image.Image, number: int) -> None:
        left, top, right, bottom = self._counter
        card = self._card
        draw = ImageDraw.Draw(image)
        digits = max(3, len(str(card.frames)))
        draw.text(
            (left, top),
            f"FRAME {number + 1:0{digits}d} / {card.frames:0{digits}d}",
            _WHITE,
            self._counter_font,
        )
        if card.frames > 1:
            stamp = f"{number / card.fps:05.2f} s"
            draw.text((right, top), stamp, self._accent, self._counter_font, anchor="ra")
        bar = max(2, round((bottom - top) * 0.14))
        draw.rectangle((round(left), round(bottom) - bar, round(right), round(bottom)), fill=_GRID)
        done = left + (right - left) * (number + 1) / card.frames
        draw.rectangle((round(left), round(bottom) - bar, round(done), round(bottom)), fill=self._accent)

    # What stays

    def _still_part(self) -> Image.Image:
        card = self._card
        big = Image.new("RGB", (card.width * self._smooth, card.height * self._smooth), _BACKGROUND)
        draw = ImageDraw.Draw(big)
        self._draw_grid(draw)
        self._draw_border(draw)
        self._draw_circle(big)
        self._draw_panel(draw)
        return big.resize((card.width, card.height), Image.Resampling.BOX)

    def _draw_grid(self, draw: ImageDraw.ImageDraw) -> None:
        card, (x, y) = self._card, self._center
        step = self._radius / 3.5
        line = max(1, round(self._edge * 0.07 * self._smooth))
        for start, stop, upright in ((x % step, card.width, True), (y % step, card.height, False)):
            at = start
            while at < stop:
                place = at * self._smooth
                ends = (
                    (place, 0, place, card.height * self._smooth)
                    if upright
                    else (0, place, card.width * self._smooth, place)
                )
                draw.line(ends, fill=_GRID, width=line)
                at += step

    def _draw_border(self, draw: ImageDraw.ImageDraw) -> None:
        """Castellations: they show at once whether the picture was cropped."""
        width, height = self._card.width * self._smooth, self._card.height * self._smooth
        edge = self._edge * self._smooth
        across, down = (max(3, round(length / edge / 2) | 1) for length in (width, height))
        for part in range(across):
            color = _WHITE if part % 2 == 0 else _BLACK
            left, right = width * part / across, width * (part + 1) / across
            draw.rectangle((left, 0, right, edge), fill=color)
            draw.rectangle((left, height - edge, right, height), fill=color)
        for part in range(down):
            color = _WHITE if part % 2 == 0 else _BLACK
            top, bottom = height * part / down, height * (part + 1) / down
            draw.rectangle((0, top, edge, bottom), fill=color)
            draw.rectangle((width - edge, top, width, bottom), fill=color)

    def _row(self, first: float, last: float) -> Box:
        """A band across the circle, its ends where the circle's edge is; in tenths of the diameter from the
        top."""
        (x, y), radius = self._center, self._radius
        top, bottom = y - radius + radius * first / 5, y - radius + radius * last / 5
        far = max(abs(top - y), abs(bottom - y))
        half = math.sqrt(max(0.0, radius**2 - far**2))
        return x - half, top, x + half, bottom

    def _draw_circle(self, big: Image.Image) -> None:
        radius = self._radius * self._smooth
        side = round(2 * radius)
        disc = Image.new("RGB", (side, side), _BLACK)
        draw = ImageDraw.Draw(disc)
        row = side / 10

        draw.rectangle((0, 0, side, row * 1.75), fill=self._accent)
        for part in range(22):
            color = _WHITE if part % 2 else _BLACK
            draw.rectangle((side * part / 22, row * 1.75, side * (part + 1) / 22, row * 2.35), fill=color)
        for part, color in enumerate(_BARS):
            draw.rectangle(
                (side * part / len(_BARS), row * 2.35, side * (part + 1) / len(_BARS), row * 4.7), fill=color
            )
        draw.rectangle((0, row * 4.7, side, row * 6.1), fill=_BLACK)
        for part in range(10):
            level = round(16 + (235 - 16) * part / 9)
            draw.rectangle(
                (side * part / 10, row * 6.1, side * (part + 1) / 10, row * 7.0), fill=(level, level, level)
            )
        draw.rectangle((0, row * _SWING[0], side, row * _SWING[1]), fill=_BLACK)
        self._draw_marks(draw, (row * 2.0, row * _SWING[1], side - row * 2.0, row * 10))

        self._centered(draw, "XALORA", (side / 2, row * 1.08), row * 0.92, _BLACK, bold=0.05)
        self._centered(draw, "TEST CARD", (side / 2, row * 5.4), row * 1.28, _WHITE, bold=0.04)

        mask = Image.new("L", (side, side), 0)
        ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=255)
        x, y = self._center[0] * self._smooth, self._center[1] * self._smooth
        big.paste(disc, (round(x - radius), round(y - radius)), mask)
        ring = max(2, round(self._edge * 0.16 * self._smooth))
        ImageDraw.Draw(big).ellipse(
            (x - radius, y - radius, x + radius, y + radius), outline=_WHITE, width=ring
        )

    def _draw_marks(self, draw: ImageDraw.ImageDraw, box: Box) -> None:
        """A pattern that tells seeds apart at a glance: mirrored cells in the bottom cap of the circle."""
        left, top, right, bottom = box
        draw.rectangle((0, top, right * 2, bottom), fill=_tint(self._hue, 0.2, 0.5))
        cells = 2 * _MARK_COLUMNS
        wide, high = (right - left) / cells, (bottom - top) / _MARK_ROWS
        for index, lit in enumerate(self._marks):
            if not lit:
                continue
            line, column = divmod(index, _MARK_COLUMNS)
            for mirrored in (column, cells - 1 - column):
                x, y = left + mirrored * wide, top + line * high
                draw.rectangle((x, y, x + wide, y + high), fill=self._accent)

    def _draw_panel(self, draw: ImageDraw.ImageDraw) -> None:
        card = self._card
        left, top, right, bottom = (value * self._smooth for value in self._panel)
        pad = self._edge * 0.8 * self._smooth
        draw.rounded_rectangle((left, top, right, bottom), radius=pad * 0.6, fill=_BLACK)
        draw.rounded_rectangle((left, top, left + pad * 0.35, bottom), radius=pad * 0.17, fill=self._accent)
        left, top, right, bottom = left + pad * 1.2, top + pad * 0.8, right - pad, bottom - pad * 0.8

        rows = [
            ("size", f"{card.width} x {card.height}"),
            ("seed", "not given" if card.seed is None else card.seed),
        ]
        if card.frames > 1:
            rows.insert(1, ("length", f"{card.frames} frames at {card.fps:g} fps"))
        rows += card.details
        # Beside the circle there is room to say it a second time.
        heading = 2.75 if self._wide else 0.0
        needed = heading + 1.85 + 3.4 + 0.8 + 1.35 * len(rows) + 0.5 + 2.4
        unit = min((bottom - top) / needed, (right - left) / 17)
        if heading:
            draw.text((left, top), "TEST CARD", _WHITE, _font(unit * 2.2), stroke_width=unit * 0.06)
            top += unit * heading
        draw.text((left, top), f"{card.title}: no model ran", self._accent, _font(unit * 0.95))

        counter = unit * 2.4
        table_top = bottom - counter - unit * 1.35 * len(rows) - unit * 0.5
        font = _font(unit * 0.95)
        label_width = max(font.getlength(f"{name}   ") for name, _ in rows)
        for number, (name, value) in enumerate(rows):
            y = table_top + unit * 1.35 * number
            draw.text((left, y), name, _MUTED, font)
            shown = _fit(
                str(value), right - left - label_width, unit * 1.35, largest=unit * 0.95, smallest=unit * 0.6
            )
            draw.text((left + label_width, y), shown[1][0] if shown[1] else "", _WHITE, shown[0])

        prompt_top = top + unit * 1.85
        room = table_top - unit * 0.8 - prompt_top
        font, lines = _fit(card.prompt, right - left, room, largest=unit * 1.7, smallest=unit * 0.8)
        for number, line in enumerate(lines):
            draw.text((left, prompt_top + number * font.size * _LEADING), line, _WHITE, font)

        self._counter = (
            left / self._smooth,
            (bottom - counter) / self._smooth,
            right / self._smooth,
            bottom / self._smooth,
        )
        self._counter_font = _font(unit * 1.35 / self._smooth)

    @staticmethod
    def _centered(
        draw: ImageDraw.ImageDraw,
        text: str,
        at: tuple[float, float],
        size: float,
        color: Color,
        *,
        bold: float,
    ) -> None:
        """Bold text, its letters set apart: the stroke that makes it bold would glue them together."""
        font = _font(size)
        apart = size * bold * 1.6
        starts = [font.getlength(text[:end]) + apart * end for end in range(len(text) + 1)]
        x = at[0] - (starts[-1] - apart) / 2
        for letter, start in zip(text, starts, strict=False):
            draw.text((x + start, at[1]), letter, color, font, anchor="lm", stroke_width=size * bold)
