"""What is lost: workers, machines, the head. ``CLUSTER=whole`` runs these."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from simulated import Cluster, name_of, until

pytestmark = pytest.mark.skipif(
    os.environ.get("CLUSTER") != "whole", reason="make cluster-test runs these; see test_smoke.py"
)

BOTH = ("fast/cpu0", "slow/cpu0")


def finished(cluster: Cluster, task_id: str) -> None:
    end = cluster.end_of(task_id)
    assert end["status"] == "finished", end
    assert cluster.file(end)


def test_workers_take_what_they_can_as_they_get_free(cluster: Cluster) -> None:
    with cluster.running("held-slow") as (held, machine):
        ids = [cluster.create(f"fan-{number}") for number in range(12)]
        ends = [cluster.end_of(task_id) for task_id in ids]
        # A machine that is busy holds up nothing but its own task.
        other = next(name for name in cluster.machines if cluster.machines[name] is not machine)
        assert {end["miner_id"] for end in ends} == {f"{other}/cpu0"}
        assert cluster.task(held)["status"] == "running"
    finished(cluster, held)


def test_a_worker_that_is_killed(cluster: Cluster) -> None:
    with cluster.running("held-worker") as (task_id, machine):
        machine.signal(signal.SIGKILL, "ray::Worker")
        cluster.inputs.wait_for("held-worker", times=2)
    finished(cluster, task_id)
    cluster.wait_for_workers(*BOTH)


def test_a_raylet_that_is_killed_alone(cluster: Cluster) -> None:
    with cluster.running("held-raylet") as (task_id, machine):
        machine.signal(signal.SIGKILL, "raylet/raylet")
        cluster.inputs.wait_for("held-raylet", times=2)
    finished(cluster, task_id)
    assert cluster.inputs.asked["held-raylet"] == 2
    cluster.wait_for_workers(*BOTH)


def test_a_task_that_is_lost_twice_fails_and_is_not_run_again(cluster: Cluster) -> None:
    with cluster.running("held-twice") as (task_id, machine):
        machine.signal(signal.SIGKILL, "ray::Worker")
        cluster.inputs.wait_for("held-twice", times=2)
        name = until(lambda: cluster.task(task_id).get("miner_id"), what="a miner")
        cluster.machines[name.partition("/")[0]].signal(signal.SIGKILL, "ray::Worker")
        end = cluster.end_of(task_id)
        assert (end["status"], cluster.inputs.asked["held-twice"]) == ("failed", 2)
        assert end["msg"].startswith("Lost 2 times")
    cluster.wait_for_workers(*BOTH)


def test_a_machine_that_stands_still_is_noticed_and_joins_again(cluster: Cluster) -> None:
    with cluster.running("held-stopped") as (task_id, machine):
        stopped = machine.signal(signal.SIGSTOP)
        try:
            # Ten seconds by Ray's health checks; the rest is for a busy machine.
            cluster.inputs.wait_for("held-stopped", times=2, seconds=60)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    finished(cluster, task_id)
    cluster.wait_for_workers(*BOTH)
    assert cluster.inputs.asked["held-stopped"] == 2


def test_a_machine_that_leaves_comes_back_under_its_name(cluster: Cluster) -> None:
    cluster.machines["slow"].end()
    cluster.wait_for_workers("fast/cpu0")
    cluster.machines["slow"].start()
    cluster.wait_for_workers(*BOTH)


def test_a_head_that_is_killed_and_started_again(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.join("one")
        cluster.wait_for_workers("one/cpu0")
        done = cluster.create("done")
        finished(cluster, done)
        with cluster.running("held-head") as (task_id, _):
            waiting = cluster.create("waits")
            head = cluster.head.pids()
            cluster.head.kill_supervisor()
            cluster.head.start()
            until(lambda: cluster.head.output.count("answers at") == 2, 120, cluster.head.logs)
            assert not set(head) & set(cluster.head.pids())
            finished(cluster, done)
            # The same job is the same task, and it runs once more.
            assert cluster.create("held-head") == task_id
            cluster.inputs.wait_for("held-head", times=2, seconds=150)
        finished(cluster, task_id)
        finished(cluster, waiting)
        assert cluster.inputs.asked == {"done": 1, "held-head": 2, "waits": 1}


@pytest.mark.parametrize("part", ["gcs_server", "raylet/raylet", "cluster.serve"])
def test_a_part_of_the_head_that_is_killed_starts_again(tmp_path: Path, part: str) -> None:
    with Cluster(tmp_path, "--engine", "pillow", "--name", "box") as cluster:
        cluster.wait_for_workers("box/cpu0")
        with cluster.running("held-part") as (task_id, _):
            cluster.head.signal(signal.SIGKILL, part)
            cluster.inputs.wait_for("held-part", times=2, seconds=120)
        finished(cluster, task_id)
        before = cluster.head.pids()
    assert not [name for pid in before if (name := name_of(pid))]
