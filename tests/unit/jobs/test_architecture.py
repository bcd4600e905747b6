"""ARCHITECTURE.md's table of records says what the rules say."""

from __future__ import annotations

from pathlib import Path

import pytest

from xalora_client.errors import JournalError
from xalora_client.journal.rules import Event, TaskState, next_state


def table_of_records(repository: Path) -> dict[tuple[str, str], str]:
    """(event, state) to what the cell says."""
    text = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## Records")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    (_, *states), _, *body = rows
    return {
        (event, state): cell
        for names, *cells in body
        for event in names.split(", ")
        for state, cell in zip(states, cells, strict=True)
    }


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", TaskState)
def test_the_table_of_records_is_true(repository: Path, state: TaskState, event: Event) -> None:
    said = table_of_records(repository)[event.value, state.value.replace("_", " ")]
    try:
        after = next_state(state, event)
    except JournalError:
        assert said == "raises"
        return
    if after is None:
        assert said == "."
    else:
        assert said in (after.value.replace("_", " "), "columns" if after is state else "")
