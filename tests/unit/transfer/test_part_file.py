"""Partial downloads: whoever writes one keeps it, and what was left is continued or removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xalora_client.transfer import part_file
from xalora_client.transfer.part_file import PartFile, remove_left, take_over

WRITER = """
import sys
from pathlib import Path
from xalora_client.transfer import part_file
from xalora_client.transfer.part_file import PartFile
part = PartFile(Path(sys.argv[1]))
part.begin(b"half", '"v1"')
print("begun", flush=True)
sys.stdin.read()
"""

AN_HOUR = 3600.0


def begun(stem: Path) -> PartFile:
    part = PartFile(stem)
    part.begin(b"half", '"v1"')
    return part


def continued(stem: Path) -> bytes:
    """What another download of the same file begins with."""
    private = stem.with_name(f"{stem.name}.other")
    take_over(stem, private)
    part = PartFile(private)
    size = part.prepare()
    content = part.path.read_bytes() if size else b""
    assert size == len(content)
    part.close()
    return content


@pytest.mark.skipif(sys.platform == "win32", reason="Windows suspends no process by a signal")
def test_a_suspended_process_keeps_its_part_and_a_dead_one_leaves_it(tmp_path: Path) -> None:
    stem = tmp_path / "job-1"
    part = tmp_path / "job-1.abc.part"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "job-1.abc")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        writer.send_signal(signal.SIGSTOP)
        long_ago = part.stat().st_mtime - AN_HOUR
        os.utime(part, (long_ago, long_ago))
        assert continued(stem) == b""
        assert not remove_left(part)
        assert part.read_bytes() == b"half"
        writer.kill()
    assert continued(stem) == b"half"
    assert not part.exists()


def test_one_that_is_left_is_continued_at_once_whatever_its_age(tmp_path: Path) -> None:
    begun(tmp_path / "job-1.abc").close()
    assert continued(tmp_path / "job-1") == b"half"


def test_an_empty_one_is_not_left(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "job-1.abc")
    assert part.prepare() == 0
    part.begin(validator='"v1"')
    part.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_file_of_another_kind_is_not_taken_over(tmp_path: Path) -> None:
    """Such as a video that is being made of an animation: it has no notes."""
    other = tmp_path / "job-1.webp.12-34.part"
    other.write_bytes(b"frames")
    assert continued(tmp_path / "job-1") == b""
    assert other.read_bytes() == b"frames"


def test_one_that_was_left_can_be_removed(tmp_path: Path) -> None:
    part = begun(tmp_path / "job-1.abc")
    assert not remove_left(part.path)
    part.close()
    assert remove_left(part.path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows needs no locks for this")
def test_one_that_somebody_looks_at_while_it_is_begun_is_begun_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another download, or the sweep of left ones, found it between its making and its lock."""
    import fcntl

    part = PartFile(tmp_path / "job-1.abc")
    looking = os.open(part.path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_EX)

    def removed_meanwhile(seconds: float) -> None:
        part.path.unlink(missing_ok=True)
        fcntl.flock(looking, fcntl.LOCK_UN)

    monkeypatch.setattr(part_file, "sleep", removed_meanwhile)
    part.begin(b"half", '"v1"')
    os.close(looking)
    assert part.path.read_bytes() == b"half"
    part.close()
    assert continued(tmp_path / "job-1") == b"half"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows needs no locks for this")
def test_one_that_is_just_begun_is_not_even_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job-1.abc.part").touch()

    def locked(*_: object) -> None:
        raise AssertionError("its writer may be about to lock it")

    monkeypatch.setattr("fcntl.flock", locked)
    take_over(tmp_path / "job-1", tmp_path / "job-1.other")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows needs no locks for this")
def test_a_folder_without_locks_can_be_written_and_nothing_is_taken_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    part = begun(tmp_path / "job-1.abc")
    part.write(b" and half")
    assert continued(tmp_path / "job-1") == b""
    assert not remove_left(part.path)
    assert part.move_to(".png").read_bytes() == b"half and half"
