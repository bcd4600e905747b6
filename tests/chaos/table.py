"""The table of what the fault suite measured at full length. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable

HEAD = """# The fault suite at full length

`make chaos`; a run of some of its tests replaces the rows of those. Counts are the sequencer's own. {machine}

| what | figure | measured |
|---|---|---|
"""


def with_rows(before: str, notes: Iterable[tuple[str, str]], today: str, machine: str) -> str:
    """The table with the rows of a run in place of earlier ones of the same.

    Args:
        before: The table before; may be empty.
        notes: What was measured, and the figure.
        machine: A sentence about where.
    """
    rows = {}
    for line in before.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| (") and len(cells) == 3:
            rows[_name(cells[0])] = cells
    rows |= {_name(what): [what, figure, today] for what, figure in notes}
    lines = [f"| {' | '.join(cells)} |" for cells in sorted(rows.values(), key=_part)]
    return HEAD.format(machine=machine) + "\n".join(lines) + "\n"


def _name(what: str) -> str:
    """What is measured, whatever the counts in it."""
    return re.sub(r"\d+", "#", what)


def _part(cells: list[str]) -> str:
    """The part of the suite that a row belongs to, such as ``(a)``."""
    return cells[0].partition(" ")[0]
