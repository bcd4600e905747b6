"""Requests for results, which lead to addresses that strangers name: each is checked before it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from ..config import Settings
from .addresses import exact_url
from .allowed_addresses import Destinations
from .sessions import checked_session, proxy_for


class ResultSession:
    """Sends requests without credentials to the addresses that :class:`Destinations` allows.

    A name is resolved once, and what was checked is what is connected to.

    Args:
        destinations: The addresses allowed.
        proxy: The proxy to use; None for the environment's.
        ca: The CA bundle to use; None for the environment's.
    """

    def __init__(
        self, destinations: Destinations, *, proxy: str | None = None, ca: Path | None = None
    ) -> None:
        self._destinations = destinations
        self._proxy = proxy
        self._resolver = _CheckingResolver(destinations)
        self.http = checked_session(self._resolver, ca)

    def proxy_for(self, url: str) -> str | None:
        """The proxy for an address. Blocking, see :func:`.sessions.environment_proxy`."""
        return proxy_for(url, self._proxy)

    def get(self, url: str, *, proxy: str | None, **options: Any) -> Any:
        """A request for a URL; an asynchronous context manager, as aiohttp's.

        Redirects are not followed, since each of their addresses has to come here.

        Raises:
            aiohttp.InvalidURL: It is no ``http`` or ``https`` URL with a host.
            RefusedAddressError: Here, or when the name is resolved: the address is not asked.
        """
        address = self._destinations.checked(exact_url(url), by_proxy=proxy is not None)
        if proxy is not None:
            self._resolver.allow_proxy(proxy)
        return self.http.get(address, proxy=proxy, allow_redirects=False, **options)

    async def close(self) -> None:
        """Close its connections."""
        await self.http.close()

    async def __aenter__(self) -> ResultSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def destinations(settings: Settings) -> Destinations:
    """The addresses that results may come from, by the settings."""
    bases = (settings.workflow_url, settings.files_url)
    closed = (settings.comfyui_url,) if settings.comfyui_url else ()
    return Destinations(
        tuple(URL(base, encoded=True) for base in bases),
        frozenset(settings.result_hosts),
        tuple(URL(url, encoded=True) for url in closed),
    )


def chosen_by_user(url: str) -> Destinations:
    """The addresses that an image may come from whose URL the user gave: its own host, and public ones."""
    try:
        return Destinations((exact_url(url),))
    except aiohttp.InvalidURL:
        return Destinations()


class _CheckingResolver(AbstractResolver):
    """The system's resolver, whose answers count only where every address may be asked."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._system = ThreadedResolver()
        self._proxies: set[tuple[str, int]] = set()

    def allow_proxy(self, proxy: str) -> None:
        url = URL(proxy)
        self._proxies.add(((url.raw_host or "").rstrip("."), url.port or 0))

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        if (host.rstrip("."), port) not in self._proxies:
            self._destinations.check(host, port, [each["host"] for each in found])
        return found

    async def close(self) -> None:
        await self._system.close()
