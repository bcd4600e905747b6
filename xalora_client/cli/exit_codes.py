"""The exit statuses of ``xalora``, the one for each error, and the error for what nobody foresaw."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from ..errors import (
    AmbiguousCreateError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    InputImageError,
    InvalidTaskError,
    JournalError,
    NetworkError,
    ResultDownloadError,
    ResultExpiredError,
    ResultLocationError,
    StoreError,
    TaskNotKnownError,
    UnexpectedError,
    XaloraConnectionError,
    XaloraError,
)
from .destinations import OutputNameError
from .outputs import OutputExistsError


class ExitCode(IntEnum):
    """Exit statuses in the order of their seriousness: a later one may concern more money.

    ``DONE_HERE``: this machine made a result because the network could not. ``UNEXPECTED`` is a bug of this
    package.
    """

    DONE = 0
    DONE_HERE = 7
    UNEXPECTED = 1
    USAGE = 2
    CONFIGURATION = 3
    NETWORK = 4
    NO_NETWORK = 8
    TASK_FAILED = 5
    OUTCOME_UNKNOWN = 6
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.DONE: "done, by the network or by the engine of this machine that you named",
    ExitCode.DONE_HERE: "done by this machine instead of the network",
    ExitCode.UNEXPECTED: "a bug of this package",
    ExitCode.USAGE: "usage: an argument, an input that can't be read, an output that exists",
    ExitCode.CONFIGURATION: "settings, a workflow's files, a folder that can't be written, no key or a "
    "wrong one, journal, or where results are found",
    ExitCode.NETWORK: "network, store or download",
    ExitCode.NO_NETWORK: "no network: it can't be reached",
    ExitCode.TASK_FAILED: "a task failed, was canceled, took too long, is not known, has no usable result, "
    "or can't be run here",
    ExitCode.OUTCOME_UNKNOWN: "the outcome of a create is unknown",
    ExitCode.INTERRUPTED: "interrupted",
}
"""Each exit status in words, as the README has them."""

# The first match counts.
_CODES: tuple[tuple[tuple[type[XaloraError], ...], ExitCode], ...] = (
    ((AmbiguousCreateError,), ExitCode.OUTCOME_UNKNOWN),
    # Errors in the arguments, as opposed to the configuration.
    ((InvalidTaskError, InputImageError, OutputExistsError, OutputNameError), ExitCode.USAGE),
    ((XaloraConnectionError,), ExitCode.NO_NETWORK),
    (
        (AuthenticationError, ConfigurationError, ResultLocationError, JournalError),
        ExitCode.CONFIGURATION,
    ),
    ((ResultExpiredError, TaskNotKnownError), ExitCode.TASK_FAILED),
    ((UnexpectedError,), ExitCode.UNEXPECTED),
    ((NetworkError, StoreError, ResultDownloadError, ClientClosedError), ExitCode.NETWORK),
)


def exit_code_of(error: XaloraError) -> ExitCode:
    """The exit status for an error."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), ExitCode.TASK_FAILED)


def most_serious(codes: Iterable[ExitCode]) -> ExitCode:
    """The exit status of several jobs together; ``DONE`` for none."""
    return max(codes, key=list(ExitCode).index, default=ExitCode.DONE)


def unforeseen(error: Exception) -> UnexpectedError:
    """The error of a whole command, for an exception that nobody foresaw."""
    unexpected = UnexpectedError(
        f"An unforeseen {type(error).__name__} ended the command: {error}",
        money="What it has sent may be charged, and `xalora tasks` lists it.",
        next_step="This is a bug of xalora; please report it with the output of the same command after "
        "`xalora -vv`.",
    )
    unexpected.__cause__ = error
    return unexpected
