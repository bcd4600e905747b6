"""Tasks of parts: what is sent again, and how long the rest takes."""

from __future__ import annotations

import pytest

from xalora_client.errors import (
    NetworkError,
    ResultExpiredError,
    TaskCanceledError,
    TaskFailedError,
    XaloraError,
)
from xalora_client.parts import MAX_RESENDS, is_sent_again, seconds_left


def failed(repeats: bool = False) -> TaskFailedError:
    error = TaskFailedError("failed")
    error.repeats = repeats
    return error


@pytest.mark.parametrize(
    ("tries", "again"),
    [
        ([failed()], True),
        ([failed()] * MAX_RESENDS, True),
        ([failed()] * (MAX_RESENDS + 1), False),
        ([failed(repeats=True)], False),
        ([ResultExpiredError("gone")], True),
        ([TaskCanceledError("canceled")], False),
        ([NetworkError("no answer")], False),
    ],
)
def test_what_is_sent_again(tries: list[XaloraError], again: bool) -> None:
    assert is_sent_again(tries) is again


def test_the_estimate_follows_the_pace() -> None:
    assert seconds_left(10.0, 5, 20) == 40.0
    assert seconds_left(10.0, 0, 20) is None
