"""Results of several tasks as one array."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from xalora_client import ImageBatch, ResultFormatError, RunResult
from xalora_client.media.memory import touched
from xalora_client.media.png import encode_png


def result(folder: Path, pixels: npt.NDArray[Any]) -> RunResult:
    file = folder / f"{len(list(folder.iterdir()))}.png"
    file.write_bytes(encode_png(pixels))
    return RunResult(files=(file,), engine="xalora", job_id=file.stem)


def noise(seed: int, *shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_images_come_in_any_order_from_any_thread_and_lie_in_theirs(tmp_path: Path) -> None:
    pictures = [noise(seed, 40, 30, 3) for seed in range(12)]
    results = [result(tmp_path, picture) for picture in pictures]
    batch = ImageBatch(12)
    with ThreadPoolExecutor(4) as threads:
        views = list(threads.map(batch.add, range(11, -1, -1), reversed(results)))
    array = batch.finish(results)
    assert np.array_equal(array, np.stack(pictures).astype(np.float32) / np.float32(255))
    assert all(view is not None and np.shares_memory(view, array) for view in views)


def test_one_of_another_size_has_all_brought_to_the_first_ones(tmp_path: Path) -> None:
    results = [result(tmp_path, noise(seed, size, 30, 3)) for seed, size in enumerate((40, 50, 40))]
    batch = ImageBatch(3)
    assert batch.add(1, results[1]) is not None
    assert batch.add(0, results[0]) is None
    batch.add(2, results[2])
    assert batch.finish(results).shape == (3, 40, 30, 3)


@pytest.mark.parametrize(("keep_alpha", "channels"), [(True, 4), (False, 3)])
def test_transparency_is_kept_or_left_out(tmp_path: Path, keep_alpha: bool, channels: int) -> None:
    picture = noise(1, 40, 30, 4)
    results = [result(tmp_path, picture), result(tmp_path, picture[..., :3])]
    batch = ImageBatch(2, keep_alpha=keep_alpha)
    for index, one in enumerate(results):
        batch.add(index, one)
    array = batch.finish(results)
    assert array.shape == (2, 40, 30, channels)
    assert np.array_equal(array[0], picture[..., :channels].astype(np.float32) / np.float32(255))
    if keep_alpha:
        assert (array[1, ..., 3] == 1).all()


def test_what_is_no_image_is_an_error(tmp_path: Path) -> None:
    broken = result(tmp_path, noise(1, 40, 30, 3))
    broken.files[0].write_bytes(b"no image")
    batch = ImageBatch(1)
    with pytest.raises(ResultFormatError):
        batch.finish([broken])


def test_touched_memory_is_an_array_like_any_other() -> None:
    for shape in ((1,), (3, 5, 7, 3), (0, 4, 4, 3), (1000, 1000)):
        array = touched(shape)
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, np.float32, True)
