"""Which addresses results may come from: public ones, the user's own, and those that the user lists."""

from __future__ import annotations

import socket

import pytest
from yarl import URL

from xalora_client.network import allowed_addresses
from xalora_client.network.addresses import exact_url
from xalora_client.network.allowed_addresses import Destinations, RefusedAddressError

PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
]
PUBLIC = ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused_as_a_literal_and_as_what_a_name_resolves_to(
    address: str,
) -> None:
    allowed = Destinations((URL("https://seq.example"),))
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(RefusedAddressError):
        allowed.checked(URL(f"http://{literal}:8/x.png", encoded=True))
    with pytest.raises(RefusedAddressError):
        allowed.check("store.example", 443, ["8.8.8.8", address])


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_asked(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    assert Destinations().checked(URL(f"http://{literal}/x.png", encoded=True)).raw_path == "/x.png"
    Destinations().check("store.example", 443, [address])


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "0x7f000001", "127.1", "0", "127.0.0.1."])
def test_any_spelling_of_an_address_is_one(host: str) -> None:
    with pytest.raises(RefusedAddressError):
        Destinations().checked(URL(f"http://{host}:8/x.png", encoded=True))


def test_full_width_digits_are_an_address() -> None:
    with pytest.raises(RefusedAddressError):
        Destinations().checked(exact_url("http://\uff11\uff12\uff17.0.0.1/x.png"))


@pytest.mark.parametrize(
    ("base", "url", "may"),
    [
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000/files/a.png", True),
        ("http://10.0.0.5:8000/deep", "http://10.0.0.5:8000/other.png", True),
        ("http://10.0.0.5:8000", "http://10.0.0.5:8001/a.png", False),
        ("https://10.0.0.5", "http://10.0.0.5/a.png", False),
        ("http://10.0.0.5:8000", "http://10.0.0.6:8000/a.png", False),
        ("http://localhost:8000", "http://127.0.0.1:8000/a.png", True),
        ("http://127.0.0.1:8000", "http://[::1]:8000/a.png", True),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8001/a.png", False),
        ("http://10.0.0.5", "http://10.0.0.5:80/a.png", True),
    ],
)
def test_of_private_addresses_only_the_users_own_are_asked(base: str, url: str, may: bool) -> None:
    allowed = Destinations((URL(base),))
    if may:
        assert allowed.checked(URL(url)) == URL(url)
    else:
        with pytest.raises(RefusedAddressError):
            allowed.checked(URL(url))


@pytest.mark.parametrize(
    ("listed", "port", "may"),
    [("10.0.0.6", 1, True), ("10.0.0.6:8", 8, True), ("10.0.0.6:8", 9, False), ("10.0.0.7", 8, False)],
)
def test_a_listed_host_is_asked(listed: str, port: int, may: bool) -> None:
    allowed = Destinations(hosts=frozenset({listed}))
    url = URL(f"http://10.0.0.6:{port}/a.png")
    if may:
        assert allowed.checked(url) == url
    else:
        with pytest.raises(RefusedAddressError):
            allowed.checked(url)
    named = Destinations(hosts=frozenset({"nas.home.arpa", "[fd00::1]"}))
    named.check("NAS.home.arpa.", 80, ["192.168.1.9"])
    named.checked(URL("http://[fd00::1]:80/a.png"))


@pytest.mark.parametrize("name", ["localhost", "x.localhost", "nas", "nas.local", "a.internal", "fritz.lan"])
def test_names_of_the_own_network_are_not_asked_for_through_a_proxy(name: str) -> None:
    url = URL(f"http://{name}/a.png")
    with pytest.raises(RefusedAddressError):
        Destinations().checked(url, by_proxy=True)
    assert Destinations(hosts=frozenset({name})).checked(url, by_proxy=True) == url
    assert Destinations().checked(URL("http://a.example/"), by_proxy=True) == URL("http://a.example/")


def test_a_login_is_sent_to_nobody_but_the_users_own_base() -> None:
    allowed = Destinations((URL("https://bob:word@seq.example/files"),))
    own = URL("https://bob:word@seq.example/files/a%2Fb.png", encoded=True)
    assert allowed.checked(own) is own
    for url in ("https://eve:x@seq.example/a%2Fb.png", "https://bob:word@other.example/a%2Fb.png"):
        checked = allowed.checked(URL(url, encoded=True))
        assert (checked.raw_user, checked.raw_password, checked.raw_path) == (None, None, "/a%2Fb.png")


def test_a_port_of_this_very_program_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed_addresses, "own_ports", {8188})
    allowed = Destinations((URL("http://127.0.0.1:8188"),), frozenset({"127.0.0.1", "10.255.255.1"}))
    for host in ("127.0.0.1", "localhost", "[::1]", "127.1"):
        with pytest.raises(RefusedAddressError):
            allowed.checked(URL(f"http://{host}:8188/view", encoded=True))
            allowed.check(host, 8188, ["127.0.0.1"])
    # Another machine's port of the same number is another's.
    allowed.checked(URL("http://10.255.255.1:8188/view"))
    here = socket.gethostbyname(socket.gethostname())
    with pytest.raises(RefusedAddressError):
        allowed.check("public-name.example", 8188, [here])


def test_the_users_comfyui_is_never_asked() -> None:
    allowed = Destinations(hosts=frozenset({"10.0.0.6"}), closed=(URL("http://10.0.0.6:8188"),))
    allowed.checked(URL("http://10.0.0.6:9000/a.png"))
    with pytest.raises(RefusedAddressError):
        allowed.checked(URL("http://10.0.0.6:8188/view"))
