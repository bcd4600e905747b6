"""The pack's client for the current settings."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, TypeVar

from ...xalora_client.concurrency import DaemonThreads, run_in_thread
from ...xalora_client.config import Settings
from ...xalora_client.prices import DailyLimit, midnight_before
from . import compat
from .bridge import SHUTTING_DOWN, BridgeError, bridge
from .comfyui_settings import read_settings

if TYPE_CHECKING:
    from ...xalora_client.client import AsyncXalora
    from ...xalora_client.journal import Journal

T = TypeVar("T")

SIDEBAR_READS = DaemonThreads("xalora-sidebar", 8)
"""What the page asks waits neither for nodes' files and images nor for other packs' work."""


class Clients:
    """Provides the client; every method belongs to the client's loop, unless it says otherwise.

    A changed setting creates a new client, and the old one is closed when its last user has finished. Its
    journal stays open, because results in ComfyUI's cache keep their files through it.
    """

    def __init__(self) -> None:
        self._current: AsyncXalora | None = None
        self._users: dict[AsyncXalora, int] = {}
        self._journals: dict[Path, Journal] = {}
        self._limit_lifted_on: float | None = None
        self._closed = False

    @asynccontextmanager
    async def client(self, settings: Settings | None = None) -> AsyncIterator[AsyncXalora]:
        """The client for ``settings``, by default the current ones; one for all that ask for the same.

        Raises:
            ConfigurationError: A setting is invalid.
            BridgeError: ComfyUI is shutting down.
        """
        client = await self._for(settings) if settings else await self._for_current()
        is_lifted = self._limit_lifted_on == midnight_before(time())
        client.journal.daily_limit = DailyLimit() if is_lifted else client.settings.daily_limit
        self._users[client] += 1
        try:
            yield client
        finally:
            self._users[client] -= 1
            await self._close_unused()

    @property
    def journal(self) -> Journal | None:
        """The journal of the client that was used last, None before the first. Any thread may call it."""
        current = self._current
        return current.journal if current is not None else None

    async def read(self, look: Callable[[Journal, Settings], T]) -> T:
        """Have a thread call ``look(journal, settings)`` and give what it gives. Any loop may call it.

        The client's loop is not waited for once the journal is open: it may be busy with hundreds of tasks.

        Raises:
            ConfigurationError: A setting is invalid.
            JournalError: The journal can't be read.
            BridgeError: ComfyUI is shutting down.
        """

        def now() -> tuple[T] | None:
            settings = read_settings().settings
            journal = self._journals.get(settings.state_dir)
            return None if journal is None else (look(journal, settings),)

        answer = None if self._closed else await run_in_thread(now, SIDEBAR_READS)
        if answer is None:
            await bridge.run(self._open())
            answer = await run_in_thread(now, SIDEBAR_READS)
            if answer is None:
                raise BridgeError(SHUTTING_DOWN)
        return answer[0]

    async def _open(self) -> None:
        async with self.client():
            pass

    async def _for_current(self) -> AsyncXalora:
        client = await self._for((await asyncio.to_thread(read_settings)).settings)
        if client is not self._current:
            self._current = client
            await self._close_unused()
        return client

    async def _for(self, settings: Settings) -> AsyncXalora:
        if self._closed:
            raise BridgeError(SHUTTING_DOWN)
        client = next((known for known in self._users if known.settings == settings), None)
        if client is None:
            from ...xalora_client.client import AsyncXalora
            from ...xalora_client.network.allowed_addresses import own_ports

            if (port := compat.own_port()) is not None:
                own_ports.add(port)
            client = AsyncXalora(settings=settings, journal=self._journal_for(settings))
            self._users[client] = 0
        return client

    def _journal_for(self, settings: Settings) -> Journal:
        journal = self._journals.get(settings.state_dir)
        if journal is None:
            from ...xalora_client.client import open_journal

            journal = self._journals[settings.state_dir] = open_journal(settings)
        journal.results_limit_bytes = int(settings.results_limit)
        return journal

    def lift_daily_limit(self) -> None:
        """Send more than the limit of a day, until midnight; the user has said so."""
        self._limit_lifted_on = midnight_before(time())

    async def _close_unused(self) -> None:
        unused = [
            client for client, users in self._users.items() if not users and client is not self._current
        ]
        for client in unused:
            del self._users[client]
            await client.close()

    async def close(self) -> None:
        """Close all clients and journals for good; remote tasks continue."""
        self._closed = True
        self._current = None
        try:
            await asyncio.gather(*(client.close() for client in self._users))
        finally:
            for journal in self._journals.values():
                await run_in_thread(journal.close)


clients = Clients()
atexit.register(bridge.close, clients.close)
