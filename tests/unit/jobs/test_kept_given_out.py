"""Kept results given out while a caller leaves, and while another program holds the journal."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from time import monotonic

import pytest

from xalora_client import AsyncXalora, TaskTimeoutError, Text2VideoTask, UpscalerTask, WorkflowTask
from xalora_client.jobs import dispatcher
from xalora_client.journal import ClaimOptions, Event

TASK = UpscalerTask(image_url="https://example.org/cat.png")
DICED = Text2VideoTask(prompt="a cat")


async def keep(d: dispatcher.Dispatcher, task: WorkflowTask = TASK) -> None:
    """A kept result of a task in the client's journal."""
    from xalora_client.jobs.preparation import prepare, work_of

    prepared = await prepare(task, d._credentials, d._settings.sequencer_url)
    journal = d.journal
    work = work_of(prepared, d._settings.sequencer_url)
    claim = journal.claim(work, job_id=task.new_job_id()).result(30)
    journal.sending(claim.record.id).result(30)
    journal.accepted(claim.record.id, f"task-of-{task.kind_of_task}").result(30)
    journal.note(claim.record.id, Event.FINISHED, result="https://r")
    file = journal.results.stem(claim.record.id, claim.record.job_id).with_suffix(".png")
    file.write_bytes(b"pixels")
    journal.note(claim.record.id, Event.KEPT, files=journal.results.describe([file]))
    journal.leave(claim.lease)
    journal.flushed().result(30)


async def test_cancelled_amid_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No job is left behind that nobody drives."""
    monkeypatch.setenv("XALORA_STATE_DIR", str(tmp_path / "state"))
    async with AsyncXalora(api_key="alice#s3cret", workflow_url="http://127.0.0.1:9") as client:
        await client._on_hub(keep)
        whole, go, begun = dispatcher.are_whole, threading.Event(), threading.Event()

        def slow(record):  # type: ignore[no-untyped-def]
            begun.set()
            go.wait(30)
            return whole(record)

        monkeypatch.setattr(dispatcher, "are_whole", slow)
        first = asyncio.ensure_future(client.run(TASK))
        await asyncio.to_thread(begun.wait, 30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        result = await asyncio.wait_for(client.run(TASK), 20)
        assert result.files[0].read_bytes() == b"pixels"


async def test_without_a_seed_it_could_not_be_written_down_that_it_was_given_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While another program holds the journal, only a result with a seed, or a named one, is given out."""
    monkeypatch.setenv("XALORA_STATE_DIR", str(tmp_path / "state"))
    async with AsyncXalora(api_key="alice#s3cret", workflow_url="http://127.0.0.1:9") as client:

        async def answered(d: dispatcher.Dispatcher, task: WorkflowTask, among: frozenset[str]) -> str | None:
            options = ClaimOptions(reuse=True, among=among)
            try:
                async with d.caller(task, options, deadline=monotonic() + 1) as caller:
                    return caller.job.task_id
            except TaskTimeoutError:
                return None

        await client._on_hub(lambda d: keep(d, DICED))
        await client._on_hub(lambda d: keep(d, TASK))
        holder = sqlite3.connect(client.journal.path, isolation_level=None, timeout=30)
        holder.execute("BEGIN IMMEDIATE")
        try:
            assert await client._on_hub(lambda d: answered(d, TASK, frozenset())) == "task-of-upscaler"
            assert await client._on_hub(lambda d: answered(d, DICED, frozenset())) is None
            named = frozenset({"task-of-txt2vid"})
            assert await client._on_hub(lambda d: answered(d, DICED, named)) == "task-of-txt2vid"
        finally:
            holder.close()
