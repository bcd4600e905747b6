"""Standard streams that are closed, from the start or by a pipe (``| head``): no task is lost by it."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer


def open_missing_streams() -> None:
    """Open the null device in place of standard streams that were closed when the process began (``>&-``).

    Else the next file that is opened gets the descriptor, and whatever is printed.
    """
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null_device = os.open(os.devnull, os.O_RDWR)
            if null_device != descriptor:
                os.dup2(null_device, descriptor)
                os.close(null_device)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


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
