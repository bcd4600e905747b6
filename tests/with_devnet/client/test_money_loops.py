"""Event loops that are closed, clients that are dropped, threads and forks: nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from journals import PATIENCE, leases, leases_in_use, until
from programs import line, program
from scripted import KEY, Answer, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import AsyncXalora, TaskTimeoutError, Text2VideoTask, Xalora
from xalora_client.journal import Journal, TaskState

ENDING_SECONDS = 15.0
"""For a program to end in; a cancel itself takes 3 s at most."""


def finishing() -> ScriptedNetwork:
    return ScriptedNetwork(lambda task_id: status("finished", result=png(task_id)))


# --- event loops --------------------------------------------------------------------------------------------


def in_a_loop_that_is_closed_amid(client: AsyncXalora, network: ScriptedNetwork) -> None:
    """Begin a call, and close its event loop without a word to it. Blocking."""
    loop = asyncio.new_event_loop()
    call = loop.create_task(client.run(task(), fallback="never"))
    while not network.polled.is_set():
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.stop()
    loop.close()
    # Python would tell of it in the end.
    call._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_call_whose_loop_was_closed_keeps_no_task_from_being_canceled(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        left = AsyncXalora(KEY, sequencer.url, state_dir=tmp_path)
        await asyncio.to_thread(in_a_loop_that_is_closed_amid, left, network)
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            with pytest.raises(TaskTimeoutError, match="canceled"):
                await client.run(task(), timeout=2.0, on_timeout="cancel", fallback="never")
        await left.close()
    assert (network.created, network.canceled) == (1, {"t-1"})


async def test_a_call_whose_loop_was_closed_leaves_its_task_to_who_asks_for_it_again(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        left = AsyncXalora(KEY, sequencer.url, state_dir=tmp_path)
        await asyncio.to_thread(in_a_loop_that_is_closed_amid, left, network)
        again = asyncio.create_task(left.run(task(), fallback="never"))
        network.finish()
        assert (await asyncio.wait_for(again, PATIENCE)).task_id == "t-1"
        await left.close()
    assert network.created == 1


async def test_a_cancel_torn_with_its_loop_does_not_keep_the_next_one_from_leaving(tmp_path: Path) -> None:
    """asyncio.run without a with block: its loop ends while the cancel is not confirmed."""
    network = ScriptedNetwork()
    unanswered = Answer(500, {}, hold=asyncio.Event())
    network.on_cancel = lambda task_id: unanswered if len(network.cancels) == 1 else None

    def torn(url: str) -> AsyncXalora:
        async def main() -> AsyncXalora:
            client = AsyncXalora(KEY, url, state_dir=tmp_path)
            with pytest.raises(TaskTimeoutError):
                await client.run(task(), timeout=1.5, on_timeout="cancel", fallback="never")
            return client

        return asyncio.run(main())

    async with ScriptedSequencer(network) as sequencer:
        left = await asyncio.to_thread(torn, sequencer.url)
        async with AsyncXalora(KEY, sequencer.url, journal=left.journal) as client:
            with pytest.raises(TaskTimeoutError):
                await client.run(task(), timeout=1.5, on_timeout="cancel", fallback="never")
            # The first one's cancel was pursued on, so the second call may have begun a task of its own.
            await until(lambda: network.canceled == set(network.bodies))
        await left.close()


async def test_a_caller_cancelled_again_and_again_takes_no_cancel_with_it(tmp_path: Path) -> None:
    """A cancel scope of anyio cancels at each await, so in `close` too."""
    network = ScriptedNetwork()
    late = asyncio.Event()
    network.on_cancel = lambda task_id: Answer(200, {"task_id": task_id, "msg": "canceled"}, hold=late)

    async def with_a_client() -> None:
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            await client.run(task(), fallback="never")

    async with ScriptedSequencer(network) as sequencer:
        running = asyncio.create_task(with_a_client())
        await until(network.polled.is_set)
        while not running.done():
            running.cancel()
            await asyncio.sleep(0.01)
        await until(lambda: network.cancels == ["t-1"])
        network.canceled.add("t-1")
        late.set()
        with Journal.open(tmp_path / "journal.sqlite3") as journal:
            await until(lambda: [record.state for record in journal.records()] == [TaskState.CANCELED])
            await until(lambda: not leases_in_use(journal))


async def test_waits_that_are_cancelled_at_any_moment_leave_no_lease(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        handle = await client.submit(task())
        for number in range(100):
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0.0005 * (number % 40))
            waiting.cancel()
            await asyncio.wait({waiting})
        await until(lambda: not leases_in_use(client.journal))
        waits = asyncio.Event()
        running = asyncio.create_task(
            client.run(task(), on_event=lambda event: waits.set(), fallback="never")
        )
        await asyncio.wait_for(waits.wait(), PATIENCE)
        running.cancel()
        await asyncio.wait({running})
        await until(lambda: network.canceled == {"t-1"})
    assert network.created == 1


async def test_an_exit_in_a_callback_ends_no_other_call(tmp_path: Path) -> None:
    network = finishing()

    def exits(event: object) -> None:
        raise SystemExit(3)

    def both(url: str) -> list[str | None]:
        with Xalora(KEY, url, state_dir=tmp_path) as client:
            return [
                client.run(task(), fallback="never", on_event=exits).task_id,
                client.run(task("dog"), fallback="never").task_id,
            ]

    async with ScriptedSequencer(network) as sequencer:
        assert await asyncio.wait_for(asyncio.to_thread(both, sequencer.url), PATIENCE) == ["t-1", "t-2"]


async def test_a_client_serves_calls_of_several_loops_at_once(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        there = asyncio.create_task(
            asyncio.to_thread(lambda: asyncio.run(client.run(task(), fallback="never")))
        )
        here = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: network.created)
        network.finish()
        assert (await here).task_id == (await there).task_id == "t-1"
    assert network.created == 1


INTERRUPTED_AMID_A_CREATE = """
import asyncio, sys
from xalora_client import AsyncXalora, UpscalerTask

