"""A daemon thread with a long-lived event loop, on which the client runs.

ComfyUI gives each prompt a loop of its own, which any synchronous node blocks and which ends with the prompt.
So sessions, locks and transfers belong to this loop, and a node only awaits the outcome: `await
bridge.run(coroutine)`.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("xalora_client.bridge")

CLOSE_TIMEOUT = 5.0
CANCEL_SECONDS = 0.5
SHUTTING_DOWN = "ComfyUI is shutting down; nothing more is sent."
CANCELLED = "The operation was cancelled before it ended."


class BridgeError(RuntimeError):
    """The bridge could not finish a coroutine: it was closed, or the coroutine was cancelled on its loop."""


class Bridge:
    """Runs coroutines on a thread of its own. Every method may be called from any thread.

    The thread starts with the first coroutine. A coroutine inherits its caller's context variables, among
    them ComfyUI's executing node, but no thread-local state such as `torch.inference_mode`.
    """

    def __init__(self, name: str = "xalora-bridge") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start a coroutine on the bridge's loop; returns a future of the caller's loop to await or cancel.

        The coroutine starts with this call, not with the first `await`: only a node's first step is sure to
        run before a synchronous node blocks the prompt's loop.

        Cancelling the future, or a task that awaits it, cancels the coroutine and does not wait for its end.
        A coroutine cancelled on the bridge's loop raises `BridgeError`, never `CancelledError`, which would
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
        try:
            with self._lock:
                return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        except BridgeError:
            coroutine.close()
            raise

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Await `closer` on the bridge's loop when it closes; the last registered is called first."""
        with self._lock:
            self._closers.append(closer)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Call the closers, cancel the other coroutines, end the thread: for good, in about `timeout` s."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            closers = list(reversed(self._closers))
            self._closers.clear()
        if loop is None or thread is None or not thread.is_alive():
            return
        shutdown = asyncio.run_coroutine_threadsafe(self._shut_down(closers, timeout), loop)
        try:
            shutdown.result(timeout + 1)
        except (TimeoutError, concurrent.futures.TimeoutError):
            log.warning("The bridge's thread does not answer; its connections are left open.")
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise BridgeError(SHUTTING_DOWN)
        # In a forked child the thread does not exist.
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=self._serve, args=(loop,), name=self._name, daemon=True)
            thread.start()
            self._loop, self._thread = loop, thread
        return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    @staticmethod
    async def _shut_down(closers: list[Callable[[], Awaitable[None]]], timeout: float) -> None:
        async def close_all() -> None:
            for closer in closers:
                try:
                    await closer()
                except Exception as error:  # noqa: BLE001 - the other closers still have to run
                    log.warning("Closing a connection failed: %s", error)

        try:
            await asyncio.wait_for(close_all(), timeout)
        except asyncio.TimeoutError:  # the built-in one only from Python 3.11 on
            log.warning("Closing the connections took over %g s; they are left open.", timeout)
        # After the closers: a create request cancelled earlier would never return the id of its paid task.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CANCEL_SECONDS)
        await asyncio.get_running_loop().shutdown_asyncgens()


bridge = Bridge()
atexit.register(bridge.close)
