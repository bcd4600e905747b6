"""The aiohttp sessions of one client: proxies and certificates as the environment says."""

from __future__ import annotations

import os
import ssl
import urllib.request
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from .._version import __version__
from ..config import without_login
from ..errors import ConfigurationError

MAX_CONNECTIONS = 64
USER_AGENT = f"xalora-python/{__version__}"

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def shared_session() -> aiohttp.ClientSession:
    """For downloads from anywhere; connections are reused."""
    return _session(aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=_certificates()))


def sequencer_session() -> aiohttp.ClientSession:
    """For requests to the sequencer that cost nothing; connections are reused."""
    return _session(aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=_certificates()))


def create_session() -> aiohttp.ClientSession:
    """For creates: each gets a connection of its own, see :class:`xalora_client.transport.Transport`."""
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True, ssl=_certificates())
    return _session(connector)


def environment_proxy(url: str) -> str | None:
    """The proxy that the environment, or the system, names for this address. Blocking: it may ask DNS.

    With ``trust_env``, aiohttp finds it out anew for each request, on a thread: more work than a poll itself.
    It also takes ``127.0.0.1:7890`` for something else than every other program does.

    Raises:
        ConfigurationError: It is not an HTTP proxy.
    """
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    named = urllib.request.getproxies().get(parts.scheme, "").strip()
    return _http_proxy(named, f"{parts.scheme.upper()}_PROXY") if named else None


def _http_proxy(named: str, variable: str) -> str:
    address = named if "://" in named else f"http://{named}"
    try:
        parts = urlsplit(address)
        is_address = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigurationError(
            f"{variable}, or the system's settings, name a proxy whose address can't be read",
            next_step=f"Set {variable} to http://host:port.",
        )
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"{variable}, or the system's settings, name the proxy {without_login(address)}, and only HTTP "
            "proxies can be used",
            next_step=f"Set {variable} to your proxy's http:// address (most that speak SOCKS have one), or "
            "except the host with NO_PROXY.",
        )
    return address


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector, headers={"User-Agent": USER_AGENT})


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
