"""The result store: miners upload files under a key, and anybody with the URL downloads them.

``PUT /files/{key}`` needs the token of the task's credential and a key that contains the task id, so that a
miner can't overwrite the result of another task. ``GET`` and ``HEAD`` support ``Range``, ``If-Range``,
``If-None-Match`` and strong ETags.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from aiohttp import web

from ..files import draft_of
from ..media.media_types import MEDIA_TYPES
from ..serving.answers import refusal
from .faults import RESULT, UPLOAD, Fault, FaultKind, FaultPlan
from .wire import hidden_by, refused_by

_CHUNK = 1 << 20
_SLOW_CHUNKS = 32


class Storage:
    """Files in a folder, served over HTTP.

    Args:
        folder: The folder of the files; created if absent.
        secret: Signs the credentials. With the same secret, credentials outlive a restart.
        faults: The faults of uploads (``upload``) and downloads (``result``).
    """

    def __init__(self, folder: Path, secret: str, faults: FaultPlan) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._secret = secret.encode()
        self._faults = faults
        self._expired: dict[str, int] = {}

    def token(self, task_id: str) -> str:
        """The token that lets a miner store this task's result."""
        mac = hmac.new(self._secret, task_id.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
        return f"{task_id}.{mac}"

    def path(self, key: str) -> Path:
        """The path of a key's file. Raises ``OSError`` for an invalid key (absolute, or with ``..``)."""
        parts = PurePosixPath(key)
        if not key or parts.is_absolute() or ".." in parts.parts or key.endswith("/"):
            raise FileNotFoundError(key)
        if "\\" in key or "\0" in key:
            raise FileNotFoundError(key)
        return self.folder / parts

    def has(self, key: str) -> bool:
        """Whether a file is stored under this key."""
        with suppress(OSError):
            return self.path(key).is_file()
        return False

    async def read(self, key: str) -> bytes:
        """A stored file's bytes. Raises ``OSError`` if there is none."""
        return await asyncio.to_thread(self.path(key).read_bytes)

    def expire(self, keys: Iterable[str] | None = None, *, status: int = 404) -> int:
        """Delete all results or those of these keys; requests then get ``status`` (404 or 410).

        Returns how many were deleted.
        """
        if keys is None:
            keys = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")]
        gone = [key for key in keys if self.has(key)]
        for key in gone:
            self.path(key).unlink()
        self._expired.update(dict.fromkeys(gone, status))
        return len(gone)

    def add_routes(self, app: web.Application) -> None:
        """Serve this store under ``/files/``."""
        app.router.add_put("/files/{key:.+}", self._put)
        app.router.add_get("/files/{key:.+}", self._get)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        hits = self._faults.draw(UPLOAD)
        if early := await refused_by(request, hits):
            return early
        key = request.match_info["key"]
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        task_id = token.partition(".")[0]
        if (
            scheme != "Bearer"
            or not hmac.compare_digest(token.encode("utf-8", "replace"), self.token(task_id).encode())
            or task_id not in key
        ):
            return refusal(403, "This credential is not valid for this key")
        try:
            path = self.path(key)
        except OSError:
            return refusal(400, f"Invalid key: {key!r}")
        data = await request.read()
        if "corrupt_stored" in hits:
            data = _corrupt(data, 0, len(data))
        if "truncate_stored" in hits:
            data = data[: len(data) // 2]
        await asyncio.to_thread(_write, path, data)
        self._expired.pop(key, None)
        return await hidden_by(request, hits) or web.Response(status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        hits = self._faults.draw(RESULT) if request.method == "GET" else {}
        if early := await refused_by(request, hits):
            return early
        key = request.match_info["key"]
        try:
            path = self.path(key)
            data, etag = await asyncio.to_thread(_read, path)
        except OSError:
            return refusal(self._expired.get(key, 404), f"No result is stored as {key!r}")

        size = len(data)
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Content-Type": MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        }
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        is_unchanged = request.headers.get("If-Range", etag) == etag
        span = requested_span(request, size) if is_unchanged else (0, size)
        if span is None:
            headers["Content-Range"] = f"bytes */{size}"
            return web.Response(status=416, headers=headers)
        status = 200
        if span != (0, size):
            headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
            status = 206
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = span[1] - span[0]
        await response.prepare(request)
        if request.method != "HEAD":
            await _send(request, response, data, span=span, hits=hits)
        return response


def requested_span(request: web.BaseRequest, size: int) -> tuple[int, int] | None:
    """The half-open span of bytes that a request's ``Range`` names in a file of this size.

    No header, several ranges or an invalid range give the whole file, as RFC 9110 allows; ``None`` means that
    the range lies outside (416).
    """
    try:
        start, stop, _ = request.http_range.indices(size)
    except ValueError:
        return 0, size
    outside = start >= stop or request.headers.get("Range") == "bytes=-0"
    return None if outside and "Range" in request.headers else (start, stop)


def _corrupt(block: bytes, start: int, size: int) -> bytes:
    """A block of a file of this size, wrong in the file's third quarter."""
    first, last = size // 2, size // 2 + max(1, size // 4)
    return bytes(byte ^ 0xA5 if first <= start + i < last else byte for i, byte in enumerate(block))


def _read(path: Path) -> tuple[bytes, str]:
    """A file's content and ETag; results are small enough for memory."""
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        return file.read(), f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"'


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path) as draft:
        draft.write_bytes(data)
        draft.replace(path)


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    data: bytes,
    *,
    span: tuple[int, int],
    hits: dict[FaultKind, Fault],
) -> None:
    start, stop = span
    chunk, pause = _CHUNK, 0.0
    if slow := hits.get("slow"):
        chunk = max(1, -(-(stop - start) // _SLOW_CHUNKS))
        pause = slow.seconds / _SLOW_CHUNKS
    end = start + (stop - start) // 2 if "truncate" in hits else stop
    for position in range(start, end, chunk):
        block = data[position : min(position + chunk, end)]
        if "corrupt" in hits:
            block = _corrupt(block, position, len(data))
        await asyncio.sleep(pause)
        await response.write(block)
    if "truncate" in hits and request.transport is not None:
        request.transport.close()
