"""Decisions without I/O: answers, money, polling, fallback."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from xalora_client import errors
from xalora_client.engines.fallback_policy import falls_back
from xalora_client.network.pace import Pace
from xalora_client.network.status import is_terminal
from xalora_client.network.verdict import Verdict, create_is_settled, judge
from xalora_client.polling.durations import PastRun
from xalora_client.polling.schedule import MAX_POLL_DELAY, MIN_POLL_DELAY, PollSchedule, delay_before_deadline


def test_canceled_is_terminal_and_an_unknown_status_is_not() -> None:
    assert all(is_terminal(status) for status in ("finished", "failed", "canceled"))
    assert not any(is_terminal(status) for status in ("waiting", "running", "paused", ""))


@pytest.mark.parametrize(
    ("status", "retry_after", "settled"),
    [
        (400, None, True),
        (401, None, True),
        (404, None, True),
        (408, None, True),
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


def test_no_sleep_runs_past_the_deadline_and_a_last_look_fits_before_it() -> None:
    assert delay_before_deadline(5.0, now=100.0, deadline=None) == 5.0
    assert delay_before_deadline(5.0, now=100.0, deadline=110.0) == 5.0
    assert delay_before_deadline(5.0, now=100.0, deadline=103.0) == 2.5
    assert delay_before_deadline(5.0, now=100.0, deadline=100.2) == pytest.approx(0.2)
    assert delay_before_deadline(5.0, now=100.0, deadline=99.0) == 0.0


def test_a_fixed_interval_is_kept_and_has_a_floor() -> None:
    assert PollSchedule(interval=10).next_delay(123.0, 0.9) == 10
    for interval in (0.5, float("nan")):
        with pytest.raises(ValueError, match="at least 1 s"):
            PollSchedule(interval=interval)


def runs(*seconds: float) -> tuple[PastRun, ...]:
    """Runs whose ends were noticed at once."""
    return tuple(PastRun(each, each) for each in seconds)


def test_delays_stay_within_bounds_whatever_the_history() -> None:
    for past in ((), (0.01,), (5.0, 5.0, 5.0), (1e5,), (0.0, 0.0)):
        for elapsed in (-1.0, 0.0, 0.3, 7.0, 1e4, 1e6):
            for spread in (0.0, 0.5, 1.0):
                delay = PollSchedule(runs(*past)).next_delay(elapsed, spread)
                assert MIN_POLL_DELAY <= delay <= MAX_POLL_DELAY


def test_polls_are_rare_before_the_usual_time_and_dense_around_it() -> None:
    schedule = PollSchedule(runs(60.0, 58.0, 63.0, 61.0, 59.0))
    early, around = schedule.next_delay(20.0), schedule.next_delay(60.0)
    assert early > 4 * around


def simulate(past_runs: int, *, seed: int = 7, tasks: int = 1500) -> tuple[float, float]:
    """Mean delay (s) and requests a task, as in the project's simulation of polling schemes."""
    draw = random.Random(seed)
    delays, requests = [], []
    for _ in range(tasks):
        typical = math.exp(draw.uniform(math.log(2), math.log(300)))
        duration, *past = (typical * math.exp(draw.gauss(0, 0.15)) for _ in range(1 + past_runs))
        schedule, now, count = PollSchedule(runs(*past)), 0.0, 0
        while True:
            now += schedule.next_delay(now, draw.random())
            count += 1
            if now >= duration:
                break
            now += 0.1
        delays.append(now - duration + 0.1)
        requests.append(count)
    return statistics.mean(delays), statistics.mean(requests)


def test_history_makes_polling_both_quicker_and_cheaper() -> None:
    blind_delay, blind_requests = simulate(0)
    one_delay, one_requests = simulate(1)
    five_delay, five_requests = simulate(5)
    assert five_delay < one_delay < blind_delay
    assert five_requests < one_requests < blind_requests


def test_a_burst_passes_at_once_and_what_follows_keeps_the_pace() -> None:
    pace = Pace(10)
    delays = [pace.delay(100.0) for _ in range(14)]
    assert delays[:10] == pytest.approx([0.0] * 10, abs=1e-6)
    assert delays[10:] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_pace_makes_up_for_a_pause_but_saves_no_more_than_a_second() -> None:
    pace = Pace(10)
    for _ in range(14):
        pace.delay(100.0)
    assert pace.delay(100.2) == pytest.approx(0.3)
    later = [pace.delay(5000.0) for _ in range(11)]
    assert later[:10] == pytest.approx([0.0] * 10, abs=1e-6)
    assert later[10] == pytest.approx(0.1)


def test_a_wrong_key_or_a_closed_client_never_falls_back() -> None:
    for policy in ("never", "when_unavailable", "on_any_failure"):
        assert not falls_back(policy, errors.AuthenticationError("401"))
        assert not falls_back(policy, errors.ClientClosedError("closed", task_id="t-1"))


def test_fallback_follows_the_policy() -> None:
    unavailable = [
        errors.MissingKeyError("x"),
        errors.XaloraConnectionError("x"),
        errors.NoMinerError("x"),
        errors.ServiceError("x"),
        errors.AmbiguousCreateError("x"),
        errors.QueueLimitError("x"),
    ]
    failures = [errors.TaskFailedError("x"), errors.TaskCanceledError("x"), errors.TaskTimeoutError("x")]
    for error in unavailable:
        assert falls_back("when_unavailable", error)
        assert falls_back("on_any_failure", error)
        assert not falls_back("never", error)
    for error in failures:
        assert not falls_back("when_unavailable", error)
        assert falls_back("on_any_failure", error)
    assert not falls_back("on_any_failure", errors.InvalidTaskError("x"))
    assert not falls_back("on_any_failure", errors.EngineError("x"))
