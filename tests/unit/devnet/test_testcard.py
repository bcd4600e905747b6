"""Test cards: the right file for each workflow, true to the parameters, the same every time."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from xalora_client.devnet.testcard import Card, _wrap, frames, render

CLIP = {"prompt": "A red fox leaps over a frozen stream", "seed": 42, "length": 6}


def video(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_workflow_1_is_h264_with_its_index_in_front() -> None:
    data, suffix = render("txt2vid", "1", {"prompt": "a"})
    assert suffix == ".mp4"
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 848, 480)
        assert (stream.average_rate, stream.frames) == (24, 73)
        assert sum(1 for _ in container.decode(stream)) == 73


def test_workflow_2_is_animated_webp_of_true_duration() -> None:
    data, suffix = render("txt2vid", "2", {"prompt": "a", "length": 25, "width": 256, "height": 264})
    assert suffix == ".webp"
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.n_frames) == ("WEBP", (256, 264), 25)
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
    assert sum(durations) == round(25 * 1000 / 24)
    assert set(durations) == {41, 42}


def test_workflow_3_is_jpeg_and_others_png() -> None:
    data, suffix = render("txt2img", "3", {"prompt": "a", "lora_name": "b"})
    image = Image.open(io.BytesIO(data))
    assert (suffix, image.format, image.size) == (".jpg", "JPEG", (680, 1024))
    data, suffix = render("txt2img", "my-own", {"prompt": "a", "width": 640, "height": 512})
    image = Image.open(io.BytesIO(data))
    assert (suffix, image.format, image.size) == (".png", "PNG", (640, 512))


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ({"aspect_ratio": "16:9 landscape 1344x768"}, (1344, 768)),
        ({"aspect_ratio": "16:9 landscape 1344x768", "width": 512, "height": 512}, (1344, 768)),
        ({"aspect_ratio": "custom", "width": 512, "height": 576}, (512, 576)),
        ({"aspect_ratio": "custom"}, (680, 1024)),
    ],
)
def test_an_aspect_ratio_that_names_a_size_wins(parameters: Mapping[str, Any], size: tuple[int, int]) -> None:
    data, _ = render("txt2img", "3", {"prompt": "a", "lora_name": "b", **parameters})
    assert Image.open(io.BytesIO(data)).size == size


@pytest.mark.parametrize("workflow_id", ["1", "2"])
def test_the_same_parameters_give_the_same_bytes(workflow_id: str) -> None:
    assert render("txt2vid", workflow_id, CLIP) == render("txt2vid", workflow_id, dict(CLIP))


def test_another_seed_gives_visibly_other_pixels() -> None:
    one, two = (video(render("txt2vid", "1", CLIP | {"seed": seed})[0]) for seed in (42, 43))
    far_apart = np.abs(one[0].astype(int) - two[0]).max(axis=-1) > 40
    # More than the digits of the seed: a person sees it from across the room.
    assert far_apart.mean() > 0.01


def test_another_prompt_gives_other_pixels() -> None:
    one, two = (video(render("txt2vid", "1", CLIP | {"prompt": prompt})[0]) for prompt in ("a fox", "an owl"))
    assert np.abs(one[0].astype(int) - two[0]).max() > 100


def test_it_moves_in_every_frame_and_stays_a_card() -> None:
    clip = video(render("txt2vid", "1", CLIP)[0]).astype(int)
    for before, after in pairwise(clip):
        changed = np.abs(before - after).max(axis=-1) > 60
        assert 0 < changed.mean() < 0.05


def test_the_colour_bars_are_where_and_what_they_should_be() -> None:
    """Seven bars of a broadcast card, left to right across the circle."""
    card = Card(title="T", prompt="p", width=848, height=480, seed=1)
    image = np.asarray(next(frames(card)))
    yellow = np.argwhere((image == (191, 191, 0)).all(axis=-1))
    row = image[int(np.median(yellow[:, 0]))].astype(int)
    bars: list[tuple[int, ...]] = []
    for color in map(tuple, row.tolist()):
        if set(color) <= {0, 191} and any(color) and (not bars or bars[-1] != color):
            bars.append(color)
    assert bars == [
        (191, 191, 191),
        (191, 191, 0),
        (0, 191, 191),
        (0, 191, 0),
        (191, 0, 191),
        (191, 0, 0),
        (0, 0, 191),
    ]


@pytest.mark.parametrize(("width", "height"), [(16, 16), (256, 256), (64, 1024), (1024, 64), (2048, 512)])
@pytest.mark.parametrize(
    "prompt", ["", "a", "Donaudampfschifffahrtsgesellschaft" * 20, "one two three " * 200]
)
def test_every_shape_and_length_of_prompt_is_drawn(width: int, height: int, prompt: str) -> None:
    data, _ = render(
        "txt2img", "x", {"prompt": prompt, "width": width, "height": height, "noise_seed": 2**64 - 1}
    )
    image = pixels(data)
    assert image.shape == (height, width, 3)
    assert len({*map(tuple, image[::3, ::3].reshape(-1, 3).tolist())}) > 8


def test_wrapping_loses_no_letter_and_keeps_to_the_width() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    text = "A lighthouse keeper rows through Donaudampfschifffahrtsgesellschaftskapitaen fog"
    lines = _wrap(text, font, 120, most=100)
    assert all(font.getlength(line) <= 123 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert _wrap(text, font, 120, most=2) == lines[:3]


def test_odd_sizes_of_video_are_brought_to_even_ones() -> None:
    clip = video(render("txt2vid", "1", {"prompt": "a", "length": 2, "width": 301, "height": 203})[0])
    assert clip.shape == (2, 202, 300, 3)


@pytest.mark.parametrize(
    ("task_type", "parameters", "says"),
    [
        ("upscaler", {}, "no test card for 'upscaler'"),
        ("txt2vid", {"length": 0}, "length must lie in"),
        ("txt2vid", {"length": 100_000}, "length must lie in"),
        ("txt2vid", {"width": "wide"}, "width must be a whole number"),
        ("txt2vid", {"width": True}, "width must be a whole number"),
        ("txt2vid", {"height": 100_000}, "height must lie in"),
        ("txt2vid", {"fps": 0}, "fps must lie in"),
        ("txt2vid", {"seed": "luck"}, "seed must be a whole number"),
        ("txt2img", {"noise_seed": 0.5}, "noise_seed must be a whole number"),
    ],
)
def test_what_cannot_be_drawn_is_told(task_type: str, parameters: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render(task_type, "1", {"prompt": "a", **parameters})
