"""Helpers for coroutines that run together, and for blocking calls on another thread."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from itertools import count
from typing import Any, ParamSpec, TypeVar


async def run_all_or_cancel(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines together; on failure or cancellation cancel the rest once and wait for all.

    Each is cancelled once: a second time would hit it while it cancels its remote task. ``gather`` can't do
    that: cancelled, it cancels all and raises with the first that ends, without waiting for the others.
    """
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in coroutines]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = next((task for task in tasks if task.done() and not _succeeded(task)), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            # Only the first failure is raised; asyncio logs exceptions that nothing retrieved.
            _ = task.cancelled() or task.exception()
    if failed is not None:
        failed.result()


def _succeeded(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is None


P = ParamSpec("P")
T = TypeVar("T")

REST_SECONDS = 10.0
"""How long a thread without work waits for some, before it ends."""

KEPT_THREADS = 4
"""Threads of a pool that do not end: the last cancels of a program need them, and Python starts none then."""


class DaemonThreads(ThreadPoolExecutor):
    """Threads that work until the program ends and do not keep it from ending, whatever they wait for.

    Python's own pool takes no work any more, and joins its threads, before anything that is registered with
    ``atexit`` runs: a disk that hangs would hold the program up, and the last cancels could resolve no name.

    Args:
        name: Of each thread.
        most: How many there are at most; beyond it, calls wait.
        rest: Seconds after which a thread without work ends.
    """

    def __init__(self, name: str, most: int, *, rest: float = REST_SECONDS) -> None:
        super().__init__(most, name)
        self._name, self._most, self._rest = name, most, rest
        self._start_empty()
        _pools.add(self)

    def _start_empty(self) -> None:
        self._due: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = 0  # calls that wait or run
        self._started = 0  # threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a function called on one of the threads.

        Raises:
            RuntimeError: There is none yet, and Python starts no more.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._started <= self._open and self._started < self._most:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                self._started += 1
            self._open += 1
        self._due.put((future, partial(fn, *args, **kwargs)))
        return future

    def _work(self) -> None:
        while True:
            try:
                future, step = self._due.get(timeout=self._rest)
            except queue.Empty:
                if self._is_spare():
                    return
            else:
                self._call(future, step)
                del future, step

    def _is_spare(self) -> bool:
        """Whether this thread is one too many; then it is no longer counted."""
        with self._lock:
            if self._started <= max(self._open, KEPT_THREADS):
                return False
            self._started -= 1
            return True

    def _call(self, future: Future[Any], step: Callable[[], Any]) -> None:
        # The thread is free before its caller goes on, so that the next call needs no other one.
        if not future.set_running_or_notify_cancel():
            self._end()
            return
        try:
            result = step()
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            self._end()
            future.set_exception(error)
            del future  # it holds the error, whose traceback holds this frame
        else:
            self._end()
            future.set_result(result)

    def _end(self) -> None:
        with self._lock:
            self._open -= 1


_pools: weakref.WeakSet[DaemonThreads] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The threads stayed in the parent.
    for pool in list(_pools):
        pool._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

JOURNAL_READS = DaemonThreads("xalora-journal-reads", 8)
"""Reads of journals: they never wait for files of results, images, or the names of hosts."""


async def run_in_thread(step: Callable[[], T], threads: DaemonThreads | None = None) -> T:
    """Run a blocking call on another thread; once begun, it ends even if the caller is cancelled.

    While Python exits, no thread can be started, and the call runs on this one: a task that was paid for in
    the last second must still be recorded.

    Args:
        threads: Which threads; None for those of the event loop.
    """
    try:
        running = asyncio.get_running_loop().run_in_executor(threads, step)
    except RuntimeError:
        return step()
    # Shielded: a step whose caller is cancelled while all threads are busy would never run.
    return await asyncio.shield(running)


_DECODING = DaemonThreads("xalora-decoding", 16)


async def run_decoding(step: Callable[[], T]) -> T:
    """Run a call that decodes a stranger's file on a thread that nothing else uses, in the caller's context.

    Neither a cancelled caller nor the end of the program waits for it.
    """
    return await asyncio.get_running_loop().run_in_executor(_DECODING, copy_context().run, step)


def in_daemon_threads(step: Callable[[int], None], places: Iterable[int], threads: int) -> None:
    """Call a function for each place, on several threads with the caller's context variables.

    The end of the program does not wait for them.

    Raises:
        Exception: What the call for the lowest place raised.
    """
    todo = list(places)
    if threads <= 1:
        for place in todo:
            step(place)
        return
    taken, failed = count(), dict[int, BaseException]()

    def run() -> None:
        while not failed and (number := next(taken)) < len(todo):
            try:
                step(todo[number])
            except BaseException as error:  # noqa: BLE001 - raised below
                failed[todo[number]] = error

    running = [
        threading.Thread(target=copy_context().run, args=(run,), name="xalora-decoding", daemon=True)
        for _ in range(threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[min(failed)]
