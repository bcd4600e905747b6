"""Download of a result: streamed to disk, resumed after a broken connection, checked for completeness."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from ..concurrency import run_decoding, run_in_thread
from ..config import without_login
from ..errors import (
    ConfigurationError,
    ResultFormatError,
    ResultTooLargeError,
)
from ..media.containers import BrokenMediaError
from ..media.limits import TooLargeError
from ..media.media_types import ANIMATION_SUFFIXES, MediaKind, sniff_file
from ..media.validation import (
    TextInsteadOfResultError,
    check_complete,
    check_unknown_format,
    kind_of_result,
    suffix_of,
)
from ..network.addresses import exact_url, redirected
from ..network.allowed_addresses import RefusedAddressError
from ..network.answers import retry_after
from ..network.outside import has_content_coding
from ..network.result_session import ResultSession
from .download_target import Target
from .part_file import PartFile

logger = logging.getLogger("xalora_client")

Progress: TypeAlias = Callable[[int, "int | None"], None]
_Step: TypeAlias = Callable[[], None]

STALL_SECONDS = 30.0
"""Seconds without a byte after which a connection counts as broken; a slow one may take any time."""

MAX_RESULT_BYTES = 512 * 2**20
"""The most bytes that are fetched, where the settings say nothing else: a stranger's file may never end."""

_CHUNK_BYTES = 256 * 1024
_MOST_AHEAD = 16  # chunks that wait for the disk
_WORTH_CONTINUING = 64 * 1024  # new bytes that make an attempt count as progress
_BACK_OFF = wait_random_exponential(multiplier=0.5, max=15)  # full jitter
_LONGEST_RETRY_AFTER = 60.0
_MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WHOLE = frozenset({200, 203})  # 203: a proxy on the way says that it may have changed the file
_WITH_BODY = frozenset({*_WHOLE, 206})
_CONDITION_FAILED = frozenset({304, 412})  # some stores answer If-Range so, where the file has changed
# The file is not there yet, or the store, or a proxy before it, fails for the moment.
_PASSING = frozenset({202, 204, 408, 423, 425, 429, *range(500, 600)} - {501, 505})
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)", re.ASCII)
_SENDABLE = re.compile(r"[\x20-\x7e]{1,1000}")


async def download(
    session: ResultSession,
    url: str,
    dest_stem: Path,
    *,
    task_id: str | None = None,
    on_progress: Progress | None = None,
    attempts: int = 5,
    stall_timeout: float = STALL_SECONDS,
    max_bytes: int = MAX_RESULT_BYTES,
) -> Path:
    """Download a result and check that it is complete.

    The bytes go to ``<dest_stem>.part``; a later attempt, or another process, continues that file. Only one
    call at a time may use one ``dest_stem``.

    Args:
        session: Says which addresses may be asked. It knows the proxy.
        url: ``http://``, ``https://`` or ``data:``.
        dest_stem: The file to write, without its suffix, which is chosen by content.
        task_id: For error messages.
        on_progress: Called on the event loop with the bytes on disk so far and the total, None where unknown.
        attempts: How many times in a row the connection may fail without progress.
        stall_timeout: Seconds without a byte after which a connection counts as broken.
        max_bytes: The largest file that is fetched.

    Returns:
        The file: ``dest_stem`` with ``.png``, ``.jpg``, ``.webp``, ``.gif``, ``.mp4`` or ``.webm`` added. One
        in a format that this package does not read has the URL's suffix, or ``.bin``.

    Raises:
        ResultExpiredError: 404 or 410: the network no longer has it.
        ResultLocationError: It is no address that may be asked.
        ResultDownloadError: It could not be downloaded in full, or a text came in its place.
        ResultFormatError: It is complete and damaged.
        ResultTooLargeError: It needs more memory or time than the limits allow.
    """
    target = Target(url, task_id)
    part = PartFile(dest_stem)
    fetch = _Fetch(session, target, part, on_progress, attempts, stall_timeout, max_bytes)
    scheme = url[:8].partition(":")[0].lower()
    try:
        await run_in_thread(lambda: dest_stem.parent.mkdir(parents=True, exist_ok=True))
        if scheme == "data":
            await run_in_thread(lambda: part.begin(target.data_uri_content(max_bytes)))
        elif scheme in {"http", "https"}:
            await fetch.run()
        else:
            raise target.refused(f"{target.shown_url} is no http, https or data address")
        try:
            return await run_decoding(lambda: _finish(part, target, fetch.end_is_known))
        except ResultFormatError as error:
            await run_in_thread(part.remove)
            is_whole = fetch.end_is_known and not part.was_continued
            if is_whole or isinstance(error, ResultTooLargeError):
                raise
        # The parts may come from two versions of the file, or its end be missing: only a fresh copy tells.
        await fetch.run()
        try:
            return await run_decoding(lambda: _finish(part, target, fetch.end_is_known))
        except ResultFormatError as error:
            if fetch.end_is_known or isinstance(error, ResultTooLargeError):
                raise
            await run_in_thread(part.remove)
            said = (
                "it came damaged, and whether all of it came is not known, since its server announces no size"
            )
            raise target.failed(said) from error
    except OSError as error:
        raise target.failed(f"writing {part.path} failed: {error.strerror or error}") from error
    finally:
        await run_in_thread(part.close)


