"""Coroutines that run together, and how they end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from xalora_client.concurrency import (
    KEPT_THREADS,
    DaemonThreads,
    in_daemon_threads,
    run_all_or_cancel,
    run_decoding,
)


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


def threads_of(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def wait_until(holds: Callable[[], bool]) -> None:
    ceiling = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ceiling
        time.sleep(0.01)


def test_a_pool_starts_a_thread_for_each_call_that_waits_up_to_its_most() -> None:
    pool, may_end = DaemonThreads("burst", 20), threading.Event()
    calls = [pool.submit(may_end.wait) for _ in range(30)]
    assert threads_of("burst") == 20
    may_end.set()
    assert [call.result(60) for call in calls] == [True] * 30


def test_calls_one_after_another_share_a_thread() -> None:
    pool = DaemonThreads("alone", 20)
    assert len({pool.submit(threading.get_ident).result(60) for _ in range(50)}) == 1


def test_threads_without_work_end_but_for_a_few_and_come_again() -> None:
    pool = DaemonThreads("spare", 20, rest=0.01)
    for _ in range(3):
        together = threading.Barrier(20)
        calls = [pool.submit(together.wait, 60) for _ in range(20)]
        assert sorted(call.result(60) for call in calls) == list(range(20))
        wait_until(lambda: threads_of("spare") == KEPT_THREADS)


def test_a_pool_keeps_nothing_of_a_call_that_failed() -> None:
    class Big:
        pass

    def fail(big: Big) -> None:
        raise ZeroDivisionError

    pool, big = DaemonThreads("failed", 1), Big()
    gone = weakref.ref(big)
    gc.disable()
    try:
        call = pool.submit(fail, big)
        del big
        with pytest.raises(ZeroDivisionError):
            call.result(60)
        del call
        wait_until(lambda: gone() is None)
    finally:
        gc.enable()
