"""Several real processes on one journal: racing, killed with SIGKILL at known points, forked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_steps import LONG, LockHolder, claim, send, settled, unknown, work

from xalora_client.journal import Journal, TaskState

HERE = Path(__file__).resolve().parent

# Runs the lines it is sent, answers each with a line of JSON: what `say` was given, or null.
CHILD = """
import json, os, sys, threading, time
sys.path.insert(0, sys.argv[3])
from journal_steps import *
from xalora_client.errors import JournalError

said = None

def say(value):
    global said
    said = value

def pause_before(statement, count=1):
    # SQLite tells of each statement before it runs it, on the writer's thread; the parent kills us there.
    left = [count]
    def trace(text):
        if text.lstrip().startswith(statement):
            left[0] -= 1
            if not left[0]:
                print(json.dumps("paused"), flush=True)
                threading.Event().wait()
    journal._writer._connection.set_trace_callback(trace)

def count_statements():
    seen = []
    journal._writer._connection.set_trace_callback(lambda text: seen.append(text))
    return seen

journal = Journal.open(sys.argv[1], sys.argv[2], 1000)
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    said = None
    exec(json.loads(line))
    print(json.dumps(said), flush=True)
"""


class Process:
    """A child with the journal open."""

    def __init__(self, path: Path, results: Path) -> None:
        self._is_ready = False
        self._popen = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(results), str(HERE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, code: str) -> None:
        if not self._is_ready:
            self._is_ready = True
            assert self.hear() == "ready"
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(code) + "\n")
        self._popen.stdin.flush()

    def hear(self) -> Any:
        assert self._popen.stdout is not None
        return json.loads(self._popen.stdout.readline())

    def do(self, code: str) -> Any:
        self.tell(code)
        return self.hear()

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        # A killed reader leaves nothing to flush to.
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.stdout.close()
        self._popen.wait(LONG)


Start = Callable[[], Process]


@pytest.fixture
def start(path: Path, results: Path) -> Iterator[Start]:
    processes: list[Process] = []

    def start() -> Process:
        processes.append(Process(path, results))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def journal(path: Path, results: Path) -> Iterator[Journal]:
    with Journal.open(path, results, 1000) as journal:
        yield journal


class TestRacing:
    def test_of_two_processes_asking_at_once_one_sends(self, start: Start, journal: Journal) -> None:
        processes = start(), start()
        outcomes = []
        for number in range(200):
            for process in processes:
                process.tell(f"say(claim(journal, {number}).action)")
            outcomes.append(sorted(process.hear() for process in processes))
        assert outcomes == [["join", "send"]] * 200
        assert journal.count() == 200

    def test_of_two_processes_resending_at_once_one_sends(self, start: Start, journal: Journal) -> None:
        processes = start(), start()
        outcomes = []
        for number in range(50):
            unknown(journal, number, f"job-{number}")
            for process in processes:
                process.tell(
                    f"c = claim(journal, {number}, if_unknown='resend'); say([c.action, c.record.job_id])"
                )
            outcomes.append(sorted(process.hear() for process in processes))
        assert outcomes == [[["join", f"job-{number}"], ["send", f"job-{number}"]] for number in range(50)]

    def test_a_new_file_opened_by_several_processes_at_once_has_one_schema(
        self, start: Start, tmp_path: Path, results: Path
    ) -> None:
        processes = [start() for _ in range(4)]
        for number in range(40):
            # Turning a new file to WAL collides only within microseconds, so they wait for the same moment.
            moment = time.time() + 0.01
            path = tmp_path / f"new-{number}.sqlite3"
            for process in processes:
                process.tell(
                    f"""
while time.time() < {moment}:
    pass
with Journal.open({str(path)!r}, sys.argv[2]) as new:
    say(claim(new).record.id)
"""
                )
            assert sorted(process.hear() for process in processes)[0] == 1
            with Journal.open(path, results) as journal:
                assert journal.count() >= 1

    def test_many_processes_writing_at_once_lose_nothing(self, start: Start, journal: Journal) -> None:
        processes = [start() for _ in range(3)]
        for number, process in enumerate(processes):
            process.tell(
                f"""
for turn in range(50):
    send(journal, claim(journal, {number} * 1000 + turn), f"task-{number}-{{turn}}")
