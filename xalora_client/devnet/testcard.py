"""Test cards: the images and videos that the devnet's miners answer prompts with, since no model runs.

A card is FFmpeg's ``testsrc2`` with the request written over it and the words TEST CARD, so that nobody takes
it for a model's work. The same parameters give the same bytes; the seed turns the colours.
"""

from __future__ import annotations

import io
import random
import re
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
from av.filter import Graph
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, Field

_TITLES = {("txt2vid", "1"): "HUNYUAN-FP8", ("txt2vid", "2"): "MOCHI-FP8", ("txt2img", "3"): "FLUX-LORA"}
_DETAILS = ("lora_name", "strength_model", "guidance", "steps", "quality")
"""Further parameters that a card names."""

_PANEL = (16, 18, 22, 216)
_WHITE = (240, 240, 236, 255)
_ORANGE = (240, 176, 72, 255)
_GREY = (170, 176, 186, 255)


Side = Annotated[int, Field(ge=16, le=4096)]


class Card(BaseModel, extra="allow"):
    """A test card: a title, and the parameters of a task. Sizes in pixels, ``length`` in frames."""

    title: str
    prompt: str = ""
    width: Side
    height: Side
    length: Annotated[int, Field(ge=1, le=1024)] = 1
    fps: Annotated[int, Field(ge=1, le=240)] = 24
    seed: int | None = None
    noise_seed: int | None = None


def render(task_type: str, workflow_id: str, parameters: Mapping[str, Any]) -> tuple[bytes, str]:
    """A test card for a ``txt2vid`` or ``txt2img`` task; returns the file and its suffix.

    Workflow ``1`` and other videos: H.264 MP4, 848x480, 73 frames, 24 fps unless the parameters say
    otherwise. Workflow ``2``: animated WebP, 848x480, 37 frames. Workflow ``3``: JPEG, 680x1024. Other
    images: PNG, 1024x1024.

    Raises:
        ValueError: The task type is neither, or a size, length or rate is out of range.
    """
    title = _TITLES.get((task_type, workflow_id), f"WORKFLOW {workflow_id}")
    if task_type == "txt2vid":
        webp = workflow_id == "2"
        usual = {"width": 848, "height": 480, "length": 37 if webp else 73}
        card = Card.model_validate({**usual, **parameters, "title": title})
        # The encoders take even sizes only.
        card.width, card.height = card.width // 2 * 2, card.height // 2 * 2
        return (_animated_webp(card), ".webp") if webp else (_h264(card), ".mp4")
    if task_type == "txt2img":
        jpeg = workflow_id == "3"
        width, height = (680, 1024) if jpeg else (1024, 1024)
        given = {"width": width, "height": height, **parameters, "title": title, "length": 1}
        # A choice such as "16:9 landscape 1344x768" carries the size.
        if choice := re.search(r"(\d+)x(\d+)", str(parameters.get("aspect_ratio", ""))):
            given |= {"width": int(choice[1]), "height": int(choice[2])}
        file = io.BytesIO()
        picture = next(frames(Card.model_validate(given)))
        if jpeg:
            picture.save(file, "JPEG", quality=92, subsampling=0)
        else:
            picture.save(file, "PNG", compress_level=1)
        return file.getvalue(), ".jpg" if jpeg else ".png"
    raise ValueError(f"There is no test card for {task_type!r}, only for txt2vid and txt2img")


def frames(card: Card) -> Iterator[Image.Image]:
    """Every frame of the card as an RGB image, in order."""
    seed = _seed(card)
    hue = 0 if seed is None else random.Random(seed).randrange(360)
    graph = Graph()
    chain = (
        graph.add("testsrc2", f"size={card.width}x{card.height}:rate={card.fps}"),
        graph.add("format", "yuv444p"),
        graph.add("hue", f"h={hue}:s=0.6"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    )
    graph.link_nodes(*chain).configure()
    panel, corner = _panel(card)
    for _ in range(card.length):
        frame = graph.pull()
        assert isinstance(frame, av.VideoFrame)
        image = Image.fromarray(frame.to_ndarray())
        image.paste(panel, corner, panel)
        yield image


def _seed(card: Card) -> int | None:
    return card.seed if card.noise_seed is None else card.noise_seed


def _animated_webp(card: Card) -> bytes:
    # Whole milliseconds of each frame, whose sum stays true to the frame rate.
    marks = [round(number * 1000 / card.fps) for number in range(card.length + 1)]
    durations = [after - before for before, after in pairwise(marks)]
    first, *others = frames(card)
    file = io.BytesIO()
    first.save(
        file, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=75, method=0
    )
    return file.getvalue()


def _h264(card: Card) -> bytes:
    """The card as H.264 in MP4, yuv420p, its index at the front."""
    # A real file, because moving the index to the front reads back what was written.
    with tempfile.TemporaryDirectory(prefix="xalora-testcard-") as folder:
        path = Path(folder, "card.mp4")
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=card.fps)
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
                frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def _panel(card: Card) -> tuple[Image.Image, tuple[int, int]]:
    """The request in writing, RGBA, and its upper left corner on the card."""
    width = round(card.width * 0.76)
    size = max(6.0, min(width / 20, card.height / 15))
    facts = [f"{card.width} x {card.height}"]
    if card.length > 1:
        facts.append(f"{card.length} frames at {card.fps} fps")
    facts.append("no seed" if (seed := _seed(card)) is None else f"seed {seed}")
    further = card.model_extra or {}
    facts += [f"{name} {further[name]}" for name in _DETAILS if name in further]

    panel = Image.new("RGBA", (width, card.height))
    draw = ImageDraw.Draw(panel)
    top = size * 0.7
    for text, colour, scale, most_lines in (
        ("TEST CARD", _WHITE, 1.7, 1),
        (f"{card.title}: no model ran", _ORANGE, 1.0, 1),
        (card.prompt, _WHITE, 1.0, 4),
        (", ".join(facts), _GREY, 0.8, 2),
    ):
        font = ImageFont.load_default(size * scale)
        lines = _wrapped(text, font, width - 2 * size, most_lines)
        draw.multiline_text((size, top), "\n".join(lines), colour, font, spacing=size * scale * 0.2)
        top += size * (1.3 * scale * len(lines) + 0.3)
    panel = panel.crop((0, 0, width, min(card.height, round(top + size * 0.6))))
    ground = Image.new("RGBA", panel.size)
    ImageDraw.Draw(ground).rounded_rectangle((0, 0, width - 1, panel.height - 1), size * 0.5, _PANEL)
    return Image.alpha_composite(ground, panel), (
        (card.width - width) // 2,
        (card.height - panel.height) // 2,
    )


def _wrapped(text: str, font: Any, width: float, most_lines: int) -> list[str]:
    """The text in lines of about this width, cut short after ``most_lines``."""
    columns = max(5, int(width * len(text) / max(1.0, font.getlength(text))))
    return textwrap.wrap(text, columns, max_lines=most_lines, placeholder=" ...")
