"""The loop that does a node's tasks, several at a time, with progress, resends and cancel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ...xalora_client.concurrency import run_all_or_cancel
from ...xalora_client.config import FallbackPolicy, IfUnknown, Settings
from ...xalora_client.errors import (
    CANCELED_THERE,
    AmbiguousCreateError,
    JournalError,
    NoMinerError,
    TaskCanceledError,
    UnexpectedError,
    XaloraError,
)
from ...xalora_client.events import TaskEvent
from ...xalora_client.prices import Sent, cost_of, cost_text
from .batch_plan import BatchPlan, OwnCancelError
from .node_progress import NodeProgress
from .running_node import RunningNode, ValueT
from .task_origins import Origin, OriginRecorder
from .unused import forget_unused
from .wishes import wishes

if TYPE_CHECKING:
    from PIL import Image

    from ...xalora_client.client import AsyncXalora
    from ...xalora_client.journal import Record
    from ...xalora_client.tasks import WorkflowTask


class Outcome(Protocol):
    """What the client gives for a task: a result or a handle."""

    @property
    def task_id(self) -> str | None: ...


OutcomeT = TypeVar("OutcomeT", bound=Outcome)

log = logging.getLogger("xalora_client.nodes")

WATCH_SECONDS = 2.0
UNTAKEN_SECONDS = 15.0
"""How long tasks wait, and none runs, before the network is asked whether any miner takes them."""

ASK_AGAIN_SECONDS = 15.0
"""A request for a miner reserves one for a moment, so it is not made more often."""


@dataclass(frozen=True)
class RunOptions:
    """How a node's tasks are run; None leaves a choice to the settings.

    ``wait_timeout`` and ``queue_limit`` are seconds. With ``reuse`` off, the tasks whose ids are in
    ``reuse_among`` are reused all the same, unless they failed.
    """

    wait_timeout: float | None = None
    max_in_flight: int | None = None
    reuse: bool = True
    reuse_among: frozenset[str] = frozenset()
    if_unknown: IfUnknown = "stop"
    fallback: FallbackPolicy | None = None
    queue_limit: float | None = None


@dataclass(eq=False)
class TaskLoop(RunningNode[ValueT], Generic[OutcomeT, ValueT]):
    """One execution of one node, on the client's loop. Subclasses say how one task is performed.

    Args:
        origin: The node and its prompt.
        options: How to run the tasks.
        noun: What a task makes, for messages.
        total: How many tasks there are.
        tasks: The new tasks, in the order of the results; none where they were submitted before.
        on_submitted: Called with each new task's id as soon as it is known, on the client's loop, maybe
            repeatedly, and also while an interrupted node ends.
    """

    may_fall_back = False
    max_resends = 0
    done_word = "finished"
    fulfills_wishes = False

    origin: Origin
    options: RunOptions
    noun: str
    total: int
    tasks: Sequence[WorkflowTask] = ()
    on_submitted: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self._progress = NodeProgress(self.total, monotonic())
        super().__init__(self.node_id, self._progress)
        self._plan: BatchPlan | None = None
        self._canceled = False
        self._outcomes: dict[int, OutcomeT] = {}
        self._workers: dict[int, asyncio.Task[None]] = {}
        self._withdrawn: set[int] = set()
        self._open_task_ids: dict[int, str] = {}
        # One per core: more would only keep the journal and the downloads waiting for a thread.
        self._decoding = asyncio.Semaphore(os.cpu_count() or 1)
        # Not a method of this object: the reference cycle would keep result files until a garbage collection.
        input_picture = partial(_input_picture, self.tasks)
        self._origins = OriginRecorder(self.origin, input_picture)

    @property
    def node_id(self) -> str:
        """The node's `unique_id`."""
        return self.origin.node_id

    async def _perform_one(self, client: AsyncXalora, index: int, **claim: Any) -> OutcomeT:
        """Have the client do one task; `claim` takes the place of the options of that name."""
        raise NotImplementedError

    async def _perform_as_wished(self, client: AsyncXalora, index: int) -> OutcomeT:
        """The same, with what the user has asked for in the sidebar."""
        outcome = await self._perform_or_send_again(client, index)
        bad = await self._to_be_made_again(client, outcome)
        if bad is not None:
            del outcome
            # The wish stays until the new result is here, so this may be the second time: what the first has
            # sent answers.
            outcome = await self._perform_or_send_again(client, index, newer_than=bad.id)
        if self.fulfills_wishes:
            await self._drop_fulfilled_wishes(client, outcome)
        return outcome

    async def _perform_or_send_again(self, client: AsyncXalora, index: int, **claim: Any) -> OutcomeT:
        try:
            return await self._perform_one(client, index, **claim)
        except AmbiguousCreateError as error:
            if not wishes.take_send_again(error.job_id):
                raise
            return await self._perform_one(client, index, if_unknown="resend", **claim)

    async def _to_be_made_again(self, client: AsyncXalora, outcome: OutcomeT) -> Record | None:
        """The record of a kept result that the user wants another one for."""
        record = await self._record_of(client, outcome) if self.tasks else None
        return record if record is not None and wishes.is_for_new_result(record.job_id) else None

    async def _drop_fulfilled_wishes(self, client: AsyncXalora, outcome: OutcomeT) -> None:
        """Forget the results that this one replaces, so that they do not answer the next time."""
        with contextlib.suppress(JournalError):  # then the next time
            made = await self._record_of(client, outcome)
            if made is None:
                return
            for job in wishes.for_new_results():
                bad = await asyncio.to_thread(client.journal.find, job_id=job)
                if bad is None or bad.id >= made.id or bad.work.fingerprint != made.work.fingerprint:
                    continue
                await asyncio.to_thread(wishes.drop, job)
                if not await forget_unused(client.journal, [bad.id]):
                    log.info("node %s: the earlier result of job %s is in use, and stays", self.node_id, job)

    async def _record_of(self, client: AsyncXalora, outcome: OutcomeT) -> Record | None:
        """The outcome's record, where the user wants any result made again."""
        if outcome.task_id is None or not wishes.for_new_results():
            return None
        return await asyncio.to_thread(client.journal.find, task_id=outcome.task_id)

    async def _receive(self, index: int, outcome: OutcomeT) -> Image.Image | None:
        """Take in one task's outcome; a returned picture becomes the node's preview."""
        raise NotImplementedError

    async def _value(self, outcomes: Sequence[OutcomeT]) -> ValueT:
        """The node's value, from all outcomes in order."""
        raise NotImplementedError

    def _summary(self, outcomes: Sequence[OutcomeT], seconds: float) -> str:
        """The line that stays on the node."""
        raise NotImplementedError

    def _fallback_value(self, plan: BatchPlan) -> ValueT:
        """The node's value where the plan leaves tasks to this machine."""
        raise NotImplementedError

    @property
    def outcomes(self) -> Mapping[int, OutcomeT]:
        """The outcomes so far, by index."""
        return self._outcomes

    def cancel(self, whole_id: str | None) -> list[asyncio.Task[None]]:
        wholes = {task.whole() for task in self.tasks}
        if whole_id is not None and not any(whole and whole.id == whole_id for whole in wholes):
            return []
        self._canceled = True
        if self._plan is None:
            return []
        self._plan.cancel()
        not_accepted = [index for index in self._workers if index not in self._open_task_ids]
        self._withdrawn.update(not_accepted)
        workers = [self._workers.pop(index) for index in not_accepted]
        for worker in workers:
            worker.cancel()
        return workers

    async def _perform(self, client: AsyncXalora) -> ValueT:
        watching = asyncio.get_running_loop().create_task(self._watch_queue(client))
        try:
            return await self._perform_all(client)
        finally:
            watching.cancel()

    async def _watch_queue(self, client: AsyncXalora) -> None:
        """Ask, while tasks only wait, whether a miner takes such tasks at all; asking is free."""
        while self.tasks:
            await asyncio.sleep(WATCH_SECONDS)
            if self._progress.only_waits(monotonic()) < UNTAKEN_SECONDS:
                self._progress.no_miner = False
                continue
            task = self.tasks[0]
            try:
                await client.resource_request(task_type=task.task_type, workflow_id=task.workflow_id)
                self._progress.no_miner = False
            except NoMinerError:
                self._progress.no_miner = True
            except XaloraError as error:
                log.debug("node %s: no miner could be asked for: %s", self.node_id, error)
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _perform_all(self, client: AsyncXalora) -> ValueT:
        self._plan = plan = BatchPlan(
            self.total,
            self._policy(client.settings),
            self.noun,
            max_resends=self.max_resends,
            done_word=self.done_word,
        )
        if self._canceled:
            plan.cancel()
        self._progress.cost = self._estimate(client.settings)
        if self._progress.cost:
            # Before the first create, so that there is something to cancel.
            self._reporter.show()
            log.info("node %s: %s", self.node_id, self._progress.line(monotonic()))
        in_flight = self.options.max_in_flight or client.settings.max_in_flight
        try:
            await run_all_or_cancel(self._work(client, plan) for _ in range(min(in_flight, self.total)))
        except BaseException:
            self._log_open_tasks()
            raise
        plan.check()
        if plan.missing:
            return self._fallback_value(plan)
        outcomes = [self._outcomes[index] for index in range(self.total)]
        value = await self._value(outcomes)
        line = self._summary(outcomes, monotonic() - self._began)
        self._reporter.say_last(line)
        log.info("node %s: %s (%s)", self.node_id, line, _task_list(one.task_id for one in outcomes))
        return value

    def _estimate(self, settings: Settings) -> str:
        """What sending all tasks costs by the user's prices; empty where they do not tell."""
        if self._policy(settings) == "local_only":
            return ""
        cost = cost_of(settings.prices, [Sent(task.task_type, task.workflow_id, 1) for task in self.tasks])
        return "" if cost is None else cost_text(cost)

    def _policy(self, settings: Settings) -> FallbackPolicy:
        return (self.options.fallback or settings.fallback) if self.may_fall_back else "never"

    async def _work(self, client: AsyncXalora, plan: BatchPlan) -> None:
        """Do one task after another until none is left to begin."""
        while (index := plan.next()) is not None:
            await self._do_task(client, plan, index)
            self._open_task_ids.pop(index, None)

    async def _do_task(self, client: AsyncXalora, plan: BatchPlan, index: int) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        self._workers[index] = worker
        self._origins.sending(index)
        is_received = False
        try:
            outcome = await self._perform_as_wished(client, index)
            is_received = True
            self._workers.pop(index, None)
            async with self._decoding:
                preview = await self._receive(index, outcome)
        except asyncio.CancelledError:
            if index not in self._withdrawn:
                raise
            plan.failed(index, _withdrawn_error())
        except XaloraError as error:
            self._note_failure(plan, index, error, is_kept=is_received)
        except Exception as error:
            log.exception("node %s: %s %d ended by an unforeseen error", self.node_id, self.noun, index + 1)
            self._note_failure(plan, index, UnexpectedError.of(error), is_kept=is_received)
        else:
            self._outcomes[index] = outcome
            plan.succeeded(index, outcome.task_id)
            self._progress.finished(index)
            self._reporter.show(preview)
        finally:
            self._workers.pop(index, None)
            self._origins.sent(index)

    def _note_failure(self, plan: BatchPlan, index: int, error: XaloraError, *, is_kept: bool) -> None:
        if isinstance(error, TaskCanceledError) and self.is_own_cancel(error):
            error = OwnCancelError(
                error.what, money=CANCELED_THERE, task_id=error.task_id, job_id=error.job_id
            )
        if error.job_id is not None:
            self._origins.note(index, error.job_id)
        if plan.failed(index, error, is_kept=is_kept):
            log.warning("node %s: %s %d is sent again: %s", self.node_id, self.noun, index + 1, error)
            self._progress.again(index, monotonic())
        elif self.total > 1:
            # The node's own error names only the first of those that failed.
            log.warning("node %s: %s %d failed: %s", self.node_id, self.noun, index + 1, error)

    def _creation_options(
        self, client: AsyncXalora, index: int, *, newer_than: int = 0, **claim: Any
    ) -> dict[str, Any]:
        """The options that `client.run` and `client.submit` have in common, `claim` in their place."""
        from ...xalora_client.client import HostOptions

        return {
            "on_event": self._listener(index),
            "reuse": self.options.reuse and client.settings.reuse,
            "if_unknown": self.options.if_unknown,
            "host": HostOptions(
                among=self.options.reuse_among,
                newer_than=newer_than,
                # A prompt that merely ended leaves its paid tasks running.
                cancels=lambda: self._interrupt.requested or index in self._withdrawn,
                takes_over=True,
                run_id=self.origin.prompt_id or None,
            ),
            **claim,
        }

    def _listener(self, index: int) -> Callable[[TaskEvent], None]:
        """A listener for the events of one task."""

        def note(event: TaskEvent) -> None:
            self._origins.note(index, event.job_id)
            if event.task_id:
                self._accepted(index, event.task_id)
            self._progress.note(index, event, monotonic())

        return note

    def _accepted(self, index: int, task_id: str) -> None:
        """Note that the network has accepted this task.

        Called at the task's first event, not at the end of the client's call: a cancelled call has no result,
        although its task was accepted.
        """
        if self._open_task_ids.get(index) == task_id:
            return
        self._open_task_ids[index] = task_id
        self._origins.sent(index)
        if self.on_submitted is not None:
            self.on_submitted(task_id)

    def _log_open_tasks(self) -> None:
        """Log the paid tasks that nothing waits for any more."""
        if self._open_task_ids and not self._interrupt.requested:
            log.warning(
                "node %s: the prompt ended for another reason; paid tasks are left running: %s",
                self.node_id,
                _task_list(self._open_task_ids.values()),
            )


def _withdrawn_error() -> OwnCancelError:
    return OwnCancelError(
        "It was canceled from the sidebar before the network had confirmed it",
        money="If the network had accepted it, it was canceled there, and whether that is charged is the "
        "network's decision.",
        next_step="Queue the graph again to run it.",
    )


def _input_picture(tasks: Sequence[WorkflowTask], index: int) -> Image.Image | None:
    """A small picture of a task's input image, None where it has none; called on a worker thread."""
    if not tasks:
        return None
    from ..conversion.image_tensors import preview_of
    from ..conversion.previews import INPUT_PIXELS

    image = next(iter(tasks[index].image_parameters().values()), None)
    if image is None or not hasattr(image, "detach"):
        return None
    return preview_of(image.detach().float().cpu().numpy(), 2 * INPUT_PIXELS)


def _task_list(task_ids: Iterable[str | None]) -> str:
    ids = list(dict.fromkeys(filter(None, task_ids)))
    return f"task{'s' if len(ids) > 1 else ''} {', '.join(ids)}" if ids else "no task"
