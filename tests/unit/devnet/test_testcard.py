"""Test cards: the file format of each workflow, the parameters, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from xalora_client.devnet.testcard import render

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
    # More than the digits of the seed.
    assert far_apart.mean() > 0.01


def test_another_prompt_gives_other_pixels() -> None:
    one, two = (video(render("txt2vid", "1", CLIP | {"prompt": prompt})[0]) for prompt in ("a fox", "an owl"))
    assert np.abs(one[0].astype(int) - two[0]).max() > 100


def test_it_moves_in_every_frame_and_stays_a_card() -> None:
    clip = video(render("txt2vid", "1", CLIP)[0]).astype(int)
    for before, after in pairwise(clip):
        changed = np.abs(before - after).max(axis=-1) > 60
        assert 0 < changed.mean() < 0.05


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


def test_odd_sizes_of_video_are_brought_to_even_ones() -> None:
    clip = video(render("txt2vid", "1", {"prompt": "a", "length": 2, "width": 301, "height": 203})[0])
    assert clip.shape == (2, 202, 300, 3)


@pytest.mark.parametrize(
    ("task_type", "parameters", "says"),
    [
        ("upscaler", {}, "no test card for 'upscaler'"),
        ("txt2vid", {"length": 0}, "length\n  Input should be (less|greater)"),
        ("txt2vid", {"length": 100_000}, "length\n  Input should be (less|greater)"),
        ("txt2vid", {"width": "wide"}, "width\n  Input should be"),
        ("txt2vid", {"width": True}, "width\n  Input should be"),
        ("txt2vid", {"height": 100_000}, "height\n  Input should be (less|greater)"),
        ("txt2vid", {"fps": 0}, "fps\n  Input should be (less|greater)"),
        ("txt2vid", {"seed": "luck"}, "seed\n  Input should be"),
        ("txt2img", {"noise_seed": 0.5}, "noise_seed\n  Input should be"),
    ],
)
def test_an_invalid_parameter_is_refused_with_a_reason(
    task_type: str, parameters: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        render(task_type, "1", {"prompt": "a", **parameters})
