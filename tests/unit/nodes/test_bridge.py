"""The bridge from ComfyUI's prompt loops to the client's loop."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CEILING = 20.0


@pytest.fixture(scope="session")
def module(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.nodes.host.bridge")


@pytest.fixture
def bridge(module: ModuleType) -> Iterator[Any]:
    bridge = module.Bridge()
    yield bridge
    bridge.close(_nothing)


async def _nothing() -> None:
    """What has nothing to close."""


async def _thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def test_work_runs_with_the_jobs_and_its_outcome_returns(bridge: Any) -> None:
    assert await bridge.run(_thread_name()) == "xalora-jobs"

    async def fail() -> None:
        raise ValueError("the work's own error")

    with pytest.raises(ValueError, match="the work's own error"):
        await bridge.run(fail())


def test_one_loop_serves_prompt_after_prompt(bridge: Any) -> None:
    """A queue made in the first prompt still works in the second, whose own loop is another."""

    async def running_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def prompt() -> tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]:
        return asyncio.get_running_loop(), await bridge.run(running_loop())

    first_own, first_shared = asyncio.run(prompt())
    second_own, second_shared = asyncio.run(prompt())
    assert first_own is not second_own
    assert first_shared is second_shared
    assert not first_shared.is_closed()


async def test_work_goes_on_while_the_prompts_loop_is_blocked(bridge: Any) -> None:
    """What a synchronous node does to the prompt's loop must not reach the bridge, not even the start."""
    ended = threading.Event()

    async def work() -> str:
        for _ in range(5):
            await asyncio.sleep(0.01)
        ended.set()
        return "done"

    waiting = bridge.run(work())
    # Blocks this loop on purpose: only another thread's loop can set the event.
    assert ended.wait(CEILING)
    assert not waiting.done()
    assert await waiting == "done"


async def test_cancelling_the_node_cancels_the_work(bridge: Any) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def node() -> None:
        await bridge.run(work())

    waiting = asyncio.create_task(node())
    assert await asyncio.to_thread(started.wait, CEILING)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(cancelled.wait, CEILING)


def test_a_prompt_that_ends_early_cancels_the_work(bridge: Any) -> None:
    """ComfyUI ends a failed prompt by letting `asyncio.run` cancel whatever still waits."""
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def node() -> None:
        await bridge.run(work())

    async def prompt() -> None:
        waiting = asyncio.create_task(node())
        assert await asyncio.to_thread(started.wait, CEILING)
        assert not waiting.done()

    asyncio.run(prompt())
    assert cancelled.wait(CEILING)
    assert bridge.submit(_thread_name()).result(CEILING) == "xalora-jobs"


def test_work_that_outlives_its_prompt_ends_in_peace(bridge: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The prompt's loop is closed by then: nobody is told, and nothing breaks."""
    let_go, ended = threading.Event(), threading.Event()

    async def work() -> str:
        await asyncio.to_thread(let_go.wait, CEILING)
        return "too late"

    async def prompt() -> None:
        bridge.run(work())

    async def after_the_work() -> None:
        # The work's task ends, and is reported, before anything that is started later.
        await asyncio.sleep(0)
        ended.set()

    asyncio.run(prompt())
    let_go.set()
    bridge.submit(asyncio.to_thread(lambda: None)).result(CEILING)
    bridge.submit(after_the_work()).result(CEILING)
    assert ended.wait(CEILING)
    assert caplog.records == []


async def test_work_cancelled_on_the_bridge_is_an_ordinary_error(bridge: Any, module: ModuleType) -> None:
    """A `CancelledError` out of a node that nobody cancelled would kill ComfyUI's worker thread."""

    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(module.BridgeError, match="cancelled"):
        await bridge.run(cancel_itself())


async def test_an_interrupt_of_the_work_reaches_the_node_unchanged(bridge: Any) -> None:
    """ComfyUI's `InterruptProcessingException` is a plain `Exception`; nothing on the way may swallow it."""

    class InterruptProcessing(Exception):
        pass

    async def work() -> None:
        raise InterruptProcessing

    with pytest.raises(InterruptProcessing):
        await bridge.run(work())


def test_many_threads_share_one_start(bridge: Any) -> None:
    gate = threading.Barrier(8)
    idents: list[int] = []

    async def ident() -> int:
        return threading.get_ident()

    def caller() -> None:
        gate.wait(CEILING)
        idents.append(bridge.submit(ident()).result(CEILING))

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(CEILING)
    assert len(idents) == 8
    assert len(set(idents)) == 1


async def test_context_variables_follow_the_work(bridge: Any) -> None:
    node: contextvars.ContextVar[str] = contextvars.ContextVar("node")
    node.set("12")

    async def read() -> str:
        return node.get()

    assert await bridge.run(read()) == "12"


def test_close_awaits_the_closer_then_cancels_what_is_left(bridge: Any, module: ModuleType) -> None:
    """Work cancelled first could not hear any more what the closer waits for."""
    order: list[str] = []
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            order.append("work")

    async def close() -> None:
        order.append("closed")
        raise OSError("already gone")

    future = bridge.submit(work())
    assert started.wait(CEILING)
    bridge.close(close)
    assert order == ["closed", "work"]
    assert future.cancelled()
    with pytest.raises(module.BridgeError, match="shutting down"):
        bridge.submit(_thread_name()).result(CEILING)
    bridge.close(_nothing)


def test_close_leaves_the_jobs_of_others_alone(bridge: Any, module: ModuleType) -> None:
    """Another pack in this ComfyUI may use the client, too."""
    other = module.Bridge()
    let_go = threading.Event()
    future = other.submit(asyncio.to_thread(let_go.wait, CEILING))
    bridge.submit(_thread_name()).result(CEILING)
    bridge.close(_nothing)
    let_go.set()
    assert future.result(CEILING) is True
    other.close(_nothing)


def test_close_does_not_wait_for_ever(bridge: Any) -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    bridge.submit(_thread_name()).result(CEILING)
    began = time.monotonic()
    bridge.close(stuck, timeout=0.1)
    assert time.monotonic() - began < CEILING


def test_a_process_that_ends_with_open_work_ends_in_peace(repository: Path) -> None:
    program = """
        import asyncio, atexit, importlib, importlib.util, sys

        spec = importlib.util.spec_from_file_location("pack", sys.argv[1])
        sys.modules["pack"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["pack"])
        bridge = importlib.import_module("pack.nodes.host.bridge").bridge

        async def close():
            print("closed on exit", flush=True)

        async def ready():
            return "ready"

        atexit.register(bridge.close, close)
        bridge.submit(asyncio.Event().wait())
        print(bridge.submit(ready()).result())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(repository / "__init__.py")],
        capture_output=True,
        text=True,
        timeout=CEILING,
        check=False,
    )
    assert ended.stdout.split("\n")[:2] == ["ready", "closed on exit"]
    assert (ended.returncode, ended.stderr) == (0, "")
