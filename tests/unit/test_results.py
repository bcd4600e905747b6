"""Every form of `result`, and what a reference becomes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from xalora_client import ResultFormatError, ResultLocationError, RunResult
from xalora_client.results import miner_of, resolve_reference, result_references


@pytest.mark.parametrize(
    ("result", "references"),
    [
        ("https://h/x.png", ["https://h/x.png"]),
        ("upscaled-image.png", ["upscaled-image.png"]),
        ("test-video/hunyuan-fp8-m1-t1.mp4", ["test-video/hunyuan-fp8-m1-t1.mp4"]),
        ({"url": "https://h/x.png"}, ["https://h/x.png"]),
        ({"video_url": "https://h/x.mp4"}, ["https://h/x.mp4"]),
        ({"image_url": "https://h/x.png"}, ["https://h/x.png"]),
        ({"images": ["a.png", {"url": "b.png"}]}, ["a.png", "b.png"]),
        ({"videos": [{"url": "https://h/x.mp4"}]}, ["https://h/x.mp4"]),
        ([{"url": "a.png"}, "b.png"], ["a.png", "b.png"]),
        (["a.png", "a.png"], ["a.png"]),
        ({"url": "a.png", "images": ["a.png", "thumbnail.png"]}, ["a.png"]),
        ("data:image/png;base64,AAAA", ["data:image/png;base64,AAAA"]),
        ("", []),
        (None, []),
        (17, []),
        ({"note": "done"}, []),
    ],
)
def test_every_form_is_understood(result: Any, references: list[str]) -> None:
    assert result_references(result) == references


def test_a_bare_key_is_joined_to_the_base_url() -> None:
    assert (
        resolve_reference("a dir/x#1.png", result_base_url="https://r/results/", task_id="t1")
        == "https://r/results/a%20dir/x%231.png"
    )


def test_a_bare_key_without_a_base_url_names_the_setting_the_key_and_the_task() -> None:
    with pytest.raises(ResultLocationError) as caught:
        resolve_reference("x.png", result_base_url=None, task_id="t1")
    for part in ("XALORA_RESULT_BASE_URL", "'x.png'", "t1", "paid"):
        assert part in str(caught.value)
    assert caught.value.task_id == "t1"


@pytest.mark.parametrize(
    ("reference", "miner"),
    [
        ("test-video/hunyuan-fp8-0xabc-t1.mp4", "0xabc"),
        ("https://h/results/flux-lora/flux-lora-0xabc-t1.jpg?sig=a-b", "0xabc"),
        ("upscaled-image.png", None),
        ("t1.png", None),
        ("x-0xabc-t1-2.png", None),
    ],
)
def test_a_storage_key_of_the_public_miners_form_names_its_miner(reference: str, miner: str | None) -> None:
    assert miner_of(reference, "t1") == miner


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that can be held back")
def test_a_result_is_decoded_while_another_one_still_is(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "quick.png")
    os.mkfifo(tmp_path / "slow.png")
    slow, quick = (RunResult((tmp_path / f"{name}.png",), "xalora", "job-1") for name in ("slow", "quick"))
    refused: list[ResultFormatError] = []

    def decode_slowly() -> None:
        try:
            _ = slow.images
        except ResultFormatError as error:
            refused.append(error)

    decoding = threading.Thread(target=decode_slowly)
    decoding.start()
    # Opens once the other end is being read: from here on the decoder waits in the middle of its work.
    with (tmp_path / "slow.png").open("wb", buffering=0) as held_back:
        images: list[Any] = []
        other = threading.Thread(target=lambda: images.append(quick.images), daemon=True)
        other.start()
        other.join(30)
        assert images and images[0].shape == (1, 3, 4, 3)
        # Every look at the file is answered with nothing from now on.
        (tmp_path / "slow.png").unlink()
        (tmp_path / "slow.png").write_bytes(b"no image")
        held_back.write(b"no image")
    decoding.join(30)
    assert len(refused) == 1
    assert quick.images is images[0]
