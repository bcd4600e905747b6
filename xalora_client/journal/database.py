"""SQLite connections of the journal: one that writes, one that reads, and their errors in plain words."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

from ..errors import NOTHING_CHARGED, JournalError
from .queries import searched_names, searched_texts
from .schema import MIGRATIONS, migrate, schema_version

T = TypeVar("T")

BUSY_SECONDS = 0.1
"""How long SQLite itself waits for a lock. Whoever waits longer does so in a loop that looks at deadlines."""


class CorruptJournalError(JournalError):
    """The file is not a journal, or a broken one."""


class BusyJournalError(JournalError):
    """Another program holds the journal; a moment later it can be used again."""


class LostJournalError(JournalError):
    """Records are lost: the file or its log was removed, replaced or cut in use, or it was broken."""


class OldJournalError(JournalError):
    """The journal lacks what a newer version of this program added; the next writing adds it."""


def connect_to_write(path: Path) -> sqlite3.Connection:
    """A connection that may write, in autocommit mode; the file and its folder are made where missing.

    Raises:
        JournalError: See `explain`.
    """
    with explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Prompts and addresses are nobody else's affair; SQLite gives its other files the same mode.
        path.touch(mode=0o600)
        connection = _connect(str(path))
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # What is committed survives a power failure: there are few commits, and money is in them.
            connection.execute("PRAGMA synchronous = FULL")
            # Without these two, macOS answers a flush before the disk has the bytes.
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            if verdict != "ok":
                raise sqlite3.DatabaseError(f"malformed: {' '.join(verdict.split())}")
        except BaseException:
            connection.close()
            raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that only reads.

    Raises:
        JournalError: See `explain`.
    """
    with explained(path):
        try:
            connection = _connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if is_busy(error) or not path.exists():
                raise
            # In a folder that can't be written, SQLite can't make the files that readers share. Nobody else
            # writes there either, so the file stays as it is.
            connection = _connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
        try:
            if schema_version(connection) < len(MIGRATIONS):
                raise OldJournalError(f"The journal {path} is of an older version")
        except BaseException:
            connection.close()
            raise
    return connection


def log_state(path: Path) -> tuple[int, bytes]:
    """The length of the journal's log, and its first bytes, which are others after each restart of it."""
    # Never the same of the file or of the log's index: to close them would drop SQLite's locks on them.
    with contextlib.suppress(OSError), path.with_name(f"{path.name}-wal").open("rb") as log:
        return os.fstat(log.fileno()).st_size, log.read(32)
    return 0, b""


def log_is_cut(connection: sqlite3.Connection, before: tuple[int, bytes], now: tuple[int, bytes]) -> bool:
    """Whether somebody other than SQLite has cut the log, by its `log_state` before and now."""
    if now[0] >= before[0]:
        return False
    if now[0]:
        return now[1] == before[1]
    # SQLite cuts it to nothing once the file has all of it; then there is nothing to move.
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.Error as error:
        return not is_busy(error)
    return False


def _empty() -> sqlite3.Connection:
    """What a journal that was never written has to say."""
    connection = _connect(":memory:")
    migrate(connection)
    return connection


def _connect(target: str, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        target, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
    )
    connection.row_factory = sqlite3.Row
    connection.create_function("searched_texts", -1, searched_texts, deterministic=True)
    connection.create_function("searched_names", -1, searched_names, deterministic=True)
    return connection


