"""Tasks that a graph has submitted and not collected yet, so that an interrupt reaches them all."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ...xalora_client.concurrency import together
from ...xalora_client.errors import XaloraError
from ..host import compat
from ..host.bridge import BridgeError, bridge
from ..host.clients import clients

if TYPE_CHECKING:
    from ...xalora_client.client import AsyncXalora
    from .interrupts import Interrupt

log = logging.getLogger("xalora_client.nodes")

CONFIRM_SECONDS = 3.0
"""How long an interrupted node waits for the network to confirm the cancels, which go on without it."""


class Submissions:
    """Open tasks of the running prompt, canceled when it is interrupted. Safe for several threads.

    No node cancels them itself: between a Submit node and its Collect node none runs, a Collect node waits
    for a few of them at a time, and a prompt that ends tears what its nodes are at.
    """

    def __init__(self) -> None:
        self._prompt_id = ""
        self._open: set[str] = set()
        self._canceling: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        compat.on_interrupt(self._on_interrupt)

    def submitted(self, prompt_id: str, task_id: str, interrupt: Interrupt) -> None:
        """This prompt has submitted this task, or is to collect it; told twice is harmless.

        Args:
            interrupt: Of the node that says so. Where it is requested already, the task is canceled at once.
        """
        with self._lock:
            # Requests are counted before the listeners hear of them: either it shows here, or the task is
            # found below.
            if not interrupt.requested:
                if prompt_id != self._prompt_id:
                    # One prompt runs at a time, so the earlier one has ended; its tasks are left running.
                    self._prompt_id = prompt_id
                    self._open.clear()
                self._open.add(task_id)
                return
        self._cancel([task_id])

    def collected(self, task_id: str) -> None:
        """The task's result is here."""
        with self._lock:
            self._open.discard(task_id)

    async def confirmed(self) -> None:
        """Wait, on the bridge's loop, until no cancel is under way, for :data:`CONFIRM_SECONDS` at most."""
        with self._lock:
            cancels = {asyncio.wrap_future(cancel) for cancel in self._canceling.values()}
        if cancels:
            await asyncio.wait(cancels, timeout=CONFIRM_SECONDS)

    def _on_interrupt(self) -> None:
        with self._lock:
            if not self._open or self._prompt_id not in compat.running_prompt_ids():
                return
            task_ids, self._open = sorted(self._open), set()
        self._cancel(task_ids)

    def _cancel(self, task_ids: Iterable[str]) -> None:
        with self._lock:
            new = [task_id for task_id in task_ids if task_id not in self._canceling]
            if not new:
                return
            try:
                canceling = bridge.submit(_cancel_each(new))
            except BridgeError as error:
                log.warning("Not canceled, and left running: tasks %s (%s)", ", ".join(new), error)
                return
            self._canceling.update(dict.fromkeys(new, canceling))
        canceling.add_done_callback(lambda _: self._canceled(new))

    def _canceled(self, task_ids: Iterable[str]) -> None:
        with self._lock:
            for task_id in task_ids:
                self._canceling.pop(task_id, None)


async def _cancel_each(task_ids: Iterable[str]) -> None:
    log.info("interrupted: canceling tasks %s", ", ".join(task_ids))
    async with clients.client() as client:
        await together(_cancel_one(client, task_id) for task_id in task_ids)


async def _cancel_one(client: AsyncXalora, task_id: str) -> None:
    # Asked for without looking at the task first: that costs time, and may fail. An ended one stays as it is.
    try:
        await client.cancel_task(task_id)
    except XaloraError as error:
        log.warning("The cancel of task %s is not confirmed: %s", task_id, error)


submissions = Submissions()
