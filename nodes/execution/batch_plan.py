"""The decisions about a node's tasks: send, send again, leave to this machine, or give up. No I/O."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import copy

from ...xalora_client.config import FallbackPolicy
from ...xalora_client.engines.fallback_policy import falls_back
from ...xalora_client.errors import (
    NOTHING_CHARGED,
    NOTHING_SPENT,
    AuthenticationError,
    ConfigurationError,
    InputImageError,
    InputTooLargeError,
    JournalError,
    MissingKeyError,
    NoMinerError,
    QueueLimitError,
    RateLimitError,
    ResultExpiredError,
    ResultFormatError,
    ResultTooLargeError,
    ServiceError,
    StoreError,
    TaskCanceledError,
    TaskFailedError,
    XaloraConnectionError,
    XaloraError,
)

MAX_RESENDS = 2
"""How often a failed task is sent again. Each resend costs, and a task that fails three times is at fault."""

_LISTED = 5

# No usable result, for a reason that another miner need not share.
_WORTH_ANOTHER_TASK = (TaskFailedError, ResultExpiredError, ResultFormatError)

# Errors that the next task would meet too: sending it would cost only time, or money.
_CONCERNS_ALL = (
    MissingKeyError,
    AuthenticationError,
    XaloraConnectionError,
    NoMinerError,
    RateLimitError,
    ServiceError,
    QueueLimitError,
    StoreError,
    JournalError,
    ConfigurationError,
)
_CONCERNS_ONE = (InputImageError, InputTooLargeError)


class OwnCancelError(TaskCanceledError):
    """The user canceled the task here: that is no failure, and this machine does not take over."""


class BatchError(XaloraError):
    """Some tasks of a node ended without a result.

    Attributes:
        errors: The errors, by the task's index from 0.
        finished: Ids of the finished tasks, by index.
        noun: What a task makes.
        total: How many tasks there are.
    """

    def __init__(
        self,
        what: str,
        *,
        money: str,
        next_step: str,
        errors: Mapping[int, XaloraError],
        finished: Mapping[int, str],
        noun: str = "image",
        total: int = 1,
    ) -> None:
        super().__init__(what, money=money, next_step=next_step)
        self.errors = dict(errors)
        self.finished = dict(finished)
        self.noun = noun
        self.total = total


class BatchPlan:
    """Decides for each task of a node what happens next.

    Args:
        total: How many tasks there are.
        policy: When this machine takes over.
        noun: What a task makes, for messages: ``image``.
        max_resends: How often a task is sent again.
        done_word: The state of a task that succeeded, for messages: ``finished``, ``submitted``.
    """

    def __init__(
        self,
        total: int,
        policy: FallbackPolicy,
        noun: str = "image",
        *,
        max_resends: int = MAX_RESENDS,
        done_word: str = "finished",
    ) -> None:
        self.total = total
        self._max_resends = max_resends
        self._done_word = done_word
        self._policy = policy
        self._noun = noun
        self._queue = deque(range(total))
        # All errors of a task, in order: each try may be charged, not only the last.
        self._tries: dict[int, list[XaloraError]] = {}
        self._finished: dict[int, str | None] = {}
        self._errors: dict[int, XaloraError] = {}
        self._missing: dict[int, XaloraError | None] = {}
        self._unsent: list[int] = []
        self._stopped_by: XaloraError | None = None
        self._unusable: XaloraError | None = None
        self._canceled = False
        if policy == "local_only":
            self._missing.update(dict.fromkeys(self._queue))
            self._queue.clear()

    def next(self) -> int | None:
        """The index of the next task to begin, None where there is none."""
        return self._queue.popleft() if self._queue else None

    def succeeded(self, index: int, task_id: str | None) -> None:
        """Note that the task succeeded."""
        self._finished[index] = task_id

    def failed(self, index: int, error: XaloraError, *, is_kept: bool = False) -> bool:
        """Note that the task ended with this error.

        Args:
            is_kept: Its result is complete and kept, but the node can't use it. A resend would be answered
                with the kept result, and a new task would most likely make the same.

        Returns:
            Whether it is sent again: :meth:`next` returns it once more.
        """
        tries = self._tries.setdefault(index, [])
        tries.append(error)
        repeats = isinstance(error, TaskFailedError) and error.repeats
        is_worth_another = isinstance(error, _WORTH_ANOTHER_TASK) and not (
            repeats or is_kept or self._canceled or _would_repeat(tries)
        )
        if is_worth_another and len(tries) <= self._max_resends:
            self._queue.append(index)
            return True
        if is_kept:
            self._unusable = error
        if falls_back(self._policy, error) and not isinstance(error, OwnCancelError):
            self._missing[index] = error
        else:
            self._errors[index] = error
        if (repeats or isinstance(error, _CONCERNS_ALL)) and not isinstance(error, _CONCERNS_ONE):
            self._stopped_by = error
            self._stop_sending(index)
        return False

    def cancel(self) -> None:
        """Note that the user canceled all tasks: nothing more is sent, or done on this machine."""
        self._canceled = True
        self._policy = "never"
        self._leave_queued()
        for index, error in self._missing.items():
            if error is None:
                self._unsent.append(index)
            else:
                self._errors[index] = error
        self._missing.clear()

    def _stop_sending(self, index: int) -> None:
        if index in self._missing:
            self._missing.update((queued, self._last(queued)) for queued in self._queue)
            self._queue.clear()
        else:
            self._leave_queued()

    def _leave_queued(self) -> None:
        """Give up the queued tasks, which were never sent or failed at their last try."""
        for index in self._queue:
            error = self._last(index)
            if error is None:
                self._unsent.append(index)
            else:
                self._errors[index] = error
        self._queue.clear()

    def _last(self, index: int) -> XaloraError | None:
        return self._tries[index][-1] if index in self._tries else None

    @property
    def missing(self) -> tuple[int, ...]:
        """Indexes of the tasks left to this machine, in order. Empty where an error is to be raised."""
        return () if self._errors else tuple(sorted(self._missing))

    @property
    def reasons(self) -> tuple[XaloraError, ...]:
        """The errors for which this machine takes over, in order; none with the policy local_only."""
        return tuple(self._told(index) for index, error in self._missing.items() if error is not None)

    def check(self) -> None:
        """Raise the node's error, if there is one.

        Raises:
            OwnCancelError: The user canceled tasks, and nothing else went wrong.
            XaloraError: A single task's own error, with all of its tries.
            BatchError: Several tasks, some of which failed for good.
        """
        if not self._errors and not (self._canceled and self._unsent):
            return
        own = [error for error in self._errors.values() if isinstance(error, OwnCancelError)]
        if len(own) == len(self._errors):
            raise own[0] if own else OwnCancelError(self._what())
        if self.total == 1 and self._errors:
            error = self._told(0)
            raise error from (None if error is self._errors[0] else self._errors[0])
        finished = {i: id for i, id in sorted(self._finished.items()) if id is not None}
        raise BatchError(
            self._what(),
            money=self._money(finished),
            next_step=self._next_step(),
            errors=self._errors,
            finished=finished,
            noun=self._noun,
            total=self.total,
        ) from next(iter(self._errors.values()), None)

    def _told(self, index: int) -> XaloraError:
        """The task's last error; after resends, with their number and what each try may cost."""
        *earlier, last = self._tries[index]
        if not earlier:
            return last
        told = copy(last)
        told.what = f"{last.what.rstrip('.')}; it was sent {len(earlier) + 1} times"
        groups = _by_cost(self._tries[index]).items()
        costs = [f"{_capital(_tries_named(group))}{_each(group)}: {money}" for money, group in groups]
        told.money = " ".join(costs) or last.money
        if self._is_worn_out(index):
            told.next_step = (
                "Other miners failed too: change the input or the parameters. "
                f"Queued again unchanged, it is sent up to {self._max_resends + 1} times more."
            )
        return told

    def _is_worn_out(self, index: int) -> bool:
        """Whether it failed at every try, in a way that another miner need not share."""
        tries = self._tries[index]
        if _would_repeat(tries):
            return True
        return len(tries) > max(self._max_resends, 1) and isinstance(tries[-1], _WORTH_ANOTHER_TASK)

    def _next_step(self) -> str:
        if self._stopped_by is not None and self._stopped_by.next_step:
            return self._stopped_by.next_step
        if self._unusable is not None:
            return self._unusable.next_step
        step = "Queue the graph again for the missing ones; finished ones are not sent again. "
        if worn_out := [index for index in sorted(self._errors) if self._is_worn_out(index)]:
            which = _capital(self._numbered(worn_out))
            step += f"{which} failed each time: change input or parameters first. "
        return step + "Xalora Collect gives a result by its task id."

    def _what(self) -> str:
        if not self._errors:
            return f"{len(self._unsent)} of {self.total} {self._noun}s were not sent: all tasks were canceled"
        groups = self._grouped(self._reason)
        listed = [f"{self._named(group)}: {reason}" for reason, group in groups.items()]
        shown = "; ".join(listed[:_LISTED])
        if len(listed) > _LISTED:
            left = sum(len(group) for group in list(groups.values())[_LISTED:])
            shown += f"; and {left} more"
        if self._unsent:
            shown += f"; {len(self._unsent)} more were not sent for that reason"
        return f"{len(self._errors)} of {self.total} {self._noun}s failed: {shown}"

    def _grouped(self, by: Callable[[int], str]) -> dict[str, list[int]]:
        """The indexes of the failed tasks, by a common text."""
        groups: dict[str, list[int]] = {}
        for index in sorted(self._errors):
            groups.setdefault(by(index), []).append(index)
        return groups

    def _reason(self, index: int) -> str:
        """The error's text, the same for all tasks with the same error and number of tries."""
        what = _what_of_any_task(self._errors[index])
        sent = len(self._tries[index])
        return what if sent == 1 else f"{what}, sent {sent} times"

    def _named(self, group: Sequence[int]) -> str:
        """``image 2 (task b)``, ``images 2, 3 and 5 (tasks b, c and e)``."""
        ids = [task_id for index in group if (task_id := self._errors[index].task_id)]
        return f"{self._numbered(group)} ({_enumerated('task', ids)})" if ids else self._numbered(group)

    def _numbered(self, group: Sequence[int]) -> str:
        return _enumerated(self._noun, [str(index + 1) for index in group])

    def _money(self, finished: Mapping[int, str]) -> str:
        told: list[str] = []
        if finished:
            ids = ", ".join(f"{self._noun} {index + 1} is task {id}" for index, id in finished.items())
            told.append(f"{len(finished)} {self._done_word} and paid for: {ids}.")
        all_alike = {error.money for tries in self._tries.values() for error in tries}
        if len(all_alike) == 1 and not told and all(len(tries) == 1 for tries in self._tries.values()):
            return all_alike.pop()
        for money, spent in self._costs().items():
            numbers = [str(index + 1) + self._tries_of(index, group) for index, group in spent.items()]
            errors = [error for group in spent.values() for error in group]
            told.append(f"{_capital(_enumerated(self._noun, numbers))}{_each(errors)}: {money}")
        return " ".join(told) or NOTHING_CHARGED

    def _costs(self) -> dict[str, dict[int, list[XaloraError]]]:
        """The tries that may be charged, by the sentence about the charge and by index."""
        costs: dict[str, dict[int, list[XaloraError]]] = {}
        for index, tries in sorted(self._tries.items()):
            for money, group in _by_cost(tries).items():
                costs.setdefault(money, {})[index] = group
        return costs

    def _tries_of(self, index: int, group: Sequence[XaloraError]) -> str:
        """The ids of a task's tries, where it had several or has succeeded since."""
        is_clear = index not in self._finished and len(self._tries[index]) == 1
        return "" if is_clear else f" ({_tries_named(group)})"


