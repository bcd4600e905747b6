"""The routes under ``/xalora/`` for the sidebar and its dialogs.

GET changes no state, and :mod:`.guard` refuses foreign requests. No route takes a path, only the key's route
takes a URL, and no answer contains a key.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import time
from typing import Any, TypeVar

from aiohttp import web

from ...xalora_client.errors import (
    AuthenticationError,
    ConfigurationError,
    JournalError,
    NetworkError,
    XaloraError,
)
from ..host.bridge import BridgeError, bridge
from . import account, guard
from .feed import Feed, Server
from .task_rows import GROUPS, media_type
from .task_service import PAGE_LIMIT, NoSuchTaskError, NotNowError, Query, task_service

log = logging.getLogger("xalora_client.nodes")

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PREFIX = "/xalora"
MAX_BODY = 64 * 1024
MAX_TEXT = 200

_REGISTERED = "_xalora_routes"

_STATUS: tuple[tuple[type[XaloraError], int], ...] = (
    (NoSuchTaskError, 404),
    (NotNowError, 409),
    (AuthenticationError, 502),
    (NetworkError, 502),
    (ConfigurationError, 400),
    (JournalError, 503),
)


class ServerWithRoutes(Server):
    """The part of ComfyUI's server that the routes use."""

    routes: web.RouteTableDef


def register(server: ServerWithRoutes | None) -> bool:
    """Add the routes to ComfyUI's server, once; False without a server, or if they were added before."""
    if server is None or hasattr(server, _REGISTERED):
        return False
    setattr(server, _REGISTERED, True)
    feed = Feed(server, task_service)
    for method, path, handler in _Routes(feed).table():
        server.routes.route(method, PREFIX + path)(_guarded(handler))
    return True


class _Routes:
    """The handlers, on ComfyUI's own loop; slow operations run on the bridge's."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        return [
            ("GET", "/status", self.status),
            ("GET", "/settings", self.settings),
            ("GET", "/tasks", self.tasks),
            ("GET", "/tasks/{id:[0-9]+}", self.task),
            ("GET", "/tasks/{id:[0-9]+}/files/{index:[0-9]+}", self.file),
            ("GET", "/tasks/{id:[0-9]+}/preview", self.preview),
            ("GET", "/tasks/{id:[0-9]+}/input", self.input),
            ("POST", "/tasks/{id:[0-9]+}/cancel", self.cancel),
            ("POST", "/tasks/{id:[0-9]+}/resume", self.resume),
            ("POST", "/tasks/{id:[0-9]+}/forget", self.forget),
            ("POST", "/tasks/cancel", self.cancel_all),
            ("POST", "/key", self.set_key),
            ("POST", "/key/remove", self.remove_key),
            ("POST", "/key/test", self.test_key),
        ]

    # --- reading ------------------------------------------------------------------------------------------

    async def status(self, _: web.Request) -> web.StreamResponse:
        self._feed.start()
        return web.json_response(await bridge.run(account.status()))

    async def settings(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(await bridge.run(account.settings()))

    async def tasks(self, request: web.Request) -> web.StreamResponse:
        self._feed.start()
        listing = await bridge.run(task_service.page(_query(request.query)))
        return web.json_response(
            {
                "version": listing.version,
                "now": time(),
                "total": listing.total,
                "counts": listing.counts,
                "tasks": listing.tasks,
            }
        )

    async def task(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await bridge.run(task_service.row(_record_id(request))))

    async def file(self, request: web.Request) -> web.StreamResponse:
        path = await bridge.run(task_service.file(_record_id(request), int(request.match_info["index"])))
        return _sent(path)

    async def preview(self, request: web.Request) -> web.StreamResponse:
        return _sent(await bridge.run(task_service.preview(_record_id(request))))

    async def input(self, request: web.Request) -> web.StreamResponse:
        return _sent(await bridge.run(task_service.input(_record_id(request))))

    # --- changing tasks -----------------------------------------------------------------------------------

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        return web.json_response(await bridge.run(task_service.cancel(_record_id(request))))

    async def cancel_all(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        return web.json_response(await bridge.run(task_service.cancel_all()))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        return web.json_response(await bridge.run(task_service.resume(_record_id(request))))

    async def forget(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        await bridge.run(task_service.forget(_record_id(request)))
        return web.json_response({})

    # --- the key ------------------------------------------------------------------------------------------

    async def set_key(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        key, endpoint = body.get("key"), body.get("endpoint") or ""
        if not isinstance(key, str) or not key.strip() or not isinstance(endpoint, str):
            raise ConfigurationError("No key was entered", next_step="Enter the key of your Xalora account.")
        verdict = await bridge.run(account.enter_key(key.strip(), endpoint.strip() or None))
        return web.json_response(verdict)

    async def remove_key(self, request: web.Request) -> web.StreamResponse:
        await _body(request)
        return web.json_response(await bridge.run(account.remove_key()))

    async def test_key(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        return web.json_response(await bridge.run(account.test_key(recent=body.get("recent") is True)))


def _guarded(handler: Handler) -> Handler:
    """The handler behind the guard, with errors as JSON and headers against other sites and caches."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        refused = guard.refusal(request.method, request.headers, _allowed_hosts())
        if refused is not None:
            return _error(refused.status, refused.reason)
        try:
            response = await handler(request)
        except XaloraError as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
            return _error(status, error.what, error.money, error.next_step)
        except BridgeError as error:
            return _error(503, str(error))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return guarded


def _allowed_hosts() -> frozenset[str]:
    names = os.environ.get(guard.ALLOWED_HOSTS_VARIABLE, "").split(",")
    return frozenset(name.strip().lower() for name in names if name.strip())


def _error(status: int, what: str, money: str = "", next_step: str = "") -> web.Response:
    body = {"error": {"what": what, "money": money, "next_step": next_step}}
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})


def _record_id(request: web.Request) -> int:
    digits = request.match_info["id"]
    # SQLite's integers have at most 19 digits; no record has id 0.
    return int(digits) if len(digits) < 18 else 0


def _query(values: Mapping[str, str]) -> Query:
    try:
        groups = tuple(name for name in values.get("groups", "").split(",") if name)
        since = values.get("since")
        if unknown := [name for name in groups if name not in GROUPS]:
            raise ValueError(f"no such group: {unknown[0]}")
        return Query(
            groups=groups,
            text=values.get("text", "")[:MAX_TEXT] or None,
            since=int(since) if since else None,
            offset=max(0, int(values.get("offset", 0))),
            limit=min(PAGE_LIMIT, max(0, int(values.get("limit", PAGE_LIMIT)))),
        )
    except ValueError as error:
        raise ConfigurationError(f"The query is invalid: {error}", money="") from error


async def _body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object."""
    data = bytearray()
    async for chunk in request.content.iter_chunked(MAX_BODY):
        data += chunk
        if len(data) > MAX_BODY:
            raise ConfigurationError("The request's body is too long")
    try:
        body = json.loads(data or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        # Without the parser's message, which may quote the body, and so a key.
        raise ConfigurationError("The request's body is not a JSON object")
    return body


def _sent(path: Path | None) -> web.StreamResponse:
    """A response with a file's contents; 404 for anything but media."""
    kind = media_type(path) if path is not None else None
    if path is None or kind is None:
        return _error(404, "There is no such file.")
    return web.FileResponse(
        path,
        headers={
            "Content-Type": kind,
            "Content-Disposition": f'inline; filename="{path.name}"',
            "Cache-Control": "private, max-age=86400",
        },
    )
