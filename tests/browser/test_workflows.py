"""Workflows that a user loads, builds and runs on the page."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import PINNED, example_workflows
from playwright.sync_api import TimeoutError, expect
from workbench import Workbench

EXAMPLES = example_workflows()

# Each example with Nodes 2.0 where the frontend has them in earnest, and one in the other renderer.
CASES = [(path, True) for path in EXAMPLES] + [
    (path, False) for path in EXAMPLES if path.stem == "Upscale between local steps"
]


@pytest.mark.parametrize(
    ("path", "usual"),
    CASES,
    ids=[f"{path.stem}-{'usual' if usual else 'other'}-renderer" for path, usual in CASES],
)
def test_an_example_is_loaded_and_run(bench: Workbench, path: Path, usual: bool) -> None:
    vue_nodes = (bench.frontend != PINNED) == usual
    number = time.monotonic_ns() % 1_000_000 * 4
    bench.set_settings({"Comfy.VueNodes.Enabled": vue_nodes})
    bench.input_image("example.png", number)
    bench.open_panel()
    bench.load_workflow(path)
    bench.fit()
    bench.run()
    # The devnet draws 73 frames of a video, which takes a busy machine half a minute.
    expect(bench.row("kept").first).to_be_visible(timeout=120_000)
    bench.wait_idle()
    assert bench.last_status() == "success"
    expect(bench.row("submitted")).to_have_count(0)
    # A clip's frames are in the clip, and not kept beside it.
    if path.stem != "Upscale a video":
        row = bench.row("kept").first
        expect(row.locator("img")).to_be_visible()
        row.hover()
        row.get_by_role("button", name="Show the node").click()
        (selected,) = bench.page.evaluate(
            "() => Object.values(app.canvas.selected_nodes).map((node) => node.comfyClass)"
        )
        assert selected.startswith("Xalora")
        bench.page.evaluate("() => app.canvas.deselectAll()")
    bench.close_panel()
    bench.fit()
    bench.picture_of_graph(f"example-{path.stem}-{'vue' if vue_nodes else 'classic'}")


def open_search(bench: Workbench) -> None:
    """By a double click on the empty canvas. On a busy machine two clicks may be too far apart to be one."""
    for attempt in range(10):
        bench.page.mouse.dblclick(900, 450)
        try:
            # Letters typed before the box has the focus are ComfyUI's shortcuts.
            bench.page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'", timeout=2000)
        except TimeoutError:
            assert attempt < 9, "no search box opens"
        else:
            return


def test_a_node_is_found_by_search_added_and_run(bench: Workbench) -> None:
    page = bench.page
    open_search(bench)
    page.keyboard.type("xalora text to image")
    expect(page.get_by_text("Xalora Text to Image").first).to_be_visible()
    bench.shot("search", themes=["dark"])
    page.keyboard.press("Enter")
    page.wait_for_function("() => app.graph.nodes.length === 1")
    assert page.evaluate("() => app.graph.nodes[0].type") == "XaloraTextToImage"
    page.evaluate(
        """() => {
            const [node] = app.graph.nodes
            const set = (name, value) => (node.widgets.find((widget) => widget.name === name).value = value)
            set('prompt', 'a lighthouse in the fog')
            set('lora_name', 'ink-wash.safetensors')
            const preview = LiteGraph.createNode('PreviewImage')
            preview.pos = [node.pos[0] + 460, node.pos[1]]
            app.graph.add(preview)
            node.connect(0, preview, 0)
        }"""
    )
    bench.open_panel()
    bench.run()
    row = bench.row("kept")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("A lighthouse in the fog")
    bench.wait_idle()
    assert bench.last_status() == "success"


SHOWN = {
    "XaloraUpscaleImage": ["local_model"],
    "XaloraTextToImage": [
        "prompt",
        "lora_name",
        "seed",
        "control_after_generate",
        "batch_size",
        "aspect_ratio",
    ],
    "XaloraTextToVideo": ["prompt", "seed", "control_after_generate", "width", "height", "length", "fps"],
}


# Of Upscale Image.
SHOWN_ROWS = 1


def test_advanced_widgets_take_no_room_until_they_are_asked_for(bench: Workbench) -> None:
    page = bench.page
    # The first Nodes 2.0, of 0.3.75, know no advanced widgets; see the next test.
    for vue_nodes in (False,) if bench.frontend == PINNED else (False, True):
        page.evaluate("() => app.graph.clear()")
        bench.set_settings({"Comfy.VueNodes.Enabled": vue_nodes})
        bench.build([(name, {}) for name in SHOWN], [])
        visible = "(node) => node.widgets.filter((one) => node.isWidgetVisible(one)).map((one) => one.name)"
        assert page.evaluate(f"() => app.graph.nodes.map({visible})") == [*SHOWN.values()]
        # A frame later the canvas has laid its widgets out, and made too small a node larger.
        frame = "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
        bench.fit()
        page.evaluate(frame)
        heights = page.evaluate("() => app.graph.nodes.map((node) => node.size[1])")
        bench.shot(f"widgets-{'vue' if vue_nodes else 'classic'}", themes=["dark"])
        assert heights[0] < 140, heights
        page.evaluate("() => app.graph.nodes[0].toggleAdvanced()")
        page.evaluate(frame)
        assert len(page.evaluate(f"() => ({visible})(app.graph.nodes[0])")) > 10
        if not vue_nodes:
            assert page.evaluate("() => app.graph.nodes[0].size[1]") > 250


def test_the_first_nodes_2_hide_advanced_widgets_and_the_toolbox_shows_them(bench: Workbench) -> None:
    if bench.frontend != PINNED:
        pytest.skip("later Nodes 2.0 do it themselves")
    page = bench.page
    bench.set_settings({"Comfy.VueNodes.Enabled": True, "Comfy.Canvas.SelectionToolbox": True})
    bench.build([("XaloraUpscaleImage", {})], [])
    bench.fit()
    rows = page.locator(".lg-node-widget")
    expect(rows.filter(visible=True)).to_have_count(SHOWN_ROWS)
    page.evaluate("() => { app.canvas.selectNode(app.graph.nodes[0]) }")
    button = page.locator(".selection-toolbox button:has(.pi-sliders-h)")
    button.click()
    expect(rows.filter(visible=True)).not_to_have_count(SHOWN_ROWS)
    bench.shot("advanced-in-the-first-nodes-2", themes=["dark"])
    page.evaluate("() => { app.canvas.selectNode(app.graph.nodes[0]) }")
    button.click()
    expect(rows.filter(visible=True)).to_have_count(SHOWN_ROWS)


def test_a_link_to_an_advanced_widget_shows_it_when_the_graph_is_loaded(bench: Workbench) -> None:
    bench.build([("PrimitiveInt", {}), ("XaloraTextToImage", {})], [(0, "INT", 1, "width")])
    page = bench.page
    assert page.evaluate("() => app.graph.nodes[1].showAdvanced ?? false") is False
    page.evaluate("() => app.loadGraphData(app.graph.serialize())")
    page.wait_for_function("() => app.graph.nodes.length === 2 && app.graph.nodes[1].showAdvanced")
