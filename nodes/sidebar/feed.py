"""Websocket messages that tell the open browser windows about changes in the journal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Any, Protocol

from aiohttp import web

from ...xalora_client.config import Settings
from ...xalora_client.errors import XaloraError
from ...xalora_client.journal import Journal
from ..conversion.previews import jobs_with_input
from ..host.bridge import BridgeError, bridge
from ..host.clients import clients
from .task_service import TaskService, summary

log = logging.getLogger("xalora_client.nodes")

EVENT = "xalora.tasks"

SHORTEST_PAUSE = 0.2
"""Shortest time between two messages."""

POLL_SECONDS = 1.0
"""How often the journal's version is read, for changes by other processes."""

REST = 4
"""The pause is so many times as long as a message took to make, for at most `POLL_SECONDS`: where threads are
busy, the page's own requests go first."""

ROWS_PER_MESSAGE = 50
"""After more changes than this, the windows are told to reload."""


class Server(Protocol):
    """The part of ComfyUI's server that the sidebar uses."""

    routes: web.RouteTableDef
    sockets: dict[str, Any]

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None: ...


class Feed:
    """Watches the journal while a window is open. Call :meth:`start` whenever one requests tasks."""

    def __init__(self, server: Server, task_service: TaskService) -> None:
        self._server = server
        self._task_service = task_service
        self._lock = threading.Lock()
        self._running = False

    def start(self) -> None:
        """Watch the journal, unless that is being done. Any thread may call it."""
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
                began = monotonic()
                try:
                    await self._send_changes(watch)
                except XaloraError as error:
                    # Invalid settings or a full disk: the routes report it, and the next poll may succeed.
                    log.debug("%s", error)
                except Exception:
                    log.exception("changes of tasks could not be sent to the browser")
                await asyncio.sleep(max(SHORTEST_PAUSE, min(POLL_SECONDS, REST * (monotonic() - began))))
                await watch.changed(POLL_SECONDS - SHORTEST_PAUSE)
        finally:
            watch.stop()
            with self._lock:
                self._running = False

    async def _send_changes(self, watch: _Watch) -> None:
        async with clients.client() as client:
            journal = client.journal
            watch.follow(journal)
            # This has pending notes written, which the page's own requests don't wait for.
            version = await asyncio.to_thread(journal.version)
            with_input = jobs_with_input()
            pictured = with_input[watch.pictures :]
            if version == watch.version and not pictured:
                return
            # The first message has no rows: a window with an older version reloads.
            since = version if watch.version is None else watch.version
            touched = watch.touched()
            try:
                message = await asyncio.to_thread(
                    self._message, journal, client.settings, since, version, touched, pictured
                )
            except BaseException:
                watch.touch(touched)
                raise
            self._server.send_sync(EVENT, message)
            # Only now: what could not be read is sent the next time.
            watch.version = version
            watch.pictures = len(with_input)

    def _message(
        self,
        journal: Journal,
        settings: Settings,
        since: int,
        version: int,
        touched: set[int],
        pictured: Sequence[str],
    ) -> dict[str, Any]:
        with journal.as_written():
            many = journal.count(since=since) + len(pictured) > ROWS_PER_MESSAGE
            records = [] if many else journal.records(since=since)
            changed = {record.id for record in records}
            if not many:
                # The journal does not know of pictures, and one may be saved after its task's last change.
                found = (journal.find(job_id=job_id) for job_id in pictured)
                records += [record for record in found if record is not None and record.id not in changed]
            return {
                "since": since,
                "version": version,
                "now": time(),
                **summary(journal, settings),
                "tasks": [] if many else self._task_service.rows(journal, settings, records),
                "removed": [] if many else sorted(id for id in touched - changed if journal.find(id) is None),
                "reload": many,
            }


class _Watch:
    """Notes which records of a journal this process changes."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.pictures = len(jobs_with_input())
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._journal: Journal | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._touched: set[int] = set()

    def follow(self, journal: Journal) -> None:
        """Listen to this journal instead of an earlier one."""
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
        self._loop.call_soon_threadsafe(self._changed.set)

    def touched(self) -> set[int]:
        """Records changed or removed since the last call."""
        with self._lock:
            touched, self._touched = self._touched, set()
        return touched

    def touch(self, record_ids: set[int]) -> None:
        """Note records once more, which could not be told about."""
        with self._lock:
            self._touched |= record_ids

    async def changed(self, within: float) -> None:
        """Return at the next change, or after ``within`` seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), within)
        self._changed.clear()

    def stop(self) -> None:
        """Stop listening."""
        self._unsubscribe()
        self._unsubscribe = lambda: None
