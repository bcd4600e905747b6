"""Counts of a list in which what makes one thing together, such as a clip of its frames, is one row.

Each is a single SELECT of few rows: whoever shows a list asks often, beside threads that are busy.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from .queries import GROUP
from .spending import Read


def parts_of(read: Read, whole_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """For each of these wholes, how many of its parts are in each of the groups of `Record.group`."""
    query = (
        f"SELECT whole_id, {GROUP} AS among, count(*) AS count FROM entries"
        " WHERE whole_id IN (SELECT value FROM json_each(?)) GROUP BY 1, 2"
    )
    counts: dict[str, dict[str, int]] = {}
    for row in read(query, (json.dumps(list(whole_ids)),)) if whole_ids else ():
        counts.setdefault(row["whole_id"], {})[row["among"]] = row["count"]
    return counts


def rows_by_group(read: Read) -> tuple[dict[str, int], int]:
    """How many rows there are in each of the groups of `Record.group`, and in the history: done or failed.

    A clip that has done and failed frames is in both groups, and one row of the history.
    """
    is_in = {"active": "among = 'active'", "done": "among = 'done'", "failed": "among = 'failed'"}
    is_in["ended"] = "among <> 'active'"
    # Most tasks are no parts, and are counted without being grouped.
    alone = ", ".join(f"total({condition}) AS {name}" for name, condition in is_in.items())
    parts = ", ".join(f"max({condition}) AS {name}" for name, condition in is_in.items())
    query = (
        f"WITH tasks AS (SELECT whole_id, {GROUP} AS among FROM entries),"
        f" wholes AS (SELECT {parts} FROM tasks WHERE whole_id IS NOT NULL GROUP BY whole_id)"
        f" SELECT {alone} FROM tasks WHERE whole_id IS NULL"
        f" UNION ALL SELECT {', '.join(f'total({name})' for name in is_in)} FROM wholes"
    )
    rows = read(query, ())
    counted = {name: sum(int(row[name]) for row in rows) for name in is_in}
    return {name: counted[name] for name in ("active", "done", "failed")}, counted["ended"]
