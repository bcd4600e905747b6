"""The meaning of an HTTP status and of a task status."""

from __future__ import annotations

import pytest

from xalora_client.network.status import is_terminal
from xalora_client.network.verdict import Verdict, create_is_settled, judge


def test_canceled_is_terminal_and_an_unknown_status_is_not() -> None:
    assert all(is_terminal(status) for status in ("finished", "failed", "canceled"))
    assert not any(is_terminal(status) for status in ("waiting", "running", "paused", ""))


@pytest.mark.parametrize(
    ("status", "retry_after", "settled"),
    [
        (400, None, True),
        (401, None, True),
        (404, None, True),
        (408, None, False),
        (425, 1.0, False),
        (409, None, True),
        (429, None, True),
        (307, None, True),
        (503, 2.0, True),
        (503, None, False),
        (500, None, False),
        (502, None, False),
        (504, None, False),
        (200, None, False),
    ],
)
def test_only_a_clear_refusal_settles_a_create(status: int, retry_after: float | None, settled: bool) -> None:
    verdict = judge(status, "", well_formed=status != 200)
    assert create_is_settled(verdict, status, retry_after) is settled


def test_a_conflict_on_a_later_attempt_may_be_about_the_task_of_an_earlier_one() -> None:
    verdict = judge(409, "", well_formed=False)
    assert create_is_settled(verdict, 409, None, attempt=1)
    assert not create_is_settled(verdict, 409, None, attempt=2)


def test_answers_are_sorted() -> None:
    assert judge(200, "", well_formed=True) is Verdict.OK
    assert judge(200, "<html>", well_formed=False) is Verdict.NOT_THE_PROTOCOL
    assert judge(403, "", well_formed=True) is Verdict.BAD_KEY
    assert judge(429, "no miner", well_formed=True) is Verdict.RATE_LIMITED
    assert judge(503, "No miner available", well_formed=True) is Verdict.NO_MINER
    assert judge(404, "unknown task", well_formed=True) is Verdict.NOT_FOUND
    assert judge(422, "bad width", well_formed=True) is Verdict.REFUSED
    assert judge(502, "", well_formed=False) is Verdict.SERVICE_FAILURE
    # "Not now" rather than "not so": worth asking again.
    assert judge(408, "", well_formed=True) is Verdict.SERVICE_FAILURE
    assert judge(425, "", well_formed=True) is Verdict.SERVICE_FAILURE
