"""While another program holds the journal's write lock: deadlines are kept, cancels leave, results come."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from journals import PATIENCE, held, leases, states, until
from programs import RUN, line, program
from scripted import KEY, Answer, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import AmbiguousCreateError, AsyncXalora, TaskTimeoutError, Xalora
from xalora_client.jobs.hub import on_hub
from xalora_client.journal import Journal, Record, TaskState, busy_error, writer

AT_ONCE = 8
EXACT = 0.1
"""Seconds by which a deadline may be missed; a busy machine adds to it, so one of some tries has to do."""

Call = Callable[[AsyncXalora], Coroutine[Any, Any, Any]]


def finishing() -> ScriptedNetwork:
    return ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))


# --- deadlines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.run(task("dog"), timeout=1.0, fallback="never"),
        lambda client: client.run(task("dog"), timeout=1.0, fallback="never", on_timeout="cancel"),
        lambda client: client.execute_workflow_and_wait_for_result(task("dog"), timeout=1.0),
    ],
    ids=["run", "run and cancel", "wait_for_result"],
)
@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_deadline_is_exact_under_a_held_lock(tmp_path: Path, call: Call, how: str) -> None:
    network = finishing()
    async with ScriptedSequencer(network) as sequencer:
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            await client.run(task(), fallback="never")
        late = []
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            with held(tmp_path / "journal.sqlite3", how):
                for _ in range(5):
                    began = monotonic()
                    with pytest.raises(TaskTimeoutError, match="nothing was charged"):
                        await call(client)
                    late.append(monotonic() - began - 1.0)
                    if 0 <= late[-1] < EXACT:
                        break
            assert 0 <= min(late) < EXACT, late
            assert network.created == 1
            # What was withdrawn is not sent when the lock is free.
            await client.run(task("fox"), fallback="never")
            assert not client.journal.records(is_open=True)
    assert network.created == 2


async def test_a_deadline_is_exact_where_the_lock_is_taken_after_the_send(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        began = monotonic()
        running = asyncio.create_task(client.run(task(), timeout=3.0, fallback="never"))
        await until(network.polled.is_set)
        with held(tmp_path / "journal.sqlite3"):
            with pytest.raises(TaskTimeoutError, match=r"runs on.*resume t-1"):
                await running
            assert 3.0 <= monotonic() - began < 4.0


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
async def test_the_callers_event_loop_never_waits_for_the_lock(tmp_path: Path, how: str) -> None:
    network = finishing()
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            began = monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, monotonic() - began)

    async with ScriptedSequencer(network) as sequencer:
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            await client.run(task(), fallback="never")
        with held(tmp_path / "journal.sqlite3", how):
            ticking = asyncio.create_task(tick())
            async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
                with pytest.raises(TaskTimeoutError):
                    await client.run(task("dog"), timeout=2.5, fallback="never")
            ticking.cancel()
    # The lock is held for longer.
    assert longest < 2.5


async def test_a_kept_result_is_given_out_under_a_held_lock(tmp_path: Path) -> None:
    network = finishing()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        first = await client.run(task(), fallback="never")
        await until(lambda: client.journal.records()[0].delivered)
        with held(tmp_path / "journal.sqlite3"):
            began = monotonic()
            again = await client.run(task(), reuse=True, timeout=5.0, fallback="never")
            assert again.files == first.files
            assert monotonic() - began < 3.0
            assert (await client.task("t-1").result(timeout=5.0)).files == first.files
    assert network.created == 1


async def test_closing_under_a_held_lock_takes_two_seconds_at_most(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        client = AsyncXalora(KEY, sequencer.url, state_dir=tmp_path)
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        with held(tmp_path / "journal.sqlite3"):
            began = monotonic()
            await client.close()
            assert monotonic() - began < 3.5
            await asyncio.wait({running})
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            network.finish()
            assert (await client.run(task(), fallback="never")).task_id == "t-1"
    assert network.created == 1


# --- cancels ------------------------------------------------------------------------------------------------


async def cancelled(client: AsyncXalora, running: asyncio.Task[Any]) -> None:
    running.cancel()
    await asyncio.wait({running}, timeout=PATIENCE)
    assert running.cancelled()


async def canceled_by_id(client: AsyncXalora, running: asyncio.Task[Any]) -> None:
    assert (await client.cancel_task("t-1"))["task_id"] == "t-1"
    await asyncio.wait({running}, timeout=PATIENCE)


async def closed(client: AsyncXalora, running: asyncio.Task[Any]) -> None:
    await client.close(cancel=True)
    await asyncio.wait({running}, timeout=PATIENCE)


@pytest.mark.parametrize("end", [cancelled, canceled_by_id, closed])
async def test_a_cancel_reaches_the_network_at_once_under_a_held_lock(
    tmp_path: Path, end: Callable[[AsyncXalora, asyncio.Task[Any]], Coroutine[Any, Any, None]]
) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["submitted"])
        with held(tmp_path / "journal.sqlite3"):
            began = monotonic()
            await end(client, running)
            assert monotonic() - began < 4.0
            assert sequencer.first("task_cancel") - began < 1.0
            assert network.canceled == {"t-1"}
    with Journal.open(tmp_path / "journal.sqlite3") as journal:
        (record,) = journal.records()
        assert record.state is TaskState.CANCELED


async def test_a_deadline_that_cancels_does_so_under_a_held_lock(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        began = monotonic()
        running = asyncio.create_task(client.run(task(), timeout=2.5, on_timeout="cancel", fallback="never"))
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["submitted"])
        with held(tmp_path / "journal.sqlite3"):
            with pytest.raises(TaskTimeoutError, match="canceled"):
                await running
            assert monotonic() - began < 2.5 + 3.0 + 0.5
            assert sequencer.first("task_cancel") - began < 2.5 + 1.0
    assert network.canceled == {"t-1"}


async def test_a_batch_is_canceled_as_a_whole_under_a_held_lock(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        tasks = [task(str(number)) for number in range(12)]
        batch = asyncio.create_task(client.run_many(tasks, max_in_flight=12, fallback="never"))
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["submitted"] * 12)
        with held(tmp_path / "journal.sqlite3"):
            began = monotonic()
            batch.cancel()
            await asyncio.wait({batch}, timeout=PATIENCE)
            assert monotonic() - began < 5.0
            assert len(network.canceled) == 12


async def test_ctrl_c_cancels_under_a_held_lock(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        program(RUN, sequencer.url, "cat", "{}", state_dir=tmp_path) as running,
    ):
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["submitted"])
        with held(tmp_path / "journal.sqlite3"):
            began = monotonic()
            running.send_signal(signal.SIGINT)
            await running.communicate()
            assert monotonic() - began < 8.0
            assert sequencer.first("task_cancel") - began < 2.0
        assert network.canceled == {"t-1"}
        # Noted where it could be, and written by whoever comes next.
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            network.finish()
            assert (await client.execute_workflow(task())) == "t-2"


def test_a_blocking_call_ends_under_a_held_lock_when_another_thread_closes_its_client(tmp_path: Path) -> None:
    async def main() -> None:
        network = ScriptedNetwork()
        async with ScriptedSequencer(network) as sequencer:
            client = Xalora(KEY, sequencer.url, state_dir=tmp_path)
            running = asyncio.create_task(asyncio.to_thread(client.run, task(), fallback="never"))
            await until(lambda: states(tmp_path / "journal.sqlite3") == ["submitted"])
            with held(tmp_path / "journal.sqlite3"):
                began = monotonic()
                await asyncio.to_thread(client.close, cancel=True)
                await asyncio.wait({running}, timeout=PATIENCE)
                assert monotonic() - began < 7.0
                assert sequencer.first("task_cancel") - began < 1.5
        assert network.canceled == {"t-1"}

    asyncio.run(main())


async def test_what_was_given_up_under_a_held_lock_is_not_reported_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By asyncio, as an error that nobody has asked for."""
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        clients = [AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) for _ in range(2)]
        runs = [asyncio.create_task(client.run(task(), fallback="never")) for client in clients]
        await until(lambda: leases(clients[0].journal, 1) == 2)
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["submitted"])
        with held(tmp_path / "journal.sqlite3"):
            for run in runs:
                run.cancel()
            with pytest.raises(TaskTimeoutError):
                await clients[0].run(task("dog"), timeout=1.0, fallback="never")
            await asyncio.wait(runs)
            for client in clients:
                await client.close()
        gc.collect()
        # Once more through the loop on which they were.
        await on_hub(asyncio.sleep(0))
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


