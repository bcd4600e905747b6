"""A journal that is held, broken, read-only, full or from the future: named errors, and nothing is lost."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from journal_steps import LONG, LockHolder, claim, finish, keep, leave, note, send, settled, submit, work

from xalora_client.errors import JournalError
from xalora_client.journal import (
    BusyJournalError,
    ClaimOptions,
    CorruptJournalError,
    Event,
    Journal,
    TaskState,
    recovery,
    results_folder,
    schema,
)
from xalora_client.journal import journal as journal_module
from xalora_client.journal.process_locks import Guard
from xalora_client.journal.results_folder import LOOKED_SECONDS, KeptResults

PAGE = 4096


def fill(path: Path, results: Path, count: int = 200) -> None:
    with Journal.open(path, results) as journal:
        futures = [
            journal.claim(work(), ClaimOptions(again=True), job_id=f"job-{number}") for number in range(count)
        ]
        for future in futures:
            future.result(LONG)
    # On a busy machine the journal's thread may be closing still; a log would mend what is damaged next.
    until = monotonic() + LONG
    while path.with_name(f"{path.name}-wal").exists():
        assert monotonic() < until
        time.sleep(0.01)


def owed(path: Path) -> list[dict[str, Any]]:
    """The lines of all files of owed notes."""
    files = path.with_name(f"{path.name}.owners").glob("*.notes")
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line]


def test_a_folder_of_results_that_hangs_holds_up_no_change(
    path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor other processes: it is looked at outside of transactions, and not on the thread that writes."""
    goes_on = threading.Event()
    with Journal.open(path, results, 10**6) as journal, Journal.open(path, results) as other:
        kept = keep(journal, submit(journal))
        for name in ("are_there", "check_room", "part_sizes"):
            monkeypatch.setattr(KeptResults, name, lambda *_: goes_on.wait(LONG) and {})
        journal.evict()
        again = journal.claim(work(), job_id="job-2").result(LONG)
        assert (again.action, again.record.id) == ("kept", kept.id)
        new = journal.claim(work(1), job_id="job-3").result(LONG)
        journal.sending(new.record.id).result(LONG)
        journal.accepted(new.record.id, "task-3").result(LONG)
        assert other.claim(work(1), job_id="job-4").result(LONG).action == "join"
        assert not goes_on.is_set()
        goes_on.set()


