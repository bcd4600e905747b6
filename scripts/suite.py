"""Everything that `make test` checks, and the one summary of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import comfyui_install
from browser import ensure_browser
from commands import REPOSITORY, CommandError, say

PLUGIN = REPOSITORY / "scripts" / "pytest_plugin"
ARTIFACTS = REPOSITORY / ".artifacts"
TESTS = REPOSITORY / "tests"
SLOWEST = 20

# The order in which pytest's own closing line names them.
OUTCOMES = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "error")


@dataclass
class Result:
    """What one step did: counts by pytest's names for outcomes; `note` where there is nothing to count."""

    counts: Counter[str] = field(default_factory=Counter)
    durations: list[tuple[str, str, float]] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0
    name: str = ""

    @property
    def good(self) -> bool:
        return not (self.counts["failed"] or self.counts["error"])

    @property
    def told(self) -> str:
        return self.note or in_pytest_words(self.counts) or "no tests"


Step = tuple[str, Callable[[], Result]]


def lint_steps(python: Path) -> list[Step]:
    """Style and types."""
    return [
        ("ruff check", lambda: _tool([str(python), "-m", "ruff", "check", "."])),
        ("ruff format", lambda: _tool([str(python), "-m", "ruff", "format", "--check", "."])),
        ("mypy: xalora_client", lambda: _tool([str(python), "-m", "mypy"])),
        ("mypy: nodes", lambda: _check_nodes(python)),
        ("mypy: scripts", lambda: _check_scripts(python)),
    ]


def quick_stages(python: Path) -> list[Step]:
    """Tests that need nothing but the clone's own environment."""
    return _stage(
        "unit, devnet, faults", ("unit", "with_devnet", "chaos"), lambda folders: _pytest(python, folders)
    )


def slow_stages(python: Path) -> list[Step]:
    """Tests in torch, in a real ComfyUI, in a real browser."""

    def with_torch(folders: Sequence[Path]) -> Result:
        install = comfyui_install.find() or _comfyui(python)
        return _pytest(install.python, folders, {"PYTHONPATH": str(REPOSITORY)})

    def with_comfyui(folders: Sequence[Path]) -> Result:
        if not os.environ.get("COMFYUI_PATH"):
            _comfyui(python)
        return _pytest(python, folders)

    def with_browser(folders: Sequence[Path]) -> Result:
        browser = ensure_browser()
        if browser is None:
            return Result(note="LEFT OUT: no Chrome or Chromium here, and none could be installed")
        if not os.environ.get("COMFYUI_PATH"):
            _comfyui(python)
        return _pytest(python, folders, {"CHROMIUM_PATH": str(browser)})

    return [
        *_stage("torch", ("with_torch",), with_torch),
        *_stage("comfyui", ("comfyui",), with_comfyui),
        *_stage("browser", ("browser",), with_browser),
    ]


def run_steps(steps: Sequence[Step]) -> list[Result]:
    """Run them all, one after another, whatever fails."""
    results = []
    for name, step in steps:
        say(f"== {name}")
        began = time.monotonic()
        try:
            result = step()
        except CommandError as error:
            say(str(error))
            result = Result(Counter(error=1), note=str(error).splitlines()[0])
        result.name, result.seconds = name, time.monotonic() - began
        results.append(result)
    return results


def report(results: Sequence[Result]) -> int:
    """Print the slowest tests, a line for each step, and pytest's closing line; returns the exit status."""
    durations = sorted(
        (entry for result in results for entry in result.durations), key=lambda entry: -entry[2]
    )
    if durations:
        _rule(f"slowest {SLOWEST} durations")
        for test, when, seconds in durations[:SLOWEST]:
            print(f"{seconds:.2f}s {when:<8} {test}")
    _rule("summary")
    width = max(len(result.name) for result in results)
    for result in results:
        verdict = "ok" if result.good else "FAILED"
        print(f"{verdict:<6}  {result.name:<{width}}  {result.seconds:6.1f} s  {result.told}")
    total: Counter[str] = sum((result.counts for result in results), Counter())
    seconds = sum(result.seconds for result in results)
    minutes = (
        f" ({int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02})"
        if seconds >= 60
        else ""
    )
    _rule(f"{in_pytest_words(total) or 'no tests ran'} in {seconds:.2f}s{minutes}")
    return 0 if all(result.good for result in results) else 1


