"""A step of the journal for one task costs no more among thousands of others, in SQLite's own steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from xalora_client.journal import Claim, Journal, Work

FEW, MANY = 20, 1000
STEPS_A_COUNT = 10


def work(number: int) -> Work:
    return Work(
        fingerprint=f"{number:064d}",
        sequencer_url="http://devnet",
        consumer_id="someone",
        task_type="upscaler",
        kind="upscaler 512x512",
        label=f"Upscale {number}",
    )


@contextmanager
def filled(folder: Path, records: int) -> Iterator[tuple[Journal, list[Claim]]]:
    """A journal in memory with this many tasks in flight, each with a kept result of one byte."""
    with Journal.open(None, folder, 10**9) as journal:
        claims = [journal.claim(work(number), job_id=f"job-{number}") for number in range(records)]
        for claim in claims:
            journal.sending(claim.record.id)
            journal.submitted(claim.record.id, f"task-{claim.record.id}")
            keep(journal, claim)
        yield journal, claims


def keep(journal: Journal, claim: Claim) -> None:
    journal.finished(claim.record.id, "https://result")
    file = journal.result_stem(claim.record).with_suffix(".png")
    file.write_bytes(b"x")
    journal.kept(claim.record.id, [file])


def counted(journal: Journal, step: Callable[[], object]) -> int:
    """How many tens of virtual machine instructions SQLite runs for a step of the journal."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with journal._database.read() as connection:
        connection.set_progress_handler(tick, STEPS_A_COUNT)
    try:
        step()
    finally:
        with journal._database.read() as connection:
            connection.set_progress_handler(None, 0)
    return count


STEPS: dict[str, Callable[[Journal, list[Claim]], object]] = {
    "claim": lambda journal, _: journal.claim(work(10**6), job_id="another"),
    "take": lambda journal, claims: journal.take(claims[3].lease),
    "others": lambda journal, claims: journal.others(claims[3].lease),
    "kept": lambda journal, claims: keep(journal, claims[3]),
    "delivered": lambda journal, claims: journal.delivered(claims[3].record.id),
    "leave": lambda journal, claims: journal.leave(claims[3].lease),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_for_one_task_does_not_look_at_all_others(name: str, tmp_path: Path) -> None:
    taken = []
    for records in (FEW, MANY):
        with filled(tmp_path / str(records), records) as (journal, claims):
            if name == "kept":
                journal.refetch(claims[3].record.id)
            taken.append(counted(journal, lambda: STEPS[name](journal, claims)))
    few, many = taken
    assert few > 0
    # Far below the 50-fold that looking at all of them would take; a tree gets deeper, though.
    assert many <= 1.5 * few + 5, taken


def test_claims_that_wait_to_be_sent_are_not_looked_at_either(tmp_path: Path) -> None:
    taken = []
    for records in (FEW, MANY):
        with Journal.open(None, tmp_path) as journal:
            for number in range(records):
                claim = journal.claim(work(number), job_id=f"job-{number}")
            taken.append(counted(journal, partial(journal.take, claim.lease)))
    assert taken[1] <= 1.5 * taken[0] + 5, taken


def test_the_size_of_what_is_kept_is_known_without_adding_it_up(tmp_path: Path) -> None:
    with filled(tmp_path, 5) as (journal, claims):
        assert journal._kept_size() == 5
        journal.refetch(claims[0].record.id)
        assert journal._kept_size() == 4
        for claim in claims:
            journal.leave(claim.lease)
        assert journal.forget(claims[1].record.id)
        assert journal._kept_size() == 3
        keep(journal, claims[0])
        assert journal._kept_size() == 4