"""
            )
        for process in processes:
            process.hear()
        assert journal.count(states=[TaskState.SUBMITTED]) == 150
        assert journal.version() == 450

    def test_watching_another_process(self, start: Start, journal: Journal) -> None:
        child = start()
        seen = journal.version()
        child.do("c = claim(journal)")
        assert journal.version() > seen
        child.tell("send(journal, c)")
        while (record := journal.find(1)) is None or record.task_id is None:
            pass
        assert record.state is TaskState.SUBMITTED
        child.hear()


class TestKilled:
    def test_before_sending_the_same_record_is_sent_by_the_next(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(journal, 0, 'job-child')")
        assert claim(journal, 0, "job-mine").action == "join"
        child.kill()
        mine = claim(journal, 0, "job-mine")
        assert (mine.action, mine.record.job_id, journal.count()) == ("send", "job-child", 1)
        assert send(journal, mine).state is TaskState.SUBMITTED

    def test_before_sending_and_not_joined(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(journal, 0, 'job-child')")
        child.kill()
        mine = claim(journal, 0, "job-mine")
        assert (mine.action, mine.record.job_id) == ("send", "job-mine")
        assert settled(journal, 1).state is TaskState.NOT_SENT

    @pytest.mark.parametrize("joined", [True, False])
    def test_while_sending_is_unknown(self, start: Start, journal: Journal, joined: bool) -> None:
        child = start()
        child.do("send(journal, claim(journal, 0, 'job-child'), None)")
        if joined:
            assert claim(journal, 0, "job-mine").action == "join"
        child.kill()
        mine = claim(journal, 0, "job-mine")
        assert (mine.action, mine.record.state) == ("unknown", TaskState.UNKNOWN)
        resent = claim(journal, 0, "job-mine", if_unknown="resend")
        assert (resent.action, resent.record.job_id) == ("send", "job-child")

    @pytest.mark.parametrize("reached", ["prepared", "held back"])
    def test_while_work_in_doubt_is_to_be_sent_again_leaves_it_unknown(
        self, start: Start, journal: Journal, reached: str
    ) -> None:
        unknown(journal)
        child = start()
        child.do("c = claim(journal, if_unknown='resend')")
        if reached == "held back":
            child.do("send(journal, c, None); note(journal, 1, Event.HELD_BACK, error='429')")
        assert claim(journal, 0, "job-mine").action == "join"
        child.kill()
        assert claim(journal, 0, "job-mine").action == "unknown"

    def test_while_a_task_is_watched_is_a_change_of_the_task(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("send(journal, claim(journal))")
        seen = journal.version()
        assert journal.leased() == {1}
        child.kill()
        # Asked without a transaction, so that a dead process keeps no task from a cancel.
        assert (journal.leased(), journal.version()) == (frozenset(), seen)
        claim(journal, 9)
        assert [record.id for record in journal.records(since=seen)] == [2, 1]

    def test_d7_a_note_that_was_not_written_is_asked_again(self, start: Start, journal: Journal) -> None:
        """D7: what may lag is lost with the process; a create held back reads as unknown then."""
        child = start()
        child.do("send(journal, claim(journal, 1), None); send(journal, claim(journal, 2))")
        holder = LockHolder(journal.path)
        holder.hold()
        child.do("journal.note(1, Event.HELD_BACK, error='429')")
        child.do("journal.note(2, Event.FINISHED, result='https://result')")
        child.kill()
        holder.release()
        holder.close()
        assert claim(journal, 1).action == "unknown"
        taken_up = claim(journal, 2)
        assert (taken_up.action, taken_up.record.state) == ("join", TaskState.SUBMITTED)

    def test_while_a_create_is_held_back_is_not_unknown(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("send(journal, claim(journal), None); note(journal, 1, Event.HELD_BACK, error='429')")
        child.kill()
        assert claim(journal).action == "send"

    @pytest.mark.parametrize("seeded", [True, False])
    @pytest.mark.parametrize(
        ("step", "state"),
        [
            ("note(journal, 1, Event.STATUS, status='running')", TaskState.SUBMITTED),
            ("finish(journal, r)", TaskState.FINISHED),
            ("note(journal, 1, Event.CANCEL_REQUESTED)", TaskState.SUBMITTED),
        ],
    )
    def test_after_the_answer_the_task_is_taken_up(
        self, start: Start, journal: Journal, step: str, state: TaskState, seeded: bool
    ) -> None:
        """D8: a request to cancel of a process that died is nobody's wish any more."""
        child = start()
        child.do(f"r = send(journal, claim(journal, work(seeded={seeded}))); {step}")
        child.kill()
        mine = claim(journal, work(seeded=seeded), "job-mine")
        assert (mine.action, mine.record.state, mine.record.task_id) == ("join", state, "task-1")

    def test_with_a_task_without_seed_in_its_hands_it_is_taken_up_only_then(
        self, start: Start, journal: Journal
    ) -> None:
        child = start()
        child.do("send(journal, claim(journal, work(seeded=False)))")
        assert claim(journal, work(seeded=False), "job-mine").action == "send"
        child.kill()
        assert claim(journal, work(seeded=False), "job-mine").record.task_id == "task-1"

    def test_d3_a_task_id_outlives_a_kill_under_a_held_lock(
        self, start: Start, journal: Journal, path: Path
    ) -> None:
        """D3: whoever finds the owner dead applies its notes before it drops its leases."""
        child = start()
        child.do("send(journal, claim(journal), None)")
        holder = LockHolder(path)
        holder.hold()
        child.do("journal.accepted(1, 'task-1').result(LONG)")
        child.kill()
        (file,) = path.with_name(f"{path.name}.owners").glob("*.notes")
        # The last line may have been cut off by a power failure.
        file.write_text(file.read_text() + '{"record":1,"event":"fai')
        holder.release()
        holder.close()
        mine = claim(journal, 0, "job-mine")
        assert (mine.action, mine.record.state, mine.record.task_id) == (
            "join",
            TaskState.SUBMITTED,
            "task-1",
        )
        assert mine.record.error is None
        assert not file.exists()

    def test_d3_notes_are_applied_once_though_their_reader_is_killed_too(
        self, start: Start, journal: Journal, path: Path
    ) -> None:
        """D3: they are removed only after the commit."""
        owner, heir = start(), start()
        owner.do("send(journal, claim(journal), None)")
        heir.do("claim(journal, 9)")
        holder = LockHolder(path)
        holder.hold()
        owner.do("journal.accepted(1, 'task-1').result(LONG)")
        owner.kill()
        holder.release()
        holder.close()
        heir.do("pause_before('COMMIT')")
        heir.tell("claim(journal, 8)")
        assert heir.hear() == "paused"
        heir.kill()
        assert claim(journal, 0, "job-mine").record.task_id == "task-1"
        assert not list(path.with_name(f"{path.name}.owners").glob("*.notes"))

    def test_d5_between_keeping_and_delivering_the_result_is_taken_up(
        self, start: Start, journal: Journal
    ) -> None:
        """D5: the note of the delivery may be lost, and is never early."""
        child = start()
        child.do("r = keep(journal, send(journal, claim(journal)))")
        child.kill()
        mine = claim(journal, 0, "job-mine", reuse=False)
        assert (mine.action, mine.record.delivered) == ("kept", False)

    def test_its_lock_file_is_cleaned_up(self, start: Start, path: Path, results: Path) -> None:
        owners = path.with_name(f"{path.name}.owners")
        children = [start() for _ in range(3)]
        for number, child in enumerate(children):
            child.do(f"c = claim(journal, {number}); {'leave(journal, c)' if number else ''}")
        for child in children:
            child.kill()
        assert len(list(owners.iterdir())) == 3
        with Journal.open(path, results) as journal:
            assert [file.stem for file in owners.iterdir()] == [journal._writer.owner_id]
        assert list(owners.iterdir()) == []

    def test_a_living_process_keeps_its_lock_file_when_others_clean_up(
        self, start: Start, path: Path, results: Path
    ) -> None:
        child = start()
        child.do("c = claim(journal)")
        for _ in range(3):
            with Journal.open(path, results) as journal:
                assert journal.leased() == {1}
        assert child.do("say(send(journal, c, None).state.value)") == "sending"

    @pytest.mark.parametrize(
        ("steps", "seen"),
        [
            ("journal.sending(i).result(LONG)", {"prepared"}),
            ("send(journal, c)", {"prepared", "sending"}),
        ],
    )
    def test_at_any_statement_leaves_a_whole_step_or_none(
        self, start: Start, journal: Journal, steps: str, seen: set[str]
    ) -> None:
        """D1 to D3: a record on disk has the whole of a step, whenever the process is killed."""
        statements = start().do(
            f"c = claim(journal); i = c.record.id; seen = count_statements(); {steps}; say(len(seen))"
        )
        states = set()
        children = [start() for _ in range(statements)]
        for child in children:
            # Whoever opens the journal drops the leases of the dead, so none may open it late.
            child.do("pass")
        for number, child in enumerate(children, 1):
            record_id = child.do(
                f"c = claim(journal, {number}); i = c.record.id; pause_before('', {number}); say(i)"
            )
            child.tell(steps)
            assert child.hear() == "paused"
            child.kill()
            record = settled(journal, record_id)
            states.add(record.state.value)
            assert record.task_id is None
            expected = {TaskState.PREPARED: "send", TaskState.SENDING: "unknown"}[record.state]
            assert claim(journal, number, "job-mine").action == expected
        # The last statement is the commit, before which the last child was killed.
        assert states == seen

    def test_d6_between_removing_a_file_and_saying_so_mends_itself(
        self, start: Start, journal: Journal
    ) -> None:
        """D6: a result whose files are gone is fetched again."""
        child = start()
        child.do(
            """
c = claim(journal); old = keep(journal, send(journal, c), bytes(600))
deliver(journal, old); leave(journal, c)
second = send(journal, claim(journal, 1), "task-2")
pause_before("UPDATE entries SET files")
"""
        )
        child.tell("keep(journal, second, bytes(600)); evict(journal)")
        # The first of them notes the new files, the second would note that the old ones had to make room.
        assert child.hear() == "paused"
        child.kill()
        journal.results_limit_bytes = None
        old = settled(journal, 1)
        assert (old.is_kept, [file.exists() for file in old.files]) == (True, [False])
        again = claim(journal, 0, "job-mine")
        assert (again.action, again.record.state) == ("join", TaskState.FINISHED)
        assert (again.record.task_id, again.record.files) == ("task-1", ())


