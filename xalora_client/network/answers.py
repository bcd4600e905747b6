"""Parsers of the sequencer's answers: results, failure reasons, messages, the miner, Retry-After. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from time import time
from typing import Any
from urllib.parse import quote, urlsplit

from ..errors import STILL_RETRIEVABLE, ResultLocationError

# The keys of results (protocol, "result has no fixed form"); `url` comes first, since an object that has it
# describes one file.
_REFERENCE_KEYS = ("url", "video_url", "image_url", "videos", "images", "video", "image", "result", "key")


def result_references(result: Any) -> list[str]:
    """Every reference in a result, whatever its form, in order: URLs, ``data:`` URIs and bare storage keys.

    An empty list means that the result has no form this package knows.
    """
    return list(dict.fromkeys(_references(result)))


def _references(result: Any) -> Iterator[str]:
    if isinstance(result, str):
        if result.strip():
            yield result.strip()
    elif isinstance(result, Mapping):
        for key in _REFERENCE_KEYS:
            if result.get(key):
                yield from _references(result[key])
                # Its other keys repeat the file.
                if key == "url":
                    return
    elif isinstance(result, Sequence):
        for each in result:
            yield from _references(each)


REASON_LIMIT = 200


def failure_reason(result: Any) -> str:
    """Why a task failed, on one line; the network sends it in place of the result.

    The protocol leaves its form open: a text, or an object with the text under ``message``, ``error``,
    or ``msg``, as in refused requests.
    """
    said = message_in(result) if isinstance(result, Mapping) else None
    return on_one_line(str(said or result or "the network gives no reason"), REASON_LIMIT)


def message_in(answer: Mapping[str, Any]) -> Any:
    """The message of an answer, None where it has none."""
    return answer.get("message") or answer.get("error") or answer.get("msg")


def on_one_line(text: str, limit: int) -> str:
    """A text on one line, cut to ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def miner_of(reference: str, task_id: str) -> str | None:
    """The miner that a storage key names, None where it does not follow the public miner's pattern.

    The pattern is ``<folder>/<workflow>-<miner>-<task id>.<suffix>`` (protocol, "result").
    """
    stem = PurePosixPath(urlsplit(reference).path if "://" in reference else reference).stem
    head, found, rest = stem.rpartition(f"-{task_id}")
    workflow, _, miner = head.rpartition("-")
    return miner if found and not rest and workflow and miner else None


def resolve_reference(reference: str, *, result_base_url: str | None, task_id: str) -> str:
    """The URL behind a reference; a bare storage key is joined to the result base URL.

    Raises:
        ResultLocationError: The reference is a bare key and no base URL is configured.
    """
    if reference.startswith(("http://", "https://", "data:")):
        return reference
    if result_base_url is None:
        raise ResultLocationError(
            f"The result of task {task_id} is the bare storage key {reference!r}, and the setting "
            "XALORA_RESULT_BASE_URL, the base URL of such keys, is missing",
            money=STILL_RETRIEVABLE,
            next_step="Set XALORA_RESULT_BASE_URL and take the task up again by its id.",
            task_id=task_id,
        )
    return f"{result_base_url.rstrip('/')}/{quote(reference.lstrip('/'))}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (TypeError, ValueError):
        return None
