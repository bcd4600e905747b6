"""The three things a node does with tasks: run them, submit them, or collect submitted ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ...xalora_client.concurrency import run_decoding, run_in_thread
from ...xalora_client.errors import XaloraError
from ...xalora_client.journal import ClaimOptions
from .batch_plan import MAX_RESENDS, BatchPlan
from .node_progress import ResultSource, summary
from .task_loop import TaskLoop
from .wording import words_for

if TYPE_CHECKING:
    from PIL import Image

    from ...xalora_client.client import AsyncXalora
    from ...xalora_client.config import Settings
    from ...xalora_client.handle import TaskHandle
    from ...xalora_client.journal import Journal
    from ...xalora_client.results import RunResult

    Check = Callable[[Journal, Settings, ClaimOptions], None]

ValueT = TypeVar("ValueT")
ValueT_co = TypeVar("ValueT_co", covariant=True)


class ResultDecoder(Protocol[ValueT_co]):
    """Turns a node's results into the node's value; called on worker threads."""

    def add(self, index: int, result: RunResult) -> Image.Image | None:
        """Decode one result; several are decoded at a time. A returned picture becomes the node's preview."""
        ...

    def close(self, results: Sequence[RunResult]) -> ValueT_co:
        """The node's value, from all results in order."""
        ...


@dataclass(frozen=True)
class FallbackRequest:
    """The tasks that this machine has to do, because the network could not and the policy allows it.

    Attributes:
        results: The network's results, by index.
        missing: Indexes of the tasks without a result, in order.
        errors: The network's errors; empty where the policy is local_only and the network was not asked.
        seconds: How long the network's part took.
        policy_of_node: The policy comes from the node's own inputs, not from the settings.
    """

    results: dict[int, RunResult]
    missing: tuple[int, ...]
    errors: tuple[XaloraError, ...]
    seconds: float
    policy_of_node: bool = False

    @property
    def error(self) -> XaloraError | None:
        """The network's first error."""
        return self.errors[0] if self.errors else None

    @property
    def reason(self) -> str:
        """The reason, in words without a full stop."""
        if self.error is None:
            return "this machine is chosen for it"
        return words_for(self.error).what.rstrip(".")


@dataclass(eq=False, kw_only=True)
class _ResultLoop(TaskLoop["RunResult", ValueT]):
    """Tasks whose results are decoded.

    Args:
        decoder: Decodes them.
    """

    fulfills_wishes = True

    decoder: ResultDecoder[ValueT]

    async def _receive(self, index: int, outcome: RunResult) -> Image.Image | None:
        return await run_decoding(lambda: self.decoder.add(index, outcome))

    _size: str = field(default="", init=False)

    async def _value(self, outcomes: Sequence[RunResult]) -> ValueT:
        value = await run_decoding(lambda: self.decoder.close(outcomes))
        self._size = size_of(value)
        return value

    def _summary(self, outcomes: Sequence[RunResult], seconds: float) -> str:
        line = summary([source_of(result) for result in outcomes], seconds)
        # ComfyUI writes the size of the small preview below it.
        return f"{self._size}, {line}" if self._size else line


def size_of(value: object) -> str:
    """``1536 x 1024`` of an IMAGE; empty for other values."""
    shape: Sequence[int] = getattr(value, "shape", ())
    return f"{shape[2]} x {shape[1]}" if len(shape) == 4 else ""


@dataclass(eq=False, kw_only=True)
class RunTasks(_ResultLoop["ValueT | FallbackRequest"]):
    """New tasks, up to their results; or what is left to this machine.

    An interrupt cancels the remote tasks.

    Args:
        check: Called, on a thread, before any of them is sent: raises where none may be.
    """

    may_fall_back = True
    max_resends = MAX_RESENDS

    check: Check | None = None

    async def _perform(self, client: AsyncXalora) -> ValueT | FallbackRequest:
        check, settings, options = self.check, client.settings, self.options
        if check is not None and self._policy(settings) != "local_only":
            reuse = options.reuse and settings.reuse
            claim = ClaimOptions(reuse=reuse, among=options.reuse_among, if_unknown=options.if_unknown)
            await run_in_thread(lambda: check(client.journal, settings, claim))
        return await super()._perform(client)

    async def _perform_one(self, client: AsyncXalora, index: int, **claim: Any) -> RunResult:
        return await client.run(
            self.tasks[index],
            **self._creation_options(client, index, **claim),
            timeout=self.options.wait_timeout,
            fallback=self.options.fallback,
            queue_limit=self.options.queue_limit,
        )

    def _fallback_value(self, plan: BatchPlan) -> FallbackRequest:
        return FallbackRequest(
            self._outcomes,
            plan.missing,
            plan.reasons,
            monotonic() - self._began,
            policy_of_node=self.options.fallback is not None,
        )


@dataclass(eq=False, kw_only=True)
class CollectTasks(_ResultLoop[ValueT]):
    """Tasks that were submitted before, from their ids to their results.

    Args:
        task_ids: Their ids.
        cancels: An interrupt cancels them, as this prompt has submitted them; else it leaves them running.
        on_collected: Called with each task id whose result is on this machine, on the client's loop.
    """

    task_ids: Sequence[str]
    cancels: bool
    on_collected: Callable[[str], None]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cancels:
            # Canceled between the two nodes. A task of an earlier prompt would have been submitted again.
            self._own_since = 0.0

    async def _perform_one(self, client: AsyncXalora, index: int, **claim: Any) -> RunResult:
        from ...xalora_client.client import HostOptions

        task_id = self.task_ids[index]
        self._open_task_ids[index] = task_id
        timeout = self.options.wait_timeout or client.settings.wait_timeout
        # All open tasks are canceled by `open_tasks`; but one whose wait begins just then takes that back.
        host = HostOptions(cancels=lambda: self.cancels and self._interrupt.requested)
        listener = self._listener(index)
        result = await client.task(task_id).result(timeout=timeout, on_event=listener, host=host)
        self.on_collected(task_id)
        return result


class SubmitTasks(TaskLoop["TaskHandle", "list[str]"]):
    """New tasks, up to their ids, in order."""

    done_word = "submitted"

    async def _perform_one(self, client: AsyncXalora, index: int, **claim: Any) -> TaskHandle:
        return await client.submit(self.tasks[index], **self._creation_options(client, index, **claim))

    async def _receive(self, index: int, outcome: TaskHandle) -> None:
        # A kept result is found without an event.
        self._accepted(index, outcome.task_id)

    async def _value(self, outcomes: Sequence[TaskHandle]) -> list[str]:
        return [task.task_id for task in outcomes]

    def _summary(self, outcomes: Sequence[TaskHandle], seconds: float) -> str:
        # Equal images are one task.
        count = len({task.task_id for task in outcomes})
        return "submitted" if count == 1 else f"{count} tasks submitted"


def source_of(result: RunResult) -> ResultSource:
    """Where a result comes from, for the line on the node."""
    from ...xalora_client.media.result_files import left_out

    return ResultSource(result.engine, result.miner, result.reused, left_out(result.files))
