"""The command ``xalora``. Its libraries (typer, rich) are the extra ``cli``, so they are imported late."""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

from .exit_codes import ExitCode

NEEDED = ("typer", "rich")


def main() -> NoReturn:
    """Run the command line of this process and end the process with an :class:`.ExitCode`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A character that the terminal lacks is worth a question mark, not a crash.
            stream.reconfigure(errors="replace")
    missing = [name for name in NEEDED if not _is_there(name)]
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
    sys.exit(ExitCode.DONE)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return False
