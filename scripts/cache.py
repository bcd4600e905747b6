"""The cache that all clones of this user share, its locks, and virtual environments."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[xalora] {text}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """`$XALORA_DEV_CACHE`, else `xalora-dev` in the user's cache folder."""
    if own := os.environ.get("XALORA_DEV_CACHE"):
        return Path(own).expanduser().resolve()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "xalora-dev"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xalora-dev"


def fingerprint(*parts: str) -> str:
    """Twelve hex digits that change with any part."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock file beside a folder. Another process waits; the system frees a dead process's lock."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another run, which makes {folder.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_complete(folder: Path) -> bool:
    return (folder / ".complete").is_file()


@contextmanager
def incomplete(folder: Path, program: Path | None = None) -> Iterator[bool]:
    """Whether the caller must fill the folder, now empty: at the first call, or where its `program` is gone.

    It is filled where it stays, since a virtual environment can't be moved.
    """
    with locked(folder):
        missing = not is_complete(folder) or (program is not None and not program.exists())
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        yield missing
        (folder / ".complete").touch()


def make_venv(folder: Path, *what: str, base: Path | None = None) -> None:
    """Make a virtual environment, or mend one, and have pip install into it.

    With `base`, another one, it sees that one's packages behind its own, and pip installs what is missing.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    if base is not None:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "base.pth").write_text(f"{base / packages.relative_to(folder)}\n", encoding="utf-8")
    # Twice quiet: a machine's own mirrors make for a warning a package.
    pip: list[str | Path] = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, *what], cwd=REPOSITORY, check=True)
