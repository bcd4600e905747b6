"""The meaning of an HTTP answer of the sequencer, and whether its request may be sent again. No I/O."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """The meaning of an HTTP answer."""

    OK = "ok"
    BAD_KEY = "bad key"
    RATE_LIMITED = "rate limited"
    NO_MINER = "no miner"
    NOT_FOUND = "not found"
    REFUSED = "refused"
    SERVICE_FAILURE = "service failure"
    NOT_THE_PROTOCOL = "not the protocol"


def judge(status: int, message: str, *, well_formed: bool) -> Verdict:
    """Classify an answer. ``well_formed``: the body is a JSON object with the fields of the endpoint."""
    if 200 <= status < 300:
        return Verdict.OK if well_formed else Verdict.NOT_THE_PROTOCOL
    if status in (401, 403):
        return Verdict.BAD_KEY
    if status == 429:
        return Verdict.RATE_LIMITED
    if _reports_no_miner(message):
        return Verdict.NO_MINER
    if status in (404, 410):
        return Verdict.NOT_FOUND
    return Verdict.SERVICE_FAILURE if status >= 500 or status in (408, 425) else Verdict.REFUSED


def _reports_no_miner(message: str) -> bool:
    words = message.lower()
    return "miner" in words and any(part in words for part in ("no ", "not available", "unavailable", "none"))


def create_is_settled(verdict: Verdict, status: int, retry_after: float | None, attempt: int = 1) -> bool:
    """Whether a create with this answer surely created no task, so that sending it again costs nothing.

    A 5xx may come from a proxy that stopped waiting for a working sequencer; only a 503 with Retry-After
    says that the request was rejected (protocol, "Consumer side"). A 408 or 425 after the whole body may come
    from such a proxy too. A 409 on a later attempt may mean that an earlier one made the task.

    Args:
        attempt: How many times the create has been sent, this one included.
    """
    if verdict is Verdict.OK or status in (408, 425) or (status == 409 and attempt > 1):
        return False
    if status == 503:
        return retry_after is not None
    return 300 <= status < 500


def worth_repeating(verdict: Verdict, status: int) -> bool:
    """Whether the same request may succeed a little later."""
    passing = (Verdict.RATE_LIMITED, Verdict.SERVICE_FAILURE, Verdict.NOT_THE_PROTOCOL)
    return verdict in passing or status == 503
