"""The programs in the README run as they are printed, with nothing set but the two variables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skimage

from xalora_client.devnet import DevnetThread

README = Path(__file__).resolve().parents[2] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readme_has_its_programs() -> None:
    assert len(PROGRAMS) == 2
    assert all(len(program.strip().splitlines()) <= 10 for program in PROGRAMS)


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (PROGRAMS[0], r"\S+\.png \(1, 854, 1280, 3\) by xalora\n"),
        (PROGRAMS[1], r"\S+\.mp4 73 frames at 24\.0 fps \(8, 480, 848, 3\)\n"),
    ],
    ids=["async", "blocking"],
)
def test_a_program_of_the_readme_runs_as_printed(tmp_path: Path, program: str, printed: str) -> None:
    shutil.copy(Path(skimage.__file__).parent / "data" / "rocket.jpg", tmp_path / "photo.jpg")
    with DevnetThread(miners=1) as devnet:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, "XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert re.fullmatch(printed, ended.stdout)
        assert devnet.stats()["creates"] == 1


def test_the_programs_of_the_readme_pass_a_strict_type_check(tmp_path: Path) -> None:
    # Without pydantic's plugin, as in a user's project, and as pyright has none.
    for index, program in enumerate(PROGRAMS):
        (tmp_path / f"program{index}.py").write_text(program, encoding="utf-8")
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\nwarn_unused_ignores = false\n", encoding="utf-8")
    files = [str(path) for path in sorted(tmp_path.glob("*.py"))]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(settings), "--follow-imports=silent", *files],
        cwd=README.parent,
        env={**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
