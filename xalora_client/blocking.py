"""The blocking client: the asynchronous one on an event loop of its own, behind plain functions.

There is one implementation of the rules; this module only carries calls across.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .client import DEFAULT_SDK_TIMEOUT, AsyncXalora, TaskHandle
from .errors import ClientClosedError, ConfigurationError

if TYPE_CHECKING:
    from typing_extensions import Self

    from .config import IfUnknown, Settings
    from .events import EventCallback
    from .journal import Journal
    from .results import Outcome, RunResult, WorkflowTaskResult
    from .tasks import WorkflowTask

T = TypeVar("T")

INTERRUPTIBLE_SECONDS = 0.25

INTERRUPT_GRACE_SECONDS = 4.0
"""A little over the 3 s that the asynchronous client takes at most to cancel a remote task."""


class Xalora:
    """A client of the Xalora network for programs without asyncio; safe to share between threads.

    ::

        with Xalora() as client:
            result = client.run(UpscalerTask(image="photo.jpg"))
            print(result.files, result.images.shape)

    It takes the arguments of :class:`~xalora_client.AsyncXalora`, and its functions take and raise the same.
    Callbacks are called on the client's own thread, which the client's functions must not be called from.
    """

    def __init__(self, api_key: str | None = None, workflow_url: str | None = None, **options: Any) -> None:
        self._client = AsyncXalora(api_key, workflow_url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="xalora-client", daemon=True)
        self._thread.start()
        self._closing = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.settings.sequencer_url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and the journal; twice is harmless.

        Remote tasks are not touched. Other threads' calls that still wait get a :class:`ClientClosedError`.
        """
        with self._closing:
            if self._closed:
                return
            if not self._thread.is_alive():
                # A child made by a fork: the loop's inner parts are its parent's, who goes on with them.
                self._closed = True
                return
            try:
                self._call(self._client.close())
                self._call(self._end_all())
            finally:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()

    async def _end_all(self) -> None:
        """End what is left on the loop: once that stops, nobody waiting for it would ever be answered."""
        me = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not me]
        if left:
            await asyncio.wait(left, timeout=INTERRUPT_GRACE_SECONDS)
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=INTERRUPT_GRACE_SECONDS)

    @property
    def settings(self) -> Settings:
        """The effective settings."""
        return self._client.settings

    @property
    def journal(self) -> Journal:
        """The journal this client writes."""
        return self._client.journal

    def resource_request(
        self, *, task_type: str | None = None, workflow_id: str | None = None
    ) -> dict[str, Any]:
        """See :meth:`AsyncXalora.resource_request`."""
        return self._call(self._client.resource_request(task_type=task_type, workflow_id=workflow_id))

    def execute_workflow(self, task: WorkflowTask, *, if_unknown: IfUnknown = "stop") -> str:
        """See :meth:`AsyncXalora.execute_workflow`."""
        return self._call(self._client.execute_workflow(task, if_unknown=if_unknown))

    def query_task_result(self, task_id: str, *, task: WorkflowTask | None = None) -> WorkflowTaskResult:
        """See :meth:`AsyncXalora.query_task_result`."""
        return self._call(self._client.query_task_result(task_id, task=task))

    def execute_workflow_and_wait_for_result(
        self,
        task: WorkflowTask,
        timeout: float | None = DEFAULT_SDK_TIMEOUT,
        interval: float | None = None,
        *,
        if_unknown: IfUnknown = "stop",
    ) -> WorkflowTaskResult:
        """See :meth:`AsyncXalora.execute_workflow_and_wait_for_result`."""
        return self._call(
            self._client.execute_workflow_and_wait_for_result(task, timeout, interval, if_unknown=if_unknown)
        )

    def cancel_task(self, task_id: str, *, task: WorkflowTask | None = None) -> dict[str, Any]:
        """See :meth:`AsyncXalora.cancel_task`."""
        return self._call(self._client.cancel_task(task_id, task=task))

    def submit(
        self,
        task: WorkflowTask,
        *,
        on_event: EventCallback | None = None,
        reuse: bool = False,
        reuse_among: AbstractSet[str] = frozenset(),
        if_unknown: IfUnknown = "stop",
    ) -> BlockingTaskHandle:
        """See :meth:`AsyncXalora.submit`."""
        handle = self._call(
            self._client.submit(
                task, on_event=on_event, reuse=reuse, reuse_among=reuse_among, if_unknown=if_unknown
            )
        )
        return BlockingTaskHandle(self._call, handle)

    def task(self, task_id: str) -> BlockingTaskHandle:
        """See :meth:`AsyncXalora.task`."""
        return BlockingTaskHandle(self._call, self._client.task(task_id))

    def run(self, task: WorkflowTask, **options: Any) -> RunResult:
        """See :meth:`AsyncXalora.run`, whose options it takes.

        Ctrl-C, or whatever else a signal raises here, cancels the remote task.
        """
        return self._call(self._client.run(task, **options))

    def run_many(
        self,
        tasks: Sequence[WorkflowTask],
        *,
        max_in_flight: int | None = None,
        on_event: Callable[[int, Any], None] | None = None,
        on_done: Callable[[Outcome], None] | None = None,
        **options: Any,
    ) -> list[Outcome]:
        """See :meth:`AsyncXalora.run_many`. What cancels :meth:`run` cancels all remote tasks."""
        return self._call(
            self._client.run_many(
                tasks, max_in_flight=max_in_flight, on_event=on_event, on_done=on_done, **options
            )
        )

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        refusal = self._refusal()
        if refusal is not None:
            coroutine.close()
            raise refusal
        ended = threading.Event()

        async def carried() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        future: Future[T] = asyncio.run_coroutine_threadsafe(carried(), self._loop)
        try:
            # An endless wait can't be interrupted everywhere (on Windows, Ctrl-C does not reach it).
            while not wait([future], timeout=INTERRUPTIBLE_SECONDS).done:
                if not self._thread.is_alive():
                    future.cancel()
        except BaseException:
            # Raised into this wait from outside: Ctrl-C, SIGTERM's SystemExit, a host's time limit. The
            # coroutine is told, cancels its remote task, and ends; only then does the program.
            future.cancel()
            ended.wait(INTERRUPT_GRACE_SECONDS)
            with suppress(CancelledError, Exception):
                future.exception(timeout=0)
            raise
        try:
            return future.result()
        except CancelledError:
            raise ClientClosedError("This client was closed while the call was under way") from None

    def _refusal(self) -> ConfigurationError | None:
        """Why nothing can be asked of the loop from here: it would be waited for in vain."""
        if self._closed:
            return ClientClosedError("This client is closed", next_step="Make a new one.")
        if not self._thread.is_alive():
            return ClientClosedError(
                "This client's thread has ended, as in a process that was made by a fork",
                next_step="Make a new client in the new process.",
            )
        if threading.current_thread() is self._thread:
            return ConfigurationError(
                "A callback can't call the client's functions: they would wait for the callback to end",
                next_step="Do it on another thread, or after the call.",
            )
        return None


class BlockingTaskHandle:
    """A :class:`~xalora_client.TaskHandle` behind plain functions."""

    def __init__(self, call: Callable[[Coroutine[Any, Any, Any]], Any], handle: TaskHandle) -> None:
        self._call = call
        self._handle = handle
        self.task_id = handle.task_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"

    def status(self) -> str:
        """See :meth:`TaskHandle.status`."""
        return str(self._call(self._handle.status()))

    def wait(
        self,
        *,
        timeout: float | None = None,
        interval: float | None = None,
        on_event: EventCallback | None = None,
    ) -> WorkflowTaskResult:
        """See :meth:`TaskHandle.wait`."""
        answer: WorkflowTaskResult = self._call(
            self._handle.wait(timeout=timeout, interval=interval, on_event=on_event)
        )
        return answer

    def result(self, *, timeout: float | None = None, on_event: EventCallback | None = None) -> RunResult:
        """See :meth:`TaskHandle.result`."""
        result: RunResult = self._call(self._handle.result(timeout=timeout, on_event=on_event))
        return result

    def cancel(self) -> dict[str, Any]:
        """See :meth:`TaskHandle.cancel`."""
        return dict(self._call(self._handle.cancel()))
