"""Processes of a session are found and ended, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from xalora_client.cluster.processes import Mark, Record, end_session, members, sole_user, start

# Starts a child in its session and one in a session of its own, names them, and sleeps.
FAMILY = """
import subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
print(*(child.pid for child in children), flush=True)
time.sleep(600)
"""


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Mark.of(pid).is_alive
    except OSError:
        return False


def family(tmp_path: Path) -> tuple[subprocess.Popen[bytes], Mark, list[int]]:
    log = tmp_path / "family.log"
    leader = start([sys.executable, "-c", FAMILY], dict(os.environ), log)
    until(lambda: log.is_file() and log.read_text().strip())
    return leader, Mark.of(leader.pid), [int(pid) for pid in log.read_text().split()]


def test_all_processes_of_a_session_end(tmp_path: Path) -> None:
    leader, mark, children = family(tmp_path)
    assert sorted(members(mark)) == sorted([leader.pid, *children])
    end_session(mark)
    leader.wait()
    assert not any(map(runs, [leader.pid, *children]))
    assert members(mark) == []


def test_children_that_their_leader_left_behind_end_too(tmp_path: Path) -> None:
    leader, mark, children = family(tmp_path)
    try:
        leader.kill()
        leader.wait()
        assert members(mark) == children[:1]
        end_session(mark)
        assert not runs(children[0])
    finally:
        os.kill(children[1], signal.SIGKILL)


def test_an_id_that_was_given_out_again_is_left_alone(tmp_path: Path) -> None:
    leader, mark, children = family(tmp_path)
    try:
        other = replace(mark, start=mark.start - 1)
        assert members(other) == [] and not other.is_alive
        end_session(other)
        assert all(map(runs, [leader.pid, *children]))
    finally:
        end_session(mark)
        leader.wait()


def test_a_child_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from xalora_client.cluster.processes import start\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = start(sleep, dict(os.environ), Path('log'))\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.kill()
    until(lambda: not runs(child))


def test_a_record_ends_what_it_names(tmp_path: Path) -> None:
    leader, mark, children = family(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    Record(Mark.of(os.getpid()), str(temporary), [mark]).write(tmp_path)
    record = Record.read(tmp_path)
    assert record is not None and record.supervisor.is_alive
    record.end(tmp_path)
    leader.wait()
    assert not any(map(runs, [leader.pid, *children]))
    assert not temporary.exists() and Record.read(tmp_path) is None


def test_a_folder_has_one_user(tmp_path: Path) -> None:
    with sole_user(tmp_path / "a") as first, sole_user(tmp_path / "a") as second:
        assert (first, second) == (True, False)
    with sole_user(tmp_path / "a") as again:
        assert again
