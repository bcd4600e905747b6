"""The one road from a node to the client: submit, progress, cancel, collect, hand over to this machine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ...xalora_client.concurrency import together
from ...xalora_client.config import FallbackPolicy, IfUnknown, Settings
from ...xalora_client.errors import (
    AmbiguousCreateError,
    AuthenticationError,
    MissingKeyError,
    TaskCanceledError,
    XaloraError,
)
from ...xalora_client.events import TaskEvent
from ..host import compat
from ..host.bridge import bridge
from ..host.clients import clients
from .batch_plan import MAX_RESENDS, BatchPlan
from .interrupts import Interrupt
from .progress import Made, NodeProgress, summary
from .reporter import Reporter
from .task_origins import OriginNotes

if TYPE_CHECKING:
    from PIL import Image

    from ...xalora_client.client import AsyncXalora
    from ...xalora_client.results import RunResult
    from ...xalora_client.tasks import WorkflowTask

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")
ValueT_co = TypeVar("ValueT_co", covariant=True)

log = logging.getLogger("xalora_client.nodes")

SET_KEY = (
    "Enter it in the Xalora tab of the sidebar, or set XALORA_API_KEY in the environment, or in a .env file "
    "in ComfyUI's folder."
)

# What the client advises is for its shell and for Python; here is what a user of nodes can do.
_NEXT_STEPS: dict[type[XaloraError], str] = {
    MissingKeyError: SET_KEY,
    AuthenticationError: (
        "Replace it where it was set: in the sidebar (tab Xalora), as XALORA_API_KEY in the environment, "
        "or in a .env file in ComfyUI's folder."
    ),
    AmbiguousCreateError: (
        "Look for the job in your account. Then queue the graph again with this node's input "
        'if_unknown="resend", which sends it under the same job id and may be charged again, or "forget", '
        "which pays for a new one."
    ),
}

LOCAL_ONLY = "the fallback policy is local_only"


@dataclass(frozen=True)
class RunOptions:
    """How a node's tasks are run; None leaves a choice to the settings.

    ``wait_timeout`` and ``queue_limit`` are seconds. Where nothing is to be reused, the tasks whose ids are
    in ``reuse_among`` answer all the same, unless they came to nothing.
    """

    wait_timeout: float | None = None
    max_in_flight: int | None = None
    reuse: bool = True
    reuse_among: frozenset[str] = frozenset()
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
class HandedOver:
    """The network could not do all of it, and the policy lets this machine take over.

    Attributes:
        results: What the network did, by index.
        missing: Indexes of what is left, in order.
        errors: What the network said; empty where the policy alone says so, and it was not even asked.
        seconds: How long the network's part took.
        policy_of_node: The policy stands in the node's own inputs, rather than in the settings.
    """

    results: dict[int, RunResult]
    missing: tuple[int, ...]
    errors: tuple[XaloraError, ...]
    seconds: float
    policy_of_node: bool = False

    @property
    def error(self) -> XaloraError | None:
        """The first thing that the network said."""
        return self.errors[0] if self.errors else None

    @property
    def reason(self) -> str:
        """Why, in words without a full stop."""
        return LOCAL_ONLY if self.error is None else self.error.what.rstrip(".")


async def run(
    node_id: str,
    tasks: Sequence[WorkflowTask],
    options: RunOptions,
    sink: Sink[ValueT],
    on_submitted: Callable[[str], None],
    noun: str = "image",
) -> ValueT | HandedOver:
    """Do a node's tasks; called in the prompt's loop, which may be blocked meanwhile.

    Args:
        node_id: The node's `unique_id`.
        tasks: In the order of the results.
        options: How.
        sink: Decodes the results.
        on_submitted: Told each task id as soon as it is known, on the bridge's loop, perhaps more than once.
        noun: What a task makes, for messages.

    Raises:
        InterruptProcessingException: The user asked to stop. The remote tasks have been canceled.
        XaloraError: Some work could not be done.
    """
    interrupt = Interrupt()
    work = _Running(node_id, len(tasks), options, noun, interrupt, sink, tasks, on_submitted)
    return await bridge.run(interrupt.guard(work.execute(), work.stop_showing))


async def collect(
    node_id: str,
    task_ids: Sequence[str],
    options: RunOptions,
    sink: Sink[ValueT],
    on_collected: Callable[[str], None],
    noun: str = "task",
) -> ValueT | HandedOver:
    """Wait for tasks that were submitted before, and decode their results. An interrupt leaves them running.

    Args:
        on_collected: Told each task id whose result is on this machine, on the bridge's loop.

    Raises:
        InterruptProcessingException: The user asked to stop.
        XaloraError: A task ended without a result.
    """
    interrupt = Interrupt()
    work = _Collecting(node_id, len(task_ids), options, noun, interrupt, sink, task_ids, on_collected)
    return await bridge.run(interrupt.guard(work.execute(), work.stop_showing))


async def submit(
    node_id: str,
    tasks: Sequence[WorkflowTask],
    options: RunOptions,
    on_submitted: Callable[[str], None],
    noun: str = "task",
) -> list[str]:
    """Submit a node's tasks and give back their ids, in order.

    Args:
        on_submitted: Told each task id as soon as it is known, perhaps more than once, on the bridge's loop;
            also while an interrupted node winds down.

    Raises:
        InterruptProcessingException: The user asked to stop.
        XaloraError: A task was not accepted.
    """
    interrupt = Interrupt()
    work = _Submitting(node_id, len(tasks), options, noun, interrupt, tasks, on_submitted)
    task_ids = await bridge.run(interrupt.guard(work.execute(), work.stop_showing))
    assert not isinstance(task_ids, HandedOver), "only work that waits for results may fall back"
    return task_ids


def cancel_all() -> list[asyncio.Task[None]]:
    """Have no node send anything more, and withdraw what the network has not accepted yet.

    Called on the bridge's loop; what is accepted is left to the caller.

    Returns:
        The work of withdrawing, for each task that was on its way.
    """
    return [withdrawing for work in _at_work for withdrawing in work.cancel()]


class _Work(Generic[ItemT, ValueT]):
    """One execution of one node, on the bridge's loop: several items, each by :meth:`_do`."""

    may_fall_back = False
    resends = 0
    done_word = "finished"

    def __init__(
        self,
        node_id: str,
        total: int,
        options: RunOptions,
        noun: str,
        interrupt: Interrupt,
        tasks: Sequence[WorkflowTask] = (),
        on_submitted: Callable[[str], None] | None = None,
    ) -> None:
        self.node_id = node_id
        self.options = options
        self.interrupt = interrupt
        self._total = total
        self._noun = noun
        self._tasks = tasks
        self._on_submitted = on_submitted
        self._began = monotonic()
        self._progress = NodeProgress(total, self._began)
        self._reporter = Reporter(node_id, self._progress)
        self._plan: BatchPlan | None = None
        self._canceled = False
        self._items: dict[int, ItemT] = {}
        self._doing: dict[int, asyncio.Task[None]] = {}
        self._withdrawn: set[int] = set()
        self._open_ids: dict[int, str] = {}
        # One a core: more would only keep the journal and the downloads waiting for a thread.
        self._decoding = asyncio.Semaphore(os.cpu_count() or 1)
        # Not a method of this object: in a cycle, its results would hold their kept files until a collection.
        picture = partial(_picture_at, tasks)
        self._origins = OriginNotes(node_id, compat.executing_prompt_id(), picture)

    async def _do(self, client: AsyncXalora, index: int) -> ItemT:
        raise NotImplementedError

    async def _take(self, index: int, item: ItemT) -> Image.Image | None:
        raise NotImplementedError

    async def _value(self, items: Sequence[ItemT]) -> ValueT:
        raise NotImplementedError

    def _hand_over(self, plan: BatchPlan) -> HandedOver:
        raise NotImplementedError

    def _id_of(self, item: ItemT) -> str | None:
        raise NotImplementedError

    def _summary(self, items: Sequence[ItemT], seconds: float) -> str:
        raise NotImplementedError

    def stop_showing(self) -> None:
        """What is still winding down shows nothing any more: the browser may be at another prompt by then."""
        if self.interrupt.requested:
            self._reporter.say("canceling")
        self._reporter.close()

    async def execute(self) -> ValueT | HandedOver:
        showing = asyncio.get_running_loop().create_task(self._reporter.run())
        _at_work.add(self)
        try:
            async with clients.client() as client:
                return await self._execute(client)
        finally:
            _at_work.discard(self)
            showing.cancel()
            self._reporter.close()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Send nothing more; the workers that withdraw what the network has not accepted yet."""
        self._canceled = True
        if self._plan is None:
            return []
        self._plan.cancel()
        on_their_way = [index for index in self._doing if index not in self._open_ids]
        self._withdrawn.update(on_their_way)
        workers = [self._doing.pop(index) for index in on_their_way]
        for worker in workers:
            worker.cancel()
        return workers

    def _gives_up(self, index: int) -> bool:
        """Whether a cancelled call is to cancel its remote task: not where its prompt has merely ended."""
        return self.interrupt.requested or index in self._withdrawn

    async def _execute(self, client: AsyncXalora) -> ValueT | HandedOver:
        self._plan = plan = BatchPlan(
            self._total,
            self._policy(client.settings),
            self._noun,
            max_resends=self.resends,
            done_word=self.done_word,
        )
        if self._canceled:
            plan.cancel()
        in_flight = self.options.max_in_flight or client.settings.max_in_flight
        try:
            await together(self._worker(client, plan) for _ in range(min(in_flight, self._total)))
        except BaseException:
            self._log_what_is_left()
            raise
        plan.check()
        if plan.missing:
            return self._hand_over(plan)
        items = [self._items[index] for index in range(self._total)]
        value = await self._value(items)
        line = self._summary(items, monotonic() - self._began)
        self._reporter.say(line)
        log.info("node %s: %s (%s)", self.node_id, line, _named_tasks(self._id_of(item) for item in items))
        return value

    def _policy(self, settings: Settings) -> FallbackPolicy:
        return (self.options.fallback or settings.fallback) if self.may_fall_back else "never"

    async def _worker(self, client: AsyncXalora, plan: BatchPlan) -> None:
        """Do one item after another until none is left to begin."""
        while (index := plan.next()) is not None:
            self._origins.sending(index)
            worker = asyncio.current_task()
            assert worker is not None
            self._doing[index] = worker
            is_kept = False
            try:
                item = await self._do(client, index)
                is_kept = True
                self._doing.pop(index, None)
                async with self._decoding:
                    preview = await self._take(index, item)
            except asyncio.CancelledError:
                if index not in self._withdrawn:
                    raise
                self._open_ids.pop(index, None)
                plan.failed(index, _withdrawn())
                continue
            except XaloraError as error:
                error.next_step = _NEXT_STEPS.get(type(error), error.next_step)
                self._open_ids.pop(index, None)
                if error.job_id is not None:
                    self._origins.note(index, error.job_id)
                if plan.failed(index, error, is_kept=is_kept):
                    place = f"{self._noun} {index + 1}"
                    log.warning("node %s: %s is sent again: %s", self.node_id, place, error)
                    self._progress.again(index, monotonic())
                continue
            finally:
                self._doing.pop(index, None)
                self._origins.sent(index)
            self._open_ids.pop(index, None)
            self._items[index] = item
            plan.succeeded(index, self._id_of(item))
            self._progress.finished(index)
            self._reporter.show(preview)

    def listener(self, index: int) -> Callable[[TaskEvent], None]:
        """Takes in what happens to one task."""

        def note(event: TaskEvent) -> None:
            self._origins.note(index, event.job_id)
            if event.task_id:
                self._learned(index, event.task_id)
            self._progress.note(index, event, monotonic())

        return note

    def _learned(self, index: int, task_id: str) -> None:
        """The network has accepted this task, just now or some time ago.

        Told with its first event, not with the call's end: a cancelled one has none, and its task is accepted
        all the same.
        """
        if self._open_ids.get(index) == task_id:
            return
        self._open_ids[index] = task_id
        self._origins.sent(index)
        if self._on_submitted is not None:
            self._on_submitted(task_id)

    def _log_what_is_left(self) -> None:
        """Say what becomes of tasks that are paid for and that nobody waits for any more."""
        if self._open_ids and not self.interrupt.requested:
            log.warning(
                "node %s: its prompt ended for another reason; it waits no longer for what is paid for and "
                "left running: %s",
                self.node_id,
                _named_tasks(self._open_ids.values()),
            )


class _Running(_Work["RunResult", ValueT]):
    """Tasks from their create to their results."""

    may_fall_back = True
    resends = MAX_RESENDS

    def __init__(
        self,
        node_id: str,
        total: int,
        options: RunOptions,
        noun: str,
        interrupt: Interrupt,
        sink: Sink[ValueT],
        tasks: Sequence[WorkflowTask],
        on_submitted: Callable[[str], None],
    ) -> None:
        super().__init__(node_id, total, options, noun, interrupt, tasks, on_submitted)
        self._sink = sink

    async def _do(self, client: AsyncXalora, index: int) -> RunResult:
        return await client.run(
            self._tasks[index],
            on_event=self.listener(index),
            timeout=self.options.wait_timeout,
            reuse=self.options.reuse and client.settings.reuse,
            reuse_among=self.options.reuse_among,
            if_unknown=self.options.if_unknown,
            fallback=self.options.fallback,
            queue_limit=self.options.queue_limit,
            cancel_remote=lambda: self._gives_up(index),
            hand_over=True,
        )

    async def _take(self, index: int, item: RunResult) -> Image.Image | None:
        return await asyncio.to_thread(self._sink.add, index, item)

    async def _value(self, items: Sequence[RunResult]) -> ValueT:
        return await asyncio.to_thread(self._sink.close, items)

    def _hand_over(self, plan: BatchPlan) -> HandedOver:
        return HandedOver(
            self._items,
            plan.missing,
            plan.reasons,
            monotonic() - self._began,
            policy_of_node=self.options.fallback is not None,
        )

    def _id_of(self, item: RunResult) -> str | None:
        return item.task_id

    def _summary(self, items: Sequence[RunResult], seconds: float) -> str:
        return summary([made_of(item) for item in items], seconds)


class _Collecting(_Work["RunResult", ValueT]):
    """Tasks that are known by their ids."""

    def __init__(
        self,
        node_id: str,
        total: int,
        options: RunOptions,
        noun: str,
        interrupt: Interrupt,
        sink: Sink[ValueT],
        task_ids: Sequence[str],
        on_collected: Callable[[str], None],
    ) -> None:
        super().__init__(node_id, total, options, noun, interrupt)
        self._sink = sink
        self._task_ids = task_ids
        self._on_collected = on_collected

    async def _do(self, client: AsyncXalora, index: int) -> RunResult:
        task_id = self._task_ids[index]
        self._open_ids[index] = task_id
        timeout = self.options.wait_timeout or client.settings.wait_timeout
        result = await client.task(task_id).result(timeout=timeout, on_event=self.listener(index))
        self._on_collected(task_id)
        return result

    async def _take(self, index: int, item: RunResult) -> Image.Image | None:
        return await asyncio.to_thread(self._sink.add, index, item)

    async def _value(self, items: Sequence[RunResult]) -> ValueT:
        return await asyncio.to_thread(self._sink.close, items)

    def _id_of(self, item: RunResult) -> str | None:
        return item.task_id

    def _summary(self, items: Sequence[RunResult], seconds: float) -> str:
        return summary([made_of(item) for item in items], seconds)


class _Submitting(_Work[str, "list[str]"]):
    """Tasks up to their ids."""

    done_word = "submitted"

    async def _do(self, client: AsyncXalora, index: int) -> str:
        handle = await client.submit(
            self._tasks[index],
            on_event=self.listener(index),
            reuse=self.options.reuse and client.settings.reuse,
            reuse_among=self.options.reuse_among,
            if_unknown=self.options.if_unknown,
            cancel_remote=lambda: self._gives_up(index),
        )
        return handle.task_id

    async def _take(self, index: int, item: str) -> None:
        # A kept result answers without an event.
        self._learned(index, item)

    async def _value(self, items: Sequence[str]) -> list[str]:
        return list(items)

    def _id_of(self, item: str) -> str:
        return item

    def _summary(self, items: Sequence[str], seconds: float) -> str:
        return f"submitted: task {items[0]}" if len(items) == 1 else f"{len(items)} tasks submitted"


_at_work: set[_Work[Any, Any]] = set()
"""Of the nodes that execute now; only the bridge's loop looks here."""


def _withdrawn() -> TaskCanceledError:
    return TaskCanceledError(
        "It was canceled from the sidebar before the network had confirmed it",
        money="If the network had accepted it, it was canceled there, and whether that is charged is the "
        "network's decision.",
        next_step="Queue the graph again to have it made.",
    )


def _picture_at(tasks: Sequence[WorkflowTask], index: int) -> Image.Image | None:
    """A small picture of a task's input image, None where it has none; called on a worker thread."""
    if not tasks:
        return None
    from ..conversion.images import preview_of

    task = tasks[index]
    image = next(iter(task.image_parameters().values()), None)
    if image is None or not hasattr(image, "detach"):
        return None
    return preview_of(image.detach().float().cpu().numpy())


def made_of(result: RunResult) -> Made:
    """What made a result, for the line on the node."""
    from ...xalora_client.media.result_files import left_out

    return Made(result.engine, result.miner, result.reused, left_out(result.files))


def _named_tasks(task_ids: Iterable[str | None]) -> str:
    ids = [task_id for task_id in task_ids if task_id]
    return f"task{'s' if len(ids) > 1 else ''} {', '.join(ids)}" if ids else "no task"
