"""Why a request failed, in words for people: aiohttp's own texts are for its developers, or hold whole URLs."""

from __future__ import annotations

import asyncio
import os

import aiohttp


def in_words(error: Exception) -> str:
    """The cause of a failed request, as the end of a sentence. It never holds a URL, a header or a password.

    Args:
        error: What aiohttp or the operating system raised; any other exception gives its own text.
    """
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {_place(error)} does not answer ({_system(error.os_error)})"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused with HTTP {error.status} {_first_line(error.message)}".rstrip()
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no address is known for the name {error.host}, or this machine is offline"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or _system(error.certificate_error)
        return f"the certificate of {_place(error)} is not trusted ({reason})"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"{_place(error)} does not speak TLS as https:// needs it ({_system(error.os_error)})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{_place(error)} does not answer ({_system(error.os_error)})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer came"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"what came back is not an HTTP answer ({_first_line(error.message).rstrip(':')})"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer came in time"
    if isinstance(error, OSError):
        return _system(error)
    return _first_line(str(error)) or type(error).__name__


def _place(error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> str:
    return f"{error.host}:{error.port}"


def _system(error: BaseException) -> str:
    """The operating system's words; asyncio replaces them by its own for a failed connect."""
    if isinstance(error, OSError) and error.errno is not None and type(error) in _PLAIN_OS_ERRORS:
        return os.strerror(error.errno).lower()
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return _first_line(str(text)).replace("_", " ").lower() or type(error).__name__


# OSError maps an errno to these; others (gaierror, SSLError) number their errors in their own way.
_PLAIN_OS_ERRORS = {
    OSError,
    BrokenPipeError,
    ConnectionAbortedError,
    ConnectionRefusedError,
    ConnectionResetError,
    TimeoutError,
}


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
