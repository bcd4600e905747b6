"""The meaning of an HTTP answer of the sequencer, and whether its request may be sent again. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any


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
    FRONT = "front"


# Statuses by which a front in the sequencer's place refuses, or does not find it.
_OF_FRONTS = frozenset({301, 302, 307, 308, 401, 403, 404, 410, 451})
# By which only a front answers: a proxy that wants a login, a network that does (RFC 6585).
_ALWAYS_OF_FRONTS = frozenset({407, 511})


def judge(status: int, message: str, *, well_formed: bool, is_object: bool = True) -> Verdict:
    """Classify an answer.

    Args:
        status: Its HTTP status.
        message: Its body.
        well_formed: The body has the fields of the endpoint.
        is_object: The body is a JSON object. Any other may come from a proxy or firewall in between.
    """
    is_fronts = not is_object and (is_page(message) or status == 403)
    if 200 <= status < 300:
        verdict = Verdict.OK if well_formed else Verdict.NOT_THE_PROTOCOL
    elif status == 429:
        verdict = Verdict.RATE_LIMITED
    elif status in _ALWAYS_OF_FRONTS or (
        is_fronts and status in _OF_FRONTS and not _is_about_the_key(message)
    ):
        verdict = Verdict.FRONT
    elif status in (401, 403):
        verdict = Verdict.BAD_KEY
    elif _reports_no_miner(message) and not is_fronts:
        verdict = Verdict.NO_MINER
    elif status in (404, 410):
        verdict = Verdict.NOT_FOUND
    else:
        verdict = Verdict.SERVICE_FAILURE if status >= 500 or status in (408, 425) else Verdict.REFUSED
    return verdict


def is_page(body: str) -> bool:
    """Whether a body is HTML or XML: the protocol's answers are JSON, or a plain text."""
    return body.lstrip("\ufeff \t\r\n").startswith("<")


def _is_about_the_key(message: str) -> bool:
    words = message.lower()
    return not is_page(message) and any(part in words for part in ("key", "consumer", "auth", "credential"))


_REFUSING_WORDS = frozenset({"error", "failed", "failure", "rejected", "refused"})
_CODES = ("code", "status_code", "statusCode")


def refusal_in(payload: Mapping[str, Any] | None, message: str) -> Verdict | None:
    """What a 2xx answer to a create says that clearly refuses it; None where it does not.

    It has an error, or a code or a status that is no success, and no id of a task.
    """
    return None if payload is None or _holds_an_id(payload) else says_no(payload, message)


def says_no(payload: Mapping[str, Any], message: str) -> Verdict | None:
    """What a 2xx answer says that clearly refuses; None where it does not."""
    code = next((payload[key] for key in _CODES if payload.get(key) is not None), None)
    status = str(payload.get("status")).strip().lower()
    says_so = (
        payload.get("error")
        or payload.get("errors")
        or any(str(payload.get(key)).strip().lower() == "false" for key in ("success", "ok"))
        or status in _REFUSING_WORDS
    )
    if code is None and re.fullmatch("4[0-9][0-9]", status):
        code = status
    if not says_so and not _is_failure(code):
        return None
    digits = str(code)
    http_status = int(digits) if re.fullmatch("4[0-9][0-9]", digits) else 400
    return judge(http_status, message, well_formed=False)


def _is_failure(code: Any) -> bool:
    if code is None or isinstance(code, bool):
        return False
    words = str(code).strip().lower()
    return not (words in ("", "0", "ok", "success") or (words.isdecimal() and 200 <= int(words) < 300))


def _holds_an_id(payload: Mapping[str, Any]) -> bool:
    """Whether an answer may name a task, by whatever key."""
    return any(
        _holds_an_id(value)
        if isinstance(value, Mapping)
        else bool(value) and name.replace("_", "").lower() in ("id", "taskid", "promptid", "runid")
        for name, value in payload.items()
        if name != "error"
    )


def speaks_of_another(message: str) -> bool:
    """Whether a refusal says that the task is there already, as a 409 does."""
    return any(part in message.lower() for part in ("already", "duplicate", "exists"))


def _reports_no_miner(message: str) -> bool:
    words = message.lower()
    return "miner" in words and any(part in words for part in ("no ", "not available", "unavailable", "none"))


_OF_THE_UNSURE = frozenset({303, 408, 425, 460, 499})


def create_is_settled(verdict: Verdict, status: int, retry_after: float | None, attempt: int = 1) -> bool:
    """Whether a create with this answer surely created no task, so that sending it again costs nothing.

    A 5xx may come from a proxy that stopped waiting for a working sequencer; only a 503 with Retry-After
    says that the request was rejected (protocol, "Consumer side"). A 408, 425, 460 or 499 after the whole
    body may come from such a proxy too, and a 303 points to what was done. A 409 on a later attempt may mean
    that an earlier one made the task.

    Args:
        attempt: How many times the create has been sent, this one included.
    """
    if verdict is Verdict.OK or status in _OF_THE_UNSURE or (status == 409 and attempt > 1):
        return False
    if status == 503:
        return retry_after is not None
    return 300 <= status < 500 or status in _ALWAYS_OF_FRONTS


def worth_repeating(verdict: Verdict, status: int) -> bool:
    """Whether the same request may succeed a little later."""
    passing = (Verdict.RATE_LIMITED, Verdict.SERVICE_FAILURE, Verdict.NOT_THE_PROTOCOL, Verdict.FRONT)
    return verdict in passing or status == 503
