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

from xalora_client.journal import Journal, TaskState, Work

# Runs the lines it is sent, answers each with a line of JSON: what `say` was given, or null.
CHILD = """
import json, os, sys, time
from xalora_client.errors import JournalError
from xalora_client.journal import Journal, TaskState, Work

said = None

def say(value):
    global said
    said = value

def work(number=0, seeded=True):
    return Work(fingerprint=f"{number:064x}", sequencer_url="http://devnet", consumer_id="someone",
                task_type="upscaler", kind="upscaler", seeded=seeded)

def claim(number=0, job_id=None, **options):
    seeded = options.pop("seeded", True)
    return journal.claim(work(number, seeded), job_id=job_id or f"child-{os.getpid()}", **options)

def pause_before(statement, count=1):
    # SQLite tells of each statement before it runs it; the parent kills us there.
    left = [count]
    def trace(text):
        if text.lstrip().startswith(statement):
            left[0] -= 1
            if not left[0]:
                print(json.dumps("paused"), flush=True)
                sys.stdin.readline()
    journal._database.connection.set_trace_callback(trace)

def count_statements():
    seen = []
    journal._database.connection.set_trace_callback(lambda text: seen.append(text))
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
        self._popen = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(results)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hear() == "ready"

    def tell(self, code: str) -> None:
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
        self.reap()

    def reap(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        # A killed reader leaves nothing to flush to.
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        self._popen.stdout.close()
        self._popen.wait(30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def start(path: Path, results: Path) -> Iterator[Callable[[], Process]]:
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


def work(number: int = 0, *, seeded: bool = True) -> Work:
    return Work(
        fingerprint=f"{number:064x}",
        sequencer_url="http://devnet",
        consumer_id="someone",
        task_type="upscaler",
        kind="upscaler",
        seeded=seeded,
    )


Start = Callable[[], Process]


class TestRacing:
    def test_of_two_processes_asking_at_once_one_sends(self, start: Start, journal: Journal) -> None:
        one, other = start(), start()
        outcomes = []
        for number in range(200):
            for process in (one, other):
                process.tell(f"say(claim({number}).action)")
            outcomes.append(sorted([one.hear(), other.hear()]))
        assert outcomes == [["join", "send"]] * 200
        assert journal.count() == 200

    def test_of_two_processes_resending_at_once_one_sends(self, start: Start, journal: Journal) -> None:
        one, other = start(), start()
        for number in range(50):
            lease = journal.claim(work(number), job_id=f"job-{number}").lease
            journal.sending(number + 1)
            journal.leave(lease)
        outcomes = []
        for number in range(50):
            for process in (one, other):
                process.tell(f"c = claim({number}, if_unknown='resend'); say([c.action, c.record.job_id])")
            outcomes.append(sorted([one.hear(), other.hear()]))
        assert outcomes == [[["join", f"job-{number}"], ["send", f"job-{number}"]] for number in range(50)]

    def test_of_two_processes_downloading_at_once_one_does(self, start: Start, journal: Journal) -> None:
        one, other = start(), start()
        outcomes = []
        for number in range(1, 51):
            claim = journal.claim(work(number), job_id=f"job-{number}")
            journal.sending(claim.record.id)
            journal.submitted(claim.record.id, f"task-{number}")
            journal.finished(claim.record.id, "https://result")
            for process in (one, other):
                process.do(f"c = claim({number})")
            for process in (one, other):
                process.tell("say(journal.take(c.lease))")
            outcomes.append(sorted([one.hear(), other.hear()]))
        assert outcomes == [[False, True]] * 50

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
    say(new.claim(work(), job_id="job").record.id)
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
    c = claim({number} * 1000 + turn)
    journal.sending(c.record.id)
    journal.submitted(c.record.id, f"task-{number}-{{turn}}")
"""
            )
        for process in processes:
            process.hear()
        assert journal.count(states=[TaskState.SUBMITTED]) == 150
        assert journal.version() == 450


