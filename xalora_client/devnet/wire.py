"""Answers that the sequencer and the result store have in common, the deliberately broken ones among them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from .faults import Fault, FaultKind


def refusal(status: int, message: str, *, retry_after: float | None = None) -> web.Response:
    """A non-2xx answer with the protocol's body ``{"message": ...}``."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return web.json_response({"message": message}, status=status, headers=headers)


def drop(request: web.Request) -> web.Response:
    """Close the connection at once, without an answer; what is still to be sent is lost."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def hang_up(request: web.Request) -> None:
    """Close the connection after what was already written has gone out."""
    if request.transport is not None:
        request.transport.close()


async def refused_by(request: web.Request, hits: Mapping[FaultKind, Fault]) -> web.Response | None:
    """Let the faults happen that come before a request is acted upon; an answer means: go no further."""
    if fault := hits.get("delay"):
        await asyncio.sleep(fault.seconds)
    if "drop_before" in hits:
        return drop(request)
    if fault := hits.get("status"):
        return refusal(fault.status, "Injected fault", retry_after=fault.retry_after)
    return None
