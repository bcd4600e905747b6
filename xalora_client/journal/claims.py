"""Which journaled task answers a piece of work best. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .states import TaskState


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A record of the same work.

    Args:
        id: The record's.
        state: Where it stands.
        attended: Somebody alive holds a lease for it.
        delivered: Its result has been handed out before.
        intact: Its kept files are all there.
    """

    id: int
    state: TaskState
    attended: bool
    delivered: bool
    intact: bool


# The surest way to the result first. A kept result whose files are gone is still free where the network has
# it, so it comes before anything that may have to be sent.
_RANKS = {
    TaskState.FINISHED: 1,
    TaskState.SUBMITTED: 2,
    TaskState.CANCEL_PENDING: 3,
    TaskState.KEPT: 4,
    TaskState.SENDING: 5,
    TaskState.PREPARED: 6,
    TaskState.UNKNOWN: 7,
}


def best(candidates: Iterable[Candidate], *, seeded: bool) -> Candidate | None:
    """The record to take up, the oldest among equals; None where a new one is needed.

    Work without a seed (`seeded` False) gives something new each time, so it takes up only what nobody looks
    after and nobody got: what a crash, or a caller that stopped waiting, left behind.
    """
    usable = [
        candidate
        for candidate in candidates
        if (candidate.state in _RANKS) and (seeded or not (candidate.attended or candidate.delivered))
    ]
    return min(usable, key=lambda candidate: (_rank(candidate), candidate.id), default=None)


def _rank(candidate: Candidate) -> int:
    return 0 if candidate.state is TaskState.KEPT and candidate.intact else _RANKS[candidate.state]
