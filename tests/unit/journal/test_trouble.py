"""A journal that is broken, locked, read-only, full or from the future: named errors, and work goes on."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from xalora_client.errors import JournalError
from xalora_client.journal import CorruptJournalError, Journal, TaskState, Work, open_or_memory, schema
from xalora_client.journal.process_locks import Guard

WORK = Work(fingerprint="f" * 64, sequencer_url="http://devnet", consumer_id="someone", task_type="upscaler")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite3"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def journal(path: Path, results: Path) -> Iterator[Journal]:
    with Journal.open(path, results, busy_seconds=0.05) as journal:
        yield journal


@pytest.fixture
def holder(journal: Journal, path: Path) -> Iterator[sqlite3.Connection]:
    """Another program that can hold the journal's write lock."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def fill(path: Path, results: Path, count: int = 200) -> None:
    with Journal.open(path, results) as journal:
        for number in range(count):
            journal.claim(WORK, job_id=f"job-{number}", reuse=False)


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

    def test_is_named(self, path: Path, results: Path, broken: bytes) -> None:
        with pytest.raises(CorruptJournalError, match=r"journal\.sqlite3 is broken .* nothing was charged"):
            Journal.open(path, results)
        assert path.read_bytes() == broken

    def test_is_moved_aside_whole_and_a_new_one_begun(self, path: Path, results: Path, broken: bytes) -> None:
        journal, warning = open_or_memory(path, results)
        with journal:
            assert journal.path == path
            assert journal.claim(WORK, job_id="job-1").action == "send"
        (aside,) = path.parent.glob("journal.sqlite3.corrupt-*")
        assert aside.read_bytes() == broken
        assert warning is not None
        assert str(aside) in warning
        assert "charged again" in warning
        journal, warning = open_or_memory(path, results)
        with journal:
            assert (warning, journal.count()) == (None, 1)

    def test_is_moved_aside_once_by_many(self, path: Path, results: Path, broken: bytes) -> None:
        script = (
            "import sys; from xalora_client.journal import *; "
            "journal, warning = open_or_memory(sys.argv[1], sys.argv[2]); "
            "print(journal.path); journal.close()"
        )
        children = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(path), str(results)], stdout=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        assert [child.communicate(timeout=60)[0].strip() for child in children] == [str(path)] * 4
        # Beside it may lie the log of one that had just opened it.
        aside = [file for file in path.parent.glob("*.corrupt-*") if not file.name.endswith(("-wal", "-shm"))]
        assert [file.read_bytes() for file in aside] == [broken]

    def test_is_left_alone_while_another_process_moves_it(
        self, path: Path, results: Path, broken: bytes
    ) -> None:
        with Guard(path.with_name(f"{path.name}.moving"), 0):
            journal, warning = open_or_memory(path, results, busy_seconds=0.05)
        with journal:
            assert journal.path is None
        assert warning is not None
        assert "can't be moved aside" in warning
        assert path.read_bytes() == broken

    def test_open_tasks_that_can_still_be_read_are_logged(
        self, path: Path, results: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Journal.open(path, results) as journal:
            for number in range(100):
                claim = journal.claim(WORK, job_id=f"job-{number}", reuse=False)
                journal.sending(claim.record.id)
                journal.submitted(claim.record.id, f"task-{number}")
        content = bytearray(path.read_bytes())
        content[-4096:] = b"\xa5" * 4096
        path.write_bytes(content)
        journal, warning = open_or_memory(path, results)
        journal.close()
        assert warning is not None
        assert "job job-0, task task-0 (submitted)" in caplog.text
        (aside,) = path.parent.glob("journal.sqlite3.corrupt-*")
        assert aside.read_bytes() == bytes(content)

    def test_found_while_running_is_named(self, path: Path, results: Path) -> None:
        fill(path, results)
        with Journal.open(path, results) as journal:
            content = bytearray(path.read_bytes())
            content[4096:] = b"\xa5" * (len(content) - 4096)
            path.write_bytes(content)
            journal._database.connection.execute("PRAGMA shrink_memory")
            with pytest.raises(CorruptJournalError):
                journal.records()


class TestLocked:
    def test_is_named_changes_nothing_and_passes(self, journal: Journal, holder: sqlite3.Connection) -> None:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match=r"locked by another program for 0\.05 s\. Nothing was sent"):
            journal.claim(WORK, job_id="job-1")
        assert journal.count() == 0
        holder.execute("ROLLBACK")
        assert journal.claim(WORK, job_id="job-1").action == "send"

    def test_for_sending_means_do_not_send(self, journal: Journal, holder: sqlite3.Connection) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="nothing was charged"):
            journal.sending(claim.record.id)
        holder.execute("ROLLBACK")
        assert journal.record(claim.record.id).state is TaskState.PREPARED

    def test_an_answer_that_could_not_be_written_goes_with_the_next_change(
        self, journal: Journal, holder: sqlite3.Connection
    ) -> None:
        claim = journal.claim(WORK, job_id="job-1")
        journal.sending(claim.record.id)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match=r"task-1.* retrievable by its id") as caught:
            journal.submitted(claim.record.id, "task-1")
        assert caught.value.task_id == "task-1"
        assert journal.leave(claim.lease) == 0
        holder.execute("ROLLBACK")
        joined = journal.claim(WORK, job_id="job-2")
        assert (joined.action, joined.record.state, joined.record.task_id) == (
            "join",
            TaskState.SUBMITTED,
            "task-1",
        )
        # The lease that could not be given back went as well.
        assert journal.others(joined.lease) == 0

    def test_at_opening_it_is_opened_all_the_same_and_nothing_is_sent_past_it(
        self, journal: Journal, holder: sqlite3.Connection, path: Path, results: Path
    ) -> None:
        journal.claim(WORK, job_id="job-1")
        holder.execute("BEGIN IMMEDIATE")
        second, warning = open_or_memory(path, results, busy_seconds=0.05)
        with second:
            assert (second.path, warning) == (path, None)
            with pytest.raises(JournalError, match="locked by another program"):
                second.claim(WORK, job_id="job-2")
            holder.execute("ROLLBACK")
            assert second.claim(WORK, job_id="job-2").action == "join"

    def test_at_opening_a_new_file_work_goes_on_in_memory(self, path: Path, results: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("PRAGMA journal_mode = WAL")
            holder.execute("BEGIN IMMEDIATE")
            fallback, warning = open_or_memory(path, results, busy_seconds=0.05)
            with fallback:
                assert fallback.path is None
                assert warning is not None
                assert "locked by another program" in warning
                assert "Work goes on" in warning
                claim = fallback.claim(WORK, job_id="job-1")
                fallback.sending(claim.record.id)
                assert fallback.submitted(claim.record.id, "task-1").task_id == "task-1"


class TestFull:
    """`max_page_count` makes SQLite see a full disk at exactly the write that would grow the file."""

    def fill_up(self, journal: Journal) -> None:
        connection = journal._database.connection
        connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(JournalError, match="no room") as caught:
            for number in range(1000):
                journal.claim(WORK, job_id=f"job-{number}-" + "x" * 500, reuse=False)
        assert "Nothing was sent" in str(caught.value)

    def free(self, journal: Journal) -> None:
        journal._database.connection.execute("PRAGMA max_page_count = 1000000")

    def test_is_named_and_passes(self, journal: Journal) -> None:
        first = journal.claim(WORK, job_id="job-first")
        self.fill_up(journal)
        count = journal.count()
        self.free(journal)
        assert journal.sending(first.record.id).state is TaskState.SENDING
        assert journal.count() == count

    def test_a_finished_task_is_not_lost(self, journal: Journal) -> None:
        first = journal.claim(WORK, job_id="job-first")
        journal.sending(first.record.id)
        journal.submitted(first.record.id, "task-1")
        self.fill_up(journal)
        with pytest.raises(JournalError, match=r"\(task task-1\)|no room"):
            journal.finished(first.record.id, {"url": "https://result/" + "x" * 100_000})
        assert journal.record(first.record.id).state is TaskState.SUBMITTED
        self.free(journal)
        assert journal.finished(first.record.id, "https://result").state is TaskState.FINISHED


class TestNotWritable:
    def test_a_folder_that_cannot_be_made(self, tmp_path: Path, results: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        path = tmp_path / "file" / "journal.sqlite3"
        with pytest.raises(JournalError, match=r"can't be used.*XALORA_STATE_DIR"):
            Journal.open(path, results)
        journal, warning = open_or_memory(path, results)
        with journal:
            assert journal.path is None
            assert warning is not None

    def test_a_folder_in_the_files_place(self, tmp_path: Path, results: Path) -> None:
        with pytest.raises(JournalError, match="can't be written"):
            Journal.open(tmp_path, results)

    @pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
    def test_a_read_only_file(self) -> None:
        # Root may write anything, so as root the child becomes somebody else, once it has its imports.
        script = (
            "import os, sys; from xalora_client.journal import *; "
            "os.geteuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534)); "
            "journal, warning = open_or_memory(sys.argv[1], sys.argv[2]); "
            "print(journal.path, '|', warning); journal.close()"
        )
        # Not pytest's folder, which nobody but its owner may enter.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "journal.sqlite3"
            fill(path, Path(folder) / "results", 1)
            path.chmod(0o444)
            Path(folder).chmod(0o555)
            done = subprocess.run(
                [sys.executable, "-c", script, str(path), str(Path(folder) / "results")],
                capture_output=True,
                text=True,
                check=True,
            )
            Path(folder).chmod(0o755)
        where, _, warning = done.stdout.partition(" | ")
        assert where == "None"
        assert "can't be written" in warning
        assert "Work goes on" in warning

    def test_closed(self, journal: Journal) -> None:
        journal.close()
        journal.close()
        with pytest.raises(JournalError, match="The journal is closed"):
            journal.claim(WORK, job_id="job-1")


class TestVersions:
    def test_a_newer_format_is_refused_and_left_alone(self, path: Path, results: Path) -> None:
        fill(path, results, 1)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(JournalError, match=r"newer version.*format 99.*Update"):
            Journal.open(path, results)
        journal, warning = open_or_memory(path, results)
        with journal:
            assert journal.path is None
        assert warning is not None
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
                connection = journal._database.connection
                assert connection.execute("SELECT DISTINCT colour FROM entries").fetchall()[0][0] == "blue"
                assert connection.execute("PRAGMA user_version").fetchone()[0] == len(later)
                assert journal.count() == 3

    def test_a_step_that_fails_leaves_the_old_format(
        self, path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(path, results, 3)
        with monkeypatch.context() as patch:
            patch.setattr(
                schema, "MIGRATIONS", (*schema.MIGRATIONS, ("DELETE FROM entries", "SELECT * FROM nowhere"))
            )
            with pytest.raises(JournalError, match="nowhere"):
                Journal.open(path, results)
        with Journal.open(path, results) as journal:
            assert journal.count() == 3


def test_the_money_steps_are_flushed_to_the_disk(journal: Journal) -> None:
    """Set for each transaction: FULL (2) flushes at commit, NORMAL (1) leaves that to a later checkpoint."""

    def level() -> int:
        return int(journal._database.connection.execute("PRAGMA synchronous").fetchone()[0])

    claim = journal.claim(WORK, job_id="job-1")
    levels = {"claim": level()}
    journal.sending(claim.record.id)
    levels["sending"] = level()
    journal.submitted(claim.record.id, "task-1")
    levels["submitted"] = level()
    journal.status(claim.record.id, "running")
    levels["status"] = level()
    journal.cancel_pending(claim.record.id)
    levels["cancel"] = level()
    assert levels == {"claim": 1, "sending": 2, "submitted": 2, "status": 1, "cancel": 2}
    assert journal._database.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_lease_returned_amid_a_change_of_the_same_thread_does_not_undo_it(
    path: Path, results: Path
) -> None:
    """As the garbage collector does, which runs finalizers wherever it likes."""
    collected: list[str] = []

    def clock() -> float:
        # Read within the transaction.
        while collected:
            journal.leave(collected.pop())
        return 1e9

    with Journal.open(path, results, wall_clock=clock) as journal:
        claim = journal.claim(WORK, job_id="job-1")
        collected.append(journal.hold(claim.record.id))
        assert journal.sending(claim.record.id).state is TaskState.SENDING
        assert journal.submitted(claim.record.id, "task-1").state is TaskState.SUBMITTED
        assert journal.attended(claim.record.id) == 1
