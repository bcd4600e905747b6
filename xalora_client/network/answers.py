"""Parsers of the sequencer's answers: results, failure reasons, messages, the miner, Retry-After. No I/O."""

from __future__ import annotations

import json
import math
import re
import string
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from time import time
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from ..errors import STILL_RETRIEVABLE, ResultLocationError
from ..media.media_types import sniff
from ..results import WorkflowTaskResult
from .outside import printable

# The keys of results (protocol, "result has no fixed form"), see `_plain_key`. An object that has one of the
# first describes one file.
_ADDRESS_KEYS = ("url", "uri")
_REFERENCE_KEYS = (
    *_ADDRESS_KEYS,
    *("videourl", "imageurl", "gifurl", "audiourl", "fileurl", "mediaurl", "outputurl", "resulturl"),
    *("downloadurl", "signedurl", "publicurl", "cdnurl"),
    *("video", "gif", "image", "audio", "file", "output", "result", "artifact"),
)
# What names one file, or is it, where nothing else in its object does.
_CONTENT_KEYS = ("data", "base64", "b64json", "imagebase64", "base64image", "message")
_LINK_KEYS = ("href", "src", "link")
_NAME_KEYS = ("key", "path", "filename")

_NESTING_LIMIT = 8
_REFERENCE_LIMIT = 120
_LONGEST_KEY = 1024  # of S3; a longer text is no key

# Beginnings of files that are no images and videos this package reads.
_OTHER_FILES = (
    *(b"RIFF", b"ID3", b"fLaC", b"OggS", b"glTF", b"II*\0", b"MM\0*", b"PK\x03\x04", b"8BPS", b"%PDF-"),
    *(b"\x1a\x45\xdf\xa3", b"v/1\x01", b"\xff\x0a"),
)
# Between the URLs of one text. Looked for only where a run of them begins, else a long one takes for ever.
_SEPARATORS = re.compile(r"(?<![\s,;|])[\s,;|]+(?=https?://)", re.IGNORECASE)
# Stripped from both ends of a text. Python does not count a byte order mark as whitespace.
_BLANKS = f"{string.whitespace}\ufeff\u200b\u00a0"
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]{32,}={0,2}")


def result_references(result: Any) -> list[str]:
    """Every reference in a result, whatever its form, in order: URLs, ``data:`` URIs and bare storage keys.

    An object or a list may come as JSON text. Base64 that begins as a known format of files becomes a
    ``data:`` URI. An empty list means that the result has no form this package knows.
    """
    return list(dict.fromkeys(_references(result, _NESTING_LIMIT)))


def holds_nothing(result: Any) -> bool:
    """Whether a result is not there yet: nothing, or an object or a list without a value in it."""
    if isinstance(result, Mapping):
        return all(holds_nothing(each) for each in result.values())
    if isinstance(result, list):
        return all(holds_nothing(each) for each in result)
    return result is None or (isinstance(result, str) and not result.strip())


