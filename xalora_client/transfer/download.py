"""A finished task's result onto disk: streamed, resumed where it broke off, and whole or not at all."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from ..errors import (
    STILL_RETRIEVABLE,
    ConfigurationError,
    ErrorType,
    ResultDownloadError,
    ResultExpiredError,
    ResultFormatError,
)
from ..media.containers import BrokenMediaError
from ..media.sniff import ANIMATION_SUFFIXES, MediaKind, sniff_file
from ..media.validation import TextInPlaceError, check_unlisted, suffix_of
from ..network.failure_text import in_words
from ..network.sessions import environment_proxy

Progress: TypeAlias = Callable[[int, "int | None"], None]

STALL_SECONDS = 30.0
"""How long a connection may give nothing before it counts as broken; a slow one may take any time."""

_CHUNK_BYTES = 256 * 1024
_WORTH_CONTINUING = 64 * 1024  # new bytes that make an attempt count as one that got ahead
_BACK_OFF = wait_random_exponential(multiplier=0.5, max=15)  # full jitter
_LONGEST_RETRY_AFTER = 60.0
_GONE = frozenset({404, 410})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


async def download(
    session: aiohttp.ClientSession,
    url: str,
    dest_stem: Path,
    *,
    task_id: str | None = None,
    on_progress: Progress | None = None,
    attempts: int = 5,
    stall_timeout: float = STALL_SECONDS,
) -> Path:
    """Bring a result to disk and check that it is whole.

    The bytes go to ``<dest_stem>.part`` and continue there after a broken connection, or after an earlier
    process was ended. Only one call at a time may work on one ``dest_stem``.

    Args:
        session: Its certificate settings are used, none of its credentials. The proxy is the environment's.
        url: ``http://``, ``https://`` or ``data:``.
        dest_stem: The file to write, without its suffix, which is chosen by content. Its folder must exist.
        task_id: For error messages.
        on_progress: Called on the event loop with the bytes on disk so far and the total, None where unknown.
        attempts: How many times in a row the connection may fail without getting ahead.
        stall_timeout: Seconds without a byte after which a connection counts as broken.

    Returns:
        The file: ``dest_stem`` with ``.png``, ``.jpg``, ``.webp``, ``.gif``, ``.mp4`` or ``.webm`` added. One
        in a format that nothing here reads has the URL's suffix, or ``.bin``.

    Raises:
        ResultExpiredError: 404 or 410: the network no longer has it.
        ResultDownloadError: It could not be had in full, or a text came in its place.
        ResultFormatError: It came in full, and is damaged.
    """
    target = _Target(url, task_id)
    part = _PartFile(dest_stem)
    fetch = _Fetch(session, target, part, on_progress, attempts, stall_timeout)
    scheme = urlsplit(url[:64]).scheme.lower()
    try:
        dest_stem.parent.mkdir(parents=True, exist_ok=True)
        if scheme == "data":
            await asyncio.to_thread(lambda: part.begin(_data_of(target)))
        elif scheme in {"http", "https"}:
            await fetch.run()
        else:
            raise target.failed(f"the scheme of {target.shown_url} is not http, https or data")
        try:
            return await asyncio.to_thread(_finish, part, target, fetch.end_is_known)
        except ResultFormatError:
            part.remove()
            if not part.was_continued:
                raise
        # Put together from two answers that did not fit, perhaps: only a fresh copy tells.
        await fetch.run()
        return await asyncio.to_thread(_finish, part, target, fetch.end_is_known)
    except OSError as error:
        raise target.failed(f"writing {part.path} failed: {error.strerror or error}") from error


def left_whole(dest_stem: Path) -> Path | None:
    """A whole result that an earlier call has already brought, None where there is none. Blocking."""
    # An animation before the video that may have been made of it.
    for suffix in dict.fromkeys((*sorted(ANIMATION_SUFFIXES), *(kind.suffix for kind in MediaKind))):
        path = dest_stem.with_name(dest_stem.name + suffix)
        try:
            kind = sniff_file(path)
            if kind is not None:
                from ..media.validation import check_whole

                check_whole(path, kind)
                return path
        except (OSError, BrokenMediaError):
            continue
    return None


@dataclass(frozen=True)
class _Target:
    """What is being fetched, for messages."""

    url: str
    task_id: str | None

    @property
    def shown_url(self) -> str:
        """The URL without what may be secret in it: user, password, query."""
        try:
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{parts.hostname}{parts.path}"[:200]
        except ValueError:
            return "the URL given"

    @property
    def is_remote(self) -> bool:
        return not self.url[:5].lower().startswith("data:")

    @property
    def subject(self) -> str:
        return f"The result of task {self.task_id}" if self.task_id else f"The result at {self.shown_url}"

    def failed(self, reason: str, status_code: int | None = None) -> ResultDownloadError:
        kind: type[ResultDownloadError] = ResultDownloadError
        what = f"{self.subject} could not be downloaded: {reason}"
        next_step = "Fetch it again by the task's id; what has arrived so far is kept."
        money = STILL_RETRIEVABLE
        if status_code in _GONE:
            kind = ResultExpiredError
            what = f"{self.subject} is no longer there (HTTP {status_code})"
            money = "The task was paid for; its result has expired on the network."
            next_step = "Run the task again if you still need it."
        return kind(
            what,
            money=money,
            next_step=next_step,
            task_id=self.task_id,
            status_code=status_code,
            error_type=None if status_code is None else _error_type(status_code),
        )

    def displaced(self, reason: str) -> ResultDownloadError:
        error = self.failed(f"something else came in its place: {reason}")
        error.next_step = (
            "Where a login page or a proxy stands between, get past it; then fetch the result again by the "
            "task's id."
        )
        return error

    def broken(self, reason: str) -> ResultFormatError:
        return ResultFormatError(
            f"{self.subject} arrived and can't be used: {reason}",
            money=STILL_RETRIEVABLE,
            next_step="Fetch it again by the task's id; if it stays broken, the miner wrote it so.",
            task_id=self.task_id,
        )


class _PartFile:
    """The bytes that have arrived, and beside them what identifies the version they are part of."""

    def __init__(self, dest_stem: Path) -> None:
        self.dest_stem = dest_stem
        self.path = dest_stem.with_name(f"{dest_stem.name}.part")
        self.was_continued = False
        self.is_inherited = False  # from a process that may have died while it wrote
        self.validator: str | None = None
        self._notes = dest_stem.with_name(f"{dest_stem.name}.part.json")
        self._in_doubt = True  # until this process has seen the version that the bytes belong to

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def prepare(self) -> int:
        """How many bytes can be continued; an earlier process's only where their version is known."""
        if self._in_doubt:
            self._in_doubt = False
            try:
                self.validator = json.loads(self._notes.read_text())["validator"]
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                self.validator = None
            if self.validator is None:
                self.remove()
            self.is_inherited = self.size > 0
        return self.size

    def begin(self, content: bytes = b"", validator: str | None = None) -> None:
        """Start over with a new version."""
        self._in_doubt = False
        self.was_continued = False
        self.is_inherited = False
        self.validator = validator
        self.path.write_bytes(content)
        self._notes.write_text(json.dumps({"validator": validator}))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.is_inherited = False
        self.validator = None

    def move_to(self, suffix: str) -> Path:
        final = self.dest_stem.with_name(self.dest_stem.name + suffix)
        self.path.replace(final)
        self._notes.unlink(missing_ok=True)
        return final