def find_complete_file(dest_stem: Path) -> Path | None:
    """The complete result of an earlier call, None where there is none. Blocking."""
    # An animation comes before the video that may have been converted from it.
    for suffix in dict.fromkeys((*sorted(ANIMATION_SUFFIXES), *(kind.suffix for kind in MediaKind))):
        path = dest_stem.with_name(dest_stem.name + suffix)
        try:
            kind = sniff_file(path)
            if kind is not None:
                check_complete(path, kind)
                return path
        except (OSError, BrokenMediaError):
            continue
    return None


class _Interrupted(Exception):
    """An attempt ended early without progress; another one may succeed."""

    def __init__(self, reason: str, status_code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.status_code = status_code
        self.retry_after = retry_after


class _StartOver(_Interrupted):
    """What has arrived and what the server has are two versions."""


@dataclass
class _Fetch:
    """Downloads one URL into a part file, over as many connections as needed.

    ``end_is_known``: the end of the file can be distinguished from a broken connection.
    """

    session: ResultSession
    target: Target
    part: PartFile
    on_progress: Progress | None
    attempts: int
    stall_timeout: float
    max_bytes: int
    end_is_known: bool = True
    total: int | None = None
    _proxies: dict[str, str | None] = field(default_factory=dict)

    async def run(self) -> None:
        """Return once all bytes are on disk."""
        complete = False
        while not complete:
            try:
                # Progress starts a new count: a long download may break any number of times.
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(_Interrupted),
                    stop=stop_after_attempt(self.attempts),
                    wait=_pause,
                    reraise=True,
                ):
                    with attempt:
                        complete = await self._attempt()
            except _Interrupted as error:
                raise self.target.failed(str(error), error.status_code) from error

    async def _attempt(self) -> bool:
        """True when the file is complete, False when the connection broke after progress."""
        have = await run_in_thread(self.part.prepare)
        headers = {"Accept-Encoding": "identity"}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.stall_timeout, sock_read=self.stall_timeout
        )
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.part.validator:
                headers["If-Range"] = self.part.validator
        try:
            async with self._answer(headers, timeout) as response:
                first = self._begin(response, have)
                if first is None:
                    return True
                await self._receive(response, first)
        except _StartOver:
            await run_in_thread(self.part.begin)
            self.total = None
            raise
        except aiohttp.InvalidURL:
            # Not chained: its text contains the URL with its signature.
            raise self.target.refused(
                f"{self.target.shown_url} is no valid address, or leads to none"
            ) from None
        except RefusedAddressError as refusal:
            raise self.target.refused(str(refusal), may_be_listed=True) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise self.target.failed(self.target.cause(error)) from error
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            if self.part.size >= have + _WORTH_CONTINUING:
                return False
            stalled = isinstance(error, asyncio.TimeoutError)
            raise _Interrupted("the connection stalled" if stalled else self.target.cause(error)) from error
        return True

    @asynccontextmanager
    async def _answer(
        self, headers: dict[str, str], timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of the last address of a chain of redirects; aiohttp would spell each one anew."""
        url = self.target.url
        for _ in range(_MAX_REDIRECTS + 1):
            async with self.session.get(
                url, proxy=await self._proxy_for(url), headers=headers, timeout=timeout
            ) as response:
                # The query may sign the address.
                logger.debug("GET %s: %d", without_login(url).partition("?")[0], response.status)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    yield response
                    return
                url = redirected(url, location)
        raise self.target.failed(f"its address redirects more than {_MAX_REDIRECTS} times")

    async def _proxy_for(self, url: str) -> str | None:
        site = str(exact_url(url).origin())
        if site not in self._proxies:
            try:
                self._proxies[site] = await asyncio.to_thread(self.session.proxy_for, url)
            except ConfigurationError as error:
                raise self.target.failed(f"{error.what}. {error.next_step}") from None
        return self._proxies[site]

    def _begin(self, response: aiohttp.ClientResponse, have: int) -> list[_Step] | None:
        """Check the headers of an answer.

        Returns:
            What to do with the file before the bytes of the answer; None where nothing is left to receive.
        """
        first: list[_Step] = []
        status = response.status
        if status in _PASSING:
            raise _Interrupted(f"HTTP {status}", status, retry_after(response.headers))
        if has_content_coding(response.headers.getall("Content-Encoding", ())) and status in _WITH_BODY:
            # Unpacked, a few bytes could fill the disk; it was asked for as it is.
            raise self.target.failed("its server sends it compressed, though it was not asked to")
        if status == 416 and have:
            _, size = _content_range(response)
            if size == have:
                return None
            raise _StartOver(f"the server has {size} bytes, but {have} have arrived")
        if status in _CONDITION_FAILED and have:
            raise _StartOver(f"HTTP {status}")
        if status == 206 and have:
            start, size = _content_range(response)
            validator = _validator(response)
            if start != have:
                raise _StartOver(f"the server continued at byte {start} instead of {have}")
            if self.total is not None and size not in {None, self.total}:
                raise _StartOver(f"its size changed from {self.total} to {size} bytes")
            if self.part.validator and validator and validator != self.part.validator:
                raise _StartOver("it changed on the server")
            self.part.was_continued = True
            self.total = size
        elif status == 206 and _content_range(response)[0] == 0:
            # Some stores answer so without having been asked for a part.
            first = [partial(self.part.begin, validator=_validator(response))]
            self.total = _content_range(response)[1]
        elif status in _WHOLE:
            first = [partial(self.part.begin, validator=_validator(response))]
            self.total = response.content_length
        else:
            raise self.target.failed(f"HTTP {status}", status)
        is_framed = response.content_length is not None or "Transfer-Encoding" in response.headers
        self.end_is_known = is_framed and (status != 206 or self.total is not None)
        return first

    async def _receive(self, response: aiohttp.ClientResponse, first: list[_Step]) -> None:
        received = 0 if first else self.part.size
        # The disk is written beside the reading, for which no disk is waited: once the connection has broken,
        # aiohttp gives out nothing more of what has arrived.
        ahead = first
        writing = asyncio.ensure_future(self._write(ahead))
        try:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                received += len(chunk)
                if max(received, self.total or 0) > self.max_bytes:
                    ahead.append(self.part.remove)
                    raise self.target.too_large(self.max_bytes)
                ahead.append(partial(self.part.write, chunk))
                if len(ahead) > _MOST_AHEAD:
                    await asyncio.wait({writing})
                if writing.done():
                    writing.result()
                    writing = asyncio.ensure_future(self._write(ahead))
        finally:
            await asyncio.wait({writing})
            writing.result()
            await self._write(ahead)
        if self.total is not None and received != self.total:
            if received > self.total:
                raise _StartOver(f"{received} bytes arrived, {self.total} were announced")
            raise aiohttp.ClientPayloadError(f"{received} of {self.total} bytes arrived")

    async def _write(self, ahead: list[_Step]) -> None:
        """Do what is to be done with the file, and what is added meanwhile."""
        while ahead:
            steps = ahead[:]
            ahead.clear()
            await run_in_thread(partial(_do_all, steps))
            if self.on_progress is not None and self.part.size:
                self.on_progress(self.part.size, self.total)


def _do_all(steps: list[_Step]) -> None:
    for step in steps:
        step()


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Interrupted) and error.retry_after is not None:
        return min(error.retry_after, _LONGEST_RETRY_AFTER)
    return float(_BACK_OFF(state))


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """A value for If-Range: a strong ETag, else the date of the last change; None for what can't be sent."""
    etag = response.headers.get("ETag")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    return validator if validator and _SENDABLE.fullmatch(validator) else None


def _content_range(response: aiohttp.ClientResponse) -> tuple[int | None, int | None]:
    """(first byte, total size) of a Content-Range header, None for what is missing."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    first, total = match.groups()
    return (int(first) if first else None), (int(total) if total != "*" else None)


def _finish(part: PartFile, target: Target, end_is_known: bool) -> Path:
    """Check that the file is complete, as far as its format allows, and rename it. Blocking."""
    try:
        kind = kind_of_result(part.path)
        if kind is None:
            suffix = check_unknown_format(part.path, suffix_of(target.url))
            if part.is_inherited:
                raise BrokenMediaError("its first part comes from an earlier process and can't be checked")
        else:
            check_complete(part.path, kind)
            suffix = kind.suffix
    except BrokenMediaError as error:
        if isinstance(error, TextInsteadOfResultError) and target.is_remote:
            part.remove()
            raise target.replaced(str(error)) from error
        if isinstance(error, TooLargeError):
            raise target.needs_too_much(str(error)) from error
        raise target.broken(str(error)) from error
    if kind is None and not end_is_known:
        part.remove()
        raise target.failed(
            "its format is unknown and the server announces no size, so its completeness can't be checked"
        )
    return part.move_to(suffix)
