"""What can't be remembered, or has no place for its result, is not sent; what is kept is given out."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest
from disks import resize, small_file_system
from journals import held, leases_in_use, states, until
from programs import RUN, line, program
from scripted import KEY, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import AsyncXalora, DailyLimitError, FluxLoraTask, JournalError, TaskTimeoutError
from xalora_client.devnet import Devnet
from xalora_client.journal import TaskState


def finishing() -> ScriptedNetwork:
    return ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody writes into a folder, not even root."""
    if os.geteuid():
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield
        for path, mode in modes.items():
            path.chmod(mode)
        return
    for command in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
        mounted = subprocess.run(["mount", *command], capture_output=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    yield
    subprocess.run(["umount", "-l", str(folder)], check=True)


# --- the journal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_journal_held_from_the_start_is_waited_for_until_the_deadline(
    tmp_path: Path, how: str
) -> None:
    network = finishing()
    async with ScriptedSequencer(network) as sequencer:
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            first = await client.run(task(), fallback="never")
        with held(tmp_path / "journal.sqlite3", how):
            async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
                began = monotonic()
                with pytest.raises(TaskTimeoutError, match=r"another program holds.*nothing was charged"):
                    await client.run(task("dog"), timeout=1.5, fallback="never")
                assert 1.5 <= monotonic() - began < 3.0
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            assert (await client.run(task(), reuse=True, fallback="never")).task_id == first.task_id
            await client.run(task("dog"), fallback="never")
    assert network.created == 2


async def test_without_a_deadline_a_held_journal_is_waited_for_long_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xalora_client.jobs.claims.PATIENCE_SECONDS", 0.8)
    network = finishing()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        await client.run(task(), fallback="never")
        with held(tmp_path / "journal.sqlite3"):
            for call in (client.run(task("dog"), fallback="never"), client.execute_workflow(task("dog"))):
                with pytest.raises(JournalError, match=r"Another program holds.*nothing was charged"):
                    await call
        assert network.created == 1
        await client.execute_workflow(task("dog"))
    assert network.created == 2


async def test_a_journal_of_a_newer_format_is_neither_used_nor_replaced(tmp_path: Path) -> None:
    network = finishing()
    path = tmp_path / "journal.sqlite3"
    async with ScriptedSequencer(network) as sequencer:
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            await client.run(task(), fallback="never")
        with closing(sqlite3.connect(path)) as newer:
            newer.execute("PRAGMA user_version = 999")
        before = path.read_bytes()
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            for name in ("cat", "dog"):
                with pytest.raises(JournalError, match=r"newer.*[Nn]othing was"):
                    await client.run(task(name), reuse=True, fallback="never")
        assert path.read_bytes() == before
    assert network.created == 1


async def test_a_journal_that_can_only_be_read_gives_out_what_is_kept_and_sends_nothing(
    tmp_path: Path,
) -> None:
    network = finishing()
    async with ScriptedSequencer(network) as sequencer:
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            first = await client.run(task(), fallback="never")
        with read_only(tmp_path):
            async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
                kept = await client.run(task(), reuse=True, fallback="never")
                assert (kept.files, kept.reused) == (first.files, True)
                for options in ({}, {"again": True}):
                    with pytest.raises(JournalError, match=r"[Nn]othing was"):
                        await client.run(task(), fallback="never", **options)
                with pytest.raises(JournalError, match=r"[Nn]othing was"):
                    await client.run(task("dog"), reuse=True, fallback="never")
    assert network.created == 1


@pytest.mark.parametrize("place", ["under a file", "dead link", "/proc/nobody"])
async def test_nothing_is_sent_where_no_journal_can_be_made(tmp_path: Path, place: str) -> None:
    if place == "under a file":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "state"
    elif place == "dead link":
        folder = tmp_path / "link"
        folder.symlink_to(tmp_path / "gone" / "state")
    else:
        folder = Path(place)
    network = finishing()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=folder) as client,
    ):
        for call in (client.run(task(), fallback="never"), client.execute_workflow(task())):
            with pytest.raises(JournalError, match=r"[Nn]othing was.*XALORA_STATE_DIR"):
                await call
    assert network.created == 0


async def test_a_journal_in_memory_is_used_where_it_is_asked_for_and_leaves_nothing(tmp_path: Path) -> None:
    network = finishing()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path / "state", journal="memory") as client,
    ):
        result = await client.run(task(), fallback="never")
        assert result.images.shape == (1, 4, 4, 3)
        assert (await client.run(task(), reuse=True, fallback="never")).reused
        (file,) = result.files
    assert not file.exists()
    assert not (tmp_path / "state").exists()
    assert network.created == 1


@pytest.mark.parametrize("how", ["removed", "folder removed", "replaced"])
async def test_a_journal_lost_amid_a_run_costs_no_result_and_nothing_more_is_sent_unremembered(
    tmp_path: Path, how: str
) -> None:
    state = tmp_path / "state"
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=state) as client,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        if how == "folder removed":
            shutil.rmtree(state)
        else:
            for path in state.glob("journal.sqlite3*"):
                if path.is_file():
                    path.unlink()
        if how == "replaced":
            async with AsyncXalora(KEY, sequencer.url, state_dir=state) as other:
                assert await other.execute_workflow(task("dog")) == "t-2"
        before = network.created
        with pytest.raises(JournalError, match=r"removed or replaced.*[Nn]othing was"):
            await client.run(task("fox"), fallback="never")
        assert network.created == before
        network.finish()
        assert (await running).images.shape == (1, 4, 4, 3)
        async with AsyncXalora(KEY, sequencer.url, state_dir=state) as other:
            # What was noted for the first task is not taken for a note about this one.
            assert all(not record.files for record in other.journal.records())
            await other.execute_workflow(task("fox"))
    assert network.created == before + 1


