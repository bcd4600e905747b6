"""The summary at the end of `make test`, whose last line a CI reads as pytest's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def suite(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    import run_tests

    monkeypatch.setattr(run_tests, "REPORTS", Path.cwd())
    return run_tests


def test_all_stages_make_one_closing_line(suite: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    results = {
        "lint": suite.Result(note="clean", seconds=1.0),
        "quick": suite.Result(Counter(passed=40, skipped=1), [(9.0, "a::slow")], seconds=30.0),
        "comfyui": suite.Result(Counter(passed=2), [(20.0, "b::slower")], seconds=3630.5),
        "browser": suite.Result(note="LEFT OUT: no browser"),
    }
    assert suite.summarize(results) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:3]] == [["20.00s", "b::slower"], ["9.00s", "a::slow"]]
    assert "ok      quick       30.0 s  40 passed, 1 skipped" in lines
    assert "ok      browser      0.0 s  LEFT OUT: no browser" in lines
    assert lines[-1].strip("=") == " 42 passed, 1 skipped in 3661.50s (1:01:01) "
    assert len(lines[-1]) == 80


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"failed": 1, "passed": 3}, "1 failed, 3 passed"),
        ({"error": 1}, "1 error"),
        ({"error": 2, "passed": 1}, "1 passed, 2 errors"),
    ],
)
def test_anything_bad_is_named_and_fails(
    suite: ModuleType, capsys: pytest.CaptureFixture[str], counts: dict[str, int], words: str
) -> None:
    assert suite.summarize({"quick": suite.Result(Counter(counts), seconds=1.25)}) == 1
    closing = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"=+ {words} in 1\.25s =+", closing)


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["one process", "two processes"])
def test_a_stage_gives_its_counts_and_leaves_the_closing_line_to_the_summary(
    suite: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    (folder / "test_stage.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 'this' == 'that'\n"
        "def test_left_out(): pytest.skip('not here')\n"
    )
    result = suite.run_pytest("stage", [folder], *options)
    assert result.counts == Counter(passed=1, failed=1, skipped=1)
    assert not result.good
    assert {test for _, test in result.durations} >= {"test_stage::test_good"}
    told = capfd.readouterr().out
    assert re.search("SKIPPED .* not here", told)
    assert "assert 'this' == 'that'" in told
    assert not re.search(r"\d passed.* in \d", told)


def test_what_fails_beside_others_is_run_again_alone_and_named(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "REPOSITORY", tmp_path)
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_stage.py").write_text(
        "from pathlib import Path\n"
        "import pytest\n"
        "def test_good(): Path(__file__).with_name('good').open('x')\n"
        "def test_bad(): assert not 'bad'\n"
        "@pytest.fixture\n"
        "def late_too(): test_late('too late')\n"
        "def test_with_it(late_too): pass\n"
        "def test_late(name='late'):\n"
        "    here = Path(__file__).with_name(name)\n"
        "    was_here = here.exists()\n"
        "    here.touch()\n"
        "    assert was_here\n"
    )
    result = suite.run_twice("stage", folder, options=("-n2",))
    assert result.counts == Counter(passed=3, failed=1)
    assert not result.good
    assert "2 passed only when run again" in result.note
    assert "test_late" in result.note
    (folder / "test_stage.py").write_text("def test_all_well(): pass\n")
    assert suite.run_twice("stage", folder, options=("-n2",)).note == ""
    (folder / "test_stage.py").write_text("import os\ndef test_crash(): os._exit(3)\n")
    assert not suite.run_twice("stage", folder, options=()).good


def test_a_stage_that_cannot_even_start_is_an_error(suite: ModuleType, tmp_path: Path) -> None:
    result = suite.run_pytest("nowhere", [tmp_path / "nowhere"])
    assert not result.good
    assert "exit status" in result.note


def test_one_stage_that_cannot_run_does_not_keep_the_others_from_running(suite: ModuleType) -> None:
    def install() -> None:
        raise subprocess.CalledProcessError(2, ["pip", "install"])

    def lint() -> object:
        return suite.Result(note="clean")

    results = suite.run_stages({"install": install, "lint": lint})
    assert {name: result.good for name, result in results.items()} == {"install": False, "lint": True}
    assert "exit status 2" in results["install"].note


def test_a_further_comfyui_gets_stages_of_its_own(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XALORA_TEST_COMFYUI", f"{tmp_path}/ComfyUI-0.33.0.tar.xz{os.pathsep}{tmp_path}/own")
    assert [*suite.stages(quick_only=False)] == [
        "install",
        "lint",
        "quick",
        "cluster",
        "torch",
        "comfyui",
        "browser",
        "comfyui 0.33.0",
        "browser 0.33.0",
        "comfyui own",
        "browser own",
    ]
    assert [*suite.stages(quick_only=True)] == ["lint", "quick"]


def test_the_summary_says_that_no_further_comfyui_was_tested(
    suite: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("XALORA_TEST_COMFYUI", raising=False)
    stage = suite.stages(quick_only=False)["further ComfyUI"]
    assert suite.summarize(suite.run_stages({"further ComfyUI": stage})) == 0
    assert "LEFT OUT: XALORA_TEST_COMFYUI names no further ComfyUI" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["missing.tar.xz", "folder"])
def test_a_further_comfyui_that_is_none_is_told_with_its_place(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    import comfyui_install

    (tmp_path / "folder").mkdir()
    with pytest.raises(LookupError, match=f"XALORA_TEST_COMFYUI names .*{given}"):
        comfyui_install.source_of(tmp_path / given)


def test_an_archive_is_unpacked_once_and_again_when_it_has_changed(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfyui_install

    monkeypatch.setenv("XALORA_DEV_CACHE", str(tmp_path / "cache"))
    content = tmp_path / "content" / "ComfyUI-9.9"
    content.mkdir(parents=True)
    (content / "main.py").write_text("# first")
    archive = Path(shutil.make_archive(str(tmp_path / "given"), "xztar", tmp_path / "content"))
    first = comfyui_install.source_of(archive)
    assert (first.name, (first / "main.py").read_text()) == ("ComfyUI-9.9", "# first")
    assert comfyui_install.source_of(archive) == first
    (content / "main.py").write_text("# second, and longer")
    shutil.make_archive(str(tmp_path / "given"), "xztar", tmp_path / "content")
    assert (comfyui_install.source_of(archive) / "main.py").read_text() == "# second, and longer"
    assert comfyui_install.source_of(content) == content
