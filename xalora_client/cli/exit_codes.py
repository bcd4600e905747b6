"""The exit statuses of ``xalora``, and the one for each error."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from ..errors import (
    AmbiguousCreateError,
    AuthenticationError,
    ConfigurationError,
    InputImageError,
    InvalidTaskError,
    JournalError,
    MissingKeyError,
    NetworkError,
    ResultDownloadError,
    ResultExpiredError,
    ResultLocationError,
    StoreError,
    UnexpectedError,
    XaloraConnectionError,
    XaloraError,
)
from .outputs import OutputExistsError


class ExitCode(IntEnum):
    """Exit statuses in the order of their seriousness: a later one may concern more money.

    ``UNEXPECTED`` is a bug of this package.
    """

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFIGURATION = 3
    NO_KEY = 7
    NETWORK = 4
    NO_NETWORK = 8
    TASK_FAILED = 5
    OUTCOME_UNKNOWN = 6
    INTERRUPTED = 130


# The first match counts.
_CODES: tuple[tuple[tuple[type[XaloraError], ...], ExitCode], ...] = (
    ((AmbiguousCreateError,), ExitCode.OUTCOME_UNKNOWN),
    # Errors in the arguments, as opposed to the configuration.
    ((InvalidTaskError, InputImageError, OutputExistsError), ExitCode.USAGE),
    ((MissingKeyError,), ExitCode.NO_KEY),
    ((XaloraConnectionError,), ExitCode.NO_NETWORK),
    (
        (AuthenticationError, ConfigurationError, ResultLocationError, JournalError),
        ExitCode.CONFIGURATION,
    ),
    ((ResultExpiredError,), ExitCode.TASK_FAILED),
    ((UnexpectedError,), ExitCode.UNEXPECTED),
    ((NetworkError, StoreError, ResultDownloadError), ExitCode.NETWORK),
)


def exit_code_of(error: XaloraError) -> ExitCode:
    """The exit status for an error."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), ExitCode.TASK_FAILED)


def most_serious(codes: Iterable[ExitCode]) -> ExitCode:
    """The exit status of several jobs together; ``DONE`` for none."""
    return max(codes, key=list(ExitCode).index, default=ExitCode.DONE)
