"""The summary at the end of `make test`, whose last line a CI reads as pytest's own."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def suite(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    import suite

    return suite


def test_all_parts_make_one_closing_line(suite: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        suite.Result(name="ruff", note="clean", seconds=1.0),
        suite.Result(Counter(passed=40, skipped=1), [("a.py::slow", "call", 9.0)], name="unit", seconds=30.0),
        suite.Result(Counter(passed=2), [("b.py::slower", "setup", 20.0)], name="comfyui", seconds=3630.5),
        suite.Result(name="browser", note="LEFT OUT: no browser"),
    ]
    assert suite.report(results) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["20.00s setup    b.py::slower", "9.00s call     a.py::slow"]
    assert "ok      browser     0.0 s  LEFT OUT: no browser" in lines
    assert lines[-1].strip("=") == " 42 passed, 1 skipped in 3661.50s (1:01:01) "
    assert len(lines[-1]) == 80


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"failed": 1, "passed": 3}, "1 failed, 3 passed"),
        ({"error": 1}, "1 error"),
        ({"error": 2, "warnings": 1, "passed": 1}, "1 passed, 1 warning, 2 errors"),
    ],
)
def test_anything_bad_is_named_and_fails(
    suite: ModuleType, capsys: pytest.CaptureFixture[str], counts: dict[str, int], words: str
) -> None:
    results = [suite.Result(Counter(counts), name="unit", seconds=1.25)]
    assert suite.report(results) == 1
    closing = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"=+ {words} in 1\.25s =+", closing)


def test_a_part_reports_its_counts_and_leaves_the_closing_line_to_the_summary(
    suite: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    (part / "pytest.ini").write_text("[pytest]\n")
    (part / "test_part.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_left_out(): pytest.skip('not here')\n"
    )
    result = suite._pytest(Path(sys.executable), [part])
    assert result.counts == Counter(passed=1, failed=1, skipped=1)
    assert not result.good
    assert {test for test, _, _ in result.durations} >= {"test_part.py::test_good"}
    assert not re.search(r"\d passed.* in \d", capfd.readouterr().out)


def test_a_part_that_cannot_even_start_is_an_error(suite: ModuleType, tmp_path: Path) -> None:
    result = suite._pytest(Path(sys.executable), [tmp_path / "nowhere"])
    assert not result.good


def test_one_step_that_cannot_run_does_not_keep_the_others_from_running(suite: ModuleType) -> None:
    def cannot() -> None:
        raise suite.CommandError("no network\nmore lines")

    results = suite.run_steps([("install", cannot), ("lint", lambda: suite.Result(note="clean"))])
    assert [(result.name, result.good) for result in results] == [("install", False), ("lint", True)]
    assert results[0].told == "no network"
