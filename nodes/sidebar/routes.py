"""The routes under ``/xalora/`` for the sidebar and its dialogs.

GET changes no state, and :mod:`.guard` refuses foreign requests. No route takes a path, only the key's route
takes a URL, and no answer contains a key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from ...xalora_client.errors import (
    AuthenticationError,
    ConfigurationError,
    JournalError,
    NetworkError,
    XaloraError,
)
from ...xalora_client.journal.queries import NAMED
from ..execution.wording import words_for_dialog
from ..host import compat
from ..host.bridge import BridgeError, bridge
from . import account, guard
from .feed import Feed, Server
from .task_rows import GROUPS, media_type
from .task_service import NoSuchTaskError, NotNowError, task_service

Body = dict[str, Any]
Answer = Coroutine[Any, Any, "dict[str, Any] | Path | None"]
Action = Callable[[web.Request, Body], Answer]

PREFIX = "/xalora"
TASK = "/tasks/{id:[0-9]+}"
PAGE_LIMIT = 200
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


def register(server: Server) -> bool:
    """Add the routes to ComfyUI's server, once; False if they were added before."""
    if hasattr(server, _REGISTERED):
        return False
    setattr(server, _REGISTERED, True)
    for (method, path), action in _actions(Feed(server, task_service)).items():
        server.routes.route(method, PREFIX + path)(_handler(action))
    return True


def _actions(feed: Feed) -> dict[tuple[str, str], Action]:
    """The action of each route, by method and path."""

    def status(request: web.Request, body: Body) -> Answer:
        feed.start()
        return account.status()

    def tasks(request: web.Request, body: Body) -> Answer:
        feed.start()
        return task_service.page(**_query(request.query))

    return {
        ("GET", "/status"): status,
        ("GET", "/settings"): lambda request, body: account.settings(),
        ("GET", "/tasks"): tasks,
        ("POST", "/tasks/cancel"): lambda request, body: task_service.cancel_all(_whole_id(body)),
        ("POST", "/tasks/forget"): lambda request, body: task_service.forget_all(**_chosen(body)),
        ("GET", TASK): _of_a_task(task_service.row),
        ("GET", f"{TASK}/details"): _of_a_task(task_service.details),
        ("GET", f"{TASK}/preview"): _of_a_task(task_service.preview),
        ("GET", f"{TASK}/input"): _of_a_task(task_service.input),
        ("GET", TASK + "/files/{index:[0-9]+}"): lambda request, body: task_service.file(
            _record_id(request), _number(request.match_info["index"])
        ),
        ("POST", f"{TASK}/cancel"): _of_a_task(task_service.cancel),
        ("POST", f"{TASK}/resume"): _of_a_task(task_service.resume),
        ("POST", f"{TASK}/forget"): _of_a_task(task_service.forget),
        ("POST", f"{TASK}/send_again"): _of_a_task(task_service.send_again),
        ("POST", f"{TASK}/make_again"): _of_a_task(task_service.make_again),
        ("POST", f"{TASK}/take_back"): _of_a_task(task_service.take_back),
        ("POST", f"{TASK}/take_up"): lambda request, body: task_service.take_up(
            _record_id(request), str(body.get("task_id", "")).strip()
        ),
        ("POST", "/limit/lift"): lambda request, body: account.lift_daily_limit(),
        ("POST", "/key"): lambda request, body: account.enter_key(*_entered(body)),
        ("POST", "/key/remove"): lambda request, body: account.remove_key(),
        ("POST", "/key/test"): lambda request, body: account.test_key(recent=body.get("recent") is True),
    }


def _of_a_task(function: Callable[[int], Answer]) -> Action:
    """The action of a route that names a task."""
    return lambda request, body: function(_record_id(request))


def _handler(action: Action) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler behind the guard; the action gives JSON or a file's path.

    What changes something runs on the client's loop. What reads does not wait for it.
    Errors are answered as JSON, with headers against other sites and caches.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        hosts, origins = _listed(guard.ALLOWED_HOSTS_VARIABLE), _listed(guard.ALLOWED_ORIGINS_VARIABLE)
        refused = guard.refusal(request.method, request.headers, hosts, origins)
        if refused is not None:
            return _error(refused.status, refused.reason)
        if compat.is_multi_user():
            # ComfyUI does not check who a request is from: whoever names a user is taken for that user.
            return _error(403, "With --multi-user, key and tasks belong to whoever runs this ComfyUI.")
        try:
            if request.method == "POST":
                answer = await bridge.run(action(request, await _body(request)))
            else:
                answer = await action(request, {})
        except XaloraError as error:
            status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
            words = words_for_dialog(error)
            return _error(status, words.what, words.money, words.press)
        except BridgeError as error:
            return _error(503, str(error))
        response = web.json_response(answer) if isinstance(answer, dict) else _sent(answer)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return handle


