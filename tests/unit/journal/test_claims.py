"""Who sends, who joins, who gets what is already there: the decisions of `Journal.claim`, and leases."""

from __future__ import annotations

import threading
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
from xalora_client.journal import BusyJournalError, Claim, Event, Journal, Record, TaskState

UNSEEDED = work(0, seeded=False)


def test_the_first_sends_under_its_own_job_id(journal: Journal) -> None:
    first = claim(journal)
    assert (first.action, first.record.state, first.record.job_id) == ("send", TaskState.PREPARED, "job-1")
    assert first.record.work == work()


@pytest.mark.parametrize("state", ["prepared", "sending", "submitted", "finished"])
@pytest.mark.parametrize("reuse", [True, False])
def test_the_second_joins_whatever_the_first_has_reached(journal: Journal, state: str, reuse: bool) -> None:
    first = claim(journal)
    if state != "prepared":
        send(journal, first, None if state == "sending" else "task-1")
    if state == "finished":
        finish(journal, first.record)
    second = claim(journal, 0, "job-2", reuse=reuse)
    assert (second.action, second.record.id, second.record.state.value) == ("join", first.record.id, state)
    assert second.record.job_id == "job-1"
    assert journal.count() == 1


def test_a_kept_result_answers(journal: Journal) -> None:
    first = claim(journal)
    kept = keep(journal, send(journal, first))
    leave(journal, first)
    second = claim(journal, 0, "job-2")
    assert (second.action, second.record.id, second.record.files) == ("kept", kept.id, kept.files)
    assert second.record.files[0].read_bytes() == b"pixels"


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_kept_result_that_is_not_whole_is_fetched_again(journal: Journal, damage: str) -> None:
    kept = deliver(journal, keep(journal, submit(journal)))
    if damage == "removed":
        kept.files[0].unlink()
    else:
        kept.files[0].write_bytes(b"pix")
    second = claim(journal, 0, "job-2")
    assert (second.action, second.record.id, second.record.state) == ("join", kept.id, TaskState.FINISHED)
    assert (second.record.task_id, second.record.files) == ("task-1", ())
    assert keep(journal, second.record).files[0].read_bytes() == b"pixels"


def test_a_kept_result_has_a_digest_that_tells_damage_of_the_same_size(journal: Journal) -> None:
    kept = keep(journal, submit(journal))
    kept.files[0].write_bytes(b"PIXELS")
    assert journal.results.describe(kept.files)[0][2] != kept.digests[0]


def test_what_was_delivered_answers_only_with_reuse(journal: Journal) -> None:
    delivered = deliver(journal, keep(journal, submit(journal)))
    assert claim(journal, 0, "job-2").record.id == delivered.id
    assert claim(journal, 0, "job-3", reuse=False).action == "send"


def test_again_pays_for_a_new_task_each_time(journal: Journal) -> None:
    keep(journal, submit(journal))
    assert [claim(journal, 0, f"job-{n}", again=True).action for n in (2, 3)] == ["send", "send"]
    assert journal.count() == 3


def test_only_what_is_newer_answers_where_another_is_wanted(journal: Journal) -> None:
    """And it is paid for once: the second call joins the first one's task."""
    bad = deliver(journal, keep(journal, submit(journal)))
    first = claim(journal, 0, "job-2", newer_than=bad.id)
    assert first.action == "send"
    send(journal, first, "task-2")
    leave(journal, first)
    again = claim(journal, 0, "job-3", newer_than=bad.id)
    assert (again.action, again.record.id) == ("join", first.record.id)
    assert claim(journal, 0, "job-4").record.id == bad.id


def test_a_kept_result_is_preferred_to_a_running_task(journal: Journal) -> None:
    kept = keep(journal, submit(journal))
    submit(journal, 0, 2)
    assert claim(journal, 0, "job-3").record.id == kept.id


def test_work_of_another_fingerprint_is_other_work(journal: Journal) -> None:
    keep(journal, submit(journal))
    assert claim(journal, 1, "job-2").action == "send"


@pytest.mark.parametrize("ending", ENDINGS)
def test_after_a_failure_the_work_is_sent_anew(journal: Journal, ending: str) -> None:
    end(journal, claim(journal), ending)
    second = claim(journal, 0, "job-2")
    assert (second.action, second.record.job_id) == ("send", "job-2")


