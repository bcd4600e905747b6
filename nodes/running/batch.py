"""Which tasks of a node are to be sent, sent again, left to this machine, or given up. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from ...xalora_client.config import FallbackPolicy
from ...xalora_client.errors import (
    NOT_ACCEPTED,
    NOTHING_CHARGED,
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
    ServiceError,
    StoreError,
    TaskFailedError,
    XaloraConnectionError,
    XaloraError,
)
from ...xalora_client.rules import falls_back

MAX_RESENDS = 2
"""How often one failed task is sent again. Each time costs, and what fails three times fails for a reason."""

_LISTED = 5

_FREE = (NOTHING_CHARGED, NOT_ACCEPTED)

# Ended without a usable result for a reason that another miner need not share.
_WORTH_ANOTHER_TASK = (TaskFailedError, ResultExpiredError, ResultFormatError)

# What the next task would meet too: sending it would only take time, or money.
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


class BatchError(XaloraError):
    """Some tasks of a node ended without a result.

    Attributes:
        errors: What happened, by the task's index from 0.
        finished: Task ids of the results that are there, by index.
    """

    def __init__(
        self,
        what: str,
        *,
        money: str,
        next_step: str,
        errors: Mapping[int, XaloraError],
        finished: Mapping[int, str],
    ) -> None:
        super().__init__(what, money=money, next_step=next_step)
        self.errors = dict(errors)
        self.finished = dict(finished)


class BatchPlan:
    """Decides for each task of a node what happens next.

    Args:
        total: How many tasks there are.
        policy: When this machine takes over.
        noun: What one of them makes, for messages: ``image``.
        max_resends: How often one of them is sent again.
        done_word: What those are that succeeded, for messages: ``finished``, ``submitted``.
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
        self._resends = [0] * total
        self._finished: dict[int, str | None] = {}
        self._errors: dict[int, XaloraError] = {}
        self._missing: dict[int, XaloraError | None] = {}
        self._unsent: list[int] = []
        self._stopped_by: XaloraError | None = None
        self._of_no_use: XaloraError | None = None
        self._canceled = False
        if policy == "local_only":
            self._missing.update(dict.fromkeys(self._queue))
            self._queue.clear()

    def next(self) -> int | None:
        """The index of the task to be done now, None where none is left to begin."""
        return self._queue.popleft() if self._queue else None

    def succeeded(self, index: int, task_id: str | None) -> None:
        """The task's result is there."""
        self._finished[index] = task_id

    def failed(self, index: int, error: XaloraError, *, is_kept: bool = False) -> bool:
        """The task ended with this error.

        Args:
            is_kept: Its result is whole and kept, and no use to the node: asked again it would answer again,
                and where kept results are not to answer, a new task would most likely make the same.

        Returns:
            Whether it is to be sent again: :meth:`next` gives it once more.
        """
        is_worth_another = isinstance(error, _WORTH_ANOTHER_TASK) and not (is_kept or self._canceled)
        if is_worth_another and self._resends[index] < self._max_resends:
            self._resends[index] += 1
            self._queue.append(index)
            return True
        if is_kept:
            self._of_no_use = error
        if falls_back(self._policy, error):
            self._missing[index] = error
        else:
            self._errors[index] = error
        if isinstance(error, _CONCERNS_ALL) and not isinstance(error, _CONCERNS_ONE):
            self._stopped_by = error
            self._stop_sending(index)
        return False

    def cancel(self) -> None:
        """The user has canceled everything: nothing more is sent, nor made on this machine instead."""
        self._canceled = True
        self._policy = "never"
        self._unsent.extend(self._queue)
        self._queue.clear()
        for index, error in self._missing.items():
            if error is None:
                self._unsent.append(index)
            else:
                self._errors[index] = error
        self._missing.clear()

    def _stop_sending(self, index: int) -> None:
        if index in self._missing:
            self._missing.update(dict.fromkeys(self._queue))
        else:
            self._unsent.extend(self._queue)
        self._queue.clear()

    @property
    def missing(self) -> tuple[int, ...]:
        """Indexes of what this machine is to compute, in order. Empty where an error has to be raised."""
        return () if self._errors else tuple(sorted(self._missing))

    @property
    def reasons(self) -> tuple[XaloraError, ...]:
        """The errors for which this machine takes over, as they came; none where the policy alone says so."""
        return tuple(error for error in self._missing.values() if error is not None)

    def check(self) -> None:
        """Raise what has to be told to the user, if anything.

        Raises:
            XaloraError: A single task's own error.
            BatchError: Several tasks, some of which failed for good.
        """
        if not self._errors and not (self._canceled and self._unsent):
            return
        if self.total == 1 and self._errors:
            raise self._errors[0]
        finished = {i: id for i, id in sorted(self._finished.items()) if id is not None}
        raise BatchError(
            self._what(),
            money=self._money(finished),
            next_step=self._next_step(),
            errors=self._errors,
            finished=finished,
        ) from next(iter(self._errors.values()), None)

    def _next_step(self) -> str:
        if self._stopped_by is not None and self._stopped_by.next_step:
            return self._stopped_by.next_step
        if self._of_no_use is not None:
            return self._of_no_use.next_step
        return (
            "Queue the graph again for the missing ones: those that are there are not sent again. "
            "Xalora Collect gives a result by its task id."
        )

    def _what(self) -> str:
        if not self._errors:
            return f"{len(self._unsent)} of {self.total} {self._noun}s were not sent: all tasks were canceled"
        groups = self._grouped(_reason)
        listed = [f"{self._named(group)}: {reason}" for reason, group in groups.items()]
        shown = "; ".join(listed[:_LISTED])
        if len(listed) > _LISTED:
            left = sum(len(group) for group in list(groups.values())[_LISTED:])
            shown += f"; and {left} more"
        if self._unsent:
            shown += f"; {len(self._unsent)} more were not sent for that reason"
        return f"{len(self._errors)} of {self.total} {self._noun}s came to nothing: {shown}"

    def _grouped(self, by: Callable[[XaloraError], str]) -> dict[str, list[int]]:
        """The indexes of the failed tasks, by what their errors have in common."""
        groups: dict[str, list[int]] = {}
        for index, error in sorted(self._errors.items()):
            groups.setdefault(by(error), []).append(index)
        return groups

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
        groups = self._grouped(lambda error: error.money)
        if len(groups) == 1 and not told:
            return next(iter(groups))
        told += [
            f"{self._numbered(group).capitalize()}{', each' if len(group) > 1 else ''}: {money}"
            for money, group in groups.items()
            if money not in _FREE
        ]
        return " ".join(told) or NOTHING_CHARGED


def _reason(error: XaloraError) -> str:
    """What happened, the same for all tasks that it happened to."""
    what = error.what.rstrip(".")
    if error.task_id:
        what = what.replace(f"task {error.task_id}", "the task").replace(f"Task {error.task_id}", "The task")
    return what


def _enumerated(noun: str, items: Sequence[str]) -> str:
    """``task a``, ``tasks a and b``, ``tasks a, b, c, d, e and 3 more``."""
    if len(items) == 1:
        return f"{noun} {items[0]}"
    shown = list(items[:_LISTED])
    last = f"{len(items) - _LISTED} more" if len(items) > _LISTED else shown.pop()
    return f"{noun}s {', '.join(shown)} and {last}"
