"""How far the tasks are that make one thing together, such as a clip of its frames; see `Whole`."""

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
