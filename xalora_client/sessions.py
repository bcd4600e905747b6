"""The aiohttp sessions of one client: proxies and certificates as the environment says."""

from __future__ import annotations

import os
import ssl
import urllib.request
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from ._version import __version__
from .errors import ConfigurationError

MAX_CONNECTIONS = 64
USER_AGENT = f"xalora-python/{__version__}"

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def shared_session() -> aiohttp.ClientSession:
    """For downloads from anywhere; connections are reused."""
    return _session(aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=_certificates()), trust_env=True)


def sequencer_session() -> aiohttp.ClientSession:
    """For requests to the sequencer that cost nothing; connections are reused."""
    return _session(aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=_certificates()), trust_env=False)


def create_session() -> aiohttp.ClientSession:
    """For creates: each gets a connection of its own, see :class:`xalora_client.transport.Transport`."""
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True, ssl=_certificates())
    return _session(connector, trust_env=False)


def environment_proxy(url: str) -> str | None:
    """The proxy that the environment, or the system, names for this address. Blocking: it may ask DNS.

    With ``trust_env``, aiohttp finds it out anew for each request, on a thread: more work than a poll itself.
    """
    parts = urlsplit(url)
    if parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        return urllib.request.getproxies().get(parts.scheme)
    return None


def _session(connector: aiohttp.TCPConnector, *, trust_env: bool) -> aiohttp.ClientSession:
    headers = {"User-Agent": USER_AGENT}
    return aiohttp.ClientSession(connector=connector, trust_env=trust_env, headers=headers)


def _certificates() -> ssl.SSLContext | bool:
    """The CA bundle that the environment names, in the variables Python users know.

    Raises:
        ConfigurationError: It can't be read, or holds no certificates.
    """
    for variable in CA_VARIABLES:
        bundle = os.environ.get(variable)
        if bundle and Path(bundle).is_file():
            try:
                return _context(bundle, Path(bundle).stat().st_mtime_ns)
            except OSError as error:
                raise ConfigurationError(
                    f"{variable} names {bundle}, which can't be used as a CA bundle: {error}",
                    next_step=f"Correct or unset {variable}.",
                ) from error
    return True


@lru_cache(maxsize=1)
def _context(bundle: str, _changed_ns: int) -> ssl.SSLContext:
    # Reading a system's certificates takes 30 ms, and each client has three sessions.
    return ssl.create_default_context(cafile=bundle)
