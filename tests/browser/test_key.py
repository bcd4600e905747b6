"""The key dialog, and the key, which is stored on the server and nowhere else."""

from __future__ import annotations

import json
import stat
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import APIResponse, Page, Route, expect
from workbench import OTHER_KEY, Workbench

LIBRARY = "() => JSON.stringify([localStorage, sessionStorage]) + document.documentElement.outerHTML"
VALUES = "() => [...document.querySelectorAll('input, textarea')].map((field) => field.value).join('\\n')"


@pytest.fixture
def without_key(bench: Workbench) -> Workbench:
    """The page before any key was entered."""
    bench.post("/xalora/key/remove")
    return bench


def test_a_key_is_entered_and_found_nowhere(without_key: Workbench) -> None:
    bench, page = without_key, without_key.page
    bench.devnet.task_seconds = 0

    bench.open_panel()
    banner = bench.panel.locator(".xalora-banner")
    expect(banner).to_contain_text("An API key is needed")
    bench.shot("no-key")
    banner.get_by_role("button", name="Enter API key").click()
    dialog = page.get_by_role("dialog", name="Xalora API key")
    field = dialog.locator("#xalora-key-input")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("type", "password")
    bench.shot("key-dialog")

    dialog.get_by_text("Another network").click()
    dialog.get_by_label("Endpoint").fill(bench.devnet.url)
    field.fill("without-a-second-half#")
    dialog.get_by_role("button", name="Save key").click()
    expect(dialog.get_by_role("status")).to_contain_text("does not have the form")
    field.fill(bench.devnet.api_key + "-but-not-this-one")
    dialog.get_by_role("button", name="Save key").click()
    expect(dialog.get_by_role("status")).to_contain_text("refuses this key")
    assert bench.comfyui.get("/xalora/status").json()["key"]["present"] is False
    bench.shot("key-refused", themes=["dark"])

    _, _, secret = OTHER_KEY.partition("#")
    field.fill(OTHER_KEY)
    dialog.get_by_role("button", name="Save key").click()
    expect(dialog.get_by_role("status")).to_contain_text("accepts the key")
    expect(field).to_have_value("")
    bench.shot("key-accepted")
    dialog.get_by_role("button", name="Test the connection").click()
    expect(dialog.get_by_role("status")).to_contain_text("accepts the key")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(banner).to_be_hidden()

    bench.build(
        [
            ("XaloraTestImage", {"width": 64, "height": 48, "seed": 5}),
            ("XaloraUpscaleImage", {}),
            ("SaveImage", {}),
        ],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )
    bench.run()
    expect(bench.row("kept")).to_have_count(1)
    bench.wait_idle()
    places = {
        **places_in_the_page(page),
        **places_on_the_server(bench),
        **routes_answers(bench),
    }
    assert len(places) > 12
    leaks = [name for name, text in places.items() if secret in text]
    assert leaks == []
    assert key_file(bench).read_text() == OTHER_KEY
    assert stat.S_IMODE(key_file(bench).stat().st_mode) == 0o600

    bench.panel.get_by_role("button", name="API key and network").click()
    dialog.get_by_role("button", name="Remove").click()
    expect(dialog.get_by_role("status")).to_contain_text("removed")
    assert not key_file(bench).exists()
    page.keyboard.press("Escape")
    expect(banner).to_contain_text("An API key is needed")


