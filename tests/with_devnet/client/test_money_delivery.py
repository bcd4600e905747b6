"""What was not delivered is taken up or joined; `reuse` decides about the rest; `again` always pays."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from journals import leases, leases_in_use, until
from programs import RUN, line, program
from scripted import KEY, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import AsyncXalora, FluxLoraTask, TaskTimeoutError, Xalora, events
from xalora_client.journal import TaskState

UNSEEDED = FluxLoraTask(prompt="a fox", lora_name="x", workflow_id="3")


def finishing() -> ScriptedNetwork:
    return ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))


# --- after the end of a program -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["{}", "dict(reuse=True)"])
async def test_a_program_killed_and_run_again_takes_its_task_up(tmp_path: Path, options: str) -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        async with program(RUN, sequencer.url, "cat", options, state_dir=tmp_path) as killed:
            await until(lambda: network.polled.is_set() and network.created)
            killed.kill()
            await killed.wait()
        network.finish()
        async with program(RUN, sequencer.url, "cat", options, state_dir=tmp_path) as again:
            assert await line(again) == "t-1"
            assert await again.wait() == 0
        assert network.created == 1
        # Delivered now: what is asked for once more is new, unless it may be reused.
        async with program(RUN, sequencer.url, "cat", options, state_dir=tmp_path) as once_more:
            if options == "{}":
                await until(lambda: network.created == 2)
            else:
                assert await line(once_more) == "t-1"


async def test_generation_without_a_seed_that_a_crash_left_behind_is_taken_up_once(tmp_path: Path) -> None:
    code = RUN.replace(
        'UpscalerTask(image_url=f"https://example.org/{name}.png")',
        'FluxLoraTask(prompt="a fox", lora_name="x", workflow_id="3")',
    ).replace("UpscalerTask", "FluxLoraTask")
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        async with program(code, sequencer.url, "", "{}", state_dir=tmp_path) as killed:
            await until(network.polled.is_set)
            killed.kill()
            await killed.wait()
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            calls = [asyncio.create_task(client.run(UNSEEDED, fallback="never")) for _ in range(2)]
            await until(lambda: network.created == 2)
            network.finish()
            assert sorted([(await call).task_id or "" for call in calls]) == ["t-1", "t-2"]


# --- at the same time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_in_flight", [1, 4])
async def test_equal_tasks_of_a_batch_are_one(max_in_flight: int) -> None:
    network = finishing()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        outcomes = await client.run_many([task()] * 4, max_in_flight=max_in_flight, fallback="never")
        assert {outcome.unwrap().task_id for outcome in outcomes} == {"t-1"}
        assert network.created == 1
        # They were delivered with the batch, so the next batch is new work.
        await client.run_many([task()] * 2, max_in_flight=max_in_flight, fallback="never")
    assert network.created == 2


@pytest.mark.parametrize("max_in_flight", [1, 4])
async def test_equal_tasks_without_a_seed_are_one_each(max_in_flight: int) -> None:
    network = finishing()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        outcomes = await client.run_many([UNSEEDED] * 3, max_in_flight=max_in_flight, fallback="never")
        assert len({outcome.unwrap().task_id for outcome in outcomes}) == 3
    assert network.created == 3


async def test_two_clients_on_one_journal_share_a_task() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        async with AsyncXalora(KEY, sequencer.url, journal=client.journal) as other:
            calls = [asyncio.create_task(each.run(task(), fallback="never")) for each in (client, other)]
            await until(lambda: network.created and leases(client.journal, 1) == 2)
            network.finish()
            assert [(await call).task_id for call in calls] == ["t-1", "t-1"]
        # The journal is the first one's, and goes on.
        assert (await client.run(task(), reuse=True, fallback="never")).reused
    assert network.created == 1


async def test_another_consumer_and_another_network_pay_for_themselves() -> None:
    network, elsewhere = finishing(), finishing()
    async with (
        ScriptedSequencer(network) as sequencer,
        ScriptedSequencer(elsewhere) as other,
        AsyncXalora(KEY, sequencer.url) as alice,
        AsyncXalora("bob#0ther", sequencer.url) as bob,
        AsyncXalora("alice#renewed", sequencer.url) as renewed,
        AsyncXalora(KEY, other.url) as abroad,
    ):
        for client in (alice, bob, renewed, abroad):
            await client.run(task(), reuse=True, fallback="never")
    # A key is renewed, the consumer stays who he is.
    assert (network.created, elsewhere.created) == (2, 1)


# --- reuse and again ----------------------------------------------------------------------------------------


async def test_reuse_decides_about_delivered_results_alone() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskTimeoutError):
            await client.run(task(), reuse=False, timeout=1.5, fallback="never")
        network.finish()
        assert (await client.run(task(), reuse=False, fallback="never")).task_id == "t-1"
        assert (await client.run(task(), reuse=True, fallback="never")).task_id == "t-1"
        again = asyncio.create_task(client.run(task(), reuse=False, fallback="never"))
        await until(lambda: network.created == 2)
        network.finish()
        assert (await again).task_id == "t-2"
    assert network.created == 2


async def test_again_pays_for_a_new_task_whatever_there_is() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: network.created == 1)
        second = asyncio.create_task(client.run(task(), again=True, reuse=True, fallback="never"))
        await until(lambda: network.created == 2)
        network.finish()
        assert {(await first).task_id, (await second).task_id} == {"t-1", "t-2"}
        assert await client.execute_workflow(task(), again=True) == "t-3"
        assert (await client.submit(task(), again=True)).task_id == "t-4"
        await client.run_many([task()] * 2, again=True, timeout=1.0, fallback="never")
    assert network.created == 6


async def test_what_a_call_did_not_live_to_return_is_not_delivered() -> None:
    network = finishing()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:

        def leave(event: events.TaskEvent) -> None:
            if isinstance(event, events.Done):
                running.cancel()

        running = asyncio.create_task(client.run(task(), fallback="never", on_event=leave))
        await asyncio.wait({running})
        assert running.cancelled()
        (record,) = client.journal.records()
        assert (bool(record.files), record.delivered) == (True, False)
        assert (await client.run(task(), fallback="never")).task_id == "t-1"
    assert network.created == 1


async def test_an_id_is_delivered_when_its_call_returns() -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, hold)
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        given_up = asyncio.create_task(client.execute_workflow(task()))
        await until(lambda: network.created)
        network.on_cancel = lambda task_id: status("running")
        given_up.cancel()
        hold.set()
        await asyncio.wait({given_up})
        # Nobody got it, and its cancel had no effect.
        assert await client.execute_workflow(task()) == "t-1"
        assert await client.execute_workflow(task()) == "t-2"


# --- the SDK's functions ------------------------------------------------------------------------------------


async def ended(client: AsyncXalora) -> None:
    await until(lambda: not client.journal.records(is_open=True))
    await until(lambda: not leases_in_use(client.journal))


async def test_the_sdks_functions_leave_nothing_open() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        waiting = asyncio.create_task(client.execute_workflow_and_wait_for_result(task("waited for")))
        await until(lambda: network.created == 1)
        network.finish()
        assert (await waiting).status == "finished"
        await ended(client)
        task_id = await client.execute_workflow(task("asked about"))
        network.finish()
        assert (await client.query_task_result(task_id)).status == "finished"
        await ended(client)
        task_id = await client.execute_workflow(task("canceled"))
        await client.cancel_task(task_id)
        assert (await client.query_task_result(task_id)).status == "canceled"
        await ended(client)
        network.on_poll = lambda task_id: status("failed", task_id)
        answer = await client.execute_workflow_and_wait_for_result(task("failed"))
        assert answer.status == "failed"
        await ended(client)
        # No file was fetched that nobody asked for.
        assert list(client.journal.results.root.glob("*.png")) == []


async def test_a_wait_for_a_result_that_was_too_short_leaves_the_task_to_the_next_call() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskTimeoutError):
            await client.execute_workflow_and_wait_for_result(task(), timeout=1.5)
        network.finish()
        assert (await client.execute_workflow_and_wait_for_result(task())).task_id == "t-1"
        await ended(client)
    assert network.created == 1


async def test_the_blocking_functions_deliver_what_they_return(tmp_path: Path) -> None:
    network = finishing()

    def calls(url: str) -> list[Any]:
        with Xalora(KEY, url, state_dir=tmp_path) as client:
            return [
                client.run(task("a"), fallback="never").task_id,
                client.execute_workflow_and_wait_for_result(task("b")).task_id,
                *[outcome.unwrap().task_id for outcome in client.run_many([task("c")] * 2)],
                client.execute_workflow(task("d")),
            ]

    async with ScriptedSequencer(network) as sequencer:
        assert await asyncio.to_thread(calls, sequencer.url) == ["t-1", "t-2", "t-3", "t-3", "t-4"]
        assert await asyncio.to_thread(calls, sequencer.url) == ["t-5", "t-6", "t-7", "t-7", "t-8"]
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            assert client.journal.count(states=[TaskState.FINISHED, TaskState.SUBMITTED]) == 8
            assert all(record.delivered for record in client.journal.records())


async def test_a_result_that_is_let_go_needs_no_garbage_collection_to_drop_its_lease(tmp_path: Path) -> None:
    network = finishing()
    gc.disable()
    try:
        async with (
            ScriptedSequencer(network) as sequencer,
            AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
        ):
            result = await client.run(task(), fallback="never")
            assert leases(client.journal) == 1
            del result
            await until(lambda: not leases(client.journal))
    finally:
        gc.enable()
