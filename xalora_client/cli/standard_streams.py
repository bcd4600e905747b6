"""Standard input as an image or a prompt, and standard output for the bytes of one result."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import typer

CHUNK_BYTES = 1 << 20


def read_image() -> bytes:
    """All of standard input.

    Raises:
        typer.BadParameter: It is a terminal, or empty.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise typer.BadParameter("- reads an image from standard input, and nothing is piped in")
    data = sys.stdin.buffer.read()
    if not data:
        raise typer.BadParameter("- reads an image from standard input, which is empty")
    return data


def read_prompt() -> str:
    """The text on standard input, without the line break at its end.

    Raises:
        typer.BadParameter: It is a terminal, holds no text, or is not UTF-8.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise typer.BadParameter("- reads the prompt from standard input, and nothing is piped in")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise typer.BadParameter("the prompt on standard input is not UTF-8 text") from None
    if not text:
        raise typer.BadParameter("- reads the prompt from standard input, which is empty")
    return text


def check_stdout(*, document: bool) -> None:
    """Check that standard output can take a result.

    Args:
        document: Whether ``--json`` or ``--jsonl`` prints there.

    Raises:
        typer.BadParameter: It can't.
    """
    if document:
        raise typer.BadParameter("-o - and --json (or --jsonl) both write to standard output")
    if sys.__stdout__ is None:
        raise typer.BadParameter("standard output is closed: add > FILE, or -o FILE")
    if sys.stdout.isatty():
        raise typer.BadParameter("the result is no text for a terminal: add > FILE, or -o FILE")


class StdoutBytes:
    """Standard output for bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, reader: BinaryIO) -> None:
        """Write all of a file. Blocking.

        Raises:
            OSError: The reader of standard output is gone, or it can't be written.
        """
        while piece := reader.read(CHUNK_BYTES):
            view = memoryview(piece)
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:
                    # A pipe that its reader made so takes more once something of it is read.
                    select.select([], [self._descriptor], [])


@contextmanager
def stdout_for_bytes() -> Iterator[StdoutBytes]:
    """Standard output for bytes alone: whatever else is printed meanwhile goes to standard error."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.setmode(own, os.O_BINARY)
        yield StdoutBytes(own)
    finally:
        sys.stdout.flush()
        os.dup2(own, 1)
        os.close(own)
