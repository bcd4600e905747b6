"""A broken journal is moved aside, never deleted; what can still be read of it goes into a new one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import JournalError
from ..files import sync_folder, write_private
from . import process_locks
from .database import (
    BUSY_SECONDS,
    CorruptJournalError,
    LostJournalError,
    connect_to_write,
    explained,
    is_busy,
)
from .process_locks import Guard
from .records import record_from_row
from .schema import migrate

logger = logging.getLogger("xalora_client.journal")

MOVING_SECONDS = 5.0

NOBODY = "nobody"
"""The owner of leases that can't be read: one that does not live."""

Complete = Callable[[sqlite3.Connection], None]

_Rows = dict[int, dict[str, Any]]


def connect_or_renew(path: Path, complete: Complete) -> tuple[sqlite3.Connection, JournalError | None]:
    """A writing connection to the journal, or to a new one in the place of a broken one.

    Args:
        path: The journal's file.
        complete: Writes into the new one, once it has its records, what processes still owe it.

    Returns:
        The connection, and why nothing new should be sent before somebody has seen it: records are lost, and
        tasks that are paid for may be among them. None where there is no such reason.

    Raises:
        JournalError: The file can't be used at all.
    """
    try:
        return connect_to_write(path), None
    except CorruptJournalError as error:
        refusal = _renew(path, error, complete)
        return connect_to_write(path), refusal


def _renew(path: Path, broken: CorruptJournalError, complete: Complete) -> JournalError | None:
    """Put a new journal in the place of a broken one, unless another process was faster.

    Raises:
        JournalError: It can't be moved, or there is no room for a new one. It stays where it is.
    """
    try:
        with Guard(path.with_name(f"{path.name}.moving"), MOVING_SECONDS):
            try:
                connect_to_write(path).close()
            except CorruptJournalError:
                pass
            else:
                logger.warning("%s. Another process has moved it aside.", broken.what)
                return None
            new = path.with_name(f"{path.name}.new")
            # One may be left by a process that was killed.
            for suffix in ("", "-wal", "-shm"):
                new.with_name(new.name + suffix).unlink(missing_ok=True)
            notes = _owed(path)
            # Made whole first, so that no process ever finds a journal without the records.
            with explained(path):
                kept, is_whole = _salvage(path, new, notes, complete)
            aside = _swap(path, new)
            if notes and not is_whole:
                lines = "".join(f"{json.dumps(note)}\n" for note in notes)
                write_private(aside.with_name(f"{aside.name}.notes"), lines)
    except OSError as error:
        raise JournalError(
            f"The journal {path} is broken and can't be moved aside: {error}",
            next_step="Close other programs that use it, or set XALORA_STATE_DIR to another folder.",
        ) from error
    logger.warning("%s. It was moved to %s; the new one has %d records of it.", broken.what, aside, kept)
    if is_whole:
        return None
    refusal = LostJournalError(
        f"The journal {path} was broken and records of it are lost: what they say is paid for or under way "
        "would be sent and charged again",
        next_step=f"See the log and the old file, {aside}; restart this program to go on without them.",
    )
    logger.warning("%s", refusal)
    return refusal


