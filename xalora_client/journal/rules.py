"""The rules of the core, pure: record states, claims, and the phases of a job. Read this file first. No I/O.

Three tables decide about money:

- `next_state`: which event leads a journaled task from which state to which.
- `choose`: which journaled task answers a claim, so that a new one is created only where none does.
- `step`: what a job does next. It maps (job state, event) to (job state, commands); `jobs/job.py` carries the
  commands out and reports what came of them as events.

An event of a record is a *step* of this client or a *report*. A step that does not fit the state is a fault
of this program and raises, since it may cost money. A report comes from the network or from a note written
late; one that does not fit leaves the state as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from ..errors import JournalError

# --- Records: the state of a journaled task ---------------------------------------------------------------


class TaskState(str, Enum):
    """What this machine knows of a journaled task."""

    PREPARED = "prepared"  # journaled; nothing has been sent
    SENDING = "sending"  # the create may have left this machine
    SUBMITTED = "submitted"  # the network answered with a task id
    FINISHED = "finished"  # the network has the result; its files may be on this disk
    FAILED = "failed"  # ended without a result
    CANCELED = "canceled"  # canceled at the network
    UNKNOWN = "unknown"  # the create's outcome, or what became of the task, is not known
    NOT_SENT = "not_sent"  # refused, or never left this machine: free of charge


class Event(str, Enum):
    """What can happen to a journaled task."""

    # Steps of this client
    SEND = "send"
    RESEND = "resend"
    # Reports: of the create
    HELD_BACK = "held back"  # refused or never left; it will be sent again
    NOT_SENT = "not sent"  # refused or never left; it will not be sent again
    ANSWER_LOST = "answer lost"  # it went out and its outcome is not known
    ACCEPTED = "accepted"  # the network answered with a task id
    # Reports: of the task
    STATUS = "status"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"
    NOT_KNOWN = "not known"  # the network does not know the task's id any more
    EXPIRED = "expired"  # the network has no result for it any more
    CANCEL_REQUESTED = "cancel requested"
    CANCEL_LAPSED = "cancel lapsed"  # refused, or not confirmed in time
    # Reports: of the result on this machine
    KEPT = "kept"  # its files are on this disk, whole
    FILES_GONE = "files gone"
    DELIVERED = "delivered"  # the caller has what the call promised
    WANTED = "wanted"  # a caller waits for the files of a task whose id was delivered before
    FELL_BACK = "fell back"  # an engine of this machine made the result instead


ENDED = frozenset({TaskState.FAILED, TaskState.CANCELED, TaskState.NOT_SENT})
"""States with nothing left to do. A finished record has ended once its files are kept or it is delivered."""

_S, _E = TaskState, Event
_STEPS = frozenset({Event.SEND, Event.RESEND})
_NEXT: dict[tuple[TaskState, Event], TaskState] = {
    # The only way into SENDING is from PREPARED: this row is the gate in front of the user's money.
    (_S.PREPARED, _E.SEND): _S.SENDING,
    (_S.UNKNOWN, _E.RESEND): _S.PREPARED,
    (_S.PREPARED, _E.NOT_SENT): _S.NOT_SENT,
    (_S.SENDING, _E.HELD_BACK): _S.PREPARED,
    (_S.SENDING, _E.NOT_SENT): _S.NOT_SENT,
    (_S.SENDING, _E.ANSWER_LOST): _S.UNKNOWN,
    # Sent again and given up: the outcome of the first create is as unknown as before.
    (_S.PREPARED, _E.ANSWER_LOST): _S.UNKNOWN,
    # A task id is never thrown away, whatever this machine believed before it arrived.
    (_S.PREPARED, _E.ACCEPTED): _S.SUBMITTED,
    (_S.SENDING, _E.ACCEPTED): _S.SUBMITTED,
    (_S.UNKNOWN, _E.ACCEPTED): _S.SUBMITTED,
    (_S.NOT_SENT, _E.ACCEPTED): _S.SUBMITTED,
    (_S.SUBMITTED, _E.FAILED): _S.FAILED,
    (_S.SUBMITTED, _E.CANCELED): _S.CANCELED,
    (_S.SUBMITTED, _E.NOT_KNOWN): _S.UNKNOWN,
    (_S.UNKNOWN, _E.FAILED): _S.FAILED,
    (_S.UNKNOWN, _E.CANCELED): _S.CANCELED,
    # A result is never thrown away either: one that shows up after all beats a failure or a cancel.
    (_S.SUBMITTED, _E.FINISHED): _S.FINISHED,
    (_S.UNKNOWN, _E.FINISHED): _S.FINISHED,
    (_S.FAILED, _E.FINISHED): _S.FINISHED,
    (_S.CANCELED, _E.FINISHED): _S.FINISHED,
    (_S.FINISHED, _E.EXPIRED): _S.FAILED,
    # Reports that change columns alone, in the states in which they mean something.
    (_S.SUBMITTED, _E.STATUS): _S.SUBMITTED,
    (_S.SUBMITTED, _E.CANCEL_REQUESTED): _S.SUBMITTED,
    (_S.SUBMITTED, _E.CANCEL_LAPSED): _S.SUBMITTED,
    (_S.FINISHED, _E.FINISHED): _S.FINISHED,
    (_S.FINISHED, _E.KEPT): _S.FINISHED,
    (_S.FINISHED, _E.FILES_GONE): _S.FINISHED,
    (_S.SUBMITTED, _E.KEPT): _S.FINISHED,  # the note of the finish was lost, the files were not
    **{(state, _E.DELIVERED): state for state in TaskState},
    **{(state, _E.WANTED): state for state in TaskState},
    **{(state, _E.FELL_BACK): state for state in TaskState},
}


def next_state(state: TaskState, event: Event) -> TaskState | None:
    """The state after `event`; None for a report that does not fit and so changes nothing.

    Raises:
        JournalError: A step that does not fit, e.g. sending what has been sent.
    """
    after = _NEXT.get((state, event))
    if after is None and event in _STEPS:
        raise JournalError(
            f"The journal refuses to {event.value} a task that is {state.value}",
            money="This step sent nothing, so it charged nothing.",
            next_step="Look at the task with `xalora tasks`.",
        )
    return after


# --- Claims: which record answers -------------------------------------------------------------------------

Action = Literal["send", "join", "kept", "unknown"]
IfUnknown = Literal["resend", "forget", "stop"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A record of the same task as the one claimed.

    Args:
        id: The record's.
        state: Where it stands.
        leased: A living process holds a lease on it.
        delivered: A caller got what its call promised.
        whole: Its kept files are all there.
        named: The caller names its task as one that may answer.
        forgotten: It was given up.
        unsent: It is prepared, and whoever was to send it has left: it answers only by being sent.
    """

    id: int
    state: TaskState
    leased: bool = False
    delivered: bool = False
    whole: bool = False
    named: bool = False
    forgotten: bool = False
    unsent: bool = False


