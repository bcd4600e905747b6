"""The table of the fault suite: a run of some of its tests keeps the rows of the others."""

from __future__ import annotations

from table import with_rows


def test_a_run_of_one_test_replaces_its_rows_alone() -> None:
    notes = [("(a) faults", "a 1, b 2"), ("(b) kills", "100"), ("(b) of 12 tasks", "7")]
    whole = with_rows("", notes, "2026-11-01", "Linux.")
    again = with_rows(whole, [("(b) of 30 tasks", "9"), ("(aa) new", "1")], "2026-11-30", "Linux.")
    assert [line for line in again.splitlines() if line.startswith("| (")] == [
        "| (a) faults | a 1, b 2 | 2026-11-01 |",
        "| (aa) new | 1 | 2026-11-30 |",
        "| (b) kills | 100 | 2026-11-01 |",
        "| (b) of 30 tasks | 9 | 2026-11-30 |",
    ]
