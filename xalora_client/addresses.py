"""What an address says beside where to go: the login in it, and whether it leaves this machine. No I/O."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_LOGIN = re.compile(r"(?<=://)[^/?#]*@")


def without_login(url: str) -> str:
    """``https://user:password@host/path`` as ``https://host/path``: how an address is shown and compared."""
    return _LOGIN.sub("", url, count=1)


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine by its name alone; nothing is looked up."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
