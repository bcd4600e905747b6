"""What the exit status of ``xalora`` means, and which one an error gets."""

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
    NetworkError,
    ResultDownloadError,
    ResultExpiredError,
    ResultLocationError,
    StoreError,
    XaloraError,
)
from .outputs import OutputExistsError


class ExitCode(IntEnum):
    """Exit statuses; the higher, the more serious, since the more money may be at stake.

    ``UNEXPECTED`` is a mistake in this package.
    """

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFIGURATION = 3
    NETWORK = 4
    TASK_FAILED = 5
    OUTCOME_UNKNOWN = 6
    INTERRUPTED = 130


# The first that fits.
_CODES: tuple[tuple[tuple[type[XaloraError], ...], ExitCode], ...] = (
    ((AmbiguousCreateError,), ExitCode.OUTCOME_UNKNOWN),
    # What was typed does not fit, as opposed to how this machine is set up.
    ((InvalidTaskError, InputImageError, OutputExistsError), ExitCode.USAGE),
    (
        (AuthenticationError, ConfigurationError, ResultLocationError, JournalError),
        ExitCode.CONFIGURATION,
    ),
    ((ResultExpiredError,), ExitCode.TASK_FAILED),
    ((NetworkError, StoreError, ResultDownloadError), ExitCode.NETWORK),
)


def exit_code_of(error: XaloraError) -> ExitCode:
    """The exit status for an error: what it is about, not where it was raised."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), ExitCode.TASK_FAILED)


def most_serious(codes: Iterable[ExitCode]) -> ExitCode:
    """The exit status of several pieces of work together; ``DONE`` for none."""
    return max(codes, default=ExitCode.DONE)
