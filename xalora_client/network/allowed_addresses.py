"""Which addresses a result may be fetched from: public ones, and those that the user chose. No I/O."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from yarl import URL

from ..config import is_this_machine

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Names of this machine and its own network; of what a proxy is asked for, nobody here sees the address.
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")

# IPv4 addresses inside IPv6 ones: NAT64, IPv4-compatible; ipaddress itself knows mapped, 6to4 and Teredo.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")

own_ports: set[int] = set()
"""Ports that this very process serves, such as ComfyUI's; no result is fetched from them."""


class RefusedAddressError(Exception):
    """An address from outside that is not asked; the text says why, without naming where a redirect leads."""


@dataclass(frozen=True)
class Destinations:
    """The addresses that results may be fetched from.

    Args:
        bases: The user's own base URLs: of the sequencer, of results. Their hosts are asked, at their ports,
            whatever they resolve to.
        hosts: Other hosts that the user allows although they are not public: ``host`` or ``host:port``.
        closed: Addresses that are never asked: of the user's ComfyUI.
    """

    bases: tuple[URL, ...] = ()
    hosts: frozenset[str] = frozenset()
    closed: tuple[URL, ...] = ()

    def checked(self, url: URL, *, by_proxy: bool = False) -> URL:
        """The address to ask: without a login, unless it is the user's own.

        Args:
            by_proxy: A proxy resolves the name, so that only the name itself can be judged.

        Raises:
            RefusedAddressError: It is not asked.
        """
        host, port = _host(url), url.port or 0
        literal = literal_address(host)
        if literal is not None:
            self.check(host, port, [literal])
        elif by_proxy and _is_local_name(host) and not self._is_chosen(host, port):
            raise RefusedAddressError(_REASON)
        if url.raw_user is None and url.raw_password is None:
            return url
        own = any(_place(url) == _place(base) and _login(url) == _login(base) for base in self.bases)
        return url if own else url.with_user(None)

    def check(self, host: str, port: int, addresses: Iterable[str | _Address]) -> None:
        """Check what a host's name resolves to, before any of it is connected to.

        Raises:
            RefusedAddressError: One of the addresses is not public, and the user did not choose the host.
        """
        host = host.lower().rstrip(".")
        found = [_parsed(address) for address in addresses]
        if (_one_name(host), port) in map(_place, self.closed):
            raise RefusedAddressError(_REASON)
        if port in own_ports and any(_is_of_this_machine(address) for address in found):
            raise RefusedAddressError(_REASON)
        if not self._is_chosen(host, port) and not all(is_public(address) for address in found):
            raise RefusedAddressError(_REASON)

    def _is_chosen(self, host: str, port: int) -> bool:
        named = f"[{host}]" if ":" in host else host
        listed = not self.hosts.isdisjoint((host, named, f"{named}:{port}"))
        return listed or (_one_name(host), port) in map(_place, self.bases)


_REASON = "its address is on this machine or in a private network"


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public internet, inside other forms of addresses as well."""
    inner = _inner(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv6Address) and (address.is_site_local or address in _LOCAL_NAT64):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def literal_address(host: str) -> _Address | None:
    """The address that a host is written as, in any spelling that the system's resolver takes for one."""
    name = host.strip("[]").rstrip(".")
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:
        # 127.1, 0x7f.1, 2130706433, 0177.0.0.1
        return ipaddress.IPv4Address(socket.inet_aton(name)) if name.isascii() and name else None
    except (OSError, ValueError):
        return None


def _inner(address: _Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _parsed(address: str | _Address) -> _Address:
    return ipaddress.ip_address(address) if isinstance(address, str) else address


def _is_of_this_machine(address: _Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Nothing is sent; only an address of this machine can be bound.
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _is_local_name(host: str) -> bool:
    return "." not in host or host.endswith(_LOCAL_SUFFIXES)


def _host(url: URL) -> str:
    return (url.raw_host or "").lower().rstrip(".")


def _login(url: URL) -> tuple[str | None, str | None]:
    return url.raw_user, url.raw_password


def _place(url: URL) -> tuple[str, int]:
    return _one_name(_host(url)), url.port or 0


def _one_name(host: str) -> str:
    """One name for this machine, which a sequencer calls 127.0.0.1 and its user localhost."""
    return "localhost" if is_this_machine(host.strip("[]")) else host
