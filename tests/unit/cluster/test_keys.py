"""Keys of consumers."""

from __future__ import annotations

from pathlib import Path

import pytest

from xalora_client.cluster.keys import Keys
from xalora_client.errors import ConfigurationError


def test_a_key_is_valid_for_its_consumer_alone(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    name, key = keys.add("me").split("#")
    other = keys.add("you").split("#")[1]
    assert keys.is_valid(name, key)
    assert not keys.is_valid(name, other)
    assert not keys.is_valid("nobody", key)
    assert not keys.is_valid("nobody", "")
    assert keys.is_known(other) and not keys.is_known("wrong")


def test_another_process_sees_a_change_at_once(tmp_path: Path) -> None:
    front, shell = Keys(tmp_path / "keys.json"), Keys(tmp_path / "keys.json")
    key = shell.add("me").split("#")[1]
    assert front.is_valid("me", key)
    new = shell.add("me").split("#")[1]
    assert front.is_valid("me", new) and not front.is_valid("me", key)
    assert shell.revoke("me") and not front.is_valid("me", new)
    assert not shell.revoke("me")


def test_the_file_has_no_key_and_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "keys.json"
    key = Keys(path).add("me").split("#")[1]
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["", "a#b", "a b", "-a", "a/b", "ä", "a" * 65])
def test_a_name_that_would_not_fit_into_a_key_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't name a consumer"):
        Keys(tmp_path / "keys.json").add(name)
