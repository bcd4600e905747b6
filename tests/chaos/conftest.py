"""How long the fault tests run, and the table of what they measured."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# The modules beside the tests, and the scripted sequencer of the tests with a devnet.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "with_devnet"))

from table import with_rows

# `whole`, or a share of it such as 0.02; without, as short as `make test` needs it.
LENGTH = os.environ.get("CHAOS", "")
WHOLE = LENGTH == "whole"
SHORT = 0.008
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "chaos.md"

Note = Callable[[str, str], None]


@pytest.fixture
def whole() -> bool:
    """Whether the suite runs at full length (`make chaos`)."""
    return WHOLE


@pytest.fixture
def share() -> float:
    """How much of its full length a test has that is scaled."""
    return 1.0 if WHOLE else float(LENGTH or SHORT)


@pytest.fixture
def note(record_property: Note) -> Note:
    """Adds a line to the table that is printed at the end, and kept by a run at full length."""
    return record_property


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # In the reports, which also come from other processes of pytest-xdist.
    stats = terminalreporter.stats
    notes = [note for report in stats.get("passed", ()) for note in report.user_properties]
    if not notes:
        return
    lines = ["| what | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in notes)]
    terminalreporter.section("chaos")
    terminalreporter.write("\n".join(lines) + "\n")
    failed = stats.get("failed") or stats.get("error")
    if WHOLE and not failed:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores."
        today = time.strftime("%Y-%m-%d")
        RESULTS.write_text(with_rows(before, notes, today, machine), encoding="utf-8")
