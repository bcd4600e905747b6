"""One SQLite connection for a whole process: transactions, durability, forks, and errors in plain words."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import NOTHING_CHARGED, JournalError

BUSY_SECONDS = 5.0
OPENING_PAUSE = 0.02


class CorruptJournalError(JournalError):
    """The file is not a journal, or a broken one."""


class BusyJournalError(JournalError):
    """Another program holds the journal; a moment later it can be used again."""


class Database:
    """The connection to `path` (None: in memory), shared by threads; every use holds `lock`."""

    def __init__(self, path: Path | None, *, busy_seconds: float) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._busy_seconds = busy_seconds
        self._suspended = False
        self._connection: sqlite3.Connection | None = None
        with self.explained(NOTHING_CHARGED):
            self._connection = self._connect()
            try:
                self._check()
            except BaseException:
                self.close()
                raise

    def _connect(self) -> sqlite3.Connection:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.row_factory = sqlite3.Row
            self._use_wal(connection)
            # Without these two, macOS answers a flush before the disk has the bytes.
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self) -> None:
        verdict = str(self.connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"malformed: {' '.join(verdict.split())}")

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        # Two processes that both turn a new file to WAL get "locked" at once, past the busy timeout.
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(OPENING_PAUSE)
            else:
                return

    @contextlib.contextmanager
    def write(self, *, durable: bool = False, money: str = NOTHING_CHARGED) -> Iterator[sqlite3.Connection]:
        """A write transaction, begun before the first read so that what is read stays true until the end.

        Args:
            durable: On return the change survives a power failure. Without, it survives the death of the
                process, and a power failure may undo it (but never half of it).
            money: What a failure here means for the user's money.

        Raises:
            JournalError: Locked for too long, read-only, full, broken or closed; nothing was changed.
        """
        with self.lock, self.explained(money):
            connection = self.connection
            if connection.in_transaction:
                # A finalizer that the garbage collector runs amid this thread's own change must not end it.
                raise JournalError("The journal is in the midst of a change", money=money)
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back by itself after some errors, a full disk among them.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection for a single SELECT.

        Raises:
            JournalError: As for `write`.
        """
        with self.lock, self.explained(NOTHING_CHARGED):
            yield self.connection

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this process; hold `lock`."""
        if self._suspended:
            self._connection, self._suspended = self._connect(), False
        if self._connection is None:
            raise JournalError("The journal is closed")
        return self._connection

    @property
    def is_open(self) -> bool:
        """False once closed."""
        return self._connection is not None or self._suspended

    def close(self) -> None:
        """Closes the connection; twice is harmless."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
            self._connection, self._suspended = None, False

    def before_fork(self) -> None:
        """Keeps the connection out of the fork: a child that has it would believe in locks it does not hold.

        The parent could then, as the last one it knows of, delete the log under the child's hands. A
        connection in memory has no locks, so the child may go on with its copy.
        """
        self.lock.acquire()
        if self.path is not None and self._connection is not None:
            self._connection.close()
            self._connection, self._suspended = None, True

    def after_fork_in_parent(self) -> None:
        """The next use connects again."""
        self.lock.release()

    def after_fork_in_child(self) -> None:
        """The same for the child, with a lock of its own: the old one belongs to the parent's thread."""
        self.lock = threading.RLock()

    @contextlib.contextmanager
    def explained(self, money: str) -> Iterator[None]:
        """Turns the errors of SQLite and of the file system into `JournalError`."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error, money) from error
        except OSError as error:
            raise JournalError(
                f"The journal {self._name} can't be used: {error}",
                money=money,
                next_step="Set XALORA_STATE_DIR to a folder that can be written.",
            ) from error

    @property
    def _name(self) -> str:
        return "in memory" if self.path is None else str(self.path)

    def _explain(self, error: sqlite3.Error, money: str) -> JournalError:
        text = str(error).lower()
        if "not a database" in text or "malformed" in text or "corrupt" in text:
            return CorruptJournalError(
                f"The journal {self._name} is broken ({error})",
                money=money,
                next_step="It is moved aside and a new one begun when it is opened next.",
            )
        if "locked" in text or "busy" in text:
            return BusyJournalError(
                f"The journal {self._name} was locked by another program for {self._busy_seconds:g} s",
                money=money,
                next_step="Close the program that holds it, or try again.",
            )
        if "readonly" in text or "unable to open" in text:
            return JournalError(
                f"The journal {self._name} can't be written ({error})",
                money=money,
                next_step="Set XALORA_STATE_DIR to a folder that can be written.",
            )
        if "full" in text or "disk i/o" in text:
            return JournalError(
                f"The disk has no room for the journal {self._name} ({error})",
                money=money,
                next_step="Free some space; the journal goes on by itself then.",
            )
        return JournalError(f"The journal {self._name} can't be used ({error})", money=money)
