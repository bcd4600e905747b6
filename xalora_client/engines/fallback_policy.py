"""Whether an error of the network lets this machine take over. No I/O."""

from __future__ import annotations

from ..config import FallbackPolicy
from ..errors import (
    AmbiguousCreateError,
    AuthenticationError,
    ClientClosedError,
    EngineError,
    MissingKeyError,
    NetworkError,
    NoMinerError,
    QueueLimitError,
    RateLimitError,
    ServiceError,
    TaskCanceledError,
    TaskFailedError,
    TaskTimeoutError,
    XaloraConnectionError,
    XaloraError,
)

_UNAVAILABLE = (
    MissingKeyError,
    XaloraConnectionError,
    NoMinerError,
    RateLimitError,
    ServiceError,
    AmbiguousCreateError,
    QueueLimitError,
)

_FAILURES = (TaskFailedError, TaskCanceledError, TaskTimeoutError)


def is_out_of_sight(error: XaloraError) -> bool:
    """Whether it is about a task that exists and goes on, whose status merely could not be read."""
    return isinstance(error, NetworkError) and error.task_id is not None


def falls_back(policy: FallbackPolicy, error: XaloraError) -> bool:
    """Whether work that ended with ``error`` on the network is to be done on this machine instead.

    A wrong key never falls back: it would hide a mistake that the user must know of.
    """
    if isinstance(error, AuthenticationError | ClientClosedError | EngineError):
        return False
    if policy == "when_unavailable":
        return isinstance(error, _UNAVAILABLE)
    if policy == "on_any_failure":
        return isinstance(error, (*_UNAVAILABLE, *_FAILURES)) or error.task_id is not None
    return False
