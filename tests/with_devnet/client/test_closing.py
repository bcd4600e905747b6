"""Clients that are closed early, used late, from the wrong place, or by several threads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journals import PATIENCE, held, leases, until
from scripted import ACCEPTED, KEY, OTHER_PICTURE, PICTURE, Answer, ScriptedNetwork, ScriptedSequencer

from xalora_client import (
    AsyncXalora,
    ClientClosedError,
    ConfigurationError,
    InputImageError,
    UpscalerTask,
    Xalora,
    XaloraError,
    events,
)
from xalora_client.devnet import Devnet, DevnetThread
from xalora_client.journal import Journal, TaskState
from xalora_client.media.inputs import PreparedImage
from xalora_client.transfer.upload import DeliveredImage


def small_image(seed: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)


# --- asyncio ------------------------------------------------------------------------------------------------


async def test_closing_a_client_tells_those_who_wait_and_touches_no_task() -> None:
    all_wait = asyncio.Event()
    created: list[str] = []
    polled: set[str] = set()
    shared: set[str] = set()

    def look() -> None:
        if len(shared) == 2 and len(polled) == 4:
            all_wait.set()

    def follow(caller: str) -> Callable[[events.TaskEvent], None]:
        def hear(event: events.TaskEvent) -> None:
            if isinstance(event, events.Running):
                shared.add(caller)
                look()

        return hear

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            created.append(f"t-{len(created) + 1}")
            return Answer(200, {"task_id": created[-1]})
        polled.add(body["task_id"])
        look()
        return Answer(200, {"task_id": body["task_id"], "status": "running"})

    async with ScriptedSequencer(answer) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        waits = [
            asyncio.create_task(work)
            for work in (
                # These two share a task, whichever comes first; none of the others is this work.
                client.run(PICTURE, reuse=True, fallback="on_any_failure", on_event=follow("first")),
                client.run(PICTURE, reuse=True, fallback="never", on_event=follow("second")),
                client.execute_workflow_and_wait_for_result(OTHER_PICTURE),
                client.task("t-7").wait(),
                client.task("t-8").result(),
            )
        ]
        await asyncio.wait_for(all_wait.wait(), PATIENCE)
        await client.close()
        told = []
        for wait in waits:
            with pytest.raises(ClientClosedError, match="runs on") as caught:
                await wait
            assert f"xalora resume {caught.value.task_id}" in str(caught.value)
            told.append(caught.value.task_id)
        assert told[0] == told[1]
        assert {*told} == polled == {"t-1", "t-2", "t-7", "t-8"}
        assert sequencer.count("task_cancel") == 0
        with pytest.raises(ClientClosedError, match="is closed"):
            await client.run(PICTURE)
        with pytest.raises(ClientClosedError, match="is closed"):
            await client.query_task_result("t-1")


async def test_a_client_closed_before_the_create_left_sends_nothing(tmp_path: Path) -> None:
    uploading = asyncio.Event()

    class Endless:
        async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
            uploading.set()
            await asyncio.Event().wait()
            raise AssertionError

    async with ScriptedSequencer([ACCEPTED]) as sequencer:
        with Journal.open(tmp_path / "j.sqlite3", tmp_path / "results") as journal:
            client = AsyncXalora(KEY, sequencer.url, delivery=Endless(), journal=journal)
            run = asyncio.create_task(client.run(UpscalerTask(small_image()), fallback="never"))
            await asyncio.wait_for(uploading.wait(), PATIENCE)
            await client.close()
            with pytest.raises(ClientClosedError, match="nothing was charged"):
                await run
            (record,) = journal.records()
            assert record.state is TaskState.NOT_SENT
            await until(lambda: not leases(journal))
    assert sequencer.asked == []


async def test_a_client_closed_while_a_create_is_out_waits_for_its_answer() -> None:
    created, hold = asyncio.Event(), asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        created.set()
        return Answer(200, {"task_id": "t-1"}, hold=hold)

    async with ScriptedSequencer(answer) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        run = asyncio.create_task(client.run(PICTURE, fallback="never"))
        await asyncio.wait_for(created.wait(), PATIENCE)
        asyncio.get_running_loop().call_later(0.3, hold.set)
        await client.close()
        with pytest.raises(ClientClosedError, match="t-1"):
            await run
        async with AsyncXalora(KEY, sequencer.url) as other:
            assert other.journal.records()[0].task_id == "t-1"


async def test_a_client_closed_while_it_claims_leaves_no_lease(tmp_path: Path) -> None:
    async with ScriptedSequencer([]) as sequencer:
        with Journal.open(tmp_path / "j.sqlite3", tmp_path / "results") as journal:
            with held(journal.path):
                client = AsyncXalora(KEY, sequencer.url, journal=journal)
                run = asyncio.create_task(client.run(PICTURE, fallback="never"))
                await until(lambda: is_claiming(journal))
                await client.close()
            with pytest.raises(ClientClosedError, match="nothing was charged"):
                await run
            await until(lambda: not leases(journal))
            assert not journal.records(is_open=True)
    assert sequencer.asked == []


def is_claiming(journal: Journal) -> bool:
    return bool(journal._writer._requests)


async def test_a_call_cancelled_while_its_client_is_closed_holds_neither_up() -> None:
    network = ScriptedNetwork()
    loop = asyncio.get_running_loop()
    async with ScriptedSequencer(network) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        run = asyncio.create_task(client.run(PICTURE, fallback="never"))
        await asyncio.wait_for(network.polled.wait(), PATIENCE)
        began = loop.time()
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        run.cancel()
        await asyncio.wait({run, closing})
        assert loop.time() - began < 4.0
        assert run.cancelled()
        # Whichever came first, it is one or the other: canceled, or running on and to be had by its id.
        expected = TaskState.CANCELED if network.canceled else TaskState.SUBMITTED
        async with AsyncXalora(KEY, sequencer.url) as other:
            (record,) = other.journal.records()
            assert (record.state, record.task_id) == (expected, "t-1")
            assert not leases(other.journal)


async def test_a_call_cancelled_just_after_its_client_was_closed_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        run = asyncio.create_task(client.run(PICTURE, fallback="never"))
        await asyncio.wait_for(network.polled.wait(), PATIENCE)
        # This loop stands still, so that the call has not heard of its end.
        closing = threading.Thread(target=lambda: asyncio.run(client.close()))
        closing.start()
        closing.join()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not network.canceled
        assert "waited for task t-1" in caplog.text and "is paid for and runs on" in caplog.text


async def test_without_a_with_block_a_client_works_and_is_closed_by_hand() -> None:
    async with ScriptedSequencer([ACCEPTED]) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        assert await client.execute_workflow(PICTURE) == "t-1"
        await client.close()
        await client.close()


async def test_a_client_closed_several_times_at_once_is_closed_once_and_well() -> None:
    async with Devnet(miners=1) as devnet:
        client = AsyncXalora(devnet.api_key, devnet.url)
        stream = client.stream(UpscalerTask(small_image()), fallback="never")
        await stream.__anext__()
        await asyncio.gather(*(client.close() for _ in range(5)))
        with pytest.raises(ClientClosedError):
            await stream.result()
        with pytest.raises(ClientClosedError):
            await client.run(PICTURE)
        never_opened = AsyncXalora(devnet.api_key, devnet.url)
        await never_opened.close()
        await never_opened.close(cancel=True)
        blocking = Xalora(devnet.api_key, devnet.url)
        await asyncio.gather(*(asyncio.to_thread(blocking.close) for _ in range(5)))


def test_a_client_serves_one_event_loop_after_the_other() -> None:
    with DevnetThread(miners=1) as devnet:
        client = AsyncXalora(devnet.api_key, devnet.url)
        task_id = asyncio.run(client.execute_workflow(UpscalerTask(small_image())))
        devnet.wait_for_status(task_id, "finished")
        assert asyncio.run(client.query_task_result(task_id)).status == "finished"
        asyncio.run(client.close())
        with pytest.raises(ClientClosedError):
            asyncio.run(client.query_task_result(task_id))


async def test_a_broken_certificate_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("not a certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    async with ScriptedSequencer([]) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE.*ca\.pem"):
            await client.execute_workflow(PICTURE)
        await client.close()


async def test_an_input_url_that_cannot_be_had_here_is_not_called_a_paid_result() -> None:
    async with ScriptedSequencer([]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        task = UpscalerTask(image_url=f"{sequencer.url}/cat.png?signature=s3cret")
        with pytest.raises(InputImageError, match="nothing was charged") as caught:
            await client.run(task, fallback="local_only")
    assert "paid" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


# --- threads ------------------------------------------------------------------------------------------------


def test_closing_a_blocking_client_sets_the_other_threads_free() -> None:
    seen = threading.Event()
    caught: list[XaloraError] = []

    def listen(event: events.TaskEvent) -> None:
        if isinstance(event, events.Running):
            seen.set()

    with DevnetThread(miners=2, task_seconds=60) as devnet:
        client = Xalora(devnet.api_key, devnet.url)

        def work() -> None:
            try:
                client.run(UpscalerTask(small_image()), on_event=listen, fallback="never")
            except XaloraError as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert seen.wait(PATIENCE)
        closing = [threading.Thread(target=client.close) for _ in range(3)]
        for closer in closing:
            closer.start()
        for closer in (*closing, thread):
            closer.join(PATIENCE)
        assert not thread.is_alive()
        (error,) = caught
        assert isinstance(error, ClientClosedError)
        assert error.task_id == devnet.task_ids()[0]
        assert devnet.task(devnet.task_ids()[0]).status == "running"
        with pytest.raises(ClientClosedError, match="is closed"):
            client.run(UpscalerTask(small_image()))
        with pytest.raises(ClientClosedError, match="is closed"):
            client.task("t-1").status()


def test_a_callback_of_a_blocking_call_may_call_the_client() -> None:
    said: list[str] = []

    with DevnetThread(miners=1) as devnet, Xalora(devnet.api_key, devnet.url) as client:

        def ask(event: events.TaskEvent) -> None:
            if isinstance(event, events.Submitted):
                said.append(client.task(event.task_id or "").status())

        client.run(UpscalerTask(small_image()), on_event=ask, fallback="never")
    assert said


def test_a_callback_that_blocks_holds_up_its_own_call_alone() -> None:
    entered, go_on = threading.Event(), threading.Event()
    heard: list[str] = []

    def block(event: events.TaskEvent) -> None:
        entered.set()
        assert go_on.wait(60)
        heard.append(type(event).__name__)

    with DevnetThread(miners=1) as devnet, Xalora(devnet.api_key, devnet.url) as client:
        blocked = threading.Thread(
            target=lambda: client.run(UpscalerTask(small_image()), on_event=block, fallback="never")
        )
        blocked.start()
        assert entered.wait(60)
        with Xalora(devnet.api_key, devnet.url) as other:
            assert other.run(UpscalerTask(small_image()), again=True, fallback="never").files
        assert blocked.is_alive()
        go_on.set()
        blocked.join(60)
    assert not blocked.is_alive()
    # All of them, before the call has returned.
    assert heard[-1] == "Done"


def test_the_blocking_client_is_refused_on_the_thread_of_the_jobs(tmp_path: Path) -> None:
    """It would wait for itself for ever."""
    with Xalora(KEY, "http://127.0.0.1:1", state_dir=tmp_path) as client:

        async def ask() -> None:
            client.cancel_task("any")

        with pytest.raises(ConfigurationError, match="thread of the jobs"):
            asyncio.run_coroutine_threadsafe(ask(), client._hub).result(30)


INTERRUPTED_AMONG_OTHERS = """
import signal, sys, threading, _thread
from xalora_client import UpscalerTask, Xalora, events
import numpy as np

