"""The words of a bar for work on this machine."""

from __future__ import annotations

from xalora_client.cli.progress import _Shown
from xalora_client.events import Done, LocalProgress


def here(done: int, total: int, label: str) -> LocalProgress:
    return LocalProgress(job_id="job-1", engine="torch", done=done, total=total, label=label)


def test_work_on_this_machine_has_a_unit_and_an_estimate() -> None:
    task = _Shown(0.0)
    task.apply(here(0, 12_000, "tile 0/12000"), 10.0)
    assert task.text(10.0) == "here, by torch: tile 0 of 12,000"
    task.apply(here(8, 12_000, "tile 8/12000"), 14.8)
    assert task.text(20.0) == "here, by torch: tile 8 of 12,000, about 1 h 59 min left"
    assert task.share(20.0) == 8 / 12_000
    task.apply(here(12_000, 12_000, "tile 12000/12000"), 9000.0)
    assert task.text(9000.0) == "here, by torch: tile 12,000 of 12,000"
    # A server names its nodes.
    task.apply(here(3, 12, "Sample 5/20"), 9001.0)
    assert task.text(9001.0).startswith("here, by torch: step 3 of 12")
    task.apply(Done(job_id="job-1", engine="torch", seconds=1.0), 9002.0)
    assert "torch" not in task.text(9002.0)
