"""A real Chromium on a real ComfyUI with the devnet: with the frontend it pins, and with a current one.

A ComfyUI of 2026 is tested with classic nodes on the one that it pins, and with Nodes 2.0 on the current one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "comfyui"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import comfyui_install
from chromium import find_browser
from harness import ComfyUI, SessionDevnet, find_install, seed
from playwright.sync_api import Browser, Playwright, expect, sync_playwright
from workbench import OTHER_KEY, Workbench
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

REPOSITORY = Path(__file__).resolve().parents[2]
SHOTS = REPOSITORY / ".artifacts" / "screenshots"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Frontends of the oldest ComfyUI: that which it pins, and the current one. Of one of 2026, by its renderer.
PINNED, CURRENT, CLASSIC, NODES_2 = "pinned", "current", "classic", "nodes2"
TODAY = (0, 4)
PAGE_TIMEOUT = 60_000
PATIENCE = 20_000

# What ComfyUI would greet a new user with, and would cover the page.
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.ConfirmClear": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
}


class ProcessForEachFrontend(LoadScopeScheduling):
    """Has each process start one ComfyUI and one browser, for the frontend that its tests name first."""

    def _split_scope(self, nodeid: str) -> str:
        of_frontend = re.search(rf"\[({PINNED}|{CURRENT}|{CLASSIC}|{NODES_2})", nodeid)
        return of_frontend[1] if of_frontend else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    # Marks of pytest-xdist's own `loadgroup` have no effect in this pytest.
    return (ProcessForEachFrontend if len(frontends()) > 1 else LoadScopeScheduling)(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The first test that asks for ComfyUI pays for its start, and for the frontend's download.
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    bench = getattr(item, "funcargs", {}).get("bench")
    if report.failed and bench is not None:
        name = item.name.translate({ord("["): "-", ord("]"): None, ord("/"): "-"})
        bench.page.screenshot(path=bench.shots / "failures" / f"{name}.png")
        report.sections.append(("log of ComfyUI", bench.comfyui.unread_log()[-4000:]))
        report.sections.append(("browser console", "\n".join(bench.console[-40:])))
    return report


@pytest.fixture(scope="session")
def chromium() -> str:
    """The installed Chrome or Chromium."""
    if not (found := find_browser()):
        pytest.skip("No Chrome or Chromium is installed here; CHROMIUM_PATH may name one.")
    return found


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def browser(playwright: Playwright, chromium: str) -> Iterator[Browser]:
    """With a new, empty profile."""
    browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
    yield browser
    browser.close()


def frontends() -> list[str]:
    """The frontends for the ComfyUI under test."""
    try:
        if find_install().version >= TODAY:
            return [CLASSIC, NODES_2]
    except LookupError as error:
        pytest.exit(f"No ComfyUI to test with: {error}", returncode=4)
    # A further ComfyUI is tested with the current one.
    return [PINNED] if comfyui_install.further() else [PINNED, CURRENT]


@pytest.fixture(scope="session", params=frontends())
def frontend(request: pytest.FixtureRequest) -> tuple[str, tuple[str, ...]]:
    """Which frontend ComfyUI serves: its name, and the arguments for ComfyUI."""
    if request.param in {PINNED, CLASSIC}:
        return str(request.param), ()
    try:
        fetched = comfyui_install.frontend()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"The current frontend could not be fetched: {error}")
    return str(request.param), (f"--front-end-root={fetched}",)


@pytest.fixture(scope="session")
def devnet(frontend: tuple[str, tuple[str, ...]]) -> Iterator[SessionDevnet]:
    with SessionDevnet(more_api_keys=[OTHER_KEY]) as devnet:
        yield devnet


@pytest.fixture(scope="session")
def comfyui(
    frontend: tuple[str, tuple[str, ...]], devnet: SessionDevnet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUI]:
    """Without a key in its environment: that is entered in the page. One setting comes from there."""
    name, arguments = frontend
    env = {"XALORA_MAX_IN_FLIGHT": "4", "XALORA_MAX_RETRIES": "1"}
    root = tmp_path_factory.mktemp(f"comfyui-{name}")
    with ComfyUI(find_install(), root, env, arguments) as comfyui:
        comfyui.post("/settings", QUIET)
        yield comfyui


@pytest.fixture(scope="session")
def session_bench(
    frontend: tuple[str, tuple[str, ...]], comfyui: ComfyUI, devnet: SessionDevnet, browser: Browser
) -> Iterator[Workbench]:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
        locale="en-US",
    )
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    version = ".".join(map(str, comfyui.install.version))
    shots = SHOTS / version / frontend[0]
    bench = Workbench(context.new_page(), comfyui, devnet, shots, vue_nodes=frontend[0] == NODES_2)
    bench.load(PAGE_TIMEOUT)
    yield bench
    context.close()


@pytest.fixture
def bench(session_bench: Workbench) -> Iterator[Workbench]:
    """The page at rest: an empty graph, the sidebar closed, the key entered, an empty journal."""
    session_bench.reset()
    yield session_bench
    assert session_bench.errors == [], session_bench.errors


@pytest.fixture(scope="session")
def video() -> bytes:
    """Two seconds of MP4."""
    return seed.clip(6)


@pytest.fixture
def seeded(bench: Workbench, video: bytes) -> Workbench:
    """The page with a journal that has tasks in every state."""
    with seed.seeder(bench.state_dir, bench.devnet.url, time.time()) as seeder:
        seed.every_state(seeder, video)
    return bench


def example_workflows() -> list[Path]:
    """Those in the frontend's format; their twins in the API's format are for other tests."""
    found = sorted((REPOSITORY / "example_workflows").glob("*.json"))
    return [path for path in found if "nodes" in json.loads(path.read_text(encoding="utf-8"))]


os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
