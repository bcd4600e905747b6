"""The Submit nodes and Xalora Collect in a real ComfyUI, with the devnet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from graphs import create_elsewhere, doubled, dump, fresh, fresh_seed, image, node, noise, told
from harness import ComfyUI, SessionDevnet
from PIL import Image


def test_submit_returns_at_once_and_collect_waits(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 6.0
    seed = fresh_seed()
    record = comfyui.run(
        {
            "1": image(seed, batch=2),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraTestClock", value=["2", 0]),
            "4": node("XaloraCollect", task=["2", 0]),
            "5": dump(["4", 0]),
        }
    )
    assert record.status == "success"
    expected = np.stack([doubled(one) for one in noise(seed, batch=2)])
    np.testing.assert_allclose(record.array("5"), expected, atol=1e-6)
    assert record.outputs["5"]["at"][0] - record.outputs["3"]["at"][0] > 2.0
    assert record.texts_of("2")[-1].text == "2 tasks submitted"
    assert devnet.new_stats()["creates"] == 2


def test_what_goes_over_the_link_is_plain_data_without_a_key(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": image(fresh_seed(), batch=2),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraTestText", value=["2", 0]),
        }
    )
    (text,) = record.outputs["3"]["text"]
    ids = devnet.new_task_ids()
    carried = json.loads(text)
    assert carried["kind"] == "image"
    assert sorted(task["task_id"] for task in carried["tasks"]) == sorted(ids)
    assert [task["index"] for task in carried["tasks"]] == [0, 1]
    assert devnet.api_key not in text


def test_the_graph_goes_on_while_a_video_is_made(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": node("XaloraSubmitTextToVideo", prompt=fresh(), seed=1),
            "2": node("XaloraCollect", task=["1", 0]),
            "3": node("SaveVideo", video=["2", 1], filename_prefix=fresh(), format="auto", codec="auto"),
            "4": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    assert len(comfyui.files(record, "3")) == 1
    (blocked,) = record.blocked
    assert (blocked["node_id"], "made a video" in blocked["exception_message"]) == ("4", True)


def test_images_leave_the_video_output_empty(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": node("XaloraSubmitTextToImage", prompt=fresh(), lora_name="ink", seed=5, batch_size=2),
            "2": node("XaloraCollect", task=["1", 0]),
            "3": node("XaloraTestClock", value=["2", 1]),
            "4": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    assert record.array("4").shape[0] == 2
    (blocked,) = record.blocked
    assert (blocked["node_id"], "made images" in blocked["exception_message"]) == ("3", True)


def test_a_fourth_channel_travels_with_the_link(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    record = comfyui.run(
        {
            "1": image(seed, batch=2, channels=4),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraCollect", task=["2", 0]),
            "4": dump(["3", 0]),
        }
    )
    assert record.status == "success"
    array = record.array("4")
    for got, given in zip(array, noise(seed, batch=2, channels=4), strict=True):
        np.testing.assert_allclose(got[..., :3], doubled(given[..., :3]), atol=1e-6)
        alpha = np.asarray(Image.fromarray(given[..., 3]).resize((80, 60), Image.Resampling.LANCZOS))
        np.testing.assert_allclose(got[..., 3], np.clip(alpha, 0, 1), atol=1 / 255)


def test_a_task_is_collected_by_its_id_another_day(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    submitted = comfyui.run({"1": image(seed), "2": node("XaloraSubmitUpscale", image=["1", 0])})
    assert submitted.status == "success"
    (task_id,) = devnet.new_task_ids()
    assert submitted.texts_of("2")[-1].text == "submitted"
    record = comfyui.run({"1": node("XaloraCollect", task_id=f" {task_id}\n"), "2": dump(["1", 0])})
    assert record.status == "success"
    np.testing.assert_allclose(record.array("2")[0], doubled(noise(seed)[0]), atol=1e-6)


def test_a_task_that_this_machine_never_saw_is_collected(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    task_id = create_elsewhere(devnet, "txt2img", {"prompt": fresh(), "lora_name": "ink", "noise_seed": 3})
    record = comfyui.run({"1": node("XaloraCollect", task_id=task_id), "2": dump(["1", 0])})
    assert record.status == "success"
    assert record.array("2").shape[0] == 1


def test_collect_with_nothing_to_collect_says_so(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run({"1": node("XaloraCollect", task_id=" "), "2": dump(["1", 0])})
    assert record.status == "error"
    assert record.error["exception_message"].startswith("There is nothing to collect.")


@pytest.mark.parametrize("link", ["text", 5, {"kind": "image", "tasks": []}, {"tasks": [{"index": 0}]}])
def test_what_names_no_task_is_refused(comfyui: ComfyUI, devnet: SessionDevnet, link: object) -> None:
    record = comfyui.run({"1": node("XaloraCollect", task=link), "2": dump(["1", 0])})
    assert record.status == "error"
    assert record.error["exception_message"].startswith("The task input names no task.")


def test_an_unknown_id_is_told_with_the_id(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run({"1": node("XaloraCollect", task_id="no-such-task"), "2": dump(["1", 0])})
    assert record.status == "error"
    assert "no-such-task" in told(comfyui, record, node="1")
    assert "does not know this task" in record.error["exception_message"]


def test_the_button_cancels_what_was_submitted_and_nobody_waits_for_yet(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    record = comfyui.start(
        {
            "1": image(fresh_seed(), batch=2),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraTestBlock", seconds=60, bar=True, value=["2", 0], nonce=fresh()),
            "4": node("XaloraCollect", task=["3", 0]),
            "5": dump(["4", 0]),
        }
    )
    record.wait_for("executing", node="3")
    assert len(devnet.new_task_ids()) == 2
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    devnet.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["tasks"]["running"] == 0)
    assert devnet.new_stats()["tasks"] == {"canceled": 2}


def test_the_button_leaves_tasks_of_earlier_prompts_alone(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 600
    submitted = comfyui.run({"1": image(fresh_seed()), "2": node("XaloraSubmitUpscale", image=["1", 0])})
    assert submitted.status == "success"
    (task_id,) = devnet.new_task_ids()
    devnet.wait_for_status(task_id, "running")
    blocked = comfyui.start(
        {
            "1": node("XaloraTestBlock", seconds=60, bar=True, nonce=fresh()),
            "2": node("XaloraTestClock", value=["1", 0]),
        }
    )
    blocked.wait_for("executing", node="1")
    comfyui.interrupt()
    assert blocked.wait().status == "interrupted"
    # A whole remote run takes longer than a cancel would on its way.
    devnet.task_seconds = None
    after = {"1": image(fresh_seed()), "2": node("XaloraUpscaleImage", image=["1", 0]), "3": dump(["2", 0])}
    assert comfyui.run(after).status == "success"
    assert devnet.task(task_id).status == "running"


def test_the_button_leaves_a_task_that_is_known_by_its_id_only(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    task_id = create_elsewhere(devnet, "txt2img", {"prompt": fresh(), "lora_name": "ink", "noise_seed": 3})
    waiting = comfyui.start({"1": node("XaloraCollect", task_id=task_id), "2": dump(["1", 0])})
    waiting.wait_for_text("running", node="1")
    comfyui.interrupt()
    assert waiting.wait().status == "interrupted"
    assert devnet.task(task_id).status == "running"


def wait_until_nothing_runs(devnet: SessionDevnet) -> dict[str, int]:
    """How many of the test's tasks ended in which way, once none of them waits or runs."""
    devnet.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["tasks"]["running"] == 0)
    counts: dict[str, int] = devnet.new_stats()["tasks"]
    return counts


