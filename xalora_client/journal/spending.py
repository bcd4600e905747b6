"""How many tasks were sent, today and by a run, and what they cost by the user's prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from time import time
from typing import Any

from ..config import names_listed_host
from ..prices import Sent, midnight_before, sums
from .records import Row

Read = Callable[[str, Sequence[Any]], Sequence[Row]]
"""Gives the rows of a SELECT: `Journal.read`, or `Transaction.read`."""

# A record that is prepared and has no worker was left by a process that died.
_IS_SENT = "state <> 'not_sent' AND NOT (state = 'prepared' AND worker IS NULL)"


_COUNTED = "SELECT task_type, workflow_id, sequencer_url, COUNT(*) AS count FROM"


def _sent(condition: str, condition_of_forgotten: str) -> str:
    return (
        f"{_COUNTED} entries WHERE {condition} AND {_IS_SENT} GROUP BY 1, 2, 3"
        f" UNION ALL {_COUNTED} forgotten_sent WHERE {condition_of_forgotten} GROUP BY 1, 2, 3"
    )


# What is about to be sent is sent from now on, whenever it was claimed.
_SENT_SINCE = (
    _sent("COALESCE(sent_at, created_at) >= ?1", "sent_at >= ?1")
    + f" UNION ALL {_COUNTED} entries WHERE COALESCE(sent_at, created_at) < ?1"
    " AND state = 'prepared' AND worker IS NOT NULL GROUP BY 1, 2, 3"
)
_SENT_IN_RUN = _sent("run_id = ?1", "run_id = ?1")
_LAST_RUN = (
    f"SELECT run_id FROM entries WHERE run_id IS NOT NULL AND {_IS_SENT}"
    " ORDER BY COALESCE(sent_at, created_at) DESC, id DESC LIMIT 1"
)
# A record that is removed, by its id; to be called before.
REMEMBER_SENT = (
    "INSERT INTO forgotten_sent (sent_at, task_type, workflow_id, run_id, sequencer_url)"
    " SELECT COALESCE(sent_at, created_at), task_type, workflow_id, run_id, sequencer_url"
    f" FROM entries WHERE id = ? AND {_IS_SENT}"
)


def sent_since(read: Read, since: float, unpriced: Sequence[str] = ()) -> list[Sent]:
    """How many tasks were sent since then, by workflow and network; those that are just being sent count.

    Args:
        read: Gives the rows of a SELECT.
        since: Unix seconds.
        unpriced: Hosts of networks whose tasks cost nothing.
    """
    return _sent_of(read(_SENT_SINCE, (since,)), unpriced)


def sent_in(read: Read, run_id: str, unpriced: Sequence[str] = ()) -> list[Sent]:
    """How many tasks were sent for a run; else as :func:`sent_since`."""
    return _sent_of(read(_SENT_IN_RUN, (run_id,)), unpriced)


def last_run(read: Read) -> str | None:
    """The run that sent a task last; None where none has."""
    return next((str(row["run_id"]) for row in read(_LAST_RUN, ())), None)


def spending(read: Read, prices: Mapping[str, Decimal], unpriced: Sequence[str] = ()) -> dict[str, Any]:
    """As JSON: ``today``, and the ``last_run`` that sent any task, None where none has; see :func:`.sums`.

    Blocking.
    """
    run_id = last_run(read)
    return {
        "today": sums(prices, sent_since(read, midnight_before(time()), unpriced)),
        "last_run": None if run_id is None else sums(prices, sent_in(read, run_id, unpriced)),
    }


def _sent_of(rows: Sequence[Row], unpriced: Sequence[str]) -> list[Sent]:
    # Those that an earlier release has forgotten name no network, and count.
    return [
        Sent(
            *(row["task_type"], row["workflow_id"], row["count"]),
            is_priced=not names_listed_host(row["sequencer_url"] or "", unpriced),
        )
        for row in rows
    ]
