"""The command line as a shell runs it: in a process of its own, in the test's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xalora_client.devnet import DevnetThread

CEILING = 60
KEY = "alice#very-secret-key"


class Cli:
    """Runs ``python -m xalora_client`` in the test's own folder, with ``devnet`` if given."""

    def __init__(self, folder: Path, devnet: DevnetThread | None = None) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "XALORA_MAX_RETRIES": "0",
            "COLUMNS": "200",
            "PYTHONIOENCODING": "utf-8",
        }
        if devnet is not None:
            self.env |= {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key}

    def start(self, *arguments: object, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "xalora_client", *map(str, arguments)],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=CEILING)
        assert "Traceback" not in err and "a callback failed" not in err, err
        assert "very-secret" not in out + err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run_into(self, streams: dict[str, Any], *arguments: object) -> tuple[int, str]:
        """The exit status and stderr of a command whose other streams are given."""
        done = subprocess.run(
            [sys.executable, "-m", "xalora_client", *map(str, arguments)],
            cwd=self.folder,
            env=self.env,
            timeout=CEILING,
            text=True,
            check=False,
            **{"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams},
        )
        return done.returncode, done.stderr or ""

    def json(self, *arguments: object, code: int = 0, **env: str) -> Any:
        """The document that a command prints with ``--json``, the only output on stdout."""
        done = self(*arguments, "--json", **env)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)


def draw(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
