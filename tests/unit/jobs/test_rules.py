"""The rules of the core, case by case: record states, claims, and the steps of jobs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from xalora_client.errors import JournalError
from xalora_client.journal import ENDED, Event, TaskState
from xalora_client.journal.rules import (
    Because,
    Candidate,
    Command,
    Ending,
    Happened,
    JobState,
    Phase,
    choose,
    next_state,
    step,
)

S, E, H, P, C = TaskState, Event, Happened, Phase, Command

# Rows: what happens. Columns: where the task stands. "." changes nothing, "x" must raise.
GRID = """
                  PREPARED   SENDING    SUBMITTED  FINISHED   FAILED     CANCELED   UNKNOWN    NOT_SENT
SEND              SENDING    x          x          x          x          x          x          x
RESEND            x          x          x          x          x          x          PREPARED   x
HELD_BACK         .          PREPARED   .          .          .          .          .          .
NOT_SENT          NOT_SENT   NOT_SENT   .          .          .          .          .          .
ANSWER_LOST       UNKNOWN    UNKNOWN    .          .          .          .          .          .
ACCEPTED          SUBMITTED  SUBMITTED  .          .          .          .          SUBMITTED  SUBMITTED
STATUS            .          .          SUBMITTED  .          .          .          .          .
FINISHED          .          .          FINISHED   FINISHED   FINISHED   FINISHED   FINISHED   .
FAILED            .          .          FAILED     .          .          .          FAILED     .
CANCELED          .          .          CANCELED   .          .          .          CANCELED   .
NOT_KNOWN         .          .          UNKNOWN    .          .          .          .          .
EXPIRED           .          .          .          FAILED     .          .          .          .
CANCEL_REQUESTED  .          .          SUBMITTED  .          .          .          .          .
CANCEL_LAPSED     .          .          SUBMITTED  .          .          .          .          .
KEPT              .          .          FINISHED   FINISHED   .          .          .          .
FILES_GONE        .          .          .          FINISHED   .          .          .          .
DELIVERED         PREPARED   SENDING    SUBMITTED  FINISHED   FAILED     CANCELED   UNKNOWN    NOT_SENT
WANTED            PREPARED   SENDING    SUBMITTED  FINISHED   FAILED     CANCELED   UNKNOWN    NOT_SENT
FELL_BACK         PREPARED   SENDING    SUBMITTED  FINISHED   FAILED     CANCELED   UNKNOWN    NOT_SENT
"""


def cells() -> list[tuple[TaskState, Event, str]]:
    head, *lines = (line.split() for line in GRID.strip().splitlines())
    return [
        (S[state], E[line[0]], cell) for line in lines for state, cell in zip(head, line[1:], strict=True)
    ]


class TestNextState:
    def test_the_grid_covers_every_pair(self) -> None:
        assert {(state, event) for state, event, _ in cells()} == set(itertools.product(S, E))
        assert len(cells()) == len(S) * len(E)

    @pytest.mark.parametrize(("state", "event", "cell"), cells())
    def test_pair(self, state: TaskState, event: Event, cell: str) -> None:
        if cell == "x":
            with pytest.raises(JournalError, match=f"{event.value} a task that is {state.value}") as caught:
                next_state(state, event)
            assert "charged nothing" in str(caught.value)
        else:
            assert next_state(state, event) is (None if cell == "." else S[cell])

    def test_only_a_prepared_task_is_sent(self) -> None:
        assert {state for state, _, cell in cells() if cell == "SENDING" and state is not S.SENDING} == {
            S.PREPARED
        }

    def test_a_result_is_never_thrown_away(self) -> None:
        leaving = {event for state, event, cell in cells() if state is S.FINISHED and cell not in (".", "x")}
        left = {event for event in leaving if next_state(S.FINISHED, event) is not S.FINISHED}
        assert left == {E.EXPIRED}
        # A result that shows up after all counts in every state that has a task id.
        with_id = (S.SUBMITTED, S.FINISHED, S.FAILED, S.CANCELED, S.UNKNOWN)
        assert {next_state(state, E.FINISHED) for state in with_id} == {S.FINISHED}

    def test_a_task_id_is_never_thrown_away(self) -> None:
        without_id = (S.PREPARED, S.SENDING, S.UNKNOWN, S.NOT_SENT)
        assert {next_state(state, E.ACCEPTED) for state in without_id} == {S.SUBMITTED}
        # No event leads back into a state from which the task would be sent again, save by UNKNOWN and a
        # choice of the user.
        with_id = (S.SUBMITTED, S.FINISHED, S.FAILED, S.CANCELED)
        after = {cell for state, _, cell in cells() if state in with_id} - {".", "x"}
        assert after == {"SUBMITTED", "FINISHED", "FAILED", "CANCELED", "UNKNOWN"}

    def test_no_report_raises(self) -> None:
        assert {event for _, event, cell in cells() if cell == "x"} == {E.SEND, E.RESEND}

    def test_an_ended_task_has_no_result_and_no_create_under_way(self) -> None:
        assert {S.FAILED, S.CANCELED, S.NOT_SENT} == ENDED


def candidate(id: int, state: TaskState, **how: bool) -> Candidate:
    return Candidate(id=id, state=state, **how)


class TestChoose:
    @pytest.mark.parametrize("state", S)
    def test_what_is_undelivered_answers_with_and_without_reuse(self, state: TaskState) -> None:
        for reuse, leased in itertools.product((True, False), repeat=2):
            chosen = choose([candidate(1, state, leased=leased)], seeded=True, reuse=reuse, again=False)
            assert (chosen is not None) is (state not in ENDED)

    def test_what_may_have_been_paid_for_comes_before_what_would_have_to_be_sent(self) -> None:
        unknown = candidate(2, S.UNKNOWN)
        for is_unsent, answering in ((False, 1), (True, 2)):
            prepared = candidate(1, S.PREPARED, leased=True, unsent=is_unsent)
            chosen = choose([prepared, unknown], seeded=True, reuse=False, again=False)
            assert chosen is not None
            assert chosen.id == answering

    @pytest.mark.parametrize("state", [S.SUBMITTED, S.FINISHED, S.UNKNOWN])
    def test_reuse_decides_about_what_was_delivered(self, state: TaskState) -> None:
        delivered = [candidate(1, state, delivered=True)]
        assert choose(delivered, seeded=True, reuse=True, again=False) is delivered[0]
        without = choose(delivered, seeded=True, reuse=False, again=False)
        # What became of an unknown task is asked before another is paid for.
        assert (without is not None) is (state is S.UNKNOWN)

    @pytest.mark.parametrize("state", S)
    def test_again_and_forgotten_take_nothing(self, state: TaskState) -> None:
        for how in ({}, {"named": True}, {"whole": True}):
            one = candidate(1, state, **how)
            assert choose([one], seeded=True, reuse=True, again=True) is None
            assert choose([replace(one, forgotten=True)], seeded=True, reuse=True, again=False) is None

    @pytest.mark.parametrize("state", [S.PREPARED, S.SENDING, S.SUBMITTED, S.FINISHED, S.UNKNOWN])
    @pytest.mark.parametrize(
        ("how", "answers"),
        [
            ({}, True),
            ({"leased": True}, False),
            ({"delivered": True}, False),
            ({"leased": True, "delivered": True}, False),
            ({"leased": True, "delivered": True, "named": True}, True),
        ],
    )
    def test_without_a_seed_only_what_nobody_holds_or_got(
        self, state: TaskState, how: dict[str, bool], answers: bool
    ) -> None:
        chosen = choose([candidate(1, state, **how)], seeded=False, reuse=True, again=False)
        assert (chosen is not None) is answers

    def test_a_named_task_answers_though_it_was_delivered(self) -> None:
        one, other = (candidate(number, S.FINISHED, delivered=True) for number in (1, 2))
        named = replace(other, named=True)
        assert choose([one, named], seeded=True, reuse=False, again=False) is named
        assert choose([one, replace(named, state=S.FAILED)], seeded=True, reuse=False, again=False) is None

    def test_the_surest_way_to_the_result_first(self) -> None:
        surest_first = [
            candidate(9, S.FINISHED, whole=True),
            candidate(8, S.FINISHED),
            candidate(7, S.SUBMITTED),
            candidate(6, S.SENDING),
            candidate(5, S.PREPARED),
            candidate(4, S.UNKNOWN),
        ]
        for number, first in enumerate(surest_first):
            assert choose(surest_first[number:], seeded=True, reuse=True, again=False) is first

    def test_the_oldest_among_equals(self) -> None:
        several = [candidate(number, S.SUBMITTED) for number in (3, 1, 2)]
        assert choose(several, seeded=True, reuse=True, again=False) is several[1]

    def test_of_delivered_results_the_newest(self) -> None:
        """Whoever paid for it again did not want the first."""
        for state, whole in ((S.FINISHED, True), (S.FINISHED, False)):
            several = [candidate(number, state, whole=whole, delivered=True) for number in (2, 3, 1)]
            assert choose(several, seeded=True, reuse=True, again=False) is several[1]
            undelivered = candidate(2, state, whole=whole)
            assert choose([*several, undelivered], seeded=True, reuse=True, again=False) is undelivered

    def test_none_where_there_is_none(self) -> None:
        assert choose([], seeded=True, reuse=True, again=False) is None


CALLER_LEAVES, USER_SAYS_SO = Because
MINE = JobState(sends=True)
OTHERS = JobState()
TAKEN_UP = JobState(phase=P.WAITING, task_id_known=True)


def run(job: JobState, *events: Happened) -> tuple[JobState, list[Command]]:
    """The state after several events, and all commands that were given."""
    given: list[Command] = []
    for event in events:
        job, commands = step(job, event)
        given.extend(commands)
    return job, given


def under_way(phase: Phase, callers: int = 1) -> JobState:
    """A job of this process that has come so far, with callers that want its files."""
    job, _ = run(MINE, *[H.JOINED_FOR_FILES] * callers)
    ways = {
        P.PREPARING: [],
        P.SENDING: [H.CREATE_LEFT],
        P.WAITING: [H.CREATE_LEFT, H.CREATED],
        P.RUNNING: [H.CREATE_LEFT, H.CREATED, H.RUNS],
        P.FETCHING: [H.CREATE_LEFT, H.CREATED, H.FINISHED],
    }
    return run(job, *ways[phase])[0]


# The job, what happens, its phase or ending then, and every command on the way.
CASES: dict[str, tuple[JobState, list[Happened], Phase | Ending, list[Command]]] = {
    "a plain task": (
        MINE,
        [H.JOINED_FOR_FILES, H.CREATE_LEFT, H.CREATED, H.WAITS, H.RUNS, H.FINISHED, H.FILES_HERE],
        Ending.RESULT,
        [C.FETCH, C.STOP],
    ),
    "nobody wants files": (
        MINE,
        [H.JOINED, H.CREATE_LEFT, H.CREATED, H.RUNS, H.FINISHED],
        Ending.ANSWERED,
        [C.STOP],
    ),
    "it fails": (under_way(P.RUNNING), [H.FAILED], Ending.FAILED, [C.STOP]),
    "canceled by somebody else": (under_way(P.RUNNING), [H.CANCELED], Ending.CANCELED, [C.STOP]),
    "the network does not know it": (under_way(P.WAITING), [H.NOT_KNOWN], Ending.NOT_KNOWN, [C.STOP]),
    "the network is out of sight": (under_way(P.WAITING), [H.OUT_OF_SIGHT], Ending.OUT_OF_SIGHT, [C.STOP]),
    "no files": (under_way(P.FETCHING), [H.NO_FILES], Ending.NO_FILES, [C.STOP]),
    "the client closes": (under_way(P.RUNNING), [H.CLOSED], Ending.CLOSED, [C.STOP]),
    "refused": (under_way(P.SENDING), [H.NOT_CREATED], Ending.NOT_SENT, [C.STOP]),
    "the answer is lost": (under_way(P.SENDING), [H.CREATE_UNKNOWN], Ending.UNKNOWN, [C.STOP]),
    "a late status while fetching": (under_way(P.FETCHING), [H.RUNS, H.WAITS], P.FETCHING, []),
    "held back and sent again": (
        under_way(P.SENDING),
        [H.CREATE_HELD_BACK, H.CREATE_LEFT, H.CREATED],
        P.WAITING,
        [],
    ),
    # Leaving
    "the last leaves before the create": (under_way(P.PREPARING), [H.LEFT], P.PREPARING, [C.STOP_CREATE]),
    "the last leaves while sending": (under_way(P.SENDING), [H.LEFT], P.SENDING, []),
    "the id comes after the last left": (under_way(P.SENDING), [H.LEFT, H.CREATED], Ending.LEFT, [C.STOP]),
    "held back after the last left": (
        under_way(P.SENDING),
        [H.LEFT, H.CREATE_HELD_BACK],
        P.PREPARING,
        [C.STOP_CREATE],
    ),
    "the last leaves a running task": (under_way(P.RUNNING), [H.LEFT], Ending.LEFT, [C.STOP]),
    "the last leaves while fetching": (under_way(P.FETCHING), [H.LEFT], Ending.LEFT, [C.STOP]),
    "one of two leaves": (under_way(P.RUNNING, 2), [H.LEFT], P.RUNNING, []),
    "the last leaves another process's create": (OTHERS, [H.JOINED, H.LEFT], Ending.LEFT, [C.STOP]),
    # Wishes
    "a wish before the create": (
        under_way(P.PREPARING),
        [H.WISHED, H.LEFT, H.NOT_CREATED],
        Ending.NOT_SENT,
        [C.STOP_CREATE, C.STOP],
    ),
    "a wish while sending waits for the id": (
        under_way(P.SENDING),
        [H.WISHED, H.LEFT, H.CREATED, H.CANCELED],
        Ending.CANCELED,
        [C.CANCEL, C.STOP],
    ),
    "a wish while sending, held back": (
        under_way(P.SENDING),
        [H.WISHED, H.LEFT, H.CREATE_HELD_BACK],
        P.PREPARING,
        [C.STOP_CREATE],
    ),
    "a wish while sending, answer lost": (
        under_way(P.SENDING),
        [H.WISHED, H.LEFT, H.CREATE_UNKNOWN],
        Ending.UNKNOWN,
        [C.STOP],
    ),
    "a wish": (under_way(P.RUNNING), [H.WISHED, H.LEFT, H.CANCELED], Ending.CANCELED, [C.CANCEL, C.STOP]),
    "a wish, and finished all the same": (
        under_way(P.RUNNING),
        [H.WISHED, H.FINISHED, H.FILES_HERE],
        Ending.RESULT,
        [C.CANCEL, C.FETCH, C.STOP],
    ),
    "a wish, finished, and nobody is left": (
        under_way(P.RUNNING),
        [H.WISHED, H.LEFT_FOR_FILES, H.FINISHED],
        Ending.ANSWERED,
        [C.CANCEL, C.STOP],
    ),
    "a wish that lapses with nobody left": (
        under_way(P.RUNNING),
        [H.WISHED, H.LEFT, H.CANCEL_LAPSED],
        Ending.LEFT,
        [C.CANCEL, C.STOP],
    ),
    "a wish that lapses, and the caller stays": (
        under_way(P.RUNNING),
        [H.WISHED, H.CANCEL_LAPSED],
        P.RUNNING,
        [C.CANCEL],
    ),
    "a wish that others outside keep from the task": (
        under_way(P.RUNNING),
        [H.WISHED, H.OTHERS_WAIT, H.LEFT],
        Ending.LEFT,
        [C.CANCEL, C.STOP],
    ),
    "a wish of one of two": (under_way(P.RUNNING, 2), [H.WISHED, H.LEFT], P.RUNNING, []),
    "a wish while fetching": (under_way(P.FETCHING), [H.WISHED], P.FETCHING, []),
    "a wish about another process's create": (OTHERS, [H.JOINED, H.WISHED, H.LEFT], Ending.LEFT, [C.STOP]),
    "a wish about a task taken up": (TAKEN_UP, [H.JOINED, H.WISHED], P.WAITING, [C.CANCEL]),
    "a wish twice is one request": (under_way(P.RUNNING), [H.WISHED, H.WISHED], P.RUNNING, [C.CANCEL]),
    "a wish after one that lapsed": (
        under_way(P.RUNNING),
        [H.WISHED, H.CANCEL_LAPSED, H.WISHED],
        P.RUNNING,
        [C.CANCEL, C.CANCEL],
    ),
    # Joining during a wish
    "a joiner takes back a wish whose request has not left": (
        under_way(P.SENDING),
        [H.WISHED, H.JOINED, H.LEFT, H.CREATED],
        P.WAITING,
        [],
    ),
    "a joiner does not take back a request that has left": (
        under_way(P.RUNNING),
        [H.WISHED, H.JOINED, H.LEFT, H.CANCELED],
        Ending.CANCELED,
        [C.CANCEL, C.STOP],
    ),
    "a joiner keeps a task whose cancel lapses": (
        under_way(P.RUNNING),
        [H.WISHED, H.JOINED, H.LEFT, H.CANCEL_LAPSED],
        P.RUNNING,
        [C.CANCEL],
    ),
    # Orders
    "an order with others": (under_way(P.RUNNING, 3), [H.ORDERED], P.RUNNING, [C.CANCEL]),
    "an order while sending waits for the id": (
        under_way(P.SENDING, 2),
        [H.ORDERED, H.CREATED],
        P.WAITING,
        [C.CANCEL],
    ),
    "an order before the create": (under_way(P.PREPARING, 2), [H.ORDERED], P.PREPARING, [C.STOP_CREATE]),
    "a joiner does not take back an order": (
        under_way(P.SENDING),
        [H.ORDERED, H.JOINED, H.CREATED],
        P.WAITING,
        [C.CANCEL],
    ),
    "an order after a wish is the same request": (
        under_way(P.RUNNING),
        [H.WISHED, H.CANCEL_SENT, H.ORDERED],
        P.RUNNING,
        [C.CANCEL],
    ),
    "an order after a wish that others kept from the task": (
        under_way(P.RUNNING),
        [H.WISHED, H.OTHERS_WAIT, H.ORDERED],
        P.RUNNING,
        [C.CANCEL, C.CANCEL],
    ),
    "nothing after the end": (
        under_way(P.RUNNING),
        [H.FAILED, H.WISHED, H.ORDERED, H.FINISHED, H.CREATED, H.JOINED, H.LEFT, H.LEFT],
        Ending.FAILED,
        [C.STOP],
    ),
}


def every_state() -> list[JobState]:
    return [
        JobState(phase, sends, known, callers, fetchers, wish, wish_sent)
        for phase, sends, known, callers, fetchers, wish, wish_sent in itertools.product(
            P, (False, True), (False, True), range(3), range(3), (None, *Because), (False, True)
        )
        if fetchers <= callers
    ]


class TestStep:
    @pytest.mark.parametrize("name", CASES)
    def test_case(self, name: str) -> None:
        job, events, then, commands = CASES[name]
        after, given = run(job, *events)
        assert (after.ending if isinstance(then, Ending) else after.phase, given) == (then, commands)
        assert (after.phase is P.DONE) is (after.ending is not None)

    @pytest.mark.parametrize("event", H)
    def test_in_every_state(self, event: Happened) -> None:
        """No step raises, none leaves the end, and each end is told once, with no wish left in force."""
        for job in every_state():
            after, commands = step(job, event)
            ends = job.phase is not P.DONE and after.phase is P.DONE
            assert commands.count(C.STOP) == int(ends)
            assert not (job.phase is P.DONE and (after.phase is not P.DONE or commands))
            assert not (ends and (after.wish or after.wish_sent))
            if C.CANCEL in commands:
                assert after.wish is not None and after.task_id_known and not job.wish_sent
            if C.STOP_CREATE in commands and event is not H.CREATE_HELD_BACK:
                # What the network may have is never taken for not sent.
                assert after.phase is not P.SENDING and not after.task_id_known
