"""A current ComfyUI frontend beside the one that the tested ComfyUI pins, in the cache that all clones share.

    python scripts/comfyui_frontend.py    fetch it if it is missing, then print the folder to serve

ComfyUI serves it with `--front-end-root`.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from cache import Cached, cache_folder
from commands import CommandError, run, say

VERSION = "1.58.1"
PACKAGE = "comfyui-frontend-package"
INSIDE_WHEEL = "comfyui_frontend_package/static/"


def frontend() -> Path:
    """The folder with its `index.html`, fetched from PyPI at the first call.

    Raises:
        CommandError: It can't be fetched.
    """
    cached = Cached(cache_folder() / f"comfyui-frontend-{VERSION}")
    with cached.being_made() as folder:
        if folder:
            say(f"Fetching {PACKAGE} {VERSION} into {folder}")
            _fetch(folder)
    return cached.folder / INSIDE_WHEEL


def _fetch(folder: Path) -> None:
    wanted = f"{PACKAGE}=={VERSION}"
    run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), wanted])
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            # Source maps are half of it, and no browser asks for them here.
            if entry.filename.startswith(INSIDE_WHEEL) and not entry.filename.endswith(".map"):
                archive.extract(entry, folder)
    wheel.unlink()
    if not (folder / INSIDE_WHEEL / "index.html").is_file():
        raise CommandError(f"{wanted} holds no index.html under {INSIDE_WHEEL}")


if __name__ == "__main__":
    try:
        print(frontend())
    except CommandError as error:
        sys.exit(str(error))
