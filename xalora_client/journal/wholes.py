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
    query = (
        "SELECT total(active) AS active, total(done) AS done, total(failed) AS failed, total(ended) AS ended"
        " FROM (SELECT max(among = 'active') AS active, max(among = 'done') AS done,"
        " max(among = 'failed') AS failed, max(among <> 'active') AS ended"
        f" FROM (SELECT COALESCE(whole_id, id) AS row, {GROUP} AS among FROM entries) GROUP BY row)"
    )
    (counted,) = read(query, ())
    counts = {name: int(counted[name]) for name in ("active", "done", "failed")}
    return counts, int(counted["ended"])
