"""(d) Disk full, journal locked, clock set back, result expired: named errors, nothing lost."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from disks import resize, small_file_system
from journals import held

from xalora_client import (
    AsyncXalora,
    JournalError,
    ResultDownloadError,
    ResultExpiredError,
    UpscalerTask,
)
from xalora_client.devnet import Devnet
from xalora_client.journal import Journal, TaskState
from xalora_client.journal.database import BusyJournalError
from xalora_client.journal.writer import Writer

Note = Callable[[str, str], None]


def task(index: int) -> UpscalerTask:
    return UpscalerTask(np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def executed(journal: Journal, statement: str) -> None:
    """Run a statement on the journal's own connection, e.g. to let its disk be full."""
    # Where it can't be written, notes stay in memory.
    with suppress(JournalError):
        journal.flushed().result(10)
    with journal._writer._in_use:
        assert journal._writer._connection is not None
        journal._writer._connection.execute(statement)


async def test_a_journal_that_is_locked_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    found_busy = threading.Event()
    wait_on = Writer._wait_on

    def seen(self: Writer, busy: BusyJournalError) -> None:
        wait_on(self, busy)
        found_busy.set()

    monkeypatch.setattr(Writer, "_wait_on", seen)
    path = tmp_path / "journal.sqlite3"
    with Journal.open(path, tmp_path / "results") as journal:
        async with (
            Devnet(miners=1) as devnet,
            AsyncXalora(devnet.api_key, devnet.url, journal=journal) as client,
        ):
            with held(path):
                running = asyncio.create_task(client.run(task(1), reuse=True, fallback="never"))
                assert await asyncio.to_thread(found_busy.wait, 20)
                assert devnet.stats()["creates"] == 0
            result = await running
            assert result.images.shape == (1, 16, 16, 3)
            assert journal.find(job_id=result.job_id) is not None
            assert (await client.run(task(1), reuse=True, fallback="never")).reused
            assert devnet.stats()["creates"] == 1
    note("(d) journal locked for a while", "waited for, then sent once and journaled")


async def test_nothing_is_sent_past_a_journal_that_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    monkeypatch.setattr("xalora_client.jobs.claims.PATIENCE_SECONDS", 0.3)
    path = tmp_path / "journal.sqlite3"
    with Journal.open(path, tmp_path / "results") as journal:
        async with (
            Devnet(miners=1) as devnet,
            AsyncXalora(devnet.api_key, devnet.url, journal=journal) as client,
        ):
            with (
                held(path),
                pytest.raises(JournalError, match=r"holds the journal.*[Nn]othing was charged.*try again"),
            ):
                await client.run(task(1), reuse=True, fallback="never")
            assert devnet.stats()["creates"] == 0
            # With the lock gone, the journal is used again.
            await client.run(task(1), reuse=True, fallback="never")
            journal.flushed().result(10)
            assert [r.state for r in journal.records()] == [TaskState.FINISHED]
    note("(d) journal locked for good", "JournalError, nothing sent; sent once it was free")


async def test_what_cannot_be_written_down_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    path = tmp_path / "journal.sqlite3"
    sending = Journal.sending
    with Journal.open(path, tmp_path / "results") as journal:
        async with (
            Devnet(miners=1) as devnet,
            AsyncXalora(devnet.api_key, devnet.url, journal=journal) as client,
        ):

            def impatient(self: Journal, record_id: int, **_: object) -> Future[None]:
                # The row stands, and the journal fails before "sending" is written: after a crash now, it
                # would take the work for unsent and send it again.
                blocker.execute("BEGIN EXCLUSIVE")
                return sending(self, record_id, patience=0.1)

            with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as blocker:
                monkeypatch.setattr(Journal, "sending", impatient)
                with pytest.raises(JournalError, match=r"holds the journal.*[Nn]othing"):
                    await client.run(task(1), reuse=True, fallback="never")
                monkeypatch.setattr(Journal, "sending", sending)
                blocker.execute("ROLLBACK")
            assert devnet.stats()["creates"] == 0
            result = await client.run(task(1), reuse=True, fallback="never")
            assert result.images.shape == (1, 16, 16, 3)
            assert devnet.stats()["creates"] == 1
    note("(d) journal lost between its row and the create", "JournalError, nothing sent; sent once later")


async def test_nothing_is_sent_past_a_full_journal_and_what_it_has_kept_is_given_out(
    tmp_path: Path, note: Note
) -> None:
    with Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results") as journal:
        async with (
            Devnet(miners=1) as devnet,
            AsyncXalora(devnet.api_key, devnet.url, journal=journal) as client,
        ):
            await client.run(task(0), reuse=True, fallback="never")
            executed(journal, "PRAGMA max_page_count = 1")
            outcomes = await client.run_many(
                [task(n) for n in range(1, 40)], reuse=True, fallback="never", max_in_flight=16
            )
            results = [outcome.result for outcome in outcomes if outcome.result is not None]
            errors = [outcome.error for outcome in outcomes if outcome.error is not None]
            assert errors, "the journal was never full"
            assert all(isinstance(error, JournalError) for error in errors)
            assert all("no room" in str(error) and "othing was charged" in str(error) for error in errors)
            # Room is made by the page, so some of them could still be remembered.
            assert devnet.stats()["creates"] == 1 + len(results)
            assert all(journal.find(job_id=result.job_id) is not None for result in results)
            assert (await client.run(task(0), reuse=True, fallback="never")).reused
            executed(journal, "PRAGMA max_page_count = 1000000")
            outcomes = await client.run_many(
                [task(n) for n in range(1, 40)], reuse=True, fallback="never", max_in_flight=16
            )
            assert all(outcome.result is not None for outcome in outcomes)
            assert devnet.stats()["creates"] == 40
    note("(d) journal's disk full, 39 tasks", f"{len(results)} journaled, {len(errors)} stopped unsent")


