"""A task's life in the journal: times, late answers, history, lists, listeners; and what is never written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from xalora_client.errors import JournalError
from xalora_client.journal import Journal, Record, TaskState, Work
from xalora_client.polling.durations import PastRun, watched_duration

WORK = Work(
    fingerprint="f" * 64,
    sequencer_url="http://devnet",
    consumer_id="someone",
    task_type="txt2vid",
    workflow_id="2",
    kind="txt2vid 2 480x480 32",
    label="A cat at 100 % speed",
    own_key=True,
    details={"prompt": "a cat", "length": 32, "nested": [{"steps": 20}]},
)


@dataclass
class Clocks:
    """A wall clock that can be set, and a monotonic one that can't."""

    wall: float = 1_800_000_000.0
    monotonic: float = 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def journal(tmp_path: Path, clocks: Clocks) -> Iterator[Journal]:
    with Journal.open(
        tmp_path / "journal.sqlite3",
        tmp_path / "results",
        wall_clock=lambda: clocks.wall,
        monotonic_clock=lambda: clocks.monotonic,
    ) as journal:
        yield journal


def submit(journal: Journal, number: int = 1, work: Work = WORK) -> Record:
    claim = journal.claim(work, job_id=f"job-{number}", reuse=False)
    journal.sending(claim.record.id)
    return journal.submitted(claim.record.id, f"task-{number}")


def keep(journal: Journal, record: Record) -> Record:
    file = journal.result_stem(record).with_suffix(".mp4")
    file.write_bytes(b"video")
    return journal.kept(record.id, [file], miner="miner-7", device="RTX 4090")


def test_every_step_leaves_its_time_and_what_came_with_it(journal: Journal, clocks: Clocks) -> None:
    start = clocks.wall
    record = submit(journal)
    clocks.pass_by(3)
    assert journal.status(record.id, "waiting").started_at is None
    clocks.pass_by(4)
    journal.status(record.id, "running")
    clocks.pass_by(5)
    journal.status(record.id, "running")
    journal.finished(record.id, {"url": "https://result"})
    kept = keep(journal, record)
    assert kept.work == WORK
    assert (kept.created_at, kept.sent_at, kept.submitted_at) == (start, start, start)
    assert (kept.started_at, kept.ended_at) == (start + 7, start + 12)
    assert (kept.queued_seconds, kept.running_seconds, kept.total_seconds) == (7, 5, 12)
    assert (kept.state, kept.status, kept.result) == (TaskState.KEPT, "finished", {"url": "https://result"})
    assert (kept.engine, kept.miner, kept.device, kept.size) == ("xalora", "miner-7", "RTX 4090", 5)
    assert journal.record(record.id) == kept


def test_no_late_answer_moves_a_kept_result(journal: Journal) -> None:
    record = submit(journal)
    journal.finished(record.id, "https://result")
    kept = keep(journal, record)
    assert journal.status(record.id, "running") == kept
    assert journal.finished(record.id, "https://late") == kept
    assert journal.failed(record.id, "late") == kept
    assert journal.canceled(record.id) == kept
    assert journal.cancel_pending(record.id) == kept
    assert journal.submitted(record.id, "task-1") == kept


def test_a_fresh_url_replaces_one_not_yet_downloaded(journal: Journal) -> None:
    record = submit(journal)
    journal.finished(record.id, "https://stale")
    assert journal.finished(record.id, "https://fresh").result == "https://fresh"