async def main():
    client = AsyncXalora("alice#s3cret", sys.argv[1])
    print("begun", flush=True)
    await client.run(UpscalerTask(image_url="https://example.org/cat.png"), fallback="never")

asyncio.run(main())
"""


async def test_ctrl_c_amid_a_create_cancels_the_task_that_comes_of_it(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, hold)
    async with (
        ScriptedSequencer(network) as sequencer,
        program(INTERRUPTED_AMID_A_CREATE, sequencer.url, state_dir=tmp_path) as running,
    ):
        await until(lambda: network.created)
        running.send_signal(signal.SIGINT)
        await asyncio.sleep(0.5)
        hold.set()
        await asyncio.wait_for(running.communicate(), ENDING_SECONDS)
        assert network.canceled == {"t-1"}
        with Journal.open(tmp_path / "journal.sqlite3") as journal:
            (record,) = journal.records()
            assert record.state in (TaskState.CANCELED, TaskState.SUBMITTED)
            assert record.task_id == "t-1"
            assert not leases(journal)


# --- clients that are dropped -------------------------------------------------------------------------------


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list descriptors")
@pytest.mark.parametrize("kind", ["blocking", "asyncio", "asyncio, submitted"])
async def test_clients_that_are_dropped_leave_no_thread_descriptor_or_lease(
    tmp_path: Path, kind: str
) -> None:
    network = finishing()

    def once(url: str) -> None:
        if kind == "blocking":
            Xalora(KEY, url, state_dir=tmp_path).run(task(), reuse=True, fallback="never")
        elif kind == "asyncio":
            client = AsyncXalora(KEY, url, state_dir=tmp_path)
            asyncio.run(client.run(task(), reuse=True, fallback="never"))
        else:
            asyncio.run(AsyncXalora(KEY, url, state_dir=tmp_path).submit(task(), reuse=True))

    async with ScriptedSequencer(network) as sequencer:
        # The first ones start what stays: the threads of jobs and of executors.
        for _ in range(3):
            await asyncio.to_thread(once, sequencer.url)
        gc.collect()
        await asyncio.sleep(1.0)
        before = descriptors(), threading.active_count()
        for _ in range(12):
            await asyncio.to_thread(once, sequencer.url)

        def is_as_before() -> bool:
            gc.collect()
            return descriptors() <= before[0] + 2 and threading.active_count() <= before[1] + 2

        await until(is_as_before)
        with Journal.open(tmp_path / "journal.sqlite3") as journal:
            await until(lambda: not leases_in_use(journal))
    assert network.created == 1


async def test_a_client_dropped_amid_anothers_transaction_does_not_wait_for_its_lock(tmp_path: Path) -> None:
    """Garbage is collected on any thread, on one that holds the journal's write lock, too."""
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        dropped = [AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) for _ in range(3)]
        for number, client in enumerate(dropped):
            await client.submit(task(str(number)))
        del client
        with Journal.open(tmp_path / "journal.sqlite3") as journal:

            def collect(change: object) -> float:
                began = monotonic()
                dropped.clear()
                gc.collect()
                return monotonic() - began

            waited = await asyncio.wrap_future(journal._request(collect, patience=PATIENCE))
            # Each of the three would wait 1.5 s.
            assert waited < 3.0
            await until(lambda: not leases(journal))
    assert (network.created, network.cancels) == (3, [])


