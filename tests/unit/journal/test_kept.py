"""Kept results: their limit, who is spared, moving the folder; and a journal that can only be read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from time import monotonic, time

import pytest
from journal_steps import (
    LONG,
    LockHolder,
    claim,
    deliver,
    evict,
    keep,
    leave,
    note,
    send,
    settled,
    submit,
    work,
)

from xalora_client.errors import JournalError
from xalora_client.journal import ClaimOptions, Event, Journal, Record, TaskState
from xalora_client.journal.journal import LONGEST_REST, LOOK_REST
from xalora_client.journal.results_folder import STALE_SECONDS, KeptFile, KeptResults
from xalora_client.transfer.part_file import PartFile

LIMIT = 300


@pytest.fixture
def journal(path: Path, results: Path) -> Iterator[Journal]:
    with Journal.open(path, results, LIMIT) as journal:
        yield journal


def kept(
    journal: Journal,
    number: int,
    size: int = 100,
    *,
    delivered: bool = True,
    left: bool = True,
    suffix: str = ".png",
    video: int = 0,
) -> Record:
    """A kept result; by default it was delivered, and nobody uses it any more."""
    claimed = claim(journal, number, f"job-{number}")
    record = keep(journal, send(journal, claimed, f"task-{number}"), bytes(size), suffix)
    if delivered:
        deliver(journal, record)
    if video:
        # Made of the animation while it was in use.
        record.files[0].with_suffix(".mp4").write_bytes(bytes(video))
    if left:
        leave(journal, claimed)
    return settled(journal, record.id)


def with_files(journal: Journal) -> set[int]:
    """Ids of records with files, after the results were brought under their limit."""
    evict(journal)
    records = journal.records(states=[TaskState.FINISHED])
    on_disk = {
        record.id for record in records if record.files and all(file.exists() for file in record.files)
    }
    assert on_disk == {record.id for record in records if record.is_kept}
    return on_disk


def test_the_least_recently_used_goes_first(journal: Journal) -> None:
    for number in (1, 2, 3):
        kept(journal, number)
    again = claim(journal, 1, "again")
    assert again.action == "kept"
    leave(journal, again)
    kept(journal, 4)
    assert with_files(journal) == {1, 3, 4}
    assert sum(file.stat().st_size for file in journal.results.root.iterdir()) == 300


def test_a_new_result_makes_room_for_itself(journal: Journal) -> None:
    for number in (1, 2, 3, 4):
        kept(journal, number)
    evict(journal)
    assert settled(journal, 1).evicted


def test_at_the_limit_nothing_goes(journal: Journal) -> None:
    for number in (1, 2, 3):
        kept(journal, number)
    assert with_files(journal) == {1, 2, 3}


def test_a_limit_changed_holds_from_then_on(journal: Journal) -> None:
    for number in (1, 2, 3):
        kept(journal, number)
    journal.results_limit_bytes = 100
    kept(journal, 4)
    assert with_files(journal) == {4}
    journal.results_limit_bytes = None
    for number in range(5, 20):
        kept(journal, number, 1000)
    assert len(with_files(journal)) == 16


def test_the_video_made_of_an_animation_counts_and_goes_with_it(journal: Journal) -> None:
    moving = kept(journal, 1, suffix=".webp", video=150)
    assert (moving.size, [file.suffix for file in moving.files]) == (250, [".webp"])
    kept(journal, 2)
    assert with_files(journal) == {2}
    assert [file.suffix for file in journal.results.root.iterdir()] == [".png"]


def test_the_video_made_of_an_animation_is_forgotten_with_it(journal: Journal) -> None:
    kept(journal, 1, suffix=".webp", video=150)
    assert journal.forget([1]).result(LONG) == 1
    assert list(journal.results.root.iterdir()) == []
    kept(journal, 2, size=LIMIT)
    assert with_files(journal) == {2}


class TestSpared:
    """D6: no eviction takes what is in use, or what was not delivered."""

    def test_d6_files_with_a_lease(self, journal: Journal) -> None:
        """D6: a lease keeps the files, whatever the limit."""
        for number in (1, 2, 3):
            kept(journal, number)
        lease = journal.hold(1).result(LONG)
        kept(journal, 4, 250, left=False)
        assert with_files(journal) == {1, 4}
        journal.leave(lease)
        assert with_files(journal) == {4}

    def test_d6_files_in_use_by_another_process(self, journal: Journal) -> None:
        """D6: the lease of another owner counts as much."""
        for number in (1, 2, 3):
            kept(journal, number)
        with Journal.open(journal.path, journal.results.root, LIMIT) as other:
            assert claim(other, 1, "other").action == "kept"
            kept(journal, 4)
            assert with_files(journal) == {1, 3, 4}

    def test_d6_files_that_are_released_by_name(self, path: Path, results: Path) -> None:
        """D6: what is released goes below the limit too, unless it is in use or was not delivered."""
        with Journal.open(path, results) as journal:
            for number in (1, 2):
                kept(journal, number)
            kept(journal, 3, left=False)
            kept(journal, 4, delivered=False)
            with Journal.open(path, results) as other:
                assert claim(other, 2, "other").action == "kept"
                journal.release_files([1, 2, 3, 4, 99]).result(LONG)
                assert with_files(journal) == {2, 3, 4}
            # The other's lease ended with it.
            journal.release_files([2]).result(LONG)
            assert with_files(journal) == {3, 4}
            assert settled(journal, 1).evicted

    def test_d6_a_result_not_yet_delivered(self, journal: Journal) -> None:
        """D6: it may be the only copy, so D5 comes first."""
        kept(journal, 1, delivered=False)
        for number in (2, 3, 4, 5):
            kept(journal, number)
        assert with_files(journal) == {1, 4, 5}
        note(journal, 1, Event.DELIVERED)
        kept(journal, 6)
        assert with_files(journal) == {4, 5, 6}

    def test_one_result_over_the_limit_while_in_use(self, journal: Journal) -> None:
        kept(journal, 1, 1000, left=False)
        assert with_files(journal) == {1}

    def test_a_file_that_cannot_be_removed_is_passed_over(self, journal: Journal) -> None:
        for number in (1, 2, 3):
            kept(journal, number)
        stubborn = settled(journal, 1).files[0]
        stubborn.unlink()
        (stubborn / "in the way").mkdir(parents=True)
        kept(journal, 4, left=False)
        evict(journal)
        assert [record.id for record in journal.records() if record.evicted] == [2]


def test_an_evicted_result_keeps_its_record_and_is_fetched_again(journal: Journal) -> None:
    for number in (1, 2, 3, 4):
        kept(journal, number)
    evict(journal)
    evicted = settled(journal, 1)
    assert (evicted.state, evicted.files, evicted.size) == (TaskState.FINISHED, (), 0)
    assert evicted.evicted
    assert journal.records(is_open=True) == []
    again = claim(journal, 1, "again")
    assert (again.action, again.record.state, again.record.task_id) == ("join", TaskState.FINISHED, "task-1")


def test_many_go_though_a_few_at_a_time(journal: Journal) -> None:
    journal.results_limit_bytes = None
    for number in range(50):
        kept(journal, number)
    journal.results_limit_bytes = LIMIT
    journal.evict()
    while (
        len(journal.records(states=[TaskState.FINISHED])) != 50
        or sum(record.is_kept for record in journal.records()) > 3
    ):
        journal.forget([]).result(LONG)
    assert with_files(journal) == {48, 49, 50}


def test_a_look_that_took_long_is_followed_by_a_longer_rest(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[float, float]] = []

    def look() -> dict[Path, int]:
        began = monotonic()
        while monotonic() < began + 0.002:
            pass
        looks.append((began, monotonic()))
        return {}

    monkeypatch.setattr(journal.results, "part_sizes", look)
    for _ in range(3):
        evict(journal)
    for (began, ended), (again, _) in pairwise(looks):
        assert again - ended >= min(LOOK_REST * (ended - began), LONGEST_REST) * 0.9
    assert len(looks) == 3


def test_the_folder_can_be_moved(journal: Journal, tmp_path: Path) -> None:
    kept(journal, 1)
    journal.close()
    shutil.move(journal.results.root, tmp_path / "elsewhere")
    with Journal.open(journal.path, tmp_path / "elsewhere", LIMIT) as moved:
        again = claim(moved, 1, "again")
        assert again.action == "kept"
        assert again.record.files[0].parent == tmp_path / "elsewhere"
        assert again.record.files[0].exists()


@pytest.mark.parametrize("problem", ["missing", "elsewhere"])
def test_d4_a_file_that_is_not_there_is_not_kept(journal: Journal, tmp_path: Path, problem: str) -> None:
    """D4: only files that are on disk, in the folder of results, are noted."""
    file = journal.results.root / "missing.png"
    if problem == "elsewhere":
        file = tmp_path / "elsewhere.png"
        file.write_bytes(b"pixels")
    with pytest.raises(JournalError, match="can't be journaled as a kept result"):
        journal.results.describe([file])


def test_d4_names_follow_from_the_record_and_stay_inside_the_folder(journal: Journal) -> None:
    """D4: the name follows from the record, so that files whose note was lost are found."""
    claimed = claim(journal, 1, "../../etc/Über job-0123456789")
    stem = journal.results.stem(claimed.record.id, claimed.record.job_id)
    assert stem == journal.results.root / "etc_ber_job-0123456789-1"
    leave(journal, claimed)
    assert journal.results.stem(1, settled(journal, 1).job_id) == stem


def test_d4_files_noted_without_the_note_of_the_finish_count(journal: Journal) -> None:
    """D4: files that are here, whole, are a result whatever else was lost."""
    record = submit(journal)
    file = journal.results.stem(record.id, record.job_id).with_suffix(".png")
    file.write_bytes(b"pixels")
    after = note(journal, record.id, Event.KEPT, files=journal.results.describe([file]))
    assert (after.state, after.is_kept) == (TaskState.FINISHED, True)


def test_others_can_write_while_the_files_of_forgotten_records_are_removed(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.open(journal.path, journal.results.root) as other:
        for number in range(3):
            kept(journal, number)
        original, written = KeptResults.remove, []

        def remove(self: KeptResults, files: Sequence[KeptFile]) -> bool:
            written.append(claim(other, 99, "job", patience=0.0).record.id)
            return original(self, files)

        monkeypatch.setattr(KeptResults, "remove", remove)
        assert journal.forget().result(LONG) == 3
        assert len(written) == 3
        assert list(journal.results.root.iterdir()) == []


class TestReadOnly:
    """A journal that can't be written now still gives out what a claim would."""

    @pytest.fixture
    def filled(self, journal: Journal) -> Record:
        diced = work(4, seeded=False)
        record = kept(journal, 1)
        kept(journal, 2).files[0].unlink()
        claim(journal, 3, "under way")
        claimed = claim(journal, diced, "diced")
        keep(journal, send(journal, claimed, "task-4"))
        leave(journal, claimed)
        return settled(journal, record.id)

    def test_gives_out_what_a_claim_would(self, journal: Journal, holder: LockHolder, filled: Record) -> None:
        holder.hold()
        for how, answers in [
            ({"reuse": True, "again": False}, True),
            ({"reuse": False, "again": False}, False),
            ({"reuse": True, "again": True}, False),
            ({"reuse": False, "again": False, "among": {"task-1"}}, True),
        ]:
            assert journal.answering(work(1), ClaimOptions(**how)) == (filled if answers else None)  # type: ignore[arg-type]
        gone, under_way = (journal.answering(work(n), ClaimOptions(reuse=True)) for n in (2, 3))
        assert gone is not None
        assert (gone.state, gone.files) == (TaskState.FINISHED, ())
        assert under_way is not None
        assert under_way.state is TaskState.PREPARED
        assert journal.answering(work(5), ClaimOptions(reuse=True)) is None

    @pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
    @pytest.mark.parametrize("state", ["closed", "log left behind"])
    def test_in_a_folder_that_cannot_be_written(self, state: str) -> None:
        # Root may write anything, so as root the child becomes somebody else, once it has its imports.
        script = """
import json, os, sys
from xalora_client.errors import JournalError
from xalora_client.journal import ClaimOptions, Journal, Work
os.geteuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))
work = Work(fingerprint=f"{1:064x}", sequencer_url="http://devnet", consumer_id="someone", task_type="any")
with Journal(sys.argv[1], sys.argv[2]) as journal:
    try:
        refused = str(journal.claim(work, job_id="job-2").result(60))
    except JournalError as error:
        refused = str(error)
    found = journal.answering(work, ClaimOptions(reuse=True))
    print(json.dumps([refused, found and found.files[0].read_text(), journal.count()]))
"""
        # Not pytest's folder, which nobody but its owner may enter.
        with tempfile.TemporaryDirectory() as name:
            folder, path, results = Path(name), Path(name, "journal.sqlite3"), Path(name, "results")
            with Journal.open(path, results) as journal:
                keep(journal, submit(journal, 1))
                files = [file for file in folder.glob("journal.sqlite3*") if file.is_file()]
                left = {file: file.read_bytes() for file in files} if state == "log left behind" else {}
            for file, content in left.items():
                file.write_bytes(content)
            assert path.with_name("journal.sqlite3-wal").exists() is bool(left)
            for file in folder.rglob("*"):
                file.chmod(0o555 if file.is_dir() else 0o444)
            folder.chmod(0o555)
            command = [sys.executable, "-c", script, str(path), str(results)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env={**os.environ, "HOME": "/"}
                )
            finally:
                folder.chmod(0o755)
                for file in folder.rglob("*"):
                    file.chmod(0o755)
        refused, content, count = json.loads(done.stdout)
        assert "can't be" in refused
        assert "nothing was charged" in refused
        assert (content, count) == ("pixels", 1)


