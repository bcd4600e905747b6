"""The folder as a ComfyUI pack: exports, requirements, registry metadata."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_manager_installs_the_base_dependencies(
    repository: Path, pyproject: dict[str, dict[str, object]]
) -> None:
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line.strip() and not line.startswith("#")]
    assert requirements == pyproject["project"]["dependencies"]
    assert not [line for line in requirements if line.startswith(("torch", "spandrel"))]
    # Fixed releases would fight with what ComfyUI and other packs have installed.
    assert not [line for line in requirements if "==" in line or "~=" in line]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_development_environment_is_locked(
    repository: Path, pyproject: dict[str, dict[str, object]], python: str
) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9"}

    def for_python(lines: Iterable[str]) -> dict[str, Requirement]:
        wanted = (Requirement(line) for line in lines if line.strip() and not line.startswith("#"))
        chosen = [one for one in wanted if one.marker is None or one.marker.evaluate(environment)]
        return {canonicalize_name(one.name): one for one in chosen}

    def lines_of(name: str) -> list[str]:
        return (repository / name).read_text(encoding="utf-8").splitlines()

    locked = for_python(lines_of("requirements-lock.txt"))
    extras = pyproject["project"]["optional-dependencies"]
    dependencies = pyproject["project"]["dependencies"]
    assert isinstance(extras, dict) and isinstance(dependencies, list)
    installed = (extras[name] for name in ("cli", "s3", "fast", "heif", "ai", "waifu2x"))
    asked = [*dependencies, *chain.from_iterable(installed), *lines_of("requirements-dev.txt")]
    for name, requirement in for_python(dict.fromkeys(asked)).items():
        if name == "xalora":
            continue
        (exact,) = locked[name].specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), (requirement, exact)


def test_the_pack_exports_its_entrypoint_and_nothing_else(pack: ModuleType) -> None:
    """A `NODE_CLASS_MAPPINGS`, even an empty one, would win over the entrypoint."""
    assert sorted(pack.__all__) == ["WEB_DIRECTORY", "comfy_entrypoint"]
    public = {name for name in vars(pack) if not name.startswith("_")}
    sub_packages = {"nodes", "xalora_client"}
    assert public - sub_packages - {"annotations", "TYPE_CHECKING"} == {"WEB_DIRECTORY", "comfy_entrypoint"}


def test_importing_the_pack_imports_nothing_of_it(repository: Path) -> None:
    """Outside ComfyUI, and before ComfyUI asks, the folder is harmless."""
    program = (
        "import importlib.util, sys\n"
        "before = set(sys.modules)\n"
        "spec = importlib.util.spec_from_file_location('pack', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    command = [sys.executable, "-c", program, str(repository / "__init__.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "xalora" not in ended.stdout
    assert "nodes" not in ended.stdout


def test_the_registry_finds_what_it_asks_for(
    repository: Path, pack: ModuleType, pyproject: dict[str, dict[str, object]]
) -> None:
    comfy = pyproject["tool"]["comfy"]
    assert isinstance(comfy, dict)
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} <= comfy.keys()
    urls = pyproject["project"]["urls"]
    assert isinstance(urls, dict)
    assert {"Repository", "Documentation", "Bug Tracker"} <= urls.keys()
    assert "comfyui" not in str(pyproject["project"]["name"]).lower()
    icon = repository / str(comfy["Icon"]).partition("/main/")[2]
    with Image.open(icon) as image:
        assert image.size == (400, 400)
    banner = repository / str(comfy["Banner"]).partition("/main/")[2]
    with Image.open(banner) as image:
        # 21 to 9, as the registry shows it.
        assert image.width * 9 == image.height * 21
    assert (repository / pack.WEB_DIRECTORY).is_dir()


def test_users_get_what_the_pack_needs_and_nothing_else(repository: Path) -> None:
    """The registry leaves out what `.comfyignore` names, in the language of `.gitignore`."""

    def tracked(*options: str) -> set[str]:
        command = ["git", "-c", "core.quotePath=off", "ls-files", "--cached", *options]
        try:
            told = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this is no clone of a repository")
        return set(told.splitlines())

    sent = tracked() - tracked("--ignored", "--exclude-from=.comfyignore")
    assert {path.partition("/")[0] for path in sent} == {
        "CHANGELOG.md",
        "SECURITY.md",
        "LICENSE",
        "NOTICE",
        "README.md",
        "__init__.py",
        "example_workflows",
        "locales",
        "nodes",
        "pyproject.toml",
        "requirements.txt",
        "web",
        "xalora_client",
    }
    assert not [path for path in sent if path.startswith("example_workflows/api")]
