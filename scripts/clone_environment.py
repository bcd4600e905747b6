"""The clone's own `.venv`: the package, editable, with its extras, and the development tools."""

from __future__ import annotations

from pathlib import Path

from cache import fingerprint, locked
from commands import REPOSITORY, pip_install, run, say
from virtual import make_venv, venv_python

EXTRAS = "cli,s3,fast"
DEFINED_BY = ("pyproject.toml", "requirements-dev.txt")


def clone_python() -> Path:
    """The clone's Python, installed first where anything that defines it has changed."""
    folder = REPOSITORY / ".venv"
    python = venv_python(folder)
    stamp = folder / ".installed"
    wanted = fingerprint(EXTRAS, *((REPOSITORY / name).read_text(encoding="utf-8") for name in DEFINED_BY))
    with locked(REPOSITORY / ".artifacts" / "venv.lock", ".venv"):
        works = run([str(python), "-c", "import pip"], check=False, quiet=True) == 0
        if works and stamp.is_file() and stamp.read_text() == wanted:
            return python
        if not works:
            make_venv(folder)
        say(f"Installing the package and the development tools into {folder}")
        pip_install(python, "-e", f"{REPOSITORY}[{EXTRAS}]", "-r", str(REPOSITORY / "requirements-dev.txt"))
        stamp.write_text(wanted)
    return python