def test_a_look_that_found_room_serves_the_tasks_of_a_moment_and_one_that_found_none_serves_nobody(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks, is_full = [0.0], [0], [False]

    def check_room(results: KeptResults) -> None:
        looks[0] += 1
        if is_full[0]:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(KeptResults, "check_room", check_room)
    monkeypatch.setattr(results_folder, "monotonic", lambda: now[0])
    assert [journal.look(work(number)).refusal for number in range(50)] == [None] * 50
    assert looks == [1]
    now[0], is_full[0] = LOOKED_SECONDS, True
    assert all(journal.look(work(number)).refusal for number in range(3))
    assert looks == [4]
    is_full[0] = False
    assert journal.look(work()).refusal is None


class TestHeld:
    """Another program holds the write lock: readings and notes go on, and nothing is lost."""

    def test_what_is_on_disk_is_read_without_waiting_for_the_rest(
        self, journal: Journal, holder: LockHolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = submit(journal)
        holder.hold()
        journal.note(record.id, Event.STATUS, status="running")
        monkeypatch.setattr(journal_module, "SETTLE_SECONDS", 2 * LONG)
        with journal.as_written():
            before = journal.version()
            assert [found.status for found in journal.records()] == [record.status]
            assert journal.count() == 1
        holder.release()
        (found,) = journal.records()
        assert found.status == "running"
        with journal.as_written():
            assert journal.version() > before

    def test_d7_notes_never_wait_and_are_written_when_the_lock_is_free(
        self, journal: Journal, holder: LockHolder
    ) -> None:
        """D7: what may lag waits for the lock in memory, and no caller with it."""
        record = submit(journal)
        holder.hold()
        journal.note(record.id, Event.STATUS, status="running")
        journal.note(record.id, Event.FINISHED, result="https://result")
        journal.note(record.id, Event.DELIVERED)
        assert not journal.flushed().done()
        found = journal.find(record.id)
        assert found is not None
        assert found.state is TaskState.SUBMITTED
        holder.release()
        after = settled(journal, record.id)
        assert (after.state, after.delivered) == (TaskState.FINISHED, True)

    def test_a_first_reading_waits_for_a_program_that_keeps_readers_out(
        self, path: Path, results: Path
    ) -> None:
        """As one does for a moment that opens the file as the first one, or closes it as the last one."""
        with Journal.open(path, results) as journal:
            record = submit(journal)
        blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
        blocker.execute("BEGIN EXCLUSIVE")
        with Journal(path, results) as late:
            freeing = threading.Timer(1.0, blocker.close)
            freeing.start()
            found = late.find(record.id)
            freeing.join()
        assert found is not None
        assert found.task_id == record.task_id

    def test_the_id_of_another_task_is_refused_beside_the_journal_too(
        self, journal: Journal, holder: LockHolder
    ) -> None:
        """Whether the other task's id is written or waits as well."""
        submit(journal, 1, 1)
        second, third = (send(journal, claim(journal, number, f"job-{number}"), None) for number in (2, 3))
        holder.hold()
        with pytest.raises(JournalError, match="id of another task, task-1"):
            journal.accepted(second.id, "task-1").result(LONG)
        journal.accepted(second.id, "task-2").result(LONG)
        with pytest.raises(JournalError, match="id of another task, task-2"):
            journal.accepted(third.id, "task-2").result(LONG)

    def test_d3_a_task_id_is_safe_all_the_same(
        self, journal: Journal, holder: LockHolder, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """D3: within half a second its line is synced to the process's own file."""
        claimed = claim(journal)
        synced: list[int] = []
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            synced.append(os.fstat(descriptor).st_ino)
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        record = send(journal, claimed, None)
        holder.hold()
        journal.accepted(record.id, "task-1").result(LONG)
        (line,) = owed(path)
        assert (line["record"], line["event"], line["values"]["task_id"]) == (record.id, "accepted", "task-1")
        (file,) = path.with_name(f"{path.name}.owners").glob("*.notes")
        assert file.stat().st_ino in synced
        if sys.platform != "win32":
            assert file.parent.stat().st_ino in synced
        found = journal.find(record.id)
        assert found is not None
        assert found.task_id is None
        holder.release()
        assert settled(journal, record.id).task_id == "task-1"
        assert owed(path) == []

    def test_d3_a_task_id_does_not_wait_where_nobody_holds_the_journal(
        self, journal: Journal, path: Path
    ) -> None:
        """D3: it is in the journal, synced, when its future is done."""
        record = send(journal, claim(journal), None)
        journal.accepted(record.id, "task-1").result(LONG)
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT task_id FROM entries").fetchall() == [("task-1",)]
        other.close()

    def test_d3_a_task_id_that_no_file_takes_either_is_logged_and_tried_again(
        self, journal: Journal, holder: LockHolder, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """D3: it is never given up."""
        record = send(journal, claim(journal), None)
        owner = journal._writer.owner_id
        notes = path.with_name(f"{path.name}.owners") / f"{owner}.notes"
        notes.unlink()
        notes.mkdir()
        holder.hold()
        journal.accepted(record.id, "task-1").result(LONG)
        assert "task-1" in caplog.text
        holder.release()
        assert settled(journal, record.id).task_id == "task-1"

    def test_d9_closing_takes_bounded_time_and_the_next_opening_writes_the_rest(
        self, path: Path, results: Path
    ) -> None:
        """D9: what could not be written in the time to close is owed, in its order, and no lease stays."""
        with Journal.open(path, results) as watching:
            holder = LockHolder(path)
            leaving = Journal.open(path, results)
            sent = [send(leaving, claim(leaving, number), None) for number in range(3)]
            joined = claim(watching, 0)
            holder.hold()
            leaving.accepted(sent[1].id, "task-1").result(LONG)
            leaving.note(sent[0].id, Event.HELD_BACK, error="429")
            leaving.note(sent[1].id, Event.FINISHED, result="https://result")
            waiting = leaving.claim(work(9), job_id="never", patience=LONG)
            began = monotonic()
            leaving.close()
            # A busy machine may add to the 1.5 s; waiting for the lock would not end at all.
            assert monotonic() - began < journal_module.CLOSING_SECONDS + 5
            with pytest.raises(JournalError, match="The journal was closed"):
                waiting.result(LONG)
            assert {line["event"] for line in owed(path)} == {"accepted", "held back", "finished"}
            holder.release()
            holder.close()
            # The first claim finds the owner gone, writes its notes, and only then drops its leases: so what
            # was held back is not taken for unknown.
            again = claim(watching, 0, "job-2")
            assert (again.action, again.record.id, again.record.job_id) == ("send", joined.record.id, "job-1")
            assert settled(watching, sent[1].id).state is TaskState.FINISHED
            assert settled(watching, sent[1].id).task_id == "task-1"
            assert settled(watching, sent[2].id).state is TaskState.UNKNOWN
            assert watching.leased() == {again.record.id}
            assert owed(path) == []

    def test_at_opening_is_named_when_the_patience_is_over(
        self, journal: Journal, holder: LockHolder, path: Path, results: Path
    ) -> None:
        holder.hold()
        with pytest.raises(BusyJournalError):
            Journal.open(path, results, patience=0.05)
        assert not list(path.parent.glob("*.corrupt-*"))
        holder.release()
        Journal.open(path, results).close()

    def test_a_journal_made_under_it_waits_in_the_background(
        self, journal: Journal, holder: LockHolder, path: Path, results: Path
    ) -> None:
        holder.hold()
        with Journal(path, results) as second:
            claiming = second.claim(work(), job_id="job-1", patience=LONG)
            assert second.count() == 0
            holder.release()
            assert claiming.result(LONG).action == "send"


@pytest.mark.parametrize(
    "line",
    [
        '{"record": 1, "event": "from the future", "values": {}}',
        '{"record": 1}',
        '{"record": "x", "event": "accepted", "values": {"task_id": "t"}}',
        '{"record": 1, "event": "accepted", "values": {}}',
        "[]",
        "7",
    ],
)
def test_a_note_of_a_dead_process_that_does_not_fit_keeps_no_other_from_the_journal(
    path: Path, results: Path, line: str
) -> None:
    with Journal.open(path, results) as journal:
        claimed = claim(journal)
        record = send(journal, claimed, None)
        owners = path.with_name(f"{path.name}.owners")
        fits = json.dumps(
            {"record": record.id, "event": "accepted", "values": {"task_id": "mine", "at": 1.0}}
        )
        (owners / "dead.notes").write_text(f"{line}\n{fits}\n")
        journal.settle(LONG)
        assert [r.task_id for r in journal.records()] == ["mine"]
        assert not (owners / "dead.notes").exists()
        claim(journal, 1, "job-2")


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_is_lost_in_use_takes_nothing_more(path: Path, results: Path, how: str) -> None:
    with Journal.open(path, results) as journal:
        record = submit(journal)
        for file in path.parent.glob(f"{path.name}*"):
            if file.is_file():
                file.unlink()
        if how == "replaced":
            Journal.open(path, results).close()
        journal.note(record.id, Event.FINISHED, result="https://result")
        with pytest.raises(JournalError, match=r"removed or replaced.*Restart"):
            claim(journal, 1, "job-2")
    with Journal.open(path, results) as journal:
        assert journal.records() == []


def test_changes_and_notes_of_many_threads_lose_nothing_while_the_lock_comes_and_goes(
    journal: Journal, holder: LockHolder
) -> None:
    tasks, is_over = 30, threading.Event()

    def run(number: int) -> None:
        claimed = claim(journal, number, f"job-{number}")
        journal.sending(claimed.record.id).result(LONG)
        journal.accepted(claimed.record.id, f"task-{number}").result(LONG)
        journal.note(claimed.record.id, Event.FINISHED, result=f"https://{number}")
        journal.note(claimed.record.id, Event.DELIVERED)
        journal.leave(claimed.lease)

    def hold_and_release() -> None:
        while not is_over.is_set():
            with sqlite3.connect(journal.path, isolation_level=None, timeout=LONG) as other:
                other.execute("BEGIN IMMEDIATE")
                is_over.wait(0.02)
                other.execute("ROLLBACK")
            other.close()
            is_over.wait(0.02)

    disturber = threading.Thread(target=hold_and_release)
    disturber.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(tasks)))
    is_over.set()
    disturber.join(LONG)
    journal.flushed().result(LONG)
    assert journal.leased() == frozenset()
    found = {(record.job_id, record.task_id, record.state, record.delivered) for record in journal.records()}
    assert found == {(f"job-{number}", f"task-{number}", TaskState.FINISHED, True) for number in range(tasks)}


class TestBroken:
    @pytest.fixture(params=["not a database", "damaged page", "truncated"])
    def broken(self, request: pytest.FixtureRequest, path: Path, results: Path) -> bytes:
        fill(path, results)
        content = bytearray(path.read_bytes())
        if request.param == "not a database":
            content[:16] = b"something else.."
        elif request.param == "damaged page":
            content[3 * 4096 : 8 * 4096] = b"\xa5" * 5 * 4096
        else:
            del content[len(content) // 2 :]
        path.write_bytes(content)
        return bytes(content)

    def test_is_moved_aside_whole_and_a_new_one_begun(
        self, path: Path, results: Path, broken: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Journal.open(path, results) as journal:
            is_lost = journal.count() < 200
            if is_lost:
                with pytest.raises(JournalError, match=r"records of it are lost.*Nothing was sent.*restart"):
                    claim(journal)
        (aside,) = path.parent.glob("journal.sqlite3.corrupt-*")
        assert aside.read_bytes() == broken
        assert str(aside) in caplog.text
        assert ("charged again" in caplog.text) == is_lost
        with Journal.open(path, results) as journal:
            before = journal.count()
            assert claim(journal).action == "send"
            assert journal.count() == before + 1
        assert len(list(path.parent.glob("journal.sqlite3.corrupt-*"))) == 1

    def test_is_moved_aside_once_by_many(self, path: Path, results: Path, broken: bytes) -> None:
        script = (
            "import sys; from xalora_client.journal import *; "
            "journal = Journal.open(sys.argv[1], sys.argv[2]); print(journal.count()); journal.close()"
        )
        command = [sys.executable, "-c", script, str(path), str(results)]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        counts = {child.communicate(timeout=LONG)[0].strip() for child in children}
        with Journal.open(path, results) as journal:
            assert counts == {str(journal.count())}
        # Beside it may lie the log of one that had just opened it.
        aside = [file for file in path.parent.glob("*.corrupt-*") if not file.name.endswith(("-wal", "-shm"))]
        assert [file.read_bytes() for file in aside] == [broken]

    def test_is_left_alone_while_another_process_moves_it(
        self, path: Path, results: Path, broken: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recovery, "MOVING_SECONDS", 0.05)
        with (
            Guard(path.with_name(f"{path.name}.moving"), 0),
            pytest.raises(JournalError, match="moved aside"),
        ):
            Journal.open(path, results)
        assert path.read_bytes() == broken

    def test_found_by_a_reading_is_named_and_left_alone(self, path: Path, results: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b"something else.." * 1000)
        with Journal(path, results) as journal, pytest.raises(CorruptJournalError, match="is broken"):
            journal.records()
        assert path.read_bytes() == b"something else.." * 1000


def damage(path: Path, name: str = "", *, holding: str = "") -> None:
    """Clear the root page of a table or an index, or the page of records that holds a text."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = dict(other.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
    content = path.read_bytes()
    if holding:
        # 13 begins a page of a table's rows.
        parts = [content[place : place + PAGE] for place in range(0, len(content), PAGE)]
        (page,) = [n for n, part in enumerate(parts, 1) if part[0] == 13 and holding.encode() in part]
    else:
        page = pages[name]
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(bytes(PAGE))


class TestSalvaged:
    """What can still be read of a broken journal is in the new one, so that nobody pays for it again."""

    @pytest.mark.parametrize(
        "name", ["entries_fingerprint", "entries_job_id", "entries_state", "tickets", "counters", "past_runs"]
    )
    def test_all_records_where_their_table_is_whole(self, path: Path, results: Path, name: str) -> None:
        with Journal.open(path, results) as journal:
            for number in range(60):
                submit(journal, number, number)
            keep(journal, submit(journal, 60, 60), bytes(500))
            before = journal.records()
        damage(path, name)
        with Journal(path, results) as journal:
            # As each call does; its reader must not stay with the old file.
            journal.look(work(7))
            joined = claim(journal, 7, "job-x")
            assert (joined.action, joined.record.task_id) == ("join", "task-7")
            assert [replace(each, version=0) for each in journal.records()] == [
                replace(each, version=0) for each in before
            ]
            kept = claim(journal, 60, "job-y")
            assert (
                kept.action,
                journal._read("SELECT value FROM counters WHERE name = 'kept'", ())[0][0],
            ) == (
                "kept",
                500,
            )
            new = claim(journal, 61, "job-z")
            assert (new.action, new.record.id) == ("send", 62)

    def test_the_records_around_bad_pages(
        self, path: Path, results: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Journal.open(path, results) as journal:
            for number in range(100, 200):
                submit(journal, number, number)
        for number in (120, 150, 199):
            damage(path, holding=f"job-{number}")
        with Journal.open(path, results) as journal:
            found = {int(record.job_id[4:]) for record in journal.records()}
            lost = set(range(100, 200)) - found
            assert {120, 150, 199} < lost
            assert len(lost) < 50
            assert any(number in found for number in range(121, 150))
            for number in lost:
                assert f"job job-{number}, task task-{number} (submitted)" in caplog.text
            assert claim(journal, min(found)).action == "join"
            # The same call must not pay again for what it can't remember, whether sent with others or later.
            for number in lost:
                with pytest.raises(JournalError, match=r"records of it are lost.*Nothing was sent.*restart"):
                    claim(journal, number, "job-x")
        with Journal.open(path, results) as journal:
            new = claim(journal, 199, "job-x")
            # Notes of a process that lives may still name the last record.
            assert (new.action, new.record.id) == ("send", 101)

    @pytest.mark.parametrize("name", ["entries_group", "tickets"])
    def test_a_create_of_a_process_that_died_is_unknown(self, path: Path, results: Path, name: str) -> None:
        with Journal.open(path, results) as journal:
            send(journal, claim(journal), None)
            with closing(sqlite3.connect(path)) as other:
                (ticket,) = other.execute("SELECT * FROM tickets").fetchall()
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("INSERT INTO tickets VALUES (?, ?, ?)", ticket)
            other.execute("UPDATE entries SET state = 'sending', worker = ?", (ticket[0],))
        damage(path, name)
        with Journal.open(path, results) as journal:
            assert claim(journal, 0, "job-x").action == "unknown"

    @pytest.mark.parametrize("lives", [True, False])
    def test_d3_a_task_id_that_came_to_the_broken_journal_leads_to_its_task(
        self, path: Path, results: Path, lives: bool
    ) -> None:
        """D3: notes are applied to the new journal, those of a living process too, for which it is lost."""
        with ExitStack() as stack:
            first = stack.enter_context(Journal.open(path, results))
            record = send(first, claim(first), None)
            self.break_in_use(path, "entries_task_id")
            first.accepted(record.id, "task-1").result(LONG)
            assert [line["values"]["task_id"] for line in owed(path)] == ["task-1"]
            if not lives:
                first.close()
            second = stack.enter_context(Journal.open(path, results))
            joined = claim(second, 0, "job-x")
            assert (joined.action, joined.record.task_id) == ("join", "task-1")

    def test_d3_a_task_id_whose_record_is_lost_is_in_the_log_and_in_a_file(
        self, path: Path, results: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """D3: the notes lie beside the broken journal."""
        with Journal.open(path, results) as journal:
            for number in range(100, 130):
                submit(journal, number, number)
            record = send(journal, claim(journal, 999, "job-999"), None)
            self.break_in_use(path, holding="job-999")
            journal.accepted(record.id, "task-999").result(LONG)
        caplog.clear()
        Journal.open(path, results).close()
        assert f"Task task-999 is the answer for record {record.id}" in caplog.text
        assert "job job-999, task None (sending)" in caplog.text
        (notes,) = path.parent.glob("*.corrupt-*.notes")
        assert "task-999" in notes.read_text()

    def break_in_use(self, path: Path, name: str = "", holding: str = "") -> None:
        damage(path, name, holding=holding)
        # Whoever has the file open reads its pages again after a change.
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE counters SET value = value WHERE name = 'used'")

    def test_a_new_one_that_has_no_room_leaves_the_broken_one(self, path: Path, results: Path) -> None:
        with Journal.open(path, results) as journal:
            submit(journal)
        damage(path, "entries_state")
        before = path.read_bytes()
        new = path.with_name(f"{path.name}.new")
        new.mkdir()
        with pytest.raises(JournalError, match="can't be moved aside"):
            Journal.open(path, results)
        assert path.read_bytes() == before
        new.rmdir()
        with Journal.open(path, results) as journal:
            assert claim(journal, 0, "job-x").action == "join"


LOSSES: dict[str, Callable[[Path, Path], object]] = {
    "log removed": lambda log, index: log.unlink(),
    "log and index removed": lambda log, index: (log.unlink(), index.unlink()),
    "log replaced": lambda log, index: Path(shutil.copy(log, f"{log}2")).replace(log),
    "log cut to nothing": lambda log, index: os.truncate(log, 0),
    "log cut": lambda log, index: os.truncate(log, log.stat().st_size - 1),
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps files that are open")
class TestLostLog:
    """The log has what was written last: without it another process knows nothing of it, and pays again."""

    @pytest.mark.parametrize("how", LOSSES)
    def test_nothing_more_is_written(self, path: Path, results: Path, how: str) -> None:
        with Journal.open(path, results) as journal:
            record = submit(journal)
            LOSSES[how](path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
            journal.note(record.id, Event.FINISHED, result="https://result")
            for number in (1, 2):
                with pytest.raises(JournalError, match=r"log was cut, removed or replaced.*Restart"):
                    claim(journal, number, "job-2")

    @pytest.mark.parametrize("how", ["log removed", "log and index removed"])
    def test_its_end_saves_what_was_written_where_nobody_else_came(
        self, path: Path, results: Path, how: str
    ) -> None:
        with Journal.open(path, results) as journal:
            submit(journal)
            LOSSES[how](path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
        with Journal.open(path, results) as journal:
            assert claim(journal, 0, "job-2").record.task_id == "task-1"

    def test_its_end_spares_what_others_have_written_since(self, path: Path, results: Path) -> None:
        Journal.open(path, results).close()
        script = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from journal_steps import *\n"
            "with Journal.open(sys.argv[1], sys.argv[2]) as journal:\n"
            "    for number in range(20): submit(journal, number, number)"
        )
        with Journal.open(path, results) as journal:
            submit(journal, 99, 99)
            LOSSES["log and index removed"](
                path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
            )
            subprocess.run([sys.executable, "-c", script, str(path), str(results)], check=True)
        with Journal.open(path, results) as journal:
            assert {record.task_id for record in journal.records()} == {f"task-{n}" for n in range(20)}

    @pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
    def test_a_log_that_sqlite_moves_into_the_file_is_not_lost(
        self, path: Path, results: Path, mode: str
    ) -> None:
        with Journal.open(path, results) as journal:
            for number in range(5):
                submit(journal, number, number)
                with closing(sqlite3.connect(path, timeout=LONG)) as other:
                    other.execute(f"PRAGMA wal_checkpoint({mode})")
            with Journal.open(path, results) as second:
                submit(second, 6, 6)
            submit(journal, 7, 7)

    def test_another_process_sees_that_it_is_gone_and_names_what_may_be_the_cause(
        self, path: Path, results: Path
    ) -> None:
        """SQLite sees it by a lock, which a check that opens the index of the log would drop."""
        with Journal.open(path, results) as journal:
            submit(journal)
            path.with_name(f"{path.name}-wal").unlink()
            script = "import sys; from xalora_client.journal import *; Journal.open(sys.argv[1], sys.argv[2])"
            command = [sys.executable, "-c", script, str(path), str(results)]
            said = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False).stderr
            assert re.search(r"disk I/O error.*removed or cut.*restart", said)


class TestFull:
    """`max_page_count` makes SQLite see a full disk at exactly the write that would grow the file."""

    def limit_pages(self, journal: Journal, pages: int) -> None:
        connection = journal._writer._connection
        assert connection is not None
        with journal._writer._in_use:
            connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill_up(self, journal: Journal) -> None:
        self.limit_pages(journal, 1)
        with pytest.raises(JournalError, match=r"no room.*nothing was charged"):
            for number in range(1000):
                claim(journal, 0, f"job-{number}-" + "x" * 500, again=True)

    def test_is_named_and_passes(self, journal: Journal) -> None:
        first = claim(journal, 1)
        self.fill_up(journal)
        count = journal.count()
        self.limit_pages(journal, 1_000_000)
        assert send(journal, first, None).state is TaskState.SENDING
        assert journal.count() == count

    def test_d3_loses_no_note(self, journal: Journal, path: Path) -> None:
        """D3: a task id for which the journal has no room goes to the process's own file."""
        record = send(journal, claim(journal, 1), None)
        self.fill_up(journal)
        long_id = "task-" + "x" * 20_000
        journal.accepted(record.id, long_id).result(LONG)
        journal.note(record.id, Event.FINISHED, result="https://result")
        assert [line["values"]["task_id"] for line in owed(path)] == [long_id]
        assert not journal.flushed().done()
        self.limit_pages(journal, 1_000_000)
        after = settled(journal, record.id)
        assert (after.task_id, after.state) == (long_id, TaskState.FINISHED)


class TestNotWritable:
    def test_a_folder_that_cannot_be_made(self, tmp_path: Path, results: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(JournalError, match=r"can't be used.*XALORA_STATE_DIR"):
            Journal.open(tmp_path / "file" / "journal.sqlite3", results)

    def test_a_folder_in_the_files_place(self, tmp_path: Path, results: Path) -> None:
        with pytest.raises(JournalError, match="can't be written"):
            Journal.open(tmp_path, results)

    def test_making_one_touches_no_disk(self, path: Path, results: Path) -> None:
        Journal(path, results).close()
        assert not path.parent.exists()
        assert not results.exists()

    def test_closed(self, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
        record = send(journal, claim(journal), None)
        journal.close()
        journal.close()
        with pytest.raises(JournalError, match="The journal is closed"):
            claim(journal)
        # What comes too late is told, so that no task id is lost without a trace.
        journal.accepted(record.id, "task-late").result(LONG)
        journal.leave("whatever")
        assert "task-late" in caplog.text


class TestTemporary:
    """A journal without a path lives in a folder of its own, as long as its object."""

    @pytest.mark.parametrize("end", [Journal.close, lambda journal: None])
    def test_is_a_journal_like_any_other_and_leaves_nothing(self, end: Callable[[Journal], None]) -> None:
        journal: Journal | None = Journal.open(None)
        assert journal is not None
        folder = journal.path.parent
        kept = keep(journal, submit(journal))
        assert claim(journal).action == "kept"
        assert kept.files[0].is_relative_to(folder)
        gone = weakref.ref(journal)
        end(journal)
        journal = None
        gc.collect()
        # Another thread may have held it last, and is at it.
        until = time.monotonic() + 20
        while gone() is not None or folder.exists():
            assert time.monotonic() < until
            time.sleep(0.01)


class TestVersions:
    def test_a_newer_format_is_refused_and_left_alone(self, path: Path, results: Path) -> None:
        fill(path, results, 1)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(JournalError, match=r"newer version.*format 99.*Update"):
            Journal.open(path, results)
        assert list(path.parent.glob("*.corrupt-*")) == []

    def test_missing_steps_are_taken_in_order_and_keep_the_rows(
        self, path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(path, results, 3)
        later = (
            *schema.MIGRATIONS,
            ("ALTER TABLE entries ADD COLUMN colour TEXT",),
            ("UPDATE entries SET colour = 'blue'",),
        )
        monkeypatch.setattr(schema, "MIGRATIONS", later)
        for _ in range(2):
            with Journal.open(path, results) as journal:
                assert journal._read("SELECT DISTINCT colour FROM entries", ())[0][0] == "blue"
                assert journal._read("PRAGMA user_version", ())[0][0] == len(later)
                assert journal.count() == 3

    def test_a_step_that_fails_leaves_the_old_format(
        self, path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(path, results, 3)
        with monkeypatch.context() as patch:
            bad = ("DELETE FROM entries", "SELECT * FROM nowhere")
            patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, bad))
            with pytest.raises(JournalError, match="nowhere"):
                Journal.open(path, results)
        with Journal.open(path, results) as journal:
            assert journal.count() == 3


def test_d2_the_money_steps_are_flushed_to_the_disk(journal: Journal) -> None:
    """D2: `synchronous` FULL (2) flushes at commit, NORMAL (1) leaves that to a later checkpoint."""
    claim(journal)
    assert journal._writer._connection is not None
    levels = journal._writer._connection.execute("PRAGMA synchronous").fetchone()
    assert (levels[0], journal._read("PRAGMA journal_mode", ())[0][0]) == (2, "wal")


def test_d2_sending_is_a_commit_of_its_own(journal: Journal, path: Path) -> None:
    """D2: until then the claim is PREPARED on disk, so a kill during an upload does not read as unknown."""
    first = claim(journal)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT state FROM entries").fetchone()[0] == "prepared"
        journal.sending(first.record.id).result(LONG)
        assert other.execute("SELECT state FROM entries").fetchone()[0] == "sending"
    other.close()


@pytest.mark.parametrize("bad", [{}, {"error": object()}, {"error": 1 << 70}])
def test_one_bad_change_does_not_hold_up_the_others(journal: Journal, bad: dict[str, Any]) -> None:
    record = send(journal, claim(journal), None)
    other = submit(journal, 1, 2)
    journal.note(record.id, Event.HELD_BACK, **bad)
    assert finish(journal, other).state is TaskState.FINISHED
    assert settled(journal, record.id).state is TaskState.SENDING
    assert claim(journal, 2, "job-3").action == "send"


def test_a_lease_left_amid_a_change_of_the_same_thread_does_not_undo_it(path: Path, results: Path) -> None:
    """As the garbage collector does, which runs finalizers wherever it likes."""
    collected: list[str] = []

    def clock() -> float:
        # Read within the transaction.
        while collected:
            journal.leave(collected.pop())
        return 1e9

    with Journal.open(path, results, wall_clock=clock) as journal:
        first = claim(journal)
        collected.append(journal.hold(first.record.id).result(LONG))
        assert send(journal, first).state is TaskState.SUBMITTED
        assert journal.leased([1], besides=first.lease) == frozenset()
        leave(journal, first)
        assert note(journal, 1, Event.STATUS, status="x").status == "x"
