"""Coroutines that run together, and how they end."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from xalora_client.concurrency import in_daemon_threads, run_all_or_cancel, run_decoding


class Worker:
    """Waits until it is cancelled, then winds down as a node does that cancels its remote task."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.winding_down = asyncio.Event()
        self.ended = "not yet"

    async def work(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.winding_down.set()
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.ended = "torn"
            else:
                self.ended = "in peace"
            raise


async def test_one_that_ends_at_once_does_not_tear_the_others() -> None:
    slow = Worker()
    at_once = asyncio.Event().wait()
    task = asyncio.ensure_future(run_all_or_cancel([at_once, slow.work()]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await slow.winding_down.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.ended == "in peace"


async def test_the_first_failure_is_raised_once_all_have_ended() -> None:
    slow = Worker()
    slow.may_end.set()

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_all_or_cancel([slow.work(), fail()])
    assert slow.ended == "in peace"


async def test_all_may_succeed() -> None:
    done = []

    async def succeed(number: int) -> None:
        done.append(number)

    await run_all_or_cancel(succeed(number) for number in range(3))
    await run_all_or_cancel([])
    assert done == [0, 1, 2]


async def test_threads_that_decode_see_the_callers_context() -> None:
    limit: ContextVar[int] = ContextVar("limit", default=0)
    limit.set(7)
    seen: list[int] = []
    in_daemon_threads(lambda _: seen.append(limit.get()), range(4), 2)
    assert seen == [7] * 4
    assert await run_decoding(limit.get) == 7
