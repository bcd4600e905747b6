"""The blocking client: the asynchronous one behind plain functions.

There is one implementation of the rules; this module only carries calls to the thread where jobs live. One
file, since all of its classes wait in the same way, which Ctrl-C has to end.
"""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar

from pydantic import SecretStr

from .client import (
    AsyncXalora,
    RunOptions,
    check_options,
    deliveries,
    host_of,
    several,
)
from .config import hide_secrets
from .errors import MAY_BE_CHARGED, ClientClosedError, ConfigurationError
from .events import TaskEvent, tell
from .handle import TaskHandle
from .jobs.hub import LEAVING_SECONDS, hub, is_on_hub

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .config import IfUnknown, LoadedSettings, SettingArguments, Settings, Timeouts
    from .events import EventCallback
    from .journal import Journal
    from .results import Outcome, RunResult
    from .tasks import WorkflowTask
    from .transfer.upload import ImageDelivery
    from .workflows.definition import WorkflowDefinition

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTIBLE_SECONDS = 0.25


def _blocking(
    function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """A function of an asynchronous class as a plain one of the class around it."""

    @functools.wraps(function)
    def call(self: Any, /, *args: P.args, **options: P.kwargs) -> T:
        value: T = self._call(getattr(self._inner, function.__name__), *args, **options)
        return value

    return call


class Xalora:
    """A client of the Xalora network for programs without asyncio; safe to share between threads.

    ::

        with Xalora() as client:
            result = client.run(UpscalerTask(image="photo.jpg"))
            print(result.files, result.images.shape)

    It takes the arguments of :class:`~xalora_client.AsyncXalora`, and its functions take and raise the same.
    Callbacks are called on a thread of their own, those of one call one after another; the call returns after
    the last of them.

    Python raises Ctrl-C on the main thread alone. Calls that wait on other threads have their tasks canceled
    when it leaves a ``with`` block of the client, or by ``close(cancel=True)``; a client that is never closed
    leaves their tasks running. A pool of threads inside the ``with`` block waits for its calls first, so put
    the pool outside.
    """

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        workflow_url: str | None = None,
        *,
        settings: Settings | LoadedSettings | None = None,
        journal: Journal | Literal["memory"] | None = None,
        delivery: ImageDelivery | None = None,
        env_files: Iterable[Path | str] = (".env",),
        timeouts: Timeouts | None = None,
        **overrides: Unpack[SettingArguments],
    ) -> None:
        # In no local variable, where a traceback would show it.
        key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        del api_key
        hide_secrets(overrides)
        self._inner = AsyncXalora(
            key,
            workflow_url,
            settings=settings,
            journal=journal,
            delivery=delivery,
            env_files=env_files,
            timeouts=timeouts,
            **overrides,
        )
        self._hub = hub()
        self._closing = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        client = getattr(self, "_inner", None)
        return f"<{type(self).__name__} {client.settings.sequencer_url if client else 'without settings'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Ctrl-C or SystemExit: what other threads still wait for is not wanted any more either.
        self.close(cancel=error is not None and not isinstance(error, Exception))

    def close(self, *, cancel: bool = False) -> None:
        """Close connections and the journal; twice is harmless.

        Other threads' calls that still wait get a :class:`ClientClosedError`.

        Args:
            cancel: Have the remote tasks that are still waited for canceled first, for at most 3 s. Without,
                they run on. Leaving a ``with`` block by Ctrl-C cancels.
        """
        with self._closing:
            if self._closed:
                return
            try:
                # In a child made by a fork, the client's inner parts are its parent's, who goes on with them.
                if self._hub is hub():
                    self._call(self._inner.close, cancel=cancel)
            finally:
                self._closed = True

    @property
    def settings(self) -> Settings:
        """The effective settings."""
        return self._inner.settings

    @property
    def journal(self) -> Journal:
        """The journal this client writes."""
        return self._inner.journal

    resource_request = _blocking(AsyncXalora.resource_request)
    """See :meth:`AsyncXalora.resource_request`."""
    execute_workflow = _blocking(AsyncXalora.execute_workflow)
    """See :meth:`AsyncXalora.execute_workflow`."""
    query_task_result = _blocking(AsyncXalora.query_task_result)
    """See :meth:`AsyncXalora.query_task_result`."""
    execute_workflow_and_wait_for_result = _blocking(AsyncXalora.execute_workflow_and_wait_for_result)
    """See :meth:`AsyncXalora.execute_workflow_and_wait_for_result`."""
    cancel_task = _blocking(AsyncXalora.cancel_task)
    """See :meth:`AsyncXalora.cancel_task`."""
    run = _blocking(AsyncXalora.run)
    """See :meth:`AsyncXalora.run`. Ctrl-C, or whatever else a signal raises here, cancels the remote task."""
    run_many = _blocking(AsyncXalora.run_many)
    """See :meth:`AsyncXalora.run_many`. What cancels :meth:`run` cancels all remote tasks."""
    upscale_image = _blocking(AsyncXalora.upscale_image)
    """See :meth:`AsyncXalora.upscale_image`. Ctrl-C cancels the remote tasks; what is paid for is kept."""
    upscale_video = _blocking(AsyncXalora.upscale_video)
    """See :meth:`AsyncXalora.upscale_video`. Ctrl-C ends it; the same call goes on there."""

    def submit(
        self,
        task: WorkflowTask,
        *,
        on_event: EventCallback | None = None,
        reuse: bool | None = None,
        again: bool = False,
        if_unknown: IfUnknown = "stop",
    ) -> BlockingTaskHandle:
        """See :meth:`AsyncXalora.submit`."""
        handle = self._call(
            self._inner.submit, task, on_event=on_event, reuse=reuse, again=again, if_unknown=if_unknown
        )
        return BlockingTaskHandle(self._call, handle)

    def task(self, task_id: str) -> BlockingTaskHandle:
        """See :meth:`AsyncXalora.task`."""
        return BlockingTaskHandle(self._call, self._inner.task(task_id))

    def workflow(
        self,
        source: str | os.PathLike[str],
        *,
        params: Mapping[str, str] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> WorkflowDefinition:
        """See :meth:`AsyncXalora.workflow`."""
        return self._inner.workflow(source, params=params, inputs=inputs)

    def stream(self, task: WorkflowTask, **options: Unpack[RunOptions]) -> BlockingTaskStream:
        """Do a task and tell its steps: ``for event in client.stream(task)``.

        See :meth:`AsyncXalora.stream`.
        """
        check_options("stream", options)
        return BlockingTaskStream(
            lambda on_event: self._start(self._inner.run, task, on_event=on_event, **options)
        )

    def as_completed(
        self,
        tasks: Iterable[WorkflowTask],
        *,
        max_in_flight: int | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Iterator[Outcome]:
        """Do several tasks and give back how each ended, as they end.

        See :meth:`AsyncXalora.as_completed`.
        """
        check_options("as_completed", options)
        return self._as_completed(several(tasks), max_in_flight, on_event, options)

    def _as_completed(
        self,
        tasks: Sequence[WorkflowTask],
        max_in_flight: int | None,
        on_event: Callable[[int, TaskEvent], None] | None,
        options: RunOptions,
    ) -> Iterator[Outcome]:
        ended: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        callbacks = _CallbackThread()
        listener = None if on_event is None else callbacks.relay(on_event)
        running = self._start(self._inner.run_each, tasks, ended.put, max_in_flight, listener, options)
        running.future.add_done_callback(lambda _: ended.put(None))
        given: list[int] = []
        try:
            while (outcome := _taken(ended)) is not None:
                if outcome.result is not None and outcome.result.record_id is not None:
                    given.append(outcome.result.record_id)
                yield outcome
                del outcome
            callbacks.end()
            running.value()
        finally:
            running.leave()
            callbacks.stop()
            if not host_of(options).delivers:
                self._inner.note_delivered(given)

    def _call(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **options: P.kwargs) -> T:
        self._check_callable()
        callbacks = _CallbackThread()
        relayed: dict[str, Any] = dict(options)
        for name in _CALLBACKS:
            if relayed.get(name) is not None:
                relayed[name] = callbacks.relay(relayed[name])
        called: Callable[..., Coroutine[Any, Any, T]] = function
        running = self._start(called, *args, **relayed)
        try:
            running.wait()
            callbacks.end()
        except BaseException:
            # Raised into this wait from outside: Ctrl-C, SIGTERM's SystemExit, a host's time limit. The
            # coroutine is told, cancels its remote task, and ends; only then does the program.
            running.leave()
            callbacks.stop()
            raise
        return running.value()

    def _start(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        **options: Any,
    ) -> _Running[T]:
        """Begin a call on the thread of the jobs."""
        self._check_callable()
        return _Running(self._inner, self._hub, lambda: function(*args, **options))

    def _check_callable(self) -> None:
        """Check that what is asked from here would not be waited for in vain.

        Raises:
            ConfigurationError: It would.
        """
        if self._closed:
            raise ClientClosedError("This client is closed", next_step="Make a new one.")
        if self._hub is not hub():
            raise ClientClosedError(
                "This client was made before a fork, in the parent process",
                next_step="Make a new client in the new process.",
            )
        if is_on_hub():
            raise ConfigurationError(
                "The blocking client can't be used on the thread of the jobs: it would wait for itself",
                next_step="Use it on another thread.",
            )


class _Running(Generic[T]):
    """A call on the thread of the jobs, waited for by another thread."""

    def __init__(
        self,
        client: AsyncXalora,
        loop: asyncio.AbstractEventLoop,
        call: Callable[[], Coroutine[Any, Any, T]],
    ) -> None:
        self._client = client
        ended, delivered = threading.Event(), list[int]()
        self._ended, self._delivered = ended, delivered

        async def carried() -> T:
            deliveries.set(delivered)
            try:
                return await call()
            finally:
                ended.set()

        self.future: Future[T] = asyncio.run_coroutine_threadsafe(carried(), loop)

    def wait(self) -> None:
        """Wait until it has ended; can be interrupted."""
        # An endless wait can't be interrupted everywhere (on Windows, Ctrl-C does not reach it).
        while not wait([self.future], timeout=INTERRUPTIBLE_SECONDS).done:
            pass

    def leave(self) -> None:
        """Cancel it if it has not ended, and wait for that for as long as a program's end does."""
        if not self.future.done():
            self.future.cancel()
            self._ended.wait(LEAVING_SECONDS)
        with suppress(CancelledError, Exception):
            self.future.exception(timeout=0)

    def value(self) -> T:
        """What it has returned; its delivery is noted.

        Raises:
            ClientClosedError: The client was closed.
        """
        try:
            value = self.future.result()
        except CancelledError:
            raise ClientClosedError(
                "This client was closed while the call was under way",
                money=MAY_BE_CHARGED,
                next_step="See what became of it with `xalora tasks`.",
            ) from None
        self._client.note_delivered(self._delivered)
        self._delivered.clear()
        return value


def _taken(arrived: queue.SimpleQueue[T]) -> T:
    """The next that arrives; the wait can be interrupted."""
    while True:
        with suppress(queue.Empty):
            return arrived.get(timeout=INTERRUPTIBLE_SECONDS)


class BlockingTaskStream:
    """A :class:`~xalora_client.streams.TaskStream` without asyncio, from :meth:`Xalora.stream`::

        stream = client.stream(task)
        for event in stream:
            print(event)
        result = stream.result()

    A stream that is left early by an exception, :meth:`close`, or the end of its ``with`` block cancels the
    task; so does one that is let go of, as after ``break``.
    """

    def __init__(self, start: Callable[[EventCallback], _Running[RunResult]]) -> None:
        self._start = start
        # None after the last event.
        self._events: queue.SimpleQueue[TaskEvent | None] = queue.SimpleQueue()
        self._running: _Running[RunResult] | None = None
        self._has_ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TaskEvent:
        if not self._has_ended:
            running = self._begin()
            try:
                event = _taken(self._events)
            except BaseException:
                self.close()
                raise
            if event is not None:
                return event
            self._has_ended = True
            running.value()
        raise StopIteration

    def result(self) -> RunResult:
        """Wait for the result; events that were not asked for are dropped.

        Raises:
            XaloraError: As :meth:`Xalora.run`.
        """
        running = self._begin()
        try:
            running.wait()
        except BaseException:
            self.close()
            raise
        return running.value()

    def close(self) -> None:
        """Cancel the task if it is not done, for at most 3 s; twice is harmless."""
        if self._running is not None:
            self._running.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> _Running[RunResult]:
        if self._running is None:
            events = self._events
            self._running = running = self._start(events.put)
            running.future.add_done_callback(lambda _: events.put(None))
            dropping = weakref.finalize(self, running.future.cancel)
            dropping.atexit = False
        return self._running


_CALLBACKS = ("on_event", "on_done", "on_progress")


class _CallbackThread:
    """Calls the callbacks of one call: the jobs of this process never wait for a callback that blocks."""

    def __init__(self) -> None:
        self._due: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def relay(self, callback: Callable[..., None]) -> Callable[..., None]:
        """The callback as one that leaves its calls to the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=_call_all, args=(self._due,), daemon=True)
            self._thread.start()
        is_broken = False

        def call(*args: Any) -> None:
            nonlocal is_broken
            is_broken = is_broken or not tell(lambda _: callback(*args), args[-1])

        return lambda *args: self._due.put(lambda: call(*args))

    def end(self) -> None:
        """Wait until all have been called; can be interrupted."""
        self.stop()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(INTERRUPTIBLE_SECONDS)

    def stop(self) -> None:
        """Let the thread end after what it has to call."""
        self._due.put(None)


def _call_all(due: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (callback := due.get()) is not None:
        callback()


class BlockingTaskHandle:
    """A :class:`~xalora_client.TaskHandle` behind plain functions."""

    def __init__(self, call: Callable[..., Any], handle: TaskHandle) -> None:
        self._call = call
        self._inner = handle
        self.task_id = handle.task_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"

    status = _blocking(TaskHandle.status)
    """See :meth:`TaskHandle.status`."""
    wait = _blocking(TaskHandle.wait)
    """See :meth:`TaskHandle.wait`."""
    result = _blocking(TaskHandle.result)
    """See :meth:`TaskHandle.result`."""
    cancel = _blocking(TaskHandle.cancel)
    """See :meth:`TaskHandle.cancel`."""
