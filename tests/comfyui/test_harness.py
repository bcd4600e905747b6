"""The test harness itself: logs, pixels, events, settings and restarts of its ComfyUI."""

from __future__ import annotations

import re
import threading
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import requests
from graphs import fresh, node
from harness import ComfyUI, ComfyUIFactory, LoadCost, PromptRefusedError, SessionDevnet
from PIL import Image


def test_the_pack_loads_without_a_complaint(comfyui: ComfyUI) -> None:
    """ComfyUI names the folder with the time it took; a complaint or a traceback would name it too."""
    starting = comfyui.logs().partition("Starting server")[0]
    naming = [line for line in starting.splitlines() if str(comfyui.pack_dir) in line]
    assert naming
    level = r"(\x1b\[\d+m\[INFO\]\x1b\[0m)?"
    loaded = re.compile(rf"{level}\s*\d+\.\d seconds: {re.escape(str(comfyui.pack_dir))}")
    assert [line for line in naming if not loaded.fullmatch(line)] == []


def test_an_image_comes_back_number_for_number(comfyui: ComfyUI) -> None:
    name = f"exact-{fresh()}"
    record = comfyui.run(
        {
            "1": node("XaloraTestImage", width=20, height=10, batch=2, channels=4, seed=7),
            "2": node("XaloraTestDump", image=["1", 0], name=name),
        }
    )
    assert record.status == "success"
    expected = np.random.default_rng(7).random((2, 10, 20, 4), dtype=np.float32)
    expected[..., 3] = np.linspace(0, 1, 20, dtype=np.float32)
    np.testing.assert_array_equal(record.array("2"), expected)
    assert (comfyui.output_dir / f"{name}.npy").is_file()


def test_events_arrive_as_in_the_browser(comfyui: ComfyUI) -> None:
    record = comfyui.run(
        {
            "1": node("XaloraTestClock", nonce=fresh()),
            "2": node("XaloraTestClock", value=["1", 0], nonce=fresh()),
        }
    )
    types = [event.type for event in record.events]
    assert types[0] == "execution_start"
    assert types.index("execution_success") > types.index("executed")
    executing = [event.data["node"] for event in record.of("executing")]
    assert executing == ["1", "2", None]
    assert record.of("progress_state", "2")
    assert [event.at for event in record.events] == sorted(event.at for event in record.events)
    first, second = (record.outputs[id]["at"][0] for id in ("1", "2"))
    assert record.queued_at <= first <= second <= record.ended_at
    assert record.history["status"]["status_str"] == "success"


def test_a_failure_is_told_with_its_node(comfyui: ComfyUI) -> None:
    record = comfyui.run(
        {
            "5": node("XaloraTestFail", message="the wire broke", nonce=fresh()),
            "6": node("XaloraTestClock", value=["5", 0]),
        }
    )
    assert record.status == "error"
    assert record.error["node_id"] == "5"
    assert "the wire broke" in record.error["exception_message"]


def test_an_interrupt_ends_a_running_prompt(comfyui: ComfyUI) -> None:
    record = comfyui.start(
        {
            "1": node("XaloraTestBlock", seconds=0.5, nonce=fresh()),
            "2": node("XaloraTestClock", value=["1", 0], nonce=fresh()),
        }
    )
    record.wait_for("executing", node="1")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert "2" not in record.outputs


def test_waiting_for_what_never_comes_says_what_came(comfyui: ComfyUI) -> None:
    record = comfyui.run({"1": node("XaloraTestClock", nonce=fresh())})
    with pytest.raises(AssertionError, match=r"(?s)it ended as success.*execution_start"):
        record.wait_for_text("running 34 s")


def test_a_prompt_that_does_not_validate_is_refused(comfyui: ComfyUI) -> None:
    with pytest.raises(PromptRefusedError) as refused:
        comfyui.queue({"1": node("XaloraTestDump", name="no image")})
    assert refused.value.answer["node_errors"]["1"]["errors"][0]["type"] == "required_input_missing"


def test_an_uploaded_image_is_loaded_and_saved(comfyui: ComfyUI) -> None:
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    png = BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    name = comfyui.upload_image(png.getvalue())
    record = comfyui.run(
        {
            "1": node("LoadImage", image=name),
            "2": node("SaveImage", images=["1", 0], filename_prefix=f"saved-{fresh()}"),
        }
    )
    (saved,) = comfyui.files(record, "2")
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(saved))), pixels)


