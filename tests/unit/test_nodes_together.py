"""Several pieces of work of one node, and how they end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def together(pack: ModuleType) -> Callable[..., Awaitable[None]]:
    module = import_module(".nodes.running.together", pack.__name__)
    function: Callable[..., Awaitable[None]] = module.together
    return function


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


async def test_one_that_ends_at_once_does_not_tear_the_others(
    together: Callable[..., Awaitable[None]],
) -> None:
    slow = Worker()
    at_once = asyncio.Event().wait()
    task = asyncio.ensure_future(together([at_once, slow.work()]))
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


async def test_the_first_failure_is_raised_once_all_have_ended(
    together: Callable[..., Awaitable[None]],
) -> None:
    slow = Worker()
    slow.may_end.set()

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await together([slow.work(), fail()])
    assert slow.ended == "in peace"


async def test_all_may_succeed(together: Callable[..., Awaitable[None]]) -> None:
    done = []

    async def succeed(number: int) -> None:
        done.append(number)

    await together(succeed(number) for number in range(3))
    await together([])
    assert done == [0, 1, 2]
