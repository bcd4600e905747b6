"""How long the fault tests run, and the table of what they measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest

WHOLE = os.environ.get("CHAOS") == "whole"
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "chaos.md"

Note = Callable[[str, str], None]

_notes: list[tuple[str, str]] = []


@pytest.fixture
def whole() -> bool:
    """Whether the suite runs at full length (`make chaos`)."""
    return WHOLE


@pytest.fixture
def note() -> Note:
    """Adds a line to the table that is printed at the end, and kept by a run at full length."""
    return lambda what, figure: _notes.append((what, figure))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _notes:
        return
    lines = ["| what | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in _notes)]
    terminalreporter.section("chaos")
    terminalreporter.write("\n".join(lines) + "\n")
    failed = terminalreporter.stats.get("failed") or terminalreporter.stats.get("error")
    if WHOLE and not failed:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        head = (
            "# The fault suite at full length\n\n"
            f"`make chaos`, {time.strftime('%Y-%m-%d')}, {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}. Counts are the sequencer's own.\n\n"
        )
        RESULTS.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
