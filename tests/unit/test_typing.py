"""The public API under type checkers: what is right passes, and a mistyped option is refused."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xalora_client import AsyncXalora, RunOptions, Settings
from xalora_client.config import AllArguments

RIGHT = """
import asyncio
from pathlib import Path

import numpy as np
from PIL.Image import Image
from xalora_client import (
    AsyncXalora, Outcome, RunOptions, RunResult, UpscalerTask, WorkflowTask, Xalora, events, load_settings,
)


class SketchTask(WorkflowTask):
    task_type = "sketch"
    prompt: str
    strength: float = 0.5


def bar(index: int, event: events.TaskEvent) -> None:
    print(index, event.job_id)


async def main(path: Path) -> None:
    options: RunOptions = {"fallback": "never", "timeout": 600}
    async with AsyncXalora(settings=load_settings(wait_timeout=60.0), journal="memory") as client:
        result: RunResult = await client.run(UpscalerTask(path), output_dir=path.parent)
        picture: Image = result.pil()
        saved: tuple[Path, ...] = result.save("out.png")
        data: bytes = result.to_bytes()
        outcomes: list[Outcome] = await client.run_many([UpscalerTask(path)], on_event=bar, **options)
        async for outcome in client.as_completed([SketchTask(prompt="a")], reuse=True):
            print(outcome.unwrap().files, picture, saved, data, outcomes)
        stream = client.stream(UpscalerTask(np.zeros((8, 8, 3), np.float32)), again=True)
        async for event in stream:
            if isinstance(event, events.Running):
                print(event.seconds)
        print((await stream.result()).files)


def blocking(path: Path) -> list[Path]:
    with Xalora("a#b", max_in_flight=3, state_dir=path) as client:
        for event in client.stream(UpscalerTask(path)):
            print(event)
        return [outcome.unwrap().files[0] for outcome in client.as_completed([UpscalerTask(path)], timeout=3)]


asyncio.run(main(Path("photo.jpg")))
"""

WRONG = """
from xalora_client import AsyncXalora, UpscalerTask, Xalora, load_settings

task = UpscalerTask("a.png")
client, blocking = AsyncXalora(), Xalora()

async def main() -> None:
    await client.run(task, fallbackk="never")  # wrong
    await client.run_many([task], fallbackk="never")  # wrong
    client.as_completed([task], fallbackk="never")  # wrong
    client.stream(task, fallbackk="never")  # wrong
    await client.run_many([task], fallback="nevr")  # wrong

blocking.run(task, fallbackk="never")  # wrong
blocking.run_many([task], fallbackk="never")  # wrong
blocking.as_completed([task], fallbackk="never")  # wrong
blocking.stream(task, timeout="60")  # wrong
AsyncXalora(wait_timout=60)  # wrong
Xalora(wait_timout=60)  # wrong
Xalora(fallback="nevr")  # wrong
load_settings(wait_timout=60)  # wrong
"""
MISTAKES = {number for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# wrong")}


def lines_refused(command: list[str], program: str, folder: Path) -> set[int]:
    """The lines that a checker finds fault with."""
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8")
    checked = subprocess.run(
        [*command, str(path)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "MYPY_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = {int(line) for line in re.findall(r"program\.py:(\d+)(?::\d+)*:? -? ?error", checked.stdout)}
    assert found or checked.returncode == 0, checked.stdout + checked.stderr
    return found


@pytest.mark.timeout(600)
def test_mypy_strict_passes_what_is_right_and_refuses_a_mistyped_option(tmp_path: Path) -> None:
    # Without pydantic's plugin, as in a user's project.
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\n", encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--follow-imports=silent"]
    assert lines_refused(mypy, RIGHT, tmp_path) == set()
    assert lines_refused(mypy, WRONG, tmp_path) == MISTAKES


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
@pytest.mark.timeout(600)
def test_pyright_strict_passes_what_is_right_and_refuses_a_mistyped_option(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "pyrightconfig.json").write_text(
        f'{{"typeCheckingMode": "strict", "extraPaths": ["{root.as_posix()}"]}}', encoding="utf-8"
    )
    pyright = ["pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    (tmp_path / "program.py").write_text(RIGHT, encoding="utf-8")
    for program, refused in ((RIGHT, set[int]()), (WRONG, MISTAKES)):
        (tmp_path / "program.py").write_text(program, encoding="utf-8")
        checked = subprocess.run(pyright, capture_output=True, text=True, timeout=300, check=False)
        found = re.findall(r"program\.py:(\d+):\d+ - error", checked.stdout)
        assert {int(line) for line in found} == refused, checked.stdout


def test_the_typed_options_are_those_of_run() -> None:
    taken = list(inspect.signature(AsyncXalora.run).parameters)[2:]
    assert taken == ["on_event", *RunOptions.__annotations__]


def test_the_typed_arguments_are_the_settings() -> None:
    assert set(AllArguments.__annotations__) == set(Settings.model_fields)