def in_pytest_words(counts: Counter[str]) -> str:
    """`3 failed, 40 passed, 1 warning`."""
    parts = []
    for outcome in OUTCOMES:
        if number := counts[outcome]:
            word = outcome
            if outcome == "error" and number > 1:
                word = "errors"
            elif outcome == "warnings" and number == 1:
                word = "warning"
            parts.append(f"{number} {word}")
    return ", ".join(parts)


def _rule(title: str) -> None:
    print(f" {title} ".center(80, "="), flush=True)


def _stage(name: str, folders: Sequence[str], work: Callable[[Sequence[Path]], Result]) -> list[Step]:
    # pytest takes a folder without tests for a mistake.
    present = [TESTS / folder for folder in folders if any((TESTS / folder).rglob("test_*.py"))]
    return [(name, partial(work, present))] if present else []


def _tool(command: Sequence[str], folder: Path = REPOSITORY, env: dict[str, str] | None = None) -> Result:
    status = subprocess.run(command, cwd=folder, env={**os.environ, **(env or {})}, check=False).returncode
    return Result(note="clean") if status == 0 else Result(Counter(error=1), note=f"exit status {status}")


def _check_nodes(python: Path) -> Result:
    # The clone's folder may be called anything, and need not be a package name; a link gives it one.
    folder = ARTIFACTS / "types"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "xalora_pack"
    if link.resolve() != REPOSITORY:
        link.unlink(missing_ok=True)
        link.symlink_to(REPOSITORY, target_is_directory=True)
    config = str(REPOSITORY / "pyproject.toml")
    cache = str(ARTIFACTS / "mypy-nodes")
    command = [
        str(python),
        "-m",
        "mypy",
        "--config-file",
        config,
        "--cache-dir",
        cache,
        "-p",
        "xalora_pack.nodes",
    ]
    return _tool(command, folder)


def _check_scripts(python: Path) -> Result:
    modules = [arg for path in sorted((REPOSITORY / "scripts").glob("*.py")) for arg in ("-m", path.stem)]
    environment = {"MYPYPATH": str(REPOSITORY / "scripts")}
    return _tool([str(python), "-m", "mypy", *modules], env=environment)


def _comfyui(python: Path) -> comfyui_install.Install:
    # By the clone's Python, whose version decides which environment is the right one.
    script = str(REPOSITORY / "scripts" / "comfyui_install.py")
    asked = subprocess.run(
        [str(python), script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False
    )
    if asked.returncode != 0:
        raise CommandError("ComfyUI could not be installed; what went wrong stands above.")
    found = json.loads(asked.stdout)
    return comfyui_install.Install(Path(found["path"]), Path(found["python"]))


def _pytest(python: Path, folders: Sequence[Path], env: dict[str, str] | None = None) -> Result:
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "report.json")
        path = os.pathsep.join(part for part in (str(PLUGIN), (env or {}).get("PYTHONPATH")) if part)
        status = subprocess.run(
            [str(python), "-m", "pytest", "-p", "suite_report", f"--suite-report={file}", *map(str, folders)],
            cwd=REPOSITORY,
            env={**os.environ, **(env or {}), "PYTHONPATH": path},
            check=False,
        ).returncode
        if not file.is_file():
            return Result(Counter(error=1), note=f"pytest ended with exit status {status} before its report")
        told = json.loads(file.read_text())
    result = Result(Counter(told["counts"]), [tuple(entry) for entry in told["durations"]])
    if status != 0 and result.good:
        result.counts["error"] += 1
    return result


if __name__ == "__main__":
    sys.exit("Run it as `make test`.")
