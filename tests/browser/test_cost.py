"""What tasks cost by the user's prices, and the limit of a day, as an artist meets them."""

from __future__ import annotations

import itertools
import time

import pytest
from playwright.sync_api import expect
from workbench import Workbench

from xalora_client.prices import midnight_before

DAY = 24 * 3600.0
SEEDS = itertools.count(1)
"""Of the generated images. Older frontends take a seed of more than 2048 back to that after a run."""


def batch(bench: Workbench, count: int) -> None:
    """A generated batch -> Xalora Upscale Image -> Preview Image, alone on the canvas."""
    bench.page.evaluate("() => app.graph.clear()")
    made = {"width": 64, "height": 48, "batch": count, "seed": next(SEEDS)}
    bench.build(
        [("XaloraTestImage", made), ("XaloraUpscaleImage", {"fallback": "never"}), ("PreviewImage", {})],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )


@pytest.fixture
def within_a_day() -> None:
    """Begins after midnight where that is near: what is sent today would begin anew amid the test."""
    until_midnight = midnight_before(time.time() + DAY) - time.time()
    if until_midnight < 300:
        time.sleep(until_midnight)


def run_and_end(bench: Workbench) -> str:
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    return bench.last_status()


@pytest.mark.usefixtures("within_a_day")
def test_the_sums_of_a_run_and_of_today_are_shown(bench: Workbench) -> None:
    bench.open_panel()
    today = bench.panel.locator("[data-sum='today']")
    last_run = bench.panel.locator("[data-sum='lastRun']")
    batch(bench, 3)
    assert run_and_end(bench) == "success"
    expect(last_run).to_have_text("last run 3")
    expect(today).to_have_text("today 3")
    bench.set_settings({"Xalora.Prices": "upscaler=0.25"})
    batch(bench, 2)
    bench.devnet.add_fault("task_create:delay:seconds=1")
    bench.run()
    lines = bench.node_line
    expect(lines.last).to_have_text("sends up to 2 tasks, about 0.50")
    bench.wait_ended()
    bench.wait_idle()
    expect(last_run).to_have_text("last run 2, about 0.50")
    expect(today).to_have_text("today 5, about 1.25")
    bench.shot("cost", themes=["dark"])
    bench.row("kept").first.locator(".xalora-task-main").click()
    viewer = bench.page.get_by_role("dialog")
    facts = viewer.locator(".xalora-facts")
    expect(facts).to_contain_text("Cost" + "about 0.25")
    expect(facts).to_contain_text("Its run" + "2 tasks, about 0.50")
    # What a new one costs is said before it is asked for, and it can be taken back.
    viewer.get_by_role("button", name="Make again, about 0.25").click()
    bench.shot("make-again", themes=["dark"])
    viewer.get_by_role("button", name="Take that back").click()
    expect(viewer.get_by_role("button", name="Make again, about 0.25")).to_be_visible()
    bench.page.keyboard.press("Escape")
    assert run_and_end(bench) == "success"
    assert bench.devnet.new_stats()["creates"] == 5
    # What is forgotten was sent all the same.
    forget_all(bench)
    expect(bench.panel).to_contain_text("No tasks yet")
    expect(today).to_have_text("today 5, about 1.25")


def forget_all(bench: Workbench) -> None:
    bench.comfyui.clear_cache()
    bench.panel.get_by_role("button", name="Forget all").click()
    bench.page.get_by_role("button", name="Forget all and delete results").click()


@pytest.mark.usefixtures("within_a_day")
def test_above_the_limit_nothing_is_sent_without_a_yes(bench: Workbench) -> None:
    bench.set_settings({"Xalora.DailyTasks": 2})
    batch(bench, 4)
    assert run_and_end(bench) == "error"
    assert bench.devnet.new_stats()["creates"] == 2
    expect(bench.node_line).to_contain_text("Today's limit of 2 tasks is reached")
    dialog = bench.page.get_by_role("dialog", name="Send more today?")
    expect(dialog).to_be_visible()
    # It takes the place of ComfyUI's own, which says the same.
    expect(bench.page.locator(".p-dialog-mask")).to_have_count(0)
    expect(dialog.get_by_role("button", name="Keep the limit")).to_be_focused()
    bench.shot("limit", themes=["dark"])
    dialog.get_by_role("button", name="Keep the limit").click()
    expect(dialog).to_be_hidden()
    assert run_and_end(bench) == "error"
    assert bench.devnet.new_stats()["creates"] == 2
    dialog.get_by_role("button", name="Send more today").click()
    expect(dialog).to_be_hidden()
    close_error(bench)
    assert run_and_end(bench) == "success"
    assert bench.devnet.new_stats()["creates"] == 4


def close_error(bench: Workbench) -> None:
    """Close the dialog that an older frontend puts before the page."""
    if bench.page.locator(".p-dialog-mask").count():
        bench.page.keyboard.press("Escape")
        expect(bench.page.locator(".p-dialog-mask")).to_have_count(0)
    bench.dismiss_toasts()
