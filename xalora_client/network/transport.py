"""The four consumer endpoints over one aiohttp session: one function each, no policy.

A request ends in one of three ways, which the caller must tell apart because money may be at stake: an
answer (whatever its status), :class:`Undelivered`, or :class:`OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import aiohttp

from ..config import Credentials
from ..errors import ClientClosedError
from .failure_text import in_words
from .sessions import environment_proxy

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    pass

CHUNK_BYTES = 256 * 1024

OVERSLEPT_SECONDS = 1.0
"""How late a wait may end before it counts as a sign that this process stood still (stopped, suspended)."""

AFTER_STANDSTILL_SECONDS = 2.0
"""How long what came in the meantime then has to be read: the answer to a create may lie ready."""

_NO_TIMEOUT = aiohttp.ClientTimeout()  # Transport has its own: aiohttp's would count the sending, too

# Random, so that no text of a user can contain it.
_STAND_IN = f"inline-{secrets.token_hex(16)}-"


class Undelivered(Exception):
    """The request never reached the sequencer in full: nothing can have come of it."""


class OutcomeUnknown(Exception):
    """The request went out and no answer came back."""


class _Stalled(Exception):
    """Nothing moved for too long; the text says what was waited for."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; ``payload`` is the parsed JSON object, or None where the body is not one.

    ``had_all``: the sequencer may have had the whole request. Else it answered before, and can't have acted
    on it.
    """

    status: int
    payload: Mapping[str, Any] | None
    text: str
    retry_after: float | None = None
    had_all: bool = True

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class _Body:
    """A JSON body of known length, sent in pieces, so that an inlined image is never held as one string.

    ``moved`` is when the connection last took a part of it.
    """

    pieces: list[bytes | InlineImage] = field(repr=False)  # the key is in there
    on_handed_over: Callable[[], None] = lambda: None
    handed_over: bool = False
    moved: float | None = None
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = sum(len(p) if isinstance(p, bytes) else p.uri_length for p in self.pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        held_back: bytes | None = None
        for chunk in self._iterate():
            self.moved = monotonic()
            if held_back is not None:
                yield held_back
                # A network that takes everything at once would never give the event loop another turn.
                await asyncio.sleep(0)
            held_back = chunk
        # Set before the last chunk is given away: from then on the sequencer may have the whole body, and
        # only an incomplete body is sure not to have been acted upon.
        self.handed_over = True
        self.moved = monotonic()
        self.on_handed_over()
        if held_back is not None:
            yield held_back

    def _iterate(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from piece.uri_chunks(CHUNK_BYTES)


def json_body(payload: Mapping[str, Any]) -> _Body:
    """Serialize ``payload``; values that are :class:`InlineImage` become streamed ``data:`` URIs."""
    images: list[InlineImage] = []

    def stand_in(value: Any) -> str:
        if not hasattr(value, "uri_chunks"):
            raise TypeError(f"{type(value).__name__} has no JSON form")
        images.append(value)
        return f"{_STAND_IN}{len(images) - 1}."

    text = json.dumps(payload, default=stand_in, allow_nan=False).encode()
    pieces: list[bytes | InlineImage] = []
    for index, image in enumerate(images):
        head, _, text = text.partition(f"{_STAND_IN}{index}.".encode())
        pieces += [head, image]
    return _Body([*pieces, text])


class Transport:
    """Sends requests to one sequencer.

    Args:
        session: For requests that cost nothing; connections are reused.
        create_session: For creates. It must not reuse connections: one that the server closed a moment ago
            would make the outcome of a create unknown for no good reason.
        base_url: The sequencer's URL.
        request_timeout: Seconds for connecting, for the answer once the body is handed over, and for a body
            that stands still on its way: how long a large one may take depends on the user's line alone.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        create_session: aiohttp.ClientSession,
        base_url: str,
        request_timeout: float,
    ) -> None:
        self._session = session
        self._create_session = create_session
        self._base_url = base_url.rstrip("/")
        self._timeout = request_timeout
        self._proxy: str | None = None
        self._proxy_known = False

    async def resource_request(
        self, credentials: Credentials, *, task_type: str | None, workflow_id: str | None
    ) -> Answer:
        payload = {
            "consumer_id": credentials.consumer_id,
            "api_key": credentials.api_key,
            "workflow_id": workflow_id,
            "task_type": task_type,
        }
        return await self._post(self._session, "resource_request", payload)

    async def task_create(
        self,
        credentials: Credentials,
        *,
        job_id: str,
        task_type: str,
        parameters: Mapping[str, Any],
        workflow_id: str | None,
        timeout_seconds: int | None,
        handed_over: Callable[[], None],
    ) -> Answer:
        payload = {
            "consumer_id": credentials.consumer_id,
            "api_key": credentials.api_key,
            "task_type": task_type,
            "task_details": {"parameters": parameters},
            "job_id": job_id,
            "workflow_id": workflow_id,
            "timeout_seconds": timeout_seconds,
        }
        return await self._post(self._create_session, "task_create", payload, handed_over)

    async def task_result_query(self, credentials: Credentials, task_id: str) -> Answer:
        payload = {"task_id": task_id, "api_key": credentials.api_key}
        return await self._post(self._session, "task_result_query", payload)

    async def task_cancel(self, credentials: Credentials, task_id: str) -> Answer:
        payload = {"task_id": task_id, "api_key": credentials.api_key}
        return await self._post(self._session, "task_cancel", payload)

    async def _post(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        payload: Mapping[str, Any],
        handed_over: Callable[[], None] = lambda: None,
    ) -> Answer:
        body = json_body({key: value for key, value in payload.items() if value is not None})
        body.on_handed_over = handed_over
        if not self._proxy_known:
            self._proxy = await asyncio.to_thread(environment_proxy, self._base_url)
            self._proxy_known = True
        if session.closed:
            raise ClientClosedError("This client was closed before the request left")
        request = self._exchange(session, f"{self._base_url}/{endpoint}", body)
        try:
            answer = await self._unless_stalled(request, body)
            return replace(answer, had_all=body.handed_over)
        except aiohttp.InvalidURL:
            raise Undelivered("this is not a URL") from None
        except aiohttp.ClientConnectorError as error:
            raise Undelivered(in_words(error)) from error
        except aiohttp.ClientResponseError as error:
            # Not chained: its own text holds a URL, that of a proxy with the password in it.
            raise (OutcomeUnknown if body.handed_over else Undelivered)(in_words(error)) from None
        except _Stalled as stall:
            raise (OutcomeUnknown if body.handed_over else Undelivered)(str(stall)) from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise (OutcomeUnknown if body.handed_over else Undelivered)(in_words(error)) from error

    async def _exchange(self, session: aiohttp.ClientSession, url: str, body: _Body) -> Answer:
        async with session.post(
            url,
            data=body.chunks(),
            headers={"Content-Type": "application/json", "Content-Length": str(body.length)},
            timeout=_NO_TIMEOUT,
            proxy=self._proxy,
            # A redirected POST would be sent again, or become a GET: both are wrong here.
            allow_redirects=False,
        ) as response:
            # JSON is UTF-8, whatever charset is declared; a byte order mark before it is no part of it.
            text = (await response.read()).decode("utf-8-sig", "replace")
            return Answer(response.status, _parse(text), text, _retry_after(response.headers))

    async def _unless_stalled(self, request: Coroutine[Any, Any, Answer], body: _Body) -> Answer:
        """The answer, or :class:`_Stalled`; either way the request has ended, and its body moves no more."""
        began = monotonic()
        went_on = -math.inf
        exchange = asyncio.ensure_future(request)
        try:
            while not exchange.done():
                ends = max((body.moved or began) + self._timeout, went_on + AFTER_STANDSTILL_SECONDS)
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
            raise _Stalled("no answer came in time")
        if body.moved is None:
            raise _Stalled("no connection came about in time")
        raise _Stalled("the connection stood still while the request was being sent")


def _parse(text: str) -> Mapping[str, Any] | None:
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
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


@dataclass(frozen=True)
class InlineImage:
    """An image that goes into the request itself as a ``data:`` URI, written out piece by piece.

    A 20 MB image as one base64 string inside one JSON string would take three times its size and stall the
    event loop; :meth:`uri_chunks` never needs more than one chunk.
    """

    media_type: str
    data: bytes = field(repr=False)

    @property
    def uri_length(self) -> int:
        """The length of the whole URI in bytes."""
        return len(self._head) + 4 * ((len(self.data) + 2) // 3)

    @property
    def _head(self) -> bytes:
        return f"data:{self.media_type};base64,".encode()

    def uri_chunks(self, size: int = 256 * 1024) -> Iterator[bytes]:
        """The URI in pieces of at most ``size`` bytes (and at least 4); all are plain ASCII."""
        yield self._head
        step = max(size // 4, 1) * 3  # whole groups of 3 bytes, so that padding comes at the end only
        view = memoryview(self.data)
        for start in range(0, len(view), step):
            yield b64encode(view[start : start + step])

    def uri(self) -> str:
        """The whole URI as one string."""
        return b"".join(self.uri_chunks()).decode("ascii")
