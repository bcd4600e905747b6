"""Opening a journal whatever state its file is in, so that work goes on."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from pathlib import Path

from ..errors import JournalError
from .database import BUSY_SECONDS, CorruptJournalError, Database
from .journal import Journal
from .process_locks import Guard
from .states import OPEN

logger = logging.getLogger("xalora_client.journal")

_OPEN_VALUES = frozenset(state.value for state in OPEN)


def open_or_memory(
    path: str | os.PathLike[str] | None,
    results_dir: str | os.PathLike[str],
    results_limit_bytes: int | None = None,
    *,
    busy_seconds: float = BUSY_SECONDS,
) -> tuple[Journal, str | None]:
    """The journal at `path`, or the best that can be had, with a warning to show the user.

    A broken file is moved aside, never deleted, and a new one begun. Where the file can't be used at all,
    work goes on with a journal in memory.
    """
    try:
        return open_or_renew(path, results_dir, results_limit_bytes, busy_seconds=busy_seconds)
    except JournalError as problem:
        return Journal.open(None, results_dir, results_limit_bytes), (
            f"{problem} Work goes on without it: the tasks of this process are remembered until it ends and "
            "their ids are in the log, but a crash may lose sight of them."
        )


def open_or_renew(
    path: str | os.PathLike[str] | None,
    results_dir: str | os.PathLike[str],
    results_limit_bytes: int | None = None,
    *,
    busy_seconds: float = BUSY_SECONDS,
) -> tuple[Journal, str | None]:
    """The journal at `path`, or a new one in the place of a broken one, with a warning to show the user.

    Raises:
        JournalError: The file can't be used at all.
    """
    # Twice: another process may have moved a broken file aside just while it was being opened.
    with contextlib.suppress(JournalError):
        return _open_or_renew(path, results_dir, results_limit_bytes, busy_seconds)
    return _open_or_renew(path, results_dir, results_limit_bytes, busy_seconds)


def _open_or_renew(
    path: str | os.PathLike[str] | None,
    results_dir: str | os.PathLike[str],
    results_limit_bytes: int | None,
    busy_seconds: float,
) -> tuple[Journal, str | None]:
    try:
        return Journal.open(path, results_dir, results_limit_bytes, busy_seconds=busy_seconds), None
    except CorruptJournalError as error:
        if path is None:
            raise
        aside = _move_aside(Path(path).absolute(), busy_seconds)
        if aside is not None:
            for job_id, task_id, state in _open_tasks(aside):
                logger.warning("Open in the broken journal: job %s, task %s (%s)", job_id, task_id, state)
        journal = Journal.open(path, results_dir, results_limit_bytes, busy_seconds=busy_seconds)
        where = f"It was moved to {aside}" if aside else "Another process has moved it aside"
        return journal, (
            f"{error.what}. {where} and a new one was begun. Tasks that were open in it stay retrievable by "
            "their task ids, which the log holds; queued again, their work would be sent and charged again."
        )


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
            for job_id, task_id, state, forgotten in connection.execute(
                "SELECT job_id, task_id, state, forgotten FROM entries NOT INDEXED"
            ):
                if state in _OPEN_VALUES and not forgotten:
                    found.append((job_id, task_id, state))
    return found


def _move_aside(path: Path, busy_seconds: float) -> Path | None:
    """Moves a broken journal and its log away; None where another process was faster.

    Raises:
        JournalError: It can't be moved.
    """
    try:
        with Guard(path.with_name(f"{path.name}.moving"), busy_seconds):
            try:
                Database(path, busy_seconds=busy_seconds).close()
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
