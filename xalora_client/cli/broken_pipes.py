"""Output into a pipe whose reader may leave (``| head``), which must not end work that is paid for."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer


def outlast_readers() -> None:
    """From here on, what nobody reads any more is dropped instead of raising, whichever library writes it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # A terminal has no reader that leaves, and on Windows it is no file to write bytes to.
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            setattr(sys, name, _outlasting(stream))


def _outlasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _Pipe(io.FileIO):
    def write(self, data: Buffer, /) -> Any:
        try:
            return super().write(data)
        except BrokenPipeError:
            # For good: whatever else holds the descriptor writes to nowhere, too.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)
