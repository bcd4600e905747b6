"""Every form of `result`, and what a reference becomes."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xalora_client import ImageBatch, ResultDownloadError, ResultFormatError, ResultLocationError, RunResult
from xalora_client.network.answers import (
    addresses_of,
    failure_reason,
    holds_nothing,
    miner_of,
    result_references,
    shown_reference,
)

PNG_BASE64 = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(64))).decode()
PNG_URI = f"data:image/png;base64,{PNG_BASE64}"
JPEG_BASE64 = base64.urlsafe_b64encode(b"\xff\xd8\xff\xe0" + bytes(range(192, 256))).decode().rstrip("=")
LINES = "\n".join(PNG_BASE64[start : start + 76] for start in range(0, len(PNG_BASE64), 76))
GLB_BASE64 = base64.b64encode(b"glTF" + bytes(60)).decode()


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
        ('{"url": "https://h/x.png"}', ["https://h/x.png"]),
        (' ["https://h/x.png", "https://h/x.png?2"]', ["https://h/x.png", "https://h/x.png?2"]),
        ('"https://h/x.png"', ["https://h/x.png"]),
        ('"{\\"image\\": \\"https://h/x.png\\"}"', ["https://h/x.png"]),
        ("[draft] a.png", ["[draft] a.png"]),
        ("[17]", []),
        ({"gifs": [{"filename": "a.mp4", "url": "https://h/a.mp4"}]}, ["https://h/a.mp4"]),
        ({"output": "https://h/x.png"}, ["https://h/x.png"]),
        ({"data": {"outputs": [{"file_url": "https://h/x.png"}]}}, ["https://h/x.png"]),
        ({"data": "https://h/x.png"}, ["https://h/x.png"]),
        ({"data": "all went well"}, []),
        (
            {"9": {"images": [{"filename": "a.png", "subfolder": "xalora", "type": "output"}]}},
            ["xalora/a.png"],
        ),
        ({"key": "flux-lora/a.jpg"}, ["flux-lora/a.jpg"]),
        ({"image_url": "https://h/x.png", "key": "x.png"}, ["https://h/x.png"]),
        ({"image_urls": ["https://h/x.png", "https://h/y.png"]}, ["https://h/x.png", "https://h/y.png"]),
        ({"imageUrl": "https://h/x.png", "thumbnailUrl": "https://h/t.png"}, ["https://h/x.png"]),
        ({"signed-url": "https://h/x.png?sig=1"}, ["https://h/x.png?sig=1"]),
        ({"output": {"message": PNG_BASE64, "status": "success"}}, [PNG_URI]),
        ({"output": {"message": "https://h/x.png", "status": "success"}}, ["https://h/x.png"]),
        ({"message": "all went well", "url": "https://h/x.png"}, ["https://h/x.png"]),
        ({"message": "all went well"}, []),
        ({"image_base64": PNG_BASE64}, [PNG_URI]),
        (PNG_BASE64, [PNG_URI]),
        (PNG_URI, [PNG_URI]),
        ({"images": [{"filename": "a.png", "type": "base64", "data": PNG_BASE64}]}, [PNG_URI]),
        ({"image": PNG_BASE64}, [PNG_URI]),
        ([LINES], [f"data:image/png;base64,{LINES}"]),
        (JPEG_BASE64, [f"data:image/jpeg;base64,{JPEG_BASE64}"]),
        (GLB_BASE64, [f"data:application/octet-stream;base64,{GLB_BASE64}"]),
        ("https://h/x.png\nhttps://h/y.png", ["https://h/x.png", "https://h/y.png"]),
        ("https://h/x.png,HTTPS://h/y.png; http://h/z", ["https://h/x.png", "HTTPS://h/y.png", "http://h/z"]),
        ("https://h/a,b.png?u=https://h/c", ["https://h/a,b.png?u=https://h/c"]),
        (f"https://h/x{' ' * 10**6}y", [f"https://h/x{' ' * 10**6}y"]),
        (f"{PNG_BASE64}{' ' * 10**6}!", []),
        ({"files": [{"href": "https://h/x.png"}]}, ["https://h/x.png"]),
        ({"src": "https://h/x.png", "cdn_url": "https://cdn/x.png"}, ["https://cdn/x.png"]),
        ({"link": "https://h/a-page", "images": ["a.png"]}, ["a.png"]),
        ({"artifacts": [{"base64": PNG_BASE64, "finishReason": "SUCCESS"}]}, [PNG_URI]),
        # Letters of base64 that begin as no file are a key.
        ("results/" + "a" * 80, ["results/" + "a" * 80]),
        ("[" * 50_000, []),
        ("\ufeffhttps://r/a.png\u200b\n", ["https://r/a.png"]),
        ('\ufeff{"url": "https://r/a.png"}', ["https://r/a.png"]),
    ],
)
def test_every_form_is_understood(result: Any, references: list[str]) -> None:
    assert result_references(result) == references


@pytest.mark.parametrize(
    ("key", "urls"),
    [
        ("a dir/x#1.png", ["a%20dir/x%231.png"]),
        ("out%20dir/a%20b.png", ["out%20dir/a%20b.png", "out%2520dir/a%2520b.png"]),
        ("a%2Fb~c.png", ["a%2Fb~c.png", "a%252Fb~c.png"]),
        ("100%.png", ["100%25.png"]),
        ("a%20b c.png", ["a%2520b%20c.png"]),
        ("ä.png", ["%C3%A4.png"]),
        ("a\ud83d.png", ["a%3F.png"]),
        ("a.png?sig=a%2Fb&x=1", ["a.png?sig=a%2Fb&x=1", "a.png%3Fsig%3Da%252Fb%26x%3D1"]),
        ("why?.png#1", ["why%3F.png%231"]),
        ("out\\sub\\a.png", ["out%5Csub%5Ca.png", "out/sub/a.png"]),
    ],
)
def test_a_bare_key_is_joined_to_the_base_url_and_encoded_once(key: str, urls: list[str]) -> None:
    found = addresses_of(key, result_base_url="https://r/files/", task_id="t1")
    assert found == tuple(f"https://r/files/{url}" for url in urls)


@pytest.mark.parametrize(
    "url", ["https://h/a%2Fb.png?s=%7E", "HTTP://h/a b", "data:image/png;base64,AAAA", "Data:,x"]
)
def test_an_address_stays_as_it_came(url: str) -> None:
    assert addresses_of(url, result_base_url="https://r/", task_id="t1") == (url,)


def test_a_path_from_the_root_is_looked_for_there_too() -> None:
    found = addresses_of("/view/a%20b.png?sig=%7E", result_base_url="https://r:8/files", task_id="t1")
    assert found[-1] == "https://r:8/view/a%20b.png?sig=%7E"
    assert addresses_of("//x.png", result_base_url="https://r/", task_id="t1") == ("https://r/x.png",)
    found = addresses_of("//cdn.example/a.png?s=%7E", result_base_url="https://r/files", task_id="t1")
    assert found[-1] == "https://cdn.example/a.png?s=%7E"


@pytest.mark.parametrize("key", ["../secret.png", "a/../../b", "a/%2e%2e/b", "..", "a\\..\\b"])
def test_a_key_stays_in_its_folder(key: str) -> None:
    with pytest.raises(ResultLocationError, match="leads out of its folder") as caught:
        addresses_of(key, result_base_url="https://r/", task_id="t1")
    assert (caught.value.task_id, "stays retrievable" in str(caught.value)) == ("t1", True)


def test_a_reference_is_shown_shortened_and_without_what_signs_it() -> None:
    assert shown_reference("a/b.png?sig=hush") == "'a/b.png'"
    assert len(shown_reference("x" * 300_000)) < 200


@pytest.mark.parametrize(
    ("result", "nothing"),
    [
        *((None, True), ("", True), ({}, True), ([], True), ({"url": None}, True), ({"images": [""]}, True)),
        *(("a.png", False), (0, False), ({"note": "done"}, False)),
    ],
)
def test_a_result_that_is_not_there_yet_is_told_from_one_of_an_unknown_form(
    result: Any, nothing: bool
) -> None:
    assert holds_nothing(result) is nothing


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


def animation(path: Path, frames: list[np.ndarray], **options: object) -> RunResult:
    images = [Image.fromarray(pixels) for pixels in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, **options)
    return RunResult(files=(path,), engine="xalora", job_id="job-1", task_id="t1")


@pytest.mark.parametrize("channels", [3, 4])
def test_images_of_an_animated_webp_are_its_very_frames(tmp_path: Path, channels: int) -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, (63, 65, channels), np.uint8) for seed in range(3)]
    result = animation(tmp_path / "a.webp", frames, lossless=True, exact=True)
    if channels == 4:
        shown = result.images[..., 3] > 0  # what is not to be seen has no colour that could be lost
        assert np.array_equal(result.images[shown], (np.stack(frames) / np.float32(255))[shown])
        assert np.array_equal(result.images[..., 3], np.stack(frames)[..., 3] / np.float32(255))
    else:
        assert np.array_equal(result.images, np.stack(frames) / np.float32(255))
    assert [file.name for file in tmp_path.iterdir()] == ["a.webp"]


def test_images_of_a_gif_are_all_its_frames_and_have_alpha_where_it_is_seen(tmp_path: Path) -> None:
    opaque = [np.full((5, 7, 3), 60 * place, np.uint8) for place in range(4)]
    opaque[1][2, 3] = 255  # what stays the same is stored as transparent, and is not
    images = animation(tmp_path / "a.gif", opaque).images
    assert np.array_equal(images, np.stack(opaque) / np.float32(255))
    holes = [np.dstack([frame, np.full((5, 7), 255, np.uint8)]) for frame in opaque[:2]]
    holes[0][:2] = 0
    images = animation(tmp_path / "b.gif", holes, disposal=2).images
    assert images.shape == (2, 5, 7, 4)
    assert (images[0, :2, :, 3].max(), images[0, 2:, :, 3].min()) == (0, 1)


def test_a_still_gif_has_alpha_only_where_it_is_seen(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.gif")
    assert RunResult((tmp_path / "a.gif",), "xalora", "job-1").images.shape == (1, 3, 4, 3)


@pytest.mark.parametrize(
    "look", [lambda one: one.images, lambda one: one.video, lambda one: ImageBatch(1).add(0, one)]
)
def test_a_kept_file_that_was_removed_is_told_with_its_task(tmp_path: Path, look: Any) -> None:
    with pytest.raises(ResultDownloadError, match=r"a\.png can no longer be read.*fetched anew") as caught:
        look(RunResult((tmp_path / "a.png",), "xalora", "job-1", task_id="t1"))
    assert caught.value.task_id == "t1"


def test_a_still_image_is_no_video_and_the_error_says_whose_it_is(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.png")
    with pytest.raises(ResultFormatError, match=r"is not a video") as caught:
        _ = RunResult((tmp_path / "a.png",), "xalora", "job-1", task_id="t1").video
    assert caught.value.task_id == "t1"
    assert "`xalora forget t1`" in str(caught.value)


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


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("CUDA out of\n memory", "CUDA out of memory"),
        ({"message": "no such LoRA"}, "no such LoRA"),
        ({"error": "no such LoRA", "code": 7}, "no such LoRA"),
        ({"message": "", "msg": "no such LoRA"}, "no such LoRA"),
        ({"error": {"code": 7, "message": "no such LoRA"}}, "no such LoRA"),
        ({"code": 7}, "{'code': 7}"),
        (None, "the network gives no reason"),
        ({}, "the network gives no reason"),
        ("x" * 201, "x" * 197 + "..."),
    ],
)
def test_why_a_task_failed_is_told_in_its_own_words(result: Any, reason: str) -> None:
    assert failure_reason(result) == reason


def test_the_message_beside_a_result_says_why_a_task_failed() -> None:
    assert failure_reason(None, "CUDA out of memory") == "CUDA out of memory"
    assert failure_reason({"error": "no such LoRA"}, "failed") == "no such LoRA"
