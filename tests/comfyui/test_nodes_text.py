"""Text to video and text to image in a real ComfyUI, against the devnet."""

from __future__ import annotations

import time
from io import BytesIO

import av
import numpy as np
from graphs import dump, fresh, fresh_seed, node, sent_parameters
from harness import ComfyUI, ComfyUIFactory, SessionDevnet

from xalora_client.devnet.testcard import render
from xalora_client.media.images import decode_images

MAX_SEED = 2**53 - 1


def frames_of(data: bytes) -> np.ndarray:
    with av.open(BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]) / 255


def test_a_video_on_disk_its_frames_and_its_speed(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": node(
                "XaloraTextToVideo", prompt=fresh(), seed=fresh_seed(), width=128, height=64, length=9, fps=12
            ),
            "2": node("SaveVideo", video=["1", 0], filename_prefix=fresh(), format="auto", codec="auto"),
            "3": dump(["1", 1]),
            "4": node("XaloraTestText", value=["1", 2]),
        }
    )
    assert record.status == "success"
    (saved,) = comfyui.files(record, "2")
    array = record.array("3")
    assert (array.shape, array.dtype) == ((9, 64, 128, 3), np.float32)
    np.testing.assert_allclose(array, frames_of(saved), atol=1e-6)
    assert record.outputs["4"]["text"] == ["12.0"]
    assert " s by xalora" in record.texts_of("1")[-1].text


def test_without_frames_the_image_output_is_blocked_with_a_message(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    record = comfyui.run(
        {
            "1": node("XaloraTextToVideo", prompt=fresh(), seed=fresh_seed(), decode_frames=False),
            "2": node("SaveVideo", video=["1", 0], filename_prefix=fresh(), format="auto", codec="auto"),
            "3": dump(["1", 1]),
        }
    )
    assert record.status == "success"
    assert "3" not in record.outputs
    (blocked,) = record.blocked
    assert blocked["node_id"] == "3"
    assert "decode_frames is off" in blocked["exception_message"]
    assert len(comfyui.files(record, "2")) == 1


def test_an_animated_webp_becomes_a_video(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """Workflow 2 sends one, and what decodes videos in ComfyUI can't read it."""
    record = comfyui.run(
        {
            "1": node(
                "XaloraTextToVideo",
                prompt=fresh(),
                seed=fresh_seed(),
                workflow_id="2",
                width=256,
                height=256,
                length=16,
            ),
            "2": node("SaveVideo", video=["1", 0], filename_prefix=fresh(), format="auto", codec="auto"),
            "3": dump(["1", 1]),
        }
    )
    assert record.status == "success"
    (parameters,) = sent_parameters(comfyui, devnet)
    sent, _ = render("txt2vid", "2", parameters)
    # The frames are the very ones that were sent, and not those of the video.
    np.testing.assert_array_equal(record.array("3"), decode_images([sent]))
    assert frames_of(comfyui.files(record, "2")[0]).shape == (16, 256, 256, 3)


def test_a_video_in_use_outlives_the_limit_of_kept_results(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    """ComfyUI's cache holds a VIDEO that reads its file whenever it is saved, whatever settings change."""
    devnet.reset()
    extra = comfyui_factory(
        env={"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key},
    )
    prompt, seed = fresh(), fresh_seed()
    for run in range(3):
        # From the second run on no file but one would fit.
        if run:
            extra.post("/settings", {"Xalora.ResultsLimitGiB": 1e-9, "Xalora.MaxInFlight": run})
        record = extra.run(
            {
                "1": node("XaloraTextToVideo", prompt=prompt, seed=seed, decode_frames=False),
                "2": node("SaveVideo", video=["1", 0], filename_prefix=fresh(), format="auto", codec="auto"),
                "3": node("XaloraTextToVideo", prompt=prompt, seed=seed + 1 + run, decode_frames=False),
                "4": node("XaloraTestClock", value=["3", 0]),
            }
        )
        assert record.status == "success", record.describe()
        assert ("1" in record.cached) == (run > 0)
    # Once ComfyUI has forgotten them, they make room for the next.
    extra.clear_cache()
    record = extra.run(
        {
            "1": node("XaloraTextToVideo", prompt=prompt, seed=fresh_seed(), decode_frames=False),
            "2": node("XaloraTestClock", value=["1", 0]),
        }
    )
    assert record.status == "success"
    results, until = extra.root / "xalora-state" / "results", time.monotonic() + 30
    while len(list(results.rglob("*.mp4"))) > 1:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_only_what_was_given_is_sent(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt, seed = fresh(), fresh_seed()
    record = comfyui.run(
        {
            "1": node("XaloraTextToVideo", prompt=prompt, seed=seed, decode_frames=False, steps=5),
            "2": node("XaloraTestClock", value=["1", 0]),
        }
    )
    assert record.status == "success"
    assert sent_parameters(comfyui, devnet) == [{"prompt": prompt, "seed": seed, "steps": 5}]


def test_a_batch_of_images_has_seeds_in_a_row(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = fresh()
    record = comfyui.run(
        {
            "1": node(
                "XaloraTextToImage",
                prompt=prompt,
                lora_name="ink",
                seed=MAX_SEED - 1,
                batch_size=3,
                width=512,
                height=576,
                aspect_ratio="custom",
                guidance=0,
            ),
            "2": dump(["1", 0]),
        }
    )
    assert record.status == "success"
    array = record.array("2")
    assert array.shape == (3, 576, 512, 3)
    sent = sorted(sent_parameters(comfyui, devnet), key=lambda parameters: parameters["noise_seed"])
    assert [one["noise_seed"] for one in sent] == [0, MAX_SEED - 1, MAX_SEED]
    assert sent[0] == {
        "prompt": prompt,
        "lora_name": "ink",
        "aspect_ratio": "custom",
        "width": 512,
        "height": 576,
        "guidance": 0,
        "noise_seed": 0,
    }
    # Test cards tell seeds apart, so that a swap would show.
    single = comfyui.run(
        {
            "1": node(
                "XaloraTextToImage",
                prompt=prompt,
                lora_name="ink",
                seed=0,
                width=512,
                height=576,
                aspect_ratio="custom",
                guidance=0,
            ),
            "2": dump(["1", 0]),
        }
    )
    np.testing.assert_array_equal(single.array("2")[0], array[2])
    assert devnet.new_stats()["creates"] == 3


def test_the_base_options_reach_the_network(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": node(
                "XaloraTextToImage",
                prompt=fresh(),
                lora_name="ink",
                seed=1,
                workflow_id=" 3 ",
                job_id_prefix="my-graph",
                timeout_seconds=60,
            ),
            "2": dump(["1", 0]),
        }
    )
    assert record.status == "success"
    task = devnet.task(devnet.new_task_ids()[0])
    assert task.workflow_id == "3"
    assert task.job_id.startswith("my-graph-")
    assert set(sent_parameters(comfyui, devnet)[0]) == {"prompt", "lora_name", "noise_seed"}
