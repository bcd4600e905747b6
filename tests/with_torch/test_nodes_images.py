"""Results to one IMAGE tensor: sizes that differ, alpha, images made here among the network's.

Needs torch, as ComfyUI's Python has it; nothing of ComfyUI itself.
"""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="torch is not installed in this Python")


@pytest.fixture(scope="module")
def images(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.conversion.image_tensors", pack.__name__)


@pytest.fixture(scope="module")
def results(pack: ModuleType) -> ModuleType:
    return import_module(".xalora_client.results", pack.__name__)


def picture(seed: int, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    width, height = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def result(results: ModuleType, tmp_path: Path) -> Any:
    """Writes a picture and gives it as a result."""

    def write(pixels: np.ndarray) -> Any:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        Image.fromarray(pixels).save(path)
        return results.RunResult(files=(path,), engine="xalora", job_id=path.stem)

    return write


def collect(batch: Any, made: list[Any], arrival: list[int]) -> Any:
    for index in arrival:
        batch.add(index, made[index])
    return batch.close(made)


def test_results_are_placed_by_their_order_however_they_arrive(images: ModuleType, result: Any) -> None:
    pictures = [picture(seed, (8, 6)) for seed in range(3)]
    tensor = collect(images.TensorBatch(3), [result(one) for one in pictures], [2, 0, 1])
    np.testing.assert_allclose(tensor.numpy(), np.stack(pictures) / 255, atol=1e-7)
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize("arrival", [[0, 1], [1, 0]])
def test_another_factor_is_brought_to_the_size_of_the_first_in_order(
    images: ModuleType, result: Any, arrival: list[int]
) -> None:
    pictures = [picture(0, (8, 6)), picture(1, (16, 12))]
    tensor = collect(images.TensorBatch(2), [result(one) for one in pictures], arrival)
    assert tuple(tensor.shape) == (2, 6, 8, 3)
    np.testing.assert_allclose(tensor[0].numpy(), pictures[0] / 255, atol=1e-7)
    resized = Image.fromarray(pictures[1]).resize((8, 6), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(tensor[1].numpy(), np.asarray(resized) / 255, atol=1.01 / 255)


@pytest.mark.parametrize("arrival", [[0, 1], [1, 0]])
def test_alpha_of_one_result_gives_all_a_fourth_channel(
    images: ModuleType, result: Any, arrival: list[int]
) -> None:
    pictures = [picture(0, (8, 6)), picture(1, (8, 6), channels=4)]
    tensor = collect(images.TensorBatch(2), [result(one) for one in pictures], arrival).numpy()
    assert tensor.shape == (2, 6, 8, 4)
    assert (tensor[0, ..., 3] == 1).all()
    np.testing.assert_allclose(tensor[1], pictures[1] / 255, atol=1e-7)


def test_the_inputs_own_alpha_stands_for_the_networks(images: ModuleType, result: Any) -> None:
    alpha = [torch.linspace(0, 1, 4).repeat(3, 1), torch.ones(3, 4)]
    pictures = [picture(0, (8, 6), channels=4), picture(1, (8, 6))]
    tensor = collect(images.TensorBatch(2, alpha), [result(one) for one in pictures], [0, 1]).numpy()
    np.testing.assert_allclose(tensor[0, ..., :3], pictures[0][..., :3] / 255, atol=1e-7)
    ramp = Image.fromarray(alpha[0].numpy()).resize((8, 6), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(tensor[0, ..., 3], np.asarray(ramp).clip(0, 1), atol=1e-6)
    assert tensor[1, ..., 3].min() > 0.999


def test_images_made_here_fill_the_gaps_in_order(images: ModuleType, result: Any) -> None:
    pictures = [picture(seed, (8, 6)) for seed in range(4)]
    files = {0: result(pictures[0]).files, 2: result(pictures[2]).files}
    made = torch.from_numpy(np.stack([pictures[1], pictures[3]]).astype(np.float32) / 255)
    np.testing.assert_allclose(images.merged(files, made, 4).numpy(), np.stack(pictures) / 255, atol=1e-6)


def test_several_images_of_one_task_stay_together_with_the_alpha_of_its_input(
    images: ModuleType, results: ModuleType, result: Any
) -> None:
    pictures = [picture(seed, (8, 6)) for seed in range(4)]
    files = tuple(result(one).files[0] for one in pictures)
    pair, other_pair = (
        results.RunResult(files=two, engine="xalora", job_id="j") for two in (files[:2], files[2:])
    )
    planes = [torch.zeros(6, 8), torch.ones(6, 8)]
    tensor = collect(images.TensorBatch(2, planes), [pair, other_pair], [1, 0]).numpy()
    np.testing.assert_allclose(tensor[..., :3], np.stack(pictures) / 255, atol=1e-7)
    assert [plane.min() for plane in tensor[..., 3]] == [plane.max() for plane in tensor[..., 3]]
    assert [float(plane.max()) for plane in tensor[..., 3]] == [0, 0, 1, 1]

    made = torch.from_numpy(pictures[3][None].astype(np.float32) / 255)
    merged = images.merged({0: pair.files}, made, 2, planes).numpy()
    np.testing.assert_allclose(merged[..., :3], np.stack([*pictures[:2], pictures[3]]) / 255, atol=1e-6)
    assert [float(plane.max()) for plane in merged[..., 3]] == [0, 0, 1]


def test_images_made_here_take_the_size_of_the_first(images: ModuleType, result: Any) -> None:
    files = {1: result(picture(1, (16, 12))).files}
    made = torch.rand(1, 6, 8, 3)
    merged = images.merged(files, made, 2)
    assert tuple(merged.shape) == (2, 6, 8, 3)
    torch.testing.assert_close(merged[0], made[0])


def test_a_batch_without_images_is_no_batch(images: ModuleType, pack: ModuleType) -> None:
    errors = import_module(".xalora_client.errors", pack.__name__)
    with pytest.raises(errors.InvalidTaskError, match="holds no images"):
        images.split_batch(torch.zeros(0, 4, 4, 3))
    with pytest.raises(errors.InvalidTaskError, match="holds no images"):
        images.split_batch(torch.zeros(1, 0, 4, 3))


@pytest.mark.parametrize("value", [[], None, "example.png"])
def test_what_is_no_tensor_is_no_batch(images: ModuleType, pack: ModuleType, value: Any) -> None:
    errors = import_module(".xalora_client.errors", pack.__name__)
    with pytest.raises(errors.InvalidTaskError, match=f"input image is of type {type(value).__name__}"):
        images.split_batch(value)


def test_a_results_preview_states_the_results_size(images: ModuleType) -> None:
    saved = BytesIO()
    preview = images.result_preview_of(np.zeros((2001, 1000, 3), np.float32))
    preview.save(saved, "JPEG", quality=95, compress_level=1)
    told = Image.open(saved)
    assert told.size == (250, 501)
    exif = told.getexif()
    # What browsers ask for before they believe the size.
    pixels = exif.get_ifd(0x8769)
    assert (pixels[0xA002], pixels[0xA003]) == (1000, 2001)
    assert (exif[0x0128], 250 * 72 / exif[0x011A], 501 * 72 / exif[0x011B]) == (2, 1000, 2001)


def test_a_preview_is_small_and_in_colour(images: ModuleType) -> None:
    large = images.preview_of(np.full((2000, 1000, 4), 0.5, np.float32))
    assert large.size == (250, 500)
    gray = images.preview_of(np.full((4, 4, 1), 2.0, np.float32))
    assert (gray.mode, gray.getpixel((0, 0))) == ("RGB", (255, 255, 255))
