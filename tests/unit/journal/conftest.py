"""Journals for the tests of this folder; their steps are in `journal_steps.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from journal_steps import LockHolder

from xalora_client.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite3"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def journal(path: Path, results: Path) -> Iterator[Journal]:
    with Journal.open(path, results) as journal:
        yield journal


@pytest.fixture
def holder(journal: Journal, path: Path) -> Iterator[LockHolder]:
    """Another program that can hold the journal's write lock."""
    holder = LockHolder(path)
    yield holder
    holder.close()
