"""A step of the journal for one task costs no more among thousands of others, in SQLite's own steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from journal_steps import LONG, claim, evict, keep, leave, note, work

from xalora_client.journal import Claim, Event, Journal

FEW, MANY = 20, 1000
STEPS_A_COUNT = 10


@contextmanager
def filled(folder: Path, records: int) -> Iterator[tuple[Journal, list[Claim]]]:
    """A journal with this many tasks under way, each with a kept result of one byte."""
    with Journal.open(folder / "journal.sqlite3", folder / "results", 10**9) as journal:
        claiming = [journal.claim(work(number), job_id=f"job-{number}") for number in range(records)]
        claims = [each.result(LONG) for each in claiming]
        for sending in [journal.sending(each.record.id) for each in claims]:
            sending.result(LONG)
        for each in claims:
            journal.accepted(each.record.id, f"task-{each.record.id}")
            journal.note(each.record.id, Event.FINISHED, result="https://result")
            file = journal.results.stem(each.record.id, each.record.job_id).with_suffix(".png")
            file.write_bytes(b"x")
            journal.note(each.record.id, Event.KEPT, files=journal.results.describe([file]))
        journal.flushed().result(LONG)
        yield journal, claims


def counted(journal: Journal, step: Callable[[], object]) -> int:
    """How many tens of virtual machine instructions SQLite runs for a step of the journal."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connections = [journal._reader._connection, journal._writer._connection]
    for connection in connections:
        assert connection is not None
        connection.set_progress_handler(tick, STEPS_A_COUNT)
    try:
        step()
        journal.flushed().result(LONG)
    finally:
        for connection in connections:
            assert connection is not None
            connection.set_progress_handler(None, 0)
    return count


STEPS: dict[str, Callable[[Journal, list[Claim]], object]] = {
    "claim": lambda journal, _: claim(journal, 10**6, "another"),
    "hold": lambda journal, claims: journal.hold(claims[3].record.id).result(LONG),
    "leased": lambda journal, claims: journal.leased([claims[3].record.id], besides=claims[3].lease),
    "status": lambda journal, claims: note(journal, claims[3].record.id, Event.STATUS, status="x"),
    "kept": lambda journal, claims: keep(journal, claims[3].record),
    "delivered": lambda journal, claims: note(journal, claims[3].record.id, Event.DELIVERED),
    "evict": lambda journal, claims: evict(journal),
    "leave": lambda journal, claims: leave(journal, claims[3]),
    "find": lambda journal, claims: journal.find(task_id="task-4"),
}


def test_a_step_for_one_task_does_not_look_at_all_others(tmp_path: Path) -> None:
    taken: dict[int, dict[str, int]] = {}
    for records in (FEW, MANY):
        with filled(tmp_path / str(records), records) as (journal, claims):
            note(journal, claims[3].record.id, Event.FILES_GONE)
            taken[records] = {
                name: counted(journal, partial(step, journal, claims)) for name, step in STEPS.items()
            }
    # Far below the 50-fold that looking at all of them would take; a tree gets deeper, though.
    slow = {
        name: (few, many)
        for (name, few), many in zip(taken[FEW].items(), taken[MANY].values(), strict=True)
        if many > 1.5 * few + 5
    }
    assert slow == {}
    assert taken[FEW]["claim"] > 0


def test_the_size_of_what_is_kept_is_known_without_adding_it_up(tmp_path: Path) -> None:
    with filled(tmp_path, FEW) as (journal, claims):

        def kept_size() -> int:
            return int(journal._read("SELECT value FROM counters WHERE name = 'kept'", ())[0][0])

        assert kept_size() == FEW
        note(journal, claims[0].record.id, Event.FILES_GONE)
        assert kept_size() == FEW - 1
        leave(journal, *claims)
        assert journal.forget([claims[1].record.id]).result(LONG)
        assert kept_size() == FEW - 2
        keep(journal, claims[0].record, b"xx")
        assert kept_size() == FEW