class TestAmong:
    """Without reuse, of what was delivered only the tasks that are named answer."""

    @pytest.fixture
    def two(self, journal: Journal) -> tuple[Record, Record]:
        kept = deliver(journal, keep(journal, submit(journal)))
        return kept, deliver(journal, submit(journal, 0, 2))

    def among(self, journal: Journal, *ids: str, task: Any = 0) -> Claim:
        return claim(journal, task, "job-9", reuse=False, among=set(ids))

    def test_only_the_named_answer(self, journal: Journal, two: tuple[Record, Record]) -> None:
        kept, under_way = two
        answers = {ids: self.among(journal, *ids) for ids in [("task-1",), ("task-2",), ("task-1", "task-2")]}
        assert {ids: (answer.action, answer.record.id) for ids, answer in answers.items()} == {
            ("task-1",): ("kept", kept.id),
            ("task-2",): ("join", under_way.id),
            ("task-1", "task-2"): ("kept", kept.id),
        }

    @pytest.mark.parametrize("ids", [(), ("task-3",)])
    def test_others_do_not(self, journal: Journal, two: tuple[Record, Record], ids: tuple[str, ...]) -> None:
        assert self.among(journal, *ids).action == "send"

    @pytest.mark.parametrize("ending", ["failed", "canceled"])
    def test_one_that_came_to_nothing_is_sent_anew(
        self, journal: Journal, two: tuple[Record, Record], ending: str
    ) -> None:
        note(journal, two[1].id, Event(ending), **ENDINGS[ending])
        anew = self.among(journal, "task-2")
        assert (anew.action, anew.record.job_id) == ("send", "job-9")

    def test_work_of_another_fingerprint_does_not_answer_though_named(
        self, journal: Journal, two: tuple[Record, Record]
    ) -> None:
        assert self.among(journal, "task-1", task=1).action == "send"

    def test_work_without_a_seed_is_answered_though_it_was_delivered(self, journal: Journal) -> None:
        record = deliver(journal, keep(journal, submit(journal, UNSEEDED)))
        assert self.among(journal, "task-1", task=UNSEEDED).record.id == record.id

    def test_with_reuse_they_make_no_difference(self, journal: Journal, two: tuple[Record, Record]) -> None:
        assert claim(journal, 0, "job-9", among={"task-2"}).record.id == two[0].id


