"""The cancel button, and paid tasks of prompts that end for another reason."""

from __future__ import annotations

import time

import pytest
from graphs import dump, fresh, fresh_seed, image, node
from harness import ComfyUI, RunRecord, SessionDevnet

ENDLESS = 600.0


def statuses(devnet: SessionDevnet) -> list[str]:
    return [devnet.task(task_id).status for task_id in devnet.new_task_ids()]


def wait_until_open(devnet: SessionDevnet, count: int) -> None:
    before = devnet.stats()["creates"] - devnet.new_stats()["creates"]
    devnet.wait_for(lambda stats: stats["creates"] - before == count)


def wait_until_settled(devnet: SessionDevnet) -> list[str]:
    """How the tasks ended, once none of them waits or runs."""
    devnet.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["tasks"]["running"] == 0)
    return statuses(devnet)


def start_upscale(comfyui: ComfyUI, batch: int = 1, **options: object) -> RunRecord:
    return comfyui.start(
        {
            "1": image(fresh_seed(), batch=batch),
            "2": node("XaloraUpscaleImage", image=["1", 0], **options),
            "3": dump(["2", 0]),
        }
    )


def test_the_button_cancels_the_remote_task(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = ENDLESS
    record = start_upscale(comfyui)
    record.wait_for_text("running", node="2")
    comfyui.interrupt()
    (task_id,) = devnet.new_task_ids()
    devnet.wait_for_status(task_id, "canceled")
    assert record.wait().status == "interrupted"
    assert record.of("execution_interrupted")[0].data["node_id"] == "2"


def test_the_button_cancels_a_whole_batch_and_sends_no_more(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = ENDLESS
    record = start_upscale(comfyui, batch=8, max_in_flight=5)
    wait_until_open(devnet, 5)
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert wait_until_settled(devnet) == ["canceled"] * 5


def test_the_button_reaches_every_node_of_the_prompt(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = ENDLESS
    record = comfyui.start(
        {
            "1": image(fresh_seed()),
            "2": node("XaloraUpscaleImage", image=["1", 0]),
            "3": dump(["2", 0]),
            "4": node("XaloraTextToVideo", prompt=fresh(), seed=1),
            "5": node("SaveVideo", video=["4", 0], filename_prefix="never", format="auto", codec="auto"),
            "6": node("XaloraTextToImage", prompt=fresh(), lora_name="any", seed=1, batch_size=2),
            "7": dump(["6", 0]),
        }
    )
    wait_until_open(devnet, 4)
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert wait_until_settled(devnet) == ["canceled"] * 4


def test_the_button_beside_a_node_that_takes_the_flag(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """A synchronous node sees the request first and clears it: the waiting node is only cancelled."""
    devnet.task_seconds = ENDLESS
    record = comfyui.start(
        {
            "1": image(fresh_seed()),
            "2": node("XaloraUpscaleImage", image=["1", 0]),
            "3": dump(["2", 0]),
            "4": node("XaloraTestBlock", seconds=60, bar=True, value=["1", 0], nonce=fresh()),
            "5": node("XaloraTestClock", value=["4", 0]),
        }
    )
    wait_until_open(devnet, 1)
    record.wait_for("executing", node="4")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert record.of("execution_interrupted")[0].data["node_id"] == "4"
    assert wait_until_settled(devnet) == ["canceled"]


def test_the_button_while_the_create_is_on_its_way(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = ENDLESS
    devnet.add_fault("task_create:delay:seconds=1")
    record = start_upscale(comfyui)
    record.wait_for("executing", node="2")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    # Whether the request had left by then or not: nothing that exists is left running.
    assert set(wait_until_settled(devnet)) <= {"canceled"}


def test_queued_again_after_a_cancel_it_is_sent_anew(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    prompt = {"1": image(seed), "2": node("XaloraUpscaleImage", image=["1", 0]), "3": dump(["2", 0])}
    devnet.task_seconds = ENDLESS
    record = comfyui.start(prompt)
    record.wait_for_text("running", node="2")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    devnet.task_seconds = None
    again = comfyui.run(prompt)
    assert again.status == "success"
    assert again.cached == {"1"}
    assert statuses(devnet) == ["canceled", "finished"]


@pytest.mark.parametrize("batch", [1, 3])
def test_what_no_miner_takes_says_so_soon(comfyui: ComfyUI, devnet: SessionDevnet, batch: int) -> None:
    """Within half a minute, and not after the whole waiting time; a miner that comes ends it."""
    while devnet.miners:
        devnet.kill_miner()
    record = start_upscale(comfyui, batch)
    began = time.monotonic()
    record.wait_for_text("no miner takes it at the moment", timeout=60, node="2")
    assert time.monotonic() - began < 30
    devnet.add_miner()
    assert record.wait(90).status == "success"
    assert "no miner" not in record.texts_of("2")[-1].text


@pytest.mark.parametrize("batch", [1, 3])
def test_a_failure_elsewhere_leaves_paid_tasks_running(
    comfyui: ComfyUI, devnet: SessionDevnet, batch: int
) -> None:
    devnet.task_seconds = ENDLESS
    prompt = {
        "1": image(fresh_seed(), batch=batch),
        "2": node("XaloraUpscaleImage", image=["1", 0]),
        "3": dump(["2", 0]),
        "4": node("XaloraTestFail", message="elsewhere", delay=1.5, nonce=fresh()),
        "5": node("XaloraTestClock", value=["4", 0]),
    }
    record = comfyui.start(prompt)
    wait_until_open(devnet, batch)
    assert record.wait().status == "error"
    assert record.error["node_id"] == "4"
    ids = devnet.new_task_ids()
    until = time.monotonic() + 20
    while "left running" not in comfyui.unread_log():
        assert time.monotonic() < until, comfyui.unread_log()
        time.sleep(0.05)
    (told,) = [line for line in comfyui.unread_log().splitlines() if "left running" in line]
    assert "node 2" in told and all(task_id in told for task_id in ids), told
    assert set(statuses(devnet)) <= {"running", "waiting"}
    # Queued again, they are waited for and not sent once more.
    del prompt["4"], prompt["5"]
    again = comfyui.start(prompt)
    again.wait_for_text("running", node="2")
    assert devnet.new_task_ids() == ids
