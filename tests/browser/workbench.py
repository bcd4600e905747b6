"""One page of ComfyUI with what surrounds it, and what a user does there."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from harness import ComfyUI, SessionDevnet, seed
from playwright.sync_api import ConsoleMessage, Locator, Page, expect

from xalora_client.journal import Journal

# The devnet's usual key may stand anywhere by chance, in a name or an address; this one may not.
OTHER_KEY = "browser#k3y-of-the-browser-tests-7c1f"

MARKED = {"X-Xalora": "1"}

FIRST_SETTINGS = {
    "Comfy.ColorPalette": "dark",
    "Xalora.Fallback": "when_unavailable",
    "Xalora.Reuse": True,
    "Xalora.StoreUrl": "",
    "Xalora.Prices": "",
    "Xalora.DailyTasks": 0,
}

# How wide the frontend's bar of icons is at most, which lies over the canvas.
ICONS = 64

# Both generations of toasts.
TOASTS = ".p-toast-message, [data-testid='toast']"

READY = """() => window.app?.extensionManager && window.app?.graph && window.app?.canvas
    && window.app.extensionManager.getSidebarTabs().some((tab) => tab.id === 'xalora')"""

IN_THEME = """(theme) => {
    const probe = document.body.appendChild(document.createElement('i'))
    probe.style.color = 'var(--fg-color)'
    const [red] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number)
    probe.remove()
    return red > 127 === (theme === 'dark')
}"""

WATCH_END = """() => {
    window.xaloraTestEnded = new Promise((resolve) => {
        for (const end of ['execution_success', 'execution_error', 'execution_interrupted']) {
            app.api.addEventListener(end, () => resolve(end), { once: true })
        }
    })
}"""

DISMISS = """() => {
    const { toast } = app.extensionManager
    toast.dismissAll?.() ?? toast.removeAll?.()
}"""

AT_REST = """async () => {
    for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close()
    const manager = app.extensionManager
    if (manager.sidebarTab.activeSidebarTabId) manager.sidebarTab.activeSidebarTabId = null
    // Frontend 1.49 gives a new node the values of the cleared one that had its id.
    const last = app.graph.state.lastNodeId
    await manager.command.execute('Comfy.ClearWorkflow')
    app.graph.state.lastNodeId = last
}"""

SET_SETTINGS = """async (values) => {
    for (const [id, value] of Object.entries(values)) await app.extensionManager.setting.set(id, value)
}"""

BOUNDS = """
    const nodes = app.graph.nodes.filter((node) => node.type !== 'MarkdownNote')
    const boxes = nodes.map((node) => node.getBounding())
    const left = Math.min(...boxes.map((box) => box[0])) - 24
    const top = Math.min(...boxes.map((box) => box[1])) - 24
    const right = Math.max(...boxes.map((box) => box[0] + box[2])) + 24
    const bottom = Math.max(...boxes.map((box) => box[1] + box[3])) + 24
    const { ds } = app.canvas
    const view = app.canvas.canvas.getBoundingClientRect()
