"""Tells the open browser windows what has changed in the journal, over ComfyUI's websocket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from time import time
from typing import Any, Protocol

from ...xalora_client.errors import XaloraError
from ...xalora_client.journal import Journal
from ..host.bridge import BridgeError, bridge
from ..host.clients import clients
from .task_service import Desk, counts

log = logging.getLogger("xalora_client.nodes")

EVENT = "xalora.tasks"

SHORTEST_PAUSE = 0.2
"""Seconds between two messages: at most five a second, whatever happens."""

LOOK_EVERY = 1.0
"""Seconds between two looks at the journal's version, for what other processes change."""

ROWS_PER_MESSAGE = 50
"""Where more has changed, the windows are told to look for themselves."""


class Server(Protocol):
    """What is needed of ComfyUI's server."""

    sockets: dict[str, Any]

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None: ...


class Feed:
    """Follows the journal while any window is open; :meth:`start` is called whenever one asks for tasks."""

    def __init__(self, server: Server, desk: Desk) -> None:
        self._server = server
        self._desk = desk
        self._lock = threading.Lock()
        self._running = False

    def start(self) -> None:
        """Follow the journal, unless that is being done. From any thread."""
        with self._lock:
            if self._running:
                return
            try:
                bridge.submit(self._run())
            except BridgeError:
                return
            self._running = True

    async def _run(self) -> None:
        watch = _Watch()
        try:
            while self._server.sockets:
                try:
                    await self._look(watch)
                except XaloraError as error:
                    # Broken settings or a full disk: the routes say so; the next look may find them mended.
                    log.debug("%s", error)
                await asyncio.sleep(SHORTEST_PAUSE)
                await watch.woken(LOOK_EVERY - SHORTEST_PAUSE)
        finally:
            watch.stop()
            with self._lock:
                self._running = False

    async def _look(self, watch: _Watch) -> None:
        async with clients.client() as client:
            journal = client.journal
            watch.follow(journal)
            version = await asyncio.to_thread(journal.version)
            if version == watch.version:
                return
            # The first message holds no rows: a window that listed them before learns what it missed.
            since = version if watch.version is None else watch.version
            touched, watch.version = watch.touched(), version
            message = await asyncio.to_thread(
                self._message, journal, client.settings.sequencer_url, since, version, touched
            )
            self._server.send_sync(EVENT, message)

    def _message(
        self, journal: Journal, url: str, since: int, version: int, touched: set[int]
    ) -> dict[str, Any]:
        records = journal.records(since=since, limit=ROWS_PER_MESSAGE + 1)
        many = len(records) > ROWS_PER_MESSAGE
        changed = {record.id for record in records}
        return {
            "since": since,
            "version": version,
            "now": time(),
            "counts": counts(journal),
            "tasks": [] if many else self._desk.rows(journal, url, records),
            "removed": [] if many else sorted(id for id in touched - changed if journal.find(id) is None),
            "reload": many,
        }


class _Watch:
    """What this process changes in a journal, noted as it happens."""

    def __init__(self) -> None:
        self.version: int | None = None
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._journal: Journal | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._touched: set[int] = set()

    def follow(self, journal: Journal) -> None:
        """Listen to this journal; another one than before starts anew."""
        if journal is self._journal:
            return
        self.stop()
        if self._journal is not None and journal.path != self._journal.path:
            self.version = -1
        self._journal = journal
        self._unsubscribe = journal.subscribe(self._note)

    def _note(self, record_id: int) -> None:
        with self._lock:
            self._touched.add(record_id)
        # The loop may have been closed with ComfyUI.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._woken.set)

    def touched(self) -> set[int]:
        """Records changed or removed since the last call."""
        with self._lock:
            touched, self._touched = self._touched, set()
        return touched

    async def woken(self, within: float) -> None:
        """Return at the next change, or after so many seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._woken.wait(), within)
        self._woken.clear()

    def stop(self) -> None:
        """Listen no more."""
        self._unsubscribe()
        self._unsubscribe = lambda: None
