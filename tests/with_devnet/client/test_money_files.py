"""Kept files are handed out whole or fetched again, whichever way asks; a damaged one is never a result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from journals import until
from scripted import KEY, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import AsyncXalora, ResultError, RunResult
from xalora_client.journal import TaskState

Ask = Callable[[AsyncXalora], Coroutine[Any, Any, RunResult]]


async def by_task(client: AsyncXalora) -> RunResult:
    return await client.run(task(), reuse=True, fallback="never")


async def by_batch(client: AsyncXalora) -> RunResult:
    (outcome,) = await client.run_many([task()], reuse=True, fallback="never")
    return outcome.unwrap()


async def by_id(client: AsyncXalora) -> RunResult:
    return await client.task("t-1").result()


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("ask", [by_task, by_batch, by_id])
@pytest.mark.parametrize("damage", [remove, cut, flip, empty])
async def test_a_kept_file_that_was_damaged_is_fetched_again(
    ask: Ask, damage: Callable[[Path], None]
) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = await client.run(task(), fallback="never")
        content = first.files[0].read_bytes()
        await until(lambda: client.journal.records()[0].delivered)
        damage(first.files[0])
        again = await ask(client)
        assert again.files[0].read_bytes() == content
        assert again.task_id == "t-1"
        # And it is kept anew.
        polls = sequencer.count("task_result_query")
        assert (await ask(client)).files[0].read_bytes() == content
        assert sequencer.count("task_result_query") == polls
    assert network.created == 1


@pytest.mark.parametrize("ask", [by_task, by_id])
async def test_a_damaged_file_that_the_network_has_no_more_is_not_handed_out(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xalora_client.jobs.fetching.NOT_FOUND_PAUSES", (0.1,))
    network = ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = await client.run(task(), fallback="never")
        await until(lambda: client.journal.records()[0].delivered)
        flip(first.files[0])
        network.on_poll = lambda task_id: status("finished", task_id, result=f"{sequencer.url}/gone.png")
        with pytest.raises(ResultError):
            await ask(client)
        assert not first.files[0].exists()
        # Paid for anew only by a call that asks for the task, not for that result.
        network.on_poll = lambda task_id: None
        assert network.created == 1
        assert (await client.run(task(), fallback="never")).images.shape == (1, 4, 4, 3)


async def test_a_folder_in_the_place_of_a_kept_file_is_moved_aside_and_the_file_fetched_again() -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        (file,) = (await client.run(task(), fallback="never")).files
        await until(lambda: client.journal.records()[0].delivered)
        file.unlink()
        file.mkdir()
        (file / "mine").write_text("kept")
        assert (await client.run(task(), reuse=True, fallback="never")).files == (file,)
        (aside,) = file.parent.glob("*.aside-*")
        assert (aside / "mine").read_text() == "kept"
    assert network.created == 1


async def test_a_result_in_use_is_not_replaced_under_its_user() -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = await client.run(task(), fallback="never")
        again = await asyncio.gather(*(client.run(task(), reuse=True, fallback="never") for _ in range(4)))
        assert {result.files for result in again} == {first.files}
        (record,) = client.journal.records()
        assert (record.state, record.files) == (TaskState.FINISHED, first.files)
    assert network.created == 1
