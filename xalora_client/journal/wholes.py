"""Counts of a list in which what makes one thing together, such as a clip of its frames, is one row.

Each SELECT gives few rows: whoever shows a list asks often, beside threads that are busy.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from .queries import GROUP, MADE_HERE
from .spending import Read


def parts_of(read: Read, whole_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """For each of these wholes, how many of its parts are in each of the groups of `Record.group`.

    A part that failed and was tried again counts by the later try, and one that was made here as done.
    """
    later = (
        "SELECT 1 FROM entries AS later WHERE later.fingerprint = part.fingerprint"
        " AND later.whole_id = part.whole_id AND later.id > part.id"
    )
    query = (
        f"SELECT whole_id, CASE WHEN {MADE_HERE} THEN 'done' ELSE {GROUP} END AS among, count(*) AS count"
        " FROM entries AS part WHERE whole_id IN (SELECT value FROM json_each(?))"
        f" AND NOT ({GROUP} = 'failed' AND EXISTS ({later})) GROUP BY 1, 2"
    )
    counts: dict[str, dict[str, int]] = {}
    for row in read(query, (json.dumps(list(whole_ids)),)) if whole_ids else ():
        counts.setdefault(row["whole_id"], {})[row["among"]] = row["count"]
    return counts


def rows_by_group(read: Read) -> tuple[dict[str, int], int]:
    """How many rows there are in each of the groups of `Record.group`, and in the history: done or failed.

    A clip that has done and failed frames is in both groups, and one row of the history.
    """
    groups = ("active", "done", "failed")
    alone = read(
        f"SELECT {GROUP} AS among, count(*) AS count FROM entries WHERE whole_id IS NULL GROUP BY 1", ()
    )
    rows = dict.fromkeys(groups, 0) | {row["among"]: row["count"] for row in alone}
    ended = rows["done"] + rows["failed"]
    is_in = ", ".join(f"max({GROUP} = '{group}') AS {group}" for group in groups)
    wholes = (
        "SELECT total(active) AS active, total(done) AS done, total(failed) AS failed,"
        f" total(done OR failed) AS ended FROM (SELECT {is_in} FROM entries"
        " WHERE whole_id IS NOT NULL GROUP BY whole_id)"
    )
    (of_wholes,) = read(wholes, ())
    return {group: rows[group] + int(of_wholes[group]) for group in groups}, ended + int(of_wholes["ended"])
