"""The sequencer's state, without a socket and with a clock that the test sets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xalora_client.devnet.state import State


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> Iterator[State]:
    state = State(lease_seconds=5.0, clock=clock)
    yield state
    state.close()


def new(job_id: str, *, workflow_id: str = "1", timeout_seconds: float | None = None) -> dict[str, Any]:
    return {
        "consumer_id": "devnet",
        "job_id": job_id,
        "task_type": "txt2vid",
        "workflow_id": workflow_id,
        "details": '{"parameters": {}}',
        "timeout_seconds": timeout_seconds,
    }


def status(state: State, task_id: str) -> str:
    task = state.get(task_id)
    assert task is not None
    return task.status


def test_tasks_go_out_in_order_of_arrival_across_workflows(state: State) -> None:
    ids = [state.create(**new(str(n), workflow_id="21"[n % 2])) for n in range(4)]
    got = []
    for n in range(4):
        assignment = state.assign(f"m{n}", ["2", "1"])
        assert assignment is not None
        got.append(assignment.task_id)
    assert got == ids
    assert state.assign("m9", ["1", "2"]) is None
    assert state.stats()["running_now"] == state.stats()["running_most"] == 4


def test_a_workflow_that_nobody_takes_waits(state: State) -> None:
    task_id = state.create(**new("a", workflow_id="7"))
    assert state.assign("m", ["1", "2"]) is None
    assert status(state, task_id) == "waiting"
    assert state.miner_for("7") is None
    assert state.miner_for("1") == ("m", True)


def test_a_silent_miners_task_goes_back_and_to_the_next(state: State, clock: Clock) -> None:
    task_id = state.create(**new("a"))
    assert state.assign("first", ["1"])
    clock.now += 4.9
    assert status(state, task_id) == "running"
    clock.now += 0.1
    assert status(state, task_id) == "waiting"
    assignment = state.assign("second", ["1"])
    assert assignment is not None
    assert assignment.task_id == task_id
    task = state.get(task_id)
    assert task is not None
    assert (task.miner_id, task.assignments) == ("second", 2)


def test_renewals_keep_a_task(state: State, clock: Clock) -> None:
    task_id = state.create(**new("a"))
    assert state.assign("m", ["1"])
    for _ in range(10):
        clock.now += 4.0
        assert state.renew("m") == task_id
    assert status(state, task_id) == "running"
    state.cancel(task_id)
    assert state.renew("m") is None


def test_a_busy_miner_gets_no_other_task_and_none_twice(state: State, clock: Clock) -> None:
    first = state.create(**new("a"))
    second = state.create(**new("b"))
    assert state.assign("m", ["1"])
    assert state.assign("m", ["1"]) is None
    task = state.get(first)
    assert task is not None and (task.status, task.assignments) == ("running", 1)
    # Silence ends the assignment: the answer with the task may have been lost.
    clock.now += 5
    again = state.assign("m", ["1"])
    assert again is not None and again.task_id == first
    assert state.submit(first, "m", success=True, result="k", message="")
    after = state.assign("m", ["1"])
    assert after is not None and after.task_id == second


def test_a_place_in_the_queue_is_among_the_tasks_of_a_workflow(state: State) -> None:
    def places() -> list[int | None]:
        return [state.queue_position(task) for id in ids if (task := state.get(id)) is not None]

    ids = [state.create(**new(str(n), workflow_id="1121"[n])) for n in range(4)]
    assert places() == [1, 2, 1, 3]
    assert state.assign("m", ["1"])
    assert places() == [None, 1, 1, 2]
    state.cancel(ids[1])
    assert places() == [None, None, 1, 1]


def test_timeout_seconds_cancels_a_waiting_and_a_running_task(state: State, clock: Clock) -> None:
    running = state.create(**new("a", timeout_seconds=3))
    waiting = state.create(**new("b", timeout_seconds=3))
    forever = state.create(**new("c"))
    assert state.assign("m", ["1"])
    clock.now += 2.9
    assert [status(state, task) for task in (running, waiting)] == ["running", "waiting"]
    clock.now += 0.1
    assert [status(state, task) for task in (running, waiting, forever)] == [
        "canceled",
        "canceled",
        "waiting",
    ]
    assert not state.submit(running, "m", success=True, result="k", message="")
    assert status(state, running) == "canceled"


def test_the_first_result_counts_even_from_a_miner_without_its_lease(state: State, clock: Clock) -> None:
    task_id = state.create(**new("a"))
    assert state.assign("slow", ["1"])
    clock.now += 6
    assert state.assign("quick", ["1"])
    assert not state.submit(task_id, "slow", success=False, result=None, message="out of memory")
    assert status(state, task_id) == "running"
    assert state.submit(task_id, "slow", success=True, result="by-slow", message="")
    assert not state.submit(task_id, "quick", success=True, result="by-quick", message="")
    task = state.get(task_id)
    assert task is not None
    assert (task.status, task.result, task.miner_id) == ("finished", "by-slow", "slow")


def test_an_idle_miner_is_named_before_a_busy_one_and_a_silent_one_never(state: State, clock: Clock) -> None:
    state.create(**new("a"))
    assert state.assign("busy", ["1"])
    assert state.miner_for("1") == ("busy", False)
    assert state.assign("idle", ["1"]) is None
    assert state.miner_for("1") == ("idle", True)
    clock.now += 6
    assert state.miner_for("1") is None


def test_the_same_job_is_the_same_task_for_good(state: State) -> None:
    task_id = state.create(**new("a"))
    state.cancel(task_id)
    assert state.create(**new("a")) == task_id
    assert state.stats()["creates"] == 1
    assert state.stats()["duplicates"] == 1


def test_a_file_keeps_tasks_and_counts(tmp_path: Path, clock: Clock) -> None:
    db = tmp_path / "state.sqlite"
    state = State(db, clock=clock)
    waiting = state.create(**new("a", timeout_seconds=100))
    running = state.create(**new("b"))
    state.create(**new("b"))
    state.count_request("task_create")
    assert state.assign("m", ["1"])
    state.cancel(waiting)
    held = state.assign("m", ["1"])
    assert held is not None
    secret = state.secret
    before = state.stats()
    state.close()

    clock.now += 3600  # nobody could renew a lease while it was down
    state = State(db, clock=clock)
    assert state.stats() == before
    assert state.secret == secret
    assert state.create(**new("b")) == running
    assert status(state, running) == "running"
    assert state.miner_for("1") == ("m", False)
    assert state.renew("m") == running
    assert state.submit(running, "m", success=True, result="k", message="")
    assert status(state, running) == "finished"
    state.close()


def test_a_timeout_runs_on_while_it_is_down(tmp_path: Path, clock: Clock) -> None:
    db = tmp_path / "state.sqlite"
    state = State(db, clock=clock)
    task_id = state.create(**new("a", timeout_seconds=10))
    state.close()
    clock.now += 11
    state = State(db, clock=clock)
    assert status(state, task_id) == "canceled"
    state.close()


def test_what_was_created_is_on_disk_before_it_is_answered(tmp_path: Path, clock: Clock) -> None:
    db = tmp_path / "state.sqlite"
    state = State(db, clock=clock)
    task_id = state.create(**new("a"))
    # A second connection sees committed data only, as after a kill.
    other = sqlite3.connect(db)
    assert other.execute("SELECT task_id FROM tasks").fetchall() == [(task_id,)]
    other.close()
    state.close()


def test_changes_call_on_change(clock: Clock) -> None:
    told: list[object] = []
    state = State(clock=clock, on_change=lambda: told.append(state.stats()["tasks"]))
    task_id = state.create(**new("a"))
    assert state.assign("m", ["1"])
    state.submit(task_id, "m", success=True, result="k", message="")
    statuses = [next((name for name, n in counts.items() if n), None) for counts in told]  # type: ignore[attr-defined]
    assert statuses == ["waiting", "waiting", "running", "finished"]
    state.close()


def test_a_task_that_ended_while_it_waited_is_passed_over(state: State) -> None:
    ids = [state.create(**new(str(n))) for n in range(3)]
    state.cancel(ids[0])
    assignment = state.assign("m", ["1"])
    assert assignment is not None
    assert assignment.task_id == ids[1]
    assert status(state, ids[0]) == "canceled"