# The surest way to the result first.
_RANKS = {
    TaskState.FINISHED: 1,
    TaskState.SUBMITTED: 2,
    TaskState.SENDING: 3,
    TaskState.PREPARED: 4,
    TaskState.UNKNOWN: 5,
}
# After the unknown one, which may have been paid for: whether that is sent again is the caller's decision.
_UNSENT_RANK = 6


def choose(candidates: Iterable[Candidate], *, seeded: bool, reuse: bool, again: bool) -> Candidate | None:
    """The record that answers a claim; None where a new task is needed.

    Of equals the oldest that is undelivered, so that all join the same; if all were delivered, the newest:
    what was paid for again is what its user wants.

    What is undelivered is taken up or joined, always. `reuse` decides only about what was delivered before.
    Generation without a seed (`seeded` False) gives something new each time, so it is never shared with a
    living caller and never takes what was delivered. `again` takes nothing: it pays for a new task.
    """

    def answers(candidate: Candidate) -> bool:
        if again or candidate.forgotten or candidate.state not in _RANKS:
            return False
        if candidate.named:
            return True
        if not seeded:
            return not (candidate.leased or candidate.delivered)
        return reuse or not candidate.delivered or candidate.state is TaskState.UNKNOWN

    def rank(candidate: Candidate) -> tuple[int, bool, int]:
        age = -candidate.id if candidate.delivered else candidate.id
        sure = _UNSENT_RANK if candidate.unsent else _RANKS[candidate.state]
        return (0 if candidate.whole else sure, candidate.delivered, age)

    return min(filter(answers, candidates), key=rank, default=None)


# --- Jobs: what to do next --------------------------------------------------------------------------------


