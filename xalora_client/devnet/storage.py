"""The result store: miners put files under a key, anybody who knows the URL gets them, in ranges if they
like.

``PUT /results/{key}`` needs the token of the task's credential and a key that names the task, so that no
miner can write over another task's result. ``GET`` and ``HEAD`` know ``Range``, ``If-Range``,
``If-None-Match`` and strong ETags.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aiohttp import web

from .faults import RESULT, UPLOAD, Fault, FaultKind, FaultPlan
from .wire import drop, hang_up, refusal, refused_by

_CHUNK = 1 << 20
_SLOW_CHUNKS = 32

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}


class Storage:
    """Files in a folder, served over HTTP.

    Args:
        folder: Where the files lie; made if absent.
        secret: Signs the credentials. A store that is opened again with the same secret takes uploads begun
            before.
        faults: What goes wrong with uploads (``upload``) and downloads (``result``).
    """

    def __init__(self, folder: Path, secret: str, faults: FaultPlan) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._secret = secret.encode()
        self._faults = faults
        self._expired: dict[str, int] = {}

    def token(self, task_id: str) -> str:
        """The token that lets a miner store this task's result."""
        mac = hmac.new(self._secret, task_id.encode(), hashlib.sha256).hexdigest()
        return f"{task_id}.{mac}"

    def path(self, key: str) -> Path | None:
        """Where a key's file lies; ``None`` for a key that is none (absolute, or with ``..``)."""
        parts = PurePosixPath(key)
        if not key or parts.is_absolute() or ".." in parts.parts or "\\" in key or key.endswith("/"):
            return None
        return self.folder / parts

    def has(self, key: str) -> bool:
        """Whether a file is stored under this key."""
        path = self.path(key)
        return path is not None and path.is_file()

    async def read(self, key: str) -> bytes:
        """A stored file's bytes. Raises ``OSError`` if there is none."""
        path = self.path(key)
        if path is None:
            raise FileNotFoundError(key)
        return await asyncio.to_thread(path.read_bytes)

    def expire(self, keys: Iterable[str] | None = None, *, status: int = 404) -> int:
        """Delete results, all or those of these keys; from now on they answer ``status`` (404 or 410).

        Returns how many were deleted.
        """
        if keys is None:
            keys = [
                path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()
            ]
        gone = 0
        for key in keys:
            path = self.path(key)
            if path is not None and path.is_file():
                path.unlink()
                self._expired[key] = status
                gone += 1
        return gone

    def add_routes(self, app: web.Application) -> None:
        """Serve this store under ``/results/``."""
        app.router.add_put("/results/{key:.+}", self._put)
        app.router.add_get("/results/{key:.+}", self._get)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        hits = self._faults.draw(UPLOAD)
        if early := await refused_by(request, hits):
            return early
        key = request.match_info["key"]
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        task_id = token.partition(".")[0]
        if scheme != "Bearer" or not hmac.compare_digest(token, self.token(task_id)) or task_id not in key:
            return refusal(403, "This credential does not open that key")
        path = self.path(key)
        if path is None:
            return refusal(400, f"Not a key: {key!r}")
        data = await request.read()
        if "corrupt_stored" in hits:
            data = _ruin(data, 0, len(data))
        if "truncate_stored" in hits:
            data = data[: len(data) // 2]
        await asyncio.to_thread(_write, path, data)
        self._expired.pop(key, None)
        if "drop_after" in hits:
            return drop(request)
        if fault := hits.get("status_after"):
            return refusal(fault.status, "Injected fault", retry_after=fault.retry_after)
        return web.Response(status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        hits = self._faults.draw(RESULT) if request.method == "GET" else {}
        if early := await refused_by(request, hits):
            return early
        key = request.match_info["key"]
        path = self.path(key)
        try:
            stored = await asyncio.to_thread(_Stored.read, path) if path else None
        except OSError:
            stored = None
        if path is None or stored is None:
            return refusal(self._expired.get(key, 404), f"No result is stored as {key!r}")

        size = len(stored.data)
        headers = {
            "ETag": stored.etag,
            "Accept-Ranges": "bytes",
            "Content-Type": MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        }
        if request.headers.get("If-None-Match") == stored.etag:
            return web.Response(status=304, headers=headers)
        is_unchanged = request.headers.get("If-Range", stored.etag) == stored.etag
        asked = request.headers.get("Range") if is_unchanged else None
        span = parse_range(asked, size)
        if span is None:
            headers["Content-Range"] = f"bytes */{size}"
            return web.Response(status=416, headers=headers)
        status = 200
        if asked and span != (0, size):
            headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
            status = 206
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = span[1] - span[0]
        await response.prepare(request)
        if request.method != "HEAD":
            await _send(request, response, stored.data, span=span, hits=hits)
        return response


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open span of bytes that a ``Range`` header asks of a file of this size.

    No header, several ranges, or what is no range gives the whole file, as RFC 9110 allows; ``None`` means
    that the range lies outside (416).
    """
    whole = (0, size)
    if header is None or not header.startswith("bytes=") or "," in header:
        return whole
    first, separator, last = header[len("bytes=") :].strip().partition("-")
    if not separator or not (first + last).isdecimal():
        return whole
    if not first:
        length = int(last)
        return (max(0, size - length), size) if length and size else None
    start = int(first)
    stop = min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return whole
    return (start, stop) if start < size else None


def corrupted_span(size: int) -> tuple[int, int]:
    """The half-open span of bytes that the ``corrupt`` faults ruin: the third quarter of the file."""
    return size // 2, size // 2 + max(1, size // 4)


def _ruin(block: bytes, start: int, size: int) -> bytes:
    first, last = corrupted_span(size)
    return bytes(byte ^ 0xA5 if first <= start + i < last else byte for i, byte in enumerate(block))


@dataclass(frozen=True)
class _Stored:
    """A file as it lies there: results are small enough to be held while they are sent."""

    data: bytes
    etag: str

    @classmethod
    def read(cls, path: Path) -> _Stored:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            return cls(file.read(), f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"')


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
            block = _ruin(block, position, len(data))
        await asyncio.sleep(pause)
        await response.write(block)
    if "truncate" in hits:
        hang_up(request)
