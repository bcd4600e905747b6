"""The sidebar with tasks in every state, and with a very long list."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from conftest import example_workflows
from harness import seed
from playwright.sync_api import Page, expect
from workbench import Workbench

from xalora_client.journal import Event, Whole

MANY = 5000

# The relative luminance of WCAG; what lies behind a text is the nearest ancestor with a colour of its own.
CONTRASTS = """() => {
    const channels = (colour) => {
        const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
        canvas.fillStyle = colour
        canvas.fillRect(0, 0, 1, 1)
        return [...canvas.getImageData(0, 0, 1, 1).data]
    }
    const luminance = (colour) => {
        const [r, g, b] = colour.slice(0, 3).map((value) => {
            const share = value / 255
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4
        })
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = channels(getComputedStyle(at).backgroundColor)
            if (colour[3] === 255) return colour
        }
        return [255, 255, 255, 255]
    }
    const found = []
    const walker = document.createTreeWalker(document.querySelector('.xalora-panel'), NodeFilter.SHOW_TEXT)
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue
        const [text, ground] = [channels(getComputedStyle(element).color), behind(element)].map(luminance)
        const contrast = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05)
        found.push([walker.currentNode.data.trim(), element.className, contrast])
    }
    return found
}"""


# The nodes that are not wholly in the part of the canvas beside the sidebar.
OUTSIDE = """() => {
    const { ds, canvas } = app.canvas
    const from = canvas.getBoundingClientRect()
    const free = document.querySelector('.graph-canvas-panel').getBoundingClientRect()
    return app.graph.nodes.filter(({ pos, size }) => {
        const left = from.left + (pos[0] + ds.offset[0]) * ds.scale
        const top = from.top + (pos[1] - LiteGraph.NODE_TITLE_HEIGHT + ds.offset[1]) * ds.scale
        const bottom = from.top + (pos[1] + size[1] + ds.offset[1]) * ds.scale
        const right = left + size[0] * ds.scale
        return left < free.left || top < free.top || right > free.right || bottom > free.bottom
    })
}"""


def test_every_state_is_shown(seeded: Workbench) -> None:
    seeded.open_panel()
    expect(seeded.rows).to_have_count(10)
    expect(seeded.row("kept").first).to_contain_text("kB · miner 0x71…0c")
    expect(seeded.row("kept").locator("img")).to_have_count(6)
    expect(seeded.row("failed")).to_contain_text("CUDA out of memory")
    expect(seeded.row("unknown")).to_contain_text("Unknown, may be charged")
    expect(seeded.row("canceled")).to_contain_text("Canceled, may be charged")
    expect(seeded.row("not_sent")).to_contain_text("Done on this machine (4x-UltraSharp)")
    seeded.shot("list")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_word_can_be_read(seeded: Workbench, theme: str) -> None:
    seeded.open_panel()
    expect(seeded.rows).to_have_count(10)
    with seeded.theme(theme):
        contrasts = seeded.page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    assert [one for one in contrasts if one[2] < 4.5] == []


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_word_of_the_empty_panel_can_be_read(bench: Workbench, theme: str) -> None:
    """With buttons for what comes first, with a key and without."""
    with bench.theme(theme):
        for action in ("Add Upscale Image", "Enter API key"):
            panel = bench.open_panel()
            expect(panel.get_by_role("button", name=action)).to_be_visible()
            contrasts = bench.page.evaluate(CONTRASTS)
            assert action in [words for words, _, _ in contrasts]
            assert [one for one in contrasts if one[2] < 4.5] == []
            bench.close_panel()
            bench.post("/xalora/key/remove")


def test_what_is_changed_elsewhere_appears_by_itself(seeded: Workbench) -> None:
    """By another process: the command line, say."""
    seeded.open_panel()
    expect(seeded.rows).to_have_count(10)
    with seed.seeder(seeded.state_dir, seeded.devnet.url, time.time()) as seeder:
        seeder.made = 100
        added = seeder.record("upscaler", "upscale from-a-shell.png", ago=0, then=seed.left_running)
        row = seeded.rows.filter(has_text="from-a-shell.png")
        expect(row).to_contain_text("Running")
        seeder.note(added, Event.FAILED, error="the miner caught fire")
        expect(row).to_contain_text("the miner caught fire")
        assert seeder.journal.forget([added.id]).result() == 1
    expect(row).to_have_count(0)
    expect(seeded.rows).to_have_count(10)


def test_filters_and_search_narrow_the_list(seeded: Workbench) -> None:
    panel = seeded.open_panel()
    filters = panel.get_by_role("group", name="Show")
    filters.get_by_role("button", name="No result").click()
    expect(seeded.rows).to_have_count(4)
    filters.get_by_role("button", name="Active").click()
    expect(panel).to_contain_text("Nothing in progress")
    panel.get_by_role("button", name="Show all tasks").click()
    search = panel.get_by_role("searchbox")
    search.fill("paper boat")
    expect(seeded.rows).to_have_count(1)
    # What is seen: a prompt's end, states and kinds in the page's own words, a miner.
    for text, count in {
        "BACKGROUND heron": 1,
        "8250411": 1,
        "Outcome unknown": 1,
        "failed": 1,
        "canceled portrait": 1,
        "done on this machine": 1,
        "text to video": 2,
        "miner 0x71…0c": 3,
    }.items():
        search.fill(text)
        expect(seeded.rows).to_have_count(count)
    search.fill("done scan-0031")
    expect(panel).to_contain_text("Nothing matches “done scan-0031”")
    search.fill("100%_\\")
    expect(panel).to_contain_text("Nothing matches “100%_\\”")
    # What changes meanwhile is not shown for having changed.
    with seed.seeder(seeded.state_dir, seeded.devnet.url, time.time()) as seeder:
        for record in seeder.journal.records(limit=3):
            seeder.note(record, Event.FELL_BACK, engine="another", device=None)
        seeder.made = 100
        seeder.record("upscaler", "upscale 100%_\\.png", ago=0, then=seed.canceled)
    expect(seeded.rows).to_have_count(1)
    expect(seeded.rows).to_contain_text("100%_\\")
    search.fill("no such thing")
    expect(panel).to_contain_text("Nothing matches")
    panel.get_by_role("button", name="Clear search").click()
    expect(seeded.rows).to_have_count(11)
    expect(search).to_be_focused()


def test_a_search_in_another_language_finds_its_words(seeded: Workbench) -> None:
    seeded.set_settings({"Comfy.Locale": "zh"})
    try:
        seeded.load()
        seeded.page.locator("button[aria-label*='Xalora']").first.click()
        search = seeded.panel.get_by_role("searchbox")
        search.fill("已取消")
        expect(seeded.rows).to_have_count(1)
        expect(seeded.row("canceled")).to_have_count(1)
        seeded.shot("list-zh", themes=["dark"])
    finally:
        seeded.set_settings({"Comfy.Locale": "en"})
        seeded.load()


@pytest.mark.parametrize("width", [800, 533])
def test_filters_and_sums_wrap_in_a_narrow_window(seeded: Workbench, width: int) -> None:
    """533 is what 800 pixels are at a zoom of 150 %."""
    seeded.page.set_viewport_size({"width": width, "height": 600})
    try:
        panel = seeded.open_panel()
        expect(seeded.rows.first).to_be_visible()
        outer = panel.bounding_box()
        assert outer is not None
        for part in panel.locator(".xalora-filter, .xalora-foot-sum, .xalora-search").all():
            box = part.bounding_box()
            assert box is not None
            assert box["x"] >= outer["x"] and box["x"] + box["width"] <= outer["x"] + outer["width"] + 0.5
        clipped = panel.evaluate(
            """(panel) => [...panel.querySelectorAll('.xalora-filter, .xalora-foot-sum')]
                .filter((part) => part.scrollWidth > part.clientWidth + 1)
                .map((part) => part.textContent)"""
        )
        assert clipped == []
        seeded.shot(f"narrow-{width}", themes=["dark"])
    finally:
        seeded.page.set_viewport_size({"width": 1440, "height": 900})


def test_results_are_viewed(seeded: Workbench) -> None:
    seeded.open_panel()
    seeded.row("kept").first.locator(".xalora-task-main").click()
    viewer = seeded.page.get_by_role("dialog")
    image = viewer.locator("img.xalora-media")
    expect(image).to_have_js_property("naturalWidth", 640)
    expect(viewer).to_contain_text("miner 0x71…0c")
    expect(viewer.get_by_role("link", name="Download")).to_have_attribute(
        "download", re.compile(r"^\w[\w ]+ \(\d+\)\.jpg$")
    )
    seeded.shot("viewer")
    for _ in range(6):
        seeded.page.keyboard.press("ArrowRight")
    video = viewer.locator("video")
    expect(video).to_have_js_property("videoWidth", 848)
    expect(viewer).to_contain_text("3 min 46 s")
    expect(viewer).to_contain_text("848 x 480, 48 frames, 24 fps")
    seeded.page.wait_for_function("() => document.querySelector('video').currentTime > 0.2")
    seeded.page.evaluate("() => document.querySelector('video').pause()")
    seeded.shot("viewer-video", themes=["dark"])
    seeded.page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()

    seeded.rows.filter(has_text="steaming cup").locator(".xalora-task-main").click()
    expect(viewer.locator(".xalora-prompt")).to_contain_text("out of focus, a heron")
    facts = viewer.locator(".xalora-facts")
    for fact in ("Seed8250411", "Size640 x 480", "Inputslora_name gecko, steps 15", "Ended"):
        expect(facts).to_contain_text(fact)
    viewer.get_by_role("button", name="Copy the seed").click()
    assert seeded.page.evaluate("() => navigator.clipboard.readText()") == "8250411"
    seeded.shot("viewer-prompt", themes=["dark"])
    seeded.page.keyboard.press("Escape")

    seeded.row("unknown").locator(".xalora-task-main").click()
    expect(viewer.locator(".xalora-stage")).to_have_text("No result")
    expect(viewer).to_contain_text("if not, send it again")
    seeded.shot("viewer-unknown", themes=["dark"])
    seeded.page.keyboard.press("Escape")

    seeded.row("not_sent").locator(".xalora-task-main").click()
    expect(facts).to_contain_text("Made bythis machine (4x-UltraSharp)")
    # The request to the network has ended then, and took no time.
    expect(facts).not_to_contain_text("Ended")
    expect(facts).not_to_contain_text("In all")


def test_everything_is_in_reach_of_the_keyboard(seeded: Workbench) -> None:
    page, panel = seeded.page, seeded.open_panel()
    expect(seeded.rows).to_have_count(10)
    panel.get_by_role("searchbox").focus()
    page.keyboard.press("ArrowDown")
    first = seeded.rows.first.locator(".xalora-task-main")
    expect(first).to_be_focused()
    page.keyboard.press("Tab")
    expect(seeded.rows.first.get_by_role("button", name="Copy task ID")).to_be_focused()
    page.keyboard.press("Enter")
    expect(seeded.toasts.filter(has_text="Task ID copied")).to_have_count(1)
    task = seeded.tasks()[0]
    assert page.evaluate("() => navigator.clipboard.readText()") == task["task_id"]
    page.keyboard.press("ArrowDown")
    expect(seeded.rows.nth(1).locator(".xalora-task-main")).to_be_focused()
    page.keyboard.press("End")
    expect(seeded.rows.last.locator(".xalora-task-main")).to_be_focused()
    page.keyboard.press("Home")
    expect(first).to_be_focused()
    page.keyboard.press("Space")
    viewer = page.get_by_role("dialog")
    expect(viewer).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(first).to_be_focused()
    assert unnamed_controls(page) == []


def unnamed_controls(page: Page) -> list[str]:
    """Buttons and fields of ours that a screen reader has no name for."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('.xalora button, .xalora input, .xalora a')]
            .filter((control) => !control.getAttribute('aria-label') && !control.textContent.trim()
                && !control.labels?.length)
            .map((control) => control.outerHTML)"""
    )
    return found


def test_a_task_is_forgotten(seeded: Workbench) -> None:
    seeded.open_panel()
    row = seeded.row("failed")
    row.hover()
    row.get_by_role("button", name="Forget").click()
    question = seeded.page.get_by_role("dialog", name="Forget this task?")
    question.get_by_role("button", name="Forget").click()
    expect(row).to_have_count(0)
    expect(seeded.rows).to_have_count(9)
    assert len(seeded.tasks()) == 9
    # The focus is where the row was, not lost.
    expect(seeded.rows.nth(5).locator(".xalora-task-main")).to_be_focused()


def test_what_is_shown_is_forgotten_at_once(seeded: Workbench) -> None:
    page, panel = seeded.page, seeded.open_panel()
    expect(seeded.rows).to_have_count(10)
    panel.get_by_role("button", name="Forget all").click()
    question = page.get_by_role("dialog", name="Forget all that is shown (10)?")
    expect(question).to_contain_text("With a result that is paid for: 6. These results are deleted")
    seeded.shot("forget-all", themes=["dark"])
    question.get_by_role("button", name="Keep them").click()
    expect(question).to_be_hidden()
    panel.get_by_role("button", name="Forget all").click()
    question.get_by_role("button", name="Forget those without a result (4)").click()
    # The one whose outcome is unknown may be paid for: it is decided by itself.
    expect(seeded.toasts.filter(has_text="Forgotten: 3")).to_have_count(1)
    expect(seeded.rows).to_have_count(7)
    expect(seeded.row("unknown")).to_have_count(1)
    panel.get_by_role("searchbox").fill("rocket")
    expect(seeded.rows).to_have_count(1)
    panel.get_by_role("button", name="Forget all").click()
    found = page.get_by_role("dialog", name="Forget all that is shown (1)?")
    expect(found).to_contain_text("that match your search")
    found.get_by_role("button", name="Forget all and delete results").click()
    panel.get_by_role("searchbox").fill("")
    expect(seeded.rows).to_have_count(6)
    assert len(seeded.tasks()) == 6


def test_a_clip_is_one_row_that_opens_its_frames(bench: Workbench) -> None:
    clip = Whole("video-1", "upscale waves.mp4")
    with seed.seeder(bench.state_dir, bench.devnet.url, time.time()) as seeder:
        seeder.record("upscaler", "upscale portrait.png", ago=900, then=seed.kept(seed.picture(3), ".jpg"))
        for number in range(1, 5):
            then = seed.failed("a worn-out miner") if number == 2 else seed.kept(seed.picture(number), ".jpg")
            label = f"upscale waves.mp4, frame {number}"
            seeder.record("upscaler", label, ago=700 - number, then=then, whole=clip)
        running = seeder.record(
            "upscaler", "upscale waves.mp4, frame 5", ago=60, then=seed.left_running, whole=clip
        )
    page, panel = bench.page, bench.open_panel()
    expect(bench.rows).to_have_count(3)
    expect(panel.get_by_text("1 in progress · 3 done · 1 without a result")).to_have_count(2)
    row = bench.rows.filter(has_text="Upscale waves.mp4").nth(1)
    expect(row.get_by_role("button", name="Resume")).to_be_hidden()
    bench.shot("clip")
    # A frame that comes while the clip is one row only changes its words.
    with seed.seeder(bench.state_dir, bench.devnet.url, time.time()) as seeder:
        seeder.note(running, Event.FAILED, error="a worn-out miner")
        for number in (6, 7):
            label = f"upscale waves.mp4, frame {number}"
            seeder.record("upscaler", label, ago=5, then=seed.kept(seed.picture(number), ".jpg"), whole=clip)
    expect(bench.rows).to_have_count(2)
    expect(panel.get_by_text("5 done · 2 without a result")).to_have_count(1)

    bench.rows.first.locator(".xalora-task-main").click()
    expect(bench.rows).to_have_count(7)
    # A narrow sidebar would cut the number off.
    expect(bench.rows.first.get_by_text("Frame 7", exact=True)).to_be_visible()
    back = panel.get_by_role("button", name="Back to all tasks: Upscale waves.mp4")
    expect(back).to_be_focused()
    bench.shot("clip-frames")
    panel.get_by_role("button", name="No result 2", exact=True).click()
    expect(bench.rows).to_have_count(2)
    panel.get_by_role("button", name="All 7", exact=True).click()
    expect(bench.rows).to_have_count(7)
    with seed.seeder(bench.state_dir, bench.devnet.url, time.time()) as seeder:
        seeder.record("upscaler", "upscale another.png", ago=1, then=seed.failed("a worn-out miner"))
    back.click()
    expect(bench.rows).to_have_count(3)
    expect(bench.rows.filter(has_text="another.png")).to_have_count(1)

    row = bench.rows.filter(has_text="Upscale waves.mp4")
    row.hover()
    row.get_by_role("button", name="Forget").click()
    question = page.get_by_role("dialog", name="Forget all that is shown (7)?")
    expect(question).to_contain_text("With a result that is paid for: 5.")
    question.get_by_role("button", name="Forget all and delete results").click()
    expect(bench.toasts.filter(has_text="Forgotten: 7")).to_have_count(1)
    expect(bench.rows).to_have_count(2)


def test_words_of_others_are_never_markup(seeded: Workbench) -> None:
    """A prompt may come with somebody's workflow, a miner's name with its result, a message from anywhere."""
    page = seeded.page
    seeded.input_image("spoken-of.png", time.monotonic_ns() % 1_000_000 * 4)
    seeded.build(
        [("LoadImage", {"image": "spoken-of.png"}), ("XaloraUpscaleImage", {}), ("PreviewImage", {})],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )
    seeded.run()
    seeded.wait_ended()
    said = "<img src=nowhere onerror='window.xaloraSpoiled = true'>"
    seeded.have_said(said)
    seeded.comfyui.clear_cache()
    page.evaluate(
        "() => app.api.addEventListener('xalora.line', ({ detail }) => (window.xaloraSaid = detail.text))"
    )
    seeded.run()
    seeded.wait_ended()

    seeded.open_panel()
    expect(seeded.rows.filter(has_text=said)).to_have_count(11)
    for state in ("kept", "failed", "unknown"):
        seeded.row(state).first.locator(".xalora-task-main").click()
        viewer = page.get_by_role("dialog")
        expect(viewer.get_by_role("heading")).to_have_text(said)
        page.keyboard.press("Escape")
        expect(viewer).to_be_hidden()
    expect(page.locator("img[src='nowhere']")).to_have_count(0)
    assert page.evaluate("() => window.xaloraSpoiled") is None
    assert f"miner {said} (kept result" in page.evaluate("() => window.xaloraSaid")


def test_an_empty_list_says_what_to_do(bench: Workbench) -> None:
    panel = bench.open_panel()
    expect(panel).to_contain_text("No tasks yet")
    bench.shot("empty")
    panel.get_by_role("button", name="Add Upscale Image").click()
    assert bench.page.evaluate("() => app.graph.nodes.map((node) => node.type)") == ["XaloraUpscaleImage"]
    panel.get_by_role("button", name="Browse examples").click()
    examples = bench.page.get_by_role("dialog")
    expect(examples.locator(".xalora-example").first).to_have_text("Upscale an image")
    assert sorted(examples.locator(".xalora-example").all_inner_texts()) == [
        path.stem for path in example_workflows()
    ]
    for picture in examples.locator("img").all():
        expect(picture).not_to_have_js_property("naturalWidth", 0)
    bench.shot("examples")
    examples.get_by_text("Upscale an image").click()
    expect(examples).to_be_hidden()
    bench.page.wait_for_function("() => app.graph.nodes.some((node) => node.type === 'XaloraUpscaleImage')")


@pytest.mark.parametrize("path", example_workflows(), ids=lambda path: path.stem)
def test_an_example_opens_beside_the_sidebar_with_its_words(bench: Workbench, path: Path) -> None:
    page = bench.page
    # As in every ComfyUI; without it, a notice of the missing file takes room from the canvas.
    bench.input_image("example.png", 1)
    page.set_viewport_size({"width": 1366, "height": 768})
    try:
        bench.open_panel().get_by_role("button", name="Browse examples").click()
        page.get_by_role("dialog").get_by_text(path.stem, exact=True).click()
        page.wait_for_function("() => app.graph.nodes.some((node) => node.type.startsWith('Xalora'))")
        page.wait_for_function(f"() => ({OUTSIDE})().length === 0")
        # The canvas leaves out the words of nodes where they would be smaller than 8 of 14 pixels.
        if not bench.vue_nodes:
            page.wait_for_function("() => app.canvas.ds.scale > 8 / 14")
    finally:
        page.set_viewport_size({"width": 1440, "height": 900})


def test_a_network_out_of_reach_is_told(bench: Workbench) -> None:
    bench.devnet.stop_sequencer()
    verdict = bench.post("/xalora/key/test")
    assert verdict["outcome"] == "unreachable"
    assert verdict["message"].startswith(f"{bench.devnet.url.removeprefix('http://')} does not answer")
    panel = bench.open_panel()
    banner = panel.locator(".xalora-banner")
    expect(banner).to_contain_text("be reached")
    bench.shot("network-down", themes=["dark"])
    bench.devnet.start_sequencer()
    banner.get_by_role("button", name="Try again").click()
    expect(banner).to_be_hidden()


def test_a_comfyui_out_of_reach_is_told_and_made_up_for(seeded: Workbench) -> None:
    page = seeded.page
    seeded.open_panel()
    expect(seeded.rows).to_have_count(10)
    banner = seeded.panel.locator(".xalora-banner")
    page.evaluate("() => { const { api } = window.comfyAPI.api; api.socket.close() }")
    page.evaluate("() => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('reconnecting'))")
    expect(banner).to_contain_text("ComfyUI does not answer")
    with seed.seeder(seeded.state_dir, seeded.devnet.url, time.time()) as seeder:
        seeder.made = 200
        seeder.record("upscaler", "upscale meanwhile.png", ago=0, then=seed.canceled)
    page.evaluate("() => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('reconnected'))")
    expect(banner).to_be_hidden()
    expect(seeded.rows.filter(has_text="meanwhile.png")).to_have_count(1)


def test_five_thousand_tasks_scroll(bench: Workbench) -> None:
    bench.tasks(limit=0)
    seed.many(bench.state_dir, bench.devnet.url, MANY, time.time())
    panel, page = bench.open_panel(), bench.page
    newest = f"Number {MANY}"
    expect(bench.rows.first).to_contain_text(newest)
    expect(panel.get_by_role("heading", name="History")).to_be_visible()
    assert bench.rows.count() < 40

    frames = page.evaluate(
        """async () => {
            const list = document.querySelector('.xalora-list')
            const times = []
            for (let step = 1; step <= 60; step += 1) {
                const before = performance.now()
                list.scrollTop = (list.scrollHeight * step) / 60
                await new Promise(requestAnimationFrame)
                await new Promise((resolve) => setTimeout(resolve))
                times.push(performance.now() - before)
            }
            return times.sort((a, b) => a - b)
        }"""
    )
    expect(bench.rows.last.locator(".xalora-task-title")).to_have_text("Number 1")
    expect(bench.rows.last).to_have_attribute("aria-posinset", str(MANY))
    assert bench.rows.count() < 40
    # A ceiling for a busy machine; a list that holds every row takes seconds.
    assert frames[30] < 150

    panel.get_by_role("searchbox").fill("task-00042")
    expect(bench.rows).to_have_count(1)
    expect(bench.rows).to_contain_text("Number 42")
    panel.get_by_role("searchbox").fill("")
    expect(bench.rows.first).to_contain_text(newest)
    bench.shot("many", themes=["dark"])


def test_a_result_is_compared_with_its_input_and_used_again(bench: Workbench) -> None:
    bench.devnet.task_seconds = 0
    bench.input_image("heron.jpg", time.monotonic_ns() % 1_000_000 * 4, 480, 320)
    bench.build(
        [("LoadImage", {"image": "heron.jpg"}), ("XaloraUpscaleImage", {}), ("PreviewImage", {})],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )
    bench.open_panel()
    bench.run()
    bench.row("kept").locator(".xalora-task-main").click()
    viewer = bench.page.get_by_role("dialog")
    before = viewer.locator(".xalora-before")
    expect(before).to_be_visible()
    expect(viewer.locator(".xalora-media").first).to_have_js_property("naturalWidth", 960)
    split = viewer.get_by_role("slider", name="Compare with the input")
    split.press("Home")
    expect(before).to_have_css("clip-path", re.compile(r"inset\(0px (calc\(100% - 0%\)|100%) 0px 0px\)"))
    split.press("End")
    expect(before).to_have_css("clip-path", re.compile(r"inset\(0px((?!100%).)*\)"))
    bench.wait_idle()
    bench.shot("viewer-compared", themes=["dark"])
    viewer.get_by_role("button", name="Use as input").click()
    expect(viewer).to_be_hidden()
    name = bench.page.evaluate(
        "() => app.graph.nodes.at(-1).widgets.find((one) => one.name === 'image').value"
    )
    assert re.fullmatch(r"Upscale an image \(\d+\)\.png", name), name
    assert bench.comfyui.get("/view", filename=name, type="input").content[:4] == b"\x89PNG"


def test_a_video_is_used_as_input(seeded: Workbench) -> None:
    seeded.open_panel()
    seeded.rows.filter(has_text="A rocket waits").locator(".xalora-task-main").click()
    viewer = seeded.page.get_by_role("dialog")
    viewer.get_by_role("button", name="Use as input").click()
    expect(viewer).to_be_hidden()
    type, name = seeded.page.evaluate(
        """() => {
            const node = app.graph.nodes.at(-1)
            return [node.type, node.widgets.find((one) => one.name === 'file').value]
        }"""
    )
    assert type == "LoadVideo"
    assert re.fullmatch(r"A rocket waits at dusk slow pan golden hour \(\d+\)\.mp4", name), name
    assert seeded.comfyui.get("/view", filename=name, type="input").content[4:8] == b"ftyp"
