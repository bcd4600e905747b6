"""The life of a journaled task as a table: which event leads from which state to which. No I/O.

Two kinds of events meet here. *Steps* are this client's own decisions; one that does not fit the state is a
bug, and the costly ones must never slip through, so they raise. *Reports* come from the network, possibly
late, twice or out of order; one that does not fit the state tells nothing new and leaves it as it is.
"""

from __future__ import annotations

from enum import Enum

from ..errors import JournalError


class TaskState(str, Enum):
    """Where a task stands, as far as this machine knows.

    ``PREPARED`` journaled, nothing sent. ``SENDING`` the create may have left this machine. ``SUBMITTED`` the
    network answered with a task id. ``FINISHED`` the network has the result. ``KEPT`` the result's files are
    (or were, see `Record.evicted`) on this disk. ``FAILED`` ended without a result. ``CANCELED`` canceled at
    the network. ``CANCEL_PENDING`` to be canceled, not yet confirmed. ``UNKNOWN`` the create's outcome was
    never learned. ``NOT_SENT`` refused, or never left this machine: free of charge.
    """

    PREPARED = "prepared"
    SENDING = "sending"
    SUBMITTED = "submitted"
    FINISHED = "finished"
    KEPT = "kept"
    FAILED = "failed"
    CANCELED = "canceled"
    CANCEL_PENDING = "cancel_pending"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"

    @property
    def is_ended(self) -> bool:
        """True where nothing is left to do: kept, failed, canceled or not sent."""
        return self in ENDED


class Event(str, Enum):
    """What can happen to a journaled task."""

    # Steps of this client
    SEND = "send"
    HOLD_BACK = "hold back"
    GIVE_UP = "give up"
    LOSE_ANSWER = "lose answer"
    RESEND = "resend"
    ASK_CANCEL = "ask cancel"
    WITHDRAW_CANCEL = "withdraw cancel"
    KEEP = "keep"
    REFETCH = "refetch"
    EXPIRE = "expire"
    # Reports of the network
    ACCEPTED = "accepted"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"


ENDED = frozenset({TaskState.KEPT, TaskState.FAILED, TaskState.CANCELED, TaskState.NOT_SENT})
OPEN = frozenset(TaskState) - ENDED
REPORTS = frozenset({Event.ACCEPTED, Event.FINISHED, Event.FAILED, Event.CANCELED})

_S, _E = TaskState, Event
_NEXT: dict[tuple[TaskState, Event], TaskState] = {
    # The only way into SENDING is from PREPARED: this row is the gate in front of the user's money.
    (_S.PREPARED, _E.SEND): _S.SENDING,
    (_S.PREPARED, _E.GIVE_UP): _S.NOT_SENT,
    # Sent again, it is given up: what became of the first time is as unknown as before.
    (_S.PREPARED, _E.LOSE_ANSWER): _S.UNKNOWN,
    (_S.SENDING, _E.HOLD_BACK): _S.PREPARED,
    (_S.SENDING, _E.GIVE_UP): _S.NOT_SENT,
    (_S.SENDING, _E.LOSE_ANSWER): _S.UNKNOWN,
    (_S.UNKNOWN, _E.RESEND): _S.PREPARED,
    # A task id is never thrown away, whatever this machine believed before it arrived.
    (_S.PREPARED, _E.ACCEPTED): _S.SUBMITTED,
    (_S.SENDING, _E.ACCEPTED): _S.SUBMITTED,
    (_S.UNKNOWN, _E.ACCEPTED): _S.SUBMITTED,
    (_S.NOT_SENT, _E.ACCEPTED): _S.SUBMITTED,
    (_S.SUBMITTED, _E.ASK_CANCEL): _S.CANCEL_PENDING,
    (_S.CANCEL_PENDING, _E.ASK_CANCEL): _S.CANCEL_PENDING,
    (_S.CANCEL_PENDING, _E.WITHDRAW_CANCEL): _S.SUBMITTED,
    # A result is never thrown away either: one that shows up after all beats a failure or a cancel.
    (_S.SUBMITTED, _E.FINISHED): _S.FINISHED,
    (_S.CANCEL_PENDING, _E.FINISHED): _S.FINISHED,
    (_S.FAILED, _E.FINISHED): _S.FINISHED,
    (_S.CANCELED, _E.FINISHED): _S.FINISHED,
    (_S.SUBMITTED, _E.FAILED): _S.FAILED,
    (_S.CANCEL_PENDING, _E.FAILED): _S.FAILED,
    (_S.SUBMITTED, _E.CANCELED): _S.CANCELED,
    (_S.CANCEL_PENDING, _E.CANCELED): _S.CANCELED,
    (_S.FINISHED, _E.KEEP): _S.KEPT,
    (_S.KEPT, _E.KEEP): _S.KEPT,
    (_S.KEPT, _E.REFETCH): _S.FINISHED,
    (_S.FINISHED, _E.REFETCH): _S.FINISHED,
    (_S.FINISHED, _E.EXPIRE): _S.FAILED,
}


def next_state(state: TaskState, event: Event) -> TaskState:
    """The state after `event`.

    A report that does not fit returns `state` unchanged.

    Raises:
        JournalError: A step of this client that does not fit, e.g. sending what has been sent.
    """
    if (state, event) in _NEXT:
        return _NEXT[state, event]
    if event in REPORTS:
        return state
    raise JournalError(
        f"The journal refuses to {event.value} a task that is {state.value}",
        money="Nothing was sent by this step, so it charged nothing.",
        next_step="Look at the task with `xalora tasks`.",
    )