async def test_nothing_is_sent_past_a_journal_that_cannot_be_written(tmp_path: Path, note: Note) -> None:
    with Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results") as journal:
        async with (
            Devnet(miners=1) as devnet,
            AsyncXalora(devnet.api_key, devnet.url, journal=journal) as client,
        ):
            await client.run(task(0), reuse=True, fallback="never")
            executed(journal, "PRAGMA query_only = ON")
            with pytest.raises(JournalError, match=r"can't be written.*[Nn]othing was charged"):
                await client.run(task(1), reuse=True, fallback="never")
            # What is kept is not what was asked for.
            with pytest.raises(JournalError, match="can't be written"):
                await client.run(task(0), fallback="never")
            assert (await client.run(task(0), reuse=True, fallback="never")).reused
            assert devnet.stats()["creates"] == 1
            executed(journal, "PRAGMA query_only = OFF")
            await client.run(task(1), reuse=True, fallback="never")
            assert devnet.stats()["creates"] == 2
    note("(d) journal read-only", "JournalError, nothing sent; a kept result was given out; sent once later")


async def test_a_clock_set_back_changes_no_outcome_and_makes_no_negative_time(
    tmp_path: Path, note: Note
) -> None:
    steps = count()
    # An hour back at every reading: worse than any real clock.
    with Journal.open(
        tmp_path / "journal.sqlite3", tmp_path / "results", wall_clock=lambda: 2e9 - 3600.0 * next(steps)
    ) as journal:
        async with (
            Devnet(miners=1) as devnet,
            AsyncXalora(devnet.api_key, devnet.url, journal=journal) as client,
        ):
            first = await client.run(task(1), reuse=True, fallback="never")
            again = await client.run(task(1), reuse=True, fallback="never")
            assert (first.reused, again.reused) == (False, True)
            assert devnet.stats()["creates"] == 1
            (record,) = journal.records()
            spans = (record.queued_seconds, record.running_seconds, record.total_seconds)
            assert all(span is None or span >= 0 for span in spans)
            assert all(run.at_most >= run.at_least >= 0 for run in journal.past_runs(record.work.kind))
    note("(d) clock set back an hour at every reading", "same outcome, no negative time")


async def test_an_expired_result_is_named_and_the_work_can_be_asked_anew(
    note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xalora_client.jobs.fetching.NOT_FOUND_PAUSES", (0.1, 0.1))
    async with (
        Devnet(miners=1, faults=["result:500"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, reuse=True) as client,
    ):
        handle = await client.submit(task(1), reuse=True)
        await devnet.wait_for_status(handle.task_id, "finished")
        devnet.clear_faults()
        devnet.expire_results()
        with pytest.raises(ResultExpiredError) as caught:
            await handle.result()
        assert handle.task_id in str(caught.value)
        record = client.journal.find(task_id=handle.task_id)
        assert record is not None
        assert record.state is TaskState.FAILED
        result = await client.run(task(1), reuse=True, fallback="never")
        assert result.images.shape == (1, 16, 16, 3)
        assert devnet.stats()["creates"] == 2
    note("(d) result expired", "ResultExpiredError with the task id; asked anew, one new create")


async def test_a_result_whose_download_fails_is_fetched_later_at_no_cost(note: Note) -> None:
    async with (
        Devnet(miners=1, faults=["result:drop_before"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        with pytest.raises(ResultDownloadError, match="paid for"):
            await client.run(task(1), reuse=True, fallback="never")
        devnet.clear_faults()
        result = await client.run(task(1), reuse=True, fallback="never")
        assert result.images.shape == (1, 16, 16, 3)
        assert devnet.stats()["creates"] == 1
    note("(d) download broken, asked again later", "fetched by id, no second create")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB, mended by a larger one."""
    with small_file_system(tmp_path / "disk", "200k") as place:
        yield place


async def test_nothing_is_sent_while_its_result_has_no_room(tiny_disk: Path, note: Note) -> None:
    async with (
        Devnet(miners=1) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, state_dir=tiny_disk) as client,
    ):
        with pytest.raises(JournalError, match=r"[Nn]othing was charged"):
            await client.run(task(1), reuse=True, fallback="never")
        assert devnet.stats()["creates"] == 0
        resize(tiny_disk, "100m")
        result = await client.run(task(1), reuse=True, fallback="never")
        assert result.images.shape == (1, 16, 16, 3)
        assert devnet.stats()["creates"] == 1
    note("(d) disk full before a task", "JournalError, nothing sent; sent once there was room")


async def test_a_disk_that_fills_up_amid_a_task_is_named_and_the_result_fetched_once_there_is_room(
    tiny_disk: Path, note: Note
) -> None:
    big = UpscalerTask(np.random.default_rng(1).integers(0, 256, (160, 160, 3), dtype=np.uint8))
    resize(tiny_disk, "100m")
    async with (
        Devnet(miners=1, faults=["result:500"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, state_dir=tiny_disk) as client,
    ):
        running = asyncio.create_task(client.run(big, reuse=True, fallback="never"))
        await devnet.wait_for(lambda stats: stats["creates"] == 1)
        client.journal.flushed().result(10)
        with (tiny_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        devnet.clear_faults()
        with pytest.raises(ResultDownloadError, match="No space left") as caught:
            await running
        assert caught.value.task_id == devnet.task_ids()[0]
        (tiny_disk / "filler").unlink()
        result = await client.run(big, reuse=True, fallback="never")
        assert result.images.shape == (1, 320, 320, 3)
        assert devnet.stats()["creates"] == 1
    note(
        "(d) disk full under the results", "ResultDownloadError with the task id; fetched once there was room"
    )
