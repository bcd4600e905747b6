"""A ComfyUI process with folders of its own and the pack installed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import requests

from .client import Client, ComfyUIError
from .install import REPOSITORY, Install

# At the end: there are several files named conftest.
sys.path.append(str(REPOSITORY / "tests"))

from preloaded import Fork, Preloaded

# What ComfyUI and its extras import before the first prompt has ended.
IMPORTED = (
    "torch",
    "torchvision",
    "transformers",
    "scipy.stats",
    "scipy.integrate",
    "alembic.command",
    "sqlalchemy.orm",
    "kornia.filters",
    "spandrel",
    "torchsde",
    "aiohttp.web",
    "pydantic_settings",
    "requests",
    "av",
)

# A hyphen and capitals on purpose: users' folders have them, and no import may lean on the name.
PACK_FOLDER = "ComfyUI-Xalora"
PACK_PARTS = (
    "__init__.py",
    "nodes",
    "xalora_client",
    "web",
    "locales",
    "example_workflows",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
)
TEST_NODES = Path(__file__).resolve().parent / "test_nodes"

BOOT_CEILING = 240.0
PORTS = (20_000, 32_000)


@dataclass(frozen=True)
class LoadCost:
    """`imported`: the modules that loading the pack added to what ComfyUI had imported before."""

    cpu_seconds: float
    wall_seconds: float
    imported: list[str]


class ComfyUI(Client):
    """Starts with `boot()`, or as a context manager. Keeps its port and folders over `restart()`.

    Folders under `root`: `input`, `output`, `temp`, `user`, `custom_nodes`, `models`, and `log.txt`.
    Of the tests' environment it sees everything but `XALORA_*`; what of those it shall see is in `env`.
    """

    def __init__(
        self,
        install: Install,
        root: Path,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        preloaded: Preloaded | None = None,
    ) -> None:
        self.install = install
        self._preloaded = preloaded
        self.root = root
        self.env = dict(env or {})
        self.arguments = arguments
        self.port = _free_port()
        self.log_path = root / "log.txt"
        self._log_read = 0
        self._load_report = root / "load.json"
        self._process: subprocess.Popen[bytes] | Fork | None = None
        # A ComfyUI ends with its standard input, so that none outlives the tests.
        self._stdin: IO[bytes] | None = None
        super().__init__(f"http://127.0.0.1:{self.port}")

    def __enter__(self) -> ComfyUI:
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- folders ---

    @property
    def input_dir(self) -> Path:
        return self.root / "input"

    @property
    def output_dir(self) -> Path:
        return self.root / "output"

    @property
    def temp_dir(self) -> Path:
        return self.root / "temp"

    @property
    def user_dir(self) -> Path:
        return self.root / "user"

    @property
    def config_dir(self) -> Path:
        """Where `xalora login` would store a key."""
        return self.root / "xalora-config"

    @property
    def pack_dir(self) -> Path:
        return self.root / "custom_nodes" / PACK_FOLDER

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- life ---

    def boot(self) -> None:
        """Boot and return once it serves and the websocket is open; about 20 s."""
        self._prepare()
        reading, writing = os.pipe()
        self._stdin = os.fdopen(writing, "wb")
        with os.fdopen(reading) as stdin, self.log_path.open("ab") as log:
            command, env = self._command(), self._environment()
            # A fork does not read again what Python reads at its start.
            if self._preloaded is None or any(name.startswith("PYTHON") for name in self.env):
                self._process = subprocess.Popen(
                    command, cwd=self.root, env=env, stdin=stdin, stdout=log, stderr=log
                )
            else:
                streams = (stdin, log, log)
                self._process = self._preloaded.start(command, cwd=self.root, env=env, streams=streams)
        try:
            self._wait_until_serving()
            self.connect()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a power cut does: nothing gets to clean up."""
        self._end(signal.SIGKILL)

    def restart(self, env: Mapping[str, str] | None = None) -> None:
        """Stop it if it runs, then boot it again with the same folders, and `env` instead of the old one."""
        self.stop()
        if env is not None:
            self.env = dict(env)
        self.boot()

    def logs(self) -> str:
        """Everything it printed since it was first booted, over restarts too."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def unread_log(self) -> str:
        """What it printed since `mark_log_read`."""
        return self.logs()[self._log_read :]

    def mark_log_read(self) -> None:
        self._log_read = len(self.logs())

    def load_cost(self) -> LoadCost:
        """What it cost ComfyUI to load the pack, at the last boot."""
        return LoadCost(**json.loads(self._load_report.read_text())[PACK_FOLDER])

    def settle(self, timeout: float = 60.0) -> None:
        """Bring it to rest: nothing pending, nothing running, alive again if a test has killed it."""
        if not self.alive:
            self.restart()
            return
        self.clear_queue()
        until = time.monotonic() + timeout
        while any(self.queue_state()):
            if time.monotonic() > until:
                self.kill()
                self.restart()
                return
            self.interrupt()
            time.sleep(0.1)

    # --- inside ---

    def _prepare(self) -> None:
        for folder in (self.input_dir, self.output_dir, self.temp_dir, self.user_dir, self.root / "models"):
            folder.mkdir(parents=True, exist_ok=True)
        self._install(REPOSITORY, self.pack_dir, PACK_PARTS)
        self._install(TEST_NODES, self.root / "custom_nodes" / "xalora_test_nodes", None)

    @staticmethod
    def _install(source: Path, target: Path, parts: tuple[str, ...] | None) -> None:
        # Copied, not linked: a `.env` in the developer's clone stays out, and a test may put one here.
        if target.exists():
            return
        target.mkdir(parents=True)
        ignore = shutil.ignore_patterns("__pycache__")
        for part in sorted(source.iterdir()) if parts is None else [source / name for name in parts]:
            if part.is_dir() and part.name != "__pycache__":
                shutil.copytree(part, target / part.name, ignore=ignore)
            elif part.is_file():
                shutil.copy2(part, target / part.name)

    def _command(self) -> list[str]:
        return [
            str(self.install.python),
            str(self.install.path / "main.py"),
            "--cpu",
            "--listen=127.0.0.1",
            f"--port={self.port}",
            f"--base-directory={self.root}",
            f"--user-directory={self.user_dir}",
            f"--database-url=sqlite:///{self.user_dir / 'comfyui.db'}",
            "--disable-auto-launch",
            *self.arguments,
        ]

    def _environment(self) -> dict[str, str]:
        return {
            **_plain_environment(),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "XALORA_TEST_END_WITH_STDIN": "1",
            "XALORA_TEST_LOAD_REPORT": str(self._load_report),
            "XALORA_STATE_DIR": str(self.root / "xalora-state"),
            "XALORA_CONFIG_DIR": str(self.config_dir),
            **self.env,
        }

    def _wait_until_serving(self) -> None:
        until = time.monotonic() + BOOT_CEILING
        while True:
            if not self.alive:
                raise ComfyUIError(f"ComfyUI ended while it started. Its log:\n{self.logs()[-6000:]}")
            try:
                if self._http.get(f"{self.url}/system_stats", timeout=10).ok:
                    return
            except requests.ConnectionError:
                pass
            if time.monotonic() > until:
                raise ComfyUIError(f"ComfyUI did not serve within {BOOT_CEILING:g} s.\n{self.logs()[-6000:]}")
            time.sleep(0.1)

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(with_signal)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        if self._stdin is not None:
            self._stdin.close()
        self.disconnect()


def preload(install: Install) -> Preloaded:
    """What a ComfyUI starts from as a fork."""
    return Preloaded(install.python, IMPORTED, _plain_environment())


class ComfyUIFactory:
    """`comfyui_factory(env={...}, arguments=(...))` boots one more ComfyUI; it ends with the test.

    `.prepared(...)` does not boot it yet, so that a test can put files into its folders first.
    """

    def __init__(self, install: Install, root: Path, preloaded: Preloaded | None = None) -> None:
        self._install = install
        self._root = root
        self._preloaded = preloaded
        self.started: list[ComfyUI] = []

    def __call__(self, env: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()) -> ComfyUI:
        extra = self.prepared(env, arguments)
        extra.boot()
        return extra

    def prepared(self, env: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()) -> ComfyUI:
        root = self._root / f"comfyui-{len(self.started)}"
        extra = ComfyUI(self._install, root, env, arguments, self._preloaded)
        self.started.append(extra)
        return extra


def _plain_environment() -> dict[str, str]:
    """The tests' environment without what is meant for the client, pytest, or their own Python."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("XALORA_", "PYTEST_", "PYTHONPATH"))}
    return {**own, "PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    # ComfyUI cannot tell which port it got for 0, and takes seconds to listen. The system assigns no port of
    # this range by itself; if another ComfyUI takes the same one, the boot fails with the reason in its log.
    while True:
        port = secrets.choice(range(*PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
