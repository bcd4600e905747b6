"""The error messages of nodes, and which tasks are sent again."""

from __future__ import annotations

import re

import numpy as np
import pytest
from graphs import doubled, dump, fresh_seed, image, node, noise, told
from harness import ComfyUI, ComfyUIFactory, RunRecord, SessionDevnet

from xalora_client.devnet.engines import DefaultEngine, MinerTask
from xalora_client.devnet.testcard import render
from xalora_client.errors import EngineError
from xalora_client.media.image_files import read_header


def run_upscale(comfyui: ComfyUI, seed: int, batch: int = 1, **options: object) -> RunRecord:
    return comfyui.run(
        {
            "1": image(seed, batch=batch),
            "2": node("XaloraUpscaleImage", image=["1", 0], **{"fallback": "never", **options}),
            "3": dump(["2", 0]),
        }
    )


def test_only_the_failed_image_of_a_batch_is_sent_again(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("miner:failed:n=2")
    seed = fresh_seed()
    record = run_upscale(comfyui, seed, batch=4)
    assert record.status == "success"
    expected = np.stack([doubled(one) for one in noise(seed, batch=4)])
    np.testing.assert_allclose(record.array("3"), expected, atol=1e-6)
    stats = devnet.new_stats()
    assert (stats["creates"], stats["tasks"]) == (5, {"failed": 1, "finished": 4})


def test_a_result_that_arrives_broken_is_asked_for_again(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("upload:truncate_stored:n=1")
    record = run_upscale(comfyui, fresh_seed())
    assert record.status == "success"
    assert devnet.new_stats()["creates"] == 2


def test_what_keeps_failing_is_told_with_the_finished_ones(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """One at a time, so that the first task fails three times, and the other two finish between."""
    devnet.add_fault("miner:failed:n=1,4,5")
    record = run_upscale(comfyui, fresh_seed(), batch=3, max_in_flight=1)
    message = told(comfyui, record)
    ids = devnet.new_task_ids()
    states = {task_id: devnet.task(task_id).status for task_id in ids}
    assert [states[task_id] for task_id in ids] == ["failed", "finished", "finished", "failed", "failed"]
    assert message.startswith(f"1 of 3 images failed, image 1: The network reports task {ids[-1]} as failed")
    assert f"; it was sent 3 times (task {ids[0]}, " in message
    assert f"2 finished and paid for ({ids[1]}, {ids[2]})" in message


def test_the_finished_ones_are_not_sent_again(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("miner:failed:n=1,4,5")
    seed = fresh_seed()
    told(comfyui, run_upscale(comfyui, seed, batch=3, max_in_flight=1))
    record = run_upscale(comfyui, seed, batch=3, max_in_flight=1)
    assert record.status == "success"
    assert devnet.new_stats()["creates"] == 6
    assert record.texts_of("2")[-1].text.startswith("80 x 60, 3 in ")
    assert "(kept results, nothing sent)" in record.texts_of("2")[-1].text


def test_a_single_failure_is_told_as_it_is(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("miner:failed")
    message = told(comfyui, run_upscale(comfyui, fresh_seed()))
    ids = devnet.new_task_ids()
    # Sent three times in all: each costs, and what fails three times fails for a reason.
    assert [devnet.task(task_id).status for task_id in ids] == ["failed"] * 3
    assert message.startswith(f"The network reports task {ids[-1]} as failed")
    assert "it was sent 3 times" in message and f"task {ids[0]}, task {ids[1]}" in message


def test_a_create_of_unknown_outcome_is_never_sent_again(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("task_create:drop_after:n=1")
    seed = fresh_seed()
    message = told(comfyui, run_upscale(comfyui, seed))
    assert devnet.new_stats()["endpoints"]["task_create"] == 1
    job_id = devnet.task(devnet.new_task_ids()[0]).job_id
    assert job_id in message
    # Nor when the graph is queued again: the user has to say what is wanted.
    again = told(comfyui, run_upscale(comfyui, seed))
    assert job_id in again
    assert devnet.new_stats()["endpoints"]["task_create"] == 1
    # Sent again under the same job id, the network knows it.
    assert run_upscale(comfyui, seed, if_unknown="resend").status == "success"
    stats = devnet.new_stats()
    assert (stats["creates"], stats["duplicates"]) == (1, 1)


def test_nor_is_it_with_reuse_off(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("task_create:drop_after:n=1")
    seed = fresh_seed()
    for _ in range(2):
        record = run_upscale(comfyui, seed, reuse=False)
        told(comfyui, record)
        assert "answer was lost" in record.error["exception_message"]
        assert "take it up" in record.error["exception_message"]
    assert devnet.new_stats()["endpoints"]["task_create"] == 1
    assert run_upscale(comfyui, seed, reuse=False, if_unknown="resend").status == "success"
    assert devnet.new_stats()["creates"] == 1


def test_an_image_of_unknown_outcome_stops_only_itself(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("task_create:drop_after:n=2")
    message = told(comfyui, run_upscale(comfyui, fresh_seed(), batch=4, max_in_flight=1))
    assert message.startswith("1 of 4 images failed, image 2: ")
    stats = devnet.new_stats()
    assert (stats["creates"], stats["duplicates"]) == (4, 0)


def test_the_last_line_is_true_of_all_elements_of_a_list(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """The others end after the one that fails."""
    devnet.task_seconds = 2
    devnet.add_fault("task_create:422:n=2")
    record = comfyui.run(
        {
            "1": node("XaloraTestList", count=4, seed=fresh_seed()),
            "2": node("XaloraUpscaleImage", image=["1", 0], fallback="never"),
            "3": node("XaloraTestJoin", images=["2", 0]),
            "4": dump(["3", 0]),
        }
    )
    assert record.status == "error"
    assert devnet.new_stats()["tasks"] == {"finished": 3}
    assert record.texts_of("2")[-1].text == (
        "failed, 1 of 4 list elements: The network refuses these inputs. Finished ones are kept."
    )


def test_an_element_that_can_not_be_sent_stops_the_others(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = 30
    record = comfyui.run(
        {
            "1": node("XaloraTestTexts", texts=f"{fresh_seed()}\n{fresh_seed()}\n\n{fresh_seed()}"),
            "2": node("XaloraTextToImage", prompt=["1", 0], lora_name="any", seed=1, fallback="never"),
            "3": node("XaloraTestJoin", images=["2", 0]),
            "4": dump(["3", 0]),
        }
    )
    assert record.status == "error"
    assert record.texts_of("2")[-1].text == (
        "failed, 1 of 3 list elements: The prompt is empty. What was sent goes on in the network."
    )


def test_a_network_that_is_gone_is_not_asked_for_every_image(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.stop_sequencer()
    record = run_upscale(comfyui, fresh_seed(), batch=40, max_in_flight=2)
    message = told(comfyui, record)
    assert re.match(r"2 of 40 images failed, first image 1: [^;]*; 38 more were not sent", message), message
    assert record.seconds < 40


def test_the_networks_own_timeout_is_no_failure_to_be_sent_again(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    message = told(comfyui, run_upscale(comfyui, fresh_seed(), timeout_seconds=1))
    (task_id,) = devnet.new_task_ids()
    assert message.startswith(f"Task {task_id} was canceled")


def test_the_clients_own_waiting_time_leaves_the_task_running(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.task_seconds = 600
    message = told(comfyui, run_upscale(comfyui, fresh_seed(), wait_timeout=3))
    (task_id,) = devnet.new_task_ids()
    assert task_id in message and "3 s" in message
    assert devnet.task(task_id).status == "running"


@pytest.mark.parametrize(
    ("class_type", "inputs", "words"),
    [
        ("XaloraTextToVideo", {"prompt": " ", "seed": 1}, "The prompt is empty"),
        ("XaloraTextToImage", {"prompt": "a fox", "lora_name": "", "seed": 1}, "No LoRA is chosen"),
        (
            "XaloraTextToVideo",
            {"prompt": "a fox", "seed": 1, "workflow_id": "1", "length": 25},
            "length is 25; workflow 1 allows 37 to 73",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_sent(
    comfyui: ComfyUI, devnet: SessionDevnet, class_type: str, inputs: dict[str, object], words: str
) -> None:
    record = comfyui.run({"2": node(class_type, **inputs), "3": node("XaloraTestClock", value=["2", 0])})
    told(comfyui, record)
    assert words in record.error["exception_message"]
    assert devnet.new_stats()["endpoints"]["task_create"] == 0


def test_ids_of_what_failed_are_in_the_log(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("miner:failed:n=1")
    assert run_upscale(comfyui, fresh_seed()).status == "success"
    first = devnet.new_task_ids()[0]
    assert any(first in line and "sent again" in line for line in comfyui.unread_log().splitlines())


def test_an_unforeseen_error_ends_one_image_alone(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": node("XaloraTestUnforeseen", seed=fresh_seed()),
            "2": node("XaloraUpscaleImage", image=["1", 0], fallback="never"),
            "3": dump(["2", 0]),
        }
    )
    message = told(comfyui, record)
    ids = devnet.new_task_ids()
    assert message.startswith("1 of 3 images failed, image 2: An unforeseen ZeroDivisionError")
    # Which of the two is sent first is not decided.
    both = (", ".join(ids), ", ".join(reversed(ids)))
    assert any(f"2 finished and paid for ({listed})" in message for listed in both)
    assert devnet.new_stats()["tasks"] == {"finished": 2}
    assert "Traceback" not in record.error["exception_message"]


class _OddMiner:
    """A miner that makes a video of an image that is higher than wide: whole, and not what was asked for.

    At a square it fails, in the same words each time.
    """

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        assert task.image is not None
        header = read_header(task.image)
        if header.height == header.width:
            raise EngineError("no squares here")
        if header.height > header.width:
            return render("txt2vid", "1", {"width": 64, "height": 64, "length": 2})
        return DefaultEngine().run(task)


def test_what_would_end_the_same_is_not_paid_for_again(comfyui_factory: ComfyUIFactory) -> None:
    with SessionDevnet(engine=_OddMiner()) as devnet:
        devnet.reset()
        extra = comfyui_factory(env={"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key})
        seed = fresh_seed()
        options = {"fallback": "never", "reuse": False}
        graph = {
            "1": image(seed, width=30, height=40),
            "2": node("XaloraUpscaleImage", image=["1", 0], **options),
            "3": dump(["2", 0]),
            "4": image(seed, width=40, height=30),
            "5": node("XaloraUpscaleImage", image=["4", 0], **options),
            "6": dump(["5", 0]),
        }
        message = told(extra, extra.run({name: graph[name] for name in "123"}))
        (task_id,) = devnet.new_task_ids()
        assert "is a video, not an image" in message
        for part in (task_id, "The task is paid for", f"`xalora forget {task_id}`", "sidebar"):
            assert part in message
        assert extra.run({name: graph[name] for name in "456"}).status == "success"
        assert devnet.new_stats()["creates"] == 2

        devnet.reset()
        graph["1"] = image(seed, width=40, height=40)
        message = told(extra, extra.run({name: graph[name] for name in "123"}))
        ids = devnet.new_task_ids()
        # Two miners that say the same are enough; one alone may be at fault.
        is_one_miner = devnet.task(ids[0]).miner_id == devnet.task(ids[1]).miner_id
        assert len(ids) == (3 if is_one_miner else 2)
        assert "(no squares here)" in message and f"it was sent {len(ids)} times" in message
