"""The journal: nothing paid twice, nothing paid lost. `Journal` is the door, the rest stands behind it."""

from __future__ import annotations

from .database import BusyJournalError, CorruptJournalError
from .recovery import open_or_memory, open_or_renew
from .records import Action, Claim, Entry, IfUnknown, Work
from .states import ENDED, OPEN, TaskState
from .journal import Journal

__all__ = [
    "ENDED",
    "OPEN",
    "Action",
    "BusyJournalError",
    "Claim",
    "CorruptJournalError",
    "Entry",
    "IfUnknown",
    "Journal",
    "TaskState",
    "Work",
    "open_or_memory",
    "open_or_renew",
]