def _references(result: Any, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    if isinstance(result, str):
        yield from _in_text(result.strip(_BLANKS), depth)
    elif isinstance(result, Mapping):
        yield from _in_object(result, depth)
    elif isinstance(result, Sequence):
        for each in result:
            yield from _references(each, depth - 1)


def _in_text(text: str, depth: int) -> Iterator[str]:
    if text.startswith(("{", "[", '"')):
        with suppress(ValueError, RecursionError):
            yield from _references(json.loads(text), depth - 1)
            return
    uri = _as_data_uri(text)
    if uri is not None:
        yield uri
    elif text[:8].lower().startswith(("http://", "https://")):
        yield from _SEPARATORS.split(text)
    elif text and (len(text) <= _LONGEST_KEY or "://" in text[:8]):
        yield text


def _in_object(result: Mapping[str, Any], depth: int) -> Iterator[str]:
    found = False
    by_key: dict[str, list[Any]] = {}
    for key, value in result.items():
        by_key.setdefault(_plain_key(key), []).append(value)
    for key in _REFERENCE_KEYS:
        for reference in _references(by_key.get(key, ()), depth):
            found = True
            yield reference
        # Its other keys repeat the file.
        if found and key in _ADDRESS_KEYS:
            return
    for keys in (_CONTENT_KEYS, _LINK_KEYS):
        for value in (value for key in keys for value in by_key.get(key, ())):
            for reference in _in_content(value, depth):
                found = True
                yield reference
        if found:
            return
    if name := next((result[key] for key in _NAME_KEYS if isinstance(result.get(key), str)), ""):
        folder = result.get("subfolder")
        yield f"{folder.rstrip('/')}/{name}" if isinstance(folder, str) and folder else name
    elif result and all(isinstance(each, Mapping) for each in result.values()):
        # The outputs of a ComfyUI prompt, by node id.
        for each in result.values():
            yield from _references(each, depth - 1)


def _plain_key(key: str) -> str:
    """``imageurl`` of ``image_url``, ``imageUrls`` and the like."""
    return re.sub(r"[^a-z0-9]", "", str(key).lower()).removesuffix("s")


def _in_content(value: Any, depth: int) -> Iterator[str]:
    """As :func:`_references`, but a text that is no file and no URL is some other datum, and no key."""
    if not isinstance(value, str):
        yield from _references(value, depth - 1)
    elif value.lower().startswith(("http://", "https://")):
        yield value
    elif (uri := _as_data_uri(value.strip())) is not None:
        yield uri


def _as_data_uri(text: str) -> str | None:
    """A file in base64 as a ``data:`` URI, None for other texts."""
    if text[:5].lower() == "data:":
        return text
    head = "".join(text[:200].split())[:96].translate(_URL_SAFE)
    if not _BASE64.fullmatch(text[:200]) or not _BASE64.fullmatch(text):
        return None
    try:
        start = b64decode(head[: len(head) // 4 * 4])
    except ValueError:
        return None
    kind = sniff(start)
    if kind is None and not start.startswith(_OTHER_FILES) and start[4:8] != b"ftyp":
        return None
    return f"data:{kind.media_type if kind else 'application/octet-stream'};base64,{text}"


_URL_SAFE = str.maketrans("-_", "+/")


def status_answer(task_id: str, answer: Mapping[str, Any], result: Any) -> WorkflowTaskResult:
    """An answer of ``task_result_query`` with all that it says, except what has another form than expected.

    Args:
        answer: Without the key; its status is the protocol's word.
        result: As it came.
    """
    position = _seconds(answer.get("queue_position"))
    return WorkflowTaskResult(
        task_id,
        str(answer["status"]),
        result,
        queue_position=int(position) if position is not None else None,
        miner=_name(answer.get("miner_id")),
        inference_seconds=_seconds(answer.get("inference_latency")),
        upload_seconds=_seconds(answer.get("upload_latency")),
        message=_name(answer.get("msg"), REASON_LIMIT) or "",
    )


def _name(said: Any, limit: int = 100) -> str | None:
    return printable(str(said), limit) or None if isinstance(said, str | int) and said is not True else None


def _seconds(said: Any) -> float | None:
    """A number from 0 to :data:`_LARGEST`, as a number or a text; None for anything else."""
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    try:
        number = float(said)
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number <= _LARGEST else None


_LARGEST = 1e12  # no seconds and no place in a queue is larger; the journal keeps 64 bits

REASON_LIMIT = 200
NO_REASON = "the network gives no reason"


def failure_reason(result: Any, message: str = "") -> str:
    """Why a task failed, on one line; the network sends it in place of the result, or as its ``msg``.

    The protocol leaves its form open: a text, or an object with the text under ``message``, ``error``,
    or ``msg``, as in refused requests.
    """
    said = message_in(result) if isinstance(result, Mapping) else None
    return printable(str(said or message or result or NO_REASON), REASON_LIMIT)


def message_in(answer: Mapping[str, Any]) -> Any:
    """The message of an answer, None where it has none."""
    said = answer.get("message") or answer.get("error") or answer.get("msg")
    return message_in(said) or said if isinstance(said, Mapping) else said


def miner_of(reference: str, task_id: str) -> str | None:
    """The miner that a storage key names, None where it does not follow the public miner's pattern.

    The pattern is ``<folder>/<workflow>-<miner>-<task id>.<suffix>`` (protocol, "result").
    """
    try:
        stem = PurePosixPath(urlsplit(reference).path if "://" in reference else reference).stem
    except ValueError:
        return None
    head, found, rest = stem.rpartition(f"-{task_id}")
    workflow, _, miner = head.rpartition("-")
    return miner if found and not rest and workflow and miner else None


def addresses_of(reference: str, *, result_base_url: str, task_id: str) -> tuple[str, ...]:
    """The URLs behind a reference, the likeliest first; a bare storage key is joined to the base URL.

    A key that is percent-encoded already, or has a query, is looked for as it stands, and then by its
    letters; one with the backslashes of Windows also with slashes. A path from the root is also looked for at
    the root of the base URL's host, and ``//host/path`` at that host.

    Raises:
        ResultLocationError: The key leads out of the folder that the base URL names.
    """
    if reference[:8].lower().startswith(("http://", "https://", "data:")):
        return (reference,)
    if _OTHER_SCHEME.match(reference):
        raise ResultLocationError(
            f"The result of task {task_id}, {shown_reference(reference)}, is not an http or https address",
            money=STILL_RETRIEVABLE,
            next_step="Tell whoever runs the sequencer.",
            task_id=task_id,
        )
    key = reference.lstrip("/")
    if ".." in unquote(key).replace("\\", "/").split("/"):
        raise ResultLocationError(
            f"The storage key of task {task_id}, {shown_reference(reference)}, leads out of its folder",
            money=STILL_RETRIEVABLE,
            next_step="Tell whoever runs the sequencer.",
            task_id=task_id,
        )
    base = result_base_url.rstrip("/")
    path, _, query = key.partition("?")
    urls = [f"{base}/{quote(key, errors='replace')}"]
    is_encoded = "%" in key and _ENCODED_KEY.fullmatch(key)
    if is_encoded or (_ENCODED_KEY.fullmatch(path) and _QUERY.fullmatch(query)):
        urls.insert(0, f"{base}/{key}")
    if "\\" in key:
        with_slashes = key.replace("\\", "/")
        urls.append(f"{base}/{quote(with_slashes, errors='replace')}")
    if reference.startswith("/"):
        with suppress(ValueError):
            elsewhere = urljoin(result_base_url, reference)
            if urlsplit(elsewhere).path.strip("/"):
                urls.append(elsewhere)
    return tuple(urls)


_OTHER_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_ENCODED_KEY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})+")


_QUERY = re.compile(r"[!\"$-~]+")


def shown_reference(reference: str) -> str:
    """A reference for a message: shortened, and without a query, which may sign it."""
    text = reference.partition("?")[0]
    return repr(text if len(text) <= _REFERENCE_LIMIT else text[: _REFERENCE_LIMIT - 3] + "...")


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
