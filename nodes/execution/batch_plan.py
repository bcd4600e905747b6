"""The decisions about a node's tasks: send, send again, leave to this machine, or give up. No I/O."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from http import HTTPStatus

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
    RequestRefusedError,
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

    @property
    def first(self) -> XaloraError:
        """The error that is told of all."""
        return self.errors[_to_tell(self.errors)]


def _to_tell(errors: Mapping[int, XaloraError]) -> int:
    """The index of the first error that is no cancel of the user's own, which is no news."""
    return min(errors, key=lambda index: (isinstance(errors[index], OwnCancelError), index))


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
        if (repeats or _concerns_all(error)) and not isinstance(error, _CONCERNS_ONE):
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
        """The task's last error; after resends, with their ids and what they may cost."""
        tries = self._tries[index]
        if len(tries) == 1:
            return tries[-1]
        told = copy(tries[-1])
        ids = _listed([f"task {e.task_id}" if e.task_id else f"job {e.job_id}" for e in tries])
        told.what = f"{told.what.rstrip('.')}; it was sent {len(tries)} times ({ids})"
        told.money = charges_of(tries) or told.money
        is_worn_out = len(tries) > max(self._max_resends, 1) and isinstance(told, _WORTH_ANOTHER_TASK)
        if is_worn_out or _would_repeat(tries):
            told.next_step = (
                "Other miners failed too: change the input or the parameters. "
                f"Queued again unchanged, it is sent up to {self._max_resends + 1} times more."
            )
        return told

    def _what(self) -> str:
        if not self._errors:
            return f"{len(self._unsent)} of {self.total} {self._noun}s were not sent: all tasks were canceled"
        first = _to_tell(self._errors)
        which = f"{'first ' if len(self._errors) > 1 else ''}{self._noun} {first + 1}"
        unsent = f"; {len(self._unsent)} more were not sent for that reason" if self._unsent else ""
        what = f"{which}: {self._told(first).what.rstrip('.')}{unsent}"
        return f"{len(self._errors)} of {self.total} {self._noun}s failed, {what}"

    def _money(self, finished: Mapping[int, str]) -> str:
        paid = ""
        if finished:
            ids = list(dict.fromkeys(finished.values()))  # equal images are one task
            paid = f"{len(ids)} {self._done_word} and paid for ({_listed(ids)})."
        tries = [error for index in sorted(self._tries) for error in self._tries[index]]
        return f"{paid} {charges_of(tries)}".strip() or NOTHING_CHARGED

    def _next_step(self) -> str:
        if self._stopped_by is not None and self._stopped_by.next_step:
            return self._stopped_by.next_step
        if self._unusable is not None:
            return self._unusable.next_step
        return "Queue the graph again for the missing ones; finished ones are not sent again."


def _concerns_all(error: XaloraError) -> bool:
    lacks_credit = isinstance(error, RequestRefusedError) and error.status_code == HTTPStatus.PAYMENT_REQUIRED
    return lacks_credit or isinstance(error, _CONCERNS_ALL)


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


def charges_of(errors: Sequence[XaloraError]) -> str:
    """What may be charged for tasks that ended so, each sentence once; empty where nothing is."""
    return " ".join(dict.fromkeys(error.money for error in errors if error.money not in NOTHING_SPENT))


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