def test_the_button_cancels_also_what_collect_has_not_come_to(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    seed = fresh_seed()
    first = {"1": image(seed), "2": node("XaloraUpscaleImage", image=["1", 0]), "3": dump(["2", 0])}
    assert comfyui.run(first).status == "success"
    devnet.task_seconds = 600
    record = comfyui.start(
        {
            "1": image(seed, batch=20),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraCollect", task=["2", 0], max_in_flight=3),
            "4": dump(["3", 0]),
        }
    )
    record.wait_for_text("1/20", node="3")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert wait_until_nothing_runs(devnet) == {"canceled": 19, "finished": 1}


def test_the_button_cancels_though_the_network_answers_no_questions(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    record = comfyui.start(
        {
            "1": image(fresh_seed(), batch=2),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraCollect", task=["2", 0]),
            "4": dump(["3", 0]),
        }
    )
    record.wait_for_text("running", node="3")
    devnet.add_fault("task_result_query:503")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert wait_until_nothing_runs(devnet) == {"canceled": 2}


def test_cancels_that_take_long_outlive_their_prompt(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """Another node ends the prompt at once, and ComfyUI then cancels what still winds down."""
    devnet.task_seconds = 600
    record = comfyui.start(
        {
            "1": image(fresh_seed(), batch=2),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraCollect", task=["2", 0]),
            "4": dump(["3", 0]),
            "5": node("XaloraTestRemote", seconds=600, value=["2", 0], nonce=fresh()),
            "6": node("XaloraTestClock", value=["5", 0]),
        }
    )
    record.wait_for("executing", node="5")
    record.wait_for_text("running", node="3")
    # Neither the first request nor the second is acted upon, so the cancel needs a third one.
    devnet.add_fault("task_cancel:503:n=1,2,3,4")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert wait_until_nothing_runs(devnet) == {"canceled": 2}


def test_the_button_reaches_what_is_just_being_submitted(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 600
    devnet.add_fault("task_create:delay:seconds=0.03")
    before = devnet.stats()["creates"]
    record = comfyui.start(
        {
            "1": image(fresh_seed(), batch=60),
            "2": node("XaloraSubmitUpscale", image=["1", 0], max_in_flight=2),
        }
    )
    devnet.wait_for(lambda stats: stats["creates"] - before >= 5)
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    ended = wait_until_nothing_runs(devnet)
    assert set(ended) == {"canceled"} and ended["canceled"] < 60


@pytest.mark.parametrize("reuse", [True, False])
def test_the_button_cancels_what_an_earlier_prompt_has_submitted_for_this_one(
    comfyui: ComfyUI, devnet: SessionDevnet, reuse: bool
) -> None:
    """ComfyUI has the Submit node's output in its cache, and no node that looks at it has run."""
    devnet.task_seconds = 600
    submitting = {"1": image(fresh_seed()), "2": node("XaloraSubmitUpscale", image=["1", 0], reuse=reuse)}
    assert comfyui.run(submitting).status == "success"
    record = comfyui.start(
        {
            **submitting,
            "3": node("XaloraTestBlock", seconds=60, bar=True, value=["2", 0], nonce=fresh()),
            "4": node("XaloraCollect", task=["3", 0]),
            "5": dump(["4", 0]),
        }
    )
    record.wait_for("executing", node="3")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert wait_until_nothing_runs(devnet) == {"canceled": 1}
    assert devnet.new_stats()["creates"] == 1


def test_a_task_that_was_canceled_earlier_is_told_by_collect(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """That cancel was not for this prompt, which must not end as if the user had stopped it."""
    devnet.task_seconds = 600
    assert comfyui.run({"1": image(fresh_seed()), "2": node("XaloraSubmitUpscale", image=["1", 0])})
    (task_id,) = devnet.new_task_ids()
    row = comfyui.get("/xalora/tasks").json()["tasks"][0]
    assert row["task_id"] == task_id
    comfyui.post(f"/xalora/tasks/{row['id']}/cancel", {}, headers={"X-Xalora": "1"})
    record = comfyui.run({"1": node("XaloraCollect", task_id=task_id), "2": dump(["1", 0])})
    assert record.status == "error"
    assert record.error["exception_message"].startswith("The task was canceled.")
    assert record.error["exception_message"].strip().endswith("Xalora Collect sends nothing.")


def test_what_to_press_after_a_failed_task_is_true_of_collect(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    """Run sends a new task where a Submit node is linked, and nothing where an id is given."""
    devnet.add_fault("miner:failed:n=1")
    prompt = {
        "1": image(fresh_seed()),
        "2": node("XaloraSubmitUpscale", image=["1", 0]),
        "3": node("XaloraCollect", task=["2", 0]),
        "4": dump(["3", 0]),
    }
    failed = comfyui.run(prompt)
    assert failed.error["exception_message"].strip().endswith("Press Run to try again.")
    (task_id,) = devnet.new_task_ids()
    by_id = comfyui.run({"1": node("XaloraCollect", task_id=task_id), "2": dump(["1", 0])})
    assert (
        by_id.error["exception_message"]
        .strip()
        .endswith("To have it made anew, run the node or program that sent it: Xalora Collect sends nothing.")
    )
    assert devnet.new_stats()["creates"] == 1
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 2


def test_videos_are_collected_one_by_one(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    submit = {f"{seed}": node("XaloraSubmitTextToVideo", prompt=fresh(), seed=seed) for seed in (1, 2)}
    assert comfyui.run(submit).status == "success"
    ids = devnet.new_task_ids()
    record = comfyui.run({"1": node("XaloraCollect", task_id=" ".join(ids)), "2": dump(["1", 0])})
    assert record.status == "error"
    assert record.error["exception_message"].strip() == (
        "2 of the 2 tasks made videos.\nIt is paid for, and its result can still be had.\n"
        "Collect each video with an Xalora Collect of its own."
    )


def test_a_task_that_is_canceled_before_collect_comes_to_it_ends_the_prompt(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    record = comfyui.start(
        {
            "1": image(fresh_seed()),
            "2": node("XaloraSubmitUpscale", image=["1", 0]),
            "3": node("XaloraTestBlock", seconds=4, value=["2", 0], nonce=fresh()),
            "4": node("XaloraCollect", task=["3", 0]),
            "5": dump(["4", 0]),
        }
    )
    record.wait_for("executing", node="3")
    row = comfyui.get("/xalora/tasks").json()["tasks"][0]
    comfyui.post(f"/xalora/tasks/{row['id']}/cancel", {}, headers={"X-Xalora": "1"})
    assert record.wait().status == "interrupted"
    assert record.texts_of("4")[-1].text == "canceled"
