"""Faults to inject: their kinds, the endpoints they affect, and the plan that draws them for each request.

A fault has a text form for the command line, ``endpoint:kind[:option=value]...``::

    task_create:503:p=0.1                 one create in ten answers 503 without effect
    task_create:429:retry_after=2:n=1     the first create answers 429 with Retry-After: 2
    task_create:drop_after:n=3,5          the third and fifth creates take effect, unanswered
    result:truncate:p=0.02                one download in fifty ends in the middle of the body
    consumer:delay:seconds=0.2            every request of a consumer takes 0.2 s longer
    miner:death:n=4                       the miner that takes the fourth task dies half-way
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ..serving.requests import reason
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
_OPTIONS = ("probability", "nth", "times", "seconds", "status", "retry_after")
_SHORT_NAMES = {"p": "probability", "n": "nth"}


@pydantic_dataclass(frozen=True)
class Fault:
    """A fault.

    ========================  =======================  ====================================================
    kind                      endpoints                effect
    ========================  =======================  ====================================================
    ``delay``                 all but ``miner``        handled after ``seconds``
    ``delay_after``           the six                  handled at once, answered after ``seconds``
    ``status``                all but ``miner``        answers ``status`` without effect
    ``status_after``          the six, ``upload``      handled, then answers ``status``
    ``drop_before``           all but ``miner``        closes the connection before the body is read
    ``drop_after``            the six, ``upload``      handled, then closes the connection unanswered
    ``garbage``               the six                  handled, then answers 200 with a body that is not JSON
    ``truncate``              ``result``               ends in the middle, short of Content-Length
    ``corrupt``               ``result``               some bytes are wrong, the length is right
    ``slow``                  ``result``               the body takes ``seconds``
    ``truncate_stored``       ``upload``               the stored file lacks its second half
    ``corrupt_stored``        ``upload``               the stored file has wrong bytes
    ``death``                 ``miner``                the miner dies in the middle of the task
    ``failed``                ``miner``                the miner reports the task as failed, each time in
                                                       other words
    ========================  =======================  ====================================================

    Args:
        kind: See the table.
        endpoint: One of the six endpoints, ``result`` (downloads), ``upload``, ``miner`` (counts the
            tasks taken), ``consumer`` (the four of a consumer) or ``*`` (all but ``miner``).
        probability: Of each matching request, 0..1. Without it and ``nth``: every one.
        nth: Ordinals (from 1) of the matching requests that are hit, for exact tests.
        times: The most hits.
        seconds: For ``delay``, ``delay_after`` and ``slow``.
        status: HTTP status for ``status`` and ``status_after``.
        retry_after: Seconds for a ``Retry-After`` header, sent with ``status`` and ``status_after``.

    Raises:
        ValueError: The kind, the endpoint or a number is invalid; the message says which.
    """

    kind: FaultKind
    endpoint: str = "*"
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    nth: tuple[Annotated[int, Field(ge=1)], ...] = ()
    times: int | None = None
    seconds: NonNegativeFloat = 1.0
    status: Annotated[int, Field(ge=400, le=599)] = 503
    retry_after: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        if not self.endpoints:
            places = ", ".join(sorted(_WHERE[self.kind]))
            raise ValueError(f"Fault {self.kind!r} can't happen at {self.endpoint!r}, only at: {places}")
        if self.probability is not None and self.nth:
            raise ValueError("A fault has a probability or ordinals, not both")

    @property
    def endpoints(self) -> frozenset[str]:
        """The endpoints that this fault affects."""
        return _GROUPS.get(self.endpoint, frozenset({self.endpoint})) & _WHERE[self.kind]

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read the text form ``endpoint:kind[:option=value]...``.

        ``kind`` may be a number, meaning ``status``. Options are the fields by name, ``p`` for
        ``probability`` and ``n`` for ``nth`` (``n=1,4``).

        Raises:
            ValueError: The text is not a fault; the message says why.
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
            if not separator or name not in _OPTIONS:
                known = ", ".join((*_OPTIONS, *_SHORT_NAMES))
                raise ValueError(f"Not an option of a fault: {option!r}; known are {known}")
            values[name] = value.split(",") if name == "nth" else value
        try:
            return cls(**values)
        except ValidationError as problem:
            raise ValueError(reason(problem)) from None

    def __str__(self) -> str:
        """The text form; :meth:`parse` reads it back to an equal fault."""
        parts = [self.endpoint, self.kind]
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name in _OPTIONS and value != spec.default:
                shown = ",".join(map(str, value)) if spec.name == "nth" else value
                parts.append(f"{spec.name}={shown}")
        return ":".join(parts)


@dataclass
class _ActiveFault:
    fault: Fault
    random: random.Random
    requests: int = 0
    hits: int = 0

    def draw(self) -> bool:
        self.requests += 1
        # Drawn in any case, so that the outcome depends on the number of requests alone.
        number = self.random.random()
        if self.fault.times is not None and self.hits >= self.fault.times:
            return False
        if self.fault.nth:
            hit = self.requests in self.fault.nth
        else:
            hit = self.fault.probability is None or number < self.fault.probability
        self.hits += hit
        return hit


@dataclass
class FaultPlan:
    """The active faults. The same seed and order of requests give the same faults.

    Args:
        faults: Faults, or their text form.
        seed: Each fault has its own random stream, so another fault does not change its draws.
    """

    faults: Iterable[Fault | str] = ()
    seed: int = 0
    hits: Counter[FaultKind] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._added = 0
        self._active: list[_ActiveFault] = []
        for fault in self.faults:
            self.add(fault)

    def add(self, fault: Fault | str) -> Fault:
        """Add a fault; its count of requests starts now."""
        if isinstance(fault, str):
            fault = Fault.parse(fault)
        self._added += 1
        self._active.append(_ActiveFault(fault, random.Random(f"{self.seed}/{self._added}/{fault}")))
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        self._active.clear()

    def draw(self, endpoint: str) -> dict[FaultKind, Fault]:
        """The faults for the request that now arrives at this endpoint, by kind."""
        hits: dict[FaultKind, Fault] = {}
        for active in self._active:
            if endpoint in active.fault.endpoints and active.draw():
                hits.setdefault(active.fault.kind, active.fault)
        self.hits.update(hits.keys())
        return hits
