"""What a ComfyUI server says, understood without one: the messages are as a real 0.3.75 sends them."""

from __future__ import annotations

import json
import struct

import pytest

from xalora_client.engines.comfyui_events import (
    Message,
    RunTracker,
    failure_of,
    parse_binary,
    parse_text,
    refusal_of,
    result_entries,
)

PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {}, "_meta": {"title": "Load"}},
    "2": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Sample"}},
    "3": {"class_type": "SaveImage", "inputs": {}},
}


def event(kind: str, **data: object) -> Message:
    return Message(kind, {"prompt_id": "p", **data})


def test_progress_counts_nodes_and_the_running_nodes_steps() -> None:
    tracker = RunTracker(PROMPT, "p")
    assert tracker.waiting().total == 3
    steps = [
        event("execution_start"),
        event("execution_cached", nodes=["1"]),
        event("executing", node="2", display_node="2"),
        event("progress", node="2", value=5, max=20),
        event("executed", node="2", display_node="2"),
        event("executing", node="3", display_node="3"),
    ]
    seen = [tracker.feed(step) for step in steps]
    assert [(p.done, p.label) for p in seen if p] == [
        (0, "started"),
        (1, "started"),
        (1, "Sample"),
        (1.25, "Sample 5/20"),
        (2, "Sample 5/20"),
        (2, "SaveImage"),
    ]
    assert not tracker.ended
    assert tracker.feed(event("executing", node=None)) is None
    assert tracker.ended


def test_nodes_of_an_expansion_count_as_their_parent() -> None:
    tracker = RunTracker(PROMPT, "p")
    tracker.feed(event("executing", node="2", display_node="2"))
    inner = tracker.feed(event("executing", node="2.0.0.7", display_node="2"))
    assert inner is not None
    assert (inner.done, inner.label) == (0, "Sample")


@pytest.mark.parametrize("kind", ["execution_success", "execution_error", "execution_interrupted"])
def test_every_ending_ends_and_only_this_prompts(kind: str) -> None:
    tracker = RunTracker(PROMPT, "p")
    tracker.feed(Message(kind, {"prompt_id": "another"}))
    tracker.feed(Message("executing", {"node": None}))
    assert not tracker.ended
    tracker.feed(event(kind))
    assert tracker.ended


def test_other_prompts_messages_and_senseless_ones_change_nothing() -> None:
    tracker = RunTracker(PROMPT, "p")
    for message in (
        Message("progress", {"prompt_id": "another", "value": 1, "max": 2}),
        event("progress", value=1, max=0),
        event("progress", value="half", max=1),
        Message("status", {"status": {}}),
        event("unheard_of"),
    ):
        assert tracker.feed(message) is None


def test_previews_come_with_and_without_metadata() -> None:
    tracker = RunTracker(PROMPT, "p")
    plain = parse_binary(struct.pack(">II", 1, 1) + b"\xff\xd8jpeg")
    assert plain is not None
    progress = tracker.feed(plain)
    assert progress is not None
    assert progress.preview == b"\xff\xd8jpeg"

    def with_metadata(prompt_id: str) -> Message | None:
        metadata = json.dumps({"prompt_id": prompt_id, "node_id": "2", "image_type": "image/png"}).encode()
        return parse_binary(struct.pack(">II", 4, len(metadata)) + metadata + b"\x89PNG")

    own, others = with_metadata("p"), with_metadata("another")
    assert own is not None
    assert others is not None
    progress = tracker.feed(own)
    assert progress is not None
    assert progress.preview == b"\x89PNG"
    assert tracker.feed(others) is None


def test_a_nodes_text_becomes_the_label() -> None:
    message = parse_binary(struct.pack(">II", 3, 1) + b"2" + "läuft".encode())
    assert message is not None
    progress = RunTracker(PROMPT, "p").feed(message)
    assert progress is not None
    assert progress.label == "läuft"


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\0\1", struct.pack(">II", 4, 3) + b"{a}", struct.pack(">II", 9, 0)]
)
def test_broken_and_unknown_binary_messages_are_passed_over(raw: bytes) -> None:
    assert parse_binary(raw) is None


@pytest.mark.parametrize("raw", ["", "[]", "{}", '{"type": 5}', "nonsense"])
def test_broken_text_messages_are_passed_over(raw: str) -> None:
    assert parse_text(raw) is None


def test_a_text_message_without_data_has_none() -> None:
    assert parse_text('{"type": "x", "data": null}') == Message("x", {})


def test_files_are_found_under_each_key_and_the_animated_flag_is_no_file() -> None:
    video = {"filename": "a.mp4", "subfolder": "video", "type": "output"}
    assert result_entries({"3": {"images": [video], "animated": [True]}}, "3") == [video]
    assert result_entries({"3": {"gifs": [video]}}, "3") == [video]
    assert result_entries({"3": {"videos": [video], "images": [{"filename": ""}]}}, "3") == [video]
    assert result_entries({"3": {"text": ["hello"]}}, "3") == []
    assert result_entries({}, "3") == []


def test_a_failure_names_the_node_by_its_title() -> None:
    error = {
        "node_id": "2",
        "node_type": "KSampler",
        "exception_type": "ValueError",
        "exception_message": "no",
    }
    status = {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", error]]}
    assert failure_of(status, PROMPT) == 'the node "Sample" (node 2) failed with ValueError: no'
    inside = {**error, "node_id": "2.0.0.7"}
    assert failure_of({"messages": [["execution_error", inside]]}, PROMPT) == (
        "the node KSampler (node 2.0.0.7) failed with ValueError: no"
    )
    stopped = failure_of({"messages": [["execution_interrupted", error]]}, PROMPT)
    assert stopped is not None
    assert "interrupted on the server" in stopped
    assert failure_of({"status_str": "error"}, PROMPT) == "the server reports an error without a reason"
    assert failure_of({"status_str": "success", "messages": [["execution_success", {}]]}, PROMPT) is None


def test_a_refusal_names_the_nodes_by_their_titles() -> None:
    answer = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
        "node_errors": {
            "2": {"errors": [{"message": "Value not in list", "details": "sampler_name: 'x' not in [...]"}]}
        },
    }
    assert (
        refusal_of(answer, PROMPT) == "\"Sample\" (node 2): Value not in list: sampler_name: 'x' not in [...]"
    )
    no_outputs = {"error": {"message": "Prompt has no outputs", "details": ""}, "node_errors": []}
    assert refusal_of(no_outputs, PROMPT) == "Prompt has no outputs"
    assert refusal_of("Bad Request", PROMPT) == "Bad Request"
