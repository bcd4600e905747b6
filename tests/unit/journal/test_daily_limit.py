"""The limit of a day is checked in the claim's own transaction."""

from __future__ import annotations

from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path

import pytest
from journal_steps import LONG, claim, end, finish, leave, send, unknown, work

from xalora_client.errors import DailyLimitError
from xalora_client.journal import Claim, Event, Journal
from xalora_client.journal.spending import last_run, sent_in, sent_since, spending
from xalora_client.prices import DailyLimit, Sent

DAY = 24 * 3600.0


def test_above_it_nothing_new_is_claimed(journal: Journal) -> None:
    journal.daily_limit = DailyLimit(tasks=2)
    first = claim(journal, 0, "job-0")
    claim(journal, 1, "job-1")
    with pytest.raises(DailyLimitError):
        claim(journal, 2, "job-2")
    # No record is left behind, and what is there already is joined all the same.
    assert journal.count() == 2
    send(journal, first)
    assert claim(journal, 0, "job-3").action == "join"
    journal.daily_limit = DailyLimit(tasks=3)
    assert claim(journal, 2, "job-2").action == "send"


def test_of_many_at_once_no_more_than_that_are_claimed(journal: Journal, path: Path, results: Path) -> None:
    """By two processes' journals, in whatever order."""
    with Journal.open(path, results) as other:
        claims: list[Future[Claim]] = []
        for number in range(20):
            each = (journal, other)[number % 2]
            each.daily_limit = DailyLimit(tasks=7)
            claims.append(each.claim(work(number), job_id=f"job-{number}"))
        errors = [one.exception(LONG) for one in claims]
        assert sum(error is None for error in errors) == 7
        assert {type(error) for error in errors if error is not None} == {DailyLimitError}


def test_what_was_not_sent_does_not_count(journal: Journal) -> None:
    journal.daily_limit = DailyLimit(tasks=1)
    first = claim(journal, 0, "job-0")
    end(journal, first, "not sent")
    leave(journal, first)
    assert sent_since(journal.read, 0) == []
    assert claim(journal, 1, "job-1").action == "send"


def test_the_cost_is_counted_by_the_users_prices(journal: Journal) -> None:
    prices = {"upscaler": Decimal("0.04"), "3": Decimal("0.05")}
    journal.daily_limit = DailyLimit(cost=Decimal("0.09"), prices=prices)
    claim(journal, 0, "job-0")
    claim(journal, work(1, task_type="txt2img", workflow_id="3"), "job-1")
    with pytest.raises(DailyLimitError, match="XALORA_DAILY_COST"):
        claim(journal, 2, "job-2")
    assert sorted(sent_since(journal.read, 0), key=lambda sent: sent.task_type) == [
        Sent("txt2img", "3", 1),
        Sent("upscaler", None, 1),
    ]


def test_a_day_ends_at_midnight(path: Path, results: Path) -> None:
    clock = [1_700_000_000.0]
    with Journal.open(path, results, wall_clock=lambda: clock[0]) as journal:
        journal.daily_limit = DailyLimit(tasks=1)
        finish(journal, send(journal, claim(journal, 0, "job-0")))
        with pytest.raises(DailyLimitError):
            claim(journal, 1, "job-1")
        clock[0] += DAY
        assert claim(journal, 1, "job-1").action == "send"


def test_a_create_of_yesterday_that_is_sent_again_counts_today(path: Path, results: Path) -> None:
    clock = [1_700_000_000.0]
    with Journal.open(path, results, wall_clock=lambda: clock[0]) as journal:
        journal.daily_limit = DailyLimit(tasks=1)
        unknown(journal, 0, "job-0")
        # Of today, it counts already.
        claimed = claim(journal, 0, "job-1", if_unknown="resend")
        assert claimed.action == "send"
        send(journal, claimed, None)
        journal.note(claimed.record.id, Event.ANSWER_LOST, error="connection reset")
        leave(journal, claimed)
        clock[0] += DAY
        finish(journal, send(journal, claim(journal, 1, "job-2"), "task-2"))
        with pytest.raises(DailyLimitError):
            claim(journal, 0, "job-3", if_unknown="resend")
        # It stays as it was.
        assert claim(journal, 0, "job-3").action == "unknown"


