"""Every error this package raises: one tree under :class:`XaloraError`.

A message has four parts: what happened, to which task, what it means for the user's money, and what to do
next. The constructor takes them apart, so that no call site can leave one out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

ErrorType = Literal["client_error", "server_error"]

NOTHING_CHARGED = "Nothing was sent, so nothing was charged."
NOT_ACCEPTED = "The task was not accepted, so nothing was charged."
NOTHING_SPENT = (NOTHING_CHARGED, NOT_ACCEPTED)
"""The money sentences of errors that never cost anything."""
STILL_RETRIEVABLE = "The task is paid for and its result stays retrievable by its id."
RUNS_ON = "The task is paid for and runs on in the network."
MAY_BE_CHARGED = "The task may exist and be charged, so it was not sent again."
MADE_HERE = "It was made on this machine, so nothing was charged."
FIRST_MAY_BE_CHARGED = "Its first create may have made a task that is charged; this one was not accepted."
FIRST_PROBABLY_CHARGED = "It probably has the task of the first create, which is charged; none was added."
CANCELED_THERE = "The task was canceled; whether a canceled task is charged is the network's decision."
NOT_CONFIRMED = "The cancel is not confirmed, so the task may run on and be charged."


class XaloraError(Exception):
    """Base of every error raised by this package.

    Args:
        what: What happened, one sentence.
        money: What it means for the user's money, one sentence.
        next_step: What to do next, one sentence.
        task_id: The network's id of the task, where there is one.
        job_id: The client's own id of the create request, where there is one.
        status_code: HTTP status of the answer, where there was one.

    Attributes:
        miner: Who worked on the task, where the network tells.
    """

    miner: str | None = None

    def __init__(
        self,
        what: str,
        *,
        money: str = NOTHING_CHARGED,
        next_step: str = "",
        task_id: str | None = None,
        job_id: str | None = None,
        status_code: int | None = None,
    ) -> None:
        self.what = what
        self.money = money
        self.next_step = next_step
        self.task_id = task_id
        self.job_id = job_id
        self.status_code = status_code
        super().__init__(what)

    @property
    def error_type(self) -> ErrorType | None:
        """From the status: ``client_error`` below 500, ``server_error`` from 500 up; None without one."""
        if self.status_code is None:
            return None
        return "server_error" if self.status_code >= 500 else "client_error"

    def hide(self, secret_out_of: Callable[[str], str]) -> None:
        """Remove a secret from what the message quotes, and forget the causes if they quote it too."""
        clean = secret_out_of(self.what)
        if clean != self.what:
            self.what, self.args = clean, (clean,)
            self.__cause__ = self.__context__ = None

    def __str__(self) -> str:
        subject = ""
        if self.task_id and self.task_id not in self.what:
            subject = f" (task {self.task_id})"
        elif self.job_id and self.job_id not in self.what:
            subject = f" (job {self.job_id})"
        what = self.what.rstrip(".") + subject + "."
        return " ".join(part for part in (what, self.money, self.next_step) if part)


class SettingProblem(NamedTuple):
    """A value of a setting that does not fit: the setting's name, where it was set, and why."""

    name: str
    source: str
    message: str


class ConfigurationError(XaloraError):
    """A setting is missing or wrong, or an optional dependency is not installed. Nothing was sent.

    ``problems`` has the settings whose values do not fit, where that is the reason.
    """

    problems: tuple[SettingProblem, ...] = ()


class MissingKeyError(ConfigurationError):
    """No API key is set."""


class ClientClosedError(XaloraError):
    """The client was closed before this call, or while it waited. A task that was sent runs on."""


class InvalidTaskError(ConfigurationError, ValueError):
    """A task's parameters do not fit (type, range, choice). Raised before anything is sent."""


class InputImageError(ConfigurationError, ValueError):
    """An input image can't be read, or has a shape or type that is not an image. Nothing was sent."""


class InputTooLargeError(ConfigurationError, ValueError):
    """An input image is over the inline limit and no object store is configured. Nothing was sent."""


class WorkflowDefinitionError(ConfigurationError, ValueError):
    """A workflow definition (JSON, YAML or index) is broken or unknown, or a parameter does not fit it."""


class DailyLimitError(ConfigurationError):
    """The user's own limit of a day is reached. Nothing was sent."""


