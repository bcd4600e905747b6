"""The aiohttp sessions of a client, with the environment's proxies and certificates."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import urllib.request
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from .._version import __version__
from ..config import is_loopback, names_host, without_login
from ..errors import ConfigurationError

MAX_CONNECTIONS = 64
MOST_CANCELS = 1000
MAX_HEADER_BYTES = 64 * 1024
"""The longest line of an answer's head; fronts add policies longer than aiohttp's own limit of 8190 bytes."""
MOST_HEADERS = 1024
USER_AGENT = f"xalora-python/{__version__}"

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def shared_session(ca: Path | None = None) -> aiohttp.ClientSession:
    """For requests to the sequencer that cost nothing; connections are reused."""
    return _session(ca, force_close=False)


def checked_session(resolver: AbstractResolver, ca: Path | None = None) -> aiohttp.ClientSession:
    """For requests to hosts whose addresses ``resolver`` checks; connections are reused."""
    return _session(ca, force_close=False, resolver=resolver)


def create_session(ca: Path | None = None) -> aiohttp.ClientSession:
    """For creates: each gets a connection of its own, see :class:`.transport.Transport`."""
    return _session(ca, force_close=True)


def cancel_session(ca: Path | None = None) -> aiohttp.ClientSession:
    """For cancels, which wait for no other request: hundreds may leave at once, when a program is stopped."""
    return _session(ca, force_close=False, limit=_cancels_at_once())


def proxy_for(url: str, given: str | None) -> str | None:
    """The proxy of the settings, else of the environment, for this address. Blocking, see below.

    Raises:
        ConfigurationError: The environment's is not an HTTP proxy.
    """
    if given is None:
        return environment_proxy(url)
    return None if is_loopback(url) else given


def environment_proxy(url: str) -> str | None:
    """The proxy of the environment, or the system, for this address. Blocking: it may query DNS.

    aiohttp's ``trust_env`` looks it up for each request, on a thread, which takes longer than a poll. It also
    reads ``127.0.0.1:7890`` differently from every other program.

    Raises:
        ConfigurationError: It is not an HTTP proxy.
    """
    parts = urlsplit(url)
    # A proxy elsewhere can't reach this machine's own servers, whatever NO_PROXY says.
    if not parts.hostname or is_loopback(url) or urllib.request.proxy_bypass(parts.hostname):
        return None
    excepted = urllib.request.getproxies_environment().get("no", "").lower()
    port = 443 if parts.scheme == "https" else 80
    with suppress(ValueError):
        port = parts.port or port
    if any(_is_named(each, parts.hostname.rstrip("."), port) for each in re.split(r"[\s,]+", excepted)):
        return None
    named = urllib.request.getproxies().get(parts.scheme, "").strip()
    return _http_proxy(named, f"{parts.scheme.upper()}_PROXY") if named else None


def _is_named(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means a host, in the forms that curl, Go and requests know.

    They are a domain, with or without ``*.`` or a dot before it, an address, and a network (``10.0.0.0/8``);
    the first two with or without a port.
    """
    if entry == "*":
        return True
    with suppress(ValueError):
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:
            return False
    name, _, digits = entry.rpartition(":")
    if name and digits.isdecimal():
        return int(digits) == port and _is_named(name, host, port)
    domain = entry.lstrip("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _http_proxy(named: str, variable: str) -> str:
    address = named if "://" in named else f"http://{named}"
    if not names_host(address):
        raise ConfigurationError(
            f"{variable}, or the system's settings, name a proxy with an invalid address",
            next_step=f"Set {variable} to http://host:port.",
        )
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigurationError(
            f"{variable}, or the system's settings, name the proxy {without_login(address)}, and only HTTP "
            "proxies can be used",
            next_step=f"Set {variable} to your proxy's http:// address (most that speak SOCKS have one), or "
            "except the host with NO_PROXY.",
        )
    return address


def _session(
    ca: Path | None,
    *,
    force_close: bool,
    limit: int = MAX_CONNECTIONS,
    resolver: AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=limit, force_close=force_close, ssl=certificates(ca), resolver=resolver
    )
    return aiohttp.ClientSession(
        connector=connector,
        # A few bytes may decompress to more than the memory holds: nothing that is compressed is read.
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MOST_HEADERS,
    )


def _cancels_at_once() -> int:
    """Half of the descriptors that this process may have; macOS gives 256 by default."""
    try:
        import resource
    except ImportError:
        return MOST_CANCELS
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CANCELS if allowed == resource.RLIM_INFINITY else min(MOST_CANCELS, allowed // 2)


def certificates(ca: Path | None = None) -> ssl.SSLContext | bool:
    """The CA bundle of the settings, else that the environment names for OpenSSL, requests or curl.

    Raises:
        ConfigurationError: It can't be read, or holds no certificates.
    """
    named = _named_bundle(ca)
    if named is None:
        return True
    variable, bundle = named
    try:
        return _context(str(bundle), bundle.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigurationError(
            f"{variable} names {bundle}, which can't be used as a CA bundle: {error}",
            next_step=f"Correct or unset {variable}.",
        ) from error


def ca_bundle(ca: Path | None = None) -> bytes | None:
    """The content of the same CA bundle; None where the system's certificates are used.

    Raises:
        ConfigurationError: It can't be read, or holds no certificates.
    """
    certificates(ca)
    named = _named_bundle(ca)
    return None if named is None else named[1].read_bytes()


def _named_bundle(ca: Path | None) -> tuple[str, Path] | None:
    """The variable that names a CA bundle, and its file."""
    if ca is not None:
        return "XALORA_CA", ca
    named = ((variable, Path(os.environ.get(variable, ""))) for variable in CA_VARIABLES)
    return next(((variable, bundle) for variable, bundle in named if bundle.is_file()), None)


@lru_cache(maxsize=1)
def _context(bundle: str, _changed_ns: int) -> ssl.SSLContext:
    # Reading a system's certificates takes 30 ms, and each client has three sessions.
    return ssl.create_default_context(cafile=bundle)
