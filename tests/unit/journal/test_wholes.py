"""Lists for windows: a clip of its frames is one row, and what is read at once is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from journal_steps import LONG, claim, end, finish, leave, note, send, submit, work

from xalora_client.journal import Event, Journal, Record, Whole, Work
from xalora_client.journal.queries import where
from xalora_client.journal.wholes import parts_of, rows_by_group

CLIP = Whole("video-1", "upscale waves.mp4")
OTHER = Whole("video-2", "upscale dunes.mp4")


def frame(number: int, whole: Whole | None = CLIP) -> Work:
    label = f"{whole.label}, frame {number}" if whole else "upscale a photograph"
    return work(number, label=label, whole=whole)


def done(journal: Journal, task: Work, job_id: str) -> Record:
    claimed = claim(journal, task, job_id)
    record = finish(journal, send(journal, claimed, f"task-of-{job_id}"))
    leave(journal, claimed)
    return note(journal, record.id, Event.DELIVERED)


def test_of_a_whole_only_the_newest_part_that_fits_is_listed(journal: Journal) -> None:
    photo = done(journal, frame(0, None), "job-0")
    first, second = (done(journal, frame(number), f"job-{number}") for number in (1, 2))
    other = done(journal, frame(3, OTHER), "job-3")
    running = send(journal, claim(journal, frame(4), "job-4"))
    failed = end(journal, claim(journal, frame(5), "job-5"), "failed")

    def listed(**which: object) -> list[int]:
        records = journal.records(**which, one_a_whole=True)  # type: ignore[arg-type]
        assert journal.count(**which, one_a_whole=True) == len(records)  # type: ignore[arg-type]
        return [record.id for record in records]

    assert listed() == [failed.id, other.id, photo.id]
    assert listed(groups=("done",)) == [other.id, second.id, photo.id]
    assert listed(groups=("active",)) == [running.id]
    assert listed(groups=("done",), text="frame 1") == [first.id]
    assert listed(since=second.version) == [failed.id, other.id]
    assert journal.records(one_a_whole=True, limit=1, offset=1)[0].id == other.id


def test_the_parts_of_a_whole_are_listed_and_counted_by_its_id(journal: Journal) -> None:
    done(journal, frame(0, None), "job-0")
    first = done(journal, frame(1), "job-1")
    done(journal, frame(2, OTHER), "job-2")
    failed = end(journal, claim(journal, frame(3), "job-3"), "failed")
    assert first.work.whole == CLIP
    assert [record.id for record in journal.records(whole_id=CLIP.id)] == [failed.id, first.id]
    assert journal.count(whole_id=CLIP.id, groups=("done",)) == 1
    assert journal.count(whole_id="of nothing") == journal.count(whole_id="\ud800") == 0
    assert parts_of(journal.read, [CLIP.id, OTHER.id]) == {
        CLIP.id: {"done": 1, "failed": 1},
        OTHER.id: {"done": 1},
    }
    assert parts_of(journal.read, []) == {}


def test_a_part_that_was_tried_again_counts_by_its_last_try(journal: Journal) -> None:
    end(journal, claim(journal, frame(1), "job-1"), "failed")
    done(journal, frame(1), "job-2")
    end(journal, claim(journal, frame(2), "job-3"), "canceled")
    end(journal, claim(journal, frame(2), "job-4"), "failed")
    send(journal, claim(journal, frame(3), "job-5"), "task-5")
    made_here = end(journal, claim(journal, frame(4), "job-6"), "failed")
    note(journal, made_here.id, Event.FELL_BACK, engine="pillow", device="cpu")
    assert parts_of(journal.read, [CLIP.id]) == {CLIP.id: {"done": 2, "failed": 1, "active": 1}}
    assert journal.count(whole_id=CLIP.id) == 6


def test_a_whole_counts_once_in_each_group_that_it_has_parts_in(journal: Journal) -> None:
    assert rows_by_group(journal.read) == ({"active": 0, "done": 0, "failed": 0}, 0)
    done(journal, frame(0, None), "job-0")
    for number in (1, 2):
        done(journal, frame(number), f"job-{number}")
    end(journal, claim(journal, frame(3), "job-3"), "failed")
    send(journal, claim(journal, frame(4, OTHER), "job-4"), "task-4")
    send(journal, claim(journal, frame(5, None), "job-5"), "task-5")
    journal.flushed().result(LONG)
    # A clip with done and failed frames is one row of the history.
    assert rows_by_group(journal.read) == ({"active": 2, "done": 2, "failed": 1}, 2)


def test_what_a_list_shows_is_counted_by_an_index(journal: Journal) -> None:
    """The index repeats an expression: with another one each page would look at every record."""
    clause, values = where(groups=("active",), one_a_whole=True)
    (step, *_) = journal.read(f"EXPLAIN QUERY PLAN SELECT count(*) FROM entries {clause}", values)
    assert "entries_group" in step["detail"]


def test_what_is_read_at_once_is_what_is_read_row_by_row(journal: Journal) -> None:
    text = 'a "quoted" \\ word, ünï 🦊'
    for number in range(3):
        task = work(
            number, label=text, details={"prompt": f"{text}\n\x7f", "seed": 2**63 - 1, "strength": 0.1}
        )
        record = submit(journal, task, number)
        note(journal, record.id, Event.STATUS, status="running", queue_position=number)
    last = finish(journal, submit(journal, 9, 9), {"url": text})

    def read() -> tuple[list[Record], int, int, frozenset[int]]:
        records = journal.records(limit=4)
        return records, journal.count(), journal.version(), journal.leased([last.id, record.id])

    row_by_row, *others = read()
    with journal.as_written():
        at_once, *others_at_once = read()
        assert journal.records(text="to be found nowhere") == []
    assert others_at_once == others
    assert len(at_once) == 4
    for told, same in zip(at_once, row_by_row, strict=True):
        moments = ("created_at", "sent_at", "submitted_at", "started_at", "ended_at")
        exact = {name: getattr(same, name) for name in moments}
        assert {name: getattr(told, name) for name in moments} == pytest.approx(exact, abs=1e-4)
        assert replace(told, **exact) == same