def test_progress_previews_and_texts_reach_the_client(comfyui: ComfyUI) -> None:
    record = comfyui.run({"9": node("XaloraTestProgress", steps=3, nonce=fresh())})
    assert record.status == "success"
    assert record.progress_of("9") == [(0, 1), (1, 3), (2, 3), (3, 3)]
    assert [text.text for text in record.texts_of("9")] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert [(preview.node, preview.media_type) for preview in record.previews] == [("9", "image/png")] * 3
    assert Image.open(BytesIO(record.previews[-1].data)).getpixel((0, 0)) == (255, 0, 0)


def test_the_cache_serves_until_it_is_cleared(comfyui: ComfyUI) -> None:
    prompt = {"1": node("XaloraTestClock", nonce=fresh())}
    first = comfyui.run(prompt)
    assert first.cached == set()
    assert comfyui.run(prompt).cached == {"1"}
    comfyui.clear_cache()
    again = comfyui.run(prompt)
    assert again.cached == set()
    assert again.outputs["1"]["at"] > first.outputs["1"]["at"]


def test_a_synchronous_node_starves_the_prompts_loop(comfyui: ComfyUI) -> None:
    """The fact that the bridge exists for: an async node beside a blocking one gets no turn meanwhile."""
    record = comfyui.run(
        {
            "1": node("XaloraTestAsyncWait", seconds=0.2, tick=0.02, nonce=fresh()),
            "2": node("XaloraTestBlock", seconds=1.0, busy=True, nonce=fresh()),
            "3": node("XaloraTestClock", value=["1", 0]),
            "4": node("XaloraTestClock", value=["2", 0]),
        }
    )
    waited, blocked = record.outputs["1"], record.outputs["2"]
    assert waited["began"][0] <= blocked["began"][0]
    during = [tick for tick in waited["ticks"] if blocked["began"][0] < tick < blocked["ended"][0]]
    assert during == []
    assert waited["ended"][0] >= blocked["ended"][0]


def test_object_info_names_the_test_nodes(comfyui: ComfyUI) -> None:
    assert comfyui.object_info("XaloraTestImage")["output"] == ["IMAGE"]
    assert "LoadImage" in comfyui.object_info()


def test_the_devnet_counts_anew_for_each_test(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    assert comfyui.env["XALORA_WORKFLOW_URL"] == devnet.url
    consumer_id, _, api_key = devnet.api_key.partition("#")
    body = {
        "consumer_id": consumer_id,
        "api_key": api_key,
        "job_id": f"harness-{fresh()}",
        "task_type": "txt2vid",
        "workflow_id": "1",
        "task_details": {"parameters": {"prompt": "a lighthouse"}},
    }
    devnet.add_fault("task_create:503:n=1")
    assert requests.post(f"{devnet.url}/task_create", json=body, timeout=10).status_code == 503
    devnet.task_seconds = 600
    task_id = requests.post(f"{devnet.url}/task_create", json=body, timeout=10).json()["task_id"]
    devnet.wait_for_status(task_id, "running")
    assert devnet.new_task_ids() == [task_id]
    stats = devnet.new_stats()
    assert (stats["creates"], stats["duplicates"], stats["tasks"]) == (1, 0, {"running": 1})
    assert stats["endpoints"]["task_create"] == 2
    devnet.reset()
    assert devnet.task(task_id).status == "canceled"
    assert set(devnet.miners.values()) == {None}
    assert devnet.new_stats()["creates"] == 0
    assert devnet.new_stats()["tasks"] == {}


def test_two_threads_queue_through_one_client(comfyui: ComfyUI) -> None:
    records: list[Any] = []

    def queue() -> None:
        records.append(comfyui.run({"1": node("XaloraTestClock", nonce=fresh())}))

    threads = [threading.Thread(target=queue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [record.status for record in records] == ["success"] * 4
    assert len({record.prompt_id for record in records}) == 4


def test_a_killed_comfyui_comes_back_with_its_folders(comfyui_factory: ComfyUIFactory) -> None:
    extra = comfyui_factory()
    (extra.output_dir / "kept.txt").write_text("kept")
    record = extra.start(
        {"1": node("XaloraTestBlock", seconds=60), "2": node("XaloraTestClock", value=["1", 0])}
    )
    record.wait_for("executing", node="1")
    extra.kill()
    with pytest.raises(AssertionError, match="websocket"):
        record.wait()
    with pytest.raises(requests.ConnectionError):
        extra.get("/system_stats")
    extra.restart()
    assert (extra.output_dir / "kept.txt").read_text() == "kept"
    assert extra.run({"1": node("XaloraTestClock", nonce=fresh())}).status == "success"
    assert_nothing_heavy_was_imported(extra.load_cost())


def assert_nothing_heavy_was_imported(cost: LoadCost) -> None:
    """The seconds are measured by `benchmarks/startup.py`: here they depend on who else runs."""
    heavy = {"av", "obstore", "rich", "tenacity", "typer"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in cost.imported), cost
