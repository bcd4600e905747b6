"""The background loop on which jobs run, whatever becomes of their callers' loops."""

from __future__ import annotations

import asyncio
import threading

import pytest

from xalora_client.jobs.hub import call_on_hub, end_stranded_calls, hub, is_on_hub, is_stranded, on_hub


def test_calls_of_any_loop_run_on_one_thread() -> None:
    async def thread() -> int:
        assert is_on_hub()
        return threading.get_ident()

    first, second = asyncio.run(on_hub(thread())), asyncio.run(on_hub(thread()))
    assert first == second != threading.get_ident()
    assert not is_on_hub()


def test_an_error_reaches_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("what went wrong")

    with pytest.raises(ValueError, match="what went wrong"):
        asyncio.run(on_hub(fail()))


def test_a_cancelled_caller_waits_until_its_call_has_ended() -> None:
    told: list[str] = []
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            # As a cancel at the network takes its time.
            await asyncio.sleep(0)
            told.append("ended")

    async def caller() -> None:
        call = asyncio.ensure_future(on_hub(work()))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert told == ["ended"]

    asyncio.run(caller())


def test_every_task_of_a_loop_cancelled_at_once_tears_nothing_on_the_hub() -> None:
    """Ctrl-C before Python 3.11 cancels all tasks of the loop."""
    told: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.to_thread(may_end.wait, 10)
            told.append("the answer was noted")
            raise

    async def caller() -> None:
        call = asyncio.ensure_future(on_hub(work()))
        await asyncio.to_thread(begun.wait, 10)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        may_end.set()
        await asyncio.wait({call})

    asyncio.run(caller())
    assert told == ["the answer was noted"]


def test_a_call_whose_loop_was_closed_is_ended_and_knows_why() -> None:
    seen: list[bool] = []
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(is_stranded())

    loop = asyncio.new_event_loop()
    call = loop.create_task(on_hub(work()))
    loop.run_until_complete(asyncio.to_thread(begun.wait, 10))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    asyncio.run(on_hub(end_stranded_calls()))
    assert seen == [True]
    # Python tells of a task that was destroyed while it waited, which is this test's own doing.
    call._log_destroy_pending = False  # type: ignore[attr-defined]


def test_functions_are_called_on_the_hub() -> None:
    hub()
    called = threading.Event()
    call_on_hub(called.set)
    assert called.wait(10)