class TestKilled:
    def test_before_sending_the_same_record_is_sent_by_the_next(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(job_id='job-child')")
        joined = journal.claim(work(), job_id="job-mine")
        assert joined.action == "join"
        assert not journal.take(joined.lease)
        child.kill()
        assert journal.take(joined.lease)
        assert journal.sending(joined.record.id).job_id == "job-child"

    def test_before_sending_and_asked_for_later(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(job_id='job-child')")
        child.kill()
        claim = journal.claim(work(), job_id="job-mine")
        assert (claim.action, claim.record.job_id, journal.count()) == ("send", "job-child", 1)

    def test_while_sending_is_unknown(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(job_id='job-child'); journal.sending(c.record.id)")
        assert journal.claim(work(), job_id="job-mine").action == "join"
        child.kill()
        claim = journal.claim(work(), job_id="job-mine")
        assert (claim.action, claim.record.state) == ("unknown", TaskState.UNKNOWN)
        resent = journal.claim(work(), job_id="job-mine", if_unknown="resend")
        assert (resent.action, resent.record.job_id) == ("send", "job-child")

    @pytest.mark.parametrize("reached", ["prepared", "held back"])
    def test_while_work_in_doubt_is_to_be_sent_again_leaves_it_unknown(
        self, start: Start, journal: Journal, reached: str
    ) -> None:
        lease = journal.claim(work(), job_id="job-mine").lease
        journal.sending(1)
        journal.leave(lease)
        child = start()
        child.do("c = claim(if_unknown='resend')")
        if reached == "held back":
            child.do("journal.sending(1); journal.held_back(1, '429')")
        joined = journal.claim(work(), job_id="job-mine")
        assert joined.action == "join"
        child.kill()
        assert not journal.take(joined.lease)
        assert journal.claim(work(), job_id="job-mine").action == "unknown"

    def test_while_a_task_is_watched_is_a_change_of_the_task(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(); journal.sending(1); journal.submitted(1, 'task-1')")
        seen = journal.version()
        child.kill()
        assert journal.attended(1) == 0
        assert [record.id for record in journal.records(since=seen)] == [1]

    def test_while_sending_is_told_to_a_waiting_joiner(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(); journal.sending(c.record.id)")
        joined = journal.claim(work(), job_id="job-mine")
        child.kill()
        assert not journal.take(joined.lease)
        assert journal.record(joined.record.id).state is TaskState.UNKNOWN

    def test_while_a_create_is_held_back_is_not_unknown(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(); journal.sending(c.record.id); journal.held_back(c.record.id, '429')")
        child.kill()
        assert journal.claim(work(), job_id="job-mine").action == "send"

    @pytest.mark.parametrize(
        ("step", "state"),
        [
            ("journal.status(i, 'running')", TaskState.SUBMITTED),
            ("journal.finished(i, 'https://result')", TaskState.FINISHED),
            ("journal.cancel_pending(i)", TaskState.SUBMITTED),
        ],
    )
    @pytest.mark.parametrize("seeded", [True, False])
    def test_after_the_answer_the_task_is_taken_up(
        self, start: Start, journal: Journal, step: str, state: TaskState, seeded: bool
    ) -> None:
        child = start()
        child.do(
            f"c = claim(seeded={seeded}); i = c.record.id; journal.sending(i); journal.submitted(i, 'task-1')"
        )
        child.do(step)
        child.kill()
        claim = journal.claim(work(seeded=seeded), job_id="job-mine")
        assert (claim.action, claim.record.state, claim.record.task_id) == ("join", state, "task-1")

    def test_while_downloading_leaves_the_download_to_others(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(); i = c.record.id; journal.sending(i); journal.submitted(i, 'task-1')")
        child.do("journal.finished(i, 'https://result'); say(journal.take(c.lease))")
        joined = journal.claim(work(), job_id="job-mine")
        assert not journal.take(joined.lease)
        child.kill()
        assert journal.take(joined.lease)

    def test_with_a_task_without_seed_in_its_hands_it_is_taken_up_only_then(
        self, start: Start, journal: Journal
    ) -> None:
        child = start()
        child.do(
            "c = claim(seeded=False); journal.sending(c.record.id); journal.submitted(c.record.id, 'task-1')"
        )
        assert journal.claim(work(seeded=False), job_id="job-mine").action == "send"
        child.kill()
        assert journal.claim(work(seeded=False), job_id="job-mine").record.task_id == "task-1"

    def test_its_cancel_is_not_forgotten(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do("c = claim(); journal.sending(c.record.id); journal.submitted(c.record.id, 'task-1')")
        child.do("journal.cancel(c.lease)")
        child.kill()
        (record,) = journal.open_records()
        assert (record.state, record.task_id) == (TaskState.CANCEL_PENDING, "task-1")

    def test_its_lock_file_is_cleaned_up(self, start: Start, path: Path, results: Path) -> None:
        owners = path.with_name(f"{path.name}.owners")
        children = [start() for _ in range(3)]
        for number, child in enumerate(children):
            child.do(f"c = claim({number}); {'journal.leave(c.lease)' if number else ''}")
        for child in children:
            child.kill()
        assert len(list(owners.iterdir())) == 3
        with Journal.open(path, results) as journal:
            assert [file.stem for file in owners.iterdir()] == [journal._owner and journal._owner.id]
        assert list(owners.iterdir()) == []

    def test_a_living_process_keeps_its_lock_file_when_others_clean_up(
        self, start: Start, path: Path, results: Path
    ) -> None:
        child = start()
        child.do("c = claim()")
        for _ in range(3):
            with Journal.open(path, results) as journal:
                assert journal.attended(1) == 1
        assert child.do("say(journal.sending(c.record.id).state.value)") == "sending"

    @pytest.mark.parametrize(
        ("steps", "seen"),
        [
            ("journal.sending(i)", {"prepared"}),
            ("journal.sending(i); journal.submitted(i, 'task-1')", {"prepared", "sending"}),
        ],
    )
    def test_at_any_statement_leaves_a_whole_step_or_none(
        self, start: Start, journal: Journal, steps: str, seen: set[str]
    ) -> None:
        child = start()
        statements = child.do(
            f"c = claim(0); i = c.record.id; seen = count_statements(); {steps}; say(len(seen))"
        )
        states = set()
        for number in range(1, statements + 1):
            child = start()
            record_id = child.do(f"c = claim({number}); i = c.record.id; pause_before('', {number}); say(i)")
            child.tell(steps)
            assert child.hear() == "paused"
            child.kill()
            record = journal.record(record_id)
            states.add(record.state.value)
            assert record.task_id is None
            expected = {TaskState.PREPARED: "send", TaskState.SENDING: "unknown"}[record.state]
            assert journal.claim(work(number), job_id="job-mine").action == expected
        # The last statement is the commit, before which the last child was killed.
        assert states == seen

    def test_between_removing_a_file_and_saying_so_mends_itself(self, start: Start, journal: Journal) -> None:
        child = start()
        child.do(
            """
def finish(number):
    c = claim(number); i = c.record.id
    journal.sending(i); journal.submitted(i, f"task-{number}"); journal.finished(i, "https://result")
    file = journal.result_stem(c.record).with_suffix(".png"); file.write_bytes(bytes(600))
    return c, file

c, file = finish(0)
journal.kept(c.record.id, [file]); journal.delivered(c.record.id); journal.leave(c.lease)
c, file = finish(1)
# The first commit notes the new file, the second would note that the old one had to make room.
pause_before("COMMIT", 2)
"""
        )
        child.tell("journal.kept(c.record.id, [file])")
        assert child.hear() == "paused"
        child.kill()
        old = journal.by_task_id("task-0")
        assert old is not None
        assert [file.exists() for file in old.files] == [False]
        claim = journal.claim(work(0), job_id="job-mine")
        assert (claim.action, claim.record.state, claim.record.task_id) == (
            "join",
            TaskState.FINISHED,
            "task-0",
        )


FORK = """
import json, os, signal, sys, threading, time
from xalora_client.errors import JournalError
from xalora_client.journal import Journal, Work

work = Work(fingerprint="f", sequencer_url="http://devnet", consumer_id="someone", task_type="upscaler")
path, results, plot = sys.argv[1:]
journal = Journal.open(None if plot == "memory" else path, results)
claim = journal.claim(work, job_id="job-parent")
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()
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
    print(json.dumps(["parent", journal.take(claim.lease)]) if plot == "child exits" else "", flush=True)
    sys.exit()
found = []
if plot == "child exits":
    joined = journal.claim(work, job_id="job-child")
    found += [joined.action, journal.take(joined.lease)]
    found += [journal.take(claim.lease), journal.leave(claim.lease)]
    try:
        journal.sending(claim.record.id)
    except JournalError as error:
        found.append(error.what)
    print(json.dumps(["child", *found]), flush=True)
    # Through the interpreter's whole shutdown, finalizers included.
    sys.exit()
elif plot == "memory":
    # On a thread, which would wait for ever for a lock that the parent's thread took with it.
    thread = threading.Thread(target=lambda: found.append(journal.claim(work, job_id="job-child").action))
    thread.daemon = True
    thread.start()
    thread.join(20)
    found.append(journal.count())
elif plot == "parent closes":
    journal.count()
    os.write(to_parent, b"x")
    os.read(from_parent, 1)
    found = [journal.claim(Work(fingerprint="child", sequencer_url="http://devnet", consumer_id="someone",
                                task_type="upscaler"), job_id="job-child").action]
elif plot == "parent is killed":
    parent = os.getppid()
    os.write(to_parent, b"x")
    # Reads to the end when the parent is gone.
    os.close(to_child)
    os.read(from_parent, 1)
    joined = journal.claim(work, job_id="job-child")
    # The kernel may close the pipe a moment before it drops the lock.
    deadline = time.monotonic() + 20
    while not journal.take(joined.lease) and time.monotonic() < deadline:
        pass
    found = [journal.sending(joined.record.id).job_id]
print(json.dumps(["child", *found]), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestForked:
    def run(self, path: Path, results: Path, plot: str) -> dict[str, list[Any]]:
        command = [sys.executable, "-W", "error", "-c", FORK, str(path), str(results), plot]
        # The pipe reaches its end only when parent and child are both gone.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [json.loads(line) for line in process.stdout.read().split("\n") if line]
        return {line[0]: line[1:] for line in lines}

    def test_a_child_is_somebody_else_and_its_end_harms_nobody(self, path: Path, results: Path) -> None:
        found = self.run(path, results, "child exits")
        assert found["child"][:4] == ["join", False, False, 0]
        assert "not this process's to send" in found["child"][4]
        # The child's exit has not unlocked the parent's sign of life.
        assert found["parent"] == [True]

    def test_a_parent_killed_is_dead_while_its_child_lives(self, path: Path, results: Path) -> None:
        assert self.run(path, results, "parent is killed") == {"child": ["job-parent"]}

    def test_a_child_outlives_its_parents_closing(self, path: Path, results: Path) -> None:
        assert self.run(path, results, "parent closes") == {"child": ["send"]}
        with Journal.open(path, results) as journal:
            assert [record.job_id for record in journal.records()] == ["job-child", "job-parent"]

    def test_in_memory_a_child_goes_on_with_its_copy(self, path: Path, results: Path) -> None:
        assert self.run(path, results, "memory") == {"child": ["send", 1]}


def test_watching_another_process(start: Start, journal: Journal) -> None:
    child = start()
    seen = journal.version()
    child.do("c = claim()")
    assert journal.version() > seen
    deadline = time.monotonic() + 30
    child.tell("journal.sending(c.record.id); journal.submitted(c.record.id, 'task-1')")
    while (record := journal.record(1)).task_id is None:
        assert time.monotonic() < deadline
    assert record.state is TaskState.SUBMITTED
    child.hear()