def _would_repeat(tries: Sequence[XaloraError]) -> bool:
    """Whether the next task would end in the same way: the result is too large, or two miners say the same.

    A miner that the network does not name counts as another.
    """
    last = tries[-1]
    if isinstance(last, ResultTooLargeError):
        return True
    if len(tries) == 1 or not (cause := _cause(last)):
        return False
    before = tries[-2]
    is_another_miner = last.miner is None or last.miner != before.miner
    return cause == _cause(before) and last.task_id != before.task_id and is_another_miner


def _cause(error: XaloraError) -> str:
    """Why there is no usable result, without what names the task or its miner; empty where unknown."""
    if isinstance(error, TaskFailedError):
        names = [re.escape(name) for name in (error.task_id, error.job_id, error.miner) if name]
        return re.sub(rf"\b(?:{'|'.join(names)})\b", "", error.reason) if names else error.reason
    return _what_of_any_task(error) if isinstance(error, ResultFormatError) else ""


def _what_of_any_task(error: XaloraError) -> str:
    """The error's text with nothing in it that is the task's own."""
    what = error.what.rstrip(".")
    if error.task_id:
        what = what.replace(f"task {error.task_id}", "the task")
        what = what.replace(f"Task {error.task_id}", "The task")
    return what


def _by_cost(tries: Sequence[XaloraError]) -> dict[str, list[XaloraError]]:
    """Those of a task's tries that may be charged, by the sentence about the charge."""
    groups: dict[str, list[XaloraError]] = {}
    for error in tries:
        if error.money not in NOTHING_SPENT:
            groups.setdefault(error.money, []).append(error)
    return groups


def _tries_named(errors: Sequence[XaloraError]) -> str:
    """``tasks a and b``; the job id where the network gave no task id."""
    tasks = [error.task_id for error in errors if error.task_id]
    jobs = [error.job_id for error in errors if not error.task_id and error.job_id]
    named = [_enumerated(noun, ids) for noun, ids in (("task", tasks), ("job", jobs)) if ids]
    return " and ".join(named) or "the last one"


def _each(errors: Sequence[XaloraError]) -> str:
    return ", each" if len(errors) > 1 else ""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _enumerated(noun: str, items: Sequence[str]) -> str:
    """``task a``, ``tasks a and b``, ``tasks a, b, c, d, e and 3 more``."""
    if len(items) == 1:
        return f"{noun} {items[0]}"
    shown = list(items[:_LISTED])
    last = f"{len(items) - _LISTED} more" if len(items) > _LISTED else shown.pop()
    return f"{noun}s {', '.join(shown)} and {last}"
