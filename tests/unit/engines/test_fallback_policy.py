"""Which errors of the network let this machine take over."""

from __future__ import annotations

from xalora_client import errors
from xalora_client.engines.fallback_policy import falls_back


def test_a_missing_or_wrong_key_or_a_closed_client_never_falls_back() -> None:
    for policy in ("never", "when_unavailable", "on_any_failure"):
        assert not falls_back(policy, errors.MissingKeyError("no key"))
        assert not falls_back(policy, errors.AuthenticationError("401"))
        assert not falls_back(policy, errors.ClientClosedError("closed", task_id="t-1"))


def test_fallback_follows_the_policy() -> None:
    unavailable = [
        errors.XaloraConnectionError("x"),
        errors.NoMinerError("x"),
        errors.ServiceError("x"),
        errors.QueueLimitError("x"),
    ]
    failures = [
        errors.AmbiguousCreateError("x"),
        errors.TaskFailedError("x"),
        errors.TaskCanceledError("x"),
        errors.TaskTimeoutError("x"),
    ]
    for error in unavailable:
        assert falls_back("when_unavailable", error)
        assert falls_back("on_any_failure", error)
        assert not falls_back("never", error)
    for error in failures:
        assert not falls_back("when_unavailable", error)
        assert falls_back("on_any_failure", error)
    assert not falls_back("on_any_failure", errors.InvalidTaskError("x"))
    assert not falls_back("on_any_failure", errors.EngineError("x"))
