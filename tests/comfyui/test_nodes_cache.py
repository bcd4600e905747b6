"""Which tasks are sent again: ComfyUI's cache, the journal, and nodes with identical tasks."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from graphs import doubled, dump, fresh, fresh_seed, image, node, noise
from harness import ComfyUI, ComfyUIFactory, SessionDevnet
from PIL import Image


def upscale(source: str = "1", **options: object) -> dict[str, object]:
    return node("XaloraUpscaleImage", image=[source, 0], **options)


def test_unchanged_inputs_are_not_sent_again(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = {"1": image(fresh_seed()), "2": upscale(), "3": dump(["2", 0])}
    assert comfyui.run(prompt).status == "success"
    again = comfyui.run(prompt)
    assert again.status == "success"
    assert again.cached >= {"1", "2"}
    assert devnet.new_stats()["creates"] == 1


@pytest.mark.parametrize("arguments", [("--cache-none",), ("--cache-lru", "2")], ids=["none", "lru"])
def test_with_a_smaller_cache_the_same_graph_sends_nothing_either(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet, arguments: tuple[str, ...]
) -> None:
    devnet.reset()
    env = {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key}
    comfyui = comfyui_factory(env, arguments)
    prompt = {
        "1": image(fresh_seed()),
        "2": upscale(),
        "3": dump(["2", 0]),
        "4": node("XaloraSubmitUpscale", image=["2", 0]),
        "5": node("XaloraCollect", task=["4", 0]),
        "6": dump(["5", 0]),
        "7": node("XaloraTextToImage", prompt=fresh(), lora_name="any", seed=1),
        "8": dump(["7", 0]),
    }
    first, second = comfyui.run(prompt), comfyui.run(prompt)
    assert first.status == second.status == "success"
    for output in ("3", "6", "8"):
        np.testing.assert_array_equal(first.array(output), second.array(output))
    assert devnet.new_stats()["creates"] == 3


def test_a_kept_result_answers_where_comfyui_has_forgotten(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    prompt = {"1": image(seed), "2": upscale(), "3": dump(["2", 0])}
    assert comfyui.run(prompt).status == "success"
    comfyui.clear_cache()
    again = comfyui.run(prompt)
    assert again.cached == set()
    np.testing.assert_allclose(again.array("3")[0], doubled(noise(seed)[0]), atol=1e-6)
    last = again.texts_of("2")[-1].text
    assert "by xalora" in last and last.endswith("(kept result, nothing sent)"), last
    assert devnet.new_stats()["creates"] == 1


def test_with_reuse_off_a_run_is_a_new_task(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = {"1": image(fresh_seed()), "2": upscale(reuse=False), "3": dump(["2", 0])}
    assert comfyui.run(prompt).status == "success"
    comfyui.clear_cache()
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 2


def test_two_nodes_with_equal_inputs_share_one_task(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 0.5
    seed = fresh_seed()
    record = comfyui.run(
        {
            "1": image(seed),
            "2": upscale(),
            "3": dump(["2", 0]),
            # The same pixels from another node: ComfyUI sees another input, the client sees the same work.
            "4": image(seed, batch=2),
            "5": node("ImageFromBatch", image=["4", 0], batch_index=0, length=1),
            "6": upscale(),
            "7": dump(["6", 0]),
        }
    )
    assert record.status == "success"
    np.testing.assert_array_equal(record.array("3"), record.array("7"))
    assert devnet.new_stats()["creates"] == 1


def test_with_reuse_off_too_they_share_what_neither_has_got_yet(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    """Reuse decides about results that were delivered before; a task under way is never paid for twice."""
    devnet.task_seconds = 0.5
    record = comfyui.run(
        {
            "1": image(fresh_seed()),
            "2": upscale(reuse=False),
            "3": dump(["2", 0]),
            "6": upscale(reuse=False),
            "7": dump(["6", 0]),
        }
    )
    assert record.status == "success"
    assert devnet.new_stats()["creates"] == 1


def test_a_batch_with_equal_images_sends_each_once(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 0.3
    record = comfyui.run(
        {
            "1": image(fresh_seed()),
            "4": node("RepeatImageBatch", image=["1", 0], amount=3),
            "2": upscale("4"),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    assert record.array("3").shape[0] == 3
    assert devnet.new_stats()["creates"] == 1


def test_a_failure_is_not_cached(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("miner:failed:n=1,2,3")
    prompt = {"1": image(fresh_seed()), "2": upscale(fallback="never"), "3": dump(["2", 0])}
    assert comfyui.run(prompt).status == "error"
    again = comfyui.run(prompt)
    assert again.status == "success"
    assert again.cached == {"1"}
    assert devnet.new_stats()["tasks"] == {"failed": 3, "finished": 1}


def test_a_submitted_task_that_failed_is_submitted_anew(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("miner:failed:n=1")
    prompt = {
        "1": image(fresh_seed()),
        "2": node("XaloraSubmitUpscale", image=["1", 0]),
        "3": node("XaloraCollect", task=["2", 0]),
        "4": dump(["3", 0]),
    }
    first = comfyui.run(prompt)
    assert (first.status, first.error["node_id"]) == ("error", "3")
    again = comfyui.run(prompt)
    assert again.status == "success"
    assert "2" not in again.cached
    assert devnet.new_stats()["tasks"] == {"failed": 1, "finished": 1}
    # From then on it is as good as any other.
    third = comfyui.run({**prompt, "4": dump(["3", 0])})
    assert third.cached >= {"1", "2", "3"}
    assert devnet.new_stats()["creates"] == 2


def test_a_submitted_task_that_was_canceled_is_submitted_anew(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    prompt = {
        "1": image(fresh_seed()),
        "2": node("XaloraSubmitUpscale", image=["1", 0]),
        "3": node("XaloraCollect", task=["2", 0]),
        "4": dump(["3", 0]),
    }
    record = comfyui.start(prompt)
    record.wait_for_text("running", node="3")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    devnet.wait_for_status(devnet.new_task_ids()[0], "canceled")
    devnet.task_seconds = None
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["tasks"] == {"canceled": 1, "finished": 1}


def test_a_submitted_task_that_is_under_way_is_not_submitted_again(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    prompt = {
        "1": image(fresh_seed()),
        "2": node("XaloraSubmitUpscale", image=["1", 0]),
        "3": node("XaloraCollect", task=["2", 0], wait_timeout=1),
        "4": dump(["3", 0]),
    }
    first = comfyui.run(prompt)
    assert (first.status, first.error["node_id"]) == ("error", "3")
    # It runs again, so that this prompt knows of the task, and finds it.
    second = comfyui.run(prompt)
    assert (second.status, second.cached) == ("error", {"1"})
    assert second.texts_of("2")[-1].text == "submitted"
    assert devnet.new_stats()["creates"] == 1


@pytest.mark.parametrize("class_type", ["XaloraUpscaleImage", "XaloraTextToImage"])
def test_queued_again_with_reuse_off_what_has_finished_is_not_paid_for_again(
    comfyui: ComfyUI, devnet: SessionDevnet, class_type: str
) -> None:
    """One at a time, so that the first task fails three times, and the other two finish between."""
    devnet.add_fault("miner:failed:n=1,4,5")
    options = {"reuse": False, "max_in_flight": 1, "fallback": "never"}
    prompt = {"1": image(fresh_seed(), batch=3), "2": upscale(**options), "3": dump(["2", 0])}
    if class_type == "XaloraTextToImage":
        words = {"prompt": fresh(), "lora_name": "any", "seed": 1, "batch_size": 3}
        prompt["2"] = node(class_type, **words, **options)
    first = comfyui.run(prompt)
    assert first.status == "error"
    assert "Finished ones are kept and not paid again." in first.error["exception_message"]
    assert devnet.new_stats()["creates"] == 5
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 6
    # From then on each run sends new tasks, as the user wants it.
    comfyui.clear_cache()
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 9


def test_submitted_again_with_reuse_off_what_has_finished_is_not_paid_for_again(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.add_fault("miner:failed:n=2")
    prompt = {
        "1": image(fresh_seed(), batch=3),
        "2": node("XaloraSubmitUpscale", image=["1", 0], reuse=False),
        "3": node("XaloraCollect", task=["2", 0]),
        "4": dump(["3", 0]),
    }
    assert comfyui.run(prompt).status == "error"
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 4
    comfyui.clear_cache()
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 7


def test_with_reuse_off_what_was_left_running_is_waited_for(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 6
    prompt = {
        "1": image(fresh_seed()),
        "2": upscale(reuse=False, wait_timeout=3, fallback="never"),
        "3": dump(["2", 0]),
    }
    assert comfyui.run(prompt).status == "error"
    devnet.wait_for_status(devnet.new_task_ids()[0], "finished")
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 1


# Inputs that make no other picture, each with two values.
HOW = {
    "wait_timeout": (60, 61),
    "queue_limit": (60, 61),
    "timeout_seconds": (600, 601),
    "max_in_flight": (1, 2),
    "fallback": ("never", "when_unavailable"),
    "if_unknown": ("stop", "forget"),
    "job_id_prefix": ("one", "two"),
}


@pytest.mark.parametrize("name", [*HOW, "decode_frames"])
def test_with_reuse_off_what_makes_no_other_picture_never_pays_again(
    comfyui: ComfyUI, devnet: SessionDevnet, name: str
) -> None:
    """After a success, as after a failure: the node runs again, and takes what it has."""
    options = {"reuse": False, "fallback": "never"}
    first, second = HOW.get(name, (True, False))
    prompt = {"1": image(fresh_seed()), "2": upscale(**options), "3": dump(["2", 0])}
    if name == "decode_frames":
        prompt["2"] = node("XaloraTextToVideo", prompt=fresh(), seed=1, **options)
        prompt["3"] = node("XaloraTestClock", value=["2", 0])
    for value in (first, second, first):
        prompt["2"]["inputs"][name] = value
        record = comfyui.run(prompt)
        assert (record.status, "2" in record.cached) == ("success", False)
        assert devnet.new_stats()["creates"] == 1
    # The same once more, after ComfyUI has dropped its outputs, is a wish for a new one.
    comfyui.clear_cache()
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 2


def test_with_reuse_off_nodes_that_differ_in_their_images_only_never_pay_again(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    """Two nodes with the same widgets, and the elements of a list."""
    options = {"reuse": False, "fallback": "never"}
    prompt = {
        "1": image(fresh_seed()),
        "2": upscale(**options),
        "3": dump(["2", 0]),
        "4": image(fresh_seed()),
        "5": node("XaloraUpscaleImage", image=["4", 0], **options),
        "6": dump(["5", 0]),
        "7": node("XaloraTestList", count=3, seed=fresh_seed()),
        "8": node("XaloraUpscaleImage", image=["7", 0], **options),
        "9": node("XaloraTestJoin", images=["8", 0]),
        "10": dump(["9", 0]),
    }
    for seconds in (60, 61, 62):
        for name in ("2", "5", "8"):
            prompt[name]["inputs"]["wait_timeout"] = seconds
        assert comfyui.run(prompt).status == "success"
        assert devnet.new_stats()["creates"] == 5


def test_after_a_timeout_a_longer_wait_takes_the_same_task_with_reuse_off(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 6
    prompt = {"1": image(fresh_seed()), "2": upscale(reuse=False, fallback="never"), "3": dump(["2", 0])}
    for wait, status in ((2, "error"), (60, "success")):
        prompt["2"]["inputs"]["wait_timeout"] = wait
        assert comfyui.run(prompt).status == status
    assert devnet.new_stats()["creates"] == 1


def test_reuse_that_is_switched_off_asks_for_a_new_one(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = {"1": image(fresh_seed()), "2": upscale(), "3": dump(["2", 0])}
    assert comfyui.run(prompt).status == "success"
    prompt["2"]["inputs"]["reuse"] = False
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 2


def test_what_is_saved_with_an_image_holds_no_address(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """ComfyUI adds to the prompt that it saves what each node says of its freshness."""
    prompt = {
        "1": image(fresh_seed()),
        "2": upscale(),
        "3": node("SaveImage", images=["2", 0], filename_prefix="address"),
    }
    record = comfyui.run(prompt)
    assert record.status == "success"
    (saved,) = comfyui.files(record)
    with Image.open(io.BytesIO(saved)) as picture:
        text = json.dumps(picture.info)
    assert "is_changed" in text
    host = devnet.url.partition("//")[2]
    assert host not in text and devnet.api_key.partition("#")[2] not in text


def test_seeds_are_part_of_the_work(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = fresh()
    for seed in (1, 2, 1):
        record = comfyui.run(
            {
                "1": node("XaloraTextToImage", prompt=prompt, lora_name="any", seed=seed),
                "2": dump(["1", 0]),
            }
        )
        assert record.status == "success"
    assert devnet.new_stats()["creates"] == 2
