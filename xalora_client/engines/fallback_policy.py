"""The fallback policy: which errors of the network let this machine take over. No I/O."""

from __future__ import annotations

from ..config import FallbackPolicy
from ..errors import (
    AmbiguousCreateError,
    AuthenticationError,
    ClientClosedError,
    EngineError,
    NetworkError,
    NoMinerError,
    QueueLimitError,
    RateLimitError,
    ServiceError,
    TaskCanceledError,
    TaskFailedError,
    TaskNotKnownError,
    TaskTimeoutError,
    XaloraConnectionError,
    XaloraError,
)

_UNAVAILABLE = (
    XaloraConnectionError,
    NoMinerError,
    RateLimitError,
    ServiceError,
    QueueLimitError,
)

_FAILURES = (AmbiguousCreateError, TaskFailedError, TaskCanceledError, TaskTimeoutError)


def is_status_unavailable(error: XaloraError) -> bool:
    """Whether the task exists and runs on, and only its status could not be read."""
    is_of_a_task = isinstance(error, NetworkError) and error.task_id is not None
    return is_of_a_task and not isinstance(error, TaskNotKnownError)


def falls_back(policy: FallbackPolicy, error: XaloraError) -> bool:
    """Whether a task that ended with ``error`` on the network runs on this machine instead.

    A missing or wrong key never falls back: the user must learn of that mistake. Nor does a create of unknown
    outcome, unless any failure does: what becomes of a task that may be paid for is the user's decision.
    """
    if isinstance(error, AuthenticationError | ClientClosedError | EngineError):
        return False
    if policy == "when_unavailable":
        return isinstance(error, _UNAVAILABLE)
    if policy == "on_any_failure":
        return isinstance(error, (*_UNAVAILABLE, *_FAILURES)) or error.task_id is not None
    return False