class _Interrupted(Exception):
    """An attempt ended early without getting anywhere; another one may do better."""

    def __init__(self, reason: str, status_code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.status_code = status_code
        self.retry_after = retry_after


class _Fetch:
    """Fetches one URL into a part file, over as many connections as it takes."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        target: _Target,
        part: _PartFile,
        on_progress: Progress | None,
        attempts: int,
        stall_timeout: float,
    ) -> None:
        self._session = session
        self._target = target
        self._part = part
        self._on_progress = on_progress
        self._attempts = attempts
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_timeout, sock_read=stall_timeout)
        self._proxy: str | None = None
        self._total: int | None = None
        self.end_is_known = True
        """Whether a connection that breaks off can be told from one that has given everything."""

    async def run(self) -> None:
        """Return once all bytes are on disk."""
        try:
            self._proxy = await asyncio.to_thread(environment_proxy, self._target.url)
        except ConfigurationError as error:
            raise self._target.failed(f"{error.what}. {error.next_step}") from None
        complete = False
        while not complete:
            try:
                # Whatever gets ahead starts a new count: a long download may break any number of times.
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(_Interrupted),
                    stop=stop_after_attempt(self._attempts),
                    wait=_pause,
                    reraise=True,
                ):
                    with attempt:
                        complete = await self._attempt()
            except _Interrupted as error:
                raise self._target.failed(str(error), error.status_code) from error

    async def _attempt(self) -> bool:
        """True when all is there, False when the connection broke after some new bytes."""
        have = self._part.prepare()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._part.validator:
                headers["If-Range"] = self._part.validator
        try:
            async with self._session.get(
                self._target.url,
                headers=headers,
                timeout=self._timeout,
                proxy=self._proxy,
            ) as response:
                if self._begin(response, have):
                    return True
                await self._receive(response)
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
            # Their own texts hold the whole URL, signature included.
            raise self._target.failed(f"{self._target.shown_url} leads nowhere") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise self._target.failed(in_words(error)) from error
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            if self._part.size >= have + _WORTH_CONTINUING:
                return False
            raise _Interrupted(_reason(error)) from error
        return True

    def _begin(self, response: aiohttp.ClientResponse, have: int) -> bool:
        """Judge the head of an answer; True if there is nothing left to receive."""
        status = response.status
        if status in _PASSING:
            raise _Interrupted(f"HTTP {status}", status, _retry_after(response))
        if status == 416 and have:
            _, size = _content_range(response)
            if size == have:
                return True
            self._start_over(f"the server has {size} bytes, and {have} are here already")
        if status == 206 and have:
            start, size = _content_range(response)
            validator = _validator(response)
            if start != have:
                self._start_over(f"asked to go on at byte {have}, the server went on at {start}")
            if self._total is not None and size not in {None, self._total}:
                self._start_over(f"its size changed from {self._total} to {size} bytes")
            if self._part.validator and validator and validator != self._part.validator:
                self._start_over("it changed on the server meanwhile")
            self._part.was_continued = True
            self._total = size
        elif status == 200:
            self._part.begin(validator=_validator(response))
            self._total = None if "Content-Encoding" in response.headers else response.content_length
        else:
            raise self._target.failed(f"HTTP {status}", status)
        self.end_is_known = response.content_length is not None or "Transfer-Encoding" in response.headers
        return False

    def _start_over(self, reason: str) -> NoReturn:
        self._part.begin()
        self._total = None
        raise _Interrupted(reason)

    async def _receive(self, response: aiohttp.ClientResponse) -> None:
        received = self._part.size
        with self._part.path.open("ab") as file:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                if self._on_progress is not None:
                    self._on_progress(received, self._total)
        if self._total is not None and received != self._total:
            if received > self._total:
                self._start_over(f"{received} bytes came where {self._total} were announced")
            raise aiohttp.ClientPayloadError(f"{received} of {self._total} bytes came")


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Interrupted) and error.retry_after is not None:
        return min(error.retry_after, _LONGEST_RETRY_AFTER)
    return float(_BACK_OFF(state))


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "the connection stalled"
    return in_words(error)


def _error_type(status_code: int) -> ErrorType:
    return "server_error" if status_code >= 500 else "client_error"


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """The seconds a server asks to wait; None where it gives none, or a date."""
    try:
        return max(0.0, float(response.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """What If-Range may hold: a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")


def _content_range(response: aiohttp.ClientResponse) -> tuple[int | None, int | None]:
    """(first byte, total size) of a Content-Range header, None for what it does not tell."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    first, total = match.groups()
    return (int(first) if first else None), (int(total) if total != "*" else None)


def _data_of(target: _Target) -> bytes:
    """The content of a ``data:`` URI."""
    head, comma, body = target.url.partition(",")
    if not comma:
        raise target.broken("its data: URI has no comma")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return b64decode(unquote_to_bytes(body), validate=True)
    except Base64Error as error:
        raise target.broken(f"its data: URI is no valid base64 ({error})") from error


def _finish(part: _PartFile, target: _Target, end_is_known: bool) -> Path:
    """Check that the file is whole, as far as that can be told, and give it its name. Blocking."""
    kind = sniff_file(part.path)
    try:
        if kind is None:
            check_unlisted(part.path)
            if part.is_inherited:
                raise BrokenMediaError("what an earlier process left of it can't be checked")
        else:
            from ..media.validation import check_whole

            check_whole(part.path, kind)
    except BrokenMediaError as error:
        if isinstance(error, TextInPlaceError) and target.is_remote:
            part.remove()
            raise target.displaced(str(error)) from error
        raise target.broken(str(error)) from error
    if kind is not None:
        return part.move_to(kind.suffix)
    if not end_is_known:
        part.remove()
        raise target.failed(
            "nothing here reads its format, and its server does not say how long it is, so that nobody can "
            "tell whether it is whole"
        )
    return part.move_to(suffix_of(target.url))
