"""The pack's settings in ComfyUI's dialog, its commands and its badge."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, expect
from workbench import Workbench


def in_force(bench: Workbench) -> dict[str, Any]:
    """What the server goes by, by the setting's id."""
    answer = bench.comfyui.get("/xalora/settings").json()
    return {setting["id"]: setting for setting in answer["settings"]}


def open_settings(bench: Workbench) -> Locator:
    """ComfyUI's dialog with the pack's page in it."""
    bench.open_panel().get_by_role("button", name="Open settings").click()
    dialog = bench.page.get_by_role("dialog").first
    dialog.get_by_text("Xalora", exact=True).first.click()
    expect(dialog.get_by_text("When this machine takes over")).to_be_visible()
    return dialog


def test_settings_count_without_a_restart(bench: Workbench) -> None:
    assert in_force(bench)["Xalora.Reuse"]["value"] is True
    dialog = open_settings(bench)
    bench.shot("settings")
    dialog.get_by_role("switch", name="Reuse kept results").click()
    wait_for(bench, "Xalora.Reuse", False)
    dialog.get_by_text("On outage", exact=True).click()
    bench.page.get_by_role("option", name="On any failure").click()
    wait_for(bench, "Xalora.Fallback", "on_any_failure")
    assert in_force(bench)["Xalora.Fallback"]["source"] == "ComfyUI's settings"
    assert bench.comfyui.get("/xalora/status").json()["fallback"] == "on_any_failure"
    close(bench, dialog)
    expect(bench.panel.locator(".xalora-foot")).to_contain_text("fallback on any failure")
    bench.set_settings({"Xalora.Reuse": True, "Xalora.Fallback": "when_unavailable"})
    wait_for(bench, "Xalora.Reuse", True)


def test_settings_have_texts_for_languages_that_the_pack_does_not_have(
    bench: Workbench, repository: Path
) -> None:
    """ComfyUI takes them from the registered settings where the user's language has none."""
    registered = bench.page.evaluate(
        "() => window.app.extensions.flatMap((each) => each.settings ?? [])"
        ".filter((each) => each.id.startsWith('Xalora.'))"
        ".map(({ id, name, tooltip }) => [id.replace('.', '_'), { name, tooltip }])"
    )
    english = json.loads((repository / "locales" / "en" / "settings.json").read_text(encoding="utf-8"))
    assert dict(registered) == {
        id: {"name": texts["name"], "tooltip": texts["tooltip"]} for id, texts in english.items()
    }


def test_what_the_environment_sets_is_shown_and_not_offered(bench: Workbench) -> None:
    assert in_force(bench)["Xalora.MaxInFlight"]["overridden"] is True
    dialog = open_settings(bench)
    row = dialog.locator(".xalora-overridden")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("4")
    expect(row).to_contain_text("set by the environment variable XALORA_MAX_IN_FLIGHT")
    dialog.get_by_role("button", name="Set key").click()
    key_dialog = bench.page.get_by_role("dialog", name="Xalora API key")
    expect(key_dialog).to_be_visible()
    bench.page.keyboard.press("Escape")
    expect(key_dialog).to_be_hidden()
    expect(dialog).to_be_visible()
    close(bench, dialog)


def test_a_setting_that_does_not_fit_is_told(bench: Workbench) -> None:
    bench.set_settings({"Xalora.StoreUrl": "https://not-a-store.example"})
    banner = bench.open_panel().locator(".xalora-banner")
    try:
        expect(banner).to_contain_text("Store for input images: ")
        expect(banner).not_to_contain_text("XALORA_")
        bench.shot("settings-wrong", themes=["dark"])
    finally:
        bench.set_settings({"Xalora.StoreUrl": ""})


def test_commands_and_badge_are_there(bench: Workbench) -> None:
    commands = bench.page.evaluate(
        "() => app.extensionManager.command.commands.map((command) => command.id)"
        ".filter((id) => id.startsWith('Xalora.'))"
    )
    assert commands == ["Xalora.OpenTasks", "Xalora.SetKey", "Xalora.CancelAll", "Xalora.Advanced"]
    bench.page.evaluate("() => app.extensionManager.command.execute('Xalora.OpenTasks')")
    expect(bench.panel).to_be_visible()
    bench.page.evaluate("() => app.extensionManager.command.execute('Xalora.OpenTasks')")
    expect(bench.panel).to_be_visible()
    bench.page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    dialog = bench.page.get_by_role("dialog").first
    dialog.get_by_text("About", exact=True).first.click()
    expect(dialog.get_by_text("ComfyUI-Xalora")).to_be_visible()
    close(bench, dialog)


def wait_for(bench: Workbench, setting: str, value: Any) -> None:
    until = time.monotonic() + 10
    while in_force(bench)[setting]["value"] != value:
        assert time.monotonic() < until, in_force(bench)[setting]
        bench.page.wait_for_timeout(50)


def close(bench: Workbench, dialog: Locator) -> None:
    dialog.locator("button[aria-label^='Close']").first.click()
    expect(dialog).to_be_hidden()


def test_modules_do_nothing_by_themselves(bench: Workbench) -> None:
    """ComfyUI loads every script of the pack's folder, in any order."""
    scripts = [path for path in bench.comfyui.get("/extensions").json() if "ComfyUI-Xalora/js/" in path]
    assert len(scripts) > 10
    page = bench.page.context.new_page()
    page.goto(f"{bench.comfyui.url}/system_stats")
    before = page.content()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for script in scripts:
        assert page.evaluate("async (path) => Object.keys(await import(path)).length", script) > 0
    assert page.content() == before
    assert all("/ComfyUI-Xalora/js/" in url for url in asked)
    page.close()
