"""Requests of consumers, checked: bodies, fields and keys. No I/O."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, validate_call

MAX_BODY_BYTES = 256 << 20

Body = dict[str, Any]
Id = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

checked = validate_call(config=ConfigDict(strict=True))
"""A method's parameters are the fields of its endpoint: types, and which are required."""


class Refusal(Exception):
    """Answers a request with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def read_body(data: bytes) -> Body:
    """The body of a request: a JSON object.

    Raises:
        Refusal: It is another one.
    """
    try:
        body = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The body is not a JSON object")
    return body


def reason(problem: ValueError) -> str:
    """A refused value in words; on one line where pydantic refused it."""
    if not isinstance(problem, ValidationError):
        return str(problem)
    return "; ".join(
        ": ".join([*map(str, error["loc"]), error["msg"].removeprefix("Value error, ")])
        for error in problem.errors()
    )


def split_key(combined: str) -> tuple[str, str]:
    """Consumer id and key of a combined API key, split at the first ``#``, or the first ``-`` without one.

    Raises:
        ValueError: The separator, the consumer id or the key is missing.
    """
    consumer_id, _, key = combined.partition("#" if "#" in combined else "-")
    if not consumer_id or not key:
        raise ValueError("An API key reads <consumer_id>#<api_key>")
    return consumer_id, key