async def test_a_folder_of_locks_removed_amid_a_create_makes_it_unknown_not_paid_twice(
    tmp_path: Path,
) -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, hold)
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as here,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as there,
    ):
        running = asyncio.create_task(here.run(task(), fallback="never"))
        await until(lambda: network.created)
        shutil.rmtree(tmp_path / "journal.sqlite3.owners")
        with pytest.raises(Exception, match="outcome is not known"):
            await there.run(task(), fallback="never", timeout=10)
        hold.set()
        await until(lambda: here.journal.records()[0].state is TaskState.SUBMITTED)
        network.finish()
        assert (await there.run(task(), fallback="never")).task_id == (await running).task_id == "t-1"
    assert network.created == 1


# --- the place for results ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["dead link", "file"])
async def test_nothing_is_sent_whose_result_has_no_place(tmp_path: Path, place: str) -> None:
    results = tmp_path / "results"
    if place == "file":
        results.write_text("")
    else:
        results.symlink_to(tmp_path / "unmounted" / "results")
    network = finishing()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        for _ in range(2):
            with pytest.raises(JournalError, match=r"results.*[Nn]othing was"):
                await client.run(task(), fallback="never")
        assert network.created == 0
        assert not client.journal.records(is_open=True)
        results.unlink()
        assert (await client.run(task(), fallback="never")).images.shape == (1, 4, 4, 3)
    assert network.created == 1


async def test_results_that_lost_their_place_amid_the_run_are_fetched_later_at_no_cost(
    tmp_path: Path,
) -> None:
    network = ScriptedNetwork()
    results = tmp_path / "results"
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        shutil.rmtree(results)
        results.symlink_to(tmp_path / "unmounted" / "results")
        network.finish()
        with pytest.raises(Exception, match="paid for") as caught:
            await running
        assert getattr(caught.value, "task_id", None) == "t-1"
        results.unlink()
        assert (await client.run(task(), fallback="never")).task_id == "t-1"
    assert network.created == 1


async def test_a_folder_of_results_that_was_cleared_is_made_anew(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        shutil.rmtree(tmp_path / "results")
        network.finish()
        result = await running
        assert result.images.shape == (1, 4, 4, 3)
        del running
        shutil.rmtree(tmp_path / "results")
        # Delivered before and not asked for again by its id: fetched once more, not paid for.
        assert (await client.run(task(), reuse=True, fallback="never")).images.shape == (1, 4, 4, 3)
        del result
        await until(lambda: not leases_in_use(client.journal))
    assert network.created == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    with small_file_system(tmp_path / "disk", "2m") as place:
        yield place


async def test_nothing_is_sent_from_a_disk_without_room_for_its_result(small_disk: Path) -> None:
    network = finishing()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=small_disk) as client,
    ):
        with pytest.raises(JournalError, match=r"(free|room).*[Nn]othing was"):
            await client.run(task(), fallback="never")
        assert network.created == 0
        resize(small_disk, "64m")
        await client.run(task(), fallback="never")
        (small_disk / "ballast").write_bytes(bytes(40 * 2**20))
        # What is kept is there all the same.
        assert (await client.run(task(), reuse=True, fallback="never")).reused
        with pytest.raises(JournalError, match=r"(free|room).*[Nn]othing was"):
            await client.run(task("dog"), fallback="never")
    assert network.created == 1


async def test_a_task_id_that_came_on_a_full_disk_survives_the_process(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, None if network.created else hold)
    with small_file_system(tmp_path / "disk", "64m") as disk:
        async with (
            ScriptedSequencer(network) as sequencer,
            program(RUN, sequencer.url, "cat", "{}", state_dir=disk) as running,
        ):
            await until(lambda: states(disk / "journal.sqlite3") == ["sending"])
            with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))
            hold.set()
            owed = disk / "journal.sqlite3.owners"
            await until(lambda: any("t-1" in file.read_text() for file in owed.glob("*.notes")))
            running.kill()
            await running.wait()
            (disk / "ballast").unlink()
            network.finish()
            async with program(RUN, sequencer.url, "cat", "{}", state_dir=disk) as again:
                assert await line(again) == "t-1"
    assert network.created == 1


async def test_a_journal_in_memory_keeps_the_limit_of_a_day() -> None:
    async with Devnet() as devnet:
        key, url = devnet.api_key, devnet.url
        async with AsyncXalora(key, url, journal="memory", daily_tasks=1) as client:
            await client.run(FluxLoraTask(prompt="a", lora_name="gecko"))
            with pytest.raises(DailyLimitError, match="limit of 1 task"):
                await client.run(FluxLoraTask(prompt="b", lora_name="gecko"))
        assert devnet.stats()["creates"] == 1
