"""The rate limit that all polls share."""

from __future__ import annotations

import pytest

from xalora_client.network.pace import Pace


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