class TimeLimit(Exception):
    pass

kind = {"TimeLimit": TimeLimit, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[sys.argv[3]]

def end(*_):
    raise kind

signal.signal(signal.SIGTERM, end)

running = {}
both = threading.Event()

def listener(name):
    def listen(event):
        if isinstance(event, events.Running):
            running[name] = event.task_id
            if len(running) == 2 and not both.is_set():
                both.set()
                _thread.interrupt_main(signal.SIGTERM)
    return listen

def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)

with Xalora(sys.argv[1], sys.argv[2]) as client:
    def other():
        client.run(UpscalerTask(image(1)), on_event=listener("other"), fallback="never")
        print("other done", flush=True)
    thread = threading.Thread(target=other)
    thread.start()
    try:
        client.run(UpscalerTask(image(2)), on_event=listener("main"), fallback="never")
    except kind:
        print("interrupted", client.task(running["main"]).status(), flush=True)
    thread.join()
"""


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "SystemExit", "TimeLimit"])
def test_what_a_signal_raises_cancels_the_main_threads_call_and_no_other(tmp_path: Path, kind: str) -> None:
    with DevnetThread(miners=2, task_seconds=3) as devnet:
        ended = subprocess.run(
            [sys.executable, "-c", INTERRUPTED_AMONG_OTHERS, devnet.api_key, devnet.url, kind],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "XALORA_STATE_DIR": str(tmp_path / "state")},
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.split("\n")[:2] == ["interrupted canceled", "other done"]
        assert sorted(devnet.task(task_id).status for task_id in devnet.task_ids()) == [
            "canceled",
            "finished",
        ]


FORKED = """
import os, sys
from xalora_client import ClientClosedError, Xalora