# --- results ------------------------------------------------------------------------------------------------


async def test_results_come_while_the_lock_is_held_and_are_noted_later(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        tasks = [task(str(number)) for number in range(AT_ONCE)]
        batch = asyncio.create_task(client.run_many(tasks, timeout=PATIENCE, fallback="never"))
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["submitted"] * AT_ONCE)
        with held(tmp_path / "journal.sqlite3"):
            network.finish()
            outcomes = await asyncio.wait_for(batch, PATIENCE)
            assert [outcome.error for outcome in outcomes] == [None] * AT_ONCE
        await until(lambda: client.journal.count(is_open=True) == 0)
        assert client.journal.count(states=[TaskState.FINISHED]) == AT_ONCE
        again = await client.run_many(tasks, reuse=True, fallback="never")
        assert all(outcome.unwrap().reused for outcome in again)
    assert network.created == AT_ONCE


async def test_a_task_id_that_came_under_a_held_lock_survives_the_process(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, None if network.created else hold)
    async with (
        ScriptedSequencer(network) as sequencer,
        program(RUN, sequencer.url, "cat", "{}", state_dir=tmp_path) as running,
    ):
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["sending"])
        with held(tmp_path / "journal.sqlite3"):
            hold.set()
            owed = tmp_path / "journal.sqlite3.owners"
            await until(lambda: any("t-1" in file.read_text() for file in owed.glob("*.notes")))
            running.kill()
            await running.wait()
        network.finish()
        async with program(RUN, sequencer.url, "cat", "{}", state_dir=tmp_path) as again:
            assert await line(again) == "t-1"
    assert network.created == 1


