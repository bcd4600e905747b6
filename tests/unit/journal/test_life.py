"""A task's life in the journal: times, late answers, history, lists, listeners; and what is never written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from journal_steps import (
    ENDINGS,
    LONG,
    LockHolder,
    claim,
    deliver,
    end,
    finish,
    keep,
    leave,
    note,
    send,
    settled,
    submit,
    unknown,
    work,
)

from xalora_client.errors import JournalError
from xalora_client.journal import ClaimOptions, Event, Journal, TaskState
from xalora_client.polling.durations import PastRun, watched_duration

WORK = work(
    task_type="txt2vid",
    workflow_id="2",
    kind="txt2vid 2 480x480 32",
    label="A cat at 100 % speed",
    own_key=True,
    details={"prompt": "a cat", "length": 32, "nested": [{"steps": 20}]},
)


@dataclass
class Clock:
    now: float = 1_800_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(path: Path, results: Path, clock: Clock) -> Iterator[Journal]:
    with Journal.open(path, results, wall_clock=lambda: clock.now) as journal:
        yield journal


def test_every_step_leaves_its_time_and_what_came_with_it(journal: Journal, clock: Clock) -> None:
    start = clock.now
    record = submit(journal, WORK)
    for passed, status in [(3, "waiting"), (4, "running"), (5, "running")]:
        clock.now += passed
        seen = note(journal, record.id, Event.STATUS, status=status)
        assert (seen.status, seen.started_at) == (status, None if status == "waiting" else start + 7)
    kept = keep(journal, record, b"video", ".mp4", engine="xalora", miner="miner-7", device="RTX 4090")
    assert kept.work == WORK
    assert (kept.created_at, kept.sent_at, kept.submitted_at) == (start, start, start)
    assert (kept.started_at, kept.ended_at) == (start + 7, start + 12)
    assert (kept.queued_seconds, kept.running_seconds, kept.total_seconds) == (7, 5, 12)
    assert (kept.state, kept.status, kept.result) == (TaskState.FINISHED, "finished", "https://result")
    assert (kept.engine, kept.miner, kept.device, kept.size) == ("xalora", "miner-7", "RTX 4090", 5)
    assert (kept.is_kept, kept.is_open, kept.delivered) == (True, False, False)


def test_times_that_come_with_a_note_hold_however_late_it_is_written(journal: Journal, clock: Clock) -> None:
    record = submit(journal)
    clock.now += 100
    note(journal, record.id, Event.STATUS, status="running", at=clock.now - 90)
    ended = finish(journal, record, at=clock.now - 60)
    assert (ended.queued_seconds, ended.running_seconds) == (10, 30)


LATE: list[tuple[Event, dict[str, Any]]] = [
    (Event.STATUS, {"status": "running"}),
    (Event.FINISHED, {"result": "https://late"}),
    *((Event(name), values) for name, values in ENDINGS.items()),
    (Event.CANCEL_REQUESTED, {}),
    (Event.NOT_KNOWN, {"error": "404"}),
    (Event.HELD_BACK, {"error": "429"}),
    (Event.ANSWER_LOST, {"error": "reset"}),
]


def test_no_late_answer_moves_a_kept_result(journal: Journal) -> None:
    kept = keep(journal, submit(journal))
    for event, values in LATE:
        after = note(journal, kept.id, event, **values)
        assert replace(after, version=kept.version) == kept
    journal.accepted(kept.id, "task-1").result(LONG)
    assert settled(journal, kept.id).files == kept.files


def test_a_fresh_url_replaces_one_not_yet_downloaded(journal: Journal) -> None:
    record = submit(journal)
    finish(journal, record, "https://stale")
    assert finish(journal, record, "https://fresh").result == "https://fresh"


def test_the_signature_of_an_address_is_never_written(journal: Journal) -> None:
    record = submit(journal)
    signed = {"images": ["https://store/a.png?X-Signature=secret"]}
    assert finish(journal, record, signed).result == {"images": ["https://store/a.png"]}
    assert b"secret" not in b"".join(
        path.read_bytes() for path in journal.path.parent.glob("*sqlite3*") if path.is_file()
    )


def test_a_second_task_id_for_one_job_is_logged_and_does_not_replace_the_first(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    record = submit(journal)
    journal.accepted(record.id, "task-twin").result(LONG)
    assert settled(journal, record.id).task_id == "task-1"
    assert "task-twin" in caplog.text


def test_an_expired_result_ends_the_task_with_the_reason(journal: Journal) -> None:
    record = submit(journal)
    finish(journal, record)
    ended = note(journal, record.id, Event.EXPIRED, error="the network no longer has the result")
    assert (ended.state, ended.error) == (TaskState.FAILED, "the network no longer has the result")


def test_a_local_engine_is_noted_without_moving_the_task(journal: Journal) -> None:
    record = end(journal, claim(journal), "not sent")
    after = note(journal, record.id, Event.FELL_BACK, engine="torch", device="cuda:0")
    assert (after.state, after.engine, after.device) == (TaskState.NOT_SENT, "torch", "cuda:0")


@pytest.mark.parametrize("end_of_cancel", ["cancel lapsed", "failed", "not known"])
def test_d8_a_request_to_cancel_is_a_column_that_its_answer_clears(
    journal: Journal, clock: Clock, end_of_cancel: str
) -> None:
    """D8: a cancel that is refused or lapses does not stick."""
    record = submit(journal)
    asked = note(journal, record.id, Event.CANCEL_REQUESTED)
    assert (asked.state, asked.cancel_requested_at) == (TaskState.SUBMITTED, clock.now)
    after = note(journal, record.id, Event(end_of_cancel), error="why")
    assert after.cancel_requested_at is None


def test_d8_of_a_canceled_task_the_request_that_took_effect_is_known(journal: Journal, clock: Clock) -> None:
    """D8: who joined after another request, which came to nothing, wanted this task."""
    record = submit(journal)
    note(journal, record.id, Event.CANCEL_REQUESTED)
    note(journal, record.id, Event.CANCEL_LAPSED)
    clock.now += 5
    asked = note(journal, record.id, Event.CANCEL_REQUESTED)
    after = note(journal, record.id, Event.CANCELED)
    assert after.cancel_requested_at == asked.cancel_requested_at == clock.now


def test_notes_of_one_record_are_applied_in_their_order_however_they_are_merged(
    journal: Journal, holder: LockHolder
) -> None:
    """D7: what may lag is one merged change per record."""
    first = claim(journal)
    send(journal, first, None)
    seen = journal.version()
    holder.hold()
    for event, values in [
        (Event.HELD_BACK, {"error": "429"}),
        (Event.NOT_SENT, {"error": "given up"}),
        (Event.DELIVERED, {}),
    ]:
        journal.note(1, event, **values)
    holder.release()
    record = settled(journal, 1)
    assert (record.state, record.error, record.version) == (TaskState.NOT_SENT, "given up", seen + 1)


class TestClocks:
    def test_a_clock_set_back_never_makes_time_run_backwards(self, journal: Journal, clock: Clock) -> None:
        record = submit(journal)
        clock.now += 10 - 86_400
        note(journal, record.id, Event.STATUS, status="running")
        clock.now += 10
        ended = finish(journal, record)
        times = [ended.created_at, ended.sent_at, ended.submitted_at, ended.started_at, ended.ended_at]
        assert times == sorted(times, key=lambda time: time or 0)
        assert (ended.queued_seconds, ended.running_seconds, ended.total_seconds) == (0, 0, 0)

    def test_the_latest_record_is_the_last_one_made(self, journal: Journal, clock: Clock) -> None:
        submit(journal, 0, 1)
        clock.now -= 3600
        submit(journal, 0, 2)
        assert [record.id for record in journal.records()] == [2, 1]


class TestHistory:
    def run(self, journal: Journal, number: int, *run: float) -> None:
        finish(journal, submit(journal, WORK, number), run=run or None)

    def test_of_a_kind(self, journal: Journal) -> None:
        for number, seconds in enumerate((50, 40, 45)):
            self.run(journal, number, seconds - 1.5, seconds)
        assert journal.past_runs(WORK.kind) == [PastRun(43.5, 45), PastRun(38.5, 40), PastRun(48.5, 50)]
        assert journal.past_runs(WORK.kind, limit=2) == [PastRun(43.5, 45), PastRun(38.5, 40)]
        assert journal.past_runs("another kind") == []

    def test_outlives_the_records(self, journal: Journal) -> None:
        self.run(journal, 1, 40, 40)
        journal.close()
        with Journal.open(journal.path, journal.results.root) as later:
            deliver(later, settled(later, 1))
            assert later.forget().result(LONG) == 1
            assert later.past_runs(WORK.kind) == [PastRun(40, 40)]

    def test_leaves_out_ends_that_nobody_watched_for(self, journal: Journal) -> None:
        self.run(journal, 1)
        assert journal.past_runs(WORK.kind) == []

    def test_counts_a_task_once(self, journal: Journal, clock: Clock) -> None:
        self.run(journal, 1, 40, 40)
        ended = settled(journal, 1).ended_at
        clock.now += 5
        assert finish(journal, settled(journal, 1), "https://fresh", run=(45, 45)).ended_at == ended
        assert journal.past_runs(WORK.kind) == [PastRun(40, 40)]

    def test_keeps_to_a_useful_length(self, journal: Journal) -> None:
        for number in range(105):
            record = journal.claim(WORK, ClaimOptions(again=True), job_id=f"job-{number}").result(LONG).record
            journal.sending(record.id).result(LONG)
            journal.accepted(record.id, f"task-{number}")
            journal.note(record.id, Event.FINISHED, result="", run=(number, number))
        journal.flushed().result(LONG)
        kept = journal.past_runs(WORK.kind, limit=1000)
        assert [run.at_most for run in kept] == list(range(104, 4, -1))

    @pytest.mark.parametrize(
        ("wall", "monotonic", "seconds"),
        [(40, 40, 40), (41.9, 40, 40), (-60, 40, None), (3640, 40, None), (1040, 1000, 1000)],
    )
    def test_watched(self, wall: float, monotonic: float, seconds: float | None) -> None:
        assert watched_duration(wall, monotonic) == seconds


class TestLists:
    def test_by_state_text_and_page(self, journal: Journal) -> None:
        for number in range(5):
            submit(journal, work(label=f"Picture {number}"), number)
        note(journal, 3, Event.FAILED, error="CUDA out of memory")

        def ids(**how: Any) -> list[int]:
            return [record.id for record in journal.records(**how)]

        assert ids(limit=2, offset=1) == [4, 3]
        assert ids(states=[TaskState.FAILED]) == ids(text="out of mem") == [3]
        assert ids(states=[]) == []
        assert (ids(text="picture 1"), ids(text="task-4")) == ([2], [5])
        assert journal.count() == 5
        assert journal.count(states=[TaskState.SUBMITTED], text="Picture") == 4

    @pytest.mark.parametrize(
        "text",
        [
            "boat paper",  # words in any order
            "the very end",  # of a prompt that the label cuts off
            "ÉCLAIR",  # upper case, also beyond ASCII
            "e\u0301clair",  # as another keyboard composes it
            "чёрный",
            "纸船",
            "0x71",
            "8250411",  # the seed
            "gecko",
            "caught fire",
            "task-1",
            "job-1",
            "Éclair and a paper boat (1).png",  # as the result is saved
        ],
    )
    def test_a_search_finds_what_is_seen(self, journal: Journal, text: str) -> None:
        prompt = "éclair and a paper boat, чёрный, 纸船, to the very end"
        details = {"prompt": prompt, "noise_seed": 8250411, "width": 1024, "lora_name": "gecko"}
        record = submit(journal, work(label="éclair, and a paper boat...", details=details))
        keep(journal, record, miner="0x71…0c")
        note(journal, record.id, Event.EXPIRED, error="the miner caught fire")
        record = submit(journal, work(1, label="another"), 2)
        if text.endswith(".png"):
            # The file is gone with the note above.
            keep(journal, submit(journal, work(2, label="éclair, and a paper boat"), 3))
            text = text.replace("(1)", "(3)")
        assert len(journal.records(text=text)) == journal.count(text=text) == 1

    @pytest.mark.parametrize("text", ["1024", "boat another", "(1", "paperboat"])
    def test_a_search_finds_nothing_else(self, journal: Journal, text: str) -> None:
        details = {"prompt": "a paper boat", "width": 1024}
        submit(journal, work(label="a paper boat", details=details))
        submit(journal, work(1, label="another"), 2)
        assert journal.records(text=text) == []

    def test_a_word_that_a_list_shows_for_a_state_finds_it(self, journal: Journal) -> None:
        running, failed, kept = (submit(journal, work(n, label=f"boat {n}"), n) for n in range(3))
        note(journal, running.id, Event.STATUS, status="running")
        note(journal, failed.id, Event.FAILED, error="oom")
        deliver(journal, keep(journal, kept))
        for name, record in (("running", running), ("failed", failed), ("kept", kept)):
            found = journal.records(text="boat Zustand", named={"Zustand": [name]})
            assert [one.id for one in found] == [record.id], name
        assert journal.count(text="boat running") == 1  # the network's own word

    @pytest.mark.parametrize(("text", "count"), [("100 %", 1), ("1%d", 0), ("_", 0), ("\\", 0), ("'", 0)])
    def test_text_is_no_pattern(self, journal: Journal, text: str, count: int) -> None:
        submit(journal, work(kind="", label="At 100 % speed"))
        assert journal.count(text=text) == count

    def test_what_is_open(self, journal: Journal) -> None:
        records = [submit(journal, number, number) for number in range(6)]
        note(journal, records[0].id, Event.FAILED, error="no")
        note(journal, records[1].id, Event.CANCEL_REQUESTED)
        finish(journal, records[2])
        keep(journal, records[3])
        deliver(journal, finish(journal, records[4]))
        open_ids = [record.id for record in journal.records(is_open=True)]
        assert open_ids == [6, 3, 2]
        assert [record.id for record in journal.records() if record.is_open] == open_ids
        assert journal.count(is_open=False) == 3
        left_ids = [record.id for record in journal.records(is_left=True)]
        assert left_ids == [6, 4, 3, 2]
        left = [record for record in journal.records() if record.is_open or record.is_undelivered]
        assert [record.id for record in left] == left_ids

    def test_by_ids(self, journal: Journal) -> None:
        record = submit(journal)
        assert journal.find(task_id="task-1") == record
        assert journal.find(task_id="task-1", sequencer_url="http://devnet") == record
        assert journal.find(task_id="task-1", sequencer_url="http://elsewhere") is None
        assert journal.find(job_id="job-1") == record
        assert journal.find(job_id="job-2") is None
        assert journal.find(99) is None

    def test_a_task_id_of_another_task_is_refused(self, journal: Journal) -> None:
        """Else the second task would get the first one's picture."""
        first = submit(journal, 1, 1)
        second = claim(journal, 2, "job-2").record
        journal.sending(second.id).result(LONG)
        with pytest.raises(JournalError, match="id of another task"):
            journal.accepted(second.id, "task-1").result(LONG)
        assert settled(journal, second.id).task_id is None
        assert journal.find(task_id="task-1") == settled(journal, first.id)


