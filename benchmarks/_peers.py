"""Where the peers are that run as they are: ComfyUI with its Python, the network's Node SDK."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness import Install

REPOSITORY = Path(__file__).resolve().parent.parent
HARNESS = REPOSITORY / "tests" / "comfyui"
NODE_SDK = "heurist@0.0.43"


def comfyui() -> Install:
    """The ComfyUI that the tests run. Raises LookupError, with what to do, when there is none."""
    sys.path.insert(0, str(HARNESS))
    from harness import find_install

    return find_install()


def comfyui_environment() -> dict[str, str]:
    """What a worker on ComfyUI's Python needs so that ComfyUI's own modules are imported, and no pack's."""
    return {"PYTHONPATH": str(comfyui().path), "CUDA_VISIBLE_DEVICES": ""}


def as_comfyui() -> None:
    """In such a worker, before anything of ComfyUI is imported: what `main.py --cpu` does first."""
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()


def node_sdk() -> Path | None:
    """The folder from which `require("heurist")` works; None where Node is missing or npm can't install."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return None
    folder = REPOSITORY / ".artifacts" / "node-sdk"
    if not (folder / "node_modules" / "heurist").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), NODE_SDK]
        installed = subprocess.run(command, stdout=sys.stderr, env={**os.environ}, check=False)
        if installed.returncode != 0:
            return None
    return folder
