"""Large images in tiles by XaloraUpscaleImage in a real ComfyUI, against the devnet."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from graphs import doubled, dump, fresh_seed, image, node, noise, told
from harness import ComfyUI, ComfyUIFactory, SessionDevnet
from PIL import Image

SIZE = {"width": 900, "height": 600}
TILES = 6


def graph(seed: int, *, batch: int = 1, **inputs: Any) -> dict[str, Any]:
    return {
        "1": image(seed, batch=batch, **SIZE),
        "2": node("XaloraUpscaleImage", image=["1", 0], **{"tile": "512", **inputs}),
        "3": dump(["2", 0]),
    }


def test_a_batch_of_large_images_is_the_tiles_of_each(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    record = comfyui.run(graph(seed, batch=2))
    assert record.status == "success"
    expected = np.stack([doubled(one) for one in noise(seed, batch=2, **SIZE)])
    np.testing.assert_allclose(record.array("3"), expected, atol=1 / 255)
    assert devnet.new_stats()["creates"] == 2 * TILES
    assert record.progress_of("2")[-1] == (2 * TILES, 2 * TILES)
    lines = [text.text for text in record.texts_of("2")]
    assert re.match(rf"1800 x 1200, {2 * TILES} in .* by xalora", lines[-1]), lines
    listed = comfyui.get("/xalora/tasks").json()["tasks"]
    (row,) = [row for row in listed if row["prompt"] == record.prompt_id]
    assert row["whole"]["label"] == "upscale 2 images"
    assert row["whole"]["parts"] == {"done": 2 * TILES}


def test_the_last_preview_has_all_tiles(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """They all come within the pause between two previews."""
    devnet.task_seconds = 0.5
    record = comfyui.run(graph(fresh_seed(), max_in_flight=TILES))
    assert record.status == "success"
    with Image.open(BytesIO(record.previews[-1].data)) as preview:
        brightness = np.asarray(preview.convert("L").resize((30, 20), Image.Resampling.BOX))
    assert brightness.min() > 50


def test_an_image_that_a_request_takes_is_one_task(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    assert comfyui.run(graph(fresh_seed(), tile="auto")).status == "success"
    assert comfyui.run(graph(fresh_seed(), tile="never")).status == "success"
    assert devnet.new_stats()["creates"] == 2


def test_an_image_that_the_network_finds_too_large_is_cut(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    devnet.add_fault("task_create:413:n=1")
    record = comfyui.run(graph(seed, batch=2, tile="auto", max_in_flight=1))
    assert record.status == "success", record.describe()
    expected = np.stack([doubled(one) for one in noise(seed, batch=2, **SIZE)])
    np.testing.assert_allclose(record.array("3"), expected, atol=1 / 255)
    # The image that was not refused stays whole, and is not paid for again.
    assert devnet.new_stats()["creates"] == TILES + 1
    lines = [text.text for text in record.texts_of("2")]
    assert re.match(rf"1800 x 1200, {TILES + 1} in .* by xalora", lines[-1]), lines


@pytest.mark.parametrize(
    ("tile", "press"),
    [("never", "Set tile to auto"), ("512", "Choose smaller tiles"), ("auto", "Make it smaller")],
)
def test_what_the_network_finds_too_large_at_any_size_is_told(
    comfyui: ComfyUI, devnet: SessionDevnet, tile: str, press: str
) -> None:
    devnet.add_fault("task_create:413")
    record = comfyui.run(graph(fresh_seed(), tile=tile))
    assert record.status == "error"
    lines = record.error["exception_message"].strip().split("\n")
    assert lines[:2] == ["The image is too large for one request.", "Nothing was charged."]
    assert lines[2].startswith(press)
    assert devnet.new_stats()["creates"] == 0


def test_submit_refuses_what_no_request_takes(comfyui_factory: ComfyUIFactory, devnet: SessionDevnet) -> None:
    devnet.reset()
    extra = comfyui_factory(
        env={
            "XALORA_WORKFLOW_URL": devnet.url,
            "XALORA_API_KEY": devnet.api_key,
            "XALORA_INLINE_LIMIT": "1000000",
        },
    )

    def submit(**size: int) -> list[str]:
        prompt = {
            "1": image(fresh_seed(), batch=2, **size),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
        }
        record = extra.run(prompt)
        assert record.status == "error"
        message: str = record.error["exception_message"]
        return message.strip().split("\n")

    refused = [
        "The image is too large for one request.",
        "Nothing was charged.",
        "Use Xalora Upscale Image, which cuts it into tiles.",
    ]
    assert submit(**SIZE) == refused
    assert devnet.new_stats()["endpoints"]["task_create"] == 0
    devnet.add_fault("task_create:413")
    assert submit(width=40, height=30) == refused
    assert devnet.new_stats()["creates"] == 0
    devnet.clear_faults()
    # And the node that it names takes it, in tiles of the 571 pixels that fit in this limit.
    record = extra.run(graph(fresh_seed(), tile="auto"))
    assert record.status == "success", record.describe()
    assert devnet.new_stats()["creates"] == 4


def test_above_the_limit_nothing_is_sent(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(graph(fresh_seed(), max_tasks=TILES - 1))
    assert record.status == "error"
    assert f"needs {TILES} tasks" in record.error["exception_message"], record.error["exception_message"]
    assert devnet.new_stats()["creates"] == 0


def test_the_limit_counts_what_would_be_sent(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    devnet.add_fault(f"miner:failed:n=2,{TILES + 1},{TILES + 2}")
    record = comfyui.run(graph(seed, max_in_flight=1, fallback="never"))
    assert record.status == "error"
    sent = devnet.new_stats()["creates"]
    # The tile that is missing is one task, and the others are none.
    record = comfyui.run(graph(seed, max_tasks=1, fallback="never"))
    assert record.status == "success", record.describe()
    assert devnet.new_stats()["creates"] == sent + 1
    record = comfyui.run(graph(seed, max_tasks=2, fallback="never"))
    assert record.status == "success", record.describe()
    assert devnet.new_stats()["creates"] == sent + 1
    # With reuse off all would be sent.
    record = comfyui.run(graph(seed, max_tasks=1, reuse=False))
    assert record.status == "error"
    assert f"needs {TILES} tasks" in record.error["exception_message"]
    assert devnet.new_stats()["creates"] == sent + 1


def test_a_new_run_sends_only_the_tile_that_is_missing(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    # The second tile fails, is sent again after the others, and then once more.
    devnet.add_fault(f"miner:failed:n=2,{TILES + 1},{TILES + 2}")
    record = comfyui.run(graph(seed, max_in_flight=1, fallback="never"))
    assert "tile" in told(comfyui, record)
    before = devnet.new_stats()["tasks"]["finished"]
    assert before == TILES - 1
    record = comfyui.run(graph(seed, max_in_flight=1, fallback="never"))
    assert record.status == "success"
    assert devnet.new_stats()["tasks"]["finished"] == TILES
    np.testing.assert_allclose(record.array("3")[0], doubled(noise(seed, **SIZE)[0]), atol=1 / 255)


def test_this_machine_makes_all_or_none(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    here = comfyui.run(graph(seed, fallback="local_only", local_model="LANCZOS"))
    assert here.status == "success" and here.array("3").shape == (1, 1200, 1800, 3)
    assert devnet.new_stats()["creates"] == 0
    devnet.add_fault(f"miner:failed:n=2,{TILES + 1},{TILES + 2}")
    options = {"fallback": "on_any_failure", "local_model": "LANCZOS", "max_in_flight": 1}
    record = comfyui.run(graph(fresh_seed(), **options))
    assert record.status == "error"
    message = record.error["exception_message"]
    assert "Not all tiles were made." in message and "kept and not paid again" in message
