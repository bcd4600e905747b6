"""Texts and JSON from outside are printable, bounded and without the key before anything keeps them."""

from __future__ import annotations

from typing import Any

import pytest

from xalora_client.config import Credentials
from xalora_client.network.outside import (
    ID_LIMIT,
    NESTING_LIMIT,
    cleaned,
    has_content_coding,
    is_bounded,
    printable,
    task_id_in,
    without_key,
)

KEY = "CANARYKEY0123456789"
ALICE = Credentials("alice", KEY)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("\x1b]0;pwned\x07\x1b[2J\x1b[31mred", "]0;pwned [2J [31mred"),
        ("a\r\nINFO forged\n\tline", "a INFO forged line"),
        ("a\x00b\x7fc\x9b31m\u202egnp.exe\u2028x", "a b c 31m gnp.exe x"),
        ("half \ud800 of one", "half of one"),
        ("Zürich 東京 🙂", "Zürich 東京 🙂"),
        ("<img src=x>", "<img src=x>"),
        ("x" * 50, "x" * 17 + "..."),
        (" " * 10_000_000 + "x", ""),
    ],
)
def test_a_text_is_one_printable_line(text: str, shown: str) -> None:
    assert printable(text, 20 if len(text) > 40 else 100) == shown


def test_json_is_cleaned_in_every_part_and_shortened() -> None:
    value = {"a\nb": ["\x1b[31m", {"c": "\u202e"}, 5, None, True], "long": ["x"] * 5000}
    clean = cleaned(value)
    assert clean["a b"] == ["[31m", {"c": ""}, 5, None, True]
    assert len(clean["long"]) == 1000


def nested(depth: int, kind: type[Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"url": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
def test_json_is_nested_so_deep_and_no_deeper(kind: type[Any]) -> None:
    assert is_bounded({"result": nested(NESTING_LIMIT, kind)})
    assert not is_bounded({"result": nested(NESTING_LIMIT + 1, kind)})


@pytest.mark.parametrize("said", ["t-1", "<b>", "a b", "x" * ID_LIMIT, "東京"])
def test_an_id_is_kept_as_it_came(said: str) -> None:
    assert task_id_in({"task_id": said}, ALICE) == said


def test_a_number_is_an_id() -> None:
    assert task_id_in({"task_id": 7}, ALICE) == "7"


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        True,
        1.5,
        ["x"],
        {"a": 1},
        "a\nb",
        "\x1b[31m",
        "\ud800",
        "x" * (ID_LIMIT + 1),
        f"t-{KEY}",
        " x",
    ],
)
def test_what_can_not_be_kept_is_no_id(said: Any) -> None:
    assert task_id_in({"task_id": said}, ALICE) is None


def test_a_key_is_nowhere_in_an_answer() -> None:
    value = {"a": [f"x {KEY}", {f"{KEY}": f"alice#{KEY}"}]}
    assert without_key(value, ALICE) == {"a": ["x [key]", {"[key]": "[key]"}]}


def test_a_key_too_short_to_be_secret_leaves_addresses_alone() -> None:
    short = Credentials("devnet", "devnet")
    assert without_key("http://h/devnet/x.png", short, hides_short=False) == "http://h/devnet/x.png"
    assert without_key("no: devnet", short) == "no: [key]"
    assert task_id_in({"task_id": "devnet-1"}, short) == "devnet-1"


@pytest.mark.parametrize(
    ("lines", "coded"),
    [
        ([], False),
        (["identity"], False),
        (["gzip"], True),
        (["identity", "br"], True),
        (["GZip, gzip"], True),
        (["aws-chunked", "utf-8"], False),
        (["aws-chunked,gzip"], True),
    ],
)
def test_content_codings_are_told(lines: list[str], coded: bool) -> None:
    assert has_content_coding(lines) is coded
