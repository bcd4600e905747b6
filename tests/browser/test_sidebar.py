"""The sidebar with a journal of tasks in every state."""

from __future__ import annotations

from playwright.sync_api import expect
from workbench import Workbench


def test_every_state_is_shown(seeded: Workbench) -> None:
    seeded.open_panel()
    expect(seeded.rows).to_have_count(10)
    expect(seeded.row("kept").first).to_contain_text("Xalora network")
    expect(seeded.row("failed")).to_contain_text("CUDA out of memory")
    seeded.shot("list")