class TestUnknown:
    def test_stop_sends_nothing_and_takes_no_lease(self, journal: Journal) -> None:
        record = unknown(journal)
        stopped = claim(journal, 0, "job-2")
        assert (stopped.action, stopped.record.id, stopped.lease) == ("unknown", record.id, "")
        assert stopped.record.error == "connection reset"
        assert (journal.count(), journal.leased()) == (1, frozenset())

    def test_resend_uses_the_same_job_id(self, journal: Journal) -> None:
        record = unknown(journal)
        resent = claim(journal, 0, "job-2", if_unknown="resend")
        assert (resent.action, resent.record.id, resent.record.job_id) == ("send", record.id, "job-1")
        assert resent.record.in_doubt
        sent = send(journal, resent)
        assert (sent.task_id, sent.in_doubt) == ("task-1", False)

    @pytest.mark.parametrize("among", [set(), {"task-9"}])
    def test_is_heeded_without_reuse_too(self, journal: Journal, among: set[str]) -> None:
        record = unknown(journal)
        how: dict[str, Any] = {"reuse": False, "among": among}
        assert claim(journal, 0, "job-2", **how).record.id == record.id
        resent = claim(journal, 0, "job-2", if_unknown="resend", **how)
        assert (resent.action, resent.record.job_id) == ("send", "job-1")

    def test_two_that_resend_send_once(self, journal: Journal) -> None:
        unknown(journal)
        assert [claim(journal, 0, "job-2", if_unknown="resend").action for _ in range(2)] == ["send", "join"]

    @pytest.mark.parametrize("how", ["left", "refused", "held back and left", "given up"])
    def test_a_resend_that_comes_to_nothing_leaves_the_doubt(self, journal: Journal, how: str) -> None:
        record = unknown(journal)
        resent = claim(journal, 0, "job-2", if_unknown="resend")
        if how in ("refused", "held back and left"):
            send(journal, resent, None)
        if how == "held back and left":
            journal.note(record.id, Event.HELD_BACK, error="429")
        if how in ("refused", "given up"):
            journal.note(record.id, Event.NOT_SENT, error="402")
        leave(journal, resent)
        after = settled(journal, record.id)
        assert (after.state, after.is_open) == (TaskState.UNKNOWN, True)
        assert "still unknown" in str(after.error)
        assert claim(journal, 0, "job-3").action == "unknown"

    def test_nobody_inherits_the_choice_to_resend(self, journal: Journal) -> None:
        unknown(journal)
        resent = claim(journal, 0, "job-2", if_unknown="resend")
        assert claim(journal, 0, "job-3").action == "join"
        leave(journal, resent)
        assert claim(journal, 0, "job-3").action == "unknown"

    @pytest.mark.parametrize("reuse", [True, False])
    def test_forget_begins_anew_and_keeps_the_trace(self, journal: Journal, reuse: bool) -> None:
        record = unknown(journal)
        anew = claim(journal, 0, "job-2", if_unknown="forget", reuse=reuse)
        assert (anew.action, anew.record.job_id) == ("send", "job-2")
        old = settled(journal, record.id)
        assert (old.state, old.forgotten, old.is_open) == (TaskState.UNKNOWN, True, False)
        assert [record.id for record in journal.records(is_open=True)] == [anew.record.id]
        assert claim(journal, 0, "job-3", reuse=reuse).record.id == anew.record.id

    def test_an_answer_that_comes_after_all_is_not_lost(self, journal: Journal) -> None:
        record = unknown(journal)
        claim(journal, 0, "job-2", if_unknown="forget")
        journal.accepted(record.id, "task-late").result(LONG)
        late = settled(journal, record.id)
        assert (late.state, late.task_id, late.is_open) == (TaskState.SUBMITTED, "task-late", True)

    def test_of_a_task_that_the_network_has_forgotten_keeps_its_id(self, journal: Journal) -> None:
        first = claim(journal)
        send(journal, first)
        lost = note(journal, first.record.id, Event.NOT_KNOWN, error="404")
        leave(journal, first)
        assert (lost.state, lost.task_id, lost.is_open) == (TaskState.UNKNOWN, "task-1", True)
        assert claim(journal, 0, "job-2").action == "unknown"
        # Its job id has made a task before, so sending that again might find the same one.
        assert claim(journal, 0, "job-3", if_unknown="resend").action == "unknown"
        anew = claim(journal, 0, "job-3", if_unknown="forget")
        assert (anew.action, anew.record.job_id) == ("send", "job-3")
        assert finish(journal, lost).state is TaskState.FINISHED


class TestWithoutSeed:
    def test_never_shares_a_task_in_somebodys_hands(self, journal: Journal) -> None:
        first = claim(journal, UNSEEDED)
        assert claim(journal, UNSEEDED, "job-2").action == "send"
        keep(journal, send(journal, first))
        assert claim(journal, UNSEEDED, "job-3").action == "send"

    def test_never_gets_a_delivered_result(self, journal: Journal) -> None:
        first = claim(journal, UNSEEDED)
        deliver(journal, keep(journal, send(journal, first)))
        leave(journal, first)
        assert claim(journal, UNSEEDED, "job-2").action == "send"

    def test_takes_up_each_orphan_once_and_oldest_first(self, journal: Journal) -> None:
        claims = [claim(journal, UNSEEDED, f"job-{number}") for number in range(3)]
        for number, each in enumerate(claims):
            send(journal, each, f"task-{number}")
        leave(journal, *claims)
        again = [claim(journal, UNSEEDED, "new") for _ in range(4)]
        assert [each.action for each in again] == ["join", "join", "join", "send"]
        assert [each.record.task_id for each in again] == ["task-0", "task-1", "task-2", None]

    def test_gets_a_kept_result_that_nobody_got(self, journal: Journal) -> None:
        first = claim(journal, UNSEEDED)
        kept = keep(journal, send(journal, first))
        leave(journal, first)
        assert claim(journal, UNSEEDED, "job-2").record.id == kept.id


