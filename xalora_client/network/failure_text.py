"""Texts for failed requests; aiohttp's own address developers, or contain URLs with secrets."""

from __future__ import annotations

import asyncio
import os
import re

import aiohttp

# OSError maps an errno to these; others (gaierror, SSLError) have error numbers of their own.
_NUMBERED_BY_THE_SYSTEM = {
    OSError,
    BrokenPipeError,
    ConnectionAbortedError,
    ConnectionRefusedError,
    ConnectionResetError,
    TimeoutError,
}

_QUOTE = re.compile(r"[:'\"]|\bb['\"]")


def describe_failure(error: Exception) -> str:
    """The cause of a failed request, as the end of a sentence. It contains no URL, header or password.

    Args:
        error: From aiohttp or the operating system; any other exception gives its own text.
    """
    match error:
        case aiohttp.ClientConnectorDNSError():
            text = f"no address is known for the name {error.host}, or this machine is offline"
        case aiohttp.ClientProxyConnectionError():
            text = f"the proxy {error.host}:{error.port} does not answer ({_system(error.os_error)})"
        case aiohttp.ClientConnectorSSLError():
            reason = _system(error.os_error)
            text = f"{error.host}:{error.port} does not speak TLS as https:// needs it ({reason})"
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            reason = getattr(cause, "verify_message", "") or _system(cause)
            text = (
                f"the certificate of {error.host}:{error.port} is not trusted ({reason}; XALORA_CA names an "
                "authority of your own)"
            )
        case aiohttp.ClientConnectorError():
            text = f"{error.host}:{error.port} does not answer ({_system(error.os_error)})"
        case aiohttp.ServerDisconnectedError():
            text = "the connection was closed before an answer came"
        case aiohttp.ClientPayloadError():
            text = "the answer broke off"
        case aiohttp.ClientHttpProxyError():
            text = f"the proxy refused with HTTP {error.status} {_first_line(error.message)}".rstrip()
        case aiohttp.ClientResponseError():
            # Up to where it quotes what came, such as a third party's header.
            reason = _QUOTE.split(_first_line(error.message), maxsplit=1)[0].strip()
            text = f"what came back is not an HTTP answer ({reason or error.status})"
        case asyncio.TimeoutError():
            text = "no answer came in time"
        case OSError():
            text = _system(error)
        case _:
            text = _first_line(str(error)) or type(error).__name__
    return text


def _system(error: BaseException) -> str:
    """The operating system's text; asyncio puts its own in place of it when a connect fails."""
    if isinstance(error, OSError) and error.errno is not None and type(error) in _NUMBERED_BY_THE_SYSTEM:
        return os.strerror(error.errno).lower()
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return _first_line(str(text)).replace("_", " ").lower() or type(error).__name__


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""