def test_what_was_claimed_before_midnight_and_is_still_to_be_sent_counts_today(
    path: Path, results: Path
) -> None:
    clock = [1_700_000_000.0]
    with Journal.open(path, results, wall_clock=lambda: clock[0]) as journal:
        journal.daily_limit = DailyLimit(tasks=1)
        held_back = claim(journal, 0, "job-0")
        clock[0] += DAY
        with pytest.raises(DailyLimitError):
            claim(journal, 1, "job-1")
        # Sent today, it counts once.
        send(journal, held_back)
        assert sent_since(journal.read, clock[0] - 1) == [Sent("upscaler", None, 1)]
        clock[0] += DAY
        assert claim(journal, 1, "job-1").action == "send"


def test_tasks_of_a_network_that_costs_nothing_do_not_count(journal: Journal) -> None:
    """Whether they are in the journal or forgotten; their cost is that of nothing, too."""
    prices = {"upscaler": Decimal("0.04")}
    journal.daily_limit = DailyLimit(1, Decimal("0.07"), prices, unpriced=("head:8100",))
    first = claim(journal, work(0, sequencer_url="http://head:8100"), "job-0", run_id="prompt-1")
    record = finish(journal, send(journal, first))
    leave(journal, first)
    assert journal.forget([record.id]).result(LONG) == 1
    claim(journal, work(1, sequencer_url="http://head:8100"), "job-1", run_id="prompt-1")
    told, free = spending(journal.read, prices, ("head:8100",)), {"tasks": 2, "cost": None}
    assert told == {"today": free, "last_run": free}
    assert claim(journal, 2, "job-2").action == "send"
    with pytest.raises(DailyLimitError, match="XALORA_DAILY_TASKS"):
        claim(journal, 3, "job-3")
    told = spending(journal.read, prices, ("head:8100",))
    assert told["today"] == {"tasks": 3, "cost": "0.04"}


def test_what_is_forgotten_still_counts(journal: Journal) -> None:
    """Else the limit of a day ends with a press on Forget."""
    journal.daily_limit = DailyLimit(tasks=2)
    first = claim(journal, 0, "job-0", run_id="prompt-1")
    record = finish(journal, send(journal, first))
    unsent = claim(journal, 1, "job-1")
    end(journal, unsent, "not sent")
    leave(journal, first, unsent)
    assert journal.forget([record.id, unsent.record.id]).result(LONG) == 2
    assert sent_since(journal.read, 0) == sent_in(journal.read, "prompt-1") == [Sent("upscaler", None, 1)]
    claim(journal, 2, "job-2")
    with pytest.raises(DailyLimitError):
        claim(journal, 3, "job-3")


def test_what_was_forgotten_is_dropped_after_its_day(path: Path, results: Path) -> None:
    clock = [1_700_000_000.0]
    with Journal.open(path, results, wall_clock=lambda: clock[0]) as journal:
        for number in range(2):
            claimed = claim(journal, number, f"job-{number}")
            record = finish(journal, send(journal, claimed, f"task-{number}"))
            leave(journal, claimed)
            assert journal.forget([record.id]).result(LONG) == 1
            clock[0] += 3 * DAY
        assert journal.read("SELECT count(*) AS many FROM forgotten_sent", ())[0]["many"] == 1


def test_a_run_is_what_was_sent_together(journal: Journal) -> None:
    """A task that is joined or answered by a kept result was sent by an earlier run."""
    assert last_run(journal.read) is None
    first = send(journal, claim(journal, 0, "job-0", run_id="prompt-1"), "task-0")
    send(journal, claim(journal, 1, "job-1", run_id="prompt-1"), "task-1")
    assert claim(journal, 0, "job-2", run_id="prompt-2").action == "join"
    assert (last_run(journal.read), sent_in(journal.read, "prompt-2")) == ("prompt-1", [])
    send(journal, claim(journal, 2, "job-3", run_id="prompt-2"), "task-2")
    assert last_run(journal.read) == "prompt-2"
    assert sent_in(journal.read, "prompt-1") == [Sent("upscaler", None, 2)]
    assert sent_in(journal.read, "prompt-2") == [Sent("upscaler", None, 1)]
    found = journal.find(first.id)
    assert found is not None and found.run_id == "prompt-1"
