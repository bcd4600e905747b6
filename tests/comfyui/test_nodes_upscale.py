"""XaloraUpscaleImage in a real ComfyUI, against the devnet."""

from __future__ import annotations

import re
import threading
import time
from io import BytesIO
from typing import Any

import numpy as np
from graphs import doubled, dump, fresh, fresh_seed, image, node, noise
from harness import ComfyUI, SessionDevnet
from PIL import Image


def test_one_image_comes_back_at_the_networks_size(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    record = comfyui.run(
        {"1": image(seed), "2": node("XaloraUpscaleImage", image=["1", 0]), "3": dump(["2", 0])}
    )
    assert record.status == "success"
    array = record.array("3")
    assert (array.shape, array.dtype) == ((1, 60, 80, 3), np.float32)
    np.testing.assert_allclose(array[0], doubled(noise(seed)[0]), atol=1e-6)
    assert devnet.new_stats()["tasks"] == {"finished": 1}


def test_a_batch_keeps_its_order_whoever_ends_first(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    # The first task taken is slow to be told of: its result comes last.
    devnet.add_fault("result:slow:n=1:seconds=1.5")
    record = comfyui.run(
        {
            "1": image(seed, batch=5),
            "2": node("XaloraUpscaleImage", image=["1", 0], max_in_flight=5),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    expected = np.stack([doubled(one) for one in noise(seed, batch=5)])
    np.testing.assert_allclose(record.array("3"), expected, atol=1e-6)
    assert devnet.new_stats()["creates"] == 5


def test_the_bar_and_the_line_count_the_batch(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    # The fourth waits for one of three miners, and is at work whenever the others are found to have ended.
    devnet.next_task_seconds.extend((0.7, 0.7, 0.7, 3.5))
    record = comfyui.run(
        {
            "1": image(fresh_seed(), batch=4),
            "2": node("XaloraUpscaleImage", image=["1", 0]),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    steps = record.progress_of("2")
    assert [step for step in steps if step[1] == 4] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    lines = [text.text for text in record.texts_of("2")]
    assert any(line.startswith("3/4, 1 running") for line in lines), lines
    assert re.match(r"\d+ x \d+, 4 in ", lines[-1]) and "by xalora" in lines[-1], lines


def test_no_more_tasks_at_a_time_than_the_cap(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 0.3
    before = devnet.stats()["creates"]
    record = comfyui.start(
        {
            "1": image(fresh_seed(), batch=6),
            "2": node("XaloraUpscaleImage", image=["1", 0], max_in_flight=2),
            "3": dump(["2", 0]),
        }
    )
    open_tasks: list[int] = []

    def all_done(stats: dict[str, Any]) -> bool:
        # Asked after every change at the sequencer, so that none is missed.
        open_tasks.append(stats["tasks"]["waiting"] + stats["tasks"]["running"])
        return stats["creates"] - before == 6 and open_tasks[-1] == 0

    devnet.wait_for(all_done)
    assert record.wait().status == "success"
    assert max(open_tasks) == 2


def test_a_fourth_channel_is_resized_here_and_rejoined(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    record = comfyui.run(
        {
            "1": image(seed, channels=4, batch=2),
            "2": node("XaloraUpscaleImage", image=["1", 0]),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    array = record.array("3")
    sent = noise(seed, batch=2, channels=4)
    assert array.shape == (2, 60, 80, 4)
    for got, given in zip(array, sent, strict=True):
        np.testing.assert_allclose(got[..., :3], doubled(given[..., :3]), atol=1e-6)
        alpha = Image.fromarray(given[..., 3]).resize((80, 60), Image.Resampling.LANCZOS)
        np.testing.assert_allclose(got[..., 3], np.clip(np.asarray(alpha), 0, 1), atol=1e-6)
    assert devnet.new_stats()["creates"] == 2


def test_each_step_is_told_and_the_result_previewed(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 2.5
    for miner in list(devnet.miners):
        devnet.kill_miner(miner)
    record = comfyui.start(
        {"1": image(fresh_seed()), "2": node("XaloraUpscaleImage", image=["1", 0]), "3": dump(["2", 0])}
    )
    record.wait_for_text("first in the queue", node="2")
    devnet.add_fault("result:slow:seconds=1.5")
    devnet.add_miner()
    record.wait_for_text("running 1 s", node="2")
    record.wait()
    assert record.status == "success"
    last = record.texts_of("2")[-1].text
    assert " s by xalora" in last, last
    (preview,) = [preview for preview in record.previews if preview.node == "2"]
    picture = Image.open(BytesIO(preview.data))
    assert (preview.media_type, picture.size) == ("image/jpeg", (80, 60))


def test_the_download_is_told_in_percent(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("result:slow:seconds=3")
    record = comfyui.run(
        {
            "1": image(fresh_seed(), width=256, height=256),
            "2": node("XaloraUpscaleImage", image=["1", 0]),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    lines = [text.text for text in record.texts_of("2")]
    assert any(re.match(r"downloading \d+ % of ", line) for line in lines), lines


def test_the_result_is_here_before_a_blocking_node_beside_it_ends(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    """The order of events that the bridge exists for; see `test_harness` for what happens without it."""
    record = comfyui.start(
        {
            "1": image(fresh_seed()),
            "2": node("XaloraUpscaleImage", image=["1", 0]),
            "3": dump(["2", 0]),
            "4": node("XaloraTestBlock", seconds=10.0, value=["1", 0], nonce=fresh()),
            "5": node("XaloraTestClock", value=["4", 0]),
        }
    )
    # The last line is sent when the result is on disk and decoded.
    downloaded = record.wait_for_text("by xalora", node="2")
    assert [devnet.task(task_id).status for task_id in devnet.new_task_ids()] == ["finished"]
    assert "4" not in [event.data["node"] for event in record.of("executed")]
    record.wait()
    assert record.status == "success"
    block = record.outputs["4"]
    assert block["began"][0] < downloaded.at < block["ended"][0]
    # What needs the result has to wait for the blocking node all the same: that is ComfyUI's loop.
    assert record.outputs["3"]["at"][0] >= block["ended"][0]


def test_two_prompts_and_a_browser_that_went_away(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """A prompt without a listening browser runs as well: there is nobody to show anything to."""
    prompt = {
        "1": image(fresh_seed()),
        "2": node("XaloraUpscaleImage", image=["1", 0]),
        "3": dump(["2", 0]),
    }
    prompt_id = comfyui.post("/prompt", {"prompt": prompt}).json()["prompt_id"]
    until = time.monotonic() + 60
    while not comfyui.history(prompt_id):
        assert time.monotonic() < until
        threading.Event().wait(0.05)
    assert comfyui.history(prompt_id)["status"]["status_str"] == "success"


def test_a_saved_image_does_not_tell_the_network(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """ComfyUI saves the prompt with what each node's `fingerprint_inputs` has said."""
    saved_twice = []
    for _ in range(2):
        record = comfyui.run(
            {
                "1": image(fresh_seed()),
                "2": node("XaloraUpscaleImage", image=["1", 0]),
                "3": node("SaveImage", images=["2", 0], filename_prefix=fresh()),
            }
        )
        assert record.status == "success"
        saved_twice += comfyui.files(record, "3")
    for saved in saved_twice:
        prompt = Image.open(BytesIO(saved)).info["prompt"]
        assert "XaloraUpscaleImage" in prompt
        assert devnet.url.rpartition("/")[2] not in prompt