class TestPartialDownloads:
    """They count towards the limit, and go before any result once nobody continues them."""

    def part(self, journal: Journal, name: str, size: int) -> PartFile:
        journal.results.root.mkdir(parents=True, exist_ok=True)
        part = PartFile(journal.results.root / name)
        part.begin(bytes(size))
        return part

    def left(self, journal: Journal, name: str, size: int) -> Path:
        part = self.part(journal, name, size)
        part.close()
        return part.path

    def test_those_that_were_left_go_first(self, journal: Journal) -> None:
        kept(journal, 1)
        kept(journal, 2)
        parts = [self.left(journal, f"job-{n}.abc", 200) for n in range(2)]
        assert with_files(journal) == {1, 2}
        assert not any(part.exists() for part in parts)
        assert list(journal.results.root.glob("*part*")) == []

    def test_below_the_limit_they_stay_to_be_continued(self, journal: Journal) -> None:
        kept(journal, 1)
        part = self.left(journal, "job-1.abc", 100)
        assert with_files(journal) == {1}
        assert part.exists()

    def test_after_a_week_they_go_although_there_is_room(self, journal: Journal) -> None:
        kept(journal, 1)
        names = ("job-1-1.0123abcd.part", "job-1-1.0123abcd.part.json", "job-2-2.0123abcd.png")
        old, recent = time() - STALE_SECONDS - 60, time() - STALE_SECONDS + 3600
        for prefix, when in (("old", old), ("recent", recent)):
            for name in names:
                file = journal.results.root / f"{prefix}-{name}"
                file.write_bytes(b"x")
                os.utime(file, (when, when))
        assert with_files(journal) == {1}
        unfinished = {file.name for file in journal.results.root.iterdir()} - {
            record.name for found in journal.records() for record in found.files
        }
        assert unfinished == {f"recent-{name}" for name in names}

    def test_a_whole_file_that_got_no_lasting_name_counts(self, journal: Journal) -> None:
        kept(journal, 1)
        kept(journal, 2)
        whole = journal.results.root / "job-9-9.0123abcd.png"
        whole.write_bytes(bytes(200))
        os.utime(whole, (0, 0))
        assert with_files(journal) == {1, 2}
        assert not whole.exists()

    def test_one_under_way_stays_and_takes_the_room_of_results(self, journal: Journal) -> None:
        for number in (1, 2, 3):
            kept(journal, number)
        part = self.part(journal, "job-9.abc", 150)
        # However old it is: its process may be suspended.
        os.utime(part.path, (0, 0))
        assert with_files(journal) == {3}
        assert part.path.exists()
        part.close()

    def test_another_unfinished_file_stays_until_it_is_old(self, journal: Journal) -> None:
        """Such as a video that is being made: it has neither lock nor notes."""
        kept(journal, 1)
        draft = journal.results.root / "job-1.webp.12-34.part"
        draft.write_bytes(bytes(1000))
        with_files(journal)
        assert draft.exists()
        os.utime(draft, (0, 0))
        with_files(journal)
        assert not draft.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_journal_and_results_are_the_users_alone(tmp_path: Path) -> None:
    old = os.umask(0o002)
    try:
        with Journal.open(
            tmp_path / "state" / "journal.sqlite3", tmp_path / "state" / "results", LIMIT
        ) as journal:
            kept(journal, 1)
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    finally:
        os.umask(old)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