async def test_two_that_leave_at_once_under_a_held_lock_have_the_task_canceled(tmp_path: Path) -> None:
    """Before the lock is free: their processes may end while it is held."""
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as here,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as there,
    ):
        runs = [asyncio.create_task(client.run(task(), fallback="never")) for client in (here, there)]
        await until(lambda: here.journal.records() and here.journal.records()[0].task_id)
        await until(lambda: leases(here.journal, 1) == 2)
        with held(tmp_path / "journal.sqlite3"):
            for run in runs:
                run.cancel()
            await asyncio.wait(runs)
            assert network.canceled == {"t-1"}
    assert network.created == 1


async def test_a_task_goes_on_whose_id_can_be_neither_written_nor_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is safe beside the journal: that it can't be read just now makes nothing unknown."""
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, hold)
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        asked = threading.Event()

        def busy(*_: object) -> None:
            asked.set()
            raise busy_error(tmp_path)

        monkeypatch.setattr(writer, "check_not_anothers", busy)
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["sending"])
        with held(tmp_path / "journal.sqlite3"):
            hold.set()
            await until(asked.is_set)
            network.finish()
            assert (await running).task_id == "t-1"
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["finished"])


async def test_who_joins_another_process_waits_for_a_journal_that_can_not_be_read_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, hold)
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as sends,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as joins,
    ):
        running = [asyncio.create_task(sends.run(task(), fallback="never"))]
        await until(lambda: states(tmp_path / "journal.sqlite3") == ["sending"])
        find, looks = joins.journal.find, 0

        def busy_at_first(record_id: int) -> Record | None:
            nonlocal looks
            looks += 1
            if looks <= 3:
                raise busy_error(tmp_path)
            return find(record_id)

        monkeypatch.setattr(joins.journal, "find", busy_at_first)
        running.append(asyncio.create_task(joins.run(task(), fallback="never")))
        await until(lambda: looks > 3)
        hold.set()
        network.finish()
        assert [result.task_id for result in await asyncio.gather(*running)] == ["t-1", "t-1"]
    assert network.created == 1


async def test_an_id_of_another_task_is_noticed_under_a_held_lock(tmp_path: Path) -> None:
    network = finishing()
    holds = [asyncio.Event(), asyncio.Event()]

    def same_id(body: dict[str, Any]) -> Answer:
        hold = holds[network.created]
        return replace(network.accept(body), body={"task_id": "t-1"}, hold=hold)

    network.on_create = same_id
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        first = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: network.created == 1)
        second = asyncio.create_task(client.run(task("dog"), fallback="never"))
        await until(lambda: network.created == 2)
        with held(tmp_path / "journal.sqlite3"):
            holds[0].set()
            assert (await first).task_id == "t-1"
            holds[1].set()
            with pytest.raises(AmbiguousCreateError, match="another task"):
                await second


@pytest.mark.parametrize("timeout", [0.3, 1.0])
async def test_a_handles_deadline_is_exact_under_a_held_lock(tmp_path: Path, timeout: float) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        handle = await client.submit(task())
        await until(lambda: client.journal.records()[0].task_id)
        with held(tmp_path / "journal.sqlite3"):
            late = []
            for _ in range(5):
                for call in (handle.result, handle.wait):
                    began = monotonic()
                    with pytest.raises(TaskTimeoutError, match="t-1"):
                        await call(timeout=timeout)
                    late.append(monotonic() - began - timeout)
                if all(0 <= each < EXACT for each in late[-2:]):
                    break
            assert all(0 <= each < EXACT for each in late[-2:]), late
