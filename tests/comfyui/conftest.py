"""One real ComfyUI for all of these tests, and extra ones where a test needs its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import ComfyUI, ComfyUIFactory, Install, Preloaded, SessionDevnet, find_install, preload

BOOT_TIMEOUT = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The first test that asks for ComfyUI pays for its start.
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(BOOT_TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        arguments = getattr(item, "funcargs", {})
        factory = arguments.get("comfyui_factory")
        for comfyui in [arguments.get("comfyui"), *(factory.started if factory else ())]:
            if comfyui is not None:
                report.sections.append((f"log of {comfyui.url}", comfyui.unread_log()[-8000:]))
    return report


@pytest.fixture(scope="session")
def comfyui_install() -> Install:
    """The ComfyUI under test and its Python."""
    try:
        return find_install()
    except LookupError as error:
        pytest.exit(f"No ComfyUI to test with: {error}", returncode=4)


@pytest.fixture(scope="session")
def preloaded(comfyui_install: Install) -> Iterator[Preloaded | None]:
    """What ComfyUI starts from, where forks are safe."""
    if sys.platform != "linux":
        yield None
        return
    with closing(preload(comfyui_install)) as preloaded:
        yield preloaded


@pytest.fixture(scope="session")
def devnet() -> Iterator[SessionDevnet]:
    """The network that the session's ComfyUI is configured for; reset before each test."""
    with SessionDevnet() as devnet:
        yield devnet


@pytest.fixture(scope="session")
def comfyui(
    comfyui_install: Install,
    preloaded: Preloaded | None,
    devnet: SessionDevnet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ComfyUI]:
    """The session's ComfyUI. Its cache, history, journal and folders are shared by all tests: use other seeds
    or `nonce` inputs, or `clear_cache()`, where a test must not be served from an earlier one's results."""
    env = {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key}
    root = tmp_path_factory.mktemp("comfyui")
    with ComfyUI(comfyui_install, root, env, preloaded=preloaded) as comfyui:
        yield comfyui


@pytest.fixture
def comfyui_factory(
    comfyui_install: Install, preloaded: Preloaded | None, tmp_path: Path
) -> Iterator[ComfyUIFactory]:
    """Boots extra ComfyUIs with an environment or arguments of their own, some seconds each."""
    factory = ComfyUIFactory(comfyui_install, tmp_path, preloaded)
    yield factory
    for extra in factory.started:
        extra.stop()


@pytest.fixture(autouse=True)
def at_rest(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing of an earlier test still runs or waits when a test begins."""
    if "comfyui" in request.fixturenames:
        comfyui: ComfyUI = request.getfixturevalue("comfyui")
        comfyui.settle()
        devnet: SessionDevnet = request.getfixturevalue("devnet")
        devnet.reset()
        yield
        comfyui.mark_log_read()
    else:
        yield
