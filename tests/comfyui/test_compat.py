"""`nodes.host.compat` and `nodes.host.bridge` in a real ComfyUI: interrupts, folders, schemas."""

from __future__ import annotations

import json
import time
from typing import Any

import requests
from graphs import fresh, node
from harness import ComfyUI, RunRecord

CEILING = 30.0


def remote_outcome(comfyui: ComfyUI, name: str) -> dict[str, Any]:
    """What an XaloraTestRemote wrote, which may be a moment after the prompt has ended."""
    path = comfyui.output_dir / f"{name}.json"
    until = time.monotonic() + CEILING
    while time.monotonic() < until:
        if path.exists() and (text := path.read_text()):
            told: dict[str, Any] = json.loads(text)
            return told
        time.sleep(0.02)
    raise AssertionError(f"{path} was never written")


def wait_until_waiting(record: RunRecord, node: str) -> None:
    """An XaloraTestRemote shows its bar once it waits; `executing` comes before its first step."""
    record.wait_for("progress_state", node=node, where=lambda event: event.data["nodes"][node]["value"] == 50)


def start_remote(comfyui: ComfyUI, name: str, beside: dict[str, Any], **inputs: Any) -> RunRecord:
    return comfyui.start(
        {
            "1": node("XaloraTestRemote", name=name, nonce=fresh(), **inputs),
            "2": node("XaloraTestClock", value=["1", 0]),
            "3": beside,
            "4": node("XaloraTestClock", value=["3", 0]),
        }
    )


def test_a_coroutine_on_the_bridge_runs_beside_a_blocking_node(comfyui: ComfyUI) -> None:
    blocking = node("XaloraTestBlock", seconds=1.5, busy=True, nonce=fresh())
    name = fresh()
    record = start_remote(comfyui, name, blocking, seconds=1.0).wait()
    assert record.status == "success"
    assert remote_outcome(comfyui, name) == {"ended": "done", "interrupts": 0}
    # In sequence they would take 2.5 s.
    assert record.outputs["2"]["at"][0] - record.outputs["4"]["at"][0] < 0.5


def test_the_cancel_button_reaches_every_waiting_node(comfyui: ComfyUI) -> None:
    """The first to poll ends the prompt; the others learn from the count that it was an interrupt."""
    names = [fresh(), fresh(), fresh()]
    prompt = {}
    for number, name in enumerate(names):
        prompt[f"r{number}"] = node("XaloraTestRemote", name=name, seconds=60, nonce=fresh())
        prompt[f"c{number}"] = node("XaloraTestClock", value=[f"r{number}", 0])
    record = comfyui.start(prompt)
    for number in range(3):
        wait_until_waiting(record, f"r{number}")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    told = [remote_outcome(comfyui, name) for name in names]
    assert [one["interrupts"] for one in told] == [1, 1, 1]
    assert "interrupted" in [one["ended"] for one in told]


def test_a_flag_that_another_node_cleared_is_still_counted(comfyui: ComfyUI) -> None:
    """A blocking node clears the flag; the waiting node is cancelled, as after a failure, but can tell."""
    name = fresh()
    blocking = node("XaloraTestBlock", seconds=1.0, nonce=fresh())
    record = start_remote(comfyui, name, blocking, seconds=60, polls=False)
    record.wait_for("executing", node="3")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    assert remote_outcome(comfyui, name) == {"ended": "cancelled", "interrupts": 1}


def test_a_failure_elsewhere_counts_as_no_interrupt(comfyui: ComfyUI) -> None:
    name = fresh()
    failing = node("XaloraTestFail", message="elsewhere", delay=0.3, nonce=fresh())
    record = start_remote(comfyui, name, failing, seconds=60).wait()
    assert record.status == "error"
    assert record.error["node_id"] == "3"
    assert remote_outcome(comfyui, name) == {"ended": "cancelled", "interrupts": 0}


def test_comfyui_works_on_after_each_of_these(comfyui: ComfyUI) -> None:
    """An escaped `CancelledError` would have ended its worker thread, and no prompt would run."""
    assert comfyui.run({"1": node("XaloraTestClock", nonce=fresh())}, timeout=CEILING).status == "success"


def test_folders_schema_and_options(comfyui: ComfyUI) -> None:
    told = comfyui.run({"1": node("XaloraTestCompat", nonce=fresh())}).outputs["1"]
    assert {name: told[name][0] for name in ("pack", "base", "temp", "user")} == {
        "pack": str(comfyui.pack_dir),
        "base": str(comfyui.root),
        "temp": str(comfyui.temp_dir),
        "user": str(comfyui.user_dir),
    }
    assert told["system_user"] == [str(comfyui.user_dir / "__xalora")]
    assert told["schema"] == ["Any"]
    assert json.loads(told["options"][0])["advanced"] is True


def test_full_collections_leave_out_what_was_loaded_before(comfyui: ComfyUI) -> None:
    told = comfyui.run({"1": node("XaloraTestCompat", nonce=fresh())}).outputs["1"]
    assert int(told["frozen"][0]) > 100_000, "the modules of ComfyUI and torch alone"


def test_the_bar_shows_each_step_of_several_in_a_row(comfyui: ComfyUI) -> None:
    """ComfyUI's own bar drops steps that come less than 0.1 s apart, and the last one too."""
    record = comfyui.run({"1": node("XaloraTestCompat", nonce=fresh())})
    assert {(1, 4), (2, 4), (3, 4)} <= set(record.progress_of("1"))


def test_the_system_users_folder_is_served_to_nobody(comfyui: ComfyUI) -> None:
    secret = comfyui.user_dir / "__xalora" / "key.txt"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("not for the network")
    for path, headers in [
        ("/userdata/key.txt", {"comfy-user": "__xalora"}),
        ("/userdata/..%2F__xalora%2Fkey.txt", {}),
        ("/userdata/__xalora%2Fkey.txt", {}),
        ("/view?filename=key.txt&subfolder=..%2Fuser%2F__xalora&type=output", {}),
        ("/view?filename=..%2Fuser%2F__xalora%2Fkey.txt&type=input", {}),
    ]:
        answer = requests.get(comfyui.url + path, headers=headers, timeout=10)
        assert answer.status_code >= 400, path
        assert "not for the network" not in answer.text, path
