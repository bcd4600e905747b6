"""Addresses of files, spelled as the network gave them. No I/O."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

# What would end the request line, or has no byte of its own in it.
_UNSENDABLE = re.compile(r"[^\x21-\x7e]")


def exact_url(url: str) -> URL:
    """The URL for a request that goes out byte for byte: its signature may cover its very spelling.

    Spaces, control characters and non-ASCII characters, which no request line can hold, are percent-encoded;
    a host in other letters is written in IDNA. A fragment is not sent.

    Raises:
        aiohttp.InvalidURL: It is no ``http`` or ``https`` URL with a host.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("no http URL with a host")
        if not parts.netloc.isascii():
            url = url.replace(parts.netloc, URL(f"{parts.scheme}://{parts.netloc}").raw_authority, 1)
        exact = URL(_UNSENDABLE.sub(_percent_encoded, url), encoded=True)
        # What a resolver would raise, as a UnicodeError, for a label that is empty or too long.
        (exact.raw_host or "").rstrip(".").encode("idna")
        if exact.scheme.lower() not in ("http", "https") or not exact.raw_host or exact.port == 0:
            raise ValueError("no http URL with a host")
        return exact
    except ValueError:
        raise aiohttp.InvalidURL(url) from None


def redirected(url: str, location: str) -> str:
    """The address that a Location header names, relative to the address that answered with it.

    Raises:
        aiohttp.InvalidURL: It is none.
    """
    if location.startswith(("http://", "https://")):
        return location
    try:
        return urljoin(url, location)
    except ValueError:
        raise aiohttp.InvalidURL(location) from None


def _percent_encoded(found: re.Match[str]) -> str:
    # aiohttp gives the bytes of a header that are not UTF-8 as surrogates.
    try:
        raw = found[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = found[0].encode("utf-8", "replace")
    return "".join(f"%{byte:02X}" for byte in raw)
