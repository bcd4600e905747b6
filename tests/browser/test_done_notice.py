"""The notice of a long run's end, for a user who looks at another tab."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect
from workbench import Workbench

# The page's clock and whether it is seen, and the notifications that it shows.
STAGE = """(allowed) => {
    const { Notification, performance } = window
    const real = performance.now.bind(performance)
    const notes = []
    class Shown {
        static permission = allowed ? 'granted' : 'default'
        static requestPermission() {
            notes.push('asked')
        }
        constructor(title, { body }) {
            notes.push(`${title} ${body}`)
        }
        close() {
            notes.push('closed')
        }
    }
    window.xaloraStage = {
        notes,
        late: 0,
        set hidden(value) {
            Object.defineProperty(document, 'hidden', { value, configurable: true })
            document.dispatchEvent(new Event('visibilitychange'))
        },
        end() {
            window.Notification = Notification
            performance.now = real
            delete document.hidden
            document.dispatchEvent(new Event('visibilitychange'))
        }
    }
    window.Notification = Shown
    performance.now = () => real() + window.xaloraStage.late
}"""

WATCH_START = """() => {
    window.xaloraTestStarted = new Promise((resolve) => {
        app.api.addEventListener('execution_start', () => resolve(), { once: true })
    })
}"""


@pytest.fixture
def stage(bench: Workbench, request: pytest.FixtureRequest) -> Workbench:
    bench.page.evaluate(STAGE, getattr(request, "param", True))
    request.addfinalizer(lambda: bench.page.evaluate("() => window.xaloraStage.end()"))
    return bench


def run(bench: Workbench, seconds: float, *, hidden: bool = True, fallback: str = "never") -> None:
    """Run one task; in the page it takes so many seconds longer than it does."""
    bench.page.evaluate("() => app.graph.clear()")
    made = {"width": 64, "height": 48, "seed": time.monotonic_ns() % 2**31}
    bench.build(
        [("XaloraTestImage", made), ("XaloraUpscaleImage", {"fallback": fallback}), ("PreviewImage", {})],
        [(0, "IMAGE", 1, "image"), (1, "IMAGE", 2, "images")],
    )
    bench.devnet.task_seconds = 2
    bench.page.evaluate(WATCH_START)
    bench.run()
    # What was sent earlier by another way may be heard later: only the page knows when its clock has begun.
    bench.page.evaluate("() => window.xaloraTestStarted")
    bench.page.evaluate(
        "([seconds, hidden]) => Object.assign(window.xaloraStage, { late: seconds * 1000, hidden })",
        [seconds, hidden],
    )
    bench.wait_ended()
    bench.wait_idle()


@pytest.mark.parametrize("stage", [True, False], indirect=True, ids=["allowed", "not-allowed"])
def test_a_long_run_that_ends_unseen_is_told(stage: Workbench, request: pytest.FixtureRequest) -> None:
    page = stage.page
    run(stage, 60)
    page.wait_for_function("() => document.title.startsWith('Done: ')")
    # ComfyUI goes on writing the title.
    page.wait_for_function(
        """async () => {
            document.title = 'another title'
            await new Promise((resolve) => setTimeout(resolve))
            return document.title === 'Done: another title'
        }"""
    )
    notes = page.evaluate("() => window.xaloraStage.notes")
    is_allowed = page.evaluate("() => window.Notification.permission === 'granted'")
    assert len(notes) == (1 if is_allowed else 0), notes
    assert all(note.startswith("Xalora: Done It took ") for note in notes)
    page.evaluate("() => (window.xaloraStage.hidden = false)")
    assert "Done" not in page.title()


@pytest.mark.parametrize(("seconds", "hidden"), [(0, True), (60, False)], ids=["short", "seen"])
def test_nothing_is_told_of_a_run_that_is_short_or_seen(
    stage: Workbench, seconds: float, hidden: bool
) -> None:
    run(stage, seconds, hidden=hidden)
    # It would have been told before the page hears of what comes after.
    expect(stage.node_line).to_contain_text("by xalora")
    assert "Done" not in stage.page.title()
    assert stage.page.evaluate("() => window.xaloraStage.notes") == []


def test_a_failure_is_told_as_one(stage: Workbench) -> None:
    stage.devnet.add_fault("miner:failed")
    run(stage, 60)
    stage.page.wait_for_function("() => document.title.startsWith('Failed: ')")
