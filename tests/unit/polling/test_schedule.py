"""The polling schedule: its delays, and the lateness and requests that come of them."""

from __future__ import annotations

import math
import random
import statistics
from statistics import NormalDist

import pytest

from xalora_client.polling.durations import LogNormal, PastRun, next_run
from xalora_client.polling.schedule import MAX_POLL_DELAY, MIN_POLL_DELAY, PollSchedule, delay_before_deadline


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


def test_without_history_the_delay_grows_with_the_time_elapsed() -> None:
    schedule = PollSchedule()
    assert [schedule.next_delay(elapsed) for elapsed in (0.0, 2.0, 20.0, 60.0, 1e4)] == [
        0.5,
        0.5,
        3.0,
        9.0,
        10.0,
    ]
    assert schedule.next_delay(20.0, 0.0) == pytest.approx(2.7)
    assert schedule.next_delay(20.0, 1.0) == pytest.approx(3.3)


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


def test_a_poll_comes_when_its_expected_lateness_is_worth_a_request() -> None:
    past = runs(20.0, 24.0, 22.0, 30.0)
    schedule = PollSchedule(past)
    usual = next_run(past)
    normals = [(0.85, usual), (0.1, LogNormal(usual.mu, max(0.3, usual.sigma)))]

    def density(x: float) -> float:
        bells = sum(share * NormalDist(part.mu, part.sigma).pdf(math.log(x)) / x for share, part in normals)
        return bells + (0.05 / (x * math.log(3600)) if 1 <= x <= 3600 else 0.0)

    for elapsed in (15.0, 20.0, 25.0, 40.0, 120.0):
        delay = schedule.next_delay(elapsed)
        assert MIN_POLL_DELAY < delay < MAX_POLL_DELAY
        step = delay / 1000
        ends = [elapsed + (index + 0.5) * step for index in range(1000)]
        ever = sum(
            share * (1 - NormalDist(part.mu, part.sigma).cdf(math.log(elapsed))) for share, part in normals
        )
        ever += 0.05 * (1 - math.log(elapsed) / math.log(3600))
        lateness = sum((elapsed + delay - end) * density(end) * step for end in ends) / ever
        assert lateness == pytest.approx(schedule.poll_price, rel=0.05)


def test_a_task_that_takes_longer_than_anything_expected_is_asked_about_rarely() -> None:
    assert PollSchedule(runs(900.0, 1000.0, 950.0)).next_delay(4 * 3600.0) == MAX_POLL_DELAY


def test_history_makes_polling_both_quicker_and_cheaper() -> None:
    blind_delay, blind_requests = simulate(0)
    one_delay, one_requests = simulate(1)
    five_delay, five_requests = simulate(5)
    assert five_delay < one_delay < blind_delay
    assert five_requests < one_requests < blind_requests
