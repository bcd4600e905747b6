"""Worker processes: what a file may take, what a worker may do, and what stays of it."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import bombs
import numpy as np
import pytest
from ended_workers import end_workers
from PIL import Image

from xalora_client.errors import ConfigurationError, ResultFormatError, ResultTooLargeError
from xalora_client.media import worker, workers
from xalora_client.media.containers import BrokenMediaError
from xalora_client.media.images import decode_image, decode_images
from xalora_client.media.limits import TooLargeError
from xalora_client.media.media_types import MediaKind, sniff_file
from xalora_client.media.validation import check_complete, kind_of_result
from xalora_client.media.video import open_video

MIB = 1 << 20
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limits")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 48, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def fresh_pool(monkeypatch: pytest.MonkeyPatch) -> workers._Pool:
    pool = workers._Pool()
    monkeypatch.setattr(workers, "_pool", pool)
    return pool


def peak_mib(pid: int) -> int:
    """The most memory that a process has held, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) >> 10
    raise AssertionError


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_worker_is_used_again_and_gives_equal_pixels(photo: Path, fresh_pool: workers._Pool) -> None:
    expected = np.asarray(Image.open(photo)).astype(np.float32) / np.float32(255)
    for _ in range(3):
        assert np.array_equal(decode_image(photo), expected)
    assert len(fresh_pool.pids()) == 1


def test_pixels_larger_than_the_shared_memory_arrive_whole(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (3000, 3000, 4), np.uint8)
    assert pixels.nbytes > workers.SLOTS * workers.SLOT_BYTES
    Image.fromarray(pixels).save(path := tmp_path / "a.png", compress_level=1)
    assert np.array_equal(decode_image(path), pixels.astype(np.float32) / np.float32(255))


@ONLY_LINUX
@pytest.mark.parametrize(
    "data",
    [
        bombs.mp4_of_samples(500_000_000),
        bombs.mp4_of_samples(200_000_000, tracks=4),
        bombs.png(64, 64, after=bombs.png_text(400)),
        bombs.png(64, 64, extra=bombs.png_text(400)),
        bombs.animated_webp(16383, 16383, 3),
        bombs.gif(16384, 16384, 3),
    ],
    ids=["mp4 samples", "mp4 tracks", "png text after", "png text before", "webp canvas", "gif canvas"],
)
def test_a_bomb_takes_little_memory(tmp_path: Path, data: bytes, fresh_pool: workers._Pool) -> None:
    file = written(tmp_path / "a", data)
    kind = sniff_file(file)
    assert kind is not None
    began = time.monotonic()
    peaks = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for pid in fresh_pool.pids():
                try:
                    peaks.append(peak_mib(pid))
                except (OSError, AssertionError):
                    continue

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        check_complete(file, kind)
    except BrokenMediaError:
        pass
    finally:
        stop.set()
        watching.join()
    assert max(peaks) < 500
    assert time.monotonic() - began < workers.START_SECONDS


def test_what_takes_too_long_ends_with_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Path, fresh_pool: workers._Pool
) -> None:
    file = written(tmp_path / "a.jpg", bombs.jpeg_of_scans(4000, 2000))
    decode_image(photo)
    (pid,) = fresh_pool.pids()
    monkeypatch.setattr(workers, "BASE_SECONDS", 0.2)
    monkeypatch.setattr(workers, "BYTES_PER_SECOND", 1 << 30)
    with pytest.raises(ResultTooLargeError, match="longer than allowed"):
        decode_image(file)
    assert not Path(f"/proc/{pid}").exists()
    monkeypatch.undo()
    assert decode_image(photo).shape == (64, 48, 3)


def test_a_worker_that_dies_is_that_files_error_and_the_next_file_is_read(
    tmp_path: Path, photo: Path, fresh_pool: workers._Pool
) -> None:
    decode_image(photo)
    (pid,) = fresh_pool.pids()
    large = written(tmp_path / "large.png", bombs.png(5000, 5000))
    with pytest.raises(TooLargeError, match="has ended"):
        # More than the shared memory holds, so that rows are still to come.
        for image in workers.images("frames", large):
            os.kill(pid, signal.SIGKILL)
            image.stored()
    assert decode_image(photo).shape == (64, 48, 3)
    (other,) = fresh_pool.pids()
    assert other != pid


