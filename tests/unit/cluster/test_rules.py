"""States and attempts of a task of the cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xalora_client.cluster import rules
from xalora_client.cluster.rules import Task

WAITING = Task(1, "t", "me", "job", "upscaler", "lanczos-upscale", "lanczos-upscale", 10.0, created=100.0)
RUNNING = replace(WAITING, **rules.assigned(WAITING, "box/gpu0", 101.0))
ENDED = [replace(RUNNING, status=status) for status in ("finished", "failed", "canceled")]


def test_an_attempt_is_counted_when_a_worker_takes_it() -> None:
    assert (RUNNING.status, RUNNING.attempt, RUNNING.miner_id) == ("running", 1, "box/gpu0")
    assert rules.assigned(RUNNING, "other", 102.0) == {}


def test_only_the_current_attempt_counts() -> None:
    again = replace(RUNNING, **rules.lost(RUNNING, 1, "gone", 102.0))
    second = replace(again, **rules.assigned(again, "box2/gpu0", 103.0))
    for late in (
        rules.finished(second, 1, ("a",), 104.0),
        rules.failed(second, 1, "no", 104.0),
        rules.lost(second, 1, "no", 104.0),
    ):
        assert late == {}
    assert rules.finished(second, 2, ("a", "b"), 104.0, inference_latency=1.0) == {
        "status": "finished",
        "keys": "a\nb",
        "message": "",
        "ended": 104.0,
        "inference_latency": 1.0,
    }


def test_a_lost_task_waits_once_more_and_then_fails() -> None:
    again = replace(RUNNING, **rules.lost(RUNNING, 1, "its machine died", 102.0))
    assert (again.status, again.attempt, again.number, again.miner_id) == ("waiting", 1, 1, None)
    assert "box/gpu0" in again.message
    second = replace(again, **rules.assigned(again, "box2/gpu0", 103.0))
    end = replace(second, **rules.lost(second, 2, "its machine died", 104.0))
    assert (end.status, end.attempt) == ("failed", 2)
    assert end.message == "Lost 2 times, the last time on box2/gpu0: its machine died"


def test_a_failure_of_the_engine_is_not_tried_again() -> None:
    assert rules.failed(RUNNING, 1, "out of memory", 102.0)["status"] == "failed"


@pytest.mark.parametrize("task", [WAITING, RUNNING], ids=["waiting", "running"])
def test_an_open_task_can_be_canceled(task: Task) -> None:
    assert rules.canceled(task, 102.0)["status"] == "canceled"


@pytest.mark.parametrize("task", ENDED, ids=[task.status for task in ENDED])
def test_an_ended_task_changes_no_more(task: Task) -> None:
    assert not any(
        (
            rules.assigned(task, "box", 102.0),
            rules.finished(task, 1, ("a",), 102.0),
            rules.failed(task, 1, "no", 102.0),
            rules.lost(task, 1, "no", 102.0),
            rules.canceled(task, 102.0),
        )
    )