class Phase(Enum):
    """Where a job stands."""

    PREPARING = "preparing"  # before its create has left this machine
    SENDING = "sending"  # the network may have the whole create and has not answered
    WAITING = "waiting"  # the task waits in the network's queue
    RUNNING = "running"  # a miner works on it
    FETCHING = "fetching"  # it has finished, and its files are being fetched
    DONE = "done"  # see `Ending`


class Ending(Enum):
    """What ended a job."""

    RESULT = "result"  # files are on this disk
    ANSWERED = "answered"  # the task finished, and nobody here wants its files
    FAILED = "failed"
    CANCELED = "canceled"
    NOT_SENT = "not sent"
    UNKNOWN = "unknown"  # the create's outcome is not known
    NOT_KNOWN = "not known"  # the network does not know the task
    NO_FILES = "no files"  # the result can't be had, or not now
    OUT_OF_SIGHT = "out of sight"  # the network can't be asked; the task goes on
    LEFT = "left"  # nobody here waits any more; the task goes on
    CLOSED = "closed"  # the client was closed; the task goes on


class Because(Enum):
    """Why a task is to be canceled."""

    CALLER_LEAVES = "caller leaves"  # Ctrl-C, interrupt, timeout, queue limit, fallback
    USER_SAYS_SO = "user says so"  # an explicit cancel of this task


@dataclass(frozen=True)
class JobState:
    """The part of a job that its next step depends on.

    Args:
        sends: This process sends the create.
        task_id_known: The network's id of the task is here.
        callers: How many callers in this process hold the job.
        fetchers: How many of them want the result's files.
        is_out: The network may have the whole create, and its answer is not here.
        in_doubt: An earlier create may have made a task.
        is_seen: The task was created by this job, or the network was asked about it since.
        wish: Why its task is to be canceled, None where it is not.
        wish_sent: The request to cancel has left: joining does not take it back any more.
    """

    phase: Phase = Phase.PREPARING
    sends: bool = False
    task_id_known: bool = False
    is_out: bool = False
    in_doubt: bool = False
    is_seen: bool = False
    callers: int = 0
    fetchers: int = 0
    wish: Because | None = None
    wish_sent: bool = False
    ending: Ending | None = None


class Command(Enum):
    """What a job is to do."""

    STOP_CREATE = "stop create"  # it has not left: it must not leave any more
    CANCEL = "cancel"  # ask the network to cancel, unless others hold leases on the record
    FETCH = "fetch"
    STOP = "stop"  # no more requests about this task from this job


class Happened(Enum):
    """What can happen to a job."""

    JOINED = "joined"
    LEFT = "left"
    JOINED_FOR_FILES = "joined for files"
    LEFT_FOR_FILES = "left, had wanted files"
    WISHED = "wished"  # a caller that leaves wants the task canceled
    ALL_LEAVE = "all leave"  # every caller in this process leaves, and wants the task canceled
    ORDERED = "ordered"  # the user cancels this task
    CANCEL_SENT = "cancel sent"  # the request to cancel has left
    CREATE_LEFT = "create left"  # the network may have the whole request
    CREATE_HELD_BACK = "create held back"  # refused or not delivered; it would be sent again
    CREATED = "created"
    NOT_CREATED = "not created"
    CREATE_UNKNOWN = "create unknown"
    NOT_ANSWERED = "not answered"  # a question about the task's status
    WAITS = "waits"
    RUNS = "runs"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"
    NOT_KNOWN = "not known"
    OUT_OF_SIGHT = "out of sight"
    OTHERS_WAIT = "others wait"  # leases of others keep the task from being canceled
    CANCEL_LAPSED = "cancel lapsed"  # refused, or not confirmed in time
    FILES_HERE = "files here"
    NO_FILES = "no files"
    CLOSED = "closed"


_H = Happened
_ENDINGS = {
    _H.NOT_CREATED: Ending.NOT_SENT,
    _H.CREATE_UNKNOWN: Ending.UNKNOWN,
    _H.FAILED: Ending.FAILED,
    _H.CANCELED: Ending.CANCELED,
    _H.NOT_KNOWN: Ending.NOT_KNOWN,
    _H.OUT_OF_SIGHT: Ending.OUT_OF_SIGHT,
    _H.FILES_HERE: Ending.RESULT,
    _H.NO_FILES: Ending.NO_FILES,
    _H.CLOSED: Ending.CLOSED,
}
_CALLERS = {_H.JOINED: (1, 0), _H.LEFT: (-1, 0), _H.JOINED_FOR_FILES: (1, 1), _H.LEFT_FOR_FILES: (-1, -1)}

