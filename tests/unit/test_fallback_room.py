"""Results of this machine's own engines do not pile up."""

from __future__ import annotations

import os
from pathlib import Path

from xalora_client.fallback import make_room


def test_the_oldest_go_first_and_the_newest_stays_even_over_the_limit(tmp_path: Path) -> None:
    files = []
    for age, name in enumerate(("new", "older", "oldest")):
        path = tmp_path / f"{name}.png"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9 - age))
        files.append(path)
    new, older, oldest = files
    make_room(tmp_path, 250, [new])
    assert (new.exists(), older.exists(), oldest.exists()) == (True, True, False)
    make_room(tmp_path, 10, [new])
    assert (new.exists(), older.exists()) == (True, False)
