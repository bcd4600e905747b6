"""What an interrupted command says of its tasks."""

from __future__ import annotations

from typing import Any, cast

import pytest

from xalora_client.cli.interrupted import last_words
from xalora_client.cli.job_runner import Job, JobReport


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"task_id": "t-1"}, "task t-1 may run on and be charged; cancel it with: xalora cancel t-1"),
        (
            {"task_id": "t-1", "is_finished": True},
            "task t-1 has finished and is paid for; for its result: xalora resume t-1",
        ),
        ({}, "if it was sent, it may run on and be charged; see: xalora tasks"),
    ],
)
def test_each_task_that_is_left_is_told_as_far_as_it_is_known(known: dict[str, Any], words: str) -> None:
    job = Job("upscale a.png", cast(Any, None), cast(Any, None))
    assert f"upscale a.png: {words}" in last_words([JobReport(job, started=True, **known)])


def test_what_is_canceled_is_not_left() -> None:
    job = Job("upscale a.png", cast(Any, None), cast(Any, None))
    report = JobReport(job, started=True, task_id="t-1", is_canceled=True)
    assert last_words([report]) == "\nEnded at once.\n"
