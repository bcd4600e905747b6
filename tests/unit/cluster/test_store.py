"""The cluster's tasks on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from xalora_client.cluster.store import Store


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(tmp_path / "cluster", clock=clock)
    yield store
    store.close()


def create(store: Store, job_id: str = "job", workflow: str = "a", seconds: float | None = None) -> str:
    return store.create(
        store.write_input({}),
        consumer_id="me",
        job_id=job_id,
        task_type="upscaler",
        workflow_id=workflow,
        workflow=workflow,
        timeout_seconds=seconds,
    )


def reopened(store: Store, tmp_path: Path, clock: Clock) -> Store:
    store.close()
    return Store(tmp_path / "cluster", clock=clock)


def test_a_repeated_job_is_the_same_task(store: Store) -> None:
    first = create(store)
    assert create(store) == first
    assert create(store, "other") != first


def test_the_oldest_task_that_a_worker_can_run_is_taken(store: Store) -> None:
    first, second, third = (create(store, f"{n}", workflow) for n, workflow in enumerate("aba"))
    assert store.take("box/0", ["b"]).task_id == second  # type: ignore[union-attr]
    assert store.take("box/0", ["a", "b"]).task_id == first  # type: ignore[union-attr]
    assert store.take("box/0", ["a", "b"]).task_id == third  # type: ignore[union-attr]
    assert store.take("box/0", ["a", "b"]) is None
    assert store.take("box/0", []) is None


def test_a_lost_task_keeps_its_place_in_the_queue(store: Store) -> None:
    first, second = create(store, "1"), create(store, "2")
    store.take("box/0", ["a"])
    assert store.lose(first, 1, "gone")
    waiting = store.get(second)
    assert waiting is not None and store.queue_position(waiting, ["a"]) == 2
    assert store.take("box/1", ["a"]).task_id == first  # type: ignore[union-attr]


def test_the_queue_counts_only_those_who_wait_for_the_same_workers(store: Store) -> None:
    create(store, "1", "a"), create(store, "2", "b")
    task = store.get(create(store, "3", "c"))
    assert task is not None
    assert [store.queue_position(task, names) for names in (["c"], ["c", "a"], ["a", "b", "c"])] == [1, 2, 3]


def test_a_restart_runs_what_ran_once_more_and_keeps_what_finished(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    done, running, waiting = create(store, "1"), create(store, "2"), create(store, "3")
    task = store.take("box/0", ["a"])
    assert task is not None
    keys = store.write_result(task, [(".png", b"pixels")])
    assert store.finish(done, 1, keys)
    store.take("box/0", ["a"])
    store = reopened(store, tmp_path, clock)
    states = [(task.status, task.attempt) for name in (done, running, waiting) if (task := store.get(name))]
    assert states == [("finished", 1), ("waiting", 1), ("waiting", 0)]
    path = store.result_path(keys[0])
    assert path is not None and path.read_bytes() == b"pixels"
    assert store.read_input(running) == b"{}"

    store.take("box/0", ["a"])
    store = reopened(store, tmp_path, clock)
    lost = store.get(running)
    assert lost is not None and lost.status == "failed" and "restarted" in lost.message


def test_an_ended_task_leaves_no_input(store: Store) -> None:
    task_id = create(store)
    assert store.cancel(task_id)
    with pytest.raises(FileNotFoundError):
        store.read_input(task_id)
    assert not store.cancel(task_id)


def test_files_of_a_process_that_was_killed_are_removed(store: Store, tmp_path: Path, clock: Clock) -> None:
    without_row = store.write_input({})
    create(store)
    running = store.take("box/0", ["a"])
    assert running is not None
    keys = store.write_result(running, [(".png", b"pixels")])
    store = reopened(store, tmp_path, clock)
    with pytest.raises(FileNotFoundError):
        store.read_input(without_row)
    assert store.result_path(keys[0]) is None


def test_a_deadline_ends_waiting_and_running_tasks(store: Store, clock: Clock) -> None:
    first, second, free = create(store, "1", seconds=5), create(store, "2", seconds=9), create(store, "3")
    store.take("box/0", ["a"])
    assert store.next_deadline() == 1005
    assert store.expire() == []
    clock.now = 1005
    assert store.expire() == [first]
    assert store.next_deadline() == 1009
    clock.now = 1100
    assert store.expire() == [second]
    assert store.next_deadline() is None
    states = [task.status for name in (first, second, free) if (task := store.get(name))]
    assert states == ["canceled", "canceled", "waiting"]


@pytest.mark.parametrize(
    "key", ["", "..", "a", "a/b/c", "../tasks.db", "a/../../tasks.db", "/etc/passwd", "a/\0", "a/.x.part"]
)
def test_a_key_that_names_no_result_finds_nothing(store: Store, tmp_path: Path, key: str) -> None:
    (tmp_path / "cluster" / "results" / "a").mkdir()
    (tmp_path / "cluster" / "results" / "a" / ".x.part").touch()
    assert store.result_path(key) is None


def test_old_tasks_are_forgotten_with_their_results(store: Store, clock: Clock) -> None:
    create(store, "1")
    task = store.take("box/0", ["a"])
    assert task is not None
    keys = store.write_result(task, [(".png", b"pixels")])
    store.finish(task.task_id, 1, keys)
    still_open = create(store, "2")
    clock.now += 100
    assert store.forget(clock.now - 100) == 0
    assert store.forget(clock.now) == 1
    assert store.get(task.task_id) is None and store.result_path(keys[0]) is None
    assert store.get(still_open) is not None


def test_results_of_old_tasks_make_room_on_a_full_disk(store: Store, clock: Clock) -> None:
    create(store)
    task = store.take("box/0", ["a"])
    assert task is not None
    keys = store.write_result(task, [(".png", b"pixels")])
    store.finish(task.task_id, 1, keys)
    clock.now += 100
    # As where no page more can be written.
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.OperationalError):
        store.forget(clock.now)
    assert store.result_path(keys[0]) is None
    store._db.execute("PRAGMA query_only = 0")
    assert store.forget(clock.now) == 1


def test_only_its_user_can_read_a_result(store: Store) -> None:
    create(store)
    task = store.take("box/0", ["a"])
    assert task is not None
    path = store.result_path(store.write_result(task, [(".png", b"pixels")])[0])
    assert path is not None and path.stat().st_mode & 0o077 == 0
