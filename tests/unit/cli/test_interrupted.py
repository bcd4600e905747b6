"""What an interrupted command says of its tasks."""

from __future__ import annotations

from typing import Any, cast

import pytest

from xalora_client.cli.interrupted import last_words, print_tasks_left
from xalora_client.cli.job_runner import Job, JobReport
from xalora_client.cli.screen import Screen
from xalora_client.config import load_settings
from xalora_client.journal import Event, Journal, Work

CANCELED = [Event.SEND, Event.ACCEPTED, Event.CANCELED]


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


def test_a_task_that_was_never_sent_and_one_canceled_before_its_id_was_heard_of_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = load_settings(workflow_url="http://devnet").settings
    reports = []
    with Journal(None) as journal:
        for number, (name, ends) in enumerate({"a.png": [Event.NOT_SENT], "b.png": CANCELED}.items()):
            work = Work(
                fingerprint=f"{number:064x}",
                sequencer_url="http://devnet",
                consumer_id="someone",
                task_type="upscaler",
                label=f"upscale {name}",
            )
            record = journal.claim(work, job_id=f"job-{number}").result().record
            for event in ends:
                journal.note(record.id, event, task_id="t-1", at=0.0, error=None)
            reports.append(JobReport(Job(f"upscale {name}", cast(Any, None), cast(Any, None)), started=True))
        print_tasks_left(Screen(), journal, settings, reports, 0.0)
    told = capsys.readouterr().err
    assert "upscale a.png: was not sent" in told
    assert "upscale b.png: task t-1 is canceled" in told
