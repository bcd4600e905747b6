"""The handle of a task in the network: its status, its result, and its cancel."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from .errors import InvalidTaskError
from .events import EventCallback, tell
from .jobs.hub import is_on_hub
from .network.outside import ID_LIMIT, printable
from .polling.schedule import MIN_FIXED_INTERVAL

if TYPE_CHECKING:
    from .client import AsyncXalora, HostOptions
    from .config import Credentials
    from .jobs.dispatcher import Dispatcher
    from .results import RunResult, WorkflowTaskResult
    from .tasks import WorkflowTask


logger = logging.getLogger("xalora_client")

LONG_SECONDS = 60_000.0
"""A timeout from here on is told in days: the Node SDK counts milliseconds, and this is a minute of them."""


class TaskHandle:
    """A task in the network, known by its id. Handles are cheap, and can be made from a bare id.

    Attributes:
        task_id: The network's id.
    """

    def __init__(self, client: AsyncXalora, task_id: str, task: WorkflowTask | None = None) -> None:
        self.task_id = task_id
        self._client = client
        self._task = task

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"

    @property
    def _credentials(self) -> Credentials | None:
        if self._task is None or (self._task.api_key is None and self._task.consumer_id is None):
            return None
        return self._task.own_credentials(self._client._credentials)

    async def status(self) -> str:
        """The task's status now, as the network words it."""
        return (await self._client.query_task_result(self.task_id, task=self._task)).status

    async def wait(
        self,
        *,
        timeout: float | None = None,
        interval: float | None = None,
        on_event: EventCallback | None = None,
    ) -> WorkflowTaskResult:
        """Wait until the task has ended, in whichever way; nothing is downloaded.

        Raises:
            TaskTimeoutError: The time ended first; the task runs on.
        """
        given = seconds_of(timeout, interval, "timeout=", "interval=")
        check_waits(timeout, interval, f"wait({given})")
        listener = on_own_loop(on_event)
        deadline = None if timeout is None else monotonic() + timeout

        async def wait(dispatcher: Dispatcher) -> WorkflowTaskResult:
            joining = dispatcher.caller_of(
                self.task_id,
                credentials=self._credentials,
                deadline=deadline,
                wants_files=False,
                on_event=listener,
                interval=interval,
            )
            async with joining as caller:
                return await caller.answer(timeout, deadline=deadline)

        return await self._client._on_hub(wait)

    async def result(
        self,
        *,
        timeout: float | None = None,
        on_event: EventCallback | None = None,
        host: HostOptions | None = None,
    ) -> RunResult:
        """Wait for the result and bring it to disk. A cancelled call leaves the remote task running.

        Raises:
            TaskTimeoutError: The time ended first; the task runs on.
            XaloraError: The task ended without a result, or the result can't be had.
        """
        listener = on_own_loop(on_event)
        cancels = (host and host.cancels) or (lambda: False)
        deadline = None if timeout is None else monotonic() + timeout

        async def fetch(dispatcher: Dispatcher) -> RunResult:
            joining = dispatcher.caller_of(
                self.task_id,
                credentials=self._credentials,
                deadline=deadline,
                on_event=listener,
                cancels=cancels,
            )
            async with joining as caller:
                return await caller.result(timeout, deadline=deadline)

        result = await self._client._on_hub(fetch)
        if host is None or not host.delivers:
            self._client.delivered(result)
        return result

    async def cancel(self) -> dict[str, Any]:
        """Ask the network to cancel the task."""
        return await self._client.cancel_task(self.task_id, task=self._task)


def on_own_loop(on_event: EventCallback | None) -> EventCallback | None:
    """A callback that is called on the loop of the caller, wherever the event comes from."""
    if on_event is None or is_on_hub():
        return on_event
    loop = asyncio.get_running_loop()
    is_broken = False

    def hear(event: Any) -> None:
        nonlocal is_broken
        is_broken = is_broken or not tell(on_event, event)

    def pass_on(event: Any) -> None:
        # The caller's loop may have been closed under it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(hear, event)

    return pass_on


def seconds_of(timeout: float | None, interval: float | None, *names: str) -> str:
    """Two waits in milliseconds as arguments in seconds."""
    waits = (timeout or 0, interval or 0)
    return ", ".join(f"{name}{wait / 1000:g}" for name, wait in zip(names or ("", ""), waits, strict=True))


def checked_task_id(given: object) -> str:
    """The id of a task without blanks around it.

    Raises:
        InvalidTaskError: It can be none that the network gave.
    """
    task_id = given.strip() if isinstance(given, str) else ""
    if not task_id or printable(task_id, ID_LIMIT) != task_id:
        raise InvalidTaskError(
            f"{given!r:.100} is no id of a task", next_step="Give one as `xalora tasks` lists it."
        )
    return task_id


def check_waits(timeout: float | None, interval: float | None, call: str) -> None:
    """Check the waits of a call in seconds.

    Args:
        call: The call that is meant where they are milliseconds.

    Raises:
        InvalidTaskError: The interval is too short, or both look like milliseconds.
    """
    if interval is not None and not interval >= MIN_FIXED_INTERVAL:
        raise InvalidTaskError(
            f"interval is {interval} s; at least {MIN_FIXED_INTERVAL:g} s is allowed",
            next_step="Give a longer interval, or None.",
        )
    if timeout is not None and interval is not None and timeout >= 10_000 and interval >= 1_000:
        raise InvalidTaskError(
            f"A timeout of {timeout:g} s and an interval of {interval:g} s look like milliseconds; both are "
            "in seconds",
            next_step=f"Write {call}.",
        )
    if timeout is not None and interval is None and LONG_SECONDS <= timeout < math.inf:
        # A wait of days is allowed, and costs nothing: the task ends by its own limit.
        logger.warning(
            "The timeout of %.0f s is %.1f days. If it is meant in milliseconds, write %g.",
            timeout,
            timeout / 86_400,
            timeout / 1000,
        )
