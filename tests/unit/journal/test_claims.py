"""Who sends, who joins, who gets what is already there: the decisions of `Journal.claim` and leases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from xalora_client.errors import JournalError
from xalora_client.journal import Claim, Journal, Record, TaskState, Work

WORK = Work(
    fingerprint="f" * 64,
    sequencer_url="http://devnet",
    consumer_id="someone",
    task_type="upscaler",
    kind="upscaler 512x512",
    label="Upscale a photograph",
)
UNSEEDED = replace(WORK, seeded=False)


@pytest.fixture(params=["on disk", "in memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    path = tmp_path / "journal.sqlite3" if request.param == "on disk" else None
    with Journal.open(path, tmp_path / "results") as journal:
        yield journal


def send(journal: Journal, claim: Claim, task_id: str = "task-1") -> Record:
    assert claim.action == "send"
    journal.sending(claim.record.id)
    return journal.submitted(claim.record.id, task_id)


def keep(journal: Journal, record: Record, content: bytes = b"pixels") -> Record:
    journal.finished(record.id, "https://result")
    file = journal.result_stem(record).with_suffix(".png")
    file.write_bytes(content)
    return journal.kept(record.id, [file])


def test_the_first_sends_under_its_own_job_id(journal: Journal) -> None:
    claim = journal.claim(WORK, job_id="job-1")
    assert (claim.action, claim.record.state, claim.record.job_id) == ("send", TaskState.PREPARED, "job-1")
    assert claim.record.work == WORK


@pytest.mark.parametrize("state", ["prepared", "sending", "submitted", "finished"])
def test_the_second_joins_whatever_the_first_has_reached(journal: Journal, state: str) -> None:
    first = journal.claim(WORK, job_id="job-1")
    if state != "prepared":
        journal.sending(first.record.id)
    if state in ("submitted", "finished"):
        journal.submitted(first.record.id, "task-1")
    if state == "finished":
        journal.finished(first.record.id, "https://result")
    second = journal.claim(WORK, job_id="job-2")
    assert (second.action, second.record.id, second.record.state.value) == ("join", first.record.id, state)
    assert second.record.job_id == "job-1"
    assert journal.count() == 1


def test_a_kept_result_answers(journal: Journal) -> None:
    first = journal.claim(WORK, job_id="job-1")
    kept = keep(journal, send(journal, first))
    journal.leave(first.lease)
    second = journal.claim(WORK, job_id="job-2")
    assert (second.action, second.record.id, second.record.files) == ("kept", kept.id, kept.files)
    assert second.record.files[0].read_bytes() == b"pixels"


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_kept_result_that_is_not_whole_is_fetched_again(journal: Journal, damage: str) -> None:
    first = journal.claim(WORK, job_id="job-1")
    kept = keep(journal, send(journal, first))
    journal.delivered(kept.id)
    journal.leave(first.lease)
    if damage == "removed":
        kept.files[0].unlink()
    else:
        kept.files[0].write_bytes(b"pix")
    second = journal.claim(WORK, job_id="job-2")
    assert (second.action, second.record.id, second.record.state) == ("join", kept.id, TaskState.FINISHED)
    assert (second.record.task_id, second.record.files) == ("task-1", ())
    assert journal.take(second.lease)
    assert keep(journal, second.record).files[0].read_bytes() == b"pixels"


def test_without_reuse_everybody_sends(journal: Journal) -> None:
    keep(journal, send(journal, journal.claim(WORK, job_id="job-1")))
    send(journal, journal.claim(WORK, job_id="job-2", reuse=False), "task-2")
    assert journal.claim(WORK, job_id="job-3", reuse=False).action == "send"
    assert journal.count() == 3


def test_a_kept_result_is_preferred_to_a_running_task(journal: Journal) -> None:
    first = journal.claim(WORK, job_id="job-1")
    kept = keep(journal, send(journal, first))
    send(journal, journal.claim(WORK, job_id="job-2", reuse=False), "task-2")
    assert journal.claim(WORK, job_id="job-3").record.id == kept.id


def test_work_of_another_fingerprint_is_other_work(journal: Journal) -> None:
    keep(journal, send(journal, journal.claim(WORK, job_id="job-1")))
    assert journal.claim(replace(WORK, fingerprint="e" * 64), job_id="job-2").action == "send"


@pytest.mark.parametrize("ending", ["failed", "canceled", "not_sent"])
def test_after_a_failure_the_work_is_sent_anew(journal: Journal, ending: str) -> None:
    first = journal.claim(WORK, job_id="job-1")
    if ending == "not_sent":
        journal.sending(first.record.id)
        journal.not_sent(first.record.id, "429")
    else:
        send(journal, first)
        journal.failed(first.record.id, "out of memory") if ending == "failed" else journal.canceled(
            first.record.id
        )
    second = journal.claim(WORK, job_id="job-2")
    assert (second.action, second.record.job_id) == ("send", "job-2")


class TestAmong:
    """Without reuse, only the tasks that are named answer: what of them did not finish is sent again."""

    @pytest.fixture
    def two(self, journal: Journal) -> tuple[Record, Record]:
        first = journal.claim(WORK, job_id="job-1")
        kept = keep(journal, send(journal, first))
        journal.leave(first.lease)
        second = journal.claim(WORK, job_id="job-2", reuse=False)
        return kept, send(journal, second, "task-2")

    def among(self, journal: Journal, *ids: str, work: Work = WORK) -> Claim:
        return journal.claim(work, job_id="job-9", reuse=False, among=set(ids))

    def test_only_the_named_answer(self, journal: Journal, two: tuple[Record, Record]) -> None:
        kept, under_way = two
        assert (self.among(journal, "task-1").action, self.among(journal, "task-1").record.id) == (
            "kept",
            kept.id,
        )
        joined = self.among(journal, "task-2")
        assert (joined.action, joined.record.id) == ("join", under_way.id)
        assert self.among(journal, "task-1", "task-2").record.id == kept.id

    def test_others_do_not(self, journal: Journal, two: tuple[Record, Record]) -> None:
        assert self.among(journal, "task-3").action == "send"
        assert self.among(journal).action == "send"

    @pytest.mark.parametrize("ending", ["failed", "canceled"])
    def test_one_that_came_to_nothing_is_sent_anew(
        self, journal: Journal, two: tuple[Record, Record], ending: str
    ) -> None:
        _, under_way = two
        journal.failed(under_way.id, "oom") if ending == "failed" else journal.canceled(under_way.id)
        claim = self.among(journal, "task-2")
        assert (claim.action, claim.record.job_id) == ("send", "job-9")

    def test_work_of_another_fingerprint_does_not_answer_though_named(
        self, journal: Journal, two: tuple[Record, Record]
    ) -> None:
        assert self.among(journal, "task-1", work=replace(WORK, fingerprint="e" * 64)).action == "send"

    def test_work_without_a_seed_is_answered_though_it_was_delivered(self, journal: Journal) -> None:
        first = journal.claim(UNSEEDED, job_id="job-1")
        journal.delivered(keep(journal, send(journal, first)).id)
        journal.leave(first.lease)
        assert self.among(journal, "task-1", work=UNSEEDED).record.id == first.record.id

    def test_with_reuse_they_make_no_difference(self, journal: Journal, two: tuple[Record, Record]) -> None:
        assert journal.claim(WORK, job_id="job-9", among={"task-2"}).record.id == two[0].id


class TestUnknown:
    @pytest.fixture
    def unknown(self, journal: Journal) -> Record:
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(claim.record.id)
        record = journal.unknown(claim.record.id, "connection reset")
        journal.leave(claim.lease)
        return record

    def test_stop_sends_nothing(self, journal: Journal, unknown: Record) -> None:
        claim = journal.claim(WORK, job_id="job-2")
        assert (claim.action, claim.record.id, claim.record.error) == (
            "unknown",
            unknown.id,
            "connection reset",
        )
        assert journal.count() == 1
        assert journal.attended(unknown.id) == 0

    def test_resend_uses_the_same_job_id(self, journal: Journal, unknown: Record) -> None:
        claim = journal.claim(WORK, job_id="job-2", if_unknown="resend")
        assert (claim.action, claim.record.id, claim.record.job_id) == ("send", unknown.id, "job-1")
        assert send(journal, claim).task_id == "task-1"

    @pytest.mark.parametrize("among", [set(), {"task-9"}])
    def test_is_heeded_without_reuse_too(self, journal: Journal, unknown: Record, among: set[str]) -> None:
        claim = journal.claim(WORK, job_id="job-2", reuse=False, among=among)
        assert (claim.action, claim.record.id) == ("unknown", unknown.id)
        resent = journal.claim(WORK, job_id="job-2", reuse=False, among=among, if_unknown="resend")
        assert (resent.action, resent.record.job_id) == ("send", "job-1")

    def test_forget_goes_for_no_reuse_too(self, journal: Journal, unknown: Record) -> None:
        claim = journal.claim(WORK, job_id="job-2", reuse=False, if_unknown="forget")
        assert (claim.action, claim.record.job_id) == ("send", "job-2")
        assert journal.claim(WORK, job_id="job-3", reuse=False).action == "send"

    def test_two_that_resend_send_once(self, journal: Journal, unknown: Record) -> None:
        actions = [journal.claim(WORK, job_id="job-2", if_unknown="resend").action for _ in range(2)]
        assert actions == ["send", "join"]

    @pytest.mark.parametrize("how", ["left", "refused", "held back and left", "given up"])
    def test_a_resend_that_comes_to_nothing_leaves_the_doubt(
        self, journal: Journal, unknown: Record, how: str
    ) -> None:
        claim = journal.claim(WORK, job_id="job-2", if_unknown="resend")
        assert claim.record.in_doubt
        if how in ("refused", "held back and left"):
            journal.sending(unknown.id)
        if how == "held back and left":
            journal.held_back(unknown.id, "429")
        if how in ("refused", "given up"):
            journal.not_sent(unknown.id, "402")
        journal.leave(claim.lease)
        record = journal.record(unknown.id)
        assert (record.state, record.is_open) == (TaskState.UNKNOWN, True)
        assert "still unknown" in str(record.error)
        assert journal.claim(WORK, job_id="job-3").action == "unknown"

    def test_nobody_inherits_the_choice_to_resend(self, journal: Journal, unknown: Record) -> None:
        claim = journal.claim(WORK, job_id="job-2", if_unknown="resend")
        joined = journal.claim(WORK, job_id="job-3")
        assert joined.action == "join"
        journal.leave(claim.lease)
        assert not journal.take(joined.lease)
        assert journal.record(unknown.id).state is TaskState.UNKNOWN

    def test_a_resend_that_is_accepted_ends_the_doubt(self, journal: Journal, unknown: Record) -> None:
        claim = journal.claim(WORK, job_id="job-2", if_unknown="resend")
        assert not send(journal, claim).in_doubt

    def test_forget_begins_anew_and_keeps_the_trace(self, journal: Journal, unknown: Record) -> None:
        claim = journal.claim(WORK, job_id="job-2", if_unknown="forget")
        assert (claim.action, claim.record.job_id) == ("send", "job-2")
        old = journal.record(unknown.id)
        assert (old.state, old.forgotten, old.is_open) == (TaskState.UNKNOWN, True, False)
        assert [record.id for record in journal.open_records()] == [claim.record.id]

    def test_an_answer_that_comes_after_all_is_not_lost(self, journal: Journal, unknown: Record) -> None:
        journal.claim(WORK, job_id="job-2", if_unknown="forget")
        record = journal.submitted(unknown.id, "task-late")
        assert (record.state, record.task_id, record.is_open) == (TaskState.SUBMITTED, "task-late", True)


class TestWithoutSeed:
    def test_never_shares_a_task_in_somebodys_hands(self, journal: Journal) -> None:
        first = journal.claim(UNSEEDED, job_id="job-1")
        assert journal.claim(UNSEEDED, job_id="job-2").action == "send"
        keep(journal, send(journal, first))
        assert journal.claim(UNSEEDED, job_id="job-3").action == "send"

    def test_never_gets_a_delivered_result(self, journal: Journal) -> None:
        first = journal.claim(UNSEEDED, job_id="job-1")
        journal.delivered(keep(journal, send(journal, first)).id)
        journal.leave(first.lease)
        assert journal.claim(UNSEEDED, job_id="job-2").action == "send"

    def test_takes_up_each_orphan_once_and_oldest_first(self, journal: Journal) -> None:
        claims = [journal.claim(UNSEEDED, job_id=f"job-{number}") for number in range(3)]
        for number, claim in enumerate(claims):
            send(journal, claim, f"task-{number}")
            journal.leave(claim.lease)
        again = [journal.claim(UNSEEDED, job_id="new") for _ in range(4)]
        assert [claim.action for claim in again] == ["join", "join", "join", "send"]
        assert [claim.record.task_id for claim in again] == ["task-0", "task-1", "task-2", None]

    def test_gets_a_kept_result_that_nobody_got(self, journal: Journal) -> None:
        first = journal.claim(UNSEEDED, job_id="job-1")
        kept = keep(journal, send(journal, first))
        journal.leave(first.lease)
        assert journal.claim(UNSEEDED, job_id="job-2").record.id == kept.id


class TestWorkers:
    def test_one_sends_and_a_joiner_takes_over_when_that_one_leaves(self, journal: Journal) -> None:
        first, second = (journal.claim(WORK, job_id="job-1") for _ in range(2))
        assert not journal.take(second.lease)
        assert journal.leave(first.lease) == 1
        assert journal.take(second.lease)
        assert journal.sending(second.record.id).state is TaskState.SENDING

    def test_one_downloads(self, journal: Journal) -> None:
        first, second = (journal.claim(WORK, job_id="job-1") for _ in range(2))
        send(journal, first)
        assert not journal.take(first.lease)
        journal.finished(first.record.id, "https://result")
        assert journal.take(second.lease)
        assert journal.take(second.lease)
        assert not journal.take(first.lease)
        journal.leave(second.lease)
        assert journal.take(first.lease)

    def test_sending_twice_is_refused(self, journal: Journal) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(claim.record.id)
        with pytest.raises(JournalError, match="refuses to send a task that is sending"):
            journal.sending(claim.record.id)
        # The refused step is rolled back, and the journal goes on.
        assert journal.submitted(claim.record.id, "task-1").state is TaskState.SUBMITTED

    def test_sending_without_being_the_worker_is_refused(self, journal: Journal) -> None:
        first, second = (journal.claim(WORK, job_id="job-1") for _ in range(2))
        journal.leave(first.lease)
        with pytest.raises(JournalError, match="not this process's to send"):
            journal.sending(second.record.id)

    def test_a_create_held_back_can_be_sent_again(self, journal: Journal) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(claim.record.id)
        assert journal.held_back(claim.record.id, "429").state is TaskState.PREPARED
        assert send(journal, replace(claim)).error is None

    def test_the_last_that_leaves_before_sending_leaves_it_not_sent(self, journal: Journal) -> None:
        first, second = (journal.claim(WORK, job_id="job-1") for _ in range(2))
        assert journal.leave(first.lease) == 1
        assert journal.record(first.record.id).state is TaskState.PREPARED
        assert journal.leave(second.lease) == 0
        assert journal.leave(second.lease) == 0
        record = journal.record(first.record.id)
        assert (record.state, record.error) == (TaskState.NOT_SENT, "It was given up before it was sent.")

    def test_a_sender_that_leaves_in_the_middle_leaves_it_unknown(self, journal: Journal) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(claim.record.id)
        journal.leave(claim.lease)
        assert journal.record(claim.record.id).state is TaskState.UNKNOWN


class TestCancel:
    def test_leaves_the_task_to_the_others(self, journal: Journal) -> None:
        first, second = (journal.claim(WORK, job_id="job-1") for _ in range(2))
        send(journal, first)
        assert journal.others(first.lease) == 1
        assert journal.cancel(first.lease) is None
        assert journal.record(first.record.id).state is TaskState.SUBMITTED
        last = journal.cancel(second.lease)
        assert last is not None
        assert (last.state, last.task_id) == (TaskState.CANCEL_PENDING, "task-1")
        assert journal.canceled(last.id).state is TaskState.CANCELED

    def test_of_a_task_never_sent_needs_no_network(self, journal: Journal) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        assert journal.cancel(claim.lease) is None
        assert journal.record(claim.record.id).state is TaskState.NOT_SENT

    def test_of_an_ended_task_does_nothing(self, journal: Journal) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        kept = keep(journal, send(journal, claim))
        assert journal.cancel(claim.lease) is None
        assert journal.cancel_pending(kept.id).state is TaskState.KEPT

    def test_unconfirmed_and_asked_for_again_is_withdrawn(self, journal: Journal) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        send(journal, claim)
        journal.cancel(claim.lease)
        meanwhile = journal.claim(WORK, job_id="job-2")
        assert (meanwhile.action, meanwhile.record.state) == ("join", TaskState.CANCEL_PENDING)
        assert meanwhile.cancel_was_asked
        journal.leave(meanwhile.lease)
        journal.leave(claim.lease)
        later = journal.claim(WORK, job_id="job-3")
        assert (later.action, later.record.state, later.record.task_id) == (
            "join",
            TaskState.SUBMITTED,
            "task-1",
        )
        assert later.cancel_was_asked
        assert not journal.claim(WORK, job_id="job-4").cancel_was_asked


def test_of_many_threads_asking_at_once_one_sends(journal: Journal) -> None:
    rounds, threads = 40, 8
    barrier = threading.Barrier(threads)
    actions: list[list[str]] = [[] for _ in range(threads)]

    def ask(number: int) -> None:
        for turn in range(rounds):
            barrier.wait(30)
            work = replace(WORK, fingerprint=f"{turn:064x}")
            actions[number].append(journal.claim(work, job_id=f"job-{number}-{turn}").action)

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [sorted(turn) for turn in zip(*actions, strict=True)] == [["join"] * 7 + ["send"]] * rounds


def test_two_journals_of_one_process_are_two_owners(tmp_path: Path) -> None:
    path, results = tmp_path / "journal.sqlite3", tmp_path / "results"
    with Journal.open(path, results) as one, Journal.open(path, results) as other:
        claim = one.claim(WORK, job_id="job-1")
        joined = other.claim(WORK, job_id="job-2")
        assert joined.action == "join"
        assert not other.take(joined.lease)
        one.close()
        assert other.take(joined.lease)
        assert other.attended(claim.record.id) == 1


def test_who_is_attended(journal: Journal) -> None:
    claims = [journal.claim(replace(WORK, fingerprint=f"{number:064x}"), job_id="job") for number in range(3)]
    journal.leave(claims[1].lease)
    assert journal.attended_records() == {claims[0].record.id, claims[2].record.id}
    assert [journal.attended(claim.record.id) for claim in claims] == [1, 0, 1]


def test_the_first_lease_of_an_open_record_and_its_last_are_changes(journal: Journal) -> None:
    claim = journal.claim(WORK, job_id="job-1")
    send(journal, claim)
    told: list[int] = []
    journal.subscribe(told.append)
    seen = journal.version()
    second = journal.claim(WORK, job_id="job-2")
    journal.leave(claim.lease)
    assert (journal.version(), told) == (seen, [])  # it is looked after as before
    journal.leave(second.lease)
    assert [record.id for record in journal.records(since=seen)] == [claim.record.id] == told
    seen = journal.version()
    third = journal.hold(claim.record.id)
    assert [record.id for record in journal.records(since=seen)] == [claim.record.id]
    keep(journal, claim.record)
    seen = journal.version()
    journal.leave(third)
    journal.leave(journal.hold(claim.record.id))
    assert journal.version() == seen  # there is nothing left to do or to decide


def test_a_lease_left_for_later_goes_with_the_next_change(journal: Journal) -> None:
    record = keep(journal, send(journal, journal.claim(WORK, job_id="job-1")))
    before = journal.attended(record.id)
    journal.leave_later(journal.hold(record.id))
    journal.delivered(record.id)
    assert journal.attended(record.id) == before
