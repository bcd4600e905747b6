"""Images of a batch cut into tiles, and put together again."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xalora_client.media.png_encode import encode_png


@pytest.fixture(scope="module")
def tiled(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.conversion.tiled_images", pack.__name__)


@pytest.fixture
def result_of(pack: ModuleType, tmp_path: Path) -> Callable[[np.ndarray], Any]:
    """A task's result with this picture, times larger than it."""
    run_result = import_module(".xalora_client.results", pack.__name__).RunResult

    def make(tile: torch.Tensor, factor: int = 2) -> Any:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        pixels = (tile.numpy() * 255).round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
        file.write_bytes(encode_png(pixels))
        return run_result((file,), "xalora", "job")

    return make


def batch(count: int = 1, width: int = 700, height: int = 300, channels: int = 3) -> torch.Tensor:
    pixels = np.random.default_rng(7).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def test_tiles_of_each_image_and_the_whole_batch_again(
    tiled: ModuleType, result_of: Callable[..., Any]
) -> None:
    images = batch(2)
    cuts = tiled.cut(list(images), "512", None)
    assert cuts.are_any and len(cuts.tiles) == 2 * cuts.images[0].count == 4
    collected = tiled.TiledBatch(cuts, [])
    results = [result_of(tile) for tile in cuts.tiles]
    for index in (3, 0, 2, 1):
        preview = collected.add(index, results[index])
        assert preview is not None and preview.size == (467, 200)
    expected = images.numpy().repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(collected.close(results).numpy(), expected, atol=1e-6)


def test_equal_tiles_are_sent_once(tiled: ModuleType, result_of: Callable[..., Any]) -> None:
    images = torch.cat([torch.zeros(1, 300, 1400, 3), torch.zeros(1, 300, 1400, 3)])
    images[1, :, 1300:] = batch(width=100)[0]
    cuts = tiled.cut(list(images), "512", None)
    assert len(cuts.tiles) < sum(plan.count for plan in cuts.images)
    collected = tiled.TiledBatch(cuts, [])
    results = [result_of(tile) for tile in cuts.tiles]
    for index, result in enumerate(results):
        collected.add(index, result)
    np.testing.assert_allclose(
        collected.close(results).numpy(), images.numpy().repeat(2, 1).repeat(2, 2), atol=1e-6
    )


def test_a_batch_that_is_not_cut_stays_a_task_of_each(tiled: ModuleType) -> None:
    images = torch.zeros(3, 30, 40, 3)
    for tile in ("auto", "never", "512"):
        cuts = tiled.cut(list(images), tile, None)
        assert not cuts.are_any and [tuple(one.shape) for one in cuts.tiles] == [(30, 40, 3)] * 3


def test_auto_looks_at_what_a_request_takes(tiled: ModuleType) -> None:
    noise, flat = batch(width=400)[0], torch.zeros(300, 400, 3)
    cuts = tiled.cut([noise, flat], "auto", 100_000)
    assert [plan.count for plan in cuts.images] == [12, 1]
    assert not tiled.cut([noise, flat], "auto", None).are_any, "a store takes any size"
    assert not tiled.cut([noise, flat], "never", 100_000).are_any


def test_alpha_is_resized_here(tiled: ModuleType, result_of: Callable[..., Any]) -> None:
    images = batch(channels=4)
    cuts = tiled.cut([images[0, ..., :3]], "512", None)
    collected = tiled.TiledBatch(cuts, [images[0, ..., 3]])
    results = [result_of(tile) for tile in cuts.tiles]
    for index, result in enumerate(results):
        collected.add(index, result)
    made = collected.close(results).numpy()
    alpha = Image.fromarray(images[0, ..., 3].numpy()).resize((1400, 600), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(made[0, ..., 3], np.clip(np.asarray(alpha), 0, 1), atol=1e-6)


def test_another_size_is_brought_to_the_first_ones(tiled: ModuleType, result_of: Callable[..., Any]) -> None:
    cuts = tiled.cut([torch.full((300, 700, 3), 0.2)], "512", None)
    collected = tiled.TiledBatch(cuts, [])
    results = [result_of(tile, factor) for tile, factor in zip(cuts.tiles, (2, 3), strict=False)]
    collected.add(1, results[1])
    collected.add(0, results[0])
    made = collected.close(results).numpy()
    assert made.shape == (1, 600, 1400, 3)
    np.testing.assert_allclose(made, 0.2, atol=1e-3)


def test_another_shape_is_an_error(
    pack: ModuleType, tiled: ModuleType, result_of: Callable[..., Any]
) -> None:
    errors = import_module(".xalora_client.errors", pack.__name__)
    cuts = tiled.cut(list(batch()), "512", None)
    with pytest.raises(errors.ResultFormatError, match="another shape than the tile's"):
        tiled.TiledBatch(cuts, []).add(0, result_of(torch.zeros(64, 64, 3)))
