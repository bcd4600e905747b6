"""Refusal of requests that another website may have made. No I/O.

ComfyUI has no login, so a page on any website can send requests to the user's ComfyUI. The attacks, and the
defence against each:

- Forms, images, `fetch` from a foreign page: the browser names the page's origin, or says ``cross-site``.
  Only POST changes state, with a JSON body and a header of our own, which a foreign page can't send without a
  CORS preflight (and ComfyUI's `--enable-cors-header` does not allow our header).
- Sandboxed frames and local files: their origin is ``null``, which is refused like a foreign origin.
- DNS rebinding: the attacker's own name resolves to this machine, so that origin and host agree. The host
  must be an address, a name that nobody can register, or one that the user allows. Over https every name is
  accepted, because the attacker has no certificate for this server or the proxy in front of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Set
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

MARKER = "X-Xalora"
"""The header of requests that change state, with the value ``1``."""

ALLOWED_HOSTS_VARIABLE = "XALORA_ALLOWED_HOSTS"
ALLOWED_ORIGINS_VARIABLE = "XALORA_ALLOWED_ORIGINS"

# Nobody can register names with these suffixes, so no attacker's name has one.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa", ".test")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Refusal:
    """The HTTP status and the reason, in one sentence for the user."""

    status: int
    reason: str


def refusal(
    method: str,
    headers: Mapping[str, str],
    allowed_hosts: Set[str] = frozenset(),
    allowed_origins: Set[str] = frozenset(),
) -> Refusal | None:
    """The refusal of a request, None for one that is answered.

    Args:
        method: ``GET``, ``POST``...
        headers: The request's headers, with case-insensitive names.
        allowed_hosts: Host names that the user allows, in lower case.
        allowed_origins: Origins of pages that the user allows, in lower case: ComfyUI's own, behind a proxy
            that changes the Host header.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    site = headers.get("Sec-Fetch-Site")
    is_allowed = origin is not None and origin.lower() in allowed_origins
    if origin is not None and not is_allowed and not _same(origin, host):
        return Refusal(
            403,
            "This request comes from another website. If it is ComfyUI's own, and a proxy changes the "
            f"Host header, name the page's origin in {ALLOWED_ORIGINS_VARIABLE}.",
        )
    if site not in (None, "same-origin", "none"):
        return Refusal(403, "This request comes from another website.")
    if not is_allowed and not _is_safe_name(host, allowed_hosts) and not _is_secure(origin, site):
        return Refusal(
            403,
            f"ComfyUI was opened by a name that another website could also use: {_hostname(host)!r}. Open it "
            f"by its address, or name the host in {ALLOWED_HOSTS_VARIABLE}.",
        )
    return None if method in ("GET", "HEAD") else _unmarked(headers)


def _unmarked(headers: Mapping[str, str]) -> Refusal | None:
    if headers.get(MARKER) != "1":
        return Refusal(403, f"Only requests with the header {MARKER}: 1 change state.")
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        return Refusal(415, "The request's body must be JSON.")
    return None


def _same(origin: str, host: str) -> bool:
    """Whether a page of this origin was loaded from this host."""
    page = _split(origin)
    if page is None or page.scheme not in _PORTS or not page.hostname:
        return False
    default = _PORTS[page.scheme]
    asked = _split(f"//{host}")
    if asked is None or not asked.hostname:
        return False
    return (page.hostname, page.port or default) == (asked.hostname, asked.port or default)


def _is_safe_name(host: str, allowed: Set[str]) -> bool:
    name = _hostname(host)
    if not name:
        return False
    if name in allowed or "." not in name.rstrip(".") or name.endswith(_PRIVATE_SUFFIXES):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_secure(origin: str | None, site: str | None) -> bool:
    # Browsers send Sec-Fetch-Site to https and to this machine only, and no script can forge it.
    return site in ("same-origin", "none") or (origin or "").startswith("https://")


def _hostname(host: str) -> str:
    asked = _split(f"//{host}")
    return (asked.hostname or "") if asked is not None else ""


def _split(url: str) -> SplitResult | None:
    try:
        split = urlsplit(url)
        _ = split.port
    except ValueError:
        return None
    return split
