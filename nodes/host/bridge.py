"""Coroutines of nodes and routes on the client's background loop, which no prompt blocks or ends.

ComfyUI gives each prompt a loop of its own, which any synchronous node blocks and which ends with the prompt.
So a node only awaits the outcome: `await bridge.run(coroutine)`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ...xalora_client.jobs.hub import hub, is_hub

T = TypeVar("T")

log = logging.getLogger("xalora_client.bridge")

CLOSE_TIMEOUT = 5.0
CANCEL_SECONDS = 0.5
SHUTTING_DOWN = "ComfyUI is shutting down; nothing more is sent."
CANCELLED = "The operation was cancelled before it ended."


class BridgeError(RuntimeError):
    """A coroutine could not end: the bridge was closed, or it was cancelled on the client's loop."""


class Bridge:
    """Runs coroutines on the client's loop. Every method may be called from any thread.

    A coroutine inherits its caller's context variables, among them ComfyUI's executing node, but no
    thread-local state such as `torch.inference_mode`.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start a coroutine on the client's loop; returns a future of the caller's loop to await or cancel.

        The coroutine starts with this call, not with the first `await`: only a node's first step is sure to
        run before a synchronous node blocks the prompt's loop.

        Cancelling the future, or a task that awaits it, cancels the coroutine and does not wait for its end.
        A coroutine cancelled on the client's loop raises `BridgeError`, never `CancelledError`, which would
        end ComfyUI's worker.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        future = self.submit(coroutine)

        def copy_outcome() -> None:
            if outcome.done():
                return
            if future.cancelled():
                outcome.set_exception(BridgeError(CANCELLED))
            elif error := future.exception():
                outcome.set_exception(error)
            else:
                outcome.set_result(future.result())

        def on_ended(_: concurrent.futures.Future[T]) -> None:
            # A prompt that has ended has closed its loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(copy_outcome)

        def on_cancelled(_: asyncio.Future[T]) -> None:
            if outcome.cancelled():
                future.cancel()

        outcome.add_done_callback(on_cancelled)
        future.add_done_callback(on_ended)
        return outcome

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine and return at once. Its error is lost unless the caller reads the future."""
        if self._closed:
            coroutine.close()
            raise BridgeError(SHUTTING_DOWN)
        self._loop = hub()
        return asyncio.run_coroutine_threadsafe(self._tracked(coroutine), self._loop)

    async def _tracked(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await coroutine
        finally:
            self._tasks.discard(task)

    def close(self, closer: Callable[[], Coroutine[Any, Any, None]], timeout: float = CLOSE_TIMEOUT) -> None:
        """Await `closer` and cancel the other coroutines: for good, in about `timeout` s."""
        self._closed = True
        if self._loop is None or not is_hub(self._loop):
            # Nothing ran here; in a forked child the loop is the parent's.
            return
        ended = asyncio.run_coroutine_threadsafe(self._shut_down(closer, timeout), self._loop)
        try:
            ended.result(timeout + 1)
        except (TimeoutError, concurrent.futures.TimeoutError):
            log.warning("The client's thread does not answer; its connections are left open.")

    async def _shut_down(self, closer: Callable[[], Coroutine[Any, Any, None]], timeout: float) -> None:
        try:
            await asyncio.wait_for(closer(), timeout)
        except asyncio.TimeoutError:  # the built-in one only from Python 3.11 on
            log.warning("Closing the connections took over %g s; they are left open.", timeout)
        except Exception as error:  # noqa: BLE001 - the coroutines still have to be cancelled
            log.warning("Closing a connection failed: %s", error)
        # Last: a create request cancelled earlier would never return the id of its paid task.
        left = list(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CANCEL_SECONDS)


bridge = Bridge()