def _swap(path: Path, new: Path) -> Path:
    """Move a broken journal and its log away, and a new one into its place; where the broken one is now."""
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    # The log first: a new journal beside an old log would be taken for one that needs it.
    for suffix in ("-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    # Two names for a moment, since without a file another process would begin an empty one.
    try:
        os.link(path, aside)
    except OSError:
        shutil.copy2(path, aside)
    new.replace(path)
    sync_folder(path.parent)
    return aside


def _owed(path: Path) -> list[dict[str, Any]]:
    """The notes about records that processes owe to the journal."""
    folder = path.with_name(f"{path.name}.owners")
    owners = sorted(process_locks.all_owners(folder))
    notes = [note for owner in owners for note in process_locks.owed_notes(folder, owner)]
    return [note for note in notes if isinstance(note.get("record"), int)]


# --- what can be read ---------------------------------------------------------------------------------------


def _salvage(path: Path, new_path: Path, notes: list[dict[str, Any]], complete: Complete) -> tuple[int, bool]:
    """Make a new journal of what a broken one still says.

    Returns:
        How many records it has, and whether these are all.
    """
    old = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    old.row_factory = sqlite3.Row
    with contextlib.closing(old), contextlib.closing(connect_to_write(new_path)) as new:
        with contextlib.suppress(sqlite3.Error):
            # Else nothing is read of a file that was cut.
            old.execute("PRAGMA writable_schema = ON")
            # Where this can still be had, other processes write no more meanwhile.
            old.execute("BEGIN IMMEDIATE")
        new.execute("BEGIN IMMEDIATE")
        migrate(new)
        rows, lost, is_whole = _entries(old)
        lost |= {record_id: row for record_id, row in rows.items() if not _insert(new, "entries", row)}
        for record_id, row in sorted(lost.items()):
            said = (row.get(name) for name in ("job_id", "task_id", "state"))
            logger.warning(
                "Not readable in the broken journal: record %d, job %s, task %s (%s)", record_id, *said
            )
        for table in ("forgotten_sent", "tickets", "past_runs"):
            for row in _read(old, f"SELECT * FROM {table}")[0]:
                _insert(new, table, row)
        # Of a sender that can't be told any more, the death is noted as of any other.
        new.execute(
            "INSERT OR IGNORE INTO tickets SELECT worker, id, ? FROM entries WHERE worker IS NOT NULL",
            (NOBODY,),
        )
        new.execute(
            "UPDATE counters SET value = COALESCE((SELECT CASE name WHEN 'version' THEN max(version)"
            " WHEN 'used' THEN max(used) ELSE sum(size) END FROM entries), 0)"
        )
        # The id of a record that is lost is not given again: somebody may still have a note about it.
        given = _read(old, "SELECT seq FROM sqlite_sequence WHERE name = 'entries'")[0]
        known = {*rows, *lost, *(note["record"] for note in notes), *(row["seq"] for row in given)}
        # What a bad page says may be no number, or leave no room for others.
        last = max((each for each in known if isinstance(each, int) and each < 2**40), default=0)
        new.execute("DELETE FROM sqlite_sequence WHERE name = 'entries'")
        new.execute("INSERT INTO sqlite_sequence VALUES ('entries', ?)", (last,))
        complete(new)
        new.execute("COMMIT")
    return len(rows.keys() - lost.keys()), is_whole and not lost


def _entries(old: sqlite3.Connection) -> tuple[_Rows, _Rows, bool]:
    """The records by id, what indexes say of those that can't be read, and whether all were found."""
    rows: _Rows = {}
    # By the rows alone: an index may be what is broken. A bad page is met from both of its sides.
    for order in ("ASC", "DESC"):
        found, is_whole = _read(old, f"SELECT * FROM entries NOT INDEXED ORDER BY id {order}")
        rows.update((row["id"], row) for row in found)
        if is_whole:
            break
    # Indexes know of rows between bad pages, and something of rows within them.
    said: _Rows = {}
    for name in ("job_id", "task_id", "state"):
        for row in _read(old, f"SELECT id, {name} FROM entries INDEXED BY entries_{name}")[0]:
            said.setdefault(row["id"], {}).update(row)
    for record_id in said.keys() - rows.keys():
        for row in _read(old, "SELECT * FROM entries WHERE id = ?", record_id)[0]:
            rows[record_id] = row
    return rows, {record_id: said[record_id] for record_id in said.keys() - rows.keys()}, is_whole


def _read(old: sqlite3.Connection, query: str, *values: Any) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a SELECT until one can't be read, and whether these are all."""
    rows: list[dict[str, Any]] = []
    try:
        for row in old.execute(query, values):
            rows.append(dict(row))
    except sqlite3.Error as error:
        if is_busy(error):
            raise
        return rows, False
    return rows, True


def _insert(new: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> bool:
    """Copy a row, with the columns that this version has; False where it makes no sense."""
    known = {column["name"] for column in new.execute(f"PRAGMA table_info({table})")}
    names = [name for name in row if name in known]
    values, marks = [row[name] for name in names], ", ".join("?" for _ in names)
    try:
        if table == "entries":
            record_from_row(dict(row), Path())
        new.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", values)
    except (ValueError, TypeError, KeyError, sqlite3.IntegrityError):
        return False
    return True
