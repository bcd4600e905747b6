"""What one transaction decides about a task: whether it is sent, joined, or answered by a kept result."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from ..prices import DailyLimit, midnight_before
from .records import Claim, ClaimOptions, Folder, Row, Work
from .rules import Action, Candidate, Event, TaskState, choose
from .spending import Read, sent_since
from .transaction import Transaction


def decide_claim(
    change: Transaction, work: Work, options: ClaimOptions, job_id: str, folder: Folder, limit: DailyLimit
) -> Claim:
    """What to do about a task, and the lease for it; see `Journal.claim`.

    Raises:
        JournalError: There is no place for a result.
        DailyLimitError: A new task would be over the limit.
    """
    row = answering(change.read, work, options, folder.gone)
    if row is not None and row["state"] == TaskState.UNKNOWN.value:
        # The network has accepted its job id before, so sending that again would find the same task.
        is_known = row["task_id"] is not None
        if options.if_unknown == "stop" or (options.if_unknown == "resend" and is_known):
            return Claim(action="unknown", record=change.record(row["id"]))
        if options.if_unknown == "forget":
            change.update(row["id"], forgotten=1)
            row = None
        else:
            change.apply(row["id"], Event.RESEND, {})
    state = TaskState.PREPARED if row is None else TaskState(row["state"])
    nobody_sends = row is None or row["worker"] is None
    if row is None or state is TaskState.UNKNOWN or (state is TaskState.PREPARED and nobody_sends):
        if folder.refusal is not None:
            raise folder.refusal
        midnight = midnight_before(change.now)
        again = row if state is TaskState.UNKNOWN else None
        # One of today that is sent again counts already.
        if limit.is_set and (again is None or (again["sent_at"] or again["created_at"]) < midnight):
            limit.check(sent_since(change.read, midnight, limit.unpriced), work.task_type, work.workflow_id)
        record_id = row["id"] if row else change.insert(work, job_id)
        change.update(record_id, run_id=options.run_id)
        return _claimed(change, "send", record_id)
    if has_files(row, folder.gone):
        change.touch(row["id"])
        return _claimed(change, "kept", row["id"])
    if row["size"]:
        change.apply(row["id"], Event.FILES_GONE, {})
    return _claimed(change, "join", row["id"])


def _claimed(change: Transaction, action: Action, record_id: int) -> Claim:
    lease = change.new_lease(record_id)
    if action == "send":
        change.update(record_id, worker=lease)
    return Claim(action=action, record=change.record(record_id), lease=lease)


def answering(read: Read, work: Work, options: ClaimOptions, gone: AbstractSet[str]) -> Row | None:
    """The row that answers, None where a new task is needed.

    Args:
        gone: Kept files that are not all there, as the table has them.
    """
    query = (
        "SELECT *, EXISTS (SELECT 1 FROM tickets WHERE entry = entries.id) AS leased"
        " FROM entries WHERE fingerprint = ? AND id > ?"
    )
    rows = {row["id"]: row for row in read(query, (work.fingerprint, options.newer_than))}
    candidates = (
        Candidate(
            id=row["id"],
            state=TaskState(row["state"]),
            leased=bool(row["leased"]),
            delivered=bool(row["delivered"]),
            whole=has_files(row, gone),
            named=row["task_id"] in options.among,
            forgotten=bool(row["forgotten"]),
            unsent=row["state"] == TaskState.PREPARED.value and row["worker"] is None,
        )
        for row in rows.values()
    )
    chosen = choose(candidates, seeded=work.seeded, reuse=options.reuse, again=options.again)
    return None if chosen is None else rows[chosen.id]


def has_files(row: Row, gone: AbstractSet[str]) -> bool:
    """Whether a row's kept files are all there."""
    return row["files"] != "[]" and row["files"] not in gone
