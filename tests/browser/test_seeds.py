"""The seeds of a run that failed or was canceled: Run again sends no finished image a second time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import expect
from workbench import Workbench

LONG = 600.0

SEED = """([type, name]) => {
    const all = (graph) => graph.nodes.flatMap((each) => [each, ...(each.subgraph ? all(each.subgraph) : [])])
    const node = all(app.rootGraph ?? app.graph).find((each) => each.type === type)
    const widget = node.widgets.find((each) => each.name === name)
    const control = widget.linkedWidgets?.[0]
    return [widget.value, control?.value ?? null]
}"""

SET_SEED = """([type, value, mode]) => {
    const node = app.graph.nodes.find((each) => each.type === type)
    const widget = node.widgets.find((each) => each.name === 'seed')
    if (value !== null) { widget.value = value; widget.callback?.(value) }
    if (mode !== null) widget.linkedWidgets[0].value = mode
}"""

# The node's seed comes from a primitive node, which ComfyUI moves on in its place.
LINK_PRIMITIVE = """() => {
    const node = app.graph.nodes.find((each) => each.type === 'XaloraTextToImage')
    const primitive = LiteGraph.createNode('PrimitiveNode')
    primitive.pos = [80, 700]
    app.graph.add(primitive)
    let slot = node.inputs.findIndex((each) => each.widget?.name === 'seed')
    primitive.connect(0, node, slot)
    primitive.widgets[0].value = 5
    primitive.widgets[1].value = 'randomize'
}"""

WATCH_QUEUED = """() => {
    window.xaloraTestQueued = new Promise((resolve) => {
        app.api.addEventListener('promptQueued', () => resolve(), { once: true })
    })
}"""

PRIMITIVE = """() => {
    const node = app.graph.nodes.find((each) => each.type === 'PrimitiveNode')
    return [node.widgets[0].value, node.widgets[1].value]
}"""

TO_SUBGRAPH = """() => {
    const node = app.graph.nodes.find((each) => each.type === 'XaloraTextToImage')
    app.canvas.deselectAll()
    app.canvas.selectNode(node)
    app.graph.convertToSubgraph(new Set([node]))
}"""


def text_to_image(bench: Workbench, *, mode: str | None = "randomize", seed: int = 5, **widgets: Any) -> None:
    """Xalora Text to Image -> Preview Image, with the control as older graphs have it."""
    values = {"prompt": f"heron {time.monotonic_ns()}", "lora_name": "gecko", "seed": seed, **widgets}
    bench.build([("XaloraTextToImage", values), ("PreviewImage", {})], [(0, "IMAGE", 1, "images")])
    bench.page.evaluate(SET_SEED, ["XaloraTextToImage", None, mode])


def seed_of(bench: Workbench, node: str = "XaloraTextToImage") -> list[Any]:
    """The seed and its control."""
    found: list[Any] = bench.page.evaluate(SEED, [node, "seed"])
    return found


def expect_seed(bench: Workbench, expected: list[Any], node: str = "XaloraTextToImage") -> None:
    until = time.monotonic() + 20
    while (found := seed_of(bench, node)) != expected:
        assert time.monotonic() < until, (found, expected)
        bench.page.wait_for_timeout(50)


def run_and_end(bench: Workbench) -> None:
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    close_error(bench)


def close_error(bench: Workbench) -> None:
    """Close the dialog that an older frontend puts before the page."""
    mask = bench.page.locator(".p-dialog-mask")
    if mask.count():
        bench.page.keyboard.press("Escape")
        expect(mask).to_have_count(0)
    bench.dismiss_toasts()


@pytest.mark.parametrize(
    "node", ["XaloraTextToImage", "XaloraTextToVideo", "XaloraSubmitTextToImage", "XaloraWorkflow_flux-lora"]
)
def test_a_new_nodes_seed_stays(bench: Workbench, node: str) -> None:
    bench.build([(node, {})], [])
    controls = bench.page.evaluate(
        "() => app.graph.nodes[0].widgets.flatMap(({ linkedWidgets }) => linkedWidgets ?? [])"
        ".map(({ value }) => value)"
    )
    assert controls == ["fixed"]


def test_run_after_a_partial_failure_sends_no_finished_image_again(bench: Workbench) -> None:
    bench.devnet.add_fault("miner:failed:n=1,5,6")
    text_to_image(bench, batch_size=4, max_in_flight=1)
    run_and_end(bench)
    assert bench.devnet.new_stats()["tasks"] == {"failed": 3, "finished": 3}
    expect_seed(bench, [5, "fixed"])
    bench.devnet.clear_faults()
    run_and_end(bench)
    assert bench.last_status() == "success"
    assert bench.devnet.new_stats()["tasks"] == {"failed": 3, "finished": 4}
    assert seed_of(bench) == [5, "fixed"]


def test_a_canceled_video_is_asked_for_with_the_same_seed(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    values = {"prompt": f"heron {time.monotonic_ns()}", "seed": 5, "decode_frames": False}
    bench.build([("XaloraTextToVideo", values), ("SaveVideo", {})], [(0, "VIDEO", 1, "video")])
    bench.page.evaluate(SET_SEED, ["XaloraTextToVideo", None, "increment"])
    bench.open_panel()
    bench.run()
    expect(bench.row("submitted")).to_contain_text("Running")
    assert seed_of(bench, "XaloraTextToVideo") == [6, "increment"]
    bench.comfyui.interrupt()
    expect_seed(bench, [5, "fixed"], "XaloraTextToVideo")
    bench.wait_idle()


def test_a_timed_out_image_is_taken_up_by_the_next_run(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    text_to_image(bench, wait_timeout=2, fallback="never")
    run_and_end(bench)
    expect_seed(bench, [5, "fixed"])
    run_and_end(bench)
    assert bench.devnet.new_stats()["creates"] == 1


def test_of_several_the_last_that_failed_counts(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    text_to_image(bench, mode="increment", wait_timeout=3, fallback="never")
    bench.open_panel()
    bench.run()
    expect(bench.row("submitted")).to_have_count(1)
    bench.run()
    expect_seed(bench, [7, "increment"])
    bench.wait_idle()
    expect_seed(bench, [6, "fixed"])
    close_error(bench)


def test_what_the_user_has_entered_since_stays(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    text_to_image(bench, wait_timeout=3, fallback="never")
    bench.page.evaluate(WATCH_QUEUED)
    bench.run()
    bench.page.evaluate("() => window.xaloraTestQueued")
    bench.page.evaluate(SET_SEED, ["XaloraTextToImage", 99, None])
    bench.wait_ended()
    bench.wait_idle()
    close_error(bench)
    # The answer that the page asks for at the end has come with the next one.
    bench.page.evaluate("() => fetch('/queue')")
    assert seed_of(bench) == [99, "randomize"]


def test_a_success_leaves_the_seed_to_its_control(bench: Workbench) -> None:
    text_to_image(bench, mode="increment")
    run_and_end(bench)
    assert seed_of(bench) == [6, "increment"]


def test_a_seed_from_a_primitive_node_is_written_back_there(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    text_to_image(bench, wait_timeout=2, fallback="never")
    bench.page.evaluate(LINK_PRIMITIVE)
    run_and_end(bench)
    until = time.monotonic() + 20
    while (found := bench.page.evaluate(PRIMITIVE)) != [5, "fixed"]:
        assert time.monotonic() < until, found
        bench.page.wait_for_timeout(50)


def test_a_seed_inside_of_a_subgraph_is_written_back(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    text_to_image(bench, wait_timeout=2, fallback="never")
    bench.page.evaluate(TO_SUBGRAPH)
    run_and_end(bench)
    expect_seed(bench, [5, "fixed"])
    run_and_end(bench)
    assert bench.devnet.new_stats()["creates"] == 1
