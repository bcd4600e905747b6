"""A ComfyUI that belongs to one worker: on loopback, with folders of its own, and ended with the worker."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ..engines.comfyui import ComfyUIEngine
from ..errors import EngineError
from .processes import ends_with_its_parent

_PORTS = (20_000, 32_000)
_START_SECONDS = 300.0


class ComfyUIProcess:
    """One ComfyUI.

    Args:
        comfyui: The folder of its program, models and node packs.
        python: The Python that runs it.
        folder: For what it writes; its content is removed at each start.
        gpu: Whether it has one; else it computes on the processor.
    """

    def __init__(self, comfyui: Path, python: Path, folder: Path, *, gpu: bool) -> None:
        self._comfyui = comfyui
        self._python = python
        self._folder = folder
        self._gpu = gpu
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it, on the thread with which it is to end: the kernel ends it with that thread."""
        shutil.rmtree(self._folder, ignore_errors=True)
        folders = {name: self._folder / name for name in ("input", "output", "temp", "user")}
        for each in folders.values():
            each.mkdir(mode=0o700, parents=True)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            *(str(self._python), str(self._comfyui / "main.py"), "--listen=127.0.0.1", f"--port={port}"),
            *(f"--{name}-directory={path}" for name, path in folders.items()),
            f"--database-url=sqlite:///{folders['user'] / 'comfyui.db'}",
            "--disable-auto-launch",
            *(() if self._gpu else ("--cpu",)),
        ]
        # Ray's own variables, with the path of the cluster's token among them, are none of its node packs'.
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "XALORA_"))}
        with (self._folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._comfyui,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=ends_with_its_parent(),  # noqa: PLW1509  # one call into libc
            )

    def wait_until_serving(self) -> None:
        """Wait for its first answer.

        Raises:
            EngineError: It ended, or did not serve within five minutes.
        """
        engine = ComfyUIEngine(self.url, timeout=10.0)
        until = time.monotonic() + _START_SECONDS
        while not engine.available():
            if not self.is_alive:
                raise EngineError(f"ComfyUI ended while it started: {self._last_lines()}")
            if time.monotonic() > until:
                raise EngineError(f"ComfyUI did not serve within {_START_SECONDS:g} s")
            time.sleep(0.2)

    def drop_files(self) -> None:
        """Remove the images and results of past tasks."""
        for name in ("input", "output", "temp"):
            for path in (self._folder / name).iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _last_lines(self) -> str:
        text = (self._folder / "log.txt").read_text("utf-8", "replace").strip()
        return " / ".join(text.splitlines()[-3:]) or "its log is empty"


def _free_port() -> int:
    # ComfyUI can't tell which port it got for 0. The system assigns no port of this range by itself.
    while True:
        port = secrets.choice(range(*_PORTS))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
