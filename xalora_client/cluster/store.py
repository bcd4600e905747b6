"""The cluster's tasks on disk: small rows in SQLite, and beside it a file for each input and result."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import write_private
from . import rules
from .rules import Changes, Task

_COLUMNS = [field.name for field in fields(Task)]
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS tasks (
    {", ".join(_COLUMNS)},
    PRIMARY KEY (number), UNIQUE (task_id), UNIQUE (consumer_id, job_id)
);
CREATE INDEX IF NOT EXISTS by_status ON tasks (status, number);
"""
_OPEN = "status IN ('waiting', 'running')"
_RESTARTED = "the cluster's head was restarted"


class Store:
    """Tasks, their inputs and results in one folder. Methods block for less than a millisecond, but for those
    of files; all but those are for one thread.

    Args:
        folder: Created if absent. Running tasks of an earlier process count as lost.
        clock: Seconds since the epoch.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._inputs, self._results = folder / "inputs", folder / "results"
        for each in (folder, self._inputs, self._results):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "tasks.db", isolation_level=None)
        # WAL with NORMAL does not sync each commit, and a killed process still loses nothing.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        for task in self._select("status = 'running'"):
            self.lose(task.task_id, task.attempt, _RESTARTED)
        self._drop_files_without_task()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # Files

    def write_input(self, details: Mapping[str, Any]) -> str:
        """Keep a ``task_details`` as JSON; returns the id for its task. For any thread."""
        task_id = secrets.token_hex(16)
        write_private(self._inputs / task_id, json.dumps(details))
        return task_id

    def read_input(self, task_id: str) -> bytes:
        """The JSON text of a task's ``task_details``. For any thread."""
        return (self._inputs / task_id).read_bytes()

    def drop_input(self, task_id: str) -> None:
        """Remove the input of a task that was not created, or has ended. For any thread."""
        (self._inputs / task_id).unlink(missing_ok=True)

    def write_result(self, task: Task, files: Sequence[tuple[str, bytes]]) -> tuple[str, ...]:
        """Keep the files of an attempt, each a suffix and bytes; returns their keys. For any thread."""
        keys = []
        (self._results / task.task_id).mkdir(mode=0o700, exist_ok=True)
        for number, (suffix, data) in enumerate(files, 1):
            # The task's id can't be guessed, so neither can the address of its result.
            keys.append(f"{task.task_id}/{task.workflow}-{task.attempt}-{number}{suffix}")
            write_private(self._results / keys[-1], data)
        return tuple(keys)

    def drop_result(self, task_id: str) -> None:
        """Remove all result files of a task. For any thread."""
        shutil.rmtree(self._results / task_id, ignore_errors=True)

    def drop_files(self, keys: Sequence[str]) -> None:
        """Remove these result files. For any thread."""
        for key in keys:
            (self._results / key).unlink(missing_ok=True)

    def result_path(self, key: str) -> Path | None:
        """The file of a key; None where there is none."""
        parts = PurePosixPath(key).parts
        if len(parts) != 2 or ".." in parts or "\0" in key or any(part.startswith(".") for part in parts):
            return None
        path = self._results.joinpath(*parts)
        return path if path.is_file() else None

    # Tasks

    def create(
        self,
        task_id: str,
        *,
        consumer_id: str,
        job_id: str,
        task_type: str,
        workflow_id: str,
        workflow: str,
        timeout_seconds: float | None,
    ) -> str:
        """Create a task; returns its id, which is that of the first one for a ``job_id`` that is known."""
        if known := self.find_job(consumer_id, job_id):
            return known
        task = Task(
            number=(self._db.execute("SELECT max(number) FROM tasks").fetchone()[0] or 0) + 1,
            task_id=task_id,
            consumer_id=consumer_id,
            job_id=job_id,
            task_type=task_type,
            workflow_id=workflow_id,
            workflow=workflow,
            timeout_seconds=timeout_seconds,
            created=self._clock(),
        )
        places = ", ".join("?" * len(_COLUMNS))
        self._db.execute(f"INSERT INTO tasks VALUES ({places})", tuple(vars(task).values()))
        return task_id

    def find_job(self, consumer_id: str, job_id: str) -> str | None:
        """The id of the task that a consumer's job created."""
        query = "SELECT task_id FROM tasks WHERE consumer_id = ? AND job_id = ?"
        row = self._db.execute(query, (consumer_id, job_id)).fetchone()
        return None if row is None else str(row[0])

    def get(self, task_id: str) -> Task | None:
        """A task, or None if there is none of that id."""
        return next(self._select("task_id = ?", task_id), None)

    def take(self, miner_id: str, workflows: Collection[str]) -> Task | None:
        """Hand the oldest waiting task of these workflows to a worker."""
        marks = ", ".join("?" * len(workflows))
        oldest = self._select(
            f"status = 'waiting' AND workflow IN ({marks}) ORDER BY number LIMIT 1", *workflows
        )
        task = next(oldest, None)
        return task and self._apply(task, rules.assigned(task, miner_id, self._clock()))

    def finish(self, task_id: str, attempt: int, keys: tuple[str, ...], **latencies: float) -> bool:
        """Accept the result of an attempt; False where it is no longer wanted."""
        return self._change(task_id, lambda task, now: rules.finished(task, attempt, keys, now, **latencies))

    def fail(self, task_id: str, attempt: int, message: str) -> bool:
        """Note that the engine of an attempt failed; False where that no longer matters."""
        return self._change(task_id, lambda task, now: rules.failed(task, attempt, message, now))

    def lose(self, task_id: str, attempt: int, why: str) -> bool:
        """Note that the worker of an attempt is gone; False where that no longer matters."""
        return self._change(task_id, lambda task, now: rules.lost(task, attempt, why, now))

    def cancel(self, task_id: str) -> bool:
        """End an open task; False where it has ended or does not exist."""
        return self._change(task_id, rules.canceled)

    def expire(self) -> list[str]:
        """Cancel the tasks past their ``timeout_seconds``; returns their ids."""
        due = list(self._select(f"{_OPEN} AND created + timeout_seconds <= ?", self._clock()))
        for task in due:
            self._change(task.task_id, lambda task, now: rules.canceled(task, now, rules.TIMED_OUT))
        return [task.task_id for task in due]

    def next_deadline(self) -> float | None:
        """When :meth:`expire` is next needed, in seconds since the epoch."""
        query = f"SELECT min(created + timeout_seconds) FROM tasks WHERE {_OPEN}"
        deadline: float | None = self._db.execute(query).fetchone()[0]
        return deadline

    def queue_position(self, task: Task, workflows: Collection[str]) -> int | None:
        """The place of a waiting task among those of these workflows, from 1; None for others."""
        if task.status != "waiting":
            return None
        marks = ", ".join("?" * len(workflows))
        query = (
            f"SELECT count(*) FROM tasks WHERE status = 'waiting' AND number < ? AND workflow IN ({marks})"
        )
        return 1 + int(self._db.execute(query, (task.number, *workflows)).fetchone()[0])

    def counts(self) -> dict[str, int]:
        """How many tasks there are, by status."""
        return dict(self._db.execute("SELECT status, count(*) FROM tasks GROUP BY status"))

    def forget(self, older_than: float) -> int:
        """Delete tasks, with their results, that ended before then; returns how many."""
        old = list(self._select(f"NOT {_OPEN} AND ended < ?", older_than))
        for task in old:
            # In this order: on a full disk, a row can be deleted only once a file is.
            self.drop_result(task.task_id)
            self._db.execute("DELETE FROM tasks WHERE task_id = ?", (task.task_id,))
        return len(old)

    # Internals

    def _select(self, where: str, *values: object) -> Iterator[Task]:
        for row in self._db.execute(f"SELECT * FROM tasks WHERE {where}", values).fetchall():
            yield Task(*row)

    def _change(self, task_id: str, decide: Callable[[Task, float], Changes]) -> bool:
        task = self.get(task_id)
        return task is not None and self._apply(task, decide(task, self._clock())) is not None

    def _apply(self, task: Task, changes: Changes) -> Task | None:
        if not changes:
            return None
        columns = ", ".join(f"{name} = ?" for name in changes)
        self._db.execute(f"UPDATE tasks SET {columns} WHERE task_id = ?", (*changes.values(), task.task_id))
        changed = replace(task, **changes)
        if not changed.is_open:
            self.drop_input(task.task_id)
        return changed

    def _drop_files_without_task(self) -> None:
        """Remove what a process left that was killed between a file and its row."""
        wanted = {task.task_id for task in self._select(_OPEN)}
        for path in self._inputs.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)
        query = "SELECT task_id FROM tasks WHERE status = 'finished'"
        kept = {row[0] for row in self._db.execute(query)}
        for path in self._results.iterdir():
            if path.name not in kept:
                self.drop_result(path.name)
