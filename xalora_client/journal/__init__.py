"""The journal: what this machine knows of its tasks, in a file that outlives the process.

`rules` holds the decisions, `Journal` is what everybody else uses.
"""

from __future__ import annotations

from .database import BusyJournalError, CorruptJournalError, busy_error
from .journal import JOURNAL_FILE, Journal
from .records import Claim, ClaimOptions, Group, Record, Whole, Work
from .rules import ENDED, Action, Event, IfUnknown, TaskState

__all__ = [
    "ENDED",
    "JOURNAL_FILE",
    "Action",
    "BusyJournalError",
    "Claim",
    "ClaimOptions",
    "CorruptJournalError",
    "Event",
    "Group",
    "IfUnknown",
    "Journal",
    "Record",
    "TaskState",
    "Whole",
    "Work",
    "busy_error",
]
