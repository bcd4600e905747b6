"""A broken journal is moved aside, never deleted, and its open tasks are told in the log."""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import time
from pathlib import Path

from ..errors import JournalError
from .database import CorruptJournalError, connect_to_write
from .process_locks import Guard
from .queries import IS_OPEN

logger = logging.getLogger("xalora_client.journal")

MOVING_SECONDS = 5.0


def connect_or_renew(path: Path) -> sqlite3.Connection:
    """A writing connection to the journal, or to a new one in the place of a broken one.

    Raises:
        JournalError: The file can't be used at all.
    """
    try:
        return connect_to_write(path)
    except CorruptJournalError as error:
        aside = _move_aside(path)
        if aside is not None:
            for job_id, task_id, state in _open_tasks(aside):
                logger.warning("Open in the broken journal: job %s, task %s (%s)", job_id, task_id, state)
        logger.warning(
            "%s. %s and a new one was begun. Tasks that were open in it stay retrievable by their task ids, "
            "which the log holds; run again, they would be sent and charged again.",
            error.what,
            f"It was moved to {aside}" if aside else "Another process has moved it aside",
        )
        return connect_to_write(path)


def _open_tasks(aside: Path) -> list[tuple[str, str | None, str]]:
    """Job id, task id and state of the open records that can still be read in a broken journal."""
    found: list[tuple[str, str | None, str]] = []
    with contextlib.suppress(sqlite3.Error):
        # What is left stays as it is for whoever tries harder; without a log not even a lock file is needed.
        log = aside.with_name(f"{aside.name}-wal")
        mode = "mode=ro" if log.exists() else "immutable=1"
        connection = sqlite3.connect(f"{aside.as_uri()}?{mode}", uri=True)
        with contextlib.closing(connection):
            # By the rows alone: an index may be what is broken.
            select = f"SELECT job_id, task_id, state FROM entries NOT INDEXED WHERE {IS_OPEN}"
            for row in connection.execute(select):
                found.append((row[0], row[1], row[2]))
    return found


def _move_aside(path: Path) -> Path | None:
    """Move a broken journal and its log away; None where another process was faster.

    Raises:
        JournalError: It can't be moved.
    """
    try:
        with Guard(path.with_name(f"{path.name}.moving"), MOVING_SECONDS):
            try:
                connect_to_write(path).close()
            except CorruptJournalError:
                stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
                aside = path.with_name(f"{path.name}.corrupt-{stamp}")
                # The log first: a new journal beside an old log would be taken for one that needs it.
                for suffix in ("-wal", "-shm", ""):
                    part = path.with_name(path.name + suffix)
                    if part.exists():
                        part.rename(aside.with_name(aside.name + suffix))
                return aside
            return None
    except OSError as error:
        raise JournalError(
            f"The journal {path} is broken and can't be moved aside: {error}",
            next_step="Close other programs that use it, or set XALORA_STATE_DIR to another folder.",
        ) from error
