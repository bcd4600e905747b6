"""Virtual environments."""

from __future__ import annotations

import sys
from pathlib import Path

from commands import CommandError, run


def venv_python(folder: Path) -> Path:
    return folder / "bin" / "python"


def make_venv(folder: Path) -> Path:
    """Make one with the Python that runs this, in the place of whatever was there; returns its python."""
    try:
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
    except CommandError as error:
        raise CommandError(
            f"{error}\n{sys.executable} cannot make virtual environments. "
            "On Debian and Ubuntu: apt-get install python3-venv"
        ) from None
    return venv_python(folder)
