"""Why a request failed, in words for people: aiohttp's own are for its developers, or hold whole URLs."""

from __future__ import annotations

import asyncio
import os
from functools import singledispatch

import aiohttp

# OSError maps an errno to these; others (gaierror, SSLError) number their errors in their own way.
_NUMBERED_BY_THE_SYSTEM = {
    OSError,
    BrokenPipeError,
    ConnectionAbortedError,
    ConnectionRefusedError,
    ConnectionResetError,
    TimeoutError,
}


@singledispatch
def in_words(error: Exception) -> str:
    """The cause of a failed request, as the end of a sentence. It never holds a URL, a header or a password.

    Args:
        error: What aiohttp or the operating system raised; any other exception gives its own text.
    """
    return _first_line(str(error)) or type(error).__name__


@in_words.register
def _(error: aiohttp.ClientConnectorError) -> str:
    return f"{error.host}:{error.port} does not answer ({_system(error.os_error)})"


@in_words.register
def _(error: aiohttp.ClientConnectorDNSError) -> str:
    return f"no address is known for the name {error.host}, or this machine is offline"


@in_words.register
def _(error: aiohttp.ClientProxyConnectionError) -> str:
    return f"the proxy {error.host}:{error.port} does not answer ({_system(error.os_error)})"


@in_words.register
def _(error: aiohttp.ClientHttpProxyError) -> str:
    return f"the proxy refused with HTTP {error.status} {_first_line(error.message)}".rstrip()


@in_words.register
def _(error: aiohttp.ClientConnectorSSLError) -> str:
    return f"{error.host}:{error.port} does not speak TLS as https:// needs it ({_system(error.os_error)})"


@in_words.register
def _(error: aiohttp.ClientConnectorCertificateError) -> str:
    reason = getattr(error.certificate_error, "verify_message", "") or _system(error.certificate_error)
    return f"the certificate of {error.host}:{error.port} is not trusted ({reason})"


@in_words.register
def _(error: aiohttp.ServerDisconnectedError) -> str:
    return "the connection was closed before an answer came"


@in_words.register
def _(error: aiohttp.ClientPayloadError) -> str:
    return "the answer broke off"


@in_words.register
def _(error: aiohttp.ClientResponseError) -> str:
    return f"what came back is not an HTTP answer ({_first_line(error.message).rstrip(':')})"


@in_words.register(asyncio.TimeoutError)
def _(error: Exception) -> str:
    return "no answer came in time"


@in_words.register
def _(error: OSError) -> str:
    return _system(error)


def _system(error: BaseException) -> str:
    """The operating system's words; asyncio replaces them by its own for a failed connect."""
    if isinstance(error, OSError) and error.errno is not None and type(error) in _NUMBERED_BY_THE_SYSTEM:
        return os.strerror(error.errno).lower()
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return _first_line(str(text)).replace("_", " ").lower() or type(error).__name__


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
