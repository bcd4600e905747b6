"""When failed polls end the wait for a task, and when they don't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xalora_client.errors import (
    AuthenticationError,
    NetworkError,
    RateLimitError,
    RequestRefusedError,
    ServiceError,
    XaloraConnectionError,
)
from xalora_client.network.sequencer import RETRY_AFTER_CAP_SECONDS
from xalora_client.polling.failed_polls import REFUSAL_SECONDS, FailedPolls, status_unavailable_error

UNREACHABLE = XaloraConnectionError("unreachable")
UNKNOWN_TASK = RequestRefusedError("unknown task", status_code=404)
FORBIDDEN = AuthenticationError("forbidden", status_code=403)


def pauses(trouble: FailedPolls, error: NetworkError) -> Iterator[float]:
    """The pauses until the wait ends, on a clock that runs by them."""
    now = 100.0
    while (pause := trouble.pause_after(error, now)) is not None:
        yield pause
        now += pause


@pytest.mark.parametrize(
    ("error", "outage_limit", "patience"),
    [
        (UNREACHABLE, 60.0, 60.0),
        (ServiceError("oops", status_code=500), 10.0, 10.0),
        (UNKNOWN_TASK, 60.0, REFUSAL_SECONDS),
        (FORBIDDEN, 60.0, REFUSAL_SECONDS),
        (RequestRefusedError("moved", status_code=302), 60.0, REFUSAL_SECONDS),
        (UNKNOWN_TASK, 5.0, 5.0),
    ],
)
def test_the_wait_ends_when_it_has_lasted_for_as_long_as_it_may(
    error: NetworkError, outage_limit: float, patience: float
) -> None:
    taken = list(pauses(FailedPolls(outage_limit), error))
    assert patience <= sum(taken) < patience + 0.5
    assert 3 < len(taken) < 60


def test_a_key_that_is_not_accepted_ends_it_at_once() -> None:
    assert FailedPolls(60.0).pause_after(AuthenticationError("bad key", status_code=401), 100.0) is None
    # A page of a proxy with the same status says nothing about the key.
    assert FailedPolls(60.0).pause_after(ServiceError("a page", status_code=401), 100.0) is not None


def test_refusals_count_anew_once_something_else_came_between() -> None:
    trouble = FailedPolls(600.0)
    assert trouble.pause_after(UNKNOWN_TASK, 100.0) is not None
    assert trouble.pause_after(UNREACHABLE, 125.0) is not None
    assert trouble.pause_after(UNKNOWN_TASK, 135.0) is not None
    assert trouble.pause_after(UNKNOWN_TASK, 135.0 + REFUSAL_SECONDS + 1) is None


def test_to_be_told_to_wait_for_an_hour_is_no_reason_to_wait_for_an_hour() -> None:
    slower = RateLimitError("slower", status_code=429)
    slower.retry_after = 3600.0
    assert FailedPolls(60.0).pause_after(slower, 100.0) == RETRY_AFTER_CAP_SECONDS
    slower.retry_after = 7.0
    assert FailedPolls(60.0).pause_after(slower, 100.0) == 7.0


def test_nor_does_it_stop_the_clock_of_an_outage() -> None:
    down = ServiceError("down", status_code=503)
    down.retry_after = 3600.0
    trouble = FailedPolls(60.0)
    assert trouble.pause_after(down, 100.0) == pytest.approx(60.0)
    assert trouble.pause_after(down, 160.1) is None


@pytest.mark.parametrize("error", [UNREACHABLE, UNKNOWN_TASK, FORBIDDEN])
def test_what_is_told_then_leads_back_to_the_task(error: NetworkError) -> None:
    told = status_unavailable_error(error, "t-1", "job-1", 60.0)
    assert type(told) is type(error)
    assert (told.task_id, told.job_id, told.status_code) == ("t-1", "job-1", error.status_code)
    for part in ("t-1", error.what, "paid for and runs on", "xalora resume t-1"):
        assert part in str(told)
