"""One daemon thread with one long-lived event loop, where the client lives.

ComfyUI gives each prompt a loop of its own, which any synchronous node blocks and which dies with the prompt.
So sessions, locks and transfers live here, and a node only awaits the outcome: `await bridge.run(coroutine)`.
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
LAST_WORDS_SECONDS = 0.5
SHUTTING_DOWN = "ComfyUI is shutting down; nothing more is sent."
CANCELLED = "The work was cancelled before it had ended."


class BridgeError(RuntimeError):
    """The bridge could not carry the work through: it was closed, or the work was cancelled on its side."""


class Bridge:
    """Runs coroutines on a thread of its own. Every method may be called from any thread.

    The thread starts with the first piece of work. Work inherits the context variables of its caller, so
    ComfyUI's idea of the running node is kept; thread-local state such as `torch.inference_mode` is not.
    """

    def __init__(self, name: str = "xalora-bridge") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Start `work` on the bridge's loop; returns a future of the caller's loop to await, or to cancel.

        The work starts with this call, not with the first `await`: a node's first step is all that is sure to
        happen before a synchronous node blocks the prompt's loop.

        Cancelling the future, or a task that awaits it, cancels the work, without waiting until it has wound
        down. Work cancelled on the bridge's side raises `BridgeError`, never `CancelledError`: ComfyUI's
        worker would die of that.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        future = self.submit(work)

        def take_over() -> None:
            if outcome.done():
                return
            if future.cancelled():
                outcome.set_exception(BridgeError(CANCELLED))
            elif error := future.exception():
                outcome.set_exception(error)
            else:
                outcome.set_result(future.result())

        def on_ended(_: concurrent.futures.Future[T]) -> None:
            # A prompt that has ended has closed its loop, and waits for nothing any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(take_over)

        def on_cancelled(_: asyncio.Future[T]) -> None:
            if outcome.cancelled():
                future.cancel()

        outcome.add_done_callback(on_cancelled)
        future.add_done_callback(on_ended)
        return outcome

    def call(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Block until `work` has ended, for callers without a loop. Raises TimeoutError after `timeout` s."""
        if threading.current_thread() is self._thread:
            work.close()
            raise BridgeError("The bridge's own thread cannot wait for itself; await the coroutine instead.")
        future = self.submit(work)
        try:
            return future.result(timeout)
        except concurrent.futures.CancelledError:
            raise BridgeError(CANCELLED) from None
        except (TimeoutError, concurrent.futures.TimeoutError):
            if future.done():
                raise
            future.cancel()
            raise TimeoutError(f"The work had not ended after {timeout:g} s and was cancelled.") from None
        except BaseException:
            # Ctrl-C in the waiting thread: nobody is left to take the outcome.
            future.cancel()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start `work` and return at once. The caller owns the future: an error nobody asks for is lost."""
        try:
            with self._lock:
                return asyncio.run_coroutine_threadsafe(work, self._running_loop())
        except BridgeError:
            work.close()
            raise

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Have `closer` awaited on the bridge's loop when it closes; the last registered goes first."""
        with self._lock:
            self._closers.append(closer)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close what was registered, cancel what is left, end the thread; final, in about `timeout` s."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            closers = list(reversed(self._closers))
            self._closers.clear()
        if loop is None or thread is None or not thread.is_alive():
            return
        winding_down = asyncio.run_coroutine_threadsafe(self._wind_down(closers, timeout), loop)
        try:
            winding_down.result(timeout + 1)
        except (TimeoutError, concurrent.futures.TimeoutError):
            log.warning("The bridge's thread does not answer; its connections are left to the system.")
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise BridgeError(SHUTTING_DOWN)
        # The thread is also found dead after a fork, in the child.
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
    async def _wind_down(closers: list[Callable[[], Awaitable[None]]], timeout: float) -> None:
        async def close_all() -> None:
            for closer in closers:
                try:
                    await closer()
                except Exception as error:  # noqa: BLE001 - one failure must not keep the others open
                    log.warning("Closing a connection failed: %s", error)

        try:
            await asyncio.wait_for(close_all(), timeout)
        except asyncio.TimeoutError:  # the built-in one only from Python 3.11 on
            log.warning("Closing the connections took over %g s; they are left to the system.", timeout)
        # Only now: cancelled before, a request that is out would never learn the id of what it has paid for.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=LAST_WORDS_SECONDS)
        await asyncio.get_running_loop().shutdown_asyncgens()


bridge = Bridge()
atexit.register(bridge.close)
