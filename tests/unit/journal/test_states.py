"""The table of states, over all pairs."""

from __future__ import annotations

import pytest

from xalora_client.errors import JournalError
from xalora_client.journal import ENDED, OPEN, TaskState
from xalora_client.journal.states import REPORTS, Event, next_state

S, E = TaskState, Event

# Rows: where a task stands. Columns: what happens. "." tells nothing new, "x" must raise.
GRID = """
               send     hold     giveup   lose     resend   cancel   withdraw keep     refetch  expire   accepted  finished  failed    canceled
PREPARED       SENDING  x        NOT_SENT UNKNOWN  x        x        x        x        x        x        SUBMITTED .         .         .
SENDING        x        PREPARED NOT_SENT UNKNOWN  x        x        x        x        x        x        SUBMITTED .         .         .
SUBMITTED      x        x        x        x        x        C_PEND   x        x        x        x        .         FINISHED  FAILED    CANCELED
FINISHED       x        x        x        x        x        x        x        KEPT     FINISHED FAILED   .         .         .         .
KEPT           x        x        x        x        x        x        x        KEPT     FINISHED x        .         .         .         .
FAILED         x        x        x        x        x        x        x        x        x        x        .         FINISHED  .         .
CANCELED       x        x        x        x        x        x        x        x        x        x        .         FINISHED  .         .
C_PEND         x        x        x        x        x        C_PEND   SUBMITTED x        x        x        .         FINISHED  FAILED    CANCELED
UNKNOWN        x        x        x        x        PREPARED x        x        x        x        x        SUBMITTED .         .         .
NOT_SENT       x        x        x        x        x        x        x        x        x        x        SUBMITTED .         .         .
"""  # noqa: E501 - a grid is read as a grid
COLUMNS = {
    "send": E.SEND,
    "hold": E.HOLD_BACK,
    "giveup": E.GIVE_UP,
    "lose": E.LOSE_ANSWER,
    "resend": E.RESEND,
    "cancel": E.ASK_CANCEL,
    "withdraw": E.WITHDRAW_CANCEL,
    "keep": E.KEEP,
    "refetch": E.REFETCH,
    "expire": E.EXPIRE,
    "accepted": E.ACCEPTED,
    "finished": E.FINISHED,
    "failed": E.FAILED,
    "canceled": E.CANCELED,
}


def _state(name: str) -> TaskState:
    return S.CANCEL_PENDING if name == "C_PEND" else S[name]


def _cells() -> list[tuple[TaskState, Event, str]]:
    head, *lines = GRID.strip().splitlines()
    columns = [COLUMNS[name] for name in head.split()]
    return [
        (_state(line.split()[0]), event, cell)
        for line in lines
        for event, cell in zip(columns, line.split()[1:], strict=True)
    ]


def test_the_grid_covers_every_pair() -> None:
    pairs = [(state, event) for state, event, _ in _cells()]
    assert sorted(pairs) == sorted((state, event) for state in TaskState for event in Event)


@pytest.mark.parametrize(
    ("state", "event", "cell"), _cells(), ids=lambda value: str(getattr(value, "value", value))
)
def test_pair(state: TaskState, event: Event, cell: str) -> None:
    if cell == "x":
        with pytest.raises(JournalError, match=f"{event.value} a task that is {state.value}"):
            next_state(state, event)
    else:
        assert next_state(state, event) is (state if cell == "." else _state(cell))


def test_no_chain_of_reports_moves_a_kept_result() -> None:
    assert {next_state(S.KEPT, report) for report in REPORTS} == {S.KEPT}


def test_only_prepared_leads_to_sending() -> None:
    assert {state for state, _, cell in _cells() if cell == "SENDING"} == {S.PREPARED}


def test_open_and_ended_are_all_there_is() -> None:
    assert set(TaskState) == ENDED | OPEN
    assert not ENDED & OPEN
    assert {state for state in TaskState if state.is_ended} == ENDED
