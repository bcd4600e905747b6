"""The commands of `scripts/dev.py`, one function each."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from clone_environment import clone_python
from commands import REPOSITORY, CommandError, pip_install, run
from suite import lint_steps, quick_stages, report, run_steps, slow_stages

LEFT_BY_TOOLS = (
    ".artifacts",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "tests/.pytest_cache",
    "build",
    "dist",
)


def run_task(arguments: list[str]) -> int:
    """Run the command named first, with the rest; returns its exit status."""
    name, *rest = arguments or [""]
    if name not in TASKS:
        raise CommandError(f"Not a command: {name!r}; known are {', '.join(TASKS)}")
    return TASKS[name](rest)


def setup(_: list[str]) -> int:
    clone_python()
    return 0


def comfyui(_: list[str]) -> int:
    return run([str(clone_python()), str(REPOSITORY / "scripts" / "comfyui_install.py")])


def demo(images: list[str]) -> int:
    return _run_here(clone_python().with_name("xalora"), "demo", *images)


def test(_: list[str]) -> int:
    python = clone_python()
    return report(run_steps([*lint_steps(python), *quick_stages(python), *slow_stages(python)]))


def test_quick(_: list[str]) -> int:
    python = clone_python()
    return report(run_steps([*lint_steps(python), *quick_stages(python)]))


def lint(_: list[str]) -> int:
    return report(run_steps(lint_steps(clone_python())))


def format_code(_: list[str]) -> int:
    fixed = _in_clone("-m", "ruff", "check", "--fix", ".")
    return _in_clone("-m", "ruff", "format", ".") or fixed


def chaos(_: list[str]) -> int:
    return _in_clone("-m", "pytest", "tests/chaos", env={"CHAOS": "whole"})


def bench(names: list[str]) -> int:
    """Every script in benchmarks/, or those named."""
    python = clone_python()
    pip_install(python, "-r", str(REPOSITORY / "benchmarks" / "requirements.txt"))
    run([str(python), str(REPOSITORY / "scripts" / "comfyui_install.py")])
    scripts = sorted((REPOSITORY / "benchmarks").glob("[!_]*.py"))
    wanted = [script for script in scripts if not names or script.stem in names]
    return max((_in_clone(str(script)) for script in wanted), default=0)


def clean(_: list[str]) -> int:
    for name in (*LEFT_BY_TOOLS, ".venv"):
        shutil.rmtree(REPOSITORY / name, ignore_errors=True)
    for folder in ("nodes", "scripts", "tests", "xalora_client", "benchmarks"):
        for cache in list((REPOSITORY / folder).rglob("__pycache__")):
            shutil.rmtree(cache, ignore_errors=True)
    return 0


def _in_clone(*arguments: str, env: dict[str, str] | None = None) -> int:
    return _run_here(clone_python(), *arguments, env=env)


def _run_here(program: Path, *arguments: str, env: dict[str, str] | None = None) -> int:
    # Unlike `run`, with the terminal as it is: the program's output is a result, and Ctrl-C is its own.
    return subprocess.run([program, *arguments], env={**os.environ, **(env or {})}, check=False).returncode


TASKS: dict[str, Callable[[list[str]], int]] = {
    "setup": setup,
    "comfyui": comfyui,
    "demo": demo,
    "test": test,
    "test-quick": test_quick,
    "lint": lint,
    "format": format_code,
    "chaos": chaos,
    "bench": bench,
    "clean": clean,
}
