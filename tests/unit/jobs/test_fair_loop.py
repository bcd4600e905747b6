"""The loop of the jobs pauses for other threads while it is busy, and only then."""

from __future__ import annotations

import sys

import pytest

from xalora_client.jobs.fair_loop import BUSY_SECONDS, FairSelector
from xalora_client.jobs.hub import hub


class Machine:
    """A clock, and how often the loop has paused."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses = 0
        self.selector = FairSelector(lambda: self.now, self._pause)

    def _pause(self, seconds: float) -> None:
        self.pauses += 1
        self.now += seconds

    def turn(self, seconds: float) -> None:
        """The loop computes for so long, and has more to do."""
        self.now += seconds
        self.selector.select(0)


def test_a_loop_that_computes_for_long_pauses_once_in_a_while() -> None:
    machine = Machine()
    for _ in range(50):
        machine.turn(BUSY_SECONDS / 5)
    assert 8 <= machine.pauses <= 10
    machine.turn(10 * BUSY_SECONDS)
    assert machine.pauses <= 11


def test_a_loop_that_waits_anyway_does_not_pause() -> None:
    machine = Machine()
    for _ in range(50):
        machine.turn(BUSY_SECONDS / 5)
        machine.selector.select(0.0001)
    assert machine.pauses == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the loop of Windows has no selector")
def test_the_jobs_run_on_such_a_loop() -> None:
    assert isinstance(hub()._selector, FairSelector)  # type: ignore[attr-defined]
