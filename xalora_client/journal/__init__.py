"""The journal: nothing paid twice, nothing paid lost. `Journal` is the door, the rest stands behind it."""

from __future__ import annotations

from .database import BusyJournalError, CorruptJournalError
from .journal import Journal
from .records import Action, Claim, IfUnknown, Record, Work
from .recovery import open_or_memory, open_or_renew
from .states import ENDED, OPEN, TaskState

__all__ = [
    "ENDED",
    "OPEN",
    "Action",
    "BusyJournalError",
    "Claim",
    "CorruptJournalError",
    "IfUnknown",
    "Journal",
    "Record",
    "TaskState",
    "Work",
    "open_or_memory",
    "open_or_renew",
]
