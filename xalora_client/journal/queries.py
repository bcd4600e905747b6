"""WHERE clauses for listing records, and the counting of sent tasks. No I/O."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable
from typing import Any

from ..prices import Sent
from .records import clean_text
from .rules import ENDED, TaskState

_TEXT_COLUMNS = ("label", "job_id", "task_id", "task_type", "workflow_id", "engine", "miner", "error")

_ENDED_STATES = ", ".join(f"'{state.value}'" for state in sorted(ENDED))
# The same as `Record.group`.
GROUP = (
    f"(CASE WHEN state IN ({_ENDED_STATES}, 'unknown') THEN 'failed'"
    f" WHEN state <> 'finished' OR (files = '[]' AND delivered = 0) THEN 'active' ELSE 'done' END)"
)
# The same as `Record.is_open`.
IS_OPEN = (
    f"(CASE state WHEN 'finished' THEN files = '[]' AND delivered = 0"
    f" ELSE state NOT IN ({_ENDED_STATES}) AND forgotten = 0 END)"
)

# A record that is prepared and has no worker was left by a process that died.
SENT_SINCE = (
    "SELECT task_type, workflow_id, COUNT(*) AS count FROM entries"
    " WHERE COALESCE(sent_at, created_at) >= ? AND state <> 'not_sent'"
    " AND NOT (state = 'prepared' AND worker IS NULL) GROUP BY task_type, workflow_id"
)


def sent_of(rows: Iterable[sqlite3.Row]) -> list[Sent]:
    """The rows of :data:`SENT_SINCE`."""
    return [Sent(row["task_type"], row["workflow_id"], row["count"]) for row in rows]


def where(
    states: Iterable[TaskState] | None = None,
    text: str | None = None,
    since: int | None = None,
    is_open: bool | None = None,
    groups: Collection[str] = (),
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
    if is_open is not None:
        clauses.append(IS_OPEN if is_open else f"NOT {IS_OPEN}")
    if groups:
        clauses.append(f"{GROUP} IN ({', '.join('?' for _ in groups)})")
        values.extend(groups)
    return "WHERE " + " AND ".join(clauses), tuple(values)
