"""The documented table of settings names every setting, and no other, with its true default."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ByteSize

from xalora_client.config import Settings


def test_the_table_is_the_settings(repository: Path) -> None:
    table = (repository / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, flags=re.MULTILINE))
    assert list(rows) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        if field.default_factory is not None:
            continue
        default = field.default
        if isinstance(default, ByteSize):
            told = default.human_readable().replace(".0", "").replace("iB", " iB")
            assert rows[name].replace(" ", "") == told.replace(" ", ""), name
        elif default is None or default == ():
            assert rows[name] == "none", name
        elif isinstance(default, bool):
            assert rows[name] == str(default).lower(), name
        elif isinstance(default, float):
            assert float(rows[name]) == default, name
        else:
            assert rows[name].strip("`") == str(default), name