class TestChanges:
    def test_version_grows_with_every_change_and_with_nothing_else(self, journal: Journal) -> None:
        before = journal.version()
        record = submit(journal)
        note(journal, record.id, Event.STATUS, status="waiting")
        after = journal.version()
        assert after > before
        note(journal, record.id, Event.STATUS, status="waiting")
        note(journal, record.id, Event.FILES_GONE)
        journal.note(99, Event.FAILED, error="no such record")
        journal.note(None, Event.FAILED, error="no record")
        journal.flushed().result(LONG)
        journal.records()
        journal.leased()
        assert journal.version() == after

    def test_since_lists_what_changed(self, journal: Journal) -> None:
        first, second = submit(journal, 1, 1), submit(journal, 2, 2)
        seen = journal.version()
        changed = note(journal, first.id, Event.STATUS, status="running")
        assert [record.id for record in journal.records(since=seen)] == [first.id]
        assert journal.count(since=seen) == 1
        assert second.version <= seen < changed.version

    def test_a_reading_sees_what_was_noted_before_it(self, journal: Journal) -> None:
        record = submit(journal)
        for number in range(50):
            journal.note(record.id, Event.STATUS, status=f"status {number}")
            # Amid a writing of what was noted just before, too.
            assert settled(journal, record.id).status == f"status {number}"

    def test_listeners_hear_of_each_record_after_the_change(self, journal: Journal) -> None:
        heard: list[tuple[int, str | None]] = []

        def listen(record_id: int) -> None:
            record = journal.find(record_id)
            heard.append((record_id, record.state.value if record else None))

        stop = journal.subscribe(listen)
        first = claim(journal)
        send(journal, first, None)
        note(journal, 1, Event.NOT_SENT, error="refused")
        leave(journal, first)
        assert journal.forget([1]).result(LONG) == 1
        submit(journal, 1, 2)
        stop()
        stop()
        note(journal, 2, Event.FAILED, error="no")
        assert heard == [
            *((1, state) for state in ("prepared", "sending", "not_sent", None)),
            *((2, state) for state in ("prepared", "sending", "submitted")),
        ]

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
        """D6: what has a lease stays, the rest goes in one awaited transaction."""
        record = submit(journal)
        kept = keep(journal, record)
        stem = journal.results.stem(record.id, record.job_id)
        stem.with_suffix(".part").write_bytes(b"half")
        neighbour = stem.with_name(f"{stem.name}1.part")
        neighbour.write_bytes(b"another record's")
        assert journal.forget([record.id, 99]).result(LONG) == 0
        journal.close()
        with Journal.open(journal.path, journal.results.root) as later:
            assert later.forget([record.id, 99]).result(LONG) == 1
            assert later.find(record.id) is None
        assert not kept.files[0].exists()
        assert list(journal.results.root.iterdir()) == [neighbour]

    def test_of_all_that_ended_leaves_what_is_open(self, journal: Journal) -> None:
        end(journal, not_sent := claim(journal, 1), "not sent")
        end(journal, failed := claim(journal, 2), "failed")
        send(journal, under_way := claim(journal, 3), "task-3")
        finish(journal, send(journal, finished := claim(journal, 4), "task-4"))
        leave(journal, not_sent, failed, under_way, finished)
        unknown(journal, 5)
        unknown(journal, 6)
        claim(journal, 6, "job-7", if_unknown="forget")
        assert journal.forget().result(LONG) == 3
        assert [record.id for record in journal.records()] == [7, 5, 4, 3]

    def test_of_an_open_task_logs_its_ids(self, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
        first = claim(journal)
        send(journal, first)
        leave(journal, first)
        with caplog.at_level("INFO", "xalora_client"):
            assert journal.forget([1]).result(LONG) == 1
        assert "job-1" in caplog.text
        assert "task-1" in caplog.text


def test_no_pixels_reach_the_disk(journal: Journal, tmp_path: Path) -> None:
    pixels = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    uri = f"data:image/png;base64,{pixels}"
    leaky = work(details={"image": uri, "list": [{"deep": f"see {uri} there"}]}, label=f"Upscale {uri}")
    finished = finish(journal, submit(journal, leaky), {"images": [uri, "https://result"]})
    second = submit(journal, leaky, 2)
    note(journal, second.id, Event.FAILED, error=f"Can't open {uri.replace('data:', 'DATA:')}")
    journal.close()
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"https://result" in written
    assert pixels.encode() not in written
    assert finished.result["images"][0].startswith("data:image/png;base64,(")


def test_prose_about_data_stays_as_it_is(journal: Journal) -> None:
    label = "metadata: a/b, data: c, updata:image/png,x"
    assert submit(journal, work(label=label)).work.label == label


def test_text_that_utf8_has_no_form_for_is_survived(journal: Journal) -> None:
    odd = "photo \udcff.png"
    record = submit(journal, work(label=odd, details={"name": odd}))
    assert record.work.label == "photo ?.png"
    assert journal.records(text=odd)[0].id == record.id