class StoreError(XaloraError):
    """The user's own object store refused or lost an input image. No task was created."""


class NetworkError(XaloraError):
    """Base of everything that went wrong between this machine and the sequencer.

    ``retry_after`` is how many seconds the network asked to wait, None where it did not.
    """

    retry_after: float | None = None


class XaloraConnectionError(NetworkError):
    """The sequencer could not be reached; the request never left this machine.

    ``reason`` is why, in the words of the connection ("connection refused"); empty where nothing is known.
    """

    reason: str = ""


class AuthenticationError(NetworkError):
    """401 or 403: the key is wrong, expired, or not allowed to do this."""


class RateLimitError(NetworkError):
    """429 after the last retry."""


class NoMinerError(NetworkError):
    """The network has no miner for this workflow right now."""


class RequestRefusedError(NetworkError):
    """Another 4xx: the sequencer understood the request and refused it."""


class ServiceError(NetworkError):
    """5xx after the last retry, or an answer that is not what the protocol says."""


class AmbiguousCreateError(NetworkError):
    """A create went out and its answer never came: the task may or may not exist.

    The client never sends it again unasked, since every create costs money; ``job_id`` identifies it.
    """


class TaskError(XaloraError):
    """Base of the ways in which a task that was accepted can end without a result."""


class TaskFailedError(TaskError):
    """The network reports the task as failed.

    ``repeats``: another miner would fail in the same way, so the same task is not sent again. ``reason`` is
    why, in the network's or the miner's words, empty where none came.
    """

    repeats: bool = False
    reason: str = ""


class TaskNotKnownError(TaskError, RequestRefusedError):
    """404 or 410: the network does not know the task of this id.

    An id that this machine does not know either is refused at once. Of a task that the network accepted it is
    asked for some time; then ``status_code`` is None.
    """


class TaskCanceledError(TaskError):
    """The task was canceled, by its owner or by the network's own timeout."""


class TaskTimeoutError(TaskError, TimeoutError):
    """The client's waiting time ended before the task did. The task runs on, unless told otherwise."""


class QueueLimitError(TaskError):
    """The task waited in the network's queue for longer than the limit the user set.

    ``cancel_confirmed`` tells whether the network confirmed that the task is canceled.
    """

    cancel_confirmed: bool = False


class ResultError(XaloraError):
    """Base of everything wrong with a finished task's result. The task is paid for.

    Attributes:
        is_worthless: The result is known to be of no worth to anybody, so that the same task must be a new
            one. That this machine lacks something, or that the result is over a limit of its user, shows no
            such thing.
    """

    is_worthless: ClassVar[bool] = False


class ResultLocationError(ResultError):
    """The result is a storage key that is not under the base URL of results, or its form is unknown."""


class ResultDownloadError(ResultError):
    """The result could not be downloaded in full."""


class ResultMissingError(ResultError):
    """The network reports the task as finished, and has no result for it."""

    is_worthless = True


class ResultExpiredError(ResultDownloadError):
    """The network no longer has the result (404 or 410)."""

    is_worthless = True


class ResultFormatError(ResultError):
    """The downloaded bytes are not a complete image or video that this package reads."""

    is_worthless = True


class ResultTooLargeError(ResultFormatError):
    """The result needs more memory or time to be decoded than is allowed, or than this machine has.

    The same task asked again is not sent again: it is fetched once more.
    """

    is_worthless = False


class ResultSaveError(ResultError, OSError):
    """A result could not be written to where the user wants it; it stays in the results folder."""


class JournalError(XaloraError):
    """The journal of tasks can't be opened, read or written."""


class UnexpectedError(XaloraError):
    """An exception that nobody foresaw met one task of several; it is this error's cause."""

    @classmethod
    def of(cls, error: Exception) -> UnexpectedError:
        """The error of one task, for an exception that must not end the others."""
        unexpected = cls(
            f"An unforeseen {type(error).__name__} ended this task alone: {error}",
            money="If it was sent, it may be charged, and `xalora tasks` lists it.",
            next_step="Please report it with the log.",
        )
        unexpected.__cause__ = error
        return unexpected


class EngineError(XaloraError):
    """An engine on this machine (torch, a ComfyUI server, Pillow) could not run the task."""
