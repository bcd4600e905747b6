"""The journal's tables, one ordered step a version; ``PRAGMA user_version`` counts the steps taken."""

from __future__ import annotations

import sqlite3

from ..errors import JournalError

# A released step is never edited: a journal out there has taken it. Changes are appended.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE entries (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            fingerprint TEXT NOT NULL,
            sequencer_url TEXT NOT NULL,
            consumer_id TEXT NOT NULL,
            task_type TEXT NOT NULL,
            workflow_id TEXT,
            kind TEXT NOT NULL,
            label TEXT NOT NULL,
            seeded INTEGER NOT NULL,
            own_key INTEGER NOT NULL,
            details TEXT NOT NULL,
            job_id TEXT NOT NULL,
            task_id TEXT,
            state TEXT NOT NULL,
            status TEXT,
            created_at REAL NOT NULL,
            sent_at REAL,
            submitted_at REAL,
            started_at REAL,
            ended_at REAL,
            engine TEXT,
            miner TEXT,
            device TEXT,
            error TEXT,
            result TEXT,
            files TEXT NOT NULL DEFAULT '[]',
            size INTEGER NOT NULL DEFAULT 0,
            delivered INTEGER NOT NULL DEFAULT 0,
            forgotten INTEGER NOT NULL DEFAULT 0,
            in_doubt INTEGER NOT NULL DEFAULT 0,
            cancel_requested_at REAL,
            used INTEGER NOT NULL DEFAULT 0,
            worker TEXT,
            version INTEGER NOT NULL DEFAULT 0,
            queue_position INTEGER,
            inference_seconds REAL,
            run_id TEXT,
            whole_id TEXT,
            whole_label TEXT
        )
        """,
        "CREATE INDEX entries_fingerprint ON entries (fingerprint)",
        "CREATE INDEX entries_task_id ON entries (task_id)",
        "CREATE INDEX entries_job_id ON entries (job_id)",
        "CREATE INDEX entries_state ON entries (state)",
        "CREATE INDEX entries_version ON entries (version)",
        "CREATE INDEX entries_worker ON entries (worker) WHERE worker IS NOT NULL",
        "CREATE INDEX entries_used ON entries (used, size) WHERE size > 0",
        "CREATE INDEX entries_run ON entries (run_id) WHERE run_id IS NOT NULL",
        # As `spending` has it: what a day's tasks cost is counted without a look at each record.
        """
        CREATE INDEX entries_sent ON entries (
            COALESCE(sent_at, created_at), sent_at, created_at,
            task_type, workflow_id, sequencer_url, state, worker
        ) WHERE state <> 'not_sent' AND NOT (state = 'prepared' AND worker IS NULL)
        """,
        # As `queries.GROUP` has it: what a list shows is counted without a look at each record.
        """
        CREATE INDEX entries_group ON entries (
            (CASE WHEN state IN ('canceled', 'failed', 'not_sent', 'unknown') THEN 'failed'
            WHEN state <> 'finished' OR (files = '[]' AND delivered = 0) THEN 'active' ELSE 'done' END),
            whole_id
        )
        """,
        "CREATE INDEX entries_whole ON entries (whole_id, id) WHERE whole_id IS NOT NULL",
        # What was sent by records that are forgotten: it still counts.
        """
        CREATE TABLE forgotten_sent (
            sent_at REAL NOT NULL, task_type TEXT NOT NULL, workflow_id TEXT, run_id TEXT, sequencer_url TEXT
        )
        """,
        """
        CREATE TABLE tickets (
            ticket TEXT PRIMARY KEY, entry INTEGER NOT NULL, owner TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX tickets_entry ON tickets (entry)",
        """
        CREATE TABLE past_runs (
            id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
            at_least REAL NOT NULL, at_most REAL NOT NULL
        )
        """,
        "CREATE INDEX past_runs_kind ON past_runs (kind, id)",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO counters VALUES ('version', 0), ('used', 0), ('kept', 0)",
        # What every change asks must not take longer with every task in flight or result kept.
        "CREATE INDEX tickets_owner ON tickets (owner)",
        """
        CREATE TRIGGER kept_changed AFTER UPDATE OF size ON entries WHEN new.size <> old.size BEGIN
            UPDATE counters SET value = value + new.size - old.size WHERE name = 'kept';
        END
        """,
        """
        CREATE TRIGGER kept_removed AFTER DELETE ON entries WHEN old.size > 0 BEGIN
            UPDATE counters SET value = value - old.size WHERE name = 'kept';
        END
        """,
    ),
)


def schema_version(connection: sqlite3.Connection) -> int:
    """How many steps the file has taken.

    Raises:
        JournalError: More steps than this program knows.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise JournalError(
            f"The journal was written by a newer version of this program "
            f"(format {version}, this one reads up to {len(MIGRATIONS)})",
            next_step="Update this program, or set XALORA_STATE_DIR to another folder.",
        )
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Takes the missing steps, inside the caller's write transaction (two processes may open at once)."""
    version = schema_version(connection)
    for step in MIGRATIONS[version:]:
        for statement in step:
            connection.execute(statement)
    if version < len(MIGRATIONS):
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
