"""Tasks of nodes on the page, in the sidebar: running, canceled, done by fallback, and resumed."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import expect
from workbench import Workbench

LONG = 600.0


def upscale(bench: Workbench, **widgets: Any) -> None:
    """Load Image -> Xalora Upscale Image -> Preview Image."""
    name = f"picture-{time.monotonic_ns()}.jpg"
    bench.input_image(name, time.monotonic_ns() % 1_000_000 * 4, 480, 320)
    bench.build(
        [
            ("LoadImage", {"image": name}),
            ("XaloraUpscaleImage", widgets),
            ("PreviewImage", {}),
        ],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )


def batch(bench: Workbench, count: int, **widgets: Any) -> None:
    """A generated batch -> Xalora Upscale Image -> Preview Image."""
    bench.build(
        [
            (
                "XaloraTestImage",
                {"width": 96, "height": 64, "batch": count, "seed": time.monotonic_ns() % 2**31},
            ),
            ("XaloraUpscaleImage", widgets),
            ("PreviewImage", {}),
        ],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )


def test_a_task_is_followed_from_the_queue_to_its_result(bench: Workbench) -> None:
    bench.devnet.task_seconds = 6
    upscale(bench)
    bench.open_panel()
    bench.run()
    row = bench.row("submitted")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Running")
    expect(row.locator(".xalora-thumbnail img")).to_be_visible()
    expect(bench.page.locator("[aria-label='Xalora tasks']").first).to_contain_text("1")
    before = row.locator(".xalora-task-line").inner_text()
    expect(row.locator(".xalora-task-line")).not_to_have_text(before)

    row.hover()
    row.get_by_role("button", name="Show the node").click()
    assert bench.page.evaluate("Object.values(app.canvas.selected_nodes).map((node) => node.comfyClass)") == [
        "XaloraUpscaleImage"
    ]
    bench.shot("running")

    done = bench.row("kept")
    expect(done).to_have_count(1)
    expect(done.locator(".xalora-thumbnail img")).to_be_visible()
    expect(bench.row("submitted")).to_have_count(0)
    bench.wait_idle()
    assert bench.last_status() == "success"

    # In another workflow the same id is another node.
    show = done.get_by_role("button", name="Show the node")
    expect(show).to_have_count(1)
    bench.page.evaluate("() => app.loadGraphData({ ...app.graph.serialize(), id: crypto.randomUUID() })")
    expect(show).to_have_count(0)


def test_a_batch_runs_beside_earlier_results(seeded: Workbench, repository: Path) -> None:
    """The picture of the README: the second batch knows from the first how long it will take."""
    seeded.open_panel()
    seeded.input_image("example.png", 4)
    seeded.load_workflow(repository / "example_workflows" / "Upscale a batch.json")
    seeded.fit(left=350)
    seeded.devnet.task_seconds = 8
    seeded.run()
    expect(seeded.row("submitted").filter(has_text="Running")).to_have_count(3)
    seeded.wait_idle()

    seeded.input_image("example.png", 7)
    seeded.devnet.task_seconds = 9
    seeded.run()
    expect(seeded.row("submitted").filter(has_text="of usually")).to_have_count(3)
    expect(seeded.row("submitted").filter(has_text="Running")).to_have_count(3)
    seeded.page.mouse.move(900, 800)
    seeded.dismiss_toasts()
    seeded.fit(left=350)
    seeded.shot("sidebar")
    seeded.wait_idle()
    assert len(seeded.tasks(groups="done")) == 12


def test_a_preview_has_the_size_of_its_result(bench: Workbench) -> None:
    """ComfyUI writes it under the picture, which has fewer pixels."""
    bench.devnet.next_task_seconds.extend([0, LONG])
    bench.build(
        [
            (
                "XaloraTestImage",
                {"width": 1000, "height": 600, "batch": 2, "seed": time.monotonic_ns() % 2**31},
            ),
            ("XaloraUpscaleImage", {"fallback": "never", "max_in_flight": 1}),
            ("PreviewImage", {}),
        ],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )
    bench.page.evaluate(
        """() => {
            window.xaloraTestPreview = new Promise((resolve) => {
                app.api.addEventListener('b_preview', async ({ detail }) => {
                    const picture = new Image()
                    picture.src = URL.createObjectURL(detail)
                    await picture.decode()
                    resolve([picture.naturalWidth, picture.naturalHeight])
                }, { once: true })
            })
        }"""
    )
    bench.run()
    assert bench.page.evaluate("() => window.xaloraTestPreview") == [2000, 1200]
    bench.shot("preview-size", themes=["dark"])
    bench.comfyui.interrupt()
    bench.wait_ended()
    bench.wait_idle()


def test_one_task_is_canceled_from_the_sidebar(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    upscale(bench, fallback="never")
    bench.open_panel()
    bench.run()
    row = bench.row("submitted")
    expect(row).to_contain_text("Running")
    row.hover()
    row.get_by_role("button", name="Cancel the task").click()
    expect(bench.row("canceled")).to_have_count(1)
    (task_id,) = bench.devnet.new_task_ids()
    assert bench.devnet.wait_for_status(task_id, "canceled").status == "canceled"
    bench.wait_ended()
    bench.wait_idle()
    expect_no_complaint(bench, "canceled")


def test_all_tasks_are_canceled_from_the_sidebar(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    batch(bench, 3, fallback="never")
    bench.open_panel()
    bench.run()
    expect(bench.row("submitted")).to_have_count(3)
    bench.panel.get_by_role("button", name="Cancel all").click()
    bench.page.get_by_role("button", name="Cancel 3 tasks").click()
    expect(bench.row("canceled")).to_have_count(3)
    statuses = {bench.devnet.task(task_id).status for task_id in bench.devnet.new_task_ids()}
    assert statuses == {"canceled"}
    bench.wait_ended()
    bench.wait_idle()
    expect_no_complaint(bench, "canceled")


def test_a_canceled_task_beside_finished_ones_is_no_failure(bench: Workbench) -> None:
    """The finished ones are kept: the next run sends the canceled one alone."""
    bench.devnet.next_task_seconds.extend([0, 0, LONG])
    batch(bench, 3, max_in_flight=1, fallback="on_any_failure")
    bench.open_panel()
    bench.run()
    expect(bench.row("kept")).to_have_count(2)
    row = bench.row("submitted")
    expect(row).to_contain_text("Running")
    row.hover()
    row.get_by_role("button", name="Cancel the task").click()
    bench.wait_ended()
    bench.wait_idle()
    expect_no_complaint(bench, "canceled")
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    assert bench.last_status() == "success"
    assert bench.devnet.new_stats()["tasks"] == {"canceled": 1, "finished": 3}


def test_the_cancel_button_leaves_a_true_line(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    upscale(bench)
    bench.open_panel()
    bench.run()
    expect(bench.row("submitted")).to_contain_text("Running")
    expect(bench.node_line).to_contain_text("running")
    bench.comfyui.interrupt()
    bench.wait_ended()
    bench.wait_idle()
    expect_no_complaint(bench, "canceled")


def test_a_line_does_not_stay_running_after_comfyui_has_died(bench: Workbench) -> None:
    bench.devnet.task_seconds = LONG
    upscale(bench)
    bench.run()
    expect(bench.node_line).to_contain_text("running")
    bench.comfyui.kill()
    bench.comfyui.restart()
    # The page finds the server again by itself, some time after it serves.
    expect(bench.node_line).to_contain_text("Press Run to go on: nothing is paid twice.", timeout=60_000)


def expect_no_complaint(bench: Workbench, line: str) -> None:
    """The prompt was interrupted: no dialog, no toast, and the node says how it ended."""
    history = list(bench.comfyui.get("/history").json().values())[-1]
    assert "execution_interrupted" in [name for name, _ in history["status"]["messages"]]
    expect(bench.node_line).to_have_text(line)
    expect(bench.page.locator(".p-dialog-mask")).to_have_count(0)
    assert not [text for text in bench.toasts.all_inner_texts() if "rror" in text or "ailed" in text]


def test_a_fallback_is_told_once(bench: Workbench) -> None:
    """Two nodes of a prompt fall back, one of them with a batch."""
    bench.devnet.stop_sequencer()
    # The quick way: a toast is gone after 12 s.
    batch(bench, 3, local_model="LANCZOS")
    bench.build(
        [
            ("XaloraTestImage", {"width": 64, "height": 64, "seed": 1}),
            ("XaloraUpscaleImage", {"local_model": "LANCZOS"}),
            ("PreviewImage", {}),
        ],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )
    bench.run()
    toast = bench.toasts.filter(has_text="This machine took over")
    expect(toast.first).to_be_visible()
    expect(toast.first).to_contain_text("by LANCZOS on this machine")
    bench.wait_ended()
    assert toast.count() == 1
    bench.wait_idle()
    assert bench.last_status() == "success"
    # It stays on the nodes, whatever the frontend does with its own texts at the end.
    bench.dismiss_toasts()
    lines = bench.node_line
    expect(lines).to_have_count(2)
    expect(lines.first).to_contain_text("by LANCZOS on this machine")
    expect(lines.last).to_contain_text("by LANCZOS on this machine")
    bench.shot("fallback", themes=["dark"])
    saved = bench.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()))")
    assert "LANCZOS on this machine" not in saved and "xalora_line" not in saved


def test_a_failure_is_told_once_in_the_graphs_words(bench: Workbench) -> None:
    """ComfyUI tells it; no toast of ours lies over that."""
    bench.devnet.stop_sequencer()
    batch(bench, 3, fallback="never")
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    assert bench.last_status() == "error"
    expect(bench.node_line).to_contain_text(re.compile(r"failed, \d of 3 images: The network can't"))
    assert not [text for text in bench.toasts.all_inner_texts() if "Xalora" in text]
    bench.shot("failure", themes=["dark"])


def test_the_line_stays_in_both_renderers(bench: Workbench, repository: Path) -> None:
    bench.set_settings({"Comfy.VueNodes.Enabled": True})
    upscale(bench)
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    expect(bench.node_line).to_contain_text(" s by xalora, miner ")
    expect(bench.node_line).to_be_visible()
    bench.shot("line-nodes-2", themes=["dark"])
    # A node with a seed too, whose value is set before the line comes.
    bench.load_workflow(repository / "example_workflows" / "Text to image.json")
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    expect(bench.node_line).to_contain_text("1024 x 1024, 2 in ")
    expect(bench.node_line).to_be_visible()


def test_a_line_is_not_written_on_a_node_of_another_workflow(bench: Workbench) -> None:
    """The same id is another node there."""
    bench.devnet.task_seconds = 4
    upscale(bench)
    bench.run()
    expect(bench.node_line).to_contain_text("running")
    bench.page.evaluate("() => app.loadGraphData({ ...app.graph.serialize(), id: crypto.randomUUID() })")
    bench.wait_ended()
    bench.wait_idle()
    assert bench.last_status() == "success"
    expect(bench.node_line).to_have_count(0)


def test_a_task_that_was_left_running_is_taken_up_again(bench: Workbench) -> None:
    """As after a crash: it is in the network and in the journal, and nobody waits for it."""
    bench.devnet.task_seconds = 0
    upscale(bench)
    bench.open_panel()
    bench.run()
    expect(bench.row("kept")).to_have_count(1)
    bench.wait_idle()
    bench.unkeep()
    row = bench.row("submitted")
    expect(row).to_contain_text("nobody is waiting for it")
    bench.shot("left-running", themes=["dark"])
    row.hover()
    row.get_by_role("button", name="Resume").click()
    expect(bench.row("kept")).to_have_count(1)
    assert bench.devnet.new_stats()["creates"] == 1


def test_a_task_that_its_node_leaves_running_can_be_resumed_at_once(bench: Workbench) -> None:
    """The node's time is up, and the panel is open all the while."""
    bench.devnet.task_seconds = LONG
    upscale(bench, wait_timeout=3, fallback="never")
    bench.open_panel()
    bench.run()
    row = bench.row("submitted")
    expect(row).to_contain_text("Running")
    resume = row.get_by_role("button", name="Resume")
    expect(resume).to_have_count(0)
    expect(row).to_contain_text("nobody is waiting for it")
    # An older frontend puts the node's failure before the whole page.
    bench.wait_idle()
    if bench.page.locator(".p-dialog-mask").count():
        bench.page.locator(".p-dialog-mask button[aria-label^='Close']").first.click()
        expect(bench.page.locator(".p-dialog-mask")).to_have_count(0)
    resume.click()
    expect(resume).to_have_count(0)
    expect(row).not_to_contain_text("nobody is waiting for it")
    row.hover()
    row.get_by_role("button", name="Cancel the task").click()
    expect(bench.row("canceled")).to_have_count(1)
    assert bench.devnet.new_stats()["creates"] == 1
