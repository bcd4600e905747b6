"""Probes of this machine and of the way to the sequencer; nothing is sent with the key."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from datetime import timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from urllib.parse import urlsplit

import aiohttp

from ...config import Settings, may_have_key, without_login
from ...errors import ConfigurationError, JournalError
from ...journal import Journal
from ...network.failure_text import describe_failure
from ...network.sessions import certificates, proxy_for, shared_session
from ..formats import short_path
from .findings import (
    Finding,
    Handshake,
    address_finding,
    answers_finding,
    clock_finding,
    failed,
    folder_finding,
    key_finding,
    proxy_finding,
    tls_finding,
)

PROBE_SECONDS = 15.0


def key(settings: Settings) -> Finding:
    """The form of the key."""
    return key_finding(settings.api_key.get_secret_value() if settings.api_key is not None else None)


def folder(settings: Settings, journal: Journal) -> Finding:
    """Whether the journal and the folder of results can be written, and how much room there is. Blocking."""
    problem: JournalError | None = None
    try:
        Journal.open(journal.path, journal.results.root, patience=5.0).close()
        problem = journal.results.refusal()
    except JournalError as error:
        problem = error
    free = 0 if problem is not None else shutil.disk_usage(settings.state_dir).free
    return folder_finding(short_path(settings.state_dir), free, problem)


async def way(settings: Settings) -> list[Finding]:
    """The proxy, the sequencer's address, TLS, whether anything answers there, and its clock."""
    parts = urlsplit(settings.workflow_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme.lower() == "https" else 80)
    try:
        proxy = await asyncio.to_thread(proxy_for, settings.workflow_url, settings.proxy)
    except ConfigurationError as error:
        return [failed("proxy", error)]
    by_proxy = proxy is not None
    found = [proxy_finding(None if proxy is None else without_login(proxy))]
    addresses, reason = await _addresses(host, port)
    found.append(address_finding(host, addresses, by_proxy=by_proxy, reason=reason))
    if not addresses and not by_proxy:
        return found
    scheme = parts.scheme.lower()
    may = may_have_key(settings.workflow_url, settings.allow_http)
    handshake: Handshake | None = None
    if scheme == "https" and not by_proxy:
        handshake, reason = await _handshake(host, port, settings.ca)
    found.append(tls_finding(scheme, handshake, may_have_key=may, by_proxy=by_proxy, reason=reason))
    status, ahead, reason = await _root(settings.workflow_url, proxy, settings.ca)
    found.append(answers_finding(status, reason))
    if status is not None:
        found.append(clock_finding(ahead))
    return found


async def _addresses(host: str, port: int) -> tuple[list[str], str]:
    looking = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.wait_for(looking, PROBE_SECONDS)
    except (OSError, UnicodeError) as error:
        return [], getattr(error, "strerror", None) or str(error)
    except asyncio.TimeoutError:
        return [], "the name server does not answer"
    return list(dict.fromkeys(str(each[4][0]) for each in found)), ""


async def _handshake(host: str, port: int, ca: Path | None) -> tuple[Handshake | None, str]:
    context = certificates(ca)
    try:
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(
                host,
                port,
                ssl=context if isinstance(context, ssl.SSLContext) else ssl.create_default_context(),
                server_hostname=host,
            ),
            PROBE_SECONDS,
        )
    except asyncio.TimeoutError:
        return None, "no connection was made in time"
    except (OSError, ssl.SSLError) as error:
        return None, describe_failure(error)
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert() or {}
        ends = ssl.cert_time_to_seconds(str(certificate.get("notAfter", "Jan  1 00:00:00 1970 GMT")))
        return Handshake(str(tls.version()), _issuer(certificate), (ends - time()) / 86400), ""
    finally:
        writer.close()


def _issuer(certificate: object) -> str:
    parts = certificate.get("issuer", ()) if isinstance(certificate, dict) else ()
    names = {name: value for group in parts for name, value in group}
    return str(names.get("organizationName") or names.get("commonName") or "an unnamed authority")


async def _root(url: str, proxy: str | None, ca: Path | None) -> tuple[int | None, float | None, str]:
    """The status of the sequencer's root, how far this clock is ahead, and why there is no answer."""
    session = shared_session(ca)
    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    try:
        began = time()
        async with session.get(url, proxy=proxy, timeout=timeout, allow_redirects=False) as response:
            middle = (began + time()) / 2
            return response.status, _ahead(response.headers.get("Date"), middle), ""
    except Exception as error:  # noqa: BLE001 - whatever a stranger's answer does to the parser
        return None, None, describe_failure(error)
    finally:
        await session.close()


def _ahead(date: str | None, now: float) -> float | None:
    try:
        told = parsedate_to_datetime(date or "")
    except (TypeError, ValueError):
        return None
    told = told if told.tzinfo else told.replace(tzinfo=timezone.utc)
    # The header has whole seconds.
    return now - (told.timestamp() + 0.5)
