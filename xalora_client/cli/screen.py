"""Output of the command line: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import time
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import XaloraError
from .formats import on_one_line

logger = logging.getLogger("xalora_client.cli")

LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class Screen:
    """The output of a command.

    Args:
        json: Print one JSON document to stdout and nothing else.
        lines: Print JSON lines to stdout, one for each event, and nothing else.
        stream: The bytes of a result go to stdout, so people's lines go to stderr.
    """

    def __init__(self, *, json: bool = False, lines: bool = False, stream: bool = False) -> None:
        self.json = json
        self.lines = lines
        self.err = Console(stderr=True, highlight=False)
        self.out = self.err if stream else Console(highlight=False)

    @property
    def is_for_program(self) -> bool:
        """Whether stdout is JSON."""
        return self.json or self.lines

    @property
    def live(self) -> Console | None:
        """The terminal for live progress: stdout, or stderr if stdout is for a program; None without one."""
        if self.out.is_terminal and not self.is_for_program:
            return self.out
        return self.err if self.err.is_terminal else None

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print a line of the result, of parts with or without a style. Does nothing where stdout is JSON."""
        if not self.is_for_program:
            self._line(self.out, *parts)

    def show(self, renderable: Any) -> None:
        """Print a table or panel. Does nothing where stdout is JSON."""
        if not self.is_for_program:
            self.out.print(renderable)

    def note(self, *parts: str | tuple[str, str]) -> None:
        """Print a line that is not a part of the result."""
        self._line(self.err, *parts)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.note(("warning: ", "bold yellow"), text)

    def error(self, problem: XaloraError | str, subject: str = "") -> None:
        """Print an error: in a terminal on a line for each of its parts, else on one line."""
        lines = [str(problem)]
        if self.err.is_terminal and isinstance(problem, XaloraError):
            what, *_ = lines[0].partition(f" {problem.money}") if problem.money else lines
            lines = [part for part in (what, problem.money, problem.next_step) if part]
        self.note(("error: ", "bold red"), f"{subject}: {lines[0]}" if subject else lines[0])
        for line in lines[1:]:
            self.note(f"       {line}")

    def document(self, document: Any) -> None:
        """Print the JSON document: on one line, or indented in a terminal."""
        indent = 2 if self.out.is_terminal else None
        sys.stdout.write(json.dumps(document, indent=indent, default=str) + "\n")
        sys.stdout.flush()

    def event(self, event: str, **values: Any) -> None:
        """With ``lines``, print an event as one line of JSON, with its time."""
        if self.lines:
            line = {"event": event, "time": round(time(), 3), **values}
            sys.stdout.write(json.dumps(line, default=str) + "\n")
            sys.stdout.flush()

    def _line(self, console: Console, *parts: str | tuple[str, str]) -> None:
        clean = [on_one_line(p) if isinstance(p, str) else (on_one_line(p[0]), p[1]) for p in parts]
        # A program reads whole lines.
        console.print(Text.assemble(*clean), soft_wrap=not console.is_terminal)


@contextmanager
def stopping_nothing() -> Iterator[None]:
    """What can't be printed in here, such as on a full disk behind stdout, stops no task that is paid for."""
    try:
        yield
    except OSError as error:
        logger.debug("it can't be printed: %s", error)


def log_to(screen: Screen, verbosity: int) -> None:
    """Print the package's log to stderr: warnings; with ``-v`` information; with ``-vv`` everything."""
    logger = logging.getLogger("xalora_client")
    logger.setLevel(LEVELS[min(verbosity, len(LEVELS) - 1)])
    logger.handlers = [_ScreenHandler(screen)]
    logger.propagate = False


class _ScreenHandler(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._fallbacks: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        task = getattr(record, "fallback_of", None)
        if task is not None and record.levelno >= logging.WARNING:
            # Of many pictures with the same fate the first is told; the results' lines name the others.
            if text in self._fallbacks:
                return
            self._fallbacks.add(text)
            text = f"{task}: {text} --fallback never stops instead."
        if record.levelno >= logging.WARNING:
            self._screen.warn(text)
            return
        self._screen.note((f"{record.levelname.lower()}: ", "dim"), (text, "dim"))
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                self._screen.note((line, "dim"))


def attributes(thing: object, *names: str) -> dict[str, Any]:
    """These attributes of an object by name, for a JSON document; None each without an object."""
    return {name: None if thing is None else getattr(thing, name) for name in names}


def error_fields(error: XaloraError) -> dict[str, Any]:
    """An error as JSON."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        **attributes(error, "money", "next_step", "task_id", "job_id", "status_code", "error_type"),
    }