with Xalora(sys.argv[1], sys.argv[2]) as client:
    client.resource_request(task_type="upscaler")
    child = os.fork()
    if child == 0:
        try:
            client.resource_request(task_type="upscaler")
        except ClientClosedError as error:
            client.close()
            os._exit(7 if "fork" in str(error) else 1)
        os._exit(2)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    client.resource_request(task_type="upscaler")
    # A child that ends as programs do frees the connections that it inherited.
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.exit(0)
    os.waitpid(child, 0)
    client.resource_request(task_type="upscaler")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_blocking_client_taken_through_a_fork_is_refused_not_awaited_for_ever(tmp_path: Path) -> None:
    with DevnetThread(miners=1) as devnet:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORKED, devnet.api_key, devnet.url],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "XALORA_STATE_DIR": str(tmp_path / "state")},
            check=False,
        )
    assert (ended.stdout.strip(), ended.returncode, ended.stderr) == ("7", 0, "")


QUIT_WITH_A_CREATE_OUT = """
import atexit, importlib, importlib.util, sys

spec = importlib.util.spec_from_file_location("pack", sys.argv[1])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
bridge = importlib.import_module("pack.nodes.host.bridge").bridge
from pack.xalora_client import AsyncXalora, UpscalerTask

client = AsyncXalora(sys.argv[2], sys.argv[3])
atexit.register(bridge.close, client.close)
bridge.submit(client.run(UpscalerTask(image_url="https://example.org/cat.png"), fallback="never"))
sys.stdin.read()
"""