class TestWorkers:
    def test_one_sends_and_a_joiner_takes_over_when_that_one_leaves(self, journal: Journal) -> None:
        first, second = claim(journal), claim(journal)
        assert second.action == "join"
        leave(journal, first)
        third = claim(journal)
        assert (third.action, third.record.job_id, third.record.id) == ("send", "job-1", first.record.id)
        assert send(journal, third).state is TaskState.SUBMITTED

    @pytest.mark.parametrize("state", ["sending", "submitted", "not sent"])
    def test_d2_sending_what_was_sent_or_given_up_is_refused(self, journal: Journal, state: str) -> None:
        """D2: the own lease and the state are checked again right before the create leaves."""
        first = claim(journal)
        if state == "not sent":
            end(journal, first, state)
        else:
            send(journal, first, None if state == "sending" else "task-1")
        with pytest.raises(JournalError, match=r"refuses to send|not this process's to send"):
            journal.sending(first.record.id).result(LONG)
        assert settled(journal, first.record.id).state.value == state.replace(" ", "_")

    def test_sending_without_being_the_worker_is_refused(self, journal: Journal) -> None:
        first, second = claim(journal), claim(journal)
        leave(journal, first)
        with pytest.raises(JournalError, match="not this process's to send"):
            journal.sending(second.record.id).result(LONG)

    def test_a_create_held_back_can_be_sent_again(self, journal: Journal) -> None:
        first = claim(journal)
        record = send(journal, first, None)
        assert note(journal, record.id, Event.HELD_BACK, error="429").state is TaskState.PREPARED
        assert send(journal, first).error is None

    def test_the_last_that_leaves_before_sending_leaves_it_not_sent(self, journal: Journal) -> None:
        first, second = claim(journal), claim(journal)
        leave(journal, first)
        assert settled(journal, first.record.id).state is TaskState.PREPARED
        leave(journal, second, second)
        record = settled(journal, first.record.id)
        assert (record.state, record.error) == (TaskState.NOT_SENT, "It was given up before it was sent.")

    def test_a_sender_that_leaves_in_the_middle_leaves_it_unknown(self, journal: Journal) -> None:
        first = claim(journal)
        send(journal, first, None)
        leave(journal, first)
        assert settled(journal, first.record.id).state is TaskState.UNKNOWN


def test_a_record_whose_sender_has_left_is_not_sent_while_an_equal_one_is_of_unknown_outcome(
    journal: Journal,
) -> None:
    """The unknown one may have been paid for; only the caller can say that it is sent all the same."""
    sender = claim(journal, job_id="job-1")
    joined = claim(journal, job_id="job-2")
    assert (sender.action, joined.action, joined.record.id) == ("send", "join", sender.record.id)
    leave(journal, sender)
    lost = claim(journal, job_id="job-3", again=True)
    send(journal, lost, None)
    leave(journal, lost)
    asked = claim(journal, job_id="job-4", if_unknown="stop")
    assert (asked.action, asked.record.id) == ("unknown", lost.record.id)
    assert journal.count() == 2


class TestWithdrawn:
    """D1: a claim can be withdrawn, and leaves no lease that nobody drives."""

    def test_d1_before_it_is_decided(self, journal: Journal, holder: LockHolder) -> None:
        """D1: a caller that left before the commit leaves nothing behind."""
        holder.hold()
        claiming = journal.claim(work(), job_id="job-1")
        assert claiming.cancel()
        holder.release()
        # The next change is written, and the claim was not.
        assert claim(journal, 1, "job-2").record.id == 1
        assert (journal.count(), journal.leased()) == (1, frozenset({1}))

    def test_d1_after_it_is_decided(self, journal: Journal) -> None:
        """D1: whoever comes too late to withdraw drops the lease."""
        claiming = journal.claim(work(), job_id="job-1")
        decided = claiming.result(LONG)
        assert not claiming.cancel()
        leave(journal, decided)
        assert settled(journal, 1).state is TaskState.NOT_SENT
        assert journal.leased() == frozenset()

    def test_d1_one_of_several(self, journal: Journal, holder: LockHolder) -> None:
        """D1: the others that wait are not disturbed."""
        holder.hold()
        claims = [journal.claim(work(), job_id=f"job-{number}") for number in range(3)]
        claims[0].cancel()
        holder.release()
        assert [each.result(LONG).action for each in claims[1:]] == ["send", "join"]
        assert claims[1].result().record.job_id == "job-1"


