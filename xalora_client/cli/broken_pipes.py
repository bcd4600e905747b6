"""Standard streams that are closed, from the start or by a pipe, or full: no task is lost by it."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
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


def ignore_failed_output() -> None:
    """From now on, have output that can't be written discarded, with all that follows, instead of raising."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # A terminal is not closed by its reader, and on Windows it takes no bytes.
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            setattr(sys, name, _without_errors(stream))


def output_is_lost() -> bool:
    """Whether standard output could not be written, other than for a reader that wants no more of it."""
    with suppress(OSError):
        sys.stdout.flush()
    return _Pipe.lost_output


def _without_errors(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _Pipe(io.FileIO):
    lost_output = False

    def write(self, data: Buffer, /) -> Any:
        try:
            written = super().write(data)
            if written is None:
                # A full pipe that does not wait.
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return written
        except OSError as error:
            # Permanent, for everything that writes to this descriptor.
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, self.fileno())
            os.close(null_device)
            if self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                _Pipe.lost_output = True
                sys.stderr.write(
                    f"error: Standard output can't be written: {error.strerror}. The command goes on, and "
                    "no task is lost. See: xalora tasks --all\n"
                )
            return super().write(data)
