"""Standard output for the bytes of a result."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

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
