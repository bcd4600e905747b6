"""The limit of a day is checked in the claim's own transaction."""

from __future__ import annotations

from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path

import pytest
from journal_steps import LONG, claim, end, finish, leave, send, work

from xalora_client.errors import DailyLimitError
from xalora_client.journal import Claim, Journal
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
    assert journal.sent_since(0) == []
    assert claim(journal, 1, "job-1").action == "send"


def test_the_cost_is_counted_by_the_users_prices(journal: Journal) -> None:
    prices = {"upscaler": Decimal("0.04"), "3": Decimal("0.05")}
    journal.daily_limit = DailyLimit(cost=Decimal("0.09"), prices=prices)
    claim(journal, 0, "job-0")
    claim(journal, work(1, task_type="txt2img", workflow_id="3"), "job-1")
    with pytest.raises(DailyLimitError, match="XALORA_DAILY_COST"):
        claim(journal, 2, "job-2")
    assert sorted(journal.sent_since(0), key=lambda sent: sent.task_type) == [
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
