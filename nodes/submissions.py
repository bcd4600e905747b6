"""Tasks that a graph has submitted and not collected yet, so that an interrupt reaches them too."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from . import compat
from .bridge import BridgeError, bridge
from .clients import clients
from .runner import cancel_task, together

log = logging.getLogger("xalora_client.nodes")


class Submissions:
    """Open tasks by the prompt that submitted them. Safe for several threads.

    Between a Submit node and its Collect node no node of the pack runs that could see an interrupt.
    """

    def __init__(self) -> None:
        self._prompt_id = ""
        self._open: set[str] = set()
        self._lock = threading.Lock()
        compat.on_interrupt(self._on_interrupt)

    def submitted(self, prompt_id: str, task_id: str) -> None:
        """This prompt has submitted this task."""
        with self._lock:
            if prompt_id != self._prompt_id:
                # One prompt runs at a time, so the earlier one has ended, and its tasks are left running.
                self._prompt_id = prompt_id
                self._open.clear()
            self._open.add(task_id)

    def taken_over(self, task_ids: Iterable[str]) -> None:
        """A Collect node waits for these tasks now, and cancels them itself."""
        with self._lock:
            self._open.difference_update(task_ids)

    def _on_interrupt(self) -> None:
        with self._lock:
            if not self._open or self._prompt_id not in compat.running_prompt_ids():
                return
            task_ids, self._open = sorted(self._open), set()
        try:
            bridge.submit(_cancel(task_ids))
        except BridgeError as error:
            log.warning("Not canceled, and left running: tasks %s (%s)", ", ".join(task_ids), error)


async def _cancel(task_ids: list[str]) -> None:
    log.info("interrupted: canceling tasks %s", ", ".join(task_ids))
    async with clients.client() as client:
        await together(cancel_task(client, task_id) for task_id in task_ids)


submissions = Submissions()
