"""Texts of strangers as the journal holds them."""

from __future__ import annotations

import pytest

from xalora_client.journal.records import clean_text


def test_inlined_media_are_noted_by_their_length() -> None:
    image = "data:image/png;base64,AAAA"
    assert clean_text(f"x {image} y") == "x data:image/png;base64,(26 characters, not journaled) y"
    assert clean_text("data:a,b \ud83d") == "data:a,b ?"


@pytest.mark.parametrize("text", [f"data:a/{'a' * 4 * 10**6}", "data:a/b;" * 10**5])
def test_a_text_that_only_begins_as_media_is_kept(text: str) -> None:
    # Of four million letters: where repetitions try the same ones, this takes minutes.
    assert clean_text(text) == text
