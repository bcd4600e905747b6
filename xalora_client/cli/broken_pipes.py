"""Standard streams that survive a closed pipe (``| head``), so that paid tasks are not lost with it."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer


def ignore_closed_pipes() -> None:
    """Discard output to a closed pipe from now on, instead of raising BrokenPipeError."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # A terminal is not closed by its reader, and on Windows it takes no bytes.
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            setattr(sys, name, _without_pipe_errors(stream))


def _without_pipe_errors(stream: io.TextIOWrapper) -> io.TextIOWrapper:
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
            # Permanent, for everything that writes to this descriptor.
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, self.fileno())
            os.close(null_device)
            return super().write(data)