class TestPatience:
    def test_ends_while_another_program_holds_the_journal(self, journal: Journal, holder: LockHolder) -> None:
        holder.hold()
        patient = journal.claim(work(), job_id="job-1", patience=LONG)
        with pytest.raises(BusyJournalError, match=r"Another program holds the journal.*nothing was charged"):
            journal.claim(work(), job_id="job-2", patience=0.05).result(LONG)
        assert not patient.done()
        holder.release()
        assert patient.result(LONG).action == "send"
        assert journal.count() == 1

    def test_of_sending_means_do_not_send(self, journal: Journal, holder: LockHolder) -> None:
        """D2: where it can't be written that the create leaves, it does not leave."""
        first = claim(journal)
        holder.hold()
        with pytest.raises(BusyJournalError, match="nothing was charged"):
            journal.sending(first.record.id, patience=0.05).result(LONG)
        holder.release()
        assert settled(journal, first.record.id).state is TaskState.PREPARED
        assert send(journal, first).state is TaskState.SUBMITTED

    def test_of_a_lease(self, journal: Journal, holder: LockHolder) -> None:
        record = submit(journal)
        holder.hold()
        with pytest.raises(BusyJournalError):
            journal.hold(record.id, patience=0.0).result(LONG)


def test_no_task_is_sent_whose_result_has_no_place(journal: Journal, results: Path) -> None:
    results.symlink_to("/nonexistent/dead")
    with pytest.raises(JournalError, match="nothing was charged"):
        claim(journal)
    assert journal.count() == 0


def test_of_many_threads_asking_at_once_one_sends(journal: Journal) -> None:
    rounds, threads = 40, 8
    barrier = threading.Barrier(threads)
    actions: list[list[str]] = [[] for _ in range(threads)]

    def ask(number: int) -> None:
        for turn in range(rounds):
            barrier.wait(LONG)
            actions[number].append(claim(journal, turn, f"job-{number}-{turn}").action)

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG)
    assert [sorted(turn) for turn in zip(*actions, strict=True)] == [["join"] * 7 + ["send"]] * rounds


class TestLeases:
    def test_two_journals_of_one_process_are_two_owners(self, journal: Journal) -> None:
        with Journal.open(journal.path, journal.results.root) as other:
            first, joined = claim(other), claim(journal)
            assert joined.action == "join"
            assert journal.leased([1], besides=joined.lease) == {1}
            other.close()
            assert journal.leased([1], besides=joined.lease) == frozenset()
            assert claim(journal).action == "send"
            assert first.record.id == 1

    def test_who_is_leased(self, journal: Journal) -> None:
        claims = [claim(journal, number) for number in range(3)]
        journal.leave(claims[1].lease)
        assert journal.leased() == {1, 3}
        assert journal.leased([2, 3]) == {3}
        assert journal.leased([1], besides=claims[0].lease) == frozenset()
        assert journal.leased([1], besides=claims[2].lease) == {1}

    def test_is_asked_under_a_held_lock(self, journal: Journal, holder: LockHolder) -> None:
        """D8: what keeps a task from a cancel is read without waiting, and a lease that was left does not."""
        first = claim(journal)
        send(journal, first)
        second = claim(journal)
        holder.hold()
        journal.leave(second.lease)
        assert journal.leased([1]) == {1}
        assert journal.leased([1], besides=first.lease) == frozenset()

    def test_the_first_lease_of_an_open_record_and_its_last_are_changes(self, journal: Journal) -> None:
        first = claim(journal)
        send(journal, first)
        told: list[int] = []
        journal.subscribe(told.append)
        seen = journal.version()
        second = claim(journal)
        leave(journal, first)
        assert (journal.version(), told) == (seen, [])  # it is looked after as before
        leave(journal, second)
        assert [record.id for record in journal.records(since=seen)] == [1] == told
        seen = journal.version()
        third = journal.hold(1).result(LONG)
        assert [record.id for record in journal.records(since=seen)] == [1]
        keep(journal, first.record)
        seen = journal.version()
        journal.leave(third)
        journal.leave(journal.hold(1).result(LONG))
        journal.flushed().result(LONG)
        assert journal.version() == seen  # there is nothing left to do or to decide