def test_a_program_that_ends_while_a_create_is_out_keeps_the_task_id(
    repository: Path, tmp_path: Path
) -> None:
    """As ComfyUI ends: Python has taken back its threads before anything of ours is told."""
    state = tmp_path / "state"
    with DevnetThread(miners=0, faults=["task_create:delay_after:seconds=1"]) as devnet:
        program = [
            sys.executable,
            "-c",
            QUIT_WITH_A_CREATE_OUT,
            str(repository / "__init__.py"),
        ]
        with subprocess.Popen(
            [*program, devnet.api_key, devnet.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XALORA_STATE_DIR": str(state)},
        ) as quitting:
            devnet.wait_for(lambda stats: stats["creates"] == 1, timeout=PATIENCE)
            _, told = quitting.communicate(timeout=PATIENCE)
        (task_id,) = devnet.task_ids()
    with Journal.open(state / "journal.sqlite3", state / "results") as journal:
        (record,) = journal.records()
    assert (record.state, record.task_id) == (TaskState.SUBMITTED, task_id), told
    assert quitting.returncode == 0
    assert "RuntimeError" not in told


# --- the program's end --------------------------------------------------------------------------------------

UNCLOSED = """
import asyncio, sys
from xalora_client import AsyncXalora, Text2VideoTask, Xalora

TASK = Text2VideoTask(prompt="a", seed=int(sys.argv[1]), workflow_id="2")
if sys.argv[1] == "1":
    client = Xalora()
    client.run(TASK)
elif sys.argv[1] == "2":
    client = AsyncXalora()
    asyncio.run(client.execute_workflow_and_wait_for_result(TASK))
else:
    client = Xalora()
    client.execute_workflow(TASK)
    client.fails
"""


@pytest.mark.parametrize("way", ["1", "2", "3"], ids=["blocking", "asyncio", "error"])
def test_a_script_that_closes_nothing_ends_without_a_word(tmp_path: Path, way: str) -> None:
    with DevnetThread(miners=1) as devnet:
        ended = subprocess.run(
            [sys.executable, "-W", "always::ResourceWarning", "-c", UNCLOSED, way],
            env={
                **os.environ,
                "XALORA_WORKFLOW_URL": devnet.url,
                "XALORA_API_KEY": devnet.api_key,
                "XALORA_STATE_DIR": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "nclosed" not in ended.stderr
    assert (ended.returncode, ended.stderr) == (0, "") or way == "3"
