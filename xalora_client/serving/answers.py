"""Answers to consumers: a task's status, refusals, and every error as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiohttp import web

STATUSES = ("waiting", "running", "finished", "failed", "canceled")
OPEN_STATUSES = ("waiting", "running")


class Told(Protocol):
    """What a status answer tells of a task; ``created`` is in seconds since the epoch."""

    task_id: str
    task_type: str
    workflow_id: str
    status: str
    timeout_seconds: float | None
    created: float
    miner_id: str | None
    inference_latency: float | None
    upload_latency: float | None
    message: str


def status_answer(task: Told, *, result: object, queue_position: int | None) -> dict[str, Any]:
    """The answer to ``task_result_query``: all fields of the protocol that are known.

    ``task_details`` is left out: it may hold megabytes of an inlined image.
    """
    if result is None and task.status == "failed":
        result = {"message": task.message}
    told = {
        "status": task.status,
        "result": result,
        "task_type": task.task_type,
        "workflow_id": task.workflow_id,
        "timeout_seconds": task.timeout_seconds,
        "create_timestamp": int(task.created),
        "miner_id": task.miner_id,
        "queue_position": queue_position,
        "inference_latency": task.inference_latency,
        "upload_latency": task.upload_latency,
        "msg": task.message or None,
    }
    return {"task_id": task.task_id, **{name: value for name, value in told.items() if value is not None}}


def canceled_answer(task_id: str, status: str, *, canceled: bool) -> dict[str, Any]:
    """The answer to ``task_cancel``; ``status`` is that of the task before."""
    return {"task_id": task_id, "msg": "Task canceled" if canceled else f"Task has already ended: {status}"}


def refusal(status: int, message: str, *, retry_after: float | None = None) -> web.Response:
    """A non-2xx answer with the protocol's body ``{"message": ...}``."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return web.json_response({"message": message}, status=status, headers=headers)


@web.middleware
async def errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Middleware: aiohttp's own errors with the protocol's body."""
    try:
        return await handler(request)
    except web.HTTPException as problem:
        return refusal(problem.status, problem.reason)
    except ConnectionResetError:
        # The other side closed the connection in the middle of a body; nobody reads this answer.
        return web.Response(status=400)
