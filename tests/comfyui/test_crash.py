"""ComfyUI killed during a batch, or ended at any other time: nothing is lost or paid twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphs import doubled, dump, fresh_seed, image, node, noise
from harness import ComfyUI, ComfyUIFactory, RunRecord, SessionDevnet

from xalora_client.journal import Journal, Record, TaskState

BATCH = 8
IN_FLIGHT = 3


def records_of(comfyui: ComfyUI) -> list[Record]:
    """All records of the journal."""
    state = comfyui.root / "xalora-state"
    with Journal.open(state / "journal.sqlite3", state / "results") as journal:
        return journal.records()


def sent(comfyui: ComfyUI) -> list[Record]:
    """The records of the tasks that the journal has an id for."""
    return [record for record in records_of(comfyui) if record.task_id is not None]


def upscale_graph() -> dict[str, Any]:
    """One generated image, upscaled."""
    return {
        "1": image(fresh_seed()),
        "2": node("XaloraUpscaleImage", image=["1", 0]),
        "3": dump(["2", 0]),
    }


def test_quit_while_a_create_is_out_the_task_id_is_kept(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    devnet.reset()
    comfyui = comfyui_factory({"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key})
    graph = upscale_graph()
    before = devnet.stats()["creates"]
    devnet.add_fault("task_create:delay_after:seconds=1.5")
    comfyui.start(graph)
    devnet.wait_for(lambda stats: stats["creates"] > before, timeout=60)
    comfyui.stop()
    assert [record.state for record in sent(comfyui)] == [TaskState.SUBMITTED]


def test_killed_in_the_middle_of_a_batch_the_graph_is_finished_without_paying_twice(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    devnet.reset()
    # Long enough that the next ones are not begun between the last answer and the kill.
    devnet.task_seconds = 3.0
    env = {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key}
    comfyui = comfyui_factory(env)
    seed = fresh_seed()
    graph = {
        "1": image(seed, batch=BATCH),
        "2": node("XaloraUpscaleImage", image=["1", 0], max_in_flight=IN_FLIGHT),
        "3": dump(["2", 0]),
    }
    before = devnet.stats()["creates"]
    comfyui.start(graph)
    devnet.wait_for(lambda stats: stats["creates"] - before > IN_FLIGHT, timeout=60)
    # The second lot is on its way: as long as it runs, nothing more is sent.
    while len(sent(comfyui)) < 2 * IN_FLIGHT:
        assert comfyui.alive
    comfyui.kill()
    assert 2 * IN_FLIGHT <= len(devnet.new_task_ids()) == len(sent(comfyui)) < BATCH
    assert any(record.is_kept for record in sent(comfyui))

    devnet.task_seconds = None
    comfyui.restart()
    record = comfyui.run(graph)
    assert record.status == "success", record.describe()
    assert devnet.new_stats()["creates"] == BATCH
    assert devnet.new_stats()["duplicates"] == 0
    result = record.array("3")
    for made, given in zip(result, noise(seed, batch=BATCH), strict=True):
        assert np.abs(made - doubled(given)).max() <= 1 / 255


def test_what_was_wished_about_a_task_outlives_comfyui(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    """And is done once."""
    devnet.reset()
    comfyui = comfyui_factory({"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key})
    graph = upscale_graph()
    assert comfyui.run(graph).status == "success"
    (task,) = comfyui.get("/xalora/tasks").json()["tasks"]
    for action in ("make_again", "take_back", "make_again"):
        comfyui.post(f"/xalora/tasks/{task['id']}/{action}", {}, headers={"X-Xalora": "1"})
    comfyui.restart()
    (task,) = comfyui.get("/xalora/tasks").json()["tasks"]
    assert task["wish"] == "make_again"
    for _ in range(2):
        assert comfyui.run(graph).status == "success"
        assert devnet.new_stats()["creates"] == 2
        comfyui.clear_cache()
    (task,) = comfyui.get("/xalora/tasks").json()["tasks"]
    assert task["wish"] is None


def test_a_result_that_is_to_be_made_again_does_not_answer_though_the_first_try_fails(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    devnet.reset()
    comfyui = comfyui_factory({"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key})
    graph = upscale_graph()
    graph["2"]["inputs"]["fallback"] = "never"
    assert comfyui.run(graph).status == "success"
    (task,) = comfyui.get("/xalora/tasks").json()["tasks"]
    comfyui.post(f"/xalora/tasks/{task['id']}/make_again", {}, headers={"X-Xalora": "1"})
    devnet.add_fault("miner:failed:n=1")
    record = comfyui.run(graph)
    assert record.status == "success"
    assert "kept" not in record.texts_of("2")[-1].text
    assert devnet.new_stats()["creates"] == 3
    # Nor where none could be sent: the wish is still there when the graph is queued again.
    task = comfyui.get("/xalora/tasks").json()["tasks"][0]
    comfyui.post(f"/xalora/tasks/{task['id']}/make_again", {}, headers={"X-Xalora": "1"})
    devnet.add_fault("task_create:503:retry_after=0")
    assert comfyui.run(graph).status == "error"
    devnet.clear_faults()
    record = comfyui.run(graph)
    assert record.status == "success"
    assert "kept" not in record.texts_of("2")[-1].text


def tasks_of(comfyui: ComfyUI) -> list[dict[str, Any]]:
    """The sidebar's rows, the latest first."""
    listed: list[dict[str, Any]] = comfyui.get("/xalora/tasks").json()["tasks"]
    return listed


