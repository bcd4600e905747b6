"""Standard output for the bytes of a result."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from PIL import Image

from xalora_client.cli.standard_streams import StdoutBytes

PROGRAM = """
import io, os
from xalora_client.cli.standard_streams import stdout_for_bytes
print("before")
with stdout_for_bytes() as stdout:
    print("a library's word")
    os.write(1, b"one of C\\n")
    stdout.write(io.BytesIO(bytes(range(256)) * 5000))
print("after")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there lines end otherwise")
def test_whatever_else_is_printed_goes_to_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"before\n" + bytes(range(256)) * 5000 + b"after\n"
    assert sorted(done.stderr.splitlines()) == [b"a library's word", b"one of C"]


def test_a_reader_that_is_gone_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(OSError):
        StdoutBytes(writer).write(io.BytesIO(b"data"))
    os.close(writer)


@pytest.mark.skipif(sys.platform == "win32", reason="its pipes always wait")
def test_all_bytes_reach_a_slow_reader_whose_pipe_does_not_wait() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filling, data = os.write(writer, bytes(1 << 20)), bytes(range(256)) * 2000

    def write() -> None:
        try:
            StdoutBytes(writer).write(io.BytesIO(data))
        finally:
            os.close(writer)

    with ThreadPoolExecutor(1) as threads, os.fdopen(reader, "rb") as pipe:
        writing = threads.submit(write)
        # The pipe is full when it begins.
        wait([writing], 0.2)
        assert pipe.read()[filling:] == data
        writing.result()


@pytest.mark.skipif(sys.platform == "win32", reason="its shell closes no descriptors")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start_end_nothing(tmp_path: Path, closed: str) -> None:
    """Nor is anything printed into the files that are opened next."""
    picture = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(picture)
    options = f"--engine pillow --force {picture}"
    environment = {
        **os.environ,
        "XALORA_STATE_DIR": str(tmp_path / "state"),
        "XALORA_UPSCALE_MODEL": "lanczos",
    }

    def run(arguments: str) -> subprocess.CompletedProcess[str]:
        command = f"{sys.executable} -m xalora_client {arguments} {closed}"
        return subprocess.run(
            command, shell=True, capture_output=True, text=True, env=environment, check=False, timeout=60
        )

    done = run(f"upscale -o {tmp_path / 'large.png'} {options}")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (16, 16)
    assert run("tasks --json").returncode == 0
    if ">&-" in closed.split():
        refused = run(f"upscale -o - {options}")
        assert refused.returncode == 2 and ("2>&-" in closed or "output is closed" in refused.stderr)
