"""Keeps results' files on disk for as long as something leans on them.

The folder of kept results has a limit, and drops the oldest that nobody holds.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

from ..xalora_client.errors import JournalError

if TYPE_CHECKING:
    from ..xalora_client.journal import Journal

log = logging.getLogger("xalora_client.nodes")


class Keeper:
    """Holds the results of one execution of a node, from the moment they are on disk. From any thread."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._tickets: dict[str, str] = {}
        self._lock = threading.Lock()

    def hold(self, job_id: str) -> None:
        """Keep the files of this job until :meth:`release`."""
        ticket = self._ticket(job_id)
        if ticket is not None:
            with self._lock:
                earlier = self._tickets.pop(job_id, None)
                self._tickets[job_id] = ticket
            if earlier is not None:
                self._journal.leave(earlier)

    def keep(self, job_id: str, while_alive: Any) -> None:
        """Keep the files of this job until ``while_alive`` is gone.

        ComfyUI's cache keeps a VIDEO for as long as its graph is open, and reads its file when it is saved.
        """
        ticket = self._ticket(job_id)
        if ticket is not None:
            leave = weakref.finalize(while_alive, self._journal.leave, ticket)
            # The journal gives back its tickets itself when the process ends.
            leave.atexit = False

    def release(self) -> None:
        """Give back what :meth:`hold` has taken; twice is harmless."""
        with self._lock:
            tickets, self._tickets = list(self._tickets.values()), {}
        for ticket in tickets:
            self._journal.leave(ticket)

    def _ticket(self, job_id: str) -> str | None:
        try:
            entry = self._journal.by_job_id(job_id)
            return None if entry is None else self._journal.hold(entry.id)
        except JournalError as error:
            log.warning("The result of job %s may be dropped while it is in use: %s", job_id, error)
            return None


class HandedOn:
    """Keepers of results that a subgraph reads later, by the subgraph's prefix. From any thread."""

    def __init__(self) -> None:
        self._keepers: dict[str, Keeper] = {}
        self._lock = threading.Lock()

    def put(self, prefix: str, keeper: Keeper) -> None:
        """The subgraph with this prefix reads what ``keeper`` holds; its earlier one is released."""
        with self._lock:
            earlier = self._keepers.pop(prefix, None)
            self._keepers[prefix] = keeper
        if earlier is not None:
            earlier.release()

    def done(self, prefix: str) -> None:
        """The subgraph has read everything."""
        with self._lock:
            keeper = self._keepers.pop(prefix, None)
        if keeper is not None:
            keeper.release()


handed_on = HandedOn()