"""

FIT = (
    "(covered) => {"
    + BOUNDS
    + """
    const [width, height] = [view.width - covered - 40, view.height - 150]
    ds.scale = Math.min(1, width / (right - left), height / (bottom - top))
    ds.offset[0] = (covered + 20 + width / 2) / ds.scale - (left + right) / 2
    ds.offset[1] = (90 + height / 2) / ds.scale - (top + bottom) / 2
    app.canvas.setDirty(true, true)
}"""
)

GRAPH_BOX = (
    "() => {"
    + BOUNDS
    + """
    const x = view.left + (left + ds.offset[0]) * ds.scale
    const y = view.top + (top + ds.offset[1]) * ds.scale
    return { x, y, width: (right - left) * ds.scale, height: (bottom - top) * ds.scale }
}"""
)

BUILD = """([nodes, links]) => {
    const made = nodes.map(([type, values], index) => {
        const node = LiteGraph.createNode(type)
        node.pos = [80 + (index % 3) * 420, 120 + Math.floor(index / 3) * 420]
        app.graph.add(node)
        for (const [name, value] of Object.entries(values)) {
            const widget = node.widgets.find((widget) => widget.name === name)
            if (!widget) throw new Error(`${type} has no widget ${name}`)
            widget.value = value
            widget.callback?.(value)
        }
        return node
    })
    for (const [from, output, to, input] of links) {
        const slots = [made[from].findOutputSlot(output), made[to].findInputSlot(input)]
        if (slots.includes(-1)) throw new Error(`no link from ${output} to ${input}`)
        made[from].connect(slots[0], made[to], slots[1])
    }
}"""


class Workbench:
    """What tests act on.

    `frontend` names the frontend under test, and its screenshots' folder; `vue_nodes` tells whether tests
    begin with Nodes 2.0; `errors` holds uncaught errors of the page and complaints that name this pack.
    """

    def __init__(
        self, page: Page, comfyui: ComfyUI, devnet: SessionDevnet, shots: Path, *, vue_nodes: bool
    ) -> None:
        self.frontend = shots.name
        self.vue_nodes = vue_nodes
        self.first_settings = {**FIRST_SETTINGS, "Comfy.VueNodes.Enabled": vue_nodes}
        self.page = page
        self.comfyui = comfyui
        self.devnet = devnet
        self.shots = shots
        self.console: list[str] = []
        self.errors: list[str] = []
        shots.mkdir(parents=True, exist_ok=True)
        page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _on_console(self, message: ConsoleMessage) -> None:
        text = f"{message.type}: {message.text}"
        self.console.append(text)
        if message.type == "error" and ("xalora" in text.lower() and "Failed to load resource" not in text):
            self.errors.append(text)

    # --- the state of things ---

    @property
    def state_dir(self) -> Path:
        """Where the server keeps journal and results."""
        return self.comfyui.root / "xalora-state"

    def load(self, timeout: float = 60_000) -> None:
        """Open the page and wait until the pack has set itself up."""
        self.page.goto(self.comfyui.url)
        self.page.wait_for_function(READY, timeout=timeout)

    def reset(self) -> None:
        """Bring page, server and network to rest, with a key and without tasks."""
        self.comfyui.settle()
        self.devnet.reset()
        self.comfyui.mark_log_read()
        self.comfyui.post("/settings", self.first_settings)
        self.enter_key()
        self.forget_all()
        self.comfyui.clear_cache()
        self.page.evaluate(AT_REST)
        self.dismiss_toasts()
        self.page.keyboard.press("Escape")
        if self.page.locator("[role='dialog']:visible").count():
            # What a failed test has left open.
            self.load()
        self.set_settings(self.first_settings)
        self.console.clear()
        self.errors.clear()

    def enter_key(self) -> None:
        """Give the server the devnet's key, unless it has it."""
        status = self.comfyui.get("/xalora/status").json()
        if not status["key"]["present"] or status["endpoint"]["url"] != self.devnet.url:
            self.post("/xalora/key", {"key": self.devnet.api_key, "endpoint": self.devnet.url})

    def post(self, path: str, body: Any = None) -> Any:
        """One of our routes, as the page asks it."""
        return self.comfyui.post(path, body or {}, headers=MARKED).json()

    def tasks(self, **query: Any) -> list[dict[str, Any]]:
        """What the list route says."""
        tasks: list[dict[str, Any]] = self.comfyui.get("/xalora/tasks", **query).json()["tasks"]
        return tasks

    def forget_all(self) -> None:
        """Empty the journal."""
        with self._journal() as connection:
            for table in ("entries", "forgotten_sent", "tickets", "past_runs"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'version'")

    @contextmanager
    def _journal(self) -> Iterator[sqlite3.Connection]:
        """The journal's own file, for what no interface is there to do."""
        # Whoever writes first makes the file.
        Journal.open(self.state_dir / "journal.sqlite3", self.state_dir / "results").close()
        with (
            closing(sqlite3.connect(self.state_dir / "journal.sqlite3", timeout=30)) as connection,
            connection,
        ):
            yield connection

    def have_said(self, text: str) -> None:
        """Have all that comes from prompts, miners and the network be this text, in every task."""
        with self._journal() as connection:
            connection.execute(
                "UPDATE entries SET label = ?1, error = ?1, miner = iif(miner IS NULL, NULL, ?1),"
                " version = (SELECT value + 1 FROM counters WHERE name = 'version')",
                (text,),
            )
            connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'version'")

    def unkeep(self) -> None:
        """Have every kept task as its process would have left it by dying before the result came."""
        with self._journal() as connection:
            connection.execute(
                "UPDATE entries SET state = 'submitted', status = 'running', files = '[]', size = 0,"
                " engine = NULL, ended_at = NULL, delivered = 0,"
                " version = (SELECT value + 1 FROM counters WHERE name = 'version')"
                " WHERE state = 'finished' AND files <> '[]'"
            )
            connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'version'")

    def set_settings(self, values: dict[str, Any]) -> None:
        """Set ComfyUI's settings from the page, as its dialog does."""
        self.page.evaluate(SET_SETTINGS, values)

    # --- the sidebar ---

    @property
    def panel(self) -> Locator:
        return self.page.locator(".xalora-panel")

    @property
    def rows(self) -> Locator:
        return self.panel.locator(".xalora-task[data-id]")

    def row(self, state: str) -> Locator:
        """Rows whose journal state is this one."""
        return self.panel.locator(f".xalora-task[data-state='{state}']")

    def open_panel(self) -> Locator:
        """Open the tab by its icon."""
        if not self.panel.is_visible():
            self.page.get_by_role("button", name="Xalora tasks").first.click()
        expect(self.panel).to_be_visible()
        return self.panel

    def close_panel(self) -> None:
        if self.panel.is_visible():
            self.page.get_by_role("button", name="Xalora tasks").first.click()
        expect(self.panel).to_be_hidden()

    @property
    def toasts(self) -> Locator:
        return self.page.locator(TOASTS)

    def dismiss_toasts(self) -> None:
        """Have none of ComfyUI's toasts on the page."""
        self.page.evaluate(DISMISS)
        expect(self.toasts).to_have_count(0)

    # --- graphs ---

    @property
    def node_line(self) -> Locator:
        """The lines on the nodes of the pack."""
        return self.page.locator(".xalora-node-line")

    def build(
        self, nodes: Iterable[tuple[str, dict[str, Any]]], links: Iterable[tuple[int, str, int, str]]
    ) -> None:
        """Put nodes on the canvas, side by side: types with widget values; links by index and socket name."""
        self.page.evaluate(BUILD, [list(nodes), list(links)])

    def input_image(self, name: str, number: int, width: int = 720, height: int = 480) -> None:
        """Put an image into ComfyUI's input folder, where the page then offers it."""
        files = {"image": (name, seed.picture(number, width, height)), "overwrite": (None, "true")}
        self.comfyui.post("/upload/image", files=files)
        self.page.evaluate("() => app.refreshComboInNodes()")

    def load_workflow(self, path: Path) -> None:
        """Open a workflow file, as dropping it onto the page does."""
        self.page.evaluate(
            "(graph) => app.loadGraphData(graph)", json.loads(path.read_text(encoding="utf-8"))
        )

    def fit(self, left: float = ICONS) -> None:
        """Show the whole graph, beside what covers so many pixels at the left."""
        self.page.evaluate(FIT, left)

    def picture_of_graph(self, name: str) -> None:
        """A screenshot of the graph alone."""
        box = self.page.evaluate(GRAPH_BOX)
        self._screenshot(name, clip=box)

    def run(self) -> None:
        """Press the Run button."""
        self.page.evaluate(WATCH_END)
        self.page.get_by_test_id("queue-button").click()

    def wait_ended(self) -> None:
        """Until the page has heard of the run's end, and so of all that came before it."""
        self.page.evaluate("() => window.xaloraTestEnded")

    def wait_idle(self, timeout: float = 60) -> None:
        """Until ComfyUI has nothing to do."""
        until = time.monotonic() + timeout
        while any(self.comfyui.queue_state()):
            assert time.monotonic() < until, "ComfyUI is still at work"
            self.page.wait_for_timeout(100)

    def last_status(self) -> str:
        """How the prompt that ended last has ended: `success`, `error`."""
        history = self.comfyui.get("/history").json()
        return str(list(history.values())[-1]["status"]["status_str"])

    # --- pictures ---

    @contextmanager
    def theme(self, name: str) -> Iterator[None]:
        """The page in the dark or the light theme; dark again afterwards."""
        self.set_settings({"Comfy.ColorPalette": name})
        self.page.wait_for_function(IN_THEME, arg=name)
        yield
        self.set_settings({"Comfy.ColorPalette": "dark"})
        self.page.wait_for_function(IN_THEME, arg="dark")

    def shot(self, name: str, *, themes: Iterable[str] = ("dark", "light")) -> None:
        """A screenshot of the page in each theme."""
        for theme in themes:
            with self.theme(theme):
                self._screenshot(f"{name}-{theme}")

    def _screenshot(self, name: str, **options: Any) -> None:
        # What ComfyUI says in passing about its queue comes and goes.
        passing = "[data-testid='queue-notification-banner'] { visibility: hidden }"
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path, animations="disabled", style=passing, **options)