def press(comfyui: ComfyUI, task: dict[str, Any], action: str) -> None:
    comfyui.post(f"/xalora/tasks/{task['id']}/{action}", {}, headers={"X-Xalora": "1"})


def test_one_to_be_made_again_that_takes_too_long_is_waited_for_and_paid_once(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    graph = upscale_graph()
    graph["2"]["inputs"] |= {"fallback": "never", "wait_timeout": 60}
    assert comfyui.run(graph).status == "success"
    press(comfyui, tasks_of(comfyui)[0], "make_again")
    devnet.task_seconds = 5
    graph["2"]["inputs"]["wait_timeout"] = 1
    assert comfyui.run(graph).status == "error"
    new, bad = tasks_of(comfyui)[:2]
    assert (bad["wish"], new["wish"], new["state"]) == ("make_again", None, "submitted")
    graph["2"]["inputs"]["wait_timeout"] = 60
    record = comfyui.run(graph)
    assert record.status == "success"
    assert "kept" not in record.texts_of("2")[-1].text
    assert devnet.new_stats()["creates"] == 2
    (row,) = (row for row in tasks_of(comfyui) if row["id"] in (bad["id"], new["id"]))
    assert (row["id"], row["wish"]) == (new["id"], None)


def test_one_to_be_made_again_may_come_in_the_sidebar(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    graph = upscale_graph()
    graph["2"]["inputs"] |= {"fallback": "never", "wait_timeout": 60}
    assert comfyui.run(graph).status == "success"
    press(comfyui, tasks_of(comfyui)[0], "make_again")
    devnet.task_seconds = 3
    graph["2"]["inputs"]["wait_timeout"] = 1
    assert comfyui.run(graph).status == "error"
    new, bad = tasks_of(comfyui)[:2]
    press(comfyui, new, "resume")
    while tasks_of(comfyui)[0]["state"] != "kept":
        assert comfyui.alive
    record = comfyui.run(graph)
    assert record.status == "success"
    assert devnet.new_stats()["creates"] == 2
    assert bad["id"] not in [row["id"] for row in tasks_of(comfyui)]


def test_what_was_submitted_is_made_again_too(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    graph = {
        "1": image(fresh_seed()),
        "2": node("XaloraSubmitUpscale", image=["1", 0]),
        "3": node("XaloraCollect", task=["2", 0]),
        "4": dump(["3", 0]),
    }
    assert comfyui.run(graph).status == "success"
    (bad,) = tasks_of(comfyui)[:1]
    press(comfyui, bad, "make_again")
    for _ in range(2):
        assert comfyui.run(graph).status == "success"
        assert devnet.new_stats()["creates"] == 2
        comfyui.clear_cache()
    assert bad["id"] not in [row["id"] for row in tasks_of(comfyui)]
    assert tasks_of(comfyui)[0]["wish"] is None


def test_who_gives_up_a_new_one_gets_the_earlier_one(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    graph = upscale_graph()
    graph["2"]["inputs"] |= {"fallback": "never", "wait_timeout": 1}
    assert comfyui.run(graph).status == "success"
    (bad,) = tasks_of(comfyui)[:1]
    press(comfyui, bad, "make_again")
    devnet.task_seconds = 600
    assert comfyui.run(graph).status == "error"
    press(comfyui, bad, "take_back")
    record = comfyui.run(graph)
    assert record.status == "success"
    assert record.texts_of("2")[-1].text.endswith("(kept result, nothing sent)")
    assert devnet.new_stats()["creates"] == 2


@pytest.mark.timeout(900)  # ComfyUI starts five times
def test_killed_before_the_result_is_here_a_task_is_paid_once_and_its_result_shown(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    devnet.reset()
    comfyui = comfyui_factory({"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key})

    def killed(fault: str | None, reached: Callable[[RunRecord], object]) -> dict[str, Any]:
        devnet.reset()
        if fault is not None:
            devnet.add_fault(fault)
        else:
            devnet.task_seconds = 3
        graph = upscale_graph()
        graph["2"]["inputs"]["fallback"] = "never"
        reached(comfyui.start(graph))
        comfyui.kill()
        devnet.clear_faults()
        comfyui.restart()
        return graph

    def shown(graph: dict[str, Any]) -> None:
        record = comfyui.run(graph)
        assert record.status == "success", record.describe()
        (given,) = noise(graph["1"]["inputs"]["seed"])
        assert np.abs(record.array("3")[0] - doubled(given)).max() <= 1 / 255
        assert devnet.new_stats()["creates"] == 1

    def until_asked(record: RunRecord) -> None:
        devnet.wait_for(lambda _: devnet.new_stats()["endpoints"].get("task_create", 0) > 0, timeout=60)

    def until_held_back(record: RunRecord) -> None:
        until_asked(record)
        while TaskState.PREPARED not in {one.state for one in records_of(comfyui)}:
            assert comfyui.alive

    # Before the create: the network takes it later.
    shown(killed("task_create:503:retry_after=20", until_held_back))
    # During it, the user says what is to become of it.
    graph = killed("task_create:delay_after:seconds=600", until_asked)
    assert "answer was lost" in comfyui.run(graph).error["exception_message"]
    press(comfyui, tasks_of(comfyui)[0], "send_again")
    shown(graph)
    shown(killed(None, lambda record: record.wait_for_text("running", node="2")))
    shown(killed("result:slow:seconds=600", lambda record: record.wait_for_text("downloading", node="2")))
