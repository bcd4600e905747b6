"""The one road from a node to the client: submit, progress, cancel, collect, hand over to this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ..xalora_client.config import FallbackPolicy, IfUnknown
from ..xalora_client.errors import XaloraError
from ..xalora_client.events import Submitted, TaskEvent
from .batch import BatchPlan
from .bridge import bridge
from .clients import clients
from .interrupts import Interrupt
from .progress import Made, NodeProgress, summary
from .reporter import Reporter

if TYPE_CHECKING:
    from PIL import Image

    from ..xalora_client.client import AsyncXalora
    from ..xalora_client.results import RunResult
    from ..xalora_client.tasks import WorkflowTask

T = TypeVar("T")
ValueT = TypeVar("ValueT")
ValueT_co = TypeVar("ValueT_co", covariant=True)

log = logging.getLogger("xalora_client.nodes")


@dataclass(frozen=True)
class RunOptions:
    """How a node's tasks are run; None leaves a choice to the settings.

    ``wait_timeout`` and ``queue_limit`` are seconds.
    """

    wait_timeout: float | None = None
    max_in_flight: int | None = None
    reuse: bool = True
    if_unknown: IfUnknown = "stop"
    fallback: FallbackPolicy | None = None
    queue_limit: float | None = None


class Sink(Protocol[ValueT_co]):
    """Takes a node's results as they come and makes the node's value of them; called on worker threads."""

    def add(self, index: int, result: RunResult) -> Image.Image | None:
        """Take in one result, several at a time; a picture given back is shown as the node's preview."""
        ...

    def close(self, results: Sequence[RunResult]) -> ValueT_co:
        """All results are there, in order: the node's value."""
        ...


@dataclass(frozen=True)
class Ran(Generic[ValueT]):
    """All tasks have their results."""

    value: ValueT


@dataclass(frozen=True)
class HandedOver:
    """The network could not do all of it, and the policy lets this machine take over.

    Attributes:
        results: What the network did, by index.
        missing: Indexes of what is left, in order.
        reason: Why, in one sentence.
        seconds: How long the network's part took.
    """

    results: dict[int, RunResult]
    missing: tuple[int, ...]
    reason: str
    seconds: float


async def run(
    node_id: str,
    tasks: Sequence[WorkflowTask],
    options: RunOptions,
    sink: Sink[ValueT],
    noun: str = "image",
) -> Ran[ValueT] | HandedOver:
    """Do a node's tasks; called in the prompt's loop, which may be blocked meanwhile.

    Args:
        node_id: The node's `unique_id`.
        tasks: In the order of the results.
        options: How.
        sink: Decodes the results.
        noun: What a task makes, for messages.

    Raises:
        InterruptProcessingException: The user asked to stop. The remote tasks have been canceled.
        XaloraError: Some work could not be done.
    """
    interrupt = Interrupt()
    return await bridge.run(interrupt.guard(_NodeRun(node_id, tasks, options, sink, noun, interrupt).run()))


class _NodeRun(Generic[ValueT]):
    """One execution of one node, on the bridge's loop."""

    def __init__(
        self,
        node_id: str,
        tasks: Sequence[WorkflowTask],
        options: RunOptions,
        sink: Sink[ValueT],
        noun: str,
        interrupt: Interrupt,
    ) -> None:
        self._node_id = node_id
        self._tasks = tasks
        self._options = options
        self._sink = sink
        self._noun = noun
        self._interrupt = interrupt
        self._began = monotonic()
        self._progress = NodeProgress(len(tasks), self._began)
        self._reporter = Reporter(node_id, self._progress)
        self._results: dict[int, RunResult] = {}
        self._open_ids: dict[int, str] = {}

    async def run(self) -> Ran[ValueT] | HandedOver:
        showing = asyncio.get_running_loop().create_task(self._reporter.run())
        try:
            async with clients.client() as client:
                return await self._run(client)
        finally:
            showing.cancel()
            self._reporter.close()

    async def _run(self, client: AsyncXalora) -> Ran[ValueT] | HandedOver:
        plan = BatchPlan(len(self._tasks), self._options.fallback or client.settings.fallback, self._noun)
        in_flight = self._options.max_in_flight or client.settings.max_in_flight
        try:
            await together(self._worker(client, plan) for _ in range(min(in_flight, len(self._tasks))))
        except asyncio.CancelledError:
            self._reporter.close()
            self._log_what_is_left()
            raise
        plan.check()
        if plan.missing:
            reason = plan.reason.what if plan.reason else "the fallback policy is local_only"
            return HandedOver(self._results, plan.missing, reason, monotonic() - self._began)
        results = [self._results[index] for index in range(len(self._tasks))]
        value = await asyncio.to_thread(self._sink.close, results)
        self._tell(results)
        return Ran(value)

    async def _worker(self, client: AsyncXalora, plan: BatchPlan) -> None:
        """Do one task after another until none is left to begin."""
        while (index := plan.next()) is not None:
            try:
                result = await client.run(
                    self._tasks[index],
                    on_event=lambda event, index=index: self._note(index, event),  # type: ignore[misc]
                    timeout=self._options.wait_timeout,
                    reuse=self._options.reuse and client.settings.reuse,
                    if_unknown=self._options.if_unknown,
                    fallback=self._options.fallback,
                    queue_limit=self._options.queue_limit,
                    cancel_remote=lambda: self._interrupt.requested,
                    hand_over=True,
                )
                preview = await asyncio.to_thread(self._sink.add, index, result)
            except XaloraError as error:
                self._open_ids.pop(index, None)
                if plan.failed(index, error):
                    log.warning(
                        "node %s, %s %d is sent again: %s", self._node_id, self._noun, index + 1, error
                    )
                    self._progress.again(index, monotonic())
                continue
            self._open_ids.pop(index, None)
            self._results[index] = result
            plan.succeeded(index, result.task_id)
            self._progress.finished(index)
            self._reporter.show(preview)

    def _note(self, index: int, event: TaskEvent) -> None:
        if isinstance(event, Submitted) and event.task_id:
            self._open_ids[index] = event.task_id
        self._progress.note(index, event, monotonic())

    def _tell(self, results: Sequence[RunResult]) -> None:
        made = [Made(result.engine, result.miner, result.reused) for result in results]
        line = summary(made, monotonic() - self._began)
        self._reporter.say(line)
        log.info("node %s: %s (tasks %s)", self._node_id, line, ", ".join(r.task_id or "-" for r in results))

    def _log_what_is_left(self) -> None:
        """Say what becomes of tasks that are paid for and that nobody waits for any more."""
        if self._open_ids and not self._interrupt.requested:
            log.warning(
                "node %s: its prompt ended for another reason; these tasks are paid for and left running: %s",
                self._node_id,
                ", ".join(self._open_ids.values()),
            )


async def together(works: Sequence[Coroutine[Any, Any, T]] | Any) -> list[T]:
    """Do several things at once; should one fail, or the caller be cancelled, the others have ended too."""
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
