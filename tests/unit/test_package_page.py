"""What a package index shows: links of the README that lead somewhere, and a licence by its SPDX name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ADDRESS = re.compile(
    r"https://(?:github\.com/xalora/ComfyUI-Xalora/(?:blob|tree)|"
    r"raw\.githubusercontent\.com/xalora/ComfyUI-Xalora)/main/(.+)"
)


def test_the_readmes_links_are_absolute_and_name_files_that_exist(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        assert target.startswith("https://"), target
        if (own := ADDRESS.fullmatch(target)) is not None:
            assert (repository / own[1].partition("#")[0]).exists(), target


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_the_licence_is_an_spdx_expression(repository: Path) -> None:
    import tomllib

    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "MIT"
    assert all((repository / name).is_file() for name in project["license-files"])
    assert not [each for each in project["classifiers"] if each.startswith("License ::")]
