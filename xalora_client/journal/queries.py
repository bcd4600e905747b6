"""WHERE clauses for listing entries. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .records import clean_text
from .states import TaskState

_TEXT_COLUMNS = ("label", "job_id", "task_id", "task_type", "workflow_id", "engine", "miner", "error")


def where(
    states: Iterable[TaskState] | None = None, text: str | None = None, since: int | None = None
) -> tuple[str, tuple[Any, ...]]:
    """The clause and its values for `Journal.records`; without conditions it lets everything through."""
    clauses = ["1"]
    values: list[Any] = []
    if states is not None:
        names = [state.value for state in states]
        clauses.append(f"state IN ({', '.join('?' for _ in names)})")
        values.extend(names)
    if text:
        pattern = "%" + re.sub(r"([\\%_])", r"\\\1", clean_text(text)) + "%"
        clauses.append("(" + " OR ".join(f"{name} LIKE ? ESCAPE '\\'" for name in _TEXT_COLUMNS) + ")")
        values.extend([pattern] * len(_TEXT_COLUMNS))
    if since is not None:
        clauses.append("version > ?")
        values.append(since)
    return "WHERE " + " AND ".join(clauses), tuple(values)
