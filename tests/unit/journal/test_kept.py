"""The folder of kept results: its limit, who is spared, and moving it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from xalora_client.errors import JournalError
from xalora_client.journal import Journal, Record, TaskState, Work
from xalora_client.journal.results_folder import KeptFile, KeptResults

LIMIT = 300


def work(number: int) -> Work:
    return Work(
        fingerprint=f"{number:064x}",
        sequencer_url="http://devnet",
        consumer_id="someone",
        task_type="upscaler",
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results", LIMIT) as journal:
        yield journal


def keep(
    journal: Journal, number: int, size: int = 100, *, deliver: bool = True, leave: bool = True
) -> Record:
    claim = journal.claim(work(number), job_id=f"job-{number}")
    journal.sending(claim.record.id)
    journal.submitted(claim.record.id, f"task-{number}")
    journal.finished(claim.record.id, "https://result")
    file = journal.result_stem(claim.record).with_suffix(".png")
    file.write_bytes(bytes(size))
    record = journal.kept(claim.record.id, [file])
    if deliver:
        journal.delivered(record.id)
    if leave:
        journal.leave(claim.lease)
    return record


def with_files(journal: Journal) -> set[int]:
    records = journal.records(states=[TaskState.KEPT])
    on_disk = {
        record.id for record in records if record.files and all(file.exists() for file in record.files)
    }
    assert on_disk == {record.id for record in records if not record.evicted}
    return on_disk


def test_the_least_recently_used_goes_first(journal: Journal) -> None:
    for number in (1, 2, 3):
        keep(journal, number)
    again = journal.claim(work(1), job_id="again")
    assert again.action == "kept"
    journal.leave(again.lease)
    keep(journal, 4)
    assert with_files(journal) == {1, 3, 4}
    assert sum(file.stat().st_size for file in journal.results_dir.iterdir()) == 300


def test_at_the_limit_nothing_goes(journal: Journal) -> None:
    for number in (1, 2, 3):
        keep(journal, number)
    assert journal.evict() == []
    assert with_files(journal) == {1, 2, 3}


def keep_animation(journal: Journal, number: int, *, video: int) -> Record:
    """One of 100 bytes, of which a video was made while it was in hand."""
    claim = journal.claim(work(number), job_id=f"job-{number}")
    journal.sending(claim.record.id)
    journal.submitted(claim.record.id, f"task-{number}")
    journal.finished(claim.record.id, "https://result")
    file = journal.result_stem(claim.record).with_suffix(".webp")
    file.write_bytes(bytes(100))
    journal.kept(claim.record.id, [file])
    journal.delivered(claim.record.id)
    file.with_suffix(".mp4").write_bytes(bytes(video))
    journal.leave(claim.lease)
    return journal.record(claim.record.id)


def test_the_video_made_of_an_animation_counts_and_goes_with_it(journal: Journal) -> None:
    moving = keep_animation(journal, 1, video=150)
    assert moving.size == 250
    assert [file.suffix for file in moving.files] == [".webp"]
    keep(journal, 2)
    assert with_files(journal) == {2}
    assert [file.suffix for file in journal.results_dir.iterdir()] == [".png"]


def test_the_video_made_of_an_animation_is_forgotten_with_it(journal: Journal) -> None:
    record = keep_animation(journal, 1, video=150)
    assert journal.forget(record.id)
    assert list(journal.results_dir.iterdir()) == []
    keep(journal, 2, size=LIMIT)
    assert with_files(journal) == {2}


def test_a_limit_lowered_holds_from_the_next_result_on(journal: Journal) -> None:
    for number in (1, 2, 3):
        keep(journal, number)
    journal.results_limit_bytes = 100
    keep(journal, 4)
    assert with_files(journal) == {4}


def test_files_in_use_never_go(journal: Journal) -> None:
    for number in (1, 2, 3):
        keep(journal, number)
    with journal.holding(1) as held:
        journal.delivered(keep(journal, 4, 250, leave=False).id)
        assert with_files(journal) == {1, 4}
        assert held.files[0].exists()
    assert journal.evict() == [1]


def test_files_in_use_by_another_process_never_go(journal: Journal) -> None:
    for number in (1, 2, 3):
        keep(journal, number)
    with Journal.open(journal.path, journal.results_dir, LIMIT) as other:
        assert other.claim(work(1), job_id="other").action == "kept"
        keep(journal, 4)
        assert with_files(journal) == {1, 3, 4}


def test_a_paid_result_not_yet_delivered_never_goes(journal: Journal) -> None:
    keep(journal, 1, deliver=False)
    for number in (2, 3, 4, 5):
        keep(journal, number)
    assert with_files(journal) == {1, 4, 5}


def test_one_result_over_the_limit_is_kept_while_in_use(journal: Journal) -> None:
    record = keep(journal, 1, 1000, leave=False)
    assert journal.evict() == []
    assert record.files[0].exists()


def test_an_evicted_result_keeps_its_record_and_is_fetched_again(journal: Journal) -> None:
    for number in (1, 2, 3, 4):
        keep(journal, number)
    evicted = journal.record(1)
    assert (evicted.state, evicted.files, evicted.evicted, evicted.size) == (TaskState.KEPT, (), True, 0)
    assert journal.open_records() == []
    claim = journal.claim(work(1), job_id="again")
    assert (claim.action, claim.record.state, claim.record.task_id) == ("join", TaskState.FINISHED, "task-1")


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    with Journal.open(None, tmp_path / "results") as journal:
        for number in range(20):
            keep(journal, number, 1000)
        assert len(with_files(journal)) == 20


def test_a_file_that_cannot_be_removed_is_passed_over(journal: Journal) -> None:
    for number in (1, 2, 3):
        keep(journal, number)
    stubborn = journal.record(1).files[0]
    stubborn.unlink()
    (stubborn / "in the way").mkdir(parents=True)
    journal.delivered(keep(journal, 4, leave=False).id)
    assert {record.id for record in journal.records(states=[TaskState.KEPT]) if record.evicted} == {2}


def test_the_folder_can_be_moved(journal: Journal, tmp_path: Path) -> None:
    keep(journal, 1)
    journal.close()
    shutil.move(journal.results_dir, tmp_path / "elsewhere")
    with Journal.open(journal.path, tmp_path / "elsewhere", LIMIT) as moved:
        claim = moved.claim(work(1), job_id="again")
        assert claim.action == "kept"
        assert claim.record.files[0].parent == tmp_path / "elsewhere"
        assert claim.record.files[0].exists()


@pytest.mark.parametrize("problem", ["missing", "elsewhere"])
def test_a_file_that_is_not_there_is_not_kept(journal: Journal, tmp_path: Path, problem: str) -> None:
    claim = journal.claim(work(1), job_id="job-1")
    journal.sending(claim.record.id)
    journal.submitted(claim.record.id, "task-1")
    journal.finished(claim.record.id, "https://result")
    file = journal.results_dir / "missing.png"
    if problem == "elsewhere":
        file = tmp_path / "elsewhere.png"
        file.write_bytes(b"pixels")
    with pytest.raises(JournalError, match="can't be journaled as a kept result"):
        journal.kept(claim.record.id, [file])
    assert journal.record(claim.record.id).state is TaskState.FINISHED


def test_names_come_from_the_job_and_stay_inside_the_folder(journal: Journal) -> None:
    claim = journal.claim(work(1), job_id="../../etc/Über job-0123456789")
    stem = journal.result_stem(claim.record)
    assert stem == journal.results_dir / "etc_ber_job-0123456789-1"


def test_many_go_though_a_few_at_a_time(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results") as journal:
        for number in range(50):
            keep(journal, number)
        journal.results_limit_bytes = 300
        assert len(journal.evict()) == 47
        assert with_files(journal) == {48, 49, 50}


def test_others_can_write_while_the_files_of_forgotten_entries_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = tmp_path / "journal.sqlite3", tmp_path / "results"
    with Journal.open(path, results) as journal, Journal.open(path, results, busy_seconds=0.0) as other:
        for number in range(3):
            keep(journal, number)
        original, written = KeptResults.remove, []

        def remove(self: KeptResults, files: Sequence[KeptFile]) -> bool:
            written.append(other.claim(work(99), job_id="job").record.id)
            return original(self, files)

        monkeypatch.setattr(KeptResults, "remove", remove)
        assert journal.forget_ended() == 3
        assert len(written) == 3
        assert list(results.iterdir()) == []


def test_what_can_only_be_read_gives_out_what_a_claim_would(journal: Journal) -> None:
    kept = keep(journal, 1)
    keep(journal, 2).files[0].unlink()
    journal.claim(work(3), job_id="under way")
    diced = replace(work(4), seeded=False)
    claim = journal.claim(diced, job_id="diced")
    journal.sending(claim.record.id)
    journal.submitted(claim.record.id, "task-4")
    journal.finished(claim.record.id, "https://result")
    file = journal.result_stem(claim.record).with_suffix(".png")
    file.write_bytes(bytes(10))
    journal.kept(claim.record.id, [file])
    journal.leave(claim.lease)
    journal._database.connection.execute("PRAGMA query_only = ON")
    found = journal.kept_result(work(1), reuse=True)
    assert found is not None
    assert (found.id, found.files) == (kept.id, kept.files)
    assert journal.kept_result(work(1), reuse=False) is None
    assert journal.kept_result(work(1), reuse=False, among={"task-1"}) == found
    assert [journal.kept_result(work(number), reuse=True) for number in (2, 3, 5)] == [None] * 3
    # Not given out a first time, or a second: that can't be written down.
    assert journal.kept_result(diced, reuse=True) is None
    assert journal.kept_result(diced, reuse=False, among={"task-4"}) is not None
