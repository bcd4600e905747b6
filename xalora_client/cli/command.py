"""The decorator of all commands (exit status, error messages), and a client for one command."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from ..errors import XaloraError
from .exit_codes import ExitCode, exit_code_of, unforeseen
from .screen import Screen, error_fields
from .signals import run_interruptible

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..config import Settings
    from ..journal import Journal

T = TypeVar("T")

logger = logging.getLogger("xalora_client.cli")


def command(function: Callable[..., ExitCode | None]) -> Callable[..., None]:
    """Turn a function into a command: it ends with the returned exit status, or with a message for an error.

    A parameter whose type is a dataclass stands for an option for each of its fields. With the option
    ``as_json`` or ``as_lines`` an error is also printed as JSON on stdout, and so is an interrupt.
    """
    hints = get_type_hints(function, include_extras=True)
    groups = [name for name, kind in hints.items() if is_dataclass(kind)]
    parameters = list(_parameters(function))

    @functools.wraps(function)
    def run(**options: Any) -> None:
        screen = Screen(json=bool(options.get("as_json")), lines=bool(options.get("as_lines")))
        try:
            for name in groups:
                values = {each.name: options.pop(each.name) for each in fields(hints[name])}
                options[name] = hints[name](**values)
            code = function(**options) or ExitCode.DONE
        except XaloraError as error:
            code = exit_code_of(error)
            _report(screen, error, code)
        except (KeyboardInterrupt, typer.Abort):
            # Abort: Ctrl-C or Ctrl-D at a question.
            code = ExitCode.INTERRUPTED
            _end(screen, code)
        except OSError as error:
            code = ExitCode.CONFIGURATION
            _report(screen, XaloraError(f"The operating system refused: {error}", money=""), code)
        except (typer.BadParameter, typer.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - a bug of this package
            code = ExitCode.UNEXPECTED
            _report(screen, unforeseen(error), code)
        raise typer.Exit(code)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__doc__ = _paragraphs(function.__doc__ or "")
    return run


def _paragraphs(docstring: str) -> str:
    """A docstring with each paragraph on one line: the help breaks lines by the terminal's width."""
    return "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(docstring).split("\n\n"))


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """The parameters of a function, with the fields of a dataclass in place of one."""
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        if is_dataclass(hints[parameter.name]):
            yield from _parameters(hints[parameter.name])
        else:
            yield parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY)


def _report(screen: Screen, error: XaloraError, code: ExitCode) -> None:
    logger.debug("traceback of the error", exc_info=error)
    screen.error(error)
    _end(screen, code, error=error_fields(error))


def _end(screen: Screen, code: ExitCode, **fields: Any) -> None:
    """Print the JSON of a command that has printed none."""
    if screen.json:
        screen.document({**fields, "exit_code": int(code)})
    screen.event("end", **fields, exit_code=int(code))


def with_client(
    settings: Settings,
    journal: Journal,
    function: Callable[[AsyncXalora], Awaitable[T]],
    on_interrupt: Callable[[], None] = lambda: None,
    last_words: Callable[[], str] = lambda: "",
) -> T:
    """Run a coroutine function with an open client. Ctrl-C cancels it and raises KeyboardInterrupt.

    ``on_interrupt`` and ``last_words`` are those of :func:`.signals.run_interruptible`.
    """
    from ..client import AsyncXalora

    async def run() -> T:
        async with AsyncXalora(settings=settings, journal=journal) as client:
            return await function(client)

    return run_interruptible(run(), on_interrupt=on_interrupt, last_words=last_words)
