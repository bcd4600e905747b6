"""What a journal says, looked at from outside: by connections of its own, which never hold it up."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from xalora_client.journal import Journal

PATIENCE = 20.0


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition of the journal or the sequencer holds."""

    async def look() -> None:
        while not condition():  # noqa: ASYNC110  # what is looked at tells nobody of its changes
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), seconds)


@contextmanager
def held(path: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Another program holds the write lock; with ``EXCLUSIVE``, nobody who comes later reads either."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as blocker:
        if how == "EXCLUSIVE":
            blocker.execute("PRAGMA locking_mode = EXCLUSIVE")
        blocker.execute(f"BEGIN {how}")
        yield
        blocker.execute("ROLLBACK")


def leases(journal: Journal, record_id: int | None = None) -> int:
    """How many leases there are, on one record or in all; those of the dead count until somebody looks."""
    where = "" if record_id is None else f" WHERE entry = {record_id}"
    return len(_select(journal, f"SELECT ticket FROM tickets{where}"))


def leases_in_use(journal: Journal) -> int:
    """The same, once what nobody holds any more is gone."""
    gc.collect()
    return leases(journal)


def states(path: Path) -> list[str]:
    """The states of all records."""
    return [state for (state,) in _select(path, "SELECT state FROM entries ORDER BY id")]


def _select(journal: Journal | Path, query: str) -> list[tuple[object, ...]]:
    path = journal if isinstance(journal, Path) else journal.path
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            return []
        return connection.execute(query).fetchall()