def _listed(variable: str) -> frozenset[str]:
    names = (name.strip().lower().rstrip("/") for name in os.environ.get(variable, "").split(","))
    return frozenset(name for name in names if name)


def _error(status: int, what: str, money: str = "", next_step: str = "") -> web.Response:
    body = {"error": {"what": what, "money": money, "next_step": next_step}}
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})


def _record_id(request: web.Request) -> int:
    return _number(request.match_info["id"], otherwise=0)


def _number(digits: str, *, otherwise: int = -1) -> int:
    """A number in a path; ``otherwise``, which names nothing, for one that SQLite can't hold."""
    return int(digits) if len(digits) < 18 else otherwise


def _query(values: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of :meth:`.TaskService.page`."""
    try:
        since = values.get("since")
        return {
            **_which(values),
            "each": values.get("each") == "1",
            "since": _counted(since) if since else None,
            "offset": max(0, _counted(values.get("offset", "0"))),
            "limit": min(PAGE_LIMIT, max(0, _counted(values.get("limit", str(PAGE_LIMIT))))),
        }
    except ValueError as error:
        raise ConfigurationError(f"The query is invalid: {error}", money="") from error


def _chosen(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :meth:`.TaskService.forget_all`."""
    try:
        names = ("groups", "text", "named", "whole", "version")
        texts = {name: str(body.get(name, "")) for name in names}
        return {**_which(texts), "version": _counted(texts["version"])}
    except ValueError as error:
        raise ConfigurationError(f"The request is invalid: {error}", money="") from error


def _which(values: Mapping[str, str]) -> dict[str, Any]:
    """The groups and the search of a list."""
    groups = tuple(name for name in values.get("groups", "").split(",") if name)
    if unknown := [name for name in groups if name not in GROUPS]:
        raise ValueError(f"no such group: {unknown[0]}")
    return {
        "groups": groups,
        "text": values.get("text", "")[:MAX_TEXT] or None,
        "named": _named(values.get("named", "")),
        "whole_id": _whole_id(values),
    }


def _whole_id(values: Mapping[str, Any]) -> str | None:
    """Of what only the parts are meant, if that is named."""
    return str(values.get("whole") or "")[:MAX_TEXT] or None


def _named(text: str) -> dict[str, list[str]]:
    """For words of the search, the names of what is shown in such a word."""
    try:
        named = json.loads(text or "{}")
    except RecursionError:
        named = None
    if not isinstance(named, dict) or not all(isinstance(names, list) for names in named.values()):
        raise ValueError("named is no object of lists")
    if any(name not in NAMED for names in named.values() for name in names if isinstance(name, str)):
        raise ValueError("no such name")
    return {word: [name for name in names if isinstance(name, str)] for word, names in named.items()}


def _counted(text: str) -> int:
    if len(text) >= 18:
        raise ValueError("a number is too long")
    return int(text)


def _entered(body: Body) -> tuple[SecretStr, str | None]:
    """The key and the endpoint that the user has entered."""
    key, endpoint = _hidden(body.pop("key", None)), body.get("endpoint") or ""
    if key is None or not isinstance(endpoint, str):
        raise ConfigurationError("No key was entered", next_step="Enter the key of your Xalora account.")
    return key, endpoint.strip() or None


def _hidden(key: Any) -> SecretStr | None:
    """A key that can be sent and stored, out of sight of tracebacks."""
    if not isinstance(key, str) or not key.strip() or not key.strip().isprintable():
        return None
    return SecretStr(key.strip())


async def _body(request: web.Request) -> Body:
    """The request's JSON object."""
    data = bytearray()
    async for chunk in request.content.iter_chunked(MAX_BODY):
        data += chunk
        if len(data) > MAX_BODY:
            raise ConfigurationError("The request's body is too long")
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError):
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
