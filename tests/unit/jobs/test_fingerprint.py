"""Which work is the same work."""

from __future__ import annotations

from typing import Any

from xalora_client.jobs.preparation import duration_kind, fingerprint

BASE: dict[str, Any] = {
    "sequencer_url": "https://s",
    "consumer_id": "alice",
    "task_type": "upscaler",
    "workflow_id": None,
    "parameters": {"image": object(), "a": 1, "b": "x"},
    "image_digests": {"image": "d1"},
}


def test_order_and_trailing_slash_do_not_matter() -> None:
    again = {**BASE, "parameters": {"b": "x", "a": 1, "image": object()}, "sequencer_url": "https://s/"}
    assert fingerprint(**again) == fingerprint(**BASE)


def test_everything_that_makes_work_different_makes_the_fingerprint_different() -> None:
    others = [
        {"sequencer_url": "http://127.0.0.1:1"},
        {"consumer_id": "bob"},
        {"task_type": "txt2img"},
        {"workflow_id": "3"},
        {"parameters": {"image": object(), "a": 2, "b": "x"}},
        {"image_digests": {"image": "d2"}},
    ]
    prints = {fingerprint(**{**BASE, **other}) for other in others} | {fingerprint(**BASE)}
    assert len(prints) == len(others) + 1


def test_kinds_join_sizes_that_are_close_and_part_those_that_are_not() -> None:
    def kind(pixels: int, **parameters: Any) -> str:
        return duration_kind(task_type="upscaler", workflow_id=None, parameters=parameters, pixels=pixels)

    assert kind(2048 * 2048) == kind(2000 * 2048)
    assert kind(2048 * 2048) != kind(1024 * 1024)
    assert kind(100, length=16) != kind(100, length=32)
    assert kind(100, prompt="a fox") == kind(100, prompt="a cat")