def test_running_without_a_key_asks_for_it(without_key: Workbench) -> None:
    """No image is made on this machine in the network's place."""
    bench, page = without_key, without_key.page
    bench.build(
        [
            ("XaloraTestImage", {"width": 64, "height": 48, "seed": 6}),
            ("XaloraUpscaleImage", {}),
            ("PreviewImage", {}),
        ],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    assert bench.last_status() == "error"
    dialog = page.get_by_role("dialog", name="Xalora API key")
    expect(dialog).to_be_visible()
    expect(bench.node_line).to_have_text("failed: No API key is set. Nothing was charged.")
    # It takes the place of ComfyUI's own, which says the same.
    expect(page.locator(".p-dialog-mask")).to_have_count(0)
    expect(page.get_by_test_id("error-overlay")).to_have_count(0)
    expect(dialog.locator("#xalora-key-input")).to_be_focused()
    bench.shot("no-key-run", themes=["dark"])
    # Nor does it come later.
    expect(page.get_by_test_id("error-overlay")).to_have_count(0)
    dialog.get_by_text("Another network").click()
    dialog.get_by_label("Endpoint").fill(bench.devnet.url)
    dialog.locator("#xalora-key-input").fill(bench.devnet.api_key)
    dialog.get_by_role("button", name="Save key").click()
    expect(dialog.get_by_role("status")).to_contain_text("accepts the key")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    bench.run()
    bench.wait_ended()
    bench.wait_idle()
    assert bench.last_status() == "success"
    expect(bench.node_line).to_contain_text("by xalora, miner")


def test_a_wrong_key_that_is_replaced_is_not_complained_about_any_more(bench: Workbench) -> None:
    """Not even by an answer about it that comes after the change."""
    key_file(bench).write_text(bench.devnet.api_key + "-but-not-this-one")
    bench.open_panel()
    banner = bench.panel.locator(".xalora-banner")
    expect(banner).to_contain_text("refuses the API key")
    # A wrong key never falls back, whatever the policy.
    expect(banner).to_contain_text("Tasks fail until the key is replaced.")
    expect(banner).not_to_contain_text("compute on this machine")
    expect(banner.get_by_role("button").first).to_have_text("API key and network")

    late: list[tuple[Route, APIResponse]] = []
    tests = "**/xalora/key/test"
    bench.page.route(tests, lambda route: late.append((route, route.fetch())))
    with bench.page.expect_request(tests):
        banner.get_by_role("button", name="Try again").click()
    banner.get_by_role("button", name="API key and network").click()
    dialog = bench.page.get_by_role("dialog", name="Xalora API key")
    dialog.locator("#xalora-key-input").fill(bench.devnet.api_key)
    dialog.get_by_role("button", name="Save key").click()
    expect(dialog.get_by_role("status")).to_contain_text("accepts the key")
    bench.page.keyboard.press("Escape")
    expect(banner).to_be_hidden()

    ((route, about_the_wrong_key),) = late
    assert about_the_wrong_key.json()["outcome"] == "refused"
    with bench.page.expect_response("**/xalora/status"):
        route.fulfill(response=about_the_wrong_key)
    bench.page.unroute(tests)
    expect(bench.panel.locator(".xalora-dot")).to_have_attribute("data-tone", "good")
    expect(banner).to_be_hidden()


def key_file(bench: Workbench) -> Path:
    return bench.comfyui.user_dir / "__xalora" / "api-key"


def places_in_the_page(page: Page) -> dict[str, str]:
    return {
        "page and its storage": page.evaluate(LIBRARY),
        "fields": page.evaluate(VALUES),
        "the open workflow": json.dumps(page.evaluate("() => app.graph.serialize()")),
        "the prompt": json.dumps(page.evaluate("async () => await app.graphToPrompt()")),
        "the frontend's settings": json.dumps(page.evaluate("() => app.extensionManager.setting.settings")),
    }


def places_on_the_server(bench: Workbench) -> dict[str, str]:
    bench.page.evaluate(
        "async () => await app.api.storeUserData('workflows/saved.json', app.graph.serialize())"
    )
    places = {"log": bench.comfyui.logs()}
    folders = [bench.comfyui.user_dir, bench.comfyui.output_dir, bench.state_dir, bench.comfyui.root / "temp"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path != key_file(bench):
            places[str(path)] = path.read_bytes().decode("latin-1")
    (picture,) = bench.comfyui.output_dir.glob("ComfyUI_*.png")
    metadata = Image.open(BytesIO(picture.read_bytes())).info
    assert {"prompt", "workflow"} <= metadata.keys()
    places["metadata of the saved PNG"] = json.dumps(metadata, default=str)
    return places


def routes_answers(bench: Workbench) -> dict[str, str]:
    (task,) = bench.tasks()
    paths = [
        "/settings",
        "/userdata?dir=workflows",
        "/userdata/workflows%2Fsaved.json",
        "/history",
        "/queue",
        "/object_info",
        "/system_stats",
        "/internal/logs",
        "/xalora/status",
        "/xalora/settings",
        "/xalora/tasks",
        f"/xalora/tasks/{task['id']}",
    ]
    answers = {path: bench.comfyui.get(path).text for path in paths}
    answers["POST /xalora/key/test"] = json.dumps(bench.post("/xalora/key/test"))
    return answers
