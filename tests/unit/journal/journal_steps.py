"""The steps of a task in a journal, awaited; and another program that holds the journal's lock."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from xalora_client.journal import Claim, ClaimOptions, Event, Journal, Record, TaskState, Work
from xalora_client.journal import journal as journal_module
from xalora_client.journal.journal import PATIENCE_SECONDS

LONG = 60.0
"""Seconds that no step takes, however busy the machine is."""


def work(number: int = 0, **how: Any) -> Work:
    """A task; the same number is the same task."""
    common: dict[str, Any] = {"sequencer_url": "http://devnet", "consumer_id": "someone"}
    common |= {"task_type": "upscaler", "kind": "upscaler 512x512", "label": "Upscale a photograph"}
    return Work(fingerprint=f"{number:064x}", **{**common, **how})


def claim(journal: Journal, task: Work | int = 0, job_id: str = "job-1", **how: Any) -> Claim:
    task = work(task) if isinstance(task, int) else task
    patience = how.pop("patience", PATIENCE_SECONDS)
    options = ClaimOptions(**{"reuse": True, **how})
    claiming = journal.claim(task, options, job_id=job_id, folder=journal.look(task), patience=patience)
    return claiming.result(LONG)


def settled(journal: Journal, record_id: int) -> Record:
    """The record once everything noted is written."""
    journal.flushed().result(LONG)
    record = journal.find(record_id)
    assert record is not None
    return record


def note(journal: Journal, record_id: int, event: Event, **values: Any) -> Record:
    journal.note(record_id, event, **values)
    return settled(journal, record_id)


def leave(journal: Journal, *claims: Claim) -> None:
    for each in claims:
        journal.leave(each.lease)
    journal.flushed().result(LONG)


def send(journal: Journal, claimed: Claim, task_id: str | None = "task-1") -> Record:
    """Send a claimed task; with None it stays SENDING."""
    assert claimed.action == "send"
    journal.sending(claimed.record.id).result(LONG)
    if task_id is not None:
        journal.accepted(claimed.record.id, task_id).result(LONG)
    return settled(journal, claimed.record.id)


def submit(journal: Journal, task: Work | int = 0, number: int = 1) -> Record:
    """A new record with a task id and a lease."""
    return send(journal, claim(journal, task, f"job-{number}", again=True), f"task-{number}")


def finish(journal: Journal, record: Record, result: Any = "https://result", **how: Any) -> Record:
    return note(journal, record.id, Event.FINISHED, result=result, **how)


def keep(
    journal: Journal, record: Record, content: bytes = b"pixels", suffix: str = ".png", **how: Any
) -> Record:
    """Finish a submitted task; its result is on disk then."""
    finish(journal, record)
    file = journal.results.stem(record.id, record.job_id).with_suffix(suffix)
    file.write_bytes(content)
    return note(journal, record.id, Event.KEPT, files=journal.results.describe([file]), **how)


def evict(journal: Journal) -> None:
    """Have the kept results brought under their limit; done on return."""
    journal.evict()
    # Its thread takes one after the other, and changes are made in their order.
    journal_module._EVICTIONS.submit(int).result(LONG)
    journal.forget([]).result(LONG)


def deliver(journal: Journal, record: Record) -> Record:
    return note(journal, record.id, Event.DELIVERED)


ENDINGS: dict[str, dict[str, Any]] = {
    "failed": {"error": "oom"},
    "canceled": {},
    "not sent": {"error": "429"},
}


def end(journal: Journal, claimed: Claim, ending: str) -> Record:
    """Send a claimed task and have it end without a result."""
    send(journal, claimed, None if ending == "not sent" else f"task-of-{claimed.record.job_id}")
    return note(journal, claimed.record.id, Event(ending), **ENDINGS[ending])


def unknown(journal: Journal, task: Work | int = 0, job_id: str = "job-1") -> Record:
    """A record whose create went out and was not answered, with no lease."""
    claimed = claim(journal, task, job_id)
    send(journal, claimed, None)
    journal.note(claimed.record.id, Event.ANSWER_LOST, error="connection reset")
    leave(journal, claimed)
    record = settled(journal, claimed.record.id)
    assert record.state is TaskState.UNKNOWN
    return record


class LockHolder:
    """A connection of another program to the journal's file, which can hold its write lock."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=30)

    def hold(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()
