"""Running other programs, and saying what is being done."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SIGN_OF_LIFE = 20.0

REPOSITORY = Path(__file__).resolve().parent.parent


class CommandError(RuntimeError):
    """A program that had to work did not; the message is for the reader of the terminal."""


def say(text: str) -> None:
    """One line of progress, on stderr and at once: stdout may be read by a program."""
    print(f"[xalora] {text}", file=sys.stderr, flush=True)


def run(
    command: Sequence[str],
    *,
    check: bool = True,
    quiet: bool = False,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a program in the repository and return its exit status; CommandError unless 0, if `check`."""
    streams = subprocess.DEVNULL if quiet else None
    try:
        ended = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **(env or {})},
            # What must not mix with a result on stdout goes to stderr.
            stdout=streams if quiet else sys.stderr,
            stderr=streams,
            check=False,
        )
    except FileNotFoundError:
        if check:
            raise CommandError(f"{command[0]} is not there.") from None
        return 127
    if check and ended.returncode != 0:
        raise CommandError(f"Exit status {ended.returncode} of: {shlex.join(command)}")
    return ended.returncode


def pip_install(python: Path, *what: str) -> None:
    """Install into an environment, with the machine's own pip configuration and a sign of life."""
    # Twice quiet: errors only. A machine's own mirrors make for a warning a package.
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *what]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=sys.stderr) as pip:
        while True:
            try:
                status = pip.wait(SIGN_OF_LIFE)
                break
            except subprocess.TimeoutExpired:
                say(f"  still installing, {time.monotonic() - began:.0f} s")
    if status != 0:
        raise CommandError(f"Exit status {status} of: {shlex.join(command)}")
    say(f"  installed in {time.monotonic() - began:.0f} s")
