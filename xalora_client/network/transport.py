"""Requests to the four endpoints of the sequencer over aiohttp, without retries.

A request ends in one of three ways, which differ in what they may have cost: an answer (whatever its status),
:class:`Undelivered`, or :class:`OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import aiohttp
from pydantic import SecretStr

from ..config import Credentials, may_have_key, without_login
from ..errors import ClientClosedError, ConfigurationError
from .answers import retry_after
from .failure_text import describe_failure
from .outside import TEXT_LIMIT, cleaned, has_content_coding, is_bounded, printable, task_id_in, without_key
from .sessions import proxy_for

logger = logging.getLogger("xalora_client")

CHUNK_BYTES = 256 * 1024

MAX_ANSWER_BYTES = 4 * 2**20
"""The most bytes of an answer that are read; results inside answers are far smaller."""

OVERSLEPT_SECONDS = 1.0
"""A wait that ends later than this means that the process was stopped or suspended."""

AFTER_STANDSTILL_SECONDS = 2.0
"""The time to read what arrived in the meantime, such as the answer to a create."""

_COMPRESSED = b"the answer came compressed, which was not asked for"
_TOO_LARGE = f"the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB"
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # recognized by the header
_NO_TIMEOUT = aiohttp.ClientTimeout()  # Transport has its own: aiohttp's would include the upload

# Random, so that no text of a user can contain it.
_PLACEHOLDER = f"inline-{secrets.token_hex(16)}-"


class Undelivered(Exception):
    """The request never reached the sequencer in full, so it had no effect."""


class OutcomeUnknown(Exception):
    """The request was sent in full and no answer came back."""


class _NoAnswer(Exception):
    """What came is no answer, or nothing came in time; the text says which."""


@dataclass(frozen=True)
class _Raw:
    """An answer as it came."""

    status: int
    body: bytes = field(repr=False)  # it may repeat the key
    retry_after: float | None


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; ``payload`` is the parsed JSON object, or None where the body is not one.

    Its texts are clean, except those of ``result``, which may be addresses. ``task_id`` is the id that the
    payload names, None where ``names_task`` is False or it can't be kept. ``sent_in_full`` is False where the
    sequencer answered before it had the whole request: then it can't have acted on it.
    """

    status: int
    payload: Mapping[str, Any] | None
    text: str
    retry_after: float | None = None
    sent_in_full: bool = True
    task_id: str | None = None
    names_task: bool = False

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class _Body:
    """A JSON body of known length, sent in chunks, so that an inlined image is never one string in memory.

    ``moved`` is when the connection last took a chunk.
    """

    parts: list[bytes | InlineImage] = field(repr=False)  # one contains the key
    on_handed_over: Callable[[], None] = lambda: None
    handed_over: bool = False
    moved: float | None = None
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = sum(len(part) if isinstance(part, bytes) else part.uri_length for part in self.parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        held_back: bytes | None = None
        for chunk in self._iterate():
            self.moved = monotonic()
            if held_back is not None:
                yield held_back
                # A connection that takes everything at once would never give the event loop a turn.
                await asyncio.sleep(0)
            held_back = chunk
        # Before the last chunk is sent: from then on the sequencer may have the body and act on it.
        self.on_handed_over()
        self.handed_over = True
        self.moved = monotonic()
        if held_back is not None:
            yield held_back

    def _iterate(self) -> Iterator[bytes]:
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from part.uri_chunks(CHUNK_BYTES)


def json_body(payload: Mapping[str, Any], handed_over: Callable[[], None] = lambda: None) -> _Body:
    """Serialize ``payload``; values that are :class:`InlineImage` become streamed ``data:`` URIs."""
    images: list[InlineImage] = []

    def placeholder(value: Any) -> str:
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        if not hasattr(value, "uri_chunks"):
            raise TypeError(f"{type(value).__name__} has no JSON form")
        images.append(value)
        return f"{_PLACEHOLDER}{len(images) - 1}."

    given = {key: value for key, value in payload.items() if value is not None}
    text = json.dumps(given, default=placeholder, allow_nan=False).encode()
    parts: list[bytes | InlineImage] = []
    for index, image in enumerate(images):
        head, _, text = text.partition(f"{_PLACEHOLDER}{index}.".encode())
        parts += [head, image]
    return _Body([*parts, text], handed_over)


class Transport:
    """Sends requests to one sequencer.

    Args:
        session: For requests that cost nothing; connections are reused.
        create_session: For creates. It must not reuse connections: on one that the server has just closed,
            the outcome of a create would be unknown.
        cancel_session: For cancels.
        base_url: The sequencer's URL.
        request_timeout: Seconds to connect, to wait for the answer once the body is sent, and without
            progress while it is sent: a large body may take any time on a slow line.
        allow_http: Hosts that the key may be sent to over plain http, besides this machine.
        proxy: The proxy to use; None for the environment's.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        create_session: aiohttp.ClientSession,
        cancel_session: aiohttp.ClientSession,
        base_url: str,
        request_timeout: float,
        allow_http: Iterable[str] = (),
        proxy: str | None = None,
    ) -> None:
        self._session = session
        self._own_sessions = {"task_create": create_session, "task_cancel": cancel_session}
        self._base_url = base_url.rstrip("/")
        self.timeout = request_timeout
        self._may_have_key = may_have_key(base_url, allow_http)
        self._given_proxy = proxy
        self._proxy: str | None = None
        self._proxy_known = False

    async def post(
        self,
        endpoint: str,
        credentials: Credentials,
        *,
        handed_over: Callable[[], None] = lambda: None,
        **fields: Any,
    ) -> Answer:
        """Send ``fields`` with the key to an endpoint; those that are None are left out.

        Args:
            handed_over: Called before the last bytes leave, when the sequencer may have the complete request;
                what it raises keeps them back.

        Raises:
            ConfigurationError: The key may not be sent there, or the proxy can't be used.
            Undelivered, OutcomeUnknown: There is no answer.
        """
        if not self._may_have_key:
            raise ConfigurationError(
                f"The sequencer's address {without_login(self._base_url)} begins with http://, where the key "
                "could be read on its way",
                next_step="Use https://, or name the host in XALORA_ALLOW_HTTP if you trust the way to it.",
            )
        body = json_body({**fields, "api_key": SecretStr(credentials.api_key)}, handed_over)
        # The key is in no local variable: error reporters send those along with a traceback.
        if not self._proxy_known:
            self._proxy = await asyncio.to_thread(proxy_for, self._base_url, self._given_proxy)
            self._proxy_known = True
        session = self._own_sessions.get(endpoint, self._session)
        if session.closed:
            raise ClientClosedError("This client was closed before the request left")
        request = self._exchange(session, f"{self._base_url}/{endpoint}", body)
        began = monotonic()
        answer = await self._outcome(request, body)
        logger.debug(
            "POST %s/%s (%s) %d bytes: %s in %.3f s",
            without_login(self._base_url),
            endpoint,
            fields.get("task_id") or fields.get("job_id") or fields.get("workflow_id") or "-",
            body.length,
            answer if isinstance(answer, str) else answer.status,
            monotonic() - began,
        )
        if isinstance(answer, str):
            # Not chained: frames further down hold the request, and with it the key.
            raise (OutcomeUnknown if body.handed_over else Undelivered)(answer)
        return _understood(answer, credentials, sent_in_full=body.handed_over)

    async def _outcome(self, request: Coroutine[Any, Any, _Raw], body: _Body) -> _Raw | str:
        """What came back, or why nothing did."""
        try:
            return await self._unless_stalled(request, body)
        except aiohttp.InvalidURL:
            body.handed_over = False
            return "this is not a URL"
        except aiohttp.ClientConnectorError as error:
            body.handed_over = False
            return describe_failure(error)
        except _NoAnswer as problem:
            return str(problem)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's answer does to the parser
            return describe_failure(error)

    async def _exchange(self, session: aiohttp.ClientSession, url: str, body: _Body) -> _Raw:
        async with session.post(
            url,
            data=body.chunks(),
            headers={"Content-Type": "application/json", "Content-Length": str(body.length)},
            timeout=_NO_TIMEOUT,
            proxy=self._proxy,
            # A redirected POST would be sent again, or become a GET.
            allow_redirects=False,
        ) as response:
            return _Raw(response.status, await _read(response), retry_after(response.headers))

    async def _unless_stalled(self, request: Coroutine[Any, Any, _Raw], body: _Body) -> _Raw:
        """The answer, or :class:`_NoAnswer`; either way the request has ended."""
        began = monotonic()
        went_on = -math.inf
        exchange = asyncio.ensure_future(request)
        try:
            while not exchange.done():
                ends = max((body.moved or began) + self.timeout, went_on + AFTER_STANDSTILL_SECONDS)
                left = ends - monotonic()
                if left <= 0:
                    break
                await asyncio.wait({exchange}, timeout=left)
                if monotonic() > ends + OVERSLEPT_SECONDS:
                    went_on = monotonic()
        finally:
            if not exchange.done():
                exchange.cancel()
                await asyncio.wait({exchange})
        if not exchange.cancelled():
            return exchange.result()
        if body.handed_over:
            raise _NoAnswer("no answer came in time")
        if body.moved is None:
            raise _NoAnswer("no connection was made in time")
        raise _NoAnswer("the connection stalled while the request was being sent")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer, unpacked where it came compressed.

    Raises:
        _NoAnswer: It is larger than any answer of the protocol.
    """
    body = bytearray()
    is_compressed = has_content_coding(response.headers.getall("Content-Encoding", ()))
    try:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                response.close()
                raise _NoAnswer(_TOO_LARGE)
    except (aiohttp.ClientError, OSError, asyncio.CancelledError):
        # A whole JSON object lacks nothing, whatever length was announced, and it may name a paid task.
        text = _unpacked(body) if is_compressed else bytes(body)
        if _parse(_decoded(text)) is None:
            raise
        return text
    return _unpacked(body) if is_compressed else bytes(body)


def _unpacked(body: bytes | bytearray) -> bytes:
    """A body that came compressed, which was not asked for; as it is where it is plain all the same."""
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = unpacker.decompress(body, MAX_ANSWER_BYTES)
    except zlib.error:
        return bytes(body) if _parse(_decoded(body)) is not None else _COMPRESSED
    if unpacker.unconsumed_tail:
        raise _NoAnswer(_TOO_LARGE)
    return plain


def _decoded(body: bytes | bytearray) -> str:
    # JSON is UTF-8, whatever charset is declared; a byte order mark is skipped.
    return body.decode("utf-8-sig", "replace")


def _understood(raw: _Raw, credentials: Credentials, *, sent_in_full: bool) -> Answer:
    """An answer without the key, its texts clean."""
    text = _decoded(raw.body)
    payload, task_id, names_task = _parse(text), None, False
    if payload is not None:
        names_task = bool(payload.get("task_id"))
        task_id = task_id_in(payload, credentials)
        result = without_key(payload.get("result"), credentials, hides_short=False)
        rest = {name: each for name, each in payload.items() if name != "result"}
        payload = cleaned(without_key(rest, credentials))
        if result is not None:
            payload["result"] = result
    shown = printable(without_key(text, credentials), TEXT_LIMIT)
    return Answer(raw.status, payload, shown, raw.retry_after, sent_in_full, task_id, names_task)


def _parse(text: str) -> dict[str, Any] | None:
    try:
        payload = json.loads(text, strict=False)
        if isinstance(payload, str):
            payload = json.loads(payload, strict=False)
    except (ValueError, RecursionError):
        return None
    if isinstance(payload, list) and len(payload) == 1:
        payload = payload[0]
    return _unwrapped(payload) if isinstance(payload, dict) and is_bounded(payload) else None


def _unwrapped(payload: dict[str, Any]) -> dict[str, Any]:
    """The answer with its task where the protocol has it, though it came inside or as ``taskId``."""
    inner = payload.get("data")
    if not isinstance(inner, dict) and "status" not in payload:
        inner = payload.get("result")
    if not isinstance(inner, dict) or payload.keys() & _TASK_KEYS:
        inner = {}
    if inner.keys() & _TASK_KEYS or ("status" in inner and "status" not in payload):
        payload = {**payload, **inner}
    if payload.get("taskId") and not payload.get("task_id"):
        payload = {**payload, "task_id": payload["taskId"]}
    return payload


_TASK_KEYS = {"task_id", "taskId"}


@dataclass(frozen=True)
class InlineImage:
    """An image inside the request as a ``data:`` URI, written in chunks.

    A 20 MB image as one base64 string inside one JSON string would take three times its size and stall the
    event loop; :meth:`uri_chunks` never needs more than one chunk.
    """

    media_type: str
    data: bytes = field(repr=False)

    @property
    def uri_length(self) -> int:
        """The length of the URI in bytes."""
        return len(self._head) + 4 * ((len(self.data) + 2) // 3)

    @property
    def _head(self) -> bytes:
        return f"data:{self.media_type};base64,".encode()

    def uri_chunks(self, size: int = 256 * 1024) -> Iterator[bytes]:
        """The URI in ASCII chunks of at most ``size`` bytes (and at least 4)."""
        yield self._head
        step = max(size // 4, 1) * 3  # a multiple of 3 bytes, so that padding comes at the end only
        view = memoryview(self.data)
        for start in range(0, len(view), step):
            yield b64encode(view[start : start + step])
