"""Files that declare more pixels than the limits allow are refused before anything is decoded."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import bombs
import numpy as np
import psutil
import pytest

from xalora_client.errors import ResultFormatError, ResultTooLargeError
from xalora_client.image_batch import ImageBatch
from xalora_client.media import limits
from xalora_client.media.images import decode_images
from xalora_client.media.limits import PixelLimits, TooLargeError
from xalora_client.media.media_types import sniff_file
from xalora_client.media.validation import check_complete
from xalora_client.media.video import open_video
from xalora_client.results import RunResult, add_result_to_errors
from xalora_client.tasks import VIDEO_LIMITS

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


def test_what_is_decoded_at_the_same_time_fits_into_the_free_memory_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = psutil.Process()
    most = process.memory_info().rss + 512 * MIB
    monkeypatch.setattr(limits, "free_memory", lambda: 256 * MIB + most - process.memory_info().rss)
    together, arrays, refusals = threading.Barrier(8), list[object](), list[TooLargeError]()

    def decode() -> None:
        together.wait()
        try:
            arrays.append(limits.allocate((200, 1024, 256)))
        except TooLargeError as error:
            refusals.append(error)

    threads = [threading.Thread(target=decode) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(arrays) <= 2
    assert len(arrays) + len(refusals) == 8
    assert process.memory_info().rss <= most + 32 * MIB


class TestSettings:
    """The limits are settings; they count in this process, in its threads, and in the workers."""

    def test_of_images(self, tmp_path: Path) -> None:
        files = [written(tmp_path / f"{n}.png", bombs.png(64, 48)) for n in range(3)]
        each = 64 * 48 * 3
        with limits.using(PixelLimits(image_bytes=3 * each)):
            assert decode_images(files).shape == (3, 48, 64, 3)
        with (
            limits.using(PixelLimits(image_bytes=3 * each - 1)),
            pytest.raises(ResultTooLargeError, match="XALORA_MAX_IMAGE_BYTES"),
        ):
            decode_images(files)

    def test_of_a_results_own_images(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.png", bombs.png(64, 48))
        tight = RunResult((file,), "xalora", "j", task_id="t", limits=PixelLimits(image_bytes=64))
        for read in (lambda: tight.images, lambda: ImageBatch(1).add(0, tight)):
            with pytest.raises(ResultTooLargeError, match="XALORA_MAX_IMAGE_BYTES"):
                read()
        assert RunResult((file,), "xalora", "j").images.shape == (1, 48, 64, 3)

    def test_of_an_animation(self, tmp_path: Path) -> None:
        file = written(tmp_path / "a.gif", bombs.gif(64, 64, 20))
        kind = sniff_file(file)
        assert kind is not None
        with (
            limits.using(PixelLimits(video_bytes=64 * 64 * 19)),
            pytest.raises(TooLargeError, match="XALORA_MAX_VIDEO_BYTES"),
        ):
            check_complete(file, kind)

    def test_of_a_video_stay_with_it(self, repository: Path) -> None:
        file = repository / "tests" / "fuzz_corpus" / "good-h264.mp4"
        result = RunResult((file,), "xalora", "j", limits=PixelLimits(video_bytes=1000))
        with pytest.raises(ResultTooLargeError, match="XALORA_MAX_VIDEO_BYTES"):
            result.video.frames()
        whole = open_video(file).frames()
        assert whole.dtype == np.float32 and len(whole) > 0

    def test_allow_by_default_what_a_workflow_can_be_asked_for(self) -> None:
        for workflow in VIDEO_LIMITS.values():
            largest = 3 * workflow.width[1] * workflow.height[1] * workflow.length[1]
            assert largest <= limits.DEFAULT.video_bytes


@pytest.mark.parametrize(
    "error", [ValueError("x"), RecursionError(), MemoryError(), UnicodeError(), ZeroDivisionError()]
)
def test_whatever_decoding_raises_is_an_error_of_that_one_task(tmp_path: Path, error: Exception) -> None:
    result = RunResult(files=(tmp_path / "a.png",), engine="xalora", job_id="j", task_id="t1")
    with pytest.raises(ResultFormatError, match="t1") as caught, add_result_to_errors(result):
        raise error
    assert caught.value.__cause__ is error
    assert "retrievable" in str(caught.value)
