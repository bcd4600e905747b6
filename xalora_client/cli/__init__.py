"""The command ``xalora``. Its libraries (typer, rich) are optional, so they are imported late."""

from __future__ import annotations

import importlib.util
import logging
import sys
import traceback
from typing import NoReturn

from .broken_pipes import ignore_failed_output, open_missing_streams, output_is_lost
from .exit_codes import ExitCode, most_serious, unforeseen

REQUIRED = ("typer", "rich")


def main() -> NoReturn:
    """Run the command line of this process and end the process with an :class:`.ExitCode`."""
    open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A character that the terminal can't show becomes a question mark.
            stream.reconfigure(errors="replace")
    ignore_failed_output()
    try:
        _run()
    except SystemExit as end:
        if isinstance(end.code, int) and output_is_lost():
            sys.exit(most_serious([ExitCode(end.code), ExitCode.CONFIGURATION]))
        raise


def _run() -> NoReturn:
    missing = [name for name in REQUIRED if not _is_installed(name)]
    if missing:
        sys.stderr.write(
            f'The command line needs {" and ".join(missing)}; install with: pip install "xalora[cli]"\n'
        )
        sys.exit(ExitCode.CONFIGURATION)
    try:
        from .app import app

        app(prog_name="xalora")
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - a bug of this package
        sys.stderr.write(f"error: {unforeseen(error)}\n")
        if logging.getLogger("xalora_client").isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        sys.exit(ExitCode.UNEXPECTED)
    sys.exit(ExitCode.DONE)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return False
