"""Addresses keep the spelling that the network gave them, in requests and after redirects."""

from __future__ import annotations

import aiohttp
import pytest

from xalora_client.network.addresses import exact_url, redirected
from xalora_client.network.sessions import environment_proxy


@pytest.mark.parametrize(
    "target",
    [
        "/b/o.png?Expires=1&Signature=a%2Fb%2Bc%3D%3D",
        "/b/it%27s%20%28me%29.png?sig=abc",
        "/b/o.png?sig=a%7Eb",
        "/a%2fb/c%3Ad.png?x=%3a",
        "/a+b.png?x=1+2&y=%2B",
        "/a/../b/./c//d.png",
        "/100%.png?p=%zz",
        "/a.png?x=[1]|{2}\\^`",
        "/a.png?a=1&a=2;b=&&c",
    ],
)
def test_a_request_target_goes_out_byte_for_byte(target: str) -> None:
    url = exact_url(f"https://h.example:8443{target}")
    assert url.raw_path_qs == target
    assert (url.scheme, url.host, url.port) == ("https", "h.example", 8443)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h/a b.png?x=y z", "/a%20b.png?x=y%20z"),
        ("http://h/ä%20€.png", "/%C3%A4%20%E2%82%AC.png"),
        ("http://h/a\r\nX: y.png", "/a%0D%0AX:%20y.png"),
        ("http://h/a\udcff.png", "/a%FF.png"),
        ("http://h/a\ud83d.png", "/a%3F.png"),
        ("http://h/a.png#part", "/a.png"),
        ("http://h", "/"),
    ],
)
def test_only_what_no_request_line_can_hold_is_encoded(url: str, target: str) -> None:
    assert exact_url(url).raw_path_qs == target


def test_a_host_in_other_letters_is_sent_in_idna() -> None:
    url = exact_url("http://bücher.example:81/ü%2F.png")
    assert (url.raw_host, url.port, url.raw_path_qs) == ("xn--bcher-kva.example", 81, "/%C3%BC%2F.png")


@pytest.mark.parametrize(
    "url",
    ["ftp://h/a", "/a.png", "http://", "http:///a", "http://h:x/", "http://[::1/a", "http://h:99999/", ""],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(aiohttp.InvalidURL):
        exact_url(url)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("https://cdn.example/a%2Fb?s=%7E", "https://cdn.example/a%2Fb?s=%7E"),
        ("/a%2Fb?s=%7E", "https://h/a%2Fb?s=%7E"),
        ("b.png?s=%3A", "https://h/x/b.png?s=%3A"),
        ("//cdn.example/a%2Fb", "https://cdn.example/a%2Fb"),
    ],
)
def test_a_redirect_keeps_its_spelling(location: str, url: str) -> None:
    assert redirected("https://h/x/y.png?z=1", location) == url


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST", "box.localhost", "[::1]", "localhost."]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_reached_without_a_proxy(
    host: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "10.0.0.0/8")
    assert environment_proxy(f"{scheme}://{host}:8188/x") is None
    assert environment_proxy(f"{scheme}://h.example/x") == "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("excepted", "url", "is_excepted"),
    [
        ("10.0.0.0/8", "http://10.1.2.3/x", True),
        ("10.0.0.0/8", "http://11.1.2.3/x", False),
        ("fd00::/8,192.168.0.1", "http://[fd00::7]/x", True),
        ("[fd00::1]", "http://[fd00::1]:9000/x", True),
        ("10.1.2.3:9000", "http://10.1.2.3:9000/x", True),
        ("10.1.2.3:9000", "http://10.1.2.3:9001/x", False),
        ("a.example.com:443", "https://a.example.com/x", True),
        ("a.example.com:443", "http://a.example.com/x", False),
        ("*.example.com", "http://a.example.com/x", True),
        ("*.example.com", "http://badexample.com/x", False),
        ("one.example two.example", "http://two.example/x", True),
        ("example.com", "http://example.com./x", True),
        ("one.example, *", "http://two.example/x", True),
        ("", "http://two.example/x", False),
    ],
)
def test_no_proxy_in_the_forms_that_others_know(
    monkeypatch: pytest.MonkeyPatch, excepted: str, url: str, is_excepted: bool
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, excepted)
    assert (environment_proxy(url) is None) is is_excepted