def test_a_second_task_id_for_one_job_is_logged_and_does_not_replace_the_first(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    record = submit(journal)
    assert journal.submitted(record.id, "task-twin").task_id == "task-1"
    assert "task-twin" in caplog.text


def test_an_expired_result_ends_the_task_with_the_reason(journal: Journal) -> None:
    record = submit(journal)
    journal.finished(record.id, "https://result")
    ended = journal.expired(record.id, "the network no longer has the result")
    assert (ended.state, ended.error) == (TaskState.FAILED, "the network no longer has the result")


def test_a_local_engine_is_noted_without_moving_the_task(journal: Journal) -> None:
    claim = journal.claim(WORK, job_id="job-1")
    journal.sending(claim.record.id)
    journal.not_sent(claim.record.id, "no miner")
    record = journal.fell_back(claim.record.job_id, engine="torch", device="cuda:0")
    assert (record.state, record.engine, record.device) == (TaskState.NOT_SENT, "torch", "cuda:0")


class TestClocks:
    def test_a_clock_set_back_never_makes_time_run_backwards(self, journal: Journal, clocks: Clocks) -> None:
        record = submit(journal)
        clocks.pass_by(10)
        clocks.wall -= 86_400
        journal.status(record.id, "running")
        clocks.pass_by(10)
        ended = journal.finished(record.id, "https://result")
        times = [ended.created_at, ended.sent_at, ended.submitted_at, ended.started_at, ended.ended_at]
        assert times == sorted(times, key=lambda time: time or 0)
        assert (ended.queued_seconds, ended.running_seconds, ended.total_seconds) == (0, 0, 0)

    def test_nor_does_it_teach_the_history_nonsense(self, journal: Journal, clocks: Clocks) -> None:
        record = submit(journal)
        clocks.pass_by(40)
        clocks.wall -= 30
        journal.finished(record.id, "https://result")
        assert journal.past_runs(WORK.kind) == []

    def test_the_latest_record_is_the_last_one_made(self, journal: Journal, clocks: Clocks) -> None:
        first = submit(journal, 1)
        clocks.wall -= 3600
        second = submit(journal, 2)
        assert [record.id for record in journal.records()] == [second.id, first.id]


class TestHistory:
    def run(self, journal: Journal, clocks: Clocks, number: int, seconds: float) -> Record:
        record = submit(journal, number)
        clocks.pass_by(seconds)
        return journal.finished(record.id, "https://result")

    def test_of_a_kind_from_submission_to_end(self, journal: Journal, clocks: Clocks) -> None:
        for number, seconds in enumerate((50, 40, 45)):
            self.run(journal, clocks, number, seconds)
        assert journal.past_runs(WORK.kind) == [PastRun(45, 45), PastRun(40, 40), PastRun(50, 50)]
        assert journal.past_runs(WORK.kind, limit=2) == [PastRun(45, 45), PastRun(40, 40)]
        assert journal.past_runs("another kind") == []
        assert journal.usual(WORK.kind) == (42, 48)
        assert journal.usual("another kind") is None

    def test_tells_for_how_long_nobody_looked(self, journal: Journal, clocks: Clocks) -> None:
        record = submit(journal)
        clocks.pass_by(40)
        journal.finished(record.id, "https://result", unnoticed=1.5)
        assert journal.past_runs(WORK.kind) == [PastRun(38.5, 40)]

    def test_outlives_the_records(self, journal: Journal, clocks: Clocks) -> None:
        record = self.run(journal, clocks, 1, 40)
        keep(journal, record)
        journal.close()
        with Journal.open(journal.path, journal.results_dir) as later:
            assert later.forget_ended() == 1
            assert later.past_runs(WORK.kind) == [PastRun(40, 40)]

    def test_leaves_out_ends_that_nobody_watched_for(self, journal: Journal, clocks: Clocks) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(claim.record.id)
        journal.submitted(claim.record.id, "task-1")
        journal.leave(claim.lease)
        clocks.pass_by(4000)
        joined = journal.claim(WORK, job_id="job-2")
        journal.finished(joined.record.id, "https://result")
        assert journal.past_runs(WORK.kind) == []

    def test_counts_a_task_once(self, journal: Journal, clocks: Clocks) -> None:
        record = self.run(journal, clocks, 1, 40)
        clocks.pass_by(5)
        assert journal.finished(record.id, "https://fresh").ended_at == record.ended_at
        assert journal.past_runs(WORK.kind) == [PastRun(40, 40)]

    def test_keeps_to_a_useful_length(self, journal: Journal, clocks: Clocks) -> None:
        for number in range(105):
            self.run(journal, clocks, number, number)
        kept = journal.past_runs(WORK.kind, limit=1000)
        assert [run.at_most for run in kept] == list(range(104, 4, -1))

    @pytest.mark.parametrize(
        ("wall", "monotonic", "seconds"),
        [
            (40.0, 40.0, 40.0),
            (41.9, 40.0, 40.0),
            (-60.0, 40.0, None),
            (3640.0, 40.0, None),
            (1040.0, 1000.0, 1000),
        ],
    )
    def test_watched(self, wall: float, monotonic: float, seconds: float | None) -> None:
        assert watched_duration(wall, monotonic) == seconds


class TestLists:
    def test_by_state_text_and_page(self, journal: Journal) -> None:
        for number in range(5):
            submit(journal, number, replace(WORK, label=f"Picture {number}"))
        journal.failed(3, "CUDA out of memory")
        assert [record.id for record in journal.records(limit=2, offset=1)] == [4, 3]
        assert [record.id for record in journal.records(states=[TaskState.FAILED])] == [3]
        assert journal.records(states=[]) == []
        assert [record.id for record in journal.records(text="picture 1")] == [2]
        assert [record.id for record in journal.records(text="out of mem")] == [3]
        assert [record.id for record in journal.records(text="task-4")] == [5]
        assert journal.count() == 5
        assert journal.count(states=[TaskState.SUBMITTED], text="Picture") == 4

    @pytest.mark.parametrize(("text", "count"), [("100 %", 1), ("1%d", 0), ("_", 0), ("\\", 0), ("'", 0)])
    def test_text_is_no_pattern(self, journal: Journal, text: str, count: int) -> None:
        submit(journal, 1, replace(WORK, kind="", label="At 100 % speed"))
        assert journal.count(text=text) == count

    def test_open_entries_oldest_first(self, journal: Journal) -> None:
        records = [submit(journal, number) for number in range(4)]
        journal.failed(records[0].id, "no")
        journal.cancel_pending(records[1].id)
        journal.finished(records[2].id, "https://result")
        assert [record.id for record in journal.open_records()] == [2, 3, 4]

    def test_by_ids(self, journal: Journal) -> None:
        record = submit(journal)
        assert journal.by_task_id("task-1") == record
        assert journal.by_task_id("task-1", "http://devnet") == record
        assert journal.by_task_id("task-1", "http://elsewhere") is None
        assert journal.by_job_id("job-1") == record
        assert journal.by_job_id("job-2") is None
        assert journal.find(99) is None
        with pytest.raises(JournalError, match="no record 99"):
            journal.record(99)


class TestChanges:
    def test_version_grows_with_every_change_and_with_nothing_else(self, journal: Journal) -> None:
        before = journal.version()
        record = submit(journal)
        journal.status(record.id, "waiting")
        after = journal.version()
        assert after > before
        journal.status(record.id, "waiting")
        journal.records()
        journal.open_records()
        journal.attended(record.id)
        assert journal.version() == after

    def test_since_lists_what_changed(self, journal: Journal) -> None:
        first, second = submit(journal, 1), submit(journal, 2)
        seen = journal.version()
        journal.status(first.id, "running")
        assert [record.id for record in journal.records(since=seen)] == [first.id]
        assert journal.count(since=seen) == 1
        assert second.version <= seen < journal.record(first.id).version

    def test_listeners_hear_of_each_record_after_the_change(self, journal: Journal) -> None:
        heard: list[tuple[int, str | None]] = []

        def listen(record_id: int) -> None:
            record = journal.find(record_id)
            heard.append((record_id, record.state.value if record else None))

        stop = journal.subscribe(listen)
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(1)
        journal.not_sent(1, "refused")
        journal.leave(claim.lease)
        journal.forget(1)
        assert heard == [(1, "prepared"), (1, "sending"), (1, "not_sent"), (1, None)]
        stop()
        stop()
        submit(journal, 2)
        assert len(heard) == 4

    def test_a_listener_that_fails_does_no_harm(
        self, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(record_id: int) -> None:
            raise RuntimeError("display gone")

        journal.subscribe(fail)
        assert submit(journal).state is TaskState.SUBMITTED
        assert "display gone" in caplog.text


class TestForgetting:
    def test_removes_row_files_and_half_downloads(self, journal: Journal) -> None:
        record = submit(journal)
        journal.finished(record.id, "https://result")
        kept = keep(journal, record)
        stem = journal.result_stem(record)
        stem.with_suffix(".part").write_bytes(b"half")
        neighbour = stem.with_name(f"{stem.name}1.part")
        neighbour.write_bytes(b"another record's")
        assert not journal.forget(record.id)
        journal.close()
        with Journal.open(journal.path, journal.results_dir) as later:
            assert later.forget(record.id)
            assert later.find(record.id) is None
        assert not kept.files[0].exists()
        assert list(journal.results_dir.iterdir()) == [neighbour]

    def test_of_all_that_ended_leaves_what_is_open(self, journal: Journal) -> None:
        for number in range(4):
            claim = journal.claim(replace(WORK, fingerprint=f"{number:064x}"), job_id=f"job-{number}")
            journal.sending(claim.record.id)
            if number == 0:
                journal.not_sent(claim.record.id, "refused")
            elif number == 1:
                journal.unknown(claim.record.id, "reset")
            else:
                journal.submitted(claim.record.id, f"task-{number}")
            journal.leave(claim.lease)
        journal.failed(3, "no")
        assert journal.forget_ended() == 2
        assert [record.id for record in journal.records()] == [4, 2]

    def test_of_an_open_task_logs_its_ids(self, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(claim.record.id)
        journal.submitted(claim.record.id, "task-1")
        journal.leave(claim.lease)
        with caplog.at_level("INFO", "xalora_client"):
            assert journal.forget(claim.record.id)
        assert "job-1" in caplog.text
        assert "task-1" in caplog.text


def test_no_pixels_reach_the_disk(journal: Journal, tmp_path: Path) -> None:
    pixels = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    uri = f"data:image/png;base64,{pixels}"
    leaky = replace(
        WORK, details={"image": uri, "list": [{"deep": f"see {uri} there"}]}, label=f"Upscale {uri}"
    )
    record = submit(journal, 1, leaky)
    finished = journal.finished(record.id, {"images": [uri, "https://result"]})
    submit(journal, 2)
    journal.failed(2, f"Can't open {uri.replace('data:', 'DATA:')}")
    journal.close()
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"https://result" in written
    assert pixels.encode() not in written
    assert finished.result["images"][0].startswith("data:image/png;base64,(")


def test_prose_about_data_stays_as_it_is(journal: Journal) -> None:
    label = "metadata: a/b, data: c, updata:image/png,x"
    assert submit(journal, 1, replace(WORK, label=label)).work.label == label


def test_text_that_utf8_has_no_form_for_is_survived(journal: Journal) -> None:
    odd = "photo \udcff.png"
    record = submit(journal, 1, replace(WORK, label=odd, details={"name": odd}))
    assert record.work.label == "photo ?.png"
    assert journal.records(text="photo \udcff")[0].id == record.id
