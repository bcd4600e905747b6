"""Keeps a result's files on disk for as long as something in a graph leans on them."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from ..xalora_client.errors import JournalError

if TYPE_CHECKING:
    from ..xalora_client.journal import Journal
    from ..xalora_client.results import RunResult

log = logging.getLogger("xalora_client.nodes")


class Keeper:
    """Holds files against the size limit of the kept results, which drops the oldest.

    ComfyUI's cache keeps a VIDEO for as long as its graph is open, and reads its file whenever it is saved.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def keep(self, result: RunResult, while_alive: Any) -> None:
        """Keep the result's files until ``while_alive`` is gone."""
        if result.task_id is None:
            return
        try:
            entry = self._journal.by_task_id(result.task_id)
            if entry is None:
                return
            ticket = self._journal.hold(entry.id)
        except JournalError as error:
            log.warning("The result of task %s may be dropped while it is in use: %s", result.task_id, error)
            return
        release = weakref.finalize(while_alive, self._journal.leave, ticket)
        # The journal gives back its tickets itself when the process ends.
        release.atexit = False
