"""Files that declare more pixels than the limits allow are refused before anything is decoded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import bombs
import pytest

from xalora_client.errors import ResultFormatError, ResultTooLargeError
from xalora_client.image_batch import ImageBatch
from xalora_client.media import limits
from xalora_client.media.images import decode_images
from xalora_client.media.limits import TooLargeError
from xalora_client.media.media_types import sniff_file
from xalora_client.media.validation import check_complete
from xalora_client.results import RunResult, add_result_to_errors

MIB = 1 << 20


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda: bombs.gif(16384, 16384, 200),
        lambda: bombs.gif(3000, 3000, 20_000),
        lambda: bombs.gif(65535, 65535, 3),
        lambda: bombs.gif(64, 64, 200_000),
        lambda: bombs.animated_webp(16383, 16383, 50),
        lambda: bombs.animated_webp(1024, 1024, 2000),
        lambda: bombs.animated_webp(12000, 12000, 4),
    ],
    ids=[
        "gif canvas",
        "gif frames",
        "gif largest canvas",
        "gif many frames",
        "webp canvas",
        "webp frames",
        "webp few large frames",
    ],
)
def test_an_animation_is_refused_by_what_it_declares(tmp_path: Path, make: Callable[[], bytes]) -> None:
    file = written(tmp_path / "a", make())
    kind = sniff_file(file)
    assert kind is not None
    with pytest.raises(TooLargeError, match=r"more than|larger than"):
        check_complete(file, kind)
    with pytest.raises(ResultTooLargeError, match=r"more than|larger than"):
        decode_images([file])


@pytest.mark.parametrize("how_many", [1, 3])
def test_images_of_a_result_are_refused_by_what_they_declare(tmp_path: Path, how_many: int) -> None:
    side = 16384 if how_many == 1 else 8192
    file = written(tmp_path / "a.png", bombs.png(side, side, honest=False))
    files = [file] * how_many
    tracemalloc.start()
    try:
        with pytest.raises(ResultTooLargeError, match=r"more than the 512 MiB allowed"):
            decode_images(files)
        result = RunResult(files=tuple(files), engine="xalora", job_id="j", task_id="t")
        if how_many == 1:
            with pytest.raises(ResultTooLargeError, match="16384x16384"):
                ImageBatch(1).add(0, result)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


def test_images_that_do_not_fit_into_the_free_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "a.png", bombs.png(1024, 1024))
    monkeypatch.setattr(limits, "free_memory", lambda: 260 * MIB)
    with pytest.raises(ResultTooLargeError, match="12 MiB of memory, and 260 MiB are free"):
        decode_images([file])


@pytest.mark.parametrize(
    "error", [ValueError("x"), RecursionError(), MemoryError(), UnicodeError(), ZeroDivisionError()]
)
def test_whatever_decoding_raises_is_an_error_of_that_one_task(tmp_path: Path, error: Exception) -> None:
    result = RunResult(files=(tmp_path / "a.png",), engine="xalora", job_id="j", task_id="t1")
    with pytest.raises(ResultFormatError, match="t1") as caught, add_result_to_errors(result):
        raise error
    assert caught.value.__cause__ is error
    assert "retrievable" in str(caught.value)
