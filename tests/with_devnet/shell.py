"""The command line as a shell runs it: in a process of its own, in the test's folder."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from PIL import Image
from preloaded import Fork, Preloaded

from xalora_client.devnet import DevnetThread

CEILING = 60
KEY = "alice#very-secret-key"

OF_PYTHON = {"PYTHONIOENCODING": "utf-8"}

# What each command imports of other projects.
IMPORTED = (
    "typer.rich_utils",
    "rich.console",
    "rich.live",
    "rich.markdown",
    "rich.progress",
    "rich.table",
    "rich.traceback",
    "pydantic.json_schema",
    "dotenv",
    "platformdirs",
    "yaml",
    "urllib.request",
    "numpy",
    "PIL.Image",
    "aiohttp",
)


@functools.cache
def preloaded() -> Preloaded | None:
    """What commands start from, where forks are safe."""
    if sys.platform != "linux":
        return None
    preloaded = Preloaded(Path(sys.executable), IMPORTED, {**os.environ, **OF_PYTHON})
    atexit.register(preloaded.close)
    return preloaded


class Cli:
    """Runs ``python -m xalora_client`` in the test's own folder, with ``devnet`` if given."""

    def __init__(self, folder: Path, devnet: DevnetThread | None = None) -> None:
        self.folder = folder
        self.env = {**os.environ, "XALORA_MAX_RETRIES": "0", "COLUMNS": "200", **OF_PYTHON}
        if devnet is not None:
            self.env |= {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key}

    def start(self, *arguments: object, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(arguments),
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        with TemporaryFile("w+", encoding="utf-8") as stdout, TemporaryFile("w+", encoding="utf-8") as stderr:
            process = self._begin(arguments, env, stdout, stderr)
            try:
                process.wait(CEILING)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            stdout.seek(0)
            stderr.seek(0)
            out, err = stdout.read(), stderr.read()
        assert "Traceback" not in err and "a callback failed" not in err, err
        assert "very-secret" not in out + err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def _begin(
        self, arguments: Sequence[object], env: Mapping[str, str], stdout: IO[str], stderr: IO[str]
    ) -> Fork | subprocess.Popen[bytes]:
        command, env = self._command(arguments), {**self.env, **env}
        started = preloaded()
        with Path(os.devnull).open() as stdin:
            # A fork does not read again what Python reads at its start.
            if started is None or any(env[name] != value for name, value in OF_PYTHON.items()):
                return subprocess.Popen(
                    command, cwd=self.folder, env=env, stdin=stdin, stdout=stdout, stderr=stderr
                )
            return started.start(command, cwd=self.folder, env=env, streams=(stdin, stdout, stderr))

    def run_into(self, streams: dict[str, Any], *arguments: object) -> tuple[int, str]:
        """The exit status and stderr of a command whose other streams are given."""
        done = subprocess.run(
            self._command(arguments),
            cwd=self.folder,
            env=self.env,
            timeout=CEILING,
            text=True,
            check=False,
            **{"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams},
        )
        return done.returncode, done.stderr or ""

    @staticmethod
    def _command(arguments: Sequence[object]) -> list[str]:
        return [sys.executable, "-m", "xalora_client", *map(str, arguments)]

    def json(self, *arguments: object, code: int = 0, **env: str) -> Any:
        """The document that a command prints with ``--json``, the only output on stdout."""
        done = self(*arguments, "--json", **env)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)


def wait_for_leases(count: int) -> None:
    """Wait until there are so many leases on tasks."""
    path = Path(os.environ["XALORA_STATE_DIR"]) / "journal.sqlite3"
    until = time.monotonic() + CEILING
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
        while journal.execute("SELECT count(*) FROM tickets").fetchone()[0] < count:
            assert time.monotonic() < until
            time.sleep(0.05)


def interrupted_until_it_ends(process: subprocess.Popen[str]) -> str:
    """What a command says on standard error that Ctrl-C is pressed for again and again."""
    while process.poll() is None:
        # A signal that comes before the one ahead of it is handled is lost.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
    return process.communicate(timeout=CEILING)[1]


def draw(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