class Reader:
    """A connection for single SELECTs, shared by threads and opened at the first one.

    Attributes:
        is_stale: The file may be another by now; the next use opens it again.
    """

    def __init__(self, path: Path) -> None:
        self.is_stale = False
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        # Of columns, by SELECT.
        self._names: dict[str, tuple[str, ...]] = {}

    def rows_at_once(self, query: str, values: Sequence[Any], patience: float) -> list[dict[str, Any]]:
        """The rows of a SELECT from one step of SQLite, as JSON has them: numbers with 15 digits.

        At each step SQLite lets other threads go on, and a busy one keeps the reader waiting for a
        millisecond: a hundred records beside one took 88 ms, and take 12.

        Args:
            patience: As for `read`.
        """

        def select(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            if query not in self._names:
                described = connection.execute(f"SELECT * FROM ({query}) LIMIT 0", values).description
                self._names[query] = tuple(column[0] for column in described)
            names = self._names[query]
            columns = ", ".join(f'"{name}"' for name in names)
            whole = f"SELECT json_group_array(json_array({columns})) AS rows FROM ({query})"
            ((rows,),) = connection.execute(whole, values).fetchall()
            return [dict(zip(names, row, strict=True)) for row in json.loads(rows)]

        return self.read(select, patience)

    def rows(self, query: str, values: Sequence[Any], patience: float) -> list[sqlite3.Row]:
        """The rows of a SELECT; else as `rows_at_once`."""
        return self.read(lambda connection: connection.execute(query, values).fetchall(), patience)

    def read(self, select: Callable[[sqlite3.Connection], T], patience: float) -> T:
        """What a single SELECT gives. Blocking.

        A held write lock is no matter. Readers have to wait while another program opens the journal as the
        first one, closes it as the last one, or holds all of it.

        Args:
            patience: For how many seconds to wait then.

        Raises:
            JournalError: It can't be read.
        """
        deadline = monotonic() + patience
        while True:
            try:
                with self._lock, explained(self._path):
                    return self._read(select)
            except BusyJournalError:
                if monotonic() >= deadline:
                    raise
            # SQLite has waited already, but not in all of these cases.
            sleep(BUSY_SECONDS / 2)

    def _read(self, select: Callable[[sqlite3.Connection], T]) -> T:
        if self.is_stale:
            self.is_stale = False
            self._drop()
        if self._connection is None:
            try:
                self._path.stat()
            except FileNotFoundError:
                with contextlib.closing(_empty()) as nothing:
                    return select(nothing)
            self._connection = connect_to_read(self._path)
        return select(self._connection)

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._names.clear()

    def before_fork(self) -> None:
        """Close the connection and keep others from opening one until the fork is done."""
        self._lock.acquire()
        self._drop()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()


@contextlib.contextmanager
def explained(path: Path, money: str = NOTHING_CHARGED) -> Iterator[None]:
    """Turn the errors of SQLite and of the file system into `JournalError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explain(error, path, money) from error


def explain(error: Exception, path: Path, money: str = NOTHING_CHARGED) -> JournalError:
    """The `JournalError` for an error of SQLite or of the file system."""
    if isinstance(error, JournalError):
        return error
    text = str(error).lower()
    writable = "Set XALORA_STATE_DIR to a folder that can be written."
    if isinstance(error, sqlite3.Error) and is_busy(error):
        return busy_error(path, money)
    if isinstance(error, sqlite3.Error) and any(word in text for word in _BROKEN):
        return CorruptJournalError(
            f"The journal {path} is broken ({error})",
            money=money,
            next_step="It is moved aside and a new one begun when it is opened next.",
        )
    if "disk i/o" in text:
        return JournalError(
            f"The journal {path} can't be read or written ({error}): the disk has no room or fails, or one "
            "of the journal's files was removed or cut",
            money=money,
            next_step="Look after the disk, then restart this program.",
        )
    if "full" in text or "no space" in text:
        return JournalError(
            f"The disk has no room for the journal {path} ({error})",
            money=money,
            next_step="Free some space, then try again.",
        )
    what = "written" if "readonly" in text or "unable to open" in text else "used"
    return JournalError(f"The journal {path} can't be {what} ({error})", money=money, next_step=writable)


def busy_error(path: Path, money: str = NOTHING_CHARGED) -> BusyJournalError:
    """The error of a journal that another program holds for too long."""
    return BusyJournalError(
        f"Another program holds the journal {path}",
        money=money,
        next_step="Close the program that holds it, or try again.",
    )


_BROKEN = ("not a database", "malformed", "corrupt")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether an error says that another program holds a lock."""
    text = str(error).lower()
    return "locked" in text or "busy" in text
