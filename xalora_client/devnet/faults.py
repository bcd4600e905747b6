"""Faults on demand, as data: what goes wrong, where, and at which requests.

A fault has a text form for the command line, ``endpoint:kind[:option=value]...``::

    task_create:503:p=0.1                 one create in ten answers 503 and does nothing
    task_create:429:retry_after=2:n=1     the first create answers 429 with Retry-After: 2
    task_create:drop_after:n=3,5          the third and fifth creates are done, but never answered
    result:truncate:p=0.02                downloads cut in the middle of the body
    consumer:delay:seconds=0.2            every request of a consumer takes 0.2 s longer
    miner:death:n=4                       the miner that takes the fourth task vanishes half-way
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from .state import ENDPOINTS

FaultKind = Literal[
    "delay",
    "delay_after",
    "status",
    "status_after",
    "drop_before",
    "drop_after",
    "garbage",
    "truncate",
    "truncate_stored",
    "corrupt",
    "corrupt_stored",
    "slow",
    "death",
    "failed",
]

CONSUMER_ENDPOINTS = ("resource_request", "task_create", "task_result_query", "task_cancel")
RESULT = "result"
UPLOAD = "upload"
MINER = "miner"

_EVERYWHERE = frozenset({*ENDPOINTS, RESULT, UPLOAD})
_GROUPS: dict[str, frozenset[str]] = {
    "*": _EVERYWHERE,
    "consumer": frozenset(CONSUMER_ENDPOINTS),
}
_ANSWERS = frozenset(ENDPOINTS)
_WHERE: dict[str, frozenset[str]] = {
    "delay": _EVERYWHERE,
    "delay_after": _ANSWERS,
    "status": _EVERYWHERE,
    "status_after": _ANSWERS | {UPLOAD},
    "drop_before": _EVERYWHERE,
    "drop_after": _ANSWERS | {UPLOAD},
    "garbage": _ANSWERS,
    "truncate": frozenset({RESULT}),
    "truncate_stored": frozenset({UPLOAD}),
    "corrupt": frozenset({RESULT}),
    "corrupt_stored": frozenset({UPLOAD}),
    "slow": frozenset({RESULT}),
    "death": frozenset({MINER}),
    "failed": frozenset({MINER}),
}
_SHORT_NAMES = {"p": "probability", "n": "nth"}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    ========================  =======================  ====================================================
    kind                      endpoints                what happens
    ========================  =======================  ====================================================
    ``delay``                 all but ``miner``        nothing is done for ``seconds`` first
    ``delay_after``           the six                  acted upon at once, answered after ``seconds``
    ``status``                all but ``miner``        ``status`` is answered, nothing is done
    ``status_after``          the six, ``upload``      the request is acted upon, then ``status`` is answered
    ``drop_before``           all but ``miner``        the connection is closed before the body is taken
    ``drop_after``            the six, ``upload``      acted upon, then the connection is closed unanswered
    ``garbage``               the six                  acted upon, then 200 with a body that is not JSON
    ``truncate``              ``result``               cut in the middle, though Content-Length says more
    ``corrupt``               ``result``               a stretch of wrong bytes on the way, right length
    ``slow``                  ``result``               the body takes ``seconds``
    ``truncate_stored``       ``upload``               the stored file itself loses its second half
    ``corrupt_stored``        ``upload``               the stored file itself has wrong bytes
    ``death``                 ``miner``                the miner vanishes in the middle of the task
    ``failed``                ``miner``                the miner says that the task failed
    ========================  =======================  ====================================================

    Args:
        kind: See the table.
        endpoint: One of the six endpoints, ``result`` (downloads), ``upload``, ``miner`` (one count a task
            taken), ``consumer`` (the four of a consumer) or ``*`` (all but ``miner``).
        probability: Chance of each matching request, 0..1. Without it and ``nth``: every one.
        nth: Ordinals (from 1) of the matching requests that are hit. Exact, so tests need no luck.
        times: At most so many hits.
        seconds: For ``delay``, ``delay_after`` and ``slow``.
        status: HTTP status for ``status`` and ``status_after``.
        retry_after: Seconds for a ``Retry-After`` header, sent with ``status`` and ``status_after``.

    Raises:
        ValueError: Kind, endpoint or a number makes no sense; the message says which.
    """

    kind: FaultKind
    endpoint: str = "*"
    probability: float | None = None
    nth: tuple[int, ...] = ()
    times: int | None = None
    seconds: float = 1.0
    status: int = 503
    retry_after: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"Unknown fault {self.kind!r}; known are {', '.join(get_args(FaultKind))}")
        if not self.endpoints:
            places = ", ".join(sorted(_WHERE[self.kind]))
            raise ValueError(f"Fault {self.kind!r} cannot happen at {self.endpoint!r}, only at: {places}")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"A fault's probability lies in 0..1, not {self.probability}")
        if self.probability is not None and self.nth:
            raise ValueError("A fault has a probability or ordinals, not both")
        if any(n < 1 for n in self.nth):
            raise ValueError("A fault's ordinals count from 1")
        if not 400 <= self.status <= 599:
            raise ValueError(f"A fault's status lies in 400..599, not {self.status}")
        if self.seconds < 0 or (self.retry_after is not None and self.retry_after < 0):
            raise ValueError("A fault's seconds are not negative")

    @property
    def endpoints(self) -> frozenset[str]:
        """The places where this fault can happen."""
        return _GROUPS.get(self.endpoint, frozenset({self.endpoint})) & _WHERE[self.kind]

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read the text form ``endpoint:kind[:option=value]...``.

        ``kind`` may be a number, meaning ``status``. Options are the fields by name, ``p`` for
        ``probability`` and ``n`` for ``nth`` (``n=1,4``).

        Raises:
            ValueError: The text is no fault; the message says why.
        """
        endpoint, separator, rest = text.partition(":")
        if not separator:
            raise ValueError(f"Not a fault: {text!r}; write endpoint:kind[:option=value]...")
        kind, *options = rest.split(":")
        values: dict[str, Any] = {"endpoint": endpoint, "kind": kind}
        if kind.isdecimal():
            values.update(kind="status", status=int(kind))
        for option in options:
            name, separator, value = option.partition("=")
            name = _SHORT_NAMES.get(name, name)
            if not separator or name not in _READERS:
                known = ", ".join((*_READERS, *_SHORT_NAMES))
                raise ValueError(f"Not an option of a fault: {option!r}; known are {known}")
            try:
                values[name] = _READERS[name](value)
            except ValueError:
                raise ValueError(f"Not a value for a fault's {name}: {value!r}") from None
        return cls(**values)

    def __str__(self) -> str:
        """The text form; :meth:`parse` reads it back to an equal fault."""
        parts = [self.endpoint, self.kind]
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in _READERS and value != spec.default:
                shown = ",".join(map(str, value)) if spec.name == "nth" else value
                parts.append(f"{spec.name}={shown}")
        return ":".join(parts)


def _ordinals(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


_READERS: dict[str, Callable[[str], object]] = {
    "probability": float,
    "nth": _ordinals,
    "times": int,
    "seconds": float,
    "status": int,
    "retry_after": float,
}


@dataclass
class _Armed:
    fault: Fault
    random: random.Random
    requests: int = 0
    hits: int = 0

    def draw(self) -> bool:
        self.requests += 1
        # Drawn even when ordinals or the limit decide, so that one fault's luck depends on its own count
        # alone.
        luck = self.random.random()
        if self.fault.times is not None and self.hits >= self.fault.times:
            return False
        if self.fault.nth:
            hit = self.requests in self.fault.nth
        else:
            hit = self.fault.probability is None or luck < self.fault.probability
        self.hits += hit
        return hit


@dataclass
class FaultPlan:
    """The faults in force. The same seed and order of requests give the same faults.

    Args:
        faults: Faults, or their text form.
        seed: Of all chances; each fault has its own stream, so adding one leaves the others' luck alone.
    """

    faults: Iterable[Fault | str] = ()
    seed: int = 0
    hits: Counter[FaultKind] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._added = 0
        self._armed: list[_Armed] = []
        for fault in self.faults:
            self.add(fault)

    def add(self, fault: Fault | str) -> Fault:
        """Put one more fault in force; its count of requests starts now."""
        if isinstance(fault, str):
            fault = Fault.parse(fault)
        self._added += 1
        self._armed.append(_Armed(fault, random.Random(f"{self.seed}/{self._added}/{fault}")))
        return fault

    def clear(self) -> None:
        """From now on nothing goes wrong."""
        self._armed.clear()

    def draw(self, endpoint: str) -> dict[FaultKind, Fault]:
        """What goes wrong with the request that now arrives at this endpoint, by kind."""
        hits: dict[FaultKind, Fault] = {}
        for armed in self._armed:
            if endpoint in armed.fault.endpoints and armed.draw():
                hits.setdefault(armed.fault.kind, armed.fault)
        self.hits.update(hits.keys())
        return hits
