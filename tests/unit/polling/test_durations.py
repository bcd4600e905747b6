"""What past runs say about the next one."""

from __future__ import annotations

import math

import pytest

from xalora_client.polling.durations import (
    LONGEST_ESTIMATED_SHARE,
    PastRun,
    estimated_share,
    next_run,
    usual_span,
)


def exactly(*seconds: float) -> list[PastRun]:
    return [PastRun(each, each) for each in seconds]


def fit(runs: list[PastRun]) -> tuple[float, float]:
    """The mean and the spread of the log of the next run's seconds."""
    expected = next_run(runs)
    return expected.mu, expected.sigma


@pytest.mark.parametrize(
    ("seconds", "span"),
    [
        ([], None),
        ([7.0], None),
        ([10.0, 20.0], (12.0, 18.0)),
        ([45.0, 47.0, 50.0, 44.0, 46.0, 900.0], (45.0, 50.0)),
    ],
)
def test_the_usual_span(seconds: list[float], span: tuple[float, float] | None) -> None:
    assert usual_span(exactly(*seconds)) == (span and pytest.approx(span))


def test_a_bar_by_the_usual_time_never_gets_full() -> None:
    assert estimated_share(-1.0, (8.0, 10.0)) == 0.0
    assert estimated_share(5.0, (8.0, 10.0)) == 0.5
    assert estimated_share(1e6, (8.0, 10.0)) == LONGEST_ESTIMATED_SHARE < 1
    assert estimated_share(1.0, (0.0, 0.0)) == LONGEST_ESTIMATED_SHARE


def test_an_end_is_told_as_between_two_looks() -> None:
    assert PastRun(19.2, 20.0).likely == 19.6
    assert PastRun(0.0, 20.0).likely == 19.0  # the first look


def test_runs_known_exactly_give_their_mean_and_about_their_spread() -> None:
    mu, spread = fit(exactly(8.0, 12.0, 9.0, 11.0, 10.0, 10.5, 9.5))
    assert math.exp(mu) == pytest.approx(9.93, abs=0.05)
    assert 0.1 < spread < 0.2


def test_a_single_run_is_taken_to_vary() -> None:
    mu, spread = fit(exactly(60.0))
    assert math.exp(mu) == pytest.approx(60.0, rel=0.01)
    assert 0.1 < spread < 0.3


def test_the_more_runs_agree_the_closer_the_next_one_is_expected() -> None:
    agreeing = exactly(60.0, 60.5, 59.5, 60.2, 59.8, 60.1)
    one, two, three, six = (fit(agreeing[:count])[1] for count in (1, 2, 3, 6))
    assert one > two > three > six
    assert six < one / 5


def test_looks_of_equal_runs_close_in_on_their_length() -> None:
    # All of them took 10 s, though each alone leaves a second or more open.
    looks = [PastRun(9.0, 10.1), PastRun(9.9, 11.5), PastRun(8.5, 10.05), PastRun(9.95, 11.0)]
    mu, _ = fit(looks)
    assert math.exp(mu) == pytest.approx(10.0, abs=0.15)


def test_only_the_latest_count() -> None:
    mu, _ = fit(exactly(*[5.0] * 10, *[500.0] * 10))
    assert math.exp(mu) == pytest.approx(5.0, rel=0.01)


def test_a_first_look_that_finds_the_end_lets_the_next_one_come_sooner() -> None:
    usual, _ = fit(exactly(*[10.0] * 5))
    after, _ = fit([PastRun(0.0, 9.8), *exactly(*[10.0] * 5)])
    assert after < usual


def test_one_odd_run_does_not_move_what_the_others_agree_on() -> None:
    mu, _ = fit(exactly(60.0, 61.0, 300.0, 59.0, 60.0))
    assert math.exp(mu) == pytest.approx(60.0, rel=0.1)


@pytest.mark.parametrize("run", [PastRun(0.0, 0.0), PastRun(0.0, 1e-9), PastRun(1e5, 1e5), PastRun(0.0, 1e5)])
def test_odd_runs_give_finite_figures(run: PastRun) -> None:
    for runs in ([run], [run, *exactly(3.0, 4.0)]):
        mu, spread = fit(runs)
        assert math.isfinite(mu)
        assert 0 < spread < math.inf
