"""Submitted and not yet collected tasks of the running prompt, so that an interrupt cancels them all."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ...xalora_client.concurrency import run_all_or_cancel
from ...xalora_client.errors import ConfigurationError, XaloraError
from ..host import compat
from ..host.bridge import BridgeError, bridge
from ..host.clients import clients
from ..host.comfyui_settings import of_same_account, read_settings

if TYPE_CHECKING:
    from ...xalora_client.config import Settings
    from .interrupts import Interrupt

    Opened = Mapping[str, Settings | None]

log = logging.getLogger("xalora_client.nodes")

CONFIRM_SECONDS = 3.0
"""How long an interrupted node waits for the network to confirm the cancels, which continue without it."""


class OpenTasks:
    """Open tasks of the running prompt, canceled when it is interrupted. Thread-safe.

    The nodes can't cancel them: no node runs between a Submit node and its Collect node, a Collect node waits
    for a few tasks at a time, and a prompt that ends cancels its waiting nodes.
    """

    def __init__(self) -> None:
        self._prompt_id = ""
        self._open: dict[str, Settings | None] = {}
        self._canceling: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        compat.on_interrupt(self._on_interrupt)

    def opened(
        self, prompt_id: str, task_id: str, interrupt: Interrupt, settings: Settings | None = None
    ) -> None:
        """Note that a prompt has submitted this task, or is to collect it; a repeated call does nothing.

        Args:
            interrupt: The calling node's. If it is requested already, the task is canceled at once.
            settings: Those that it was submitted with; None where that is not known.
        """
        with self._lock:
            # Requests are counted before the listeners are called: either the count shows it here, or
            # `_on_interrupt` finds the task.
            if not interrupt.requested:
                if prompt_id != self._prompt_id:
                    # One prompt runs at a time: the earlier one has ended, and its tasks are left running.
                    self._prompt_id = prompt_id
                    self._open.clear()
                self._open.setdefault(task_id, settings)
                return
        self._cancel({task_id: settings})

    def settings_of(self, task_ids: Iterable[str]) -> Settings | None:
        """The settings to ask for these tasks of the running prompt with; None: the current ones.

        Blocking.
        """
        with self._lock:
            known = [self._open.get(task_id) for task_id in task_ids]
        return _to_ask_with(next(filter(None, known), None))

    def collected(self, task_id: str) -> None:
        """Note that the task's result is on this machine."""
        with self._lock:
            self._open.pop(task_id, None)

    async def wait_for_cancels(self) -> None:
        """Wait, on the client's loop, until all cancels have ended; :data:`CONFIRM_SECONDS` at most."""
        with self._lock:
            cancels = {asyncio.wrap_future(cancel) for cancel in self._canceling.values()}
        if cancels:
            await asyncio.wait(cancels, timeout=CONFIRM_SECONDS)

    def _on_interrupt(self) -> None:
        with self._lock:
            if not self._open or self._prompt_id not in compat.running_prompt_ids():
                return
            opened, self._open = self._open, {}
        self._cancel(opened)

    def _cancel(self, opened: Opened) -> None:
        with self._lock:
            new = {task_id: how for task_id, how in opened.items() if task_id not in self._canceling}
            if not new:
                return
            try:
                canceling = bridge.submit(_cancel_each(new))
            except BridgeError as error:
                log.warning("tasks %s are not canceled, and left running: %s", ", ".join(new), error)
                return
            self._canceling.update(dict.fromkeys(new, canceling))
        canceling.add_done_callback(lambda _: self._canceled(new))

    def _canceled(self, task_ids: Iterable[str]) -> None:
        with self._lock:
            for task_id in task_ids:
                self._canceling.pop(task_id, None)


def _to_ask_with(submitted: Settings | None) -> Settings | None:
    """None, for the current settings, unless they are of another account, or hold no key."""
    if submitted is None:
        return None
    try:
        current = read_settings().settings
    except ConfigurationError:
        return submitted
    return None if of_same_account(current, submitted) else submitted


async def _cancel_each(opened: Opened) -> None:
    log.info("interrupted: canceling tasks %s", ", ".join(opened))
    await run_all_or_cancel(_cancel_one(task_id, settings) for task_id, settings in opened.items())


async def _cancel_one(task_id: str, submitted: Settings | None) -> None:
    try:
        async with clients.client(await asyncio.to_thread(_to_ask_with, submitted)) as client:
            await client.leave_task(task_id)
    except XaloraError as error:
        log.warning("the cancel of task %s is not confirmed: %s", task_id, error)


open_tasks = OpenTasks()
