"""Results of several tasks as one array."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from xalora_client import ImageBatch, ResultFormatError, RunResult
from xalora_client.image_batch import images_in
from xalora_client.media.limits import allocate
from xalora_client.media.png_encode import encode_png


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


def several(*results: RunResult) -> RunResult:
    files = tuple(file for one in results for file in one.files)
    return RunResult(files=files, engine="xalora", job_id="job", task_id="t1")


def test_all_files_of_a_result_are_taken_in_order(tmp_path: Path) -> None:
    pictures = [noise(seed, 40, 30, 3) for seed in range(6)]
    pairs = [several(*(result(tmp_path, one) for one in pictures[at : at + 2])) for at in (0, 2, 4)]
    batch = ImageBatch(3)
    firsts = [batch.add(index, pairs[index]) for index in (2, 0, 1)]
    array = batch.finish(pairs)
    assert np.array_equal(array, np.stack(pictures).astype(np.float32) / np.float32(255))
    assert all(first is not None and np.shares_memory(first, array) for first in firsts)
    assert [images_in(pair) for pair in pairs] == [2, 2, 2]


@pytest.mark.parametrize("arrival", [(0, 1), (1, 0)])
def test_results_may_hold_different_numbers_of_images(tmp_path: Path, arrival: tuple[int, int]) -> None:
    pictures = [noise(seed, 40, 30, 3) for seed in range(3)]
    one = result(tmp_path, pictures[0])
    two = several(result(tmp_path, pictures[1]), result(tmp_path, pictures[2]))
    batch = ImageBatch(2)
    for index in arrival:
        batch.add(index, (one, two)[index])
    assert np.array_equal(batch.finish([one, two]), np.stack(pictures).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("name", ["moving.webp", "moving.gif"])
def test_an_animation_gives_all_its_frames(tmp_path: Path, name: str) -> None:
    frames = [np.full((6, 5, 3), 80 * place, np.uint8) for place in range(3)]
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=50, lossless=True)
    moving = RunResult(files=(tmp_path / name,), engine="xalora", job_id="job", task_id="t1")
    batch = ImageBatch(1)
    batch.add(0, moving)
    assert np.array_equal(batch.finish([moving]), np.stack(frames).astype(np.float32) / np.float32(255))
    assert images_in(moving) == 3


def test_what_is_no_image_is_an_error_that_says_whose_it_is_and_how_to_get_out(tmp_path: Path) -> None:
    broken = several(result(tmp_path, noise(1, 40, 30, 3)))
    broken.files[0].write_bytes(b"no image")
    video = several(result(tmp_path, noise(1, 40, 30, 3)))
    video.files[0].write_bytes(b"\0\0\0\x18ftypisom" + bytes(64))
    for unusable in (broken, video):
        with pytest.raises(ResultFormatError) as caught:
            ImageBatch(1).add(0, unusable)
        assert caught.value.task_id == "t1"
        for part in ("t1", "is paid for", str(unusable.files[0]), "`xalora forget t1`", "sidebar"):
            assert part in str(caught.value)
    assert "is a video, not an image" in str(caught.value)


def test_what_was_made_here_and_is_no_image_is_not_called_paid_for(tmp_path: Path) -> None:
    broken = result(tmp_path, noise(1, 40, 30, 3))
    broken.files[0].write_bytes(b"no image")
    with pytest.raises(ResultFormatError, match="nothing was charged"):
        ImageBatch(1).add(0, broken)


def test_touched_memory_is_an_array_like_any_other() -> None:
    for shape in ((1,), (3, 5, 7, 3), (0, 4, 4, 3), (1000, 1000)):
        array = allocate(shape)
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, np.float32, True)
