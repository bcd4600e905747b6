"""What the journal stores and hands out: frozen records, and their passage to and from JSON. No I/O."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..errors import JournalError
from .rules import ENDED, Action, IfUnknown, TaskState

Group = Literal["active", "done", "failed"]

Row: TypeAlias = sqlite3.Row | dict[str, Any]
"""A row of a SELECT, by the names of its columns."""

INPUTS = "@inputs"
"""The key of paths among a work's details; no parameter of a task is called so."""


@dataclass(frozen=True)
class Whole:
    """What many tasks make together: a clip of its frames, an image of its tiles. Lists show it in one row.

    Args:
        id: The same for all its parts, whenever they are made.
        label: Short human text for lists.
    """

    id: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a task is to do; the same `fingerprint` means the same work.

    Args:
        fingerprint: Digest over sequencer URL, consumer id, type, workflow, parameters and input pixels.
        sequencer_url: Base URL of the network the work belongs to.
        consumer_id: Whose account it runs on. Never the key.
        task_type: The protocol's ``task_type``.
        workflow_id: The protocol's ``workflow_id``, None where the network chooses.
        kind: Duration class: task type, workflow, size, length. Holds nothing personal, outlives `forget`.
        label: Short human text for lists.
        seeded: False for generation without a seed, whose results differ each time. Such work never shares a
            task in somebody's hands and never gets a result that was delivered before, but takes up what a
            crash left behind.
        own_key: The task has a key of its own, to be asked for when it is resumed.
        details: Small JSON object of parameters, without pixels and keys; under :data:`INPUTS` the absolute
            paths of images that were given by their paths.
        whole: What this makes a part of, where it does.
    """

    fingerprint: str
    sequencer_url: str
    consumer_id: str
    task_type: str
    workflow_id: str | None = None
    kind: str = ""
    label: str = ""
    seeded: bool = True
    own_key: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    whole: Whole | None = None

    @property
    def input_path(self) -> Path | None:
        """The first image that was given by its path; the result belongs beside it."""
        paths = self.details.get(INPUTS)
        return Path(paths[0]) if isinstance(paths, list) and paths else None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A snapshot of a job's row in the journal.

    Times are Unix seconds of the wall clock, None until reached, and never run backwards within a record.

    Attributes:
        status: The network's last status as it came.
        queue_position: The task's last known place in the network's queue, None once it has ended.
        inference_seconds: How long the miner computed, as the network tells.
        result: The network's raw result, without inlined media and without the query strings of addresses.
        files: The kept files, absolute; empty before they are fetched and after eviction.
        digests: A digest of each file's bytes, as they were when the file was fetched.
        size: Their bytes, together.
        delivered: A caller got what its call promised.
        forgotten: An UNKNOWN record that was given up.
        in_doubt: It is sent again although an earlier create of it may have made a task.
        cancel_requested_at: When the cancel was asked for that took effect, or is not answered; else None.
        version: The journal's `Journal.version` at the record's last change.
        run_id: What it was last sent together with: a prompt of ComfyUI, or one client's tasks.
    """

    id: int
    work: Work
    job_id: str
    task_id: str | None
    state: TaskState
    status: str | None
    created_at: float
    sent_at: float | None
    submitted_at: float | None
    started_at: float | None
    ended_at: float | None
    cancel_requested_at: float | None
    engine: str | None
    miner: str | None
    device: str | None
    error: str | None
    result: Any
    files: tuple[Path, ...]
    digests: tuple[str, ...]
    size: int
    delivered: bool
    forgotten: bool
    in_doubt: bool
    version: int
    queue_position: int | None
    inference_seconds: float | None
    run_id: str | None

    @property
    def is_open(self) -> bool:
        """Whether there is something left to do or to decide."""
        if self.state is TaskState.FINISHED:
            return not (self.files or self.delivered)
        return self.state not in ENDED and not self.forgotten

    @property
    def is_undelivered(self) -> bool:
        """Whether its result is there, on this disk or in the network, and nobody has got it yet."""
        return self.state is TaskState.FINISHED and not self.delivered

    @property
    def is_left(self) -> bool:
        """Whether something is left to do, to decide, or to hand over."""
        return self.is_open or self.is_undelivered

    @property
    def group(self) -> Group:
        """``active``: under way or to be fetched; ``done``: result kept or delivered; else ``failed``."""
        if self.state in ENDED or self.state is TaskState.UNKNOWN:
            return "failed"
        return "done" if self.state is TaskState.FINISHED and not self.is_open else "active"

    @property
    def is_kept(self) -> bool:
        """Whether the result's files are on this disk."""
        return bool(self.files)

    @property
    def evicted(self) -> bool:
        """Whether the result was delivered and has no files here any more."""
        return self.state is TaskState.FINISHED and self.delivered and not self.files

    @property
    def queued_seconds(self) -> float | None:
        """From the network's acceptance until a miner was first seen at work (or until the end)."""
        return _span(self.submitted_at, self.started_at or self.ended_at)

    @property
    def running_seconds(self) -> float | None:
        """As the network tells, else from the first sight of a miner at work until the end."""
        return self.inference_seconds or _span(self.started_at, self.ended_at)

    @property
    def total_seconds(self) -> float | None:
        """From the journal's first note until the end."""
        return _span(self.created_at, self.ended_at)


@dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """What may answer a task instead of a new one; see `rules.choose`.

    Args:
        reuse: Results that were delivered before.
        again: Nothing: a new task is paid for.
        newer_than: Only records with a higher id.
        among: Ids of tasks that may answer whatever was delivered, seeded or not.
        if_unknown: What to do about an earlier create whose outcome is not known: send it again under the
            same job id, give it up and begin anew, or stop with the action ``unknown``. Of a task whose id is
            known only the network can say more, so that is not sent again.
        run_id: What else is asked for together with this; kept where the claim sends.
    """

    reuse: bool = False
    again: bool = False
    newer_than: int = 0
    among: AbstractSet[str] = frozenset()
    if_unknown: IfUnknown = "stop"
    run_id: str | None = None


@dataclass(frozen=True)
class Folder:
    """The folder of results as it was just before a claim, see `Journal.look`.

    Args:
        refusal: Why no result could be stored there, None where one can.
        gone: Kept files that are not all there, as the table has them.
    """

    refusal: JournalError | None = None
    gone: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What to do about a task, decided in one transaction against everybody else's wishes.

    ``send``: the caller, and nobody else, sends `record` under its job id. ``join``: follow the record until
    it ends. ``kept``: its files answer. ``unknown``: an earlier create's outcome, or what became of its task,
    is not known; nothing is sent.

    `lease` stands for the caller's interest: as long as it lives, the files are not evicted and a cancel by
    others does not reach the task. It is empty for ``unknown``, and for a kept result that was only read.
    Give it back with `Journal.leave`; it lapses when the process dies.
    """

    action: Action
    record: Record
    lease: str = ""


# A stranger's text: no two repetitions of it may try the same letters.
_DATA_URI = re.compile(r"(?P<head>\bdata:(?=[\w.+-]{1,100}/[\w.+-])[^,\s]{3,120}),\S*", re.IGNORECASE)


def _span(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)


def clean_text(text: str) -> str:
    """`text` as the journal may hold it: inlined media are replaced by a note of their length.

    Lone surrogates (from undecodable file names), which SQLite can't store, become question marks.
    """
    noted = _DATA_URI.sub(lambda found: f"{found['head']},({len(found[0])} characters, not journaled)", text)
    return noted.encode("utf-8", "replace").decode("utf-8")


def without_media(value: Any) -> Any:
    """A JSON value with every text in it through `clean_text`."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): without_media(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_media(item) for item in value]
    return value


def to_json(value: Any) -> str:
    """Compact JSON, `without_media`; what JSON has no form for is stored as its text."""
    return json.dumps(without_media(value), separators=(",", ":"), default=str)


def without_queries(value: Any) -> Any:
    """A JSON value whose addresses have no query: it may sign them."""
    if isinstance(value, str):
        return value.partition("?")[0] if value.lower().startswith(("http://", "https://")) else value
    if isinstance(value, Mapping):
        return {name: without_queries(item) for name, item in value.items()}
    return [without_queries(item) for item in value] if isinstance(value, list | tuple) else value


def record_from_row(row: Row, results_dir: Path) -> Record:
    """A `Record` from a row of table ``entries``; relative file names are resolved in `results_dir`."""
    work = Work(
        fingerprint=row["fingerprint"],
        sequencer_url=row["sequencer_url"],
        consumer_id=row["consumer_id"],
        task_type=row["task_type"],
        workflow_id=row["workflow_id"],
        kind=row["kind"],
        label=row["label"],
        seeded=bool(row["seeded"]),
        own_key=bool(row["own_key"]),
        details=json.loads(row["details"]),
        whole=None if row["whole_id"] is None else Whole(row["whole_id"], row["whole_label"]),
    )
    kept = json.loads(row["files"])
    return Record(
        id=row["id"],
        work=work,
        job_id=row["job_id"],
        task_id=row["task_id"],
        state=TaskState(row["state"]),
        status=row["status"],
        created_at=row["created_at"],
        sent_at=row["sent_at"],
        submitted_at=row["submitted_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        cancel_requested_at=row["cancel_requested_at"],
        engine=row["engine"],
        miner=row["miner"],
        device=row["device"],
        error=row["error"],
        result=None if row["result"] is None else json.loads(row["result"]),
        files=tuple(results_dir / name for name, *_ in kept),
        digests=tuple(file[2] if len(file) > 2 else "" for file in kept),
        size=row["size"],
        delivered=bool(row["delivered"]),
        forgotten=bool(row["forgotten"]),
        in_doubt=bool(row["in_doubt"]),
        version=row["version"],
        queue_position=row["queue_position"],
        inference_seconds=row["inference_seconds"],
        run_id=row["run_id"],
    )