Commands = tuple[Command, ...]
Step = Callable[["JobState"], tuple["JobState", Commands]]


def step(job: JobState, event: Happened) -> tuple[JobState, Commands]:
    """What `event` makes of a job, and what the job has to do about it."""
    if event in _CALLERS:
        callers, fetchers = _CALLERS[event]
        job = replace(job, callers=job.callers + callers, fetchers=job.fetchers + fetchers)
        return _joined(job) if callers > 0 else _unattended(job)
    if job.phase is Phase.DONE:
        return job, ()
    if event in _ENDINGS:
        return _done(job, _ENDINGS[event])
    return _STEPS_OF_JOBS[event](job)


def _joined(job: JobState) -> tuple[JobState, Commands]:
    # Somebody wants it again before the request to cancel has left.
    if job.wish is Because.CALLER_LEAVES and not job.wish_sent:
        job = replace(job, wish=None)
    return job, ()


def _wished(job: JobState, because: Because) -> tuple[JobState, Commands]:
    if because is Because.CALLER_LEAVES and job.wish is not None:
        return job, ()
    if not job.sends and not job.task_id_known:
        # Another process sends it; its lease keeps the task.
        return job, ()
    if job.phase is Phase.FETCHING:
        return job, ()
    return _cancel_or_go_on(replace(job, wish=because))


def _cancel_or_go_on(job: JobState) -> tuple[JobState, Commands]:
    if job.wish is None:
        return _unattended(job)
    if job.task_id_known:
        return (job, ()) if job.wish_sent else (job, (Command.CANCEL,))
    return (job, (Command.STOP_CREATE,)) if job.phase is Phase.PREPARING else (job, ())


def _unattended(job: JobState) -> tuple[JobState, Commands]:
    """Nobody in this process waits any more: what is out is awaited, all else ends."""
    if job.callers or job.phase is Phase.DONE or job.wish is not None or job.phase is Phase.SENDING:
        return job, ()
    if job.sends and not job.task_id_known:
        return job, (Command.STOP_CREATE,)
    return _done(job, Ending.LEFT)


def _done(job: JobState, ending: Ending) -> tuple[JobState, Commands]:
    return replace(job, phase=Phase.DONE, wish=None, wish_sent=False, ending=ending), (Command.STOP,)


def _lapsed(job: JobState) -> tuple[JobState, Commands]:
    return _unattended(replace(job, wish=None, wish_sent=False))


def _create_held_back(job: JobState) -> tuple[JobState, Commands]:
    job = replace(job, phase=Phase.PREPARING, is_out=False)
    return (job, (Command.STOP_CREATE,)) if job.wish or not job.callers else (job, ())


def _finished(job: JobState) -> tuple[JobState, Commands]:
    # A result beats the wish to cancel.
    job = replace(job, wish=None, wish_sent=False)
    if job.fetchers:
        return replace(job, phase=Phase.FETCHING), (Command.FETCH,)
    return _done(job, Ending.ANSWERED)


def _under_way(phase: Phase) -> Step:
    return lambda job: (job if job.phase is Phase.FETCHING else replace(job, phase=phase, is_seen=True), ())


_STEPS_OF_JOBS: dict[Happened, Step] = {
    # Another caller in this process keeps the task.
    _H.WISHED: lambda job: (job, ()) if job.callers > 1 else _wished(job, Because.CALLER_LEAVES),
    _H.ALL_LEAVE: lambda job: _wished(job, Because.CALLER_LEAVES),
    _H.ORDERED: lambda job: _wished(job, Because.USER_SAYS_SO),
    _H.CANCEL_SENT: lambda job: (replace(job, wish_sent=job.wish is not None), ()),
    _H.OTHERS_WAIT: _lapsed,
    _H.CANCEL_LAPSED: _lapsed,
    _H.CREATE_LEFT: lambda job: (replace(job, phase=Phase.SENDING, is_out=True), ()),
    _H.CREATE_HELD_BACK: _create_held_back,
    _H.CREATED: lambda job: _cancel_or_go_on(
        replace(job, phase=Phase.WAITING, task_id_known=True, is_out=False, is_seen=True)
    ),
    _H.NOT_ANSWERED: lambda job: (replace(job, is_seen=True), ()),
    _H.WAITS: _under_way(Phase.WAITING),
    _H.RUNS: _under_way(Phase.RUNNING),
    _H.FINISHED: _finished,
}