async def test_a_dropped_client_gives_up_no_task_that_was_submitted(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        client = AsyncXalora(KEY, sequencer.url, state_dir=tmp_path)
        await client.submit(task())
        del client
        gc.collect()
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as other:
            again = asyncio.create_task(other.run(task(), fallback="never"))
            await until(network.polled.is_set)
            network.finish()
            assert (await again).task_id == "t-1"
    assert (network.created, network.cancels) == (1, [])


# --- threads ------------------------------------------------------------------------------------------------

IN_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from xalora_client import UpscalerTask, Xalora

def one(number):
    return client.run(UpscalerTask(image_url=f"https://example.org/{number}.png"), fallback="never").task_id

with ExitStack() as stack:
    if sys.argv[2] == "pool inside client":
        client = stack.enter_context(Xalora("alice#s3cret", sys.argv[1]))
        pool = stack.enter_context(ThreadPoolExecutor(4))
    else:
        pool = stack.enter_context(ThreadPoolExecutor(4))
        client = stack.enter_context(Xalora("alice#s3cret", sys.argv[1]))
    print("begun", flush=True)
    if sys.argv[2] == "run_many":
        client.run_many([UpscalerTask(image_url=f"https://example.org/{n}.png") for n in range(4)])
    else:
        print(list(pool.map(one, range(4))))
"""


@pytest.mark.parametrize("order", ["client inside pool", "run_many"])
async def test_ctrl_c_cancels_what_worker_threads_wait_for(tmp_path: Path, order: str) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        program(IN_THREADS, sequencer.url, order, state_dir=tmp_path) as running,
    ):
        await until(lambda: network.created == 4)
        await until(lambda: sequencer.count("task_result_query") >= 4)
        began = monotonic()
        running.send_signal(signal.SIGINT)
        await asyncio.wait_for(running.communicate(), ENDING_SECONDS)
        assert len(network.canceled) == 4
        assert sequencer.first("task_cancel") - began < 2.0
    with Journal.open(tmp_path / "journal.sqlite3") as journal:
        assert {record.state for record in journal.records()} == {TaskState.CANCELED}
        assert not leases(journal)


async def test_a_pool_that_is_left_by_ctrl_c_ends_once_its_client_is_closed(tmp_path: Path) -> None:
    """Python's own pool waits for its threads; the client can't be closed before that."""
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        program(IN_THREADS, sequencer.url, "pool inside client", state_dir=tmp_path) as running,
    ):
        await until(lambda: sequencer.count("task_result_query") >= 4)
        running.send_signal(signal.SIGINT)
        network.finish()
        await asyncio.wait_for(running.communicate(), ENDING_SECONDS)
    assert network.created == 4
    with Journal.open(tmp_path / "journal.sqlite3") as journal:
        assert not leases(journal)


async def test_many_threads_share_one_blocking_client(tmp_path: Path) -> None:
    network = finishing()

    def work(client: Xalora, number: int) -> Any:
        return client.run(task(str(number % 3)), reuse=True, fallback="never").task_id

    async with ScriptedSequencer(network) as sequencer:
        with Xalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            calls = [asyncio.to_thread(work, client, number) for number in range(12)]
            ids = await asyncio.gather(*calls)
            assert len(set(ids)) == 3
            assert await asyncio.to_thread(lambda: client.run(task("0"), reuse=True).reused)
            await asyncio.to_thread(client.close)
    assert network.created == 3


# --- forks --------------------------------------------------------------------------------------------------

FORKS = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
from xalora_client import ClientClosedError, UpscalerTask, Xalora

def work(name):
    return UpscalerTask(image_url=f"https://example.org/{name}.png")

client = Xalora("alice#s3cret", sys.argv[1])
print("begun", flush=True)
amid = threading.Thread(target=lambda: print(client.run(work("amid"), fallback="never").task_id, flush=True))
amid.start()
sys.stdin.readline()
child = os.fork()
if child == 0:
    with Xalora("alice#s3cret", sys.argv[1]) as own:
        # The parent waits for this one: it is shared, not paid for again.
        print(own.run(work("amid"), fallback="never").task_id, flush=True)
    os._exit(0)
print("forked", flush=True)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
amid.join()
print(client.run(work("amid"), reuse=True, fallback="never").task_id, flush=True)
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
async def test_a_fork_amid_a_run_shares_the_task_and_leaves_the_parent_its_own(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        program(FORKS, sequencer.url, state_dir=tmp_path) as running,
    ):
        await until(network.polled.is_set)
        assert running.stdin is not None
        running.stdin.write(b"\n")
        assert await line(running) == "forked"
        with Journal.open(tmp_path / "journal.sqlite3") as journal:
            await until(lambda: leases(journal, 1) == 2)
        network.finish()
        out, err = await asyncio.wait_for(running.communicate(), ENDING_SECONDS)
        assert (out.decode().split(), running.returncode) == (["t-1"] * 3, 0), err.decode()
    assert network.created == 1


async def test_a_cancel_that_fails_at_first_is_pursued_after_its_client_was_dropped(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    network.on_cancel = lambda task_id: Answer(503, {}) if len(network.cancels) < 9 else None
    async with ScriptedSequencer(network) as sequencer:

        def one_call() -> None:
            with pytest.raises(TaskTimeoutError):
                asyncio.run(
                    AsyncXalora(KEY, sequencer.url, state_dir=tmp_path).run(
                        task(), timeout=1.0, on_timeout="cancel", fallback="never"
                    )
                )
            gc.collect()

        await asyncio.to_thread(one_call)
        # It had 3 s while it was waited for, which are over.
        assert not network.canceled
        await until(lambda: network.canceled == {"t-1"})


@pytest.mark.parametrize("how", ["timeout", "cancelled", "leave"])
async def test_a_call_whose_loop_was_closed_keeps_its_own_client_from_no_cancel(
    tmp_path: Path, how: str
) -> None:
    """A notebook whose loop is made anew goes on with the client it has."""
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        client = AsyncXalora(KEY, sequencer.url, state_dir=tmp_path)
        await asyncio.to_thread(in_a_loop_that_is_closed_amid, client, network)
        if how == "leave":
            await client.leave_task("t-1")
        elif how == "timeout":
            with pytest.raises(TaskTimeoutError, match="canceled"):
                await client.run(task(), timeout=2.0, on_timeout="cancel", fallback="never")
        else:
            waits = asyncio.Event()
            again = asyncio.create_task(
                client.run(task(), on_event=lambda event: waits.set(), fallback="never")
            )
            await asyncio.wait_for(waits.wait(), PATIENCE)
            again.cancel()
            await asyncio.wait({again})
        await client.close()
    assert (network.created, network.canceled) == (1, {"t-1"})


async def test_a_call_whose_loop_was_closed_drops_its_lease_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xalora_client.jobs.hub.LOOKING_SECONDS", 0.1)
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        client = AsyncXalora(KEY, sequencer.url, state_dir=tmp_path)
        await asyncio.to_thread(in_a_loop_that_is_closed_amid, client, network)
        await until(lambda: not leases_in_use(client.journal))
        await client.close()
    assert network.cancels == []


async def test_unseeded_tasks_that_are_submitted_and_waited_for_are_not_one(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    prompt = Text2VideoTask(prompt="a lighthouse", workflow_id="1")
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        handles = [await client.submit(prompt) for _ in range(3)]
        assert len({handle.task_id for handle in handles}) == 3
        handles.clear()
        await until(lambda: not leases_in_use(client.journal))


def test_a_program_ends_whatever_disk_its_images_are_on(tmp_path: Path) -> None:
    script = """
import sys, threading
from xalora_client import UpscalerTask, Xalora, TaskTimeoutError
from xalora_client.jobs import preparation
preparation.prepare_image = lambda image: threading.Event().wait(600)
with Xalora("alice#s3cret", "http://127.0.0.1:1", state_dir=sys.argv[1]) as client:
    try:
        client.run(UpscalerTask("photo.png"), timeout=0.5, fallback="never")
    except TaskTimeoutError:
        print("in time")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "in time\n"), ended.stderr
