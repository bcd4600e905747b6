"""What all commands share: how they end, and how Ctrl-C or SIGTERM reaches the client."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import typer

from ..errors import XaloraError
from .exit_codes import ExitCode, exit_code_of
from .screen import Screen, error_fields

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("xalora_client.cli")


def command(function: Callable[P, ExitCode | None]) -> Callable[P, None]:
    """Let a function be a command: it returns its exit status, and its errors become one message each.

    A parameter called ``as_json`` decides whether an error also ends up in a JSON document on stdout.
    """

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        screen = Screen(json=bool(options.get("as_json")))
        try:
            code = function(*arguments, **options) or ExitCode.DONE
        except XaloraError as error:
            code = exit_code_of(error)
            _report(screen, error, code)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except OSError as error:
            code = ExitCode.CONFIGURATION
            _report(screen, XaloraError(f"This machine refused: {error}", money=""), code)
        raise typer.Exit(code)

    return run


def _report(screen: Screen, error: XaloraError, code: ExitCode) -> None:
    logger.debug("where it happened", exc_info=error)
    screen.error(error)
    if screen.json:
        screen.document({"error": error_fields(error), "exit_code": int(code)})


def run_interruptible(work: Coroutine[Any, Any, T], *, on_interrupt: Callable[[], None] = lambda: None) -> T:
    """``asyncio.run`` with a Ctrl-C or SIGTERM that cancels ``work`` alone and lets it clean up.

    On Python 3.10 ``asyncio.run`` would cancel every coroutine at once, among them those that cancel the
    remote tasks. A second one ends at once.

    Args:
        on_interrupt: Called on the event loop when the signal comes, before ``work`` is cancelled.

    Raises:
        KeyboardInterrupt: The signal came; ``work`` has ended.
    """

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)

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
