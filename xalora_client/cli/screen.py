"""The two streams of the command line: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import XaloraError
from .formats import printable

LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class Screen:
    """Where a command writes.

    Args:
        json: Only one JSON document goes to stdout.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    @property
    def live(self) -> Console | None:
        """Where moving bars belong: the stream with a terminal that is not meant for a program, if any."""
        if self.out.is_terminal and not self.json:
            return self.out
        return self.err if self.err.is_terminal else None

    def say(self, *parts: str | tuple[str, str]) -> None:
        """One line of the result for people; parts may have a style. Nothing under ``json``."""
        if not self.json:
            self._line(self.out, *parts)

    def show(self, renderable: Any) -> None:
        """A table or panel for people. Nothing under ``json``."""
        if not self.json:
            self.out.print(renderable)

    def note(self, *parts: str | tuple[str, str]) -> None:
        """One line beside the result."""
        self._line(self.err, *parts)

    def warn(self, text: str) -> None:
        self.note(("warning: ", "bold yellow"), text)

    def error(self, problem: XaloraError | str, subject: str = "") -> None:
        """One readable message: in a terminal a line for each thing it says, else all on one line."""
        text = str(problem)
        if self.err.is_terminal and isinstance(problem, XaloraError):
            what, *_ = text.partition(f" {problem.money}") if problem.money else (text,)
            text = "\n       ".join(part for part in (what, problem.money, problem.next_step) if part)
        self.note(("error: ", "bold red"), f"{subject}: {text}" if subject else text)

    def document(self, document: Any) -> None:
        """The JSON document: one line for a program, indented for a person."""
        indent = 2 if self.out.is_terminal else None
        sys.stdout.write(json.dumps(document, indent=indent, default=str) + "\n")
        sys.stdout.flush()

    def _line(self, console: Console, *parts: str | tuple[str, str]) -> None:
        clean = [printable(p) if isinstance(p, str) else (printable(p[0]), p[1]) for p in parts]
        # A program that reads the line must find it whole.
        console.print(Text.assemble(*clean), soft_wrap=not console.is_terminal)


def log_to(screen: Screen, verbosity: int) -> None:
    """Show the package's log on stderr: warnings, with ``-v`` what happens, with ``-vv`` everything."""
    logger = logging.getLogger("xalora_client")
    logger.setLevel(LEVELS[min(verbosity, len(LEVELS) - 1)])
    logger.handlers = [_ScreenHandler(screen)]
    logger.propagate = False


class _ScreenHandler(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.levelno < logging.WARNING:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        if record.levelno >= logging.WARNING:
            self._screen.warn(text)
        else:
            self._screen.note((f"{record.levelname.lower()}: ", "dim"), (text, "dim"))


def error_fields(error: XaloraError) -> dict[str, Any]:
    """An error as it stands in a JSON document."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "money": error.money,
        "next_step": error.next_step,
        "task_id": error.task_id,
        "job_id": error.job_id,
        "status_code": error.status_code,
        "error_type": error.error_type,
    }
