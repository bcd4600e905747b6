"""Shared by every test: the developer's own settings stay out, and the pack imports as in ComfyUI."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACK = "xalora_pack"


OF_TESTS = {"XALORA_DEV_CACHE", "XALORA_TEST_COMFYUI", "XALORA_TEST_CUDA"}


def _forget_own_settings() -> None:
    # A key in the developer's shell would send the tests' work to the hosted network, and be billed for it.
    for name in [name for name in os.environ if name.startswith("XALORA_") and name not in OF_TESTS]:
        del os.environ[name]
    # Nor may the key of `xalora login` be found.
    os.environ["XALORA_CONFIG_DIR"] = str(REPOSITORY / ".artifacts" / "no-login")
    # The tests' servers listen on this machine; a proxy would not find them.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


_forget_own_settings()

# A run in the background may have been told to ignore Ctrl-C, which the programs that the tests start, and
# interrupt, would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No `.env` of the working directory, no journal of the developer's: each test starts with neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XALORA_STATE_DIR", str(tmp_path / "xalora-state"))
    monkeypatch.setenv("XALORA_CONFIG_DIR", str(tmp_path / "xalora-config"))
    yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The clone's root folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The clone as a package with a made-up name, as ComfyUI imports it; its modules by `import_module`."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(PACK, REPOSITORY / "__init__.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK]