def test_a_file_whose_worker_is_killed_is_checked_by_another(
    photo: Path, fresh_pool: workers._Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = end_workers(1, monkeypatch)
    check_complete(photo, MediaKind.PNG)
    (other,) = fresh_pool.pids()
    assert killed and other not in killed


def test_a_file_that_ends_each_worker_ends_two_and_no_more(
    photo: Path, fresh_pool: workers._Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = end_workers(2, monkeypatch)
    with pytest.raises(TooLargeError, match="has ended twice"):
        check_complete(photo, MediaKind.PNG)
    assert len(set(killed)) == 2 and fresh_pool.pids() == []
    assert decode_image(photo).shape == (64, 48, 3)


def test_sound_that_could_not_be_told_from_a_video_is_not_taken_for_a_broken_one(
    tmp_path: Path, fresh_pool: workers._Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = written(tmp_path / "a.mp4", bombs.mp4_of_samples(1))
    end_workers(2, monkeypatch)
    with pytest.raises(TooLargeError, match="has ended"):
        kind_of_result(sound)


class Unreadable(io.BytesIO):
    """A file whose reading fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error"), "too_large"),
        (OSError(errno.EMFILE, "Too many open files"), "too_large"),
        (av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "too_large"),
        (MemoryError(), "too_large"),
        (av.error.OSError(errno.EIO, "Input/output error"), "broken"),
        (OSError("image file is truncated"), "broken"),
    ],
)
def test_a_fault_of_this_machine_is_none_of_the_file(error: Exception, said: str) -> None:
    reply = worker.Reply.__new__(worker.Reply)
    assert list(worker.answer({"do": "check", "with": {"kind": "png"}}, Unreadable(error), reply)) == [said]


def test_a_python_that_does_not_start_is_told_as_such(
    photo: Path, fresh_pool: workers._Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_PROGRAM", "raise SystemExit(1)")
    with pytest.raises(ConfigurationError, match=r"does not start.*retrievable"):
        decode_image(photo)


def test_a_caller_that_leaves_early_keeps_the_worker(tmp_path: Path, fresh_pool: workers._Pool) -> None:
    frames = [Image.fromarray(np.full((400, 500, 3), value, np.uint8)) for value in range(0, 250, 5)]
    frames[0].save(path := tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    for _ in range(3):
        for frame in workers.images("frames", path):
            assert (frame.width, frame.height) == (500, 400)
            break
    assert decode_images([path]).shape == (50, 400, 500, 3)
    assert len(fresh_pool.pids()) == 1


def test_many_files_at_once_start_few_workers(photo: Path, fresh_pool: workers._Pool) -> None:
    with ThreadPoolExecutor(24) as threads:
        shapes = set(threads.map(lambda _: decode_image(photo).shape, range(48)))
        assert shapes == {(64, 48, 3)}
    assert 1 <= len(fresh_pool.pids()) <= workers.IDLE_WORKERS


def test_slow_files_in_every_place_do_not_stop_another(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, fresh_pool: workers._Pool
) -> None:
    monkeypatch.setattr(workers, "PATIENCE_SECONDS", 0.01)
    reading = [workers.images("frames", photo) for _ in range(workers.MOST_WORKERS)]
    for images in reading:
        next(images)
    assert decode_image(photo).shape == (64, 48, 3)
    for images in reading:
        images.close()


def test_a_worker_inherits_nothing(
    photo: Path, fresh_pool: workers._Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XALORA_API_KEY", "consumer#CANARYKEY")
    decode_image(photo)
    (pid,) = fresh_pool.pids()
    if sys.platform == "linux":
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"CANARY" not in environment and b"HOME" not in environment
        assert b"CANARY" not in Path(f"/proc/{pid}/cmdline").read_bytes()


_TRIES = """
import ctypes, os, socket, subprocess, sys
from pathlib import Path
from xalora_client.media.isolation import isolate
secret, own = Path(sys.argv[1]), Path(sys.argv[2])
took_effect = isolate([own])
def tried(step):
    try:
        step()
        return "done"
    except OSError:
        return "denied"
print(took_effect)
print("read", tried(lambda: secret.read_text()))
print("write", tried(lambda: (own / "new").write_text("x")))
print("list", tried(lambda: os.listdir(secret.parent)))
print("own", tried(lambda: os.listdir(own)))
print("socket", tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
print("unix", tried(lambda: socket.socket(socket.AF_UNIX)))
print("exec", tried(lambda: os.execv("/bin/true", ["true"])))
print("kill", tried(lambda: os.kill(os.getppid(), 0)))
"""


@ONLY_LINUX
def test_a_worker_opens_no_file_no_socket_and_no_program(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "secret").mkdir()
    secret = written(tmp_path / "secret" / "key", b"key")
    own = tmp_path / "own"
    own.mkdir()
    said = subprocess.run(
        [sys.executable, "-c", _TRIES, secret, own],
        env={"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    seen = dict(line.split() for line in said[1:])
    if "landlock" in said[0]:
        assert seen["read"] == seen["write"] == seen["list"] == "denied"
        assert seen["own"] == "done"
    if "seccomp" in said[0]:
        assert seen["socket"] == seen["unix"] == seen["exec"] == seen["kill"] == "denied"
    if "landlock" not in said[0] and "seccomp" not in said[0]:
        pytest.skip("this kernel has neither Landlock nor seccomp")


def test_no_worker_outlives_its_program(photo: Path, repository: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from xalora_client.media import workers, images; "
        "images.decode_image(Path(sys.argv[1])); print(*workers._pool.pids())"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, photo],
        env={"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (pid,) = map(int, said.split())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
    pytest.fail("the worker is still there")


def test_a_video_never_becomes_a_playlist(tmp_path: Path) -> None:
    secret = written(tmp_path / "secret.mp4", bombs.mp4_of_samples(1))
    for text in (f"#EXTM3U\n#EXTINF:1,\n{secret}\n", f"ffconcat version 1.0\nfile {secret}\n"):
        file = written(tmp_path / "a.mp4", text.encode())
        with pytest.raises(ResultFormatError, match="no MP4 or WebM"):
            open_video(file)
        disguised = written(tmp_path / "b.mp4", b"\0\0\0\x08ftyp" + text.encode())
        with pytest.raises(ResultFormatError):
            open_video(disguised)
