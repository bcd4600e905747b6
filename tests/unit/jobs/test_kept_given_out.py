"""A caller that leaves while a kept result is checked leaves no job behind that nobody drives."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from xalora_client import AsyncXalora, UpscalerTask
from xalora_client.jobs import dispatcher
from xalora_client.journal import Event

TASK = UpscalerTask(image_url="https://example.org/cat.png")


async def keep(d: dispatcher.Dispatcher) -> None:
    """A kept result of TASK in the client's journal."""
    from xalora_client.jobs.preparation import prepare

    prepared = await prepare(TASK, d._credentials, d._settings.sequencer_url)
    journal = d.journal
    claim = journal.claim(dispatcher.work_of(prepared, d._settings.sequencer_url), job_id="job-1").result(30)
    journal.sending(claim.record.id).result(30)
    journal.accepted(claim.record.id, "task-1").result(30)
    journal.note(claim.record.id, Event.FINISHED, result="https://r")
    file = journal.results.stem(claim.record.id, claim.record.job_id).with_suffix(".png")
    file.write_bytes(b"pixels")
    journal.note(claim.record.id, Event.KEPT, files=journal.results.describe([file]))
    journal.leave(claim.lease)
    assert journal.flush(30)


async def test_cancelled_amid_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XALORA_STATE_DIR", str(tmp_path / "state"))
    async with AsyncXalora(api_key="alice#s3cret", workflow_url="http://127.0.0.1:9") as client:
        await client._on_hub(keep)
        whole, go, begun = dispatcher._are_whole, threading.Event(), threading.Event()

        def slow(record):  # type: ignore[no-untyped-def]
            begun.set()
            go.wait(30)
            return whole(record)

        monkeypatch.setattr(dispatcher, "_are_whole", slow)
        first = asyncio.ensure_future(client.run(TASK))
        await asyncio.to_thread(begun.wait, 30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        result = await asyncio.wait_for(client.run(TASK), 20)
        assert result.files[0].read_bytes() == b"pixels"
