"""The decorator of all commands (exit status, error messages), and a client under Ctrl-C and SIGTERM."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from ..errors import XaloraError
from .exit_codes import ExitCode, exit_code_of
from .screen import Screen, error_fields

if TYPE_CHECKING:
    from ..client import AsyncXalora
    from ..config import Settings
    from ..journal import Journal

T = TypeVar("T")

logger = logging.getLogger("xalora_client.cli")


def command(function: Callable[..., ExitCode | None]) -> Callable[..., None]:
    """Turn a function into a command: it ends with the returned exit status, or with a message for an error.

    A parameter whose type is a dataclass stands for an option for each of its fields. With the option
    ``as_json`` an error is also printed as a JSON document on stdout.
    """
    hints = get_type_hints(function, include_extras=True)
    groups = [name for name, kind in hints.items() if is_dataclass(kind)]
    parameters = list(_parameters(function))

    @functools.wraps(function)
    def run(**options: Any) -> None:
        screen = Screen(json=bool(options.get("as_json")))
        try:
            for name in groups:
                values = {each.name: options.pop(each.name) for each in fields(hints[name])}
                options[name] = hints[name](**values)
            code = function(**options) or ExitCode.DONE
        except XaloraError as error:
            code = exit_code_of(error)
            _report(screen, error, code)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except OSError as error:
            code = ExitCode.CONFIGURATION
            _report(screen, XaloraError(f"The operating system refused: {error}", money=""), code)
        raise typer.Exit(code)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


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
    if screen.json:
        screen.document({"error": error_fields(error), "exit_code": int(code)})


def run_interruptible(
    coroutine: Coroutine[Any, Any, T], *, on_interrupt: Callable[[], None] = lambda: None
) -> T:
    """``asyncio.run``, except that Ctrl-C or SIGTERM cancels only ``coroutine`` and lets it clean up.

    On Python 3.10 ``asyncio.run`` would cancel every coroutine at once, among them those that cancel the
    remote tasks. A second signal ends the process at once.

    Args:
        on_interrupt: Called on the event loop at the signal, before ``coroutine`` is cancelled.

    Raises:
        KeyboardInterrupt: A signal came and ``coroutine`` has ended.
    """

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(coroutine)

        def interrupt(*_: object) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            loop.call_soon_threadsafe(on_interrupt)
            loop.call_soon_threadsafe(task.cancel)

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return await task
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def with_client(
    settings: Settings,
    journal: Journal,
    function: Callable[[AsyncXalora], Awaitable[T]],
    on_interrupt: Callable[[], None] = lambda: None,
) -> T:
    """Run a coroutine function with an open client. Ctrl-C cancels it and raises KeyboardInterrupt."""
    from ..client import AsyncXalora

    async def run() -> T:
        async with AsyncXalora(settings=settings, journal=journal) as client:
            return await function(client)

    return run_interruptible(run(), on_interrupt=on_interrupt)
