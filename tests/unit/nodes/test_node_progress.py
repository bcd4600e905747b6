"""A node's line of text and progress bar."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

NOW = 1000.0


@pytest.fixture(scope="module")
def progress(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.node_progress", pack.__name__)


@pytest.fixture(scope="module")
def events(pack: ModuleType) -> ModuleType:
    return import_module(".xalora_client.events", pack.__name__)


def test_a_single_task_is_told_as_in_the_shell(progress: ModuleType, events: ModuleType) -> None:
    view = progress.NodeProgress(1, NOW)
    view.note(0, events.Waiting(job_id="j", seconds=4.0, position=3), NOW)
    assert view.line(NOW + 1) == "third in the queue, 5 s"
    view.note(0, events.Waiting(job_id="j", seconds=4.0), NOW)
    assert view.line(NOW + 8) == "waiting in queue 12 s"
    view.finished(0)
    assert view.line(NOW + 9) == "done"


def test_a_single_tasks_bar_never_goes_back_nor_ends_early(progress: ModuleType, events: ModuleType) -> None:
    view = progress.NodeProgress(1, NOW)
    assert view.bar(NOW) == (0, 100)
    view.note(0, events.Submitted(job_id="j", task_id="t", usual_seconds=(8.0, 10.0)), NOW)
    bars = [view.bar(NOW + seconds)[0] for seconds in (0, 5, 10, 1000)]
    view.note(0, events.Downloading(job_id="j", received=0, total=10), NOW + 1001)
    bars.append(view.bar(NOW + 1001)[0])
    view.note(0, events.Downloading(job_id="j", received=10, total=10), NOW + 1002)
    bars.append(view.bar(NOW + 1002)[0])
    view.finished(0)
    bars.append(view.bar(NOW + 1003)[0])
    assert bars == [0, 45, 86, 86, 90, 100, 100]


def test_a_batch_counts_its_images(progress: ModuleType, events: ModuleType) -> None:
    view = progress.NodeProgress(10, NOW)
    for index in range(7):
        view.finished(index)
    view.finished(6)
    view.note(7, events.Running(job_id="j", seconds=34.0), NOW)
    view.note(8, events.Running(job_id="j", seconds=2.0), NOW)
    view.note(9, events.Waiting(job_id="j", seconds=12.0), NOW)
    assert view.bar(NOW) == (7, 10)
    assert view.line(NOW) == "7/10, 2 running 34 s, 1 waiting in queue 12 s"
    view.note(7, events.Downloading(job_id="j", received=1, total=2), NOW)
    assert view.line(NOW) == "7/10, 1 downloading, 1 running 2 s, 1 waiting in queue 12 s"
    view.again(8, NOW)
    assert view.line(NOW) == "7/10, 1 downloading, 1 waiting in queue 12 s"


def test_the_last_line_says_what_made_it(progress: ModuleType) -> None:
    made = progress.ResultSource
    assert progress.summary([made("xalora", "m-7")], 3.21) == "3.2 s by xalora, miner m-7"
    assert progress.summary([made("xalora", reused=True)], 0.04) == (
        "0.04 s by xalora (kept result, nothing sent)"
    )
    assert progress.summary([made("xalora")] * 10, 34.4) == "10 in 34 s by xalora"
    assert progress.summary([made("xalora", "a"), made("xalora", "b")], 1) == "2 in 1.0 s by xalora, 2 miners"
    again = [made("xalora", "a"), *[made("xalora", "a", reused=True)] * 2]
    assert progress.summary(again, 1) == (
        "3 in 1.0 s: 1 by xalora, miner a, 2 by xalora, miner a (kept results, nothing sent)"
    )
    mixed = [made("xalora"), made("LANCZOS on this machine"), made("xalora")]
    assert progress.summary(mixed, 125) == "3 in 2 min 5 s: 2 by xalora, 1 by LANCZOS on this machine"


def test_files_that_no_output_gives_are_told(progress: ModuleType) -> None:
    made = progress.ResultSource("xalora", left_out=1)
    told = "1 more file is in the Xalora sidebar only"
    assert progress.summary([made], 3.0) == f"3.0 s by xalora; {told}"
    assert progress.summary([made, made], 3.0).endswith("; 2 more files are in the Xalora sidebar only")


def test_previews_that_come_in_a_crowd_are_thinned_out(progress: ModuleType) -> None:
    pace = progress.PreviewPace()
    shown = [at for at in (0.0, 0.01, 0.2, 0.26, 0.4, 0.6) if pace.takes(NOW + at)]
    assert shown == [0.0, 0.26, 0.6]


def test_a_missing_miner_is_told_while_nothing_runs(progress: ModuleType, events: ModuleType) -> None:
    view = progress.NodeProgress(2, 0.0)
    assert view.only_waits(50.0) == 0.0
    view.note(0, events.Submitted(job_id="j", task_id="t"), 1.0)
    view.note(1, events.Submitted(job_id="k", task_id="u"), 3.0)
    assert view.only_waits(20.0) == 19.0
    view.no_miner = True
    assert view.line(20.0).endswith("2 waiting in queue 19 s; no miner takes it at the moment")
    view.note(1, events.Running(job_id="k", task_id="u", seconds=1.0), 20.0)
    assert view.only_waits(20.0) == 0.0
    assert "no miner" not in view.line(20.0)
