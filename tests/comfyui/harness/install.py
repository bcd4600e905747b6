"""Where a ComfyUI and a Python for it are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Install:
    """A folder with ComfyUI's `main.py`, and the Python that has its requirements."""

    path: Path
    python: Path

    @property
    def version(self) -> tuple[int, ...]:
        """(0, 3, 75) for 0.3.75."""
        for line in (self.path / "comfyui_version.py").read_text(encoding="utf-8").splitlines():
            if line.startswith("__version__"):
                return tuple(int(part) for part in line.split('"')[1].split("."))
        raise LookupError(f"no version in {self.path / 'comfyui_version.py'}")


def find_install() -> Install:
    """`COMFYUI_PATH` (with `COMFYUI_PYTHON`), else the ComfyUI that `make comfyui` has put into the cache.

    Raises LookupError, with what to do, when there is none.
    """
    if own := os.environ.get("COMFYUI_PATH"):
        path = Path(own).expanduser().resolve()
        if not (path / "main.py").is_file():
            raise LookupError(f"COMFYUI_PATH is {own}, where there is no main.py.")
        return Install(path, Path(os.environ.get("COMFYUI_PYTHON") or _own_python(path)).expanduser())
    asked = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "comfyui_install.py"), "--where"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        raise LookupError(asked.stderr.strip() or "no ComfyUI in the cache: run `make comfyui` first.")
    found = json.loads(asked.stdout)
    return Install(Path(found["path"]), Path(found["python"]))


def _own_python(path: Path) -> Path:
    for folder in (path / ".venv", path / "venv"):
        if (folder / "bin" / "python").exists():
            return folder / "bin" / "python"
    raise LookupError(f"COMFYUI_PATH is {path}; set COMFYUI_PYTHON too: no virtual environment lies in it.")
