"""The translations of the English texts: none has a hole, a text too many, or other values to fill in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
CATALOGS = sorted(path.name for path in (LOCALES / "en").glob("*.json"))


def texts(language: str, catalog: str) -> dict[str, str]:
    """Each text by its path, such as ``xalora.filter.all``."""

    def walk(branch: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for name, value in branch.items():
            if isinstance(value, dict):
                yield from walk(value, f"{path}{name}.")
            else:
                yield path + name, value

    return dict(walk(json.loads((LOCALES / language / catalog).read_text(encoding="utf-8")), ""))


def test_there_is_a_chinese_translation() -> None:
    assert "zh" in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("catalog", CATALOGS)
def test_a_translation_has_every_text(language: str, catalog: str) -> None:
    english, translated = texts("en", catalog), texts(language, catalog)
    assert sorted(english.keys() - translated.keys()) == [], "not translated"
    assert sorted(translated.keys() - english.keys()) == [], "there is no such English text"
    for path, text in english.items():
        assert translated[path].strip(), path
        assert sorted(re.findall(r"\{\w+\}", translated[path])) == sorted(re.findall(r"\{\w+\}", text)), path


def test_node_names_and_sentences_are_translated() -> None:
    """Words that are the same in both languages aside, a text that was copied is one that was forgotten."""
    english, chinese = texts("en", "nodeDefs.json"), texts("zh", "nodeDefs.json")
    copied = {text for path, text in english.items() if chinese[path] == text}
    assert copied <= {"LoRA", "Sigma"}
