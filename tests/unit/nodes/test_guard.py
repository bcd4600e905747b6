"""The guard of the routes: which requests are answered, and which refused."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def guard(pack: ModuleType) -> Any:
    return import_module(f"{pack.__name__}.nodes.sidebar.guard")


OURS = {"Host": "127.0.0.1:8188", "X-Xalora": "1", "Content-Type": "application/json"}


def refused(
    guard: Any, method: str = "POST", allowed: frozenset[str] = frozenset(), **changes: str | None
) -> int:
    """The status of the refusal of our own request with these headers changed; 0 where it is let through."""
    headers = {**OURS, **{name.replace("_", "-"): value for name, value in changes.items()}}
    refusal = guard.refusal(method, {name: v for name, v in headers.items() if v is not None}, allowed)
    return 0 if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8188", None),
        ("127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("localhost:8188", "http://localhost:8188"),
        ("LocalHost:8188", "http://localhost:8188"),
        ("[::1]:8188", "http://[::1]:8188"),
        ("192.168.1.7:8188", "http://192.168.1.7:8188"),
        ("workstation:8188", "http://workstation:8188"),
        ("workstation.local:8188", "http://workstation.local:8188"),
        ("comfy.example.com", "https://comfy.example.com"),
        ("comfy.example.com:443", "https://comfy.example.com"),
        ("127.0.0.1", "http://127.0.0.1:80"),
    ],
)
def test_comfyuis_own_page_is_let_through(guard: Any, host: str, origin: str | None) -> None:
    assert refused(guard, Host=host, Origin=origin) == 0


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "https://127.0.0.1:8188.evil.example",
        "http://127.0.0.1:8189",
        "http://127.0.0.1",
        "https://127.0.0.1:8187",
        "file://",
        "http://",
        "chrome-extension://abcdef",
        "http://127.0.0.1:notaport",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_origins_are_refused(guard: Any, method: str, origin: str) -> None:
    assert refused(guard, method, Origin=origin) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_the_browser_calls_foreign_is_refused(guard: Any, method: str, site: str) -> None:
    assert refused(guard, method, Sec_Fetch_Site=site) == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_what_the_browser_calls_ours_is_let_through(guard: Any, site: str) -> None:
    assert refused(guard, Sec_Fetch_Site=site) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(guard: Any, method: str) -> None:
    evil = {"Host": "evil.example:8188", "Origin": "http://evil.example:8188"}
    assert refused(guard, method, **evil) == 403
    assert refused(guard, method, Host="evil.example:8188") == 403
    assert refused(guard, method, Host="127.0.0.1.evil.example:8188") == 403
    assert refused(guard, method, Host="") == 403
    assert refused(guard, method, Host=None) == 403
    assert refused(guard, method, **evil, allowed=frozenset({"evil.example"})) == 0


def test_a_name_behind_https_is_let_through(guard: Any) -> None:
    """GET has no origin there, but browsers mark it, and only over https."""
    assert refused(guard, "GET", Host="comfy.example.com", Sec_Fetch_Site="same-origin") == 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"X_Xalora": None}, 403),
        ({"X_Xalora": "0"}, 403),
        ({"Content_Type": None}, 415),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=application/json"}, 415),
        ({"Content_Type": "Application/JSON; charset=utf-8"}, 0),
    ],
)
def test_a_change_carries_what_no_form_can(guard: Any, changes: dict[str, str | None], status: int) -> None:
    assert refused(guard, **changes) == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_changes_too(guard: Any, method: str) -> None:
    assert refused(guard, method, X_Xalora=None) == 403


def test_looking_needs_no_marks(guard: Any) -> None:
    assert refused(guard, "GET", X_Xalora=None, Content_Type=None) == 0


PAGE = frozenset({"https://comfy.example.com"})


@pytest.mark.parametrize("host", ["127.0.0.1:8188", "backend.example.com", "backend"])
def test_a_page_behind_a_proxy_that_changes_the_host_may_be_named(guard: Any, host: str) -> None:
    headers = {**OURS, "Host": host, "Origin": "https://Comfy.example.com", "Sec-Fetch-Site": "same-origin"}
    assert guard.refusal("POST", headers).status == 403
    assert "XALORA_ALLOWED_ORIGINS" in guard.refusal("POST", headers).reason
    assert guard.refusal("POST", headers, frozenset(), PAGE) is None
    headers["Origin"] = "https://evil.example"
    assert guard.refusal("POST", headers, frozenset(), PAGE).status == 403
    headers["Origin"] = "https://comfy.example.com"
    headers["Sec-Fetch-Site"] = "cross-site"
    assert guard.refusal("POST", headers, frozenset(), PAGE).status == 403
    del headers["X-Xalora"], headers["Sec-Fetch-Site"]
    assert guard.refusal("POST", headers, frozenset(), PAGE).status == 403
