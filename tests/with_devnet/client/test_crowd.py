"""Hundreds of tasks at once: what waits for its turn has not been sent, and holds nobody else up."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import KEY, Answer, ScriptedSequencer

from xalora_client import AsyncXalora, InputImageError, UpscalerTask
from xalora_client.journal import TaskState
from xalora_client.network.sequencer import POLLS_AT_ONCE
from xalora_client.network.sessions import MAX_CONNECTIONS

CROWD = MAX_CONNECTIONS + 40


class Crowded:
    """Holds the answers of one endpoint back until `released`; `full` is set when `enough` are waiting."""

    def __init__(self, endpoint: str, enough: int) -> None:
        self.released = asyncio.Event()
        self.full = asyncio.Event()
        self._endpoint = endpoint
        self._enough = enough
        self._asked: Counter[str] = Counter()

    def __call__(self, endpoint: str, body: dict[str, Any]) -> Any:
        self._asked[endpoint] += 1
        if self._asked[self._endpoint] == self._enough:
            self.full.set()
        task_id = body.get("task_id") or f"t-{body['job_id']}"
        held = self.released if endpoint == self._endpoint else None
        return Answer(200, {"task_id": task_id, "status": "waiting", "msg": "canceled"}, hold=held)


async def test_a_create_that_waits_for_its_turn_does_not_count_as_sent() -> None:
    answers = Crowded("task_create", MAX_CONNECTIONS)
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        tasks = [UpscalerTask(image_url=f"https://example.org/{number}.png") for number in range(CROWD)]
        creating = [asyncio.create_task(client.execute_workflow(task)) for task in tasks]
        await asyncio.wait_for(answers.full.wait(), 60)
        assert client.journal.count(states=[TaskState.SENDING]) == MAX_CONNECTIONS
        answers.released.set()
        assert len(set(await asyncio.gather(*creating))) == CROWD
    assert sequencer.count("task_create") == CROWD


async def test_a_cancel_does_not_wait_behind_the_polls() -> None:
    answers = Crowded("task_result_query", POLLS_AT_ONCE)
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        polling = [asyncio.create_task(client.query_task_result(f"t-{number}")) for number in range(CROWD)]
        await asyncio.wait_for(answers.full.wait(), 60)
        handle = asyncio.create_task(client.cancel_task("t-3"))
        while not sequencer.count("task_cancel"):
            assert not handle.done()
            await asyncio.sleep(0.01)
        assert sequencer.count("task_result_query") == POLLS_AT_ONCE
        answers.released.set()
        assert await handle == {"task_id": "t-3", "msg": "canceled"}
        assert {answer.status for answer in await asyncio.gather(*polling)} == {"waiting"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs files that can be held back")
async def test_the_first_of_a_batch_leaves_while_the_others_are_still_being_prepared(tmp_path: Path) -> None:
    slow = [tmp_path / f"slow-{number}.png" for number in range(40)]
    for path in slow:
        os.mkfifo(path)
    answers = Crowded("task_create", 1)
    answers.released.set()
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        quick = UpscalerTask(image=np.zeros((4, 4, 3), np.uint8))
        sending = [
            asyncio.create_task(client.execute_workflow(task))
            for task in (quick, *(UpscalerTask(image=path) for path in slow))
        ]
        try:
            await asyncio.wait_for(answers.full.wait(), 30)
        finally:
            # Opened for both, which waits for nobody: whoever reads it, now or later, finds its end.
            writers = [os.open(path, os.O_RDWR) for path in slow]
            for path in slow:
                path.unlink()
                path.write_bytes(b"no image")
            for writer in writers:
                os.write(writer, b"no image")
                os.close(writer)
            outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert isinstance(outcomes[0], str)
    assert all(isinstance(outcome, InputImageError) for outcome in outcomes[1:])
