"""What a task does at present, in words, and how far it is; the same in the shell and on a node."""

from __future__ import annotations

import pytest

from xalora_client.events import (
    Done,
    Downloading,
    FallingBack,
    LocalProgress,
    Running,
    Submitted,
    TileProgress,
    UnknownStatus,
    Uploading,
    Waiting,
)
from xalora_client.jobs.progress import TaskProgress
from xalora_client.polling.durations import LONGEST_ESTIMATED_SHARE

JOB = "sdk-workflow-0123456789"


def test_each_step_is_told() -> None:
    task = TaskProgress(now=100.0)
    assert (task.text(102.0), task.share(102.0)) == ("preparing 2 s", None)
    task.apply(Uploading(job_id=JOB, total=3_210_000), 100.0)
    assert task.text(104.0) == "uploading 3.2 MB, 4 s"
    task.apply(Submitted(job_id=JOB, task_id="t", usual_seconds=(40.0, 50.0)), 101.0)
    assert task.text(101.0) == "waiting in queue 0 s (usually 40-50 s)"
    task.apply(Waiting(job_id=JOB, task_id="t", seconds=3.0, position=21), 104.0)
    assert task.text(104.0) == "21st in the queue, 3 s (usually 40-50 s)"
    task.apply(Waiting(job_id=JOB, task_id="t", seconds=3.0), 104.0)
    assert task.text(106.5) == "waiting in queue 5 s (usually 40-50 s)"
    task.apply(Running(job_id=JOB, task_id="t", seconds=1.0), 126.0)
    assert task.text(128.0) == "running 3 s (usually 40-50 s)"
    task.apply(Downloading(job_id=JOB, task_id="t", received=500_000, total=2_000_000), 130.0)
    assert task.text(131.0) == "downloading 25 % of 2.0 MB"
    task.apply(Done(job_id=JOB, task_id="t", engine="xalora", seconds=32.0), 133.0)
    assert task.text(133.0) == "downloading"
    task.ended()
    assert task.text(134.0) == "done"


def test_the_share_follows_the_usual_time_and_never_goes_back_nor_ends_early() -> None:
    task = TaskProgress(now=0.0)
    task.apply(Submitted(job_id=JOB, task_id="t", usual_seconds=(8.0, 10.0)), 0.0)
    shares = [task.share(seconds) for seconds in (0.0, 5.0, 10.0, 1000.0)]
    longest = 0.9 * LONGEST_ESTIMATED_SHARE
    assert shares == [0.0, pytest.approx(0.45), pytest.approx(longest), pytest.approx(longest)]
    for received, share in [(0, 0.9), (5, 0.95), (10, 1.0), (11, 1.0)]:
        task.apply(Downloading(job_id=JOB, task_id="t", received=received, total=10), 1001.0)
        assert task.share(1002.0) == pytest.approx(share)


def test_without_history_or_size_there_is_little_to_tell() -> None:
    task = TaskProgress(now=0.0)
    task.apply(Submitted(job_id=JOB, task_id="t"), 1.0)
    task.apply(UnknownStatus(job_id=JOB, task_id="t", status="pondering"), 2.0)
    assert (task.text(9.0), task.share(9.0)) == (
        "status 'pondering', which this version does not know",
        None,
    )
    task.apply(Downloading(job_id=JOB, task_id="t", received=10, total=None), 3.0)
    assert (task.text(9.0), task.share(9.0)) == ("downloading, 10 B so far", 0.9)


def test_a_task_is_followed_to_this_machine() -> None:
    task = TaskProgress(now=0.0)
    task.apply(Submitted(job_id=JOB, task_id="t", usual_seconds=(1.0, 2.0)), 0.0)
    task.apply(FallingBack(job_id=JOB, engine="torch", reason="no miner"), 10.0)
    assert (task.text(14.0), task.share(14.0)) == ("here, by torch, 4 s", None)
    task.apply(LocalProgress(job_id=JOB, engine="torch", done=3, total=12), 15.0)
    assert (task.text(20.0), task.share(20.0)) == ("here, by torch: 3 of 12", 0.25)


def test_tiles_are_counted_with_an_estimate() -> None:
    task = TaskProgress(10.0)
    task.apply(TileProgress(job_id=JOB, tiles=24, tasks=20, done=5, in_flight=8, seconds_left=200.4), 15.0)
    assert task.text(16.0) == "5 of 20 tiles, 8 tasks in flight, about 3 min 20 s left"
    assert task.share(16.0) == 0.25
    task.apply(TileProgress(job_id=JOB, tiles=1, tasks=1, done=1, in_flight=0, seconds_left=0.0), 15.0)
    assert task.text(16.0) == "1 of 1 tile"
