"""What was sent today and by the last run, and what it costs by the user's prices."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from time import time
from typing import Any

from ..prices import midnight_before, sums
from .journal import Journal


def spending(journal: Journal, prices: Mapping[str, Decimal]) -> dict[str, Any]:
    """As JSON: ``today``, and the ``last_run`` that sent any task, None where none has; see :func:`.sums`.

    Blocking.
    """
    run_id = journal.last_run()
    return {
        "today": sums(prices, journal.sent_since(midnight_before(time()))),
        "last_run": None if run_id is None else sums(prices, journal.sent_in(run_id)),
    }
