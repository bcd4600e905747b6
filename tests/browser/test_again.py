"""What the task's view offers about a lost answer and about a bad result."""

from __future__ import annotations

import time

from playwright.sync_api import Locator, expect
from workbench import Workbench


def upscale(bench: Workbench) -> None:
    """Load Image -> Xalora Upscale Image -> Preview Image."""
    name = f"again-{time.monotonic_ns()}.jpg"
    bench.input_image(name, time.monotonic_ns() % 1_000_000 * 4, 96, 64)
    bench.build(
        [("LoadImage", {"image": name}), ("XaloraUpscaleImage", {}), ("PreviewImage", {})],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )


def run_and_end(bench: Workbench) -> str:
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    if bench.page.locator(".p-dialog-mask").count():
        bench.page.keyboard.press("Escape")
        expect(bench.page.locator(".p-dialog-mask")).to_have_count(0)
    bench.dismiss_toasts()
    return bench.last_status()


def view(bench: Workbench, state: str) -> Locator:
    """The task's view, opened from its row."""
    bench.row(state).locator(".xalora-task-main").click()
    viewer = bench.page.locator("dialog.xalora-viewer")
    expect(viewer).to_be_visible()
    return viewer


def lose_an_answer(bench: Workbench) -> None:
    bench.devnet.add_fault("task_create:drop_after:n=1")
    upscale(bench)
    bench.open_panel()
    assert run_and_end(bench) == "error"
    expect(bench.node_line).to_have_text(
        "failed: The network's answer was lost. It may have been charged, so it was not sent again."
    )
    expect(bench.row("unknown")).to_have_count(1)
    # Nor is it made here, however often it is run.
    assert run_and_end(bench) == "error"
    assert bench.devnet.new_stats()["endpoints"]["task_create"] == 1


def test_a_lost_answer_is_sent_again_where_the_user_says_so(bench: Workbench) -> None:
    lose_an_answer(bench)
    viewer = view(bench, "unknown")
    expect(viewer.get_by_role("img", name="Input image")).to_be_visible()
    viewer.get_by_role("button", name="Send again").click()
    expect(viewer).to_contain_text("The next run of its node sends it again.")
    bench.shot("lost-answer", themes=["dark"])
    bench.page.keyboard.press("Escape")
    bench.dismiss_toasts()
    assert run_and_end(bench) == "success"
    # Under the same job id, so that the network knows it.
    stats = bench.devnet.new_stats()
    assert (stats["creates"], stats["duplicates"]) == (1, 1)
    expect(bench.node_line).to_contain_text("by xalora")


def test_a_lost_answer_is_taken_up_from_the_account(bench: Workbench) -> None:
    lose_an_answer(bench)
    (task_id,) = bench.devnet.new_task_ids()
    view(bench, "unknown").get_by_role("button", name="It is in my account").click()
    prompt = bench.page.get_by_role("dialog").last
    prompt.locator("input").fill(task_id)
    bench.page.keyboard.press("Enter")
    expect(bench.row("kept")).to_have_count(1)
    assert run_and_end(bench) == "success"
    assert bench.devnet.new_stats()["endpoints"]["task_create"] == 1


def test_a_bad_result_is_made_again_where_the_user_says_so(bench: Workbench) -> None:
    upscale(bench)
    bench.open_panel()
    assert run_and_end(bench) == "success"
    viewer = view(bench, "kept")
    viewer.get_by_role("button", name="Make again").click()
    expect(viewer).to_contain_text("pays for a new one")
    bench.page.keyboard.press("Escape")
    bench.dismiss_toasts()
    assert run_and_end(bench) == "success"
    assert bench.devnet.new_stats()["creates"] == 2
    # Once, and the new one answers from then on: it has taken the place of the bad one.
    expect(bench.row("kept")).to_have_count(1)
    bench.comfyui.clear_cache()
    assert run_and_end(bench) == "success"
    assert bench.devnet.new_stats()["creates"] == 2


def test_what_is_forgotten_is_made_anew(bench: Workbench) -> None:
    upscale(bench)
    bench.open_panel()
    assert run_and_end(bench) == "success"
    row = bench.row("kept")
    row.hover()
    row.get_by_role("button", name="Forget").click()
    question = bench.page.get_by_role("dialog", name="Forget this task?")
    question.get_by_role("button", name="Forget").click()
    expect(bench.panel).to_contain_text("No tasks yet")
    assert run_and_end(bench) == "success"
    assert bench.devnet.new_stats()["creates"] == 2