FORK = """
import json, os, signal, sys, time
path, results, plot, here = sys.argv[1:]
sys.path.insert(0, here)
from journal_steps import *
from xalora_client.errors import JournalError

journal = Journal.open(None if plot == "temporary" else path, results)
mine = claim(journal, 0, "job-parent")
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()
if plot == "notes":
    send(journal, mine, None)
    holder = LockHolder(path)
    holder.hold()
    journal.note(1, Event.HELD_BACK, error="429")
    journal.leave("some lease")
if os.fork():
    os.close(to_parent)
    if plot == "parent closes":
        os.read(from_child, 1)
        journal.close()
        os.write(to_child, b"x")
    elif plot == "parent is killed":
        os.read(from_child, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    # The child holds the other end until it exits.
    while os.read(from_child, 1):
        pass
    found = []
    if plot in ("child exits", "temporary"):
        found = [send(journal, mine).state.value]
    elif plot == "notes":
        holder.release()
        found = [settled(journal, 1).state.value]
    print(json.dumps(["parent", *found]), flush=True)
    sys.exit()
found = []
if plot == "child exits":
    found += [claim(journal, 0, "job-child").action]
    leave(journal, mine)
    try:
        journal.sending(1).result(LONG)
    except JournalError as error:
        found.append(error.what)
    print(json.dumps(["child", *found]), flush=True)
    # Through the interpreter's whole shutdown, finalizers included.
    sys.exit()
elif plot == "temporary":
    print(json.dumps(["child", claim(journal, 0, "job-child").action]), flush=True)
    sys.exit()
elif plot == "notes":
    found = [journal._writer.owner_id, journal.flushed().done(), sorted(journal._writer.left())]
elif plot == "parent closes":
    journal.count()
    os.write(to_parent, b"x")
    os.read(from_parent, 1)
    found = [claim(journal, 1, "job-child").action]
elif plot == "parent is killed":
    os.write(to_parent, b"x")
    # Reads to the end when the parent is gone.
    os.close(to_child)
    os.read(from_parent, 1)
    # The kernel may close the pipe a moment before it drops the lock.
    while journal.leased():
        pass
    again = claim(journal, 0, "job-child")
    found = [again.action, again.record.id]
print(json.dumps(["child", *found]), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestForked:
    """A forked child starts empty: it has none of the leases, and owes none of the notes."""

    def run(self, path: Path, results: Path, plot: str) -> dict[str, list[Any]]:
        # Python 3.12 warns of every fork of a process with threads, which is the point here.
        warn = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        command = [sys.executable, *warn, "-c", FORK, str(path), str(results), plot, str(HERE)]
        # The pipe reaches its end only when parent and child are both gone.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [json.loads(line) for line in process.stdout.read().split("\n") if line]
        return {line[0]: line[1:] for line in lines}

    def test_a_child_is_somebody_else_and_its_end_harms_nobody(self, path: Path, results: Path) -> None:
        found = self.run(path, results, "child exits")
        assert found["child"][0] == "join"
        assert "not this process's to send" in found["child"][1]
        # The child's exit has not unlocked the parent's sign of life, nor dropped its lease.
        assert found["parent"] == ["submitted"]

    def test_a_parent_killed_is_dead_while_its_child_lives(self, path: Path, results: Path) -> None:
        assert self.run(path, results, "parent is killed") == {"child": ["send", 2]}

    def test_a_child_outlives_its_parents_closing(self, path: Path, results: Path) -> None:
        assert self.run(path, results, "parent closes")["child"] == ["send"]
        with Journal.open(path, results) as journal:
            assert [record.job_id for record in journal.records()] == ["job-child", "job-parent"]

    def test_a_child_owes_none_of_its_parents_notes(self, path: Path, results: Path) -> None:
        found = self.run(path, results, "notes")
        assert found == {"child": [None, True, []], "parent": ["prepared"]}

    def test_a_childs_end_leaves_its_parents_temporary_folder(self, path: Path, results: Path) -> None:
        assert self.run(path, results, "temporary") == {"child": ["join"], "parent": ["submitted"]}
