"""When one task is asked about: the schedule, the callers' deadlines, pokes, and what its kind tells."""

from __future__ import annotations

import asyncio
from time import monotonic

from xalora_client.polling.durations import PastRun
from xalora_client.polling.pacing import Pacing
from xalora_client.polling.schedule import PollSchedule
from xalora_client.polling.task_kind import TaskKind

LONG = 1000.0
"""An interval that no test waits for."""


def pacing(kind: TaskKind | None = None, interval: float | None = LONG) -> Pacing:
    return Pacing(PollSchedule(interval=interval), kind or TaskKind())


async def test_a_deadline_brings_the_last_question_forward() -> None:
    task = pacing()
    deadline = monotonic() + 0.2
    with task.deadline(deadline):
        await task.until_next()
    assert monotonic() <= deadline + 0.1


async def test_a_deadline_that_has_passed_or_gone_does_not_count() -> None:
    task = pacing()
    with task.deadline(monotonic() - 1), task.deadline(None):
        waiting = asyncio.ensure_future(task.until_next())
        await asyncio.sleep(0)
        assert not waiting.done()
    task.poke()
    await waiting


async def test_a_poke_ends_the_pause_and_one_amid_a_question_skips_the_next() -> None:
    task = pacing()
    waiting = asyncio.ensure_future(task.until_next())
    await asyncio.sleep(0)
    task.poke()
    await waiting
    task.asks()
    task.poke()
    await task.until_next()


async def test_one_that_ends_has_the_oldest_of_its_kind_asked_at_once() -> None:
    kind = TaskKind()
    oldest, other = pacing(kind, None), pacing(kind, None)
    for task in (oldest, other):
        # Far from the end by the schedule alone.
        task.submitted(LONG)
    waiting = [asyncio.ensure_future(task.until_next()) for task in (oldest, other)]
    await asyncio.sleep(0)
    pacing(kind).ended(is_measure=False)
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert done == {waiting[0]}
    for left in pending:
        left.cancel()


async def test_a_fixed_interval_and_a_network_that_is_away_keep_their_pace() -> None:
    assert not pacing().ask_now(())
    task = pacing(interval=None)
    waiting = asyncio.ensure_future(task.back_off(LONG))
    await asyncio.sleep(0)
    assert not task.ask_now(())
    waiting.cancel()


async def test_a_run_that_was_watched_teaches_its_kind() -> None:
    kind = TaskKind([PastRun(5.0, 6.0)])
    task = pacing(kind)
    task.submitted(4.0)
    task.is_under_way()
    run = task.ended(is_measure=True)
    assert run is not None
    assert 4.0 <= run.at_least <= run.at_most < 5.0
    assert kind.past_runs[0] == run
    assert pacing(kind).ended(is_measure=False) is None
    assert len(kind.past_runs) == 2
