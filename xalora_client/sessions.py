"""The aiohttp sessions of one client: proxies and certificates as the environment says."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import aiohttp

from ._version import __version__

MAX_CONNECTIONS = 64
USER_AGENT = f"xalora-python/{__version__}"

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def shared_session() -> aiohttp.ClientSession:
    """For requests that cost nothing and for downloads; connections are reused."""
    return _session(aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=_certificates()))


def create_session() -> aiohttp.ClientSession:
    """For creates: each gets a connection of its own, see :class:`xalora_client.transport.Transport`."""
    return _session(aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True, ssl=_certificates()))


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector, trust_env=True, headers={"User-Agent": USER_AGENT})


def _certificates() -> ssl.SSLContext | bool:
    """The CA bundle that the environment names, in the variables Python users know."""
    for variable in CA_VARIABLES:
        bundle = os.environ.get(variable)
        if bundle and Path(bundle).is_file():
            return ssl.create_default_context(cafile=bundle)
    return True
