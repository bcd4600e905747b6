"""HTTP answers that sequencer and result store share: refusals, and connections closed by a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from .faults import Fault, FaultKind


def refusal(status: int, message: str, *, retry_after: float | None = None) -> web.Response:
    """A non-2xx answer with the protocol's body ``{"message": ...}``."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return web.json_response({"message": message}, status=status, headers=headers)


async def refused_by(request: web.Request, hits: Mapping[FaultKind, Fault]) -> web.Response | None:
    """Apply the faults that come before a request is handled; returns an answer if it must not be handled."""
    if fault := hits.get("delay"):
        await asyncio.sleep(fault.seconds)
    return _replaced(request, hits.get("drop_before"), hits.get("status"))


async def hidden_by(request: web.Request, hits: Mapping[FaultKind, Fault]) -> web.Response | None:
    """Apply the faults that come after a request is handled; returns an answer that replaces the true one."""
    if fault := hits.get("delay_after"):
        await asyncio.sleep(fault.seconds)
    return _replaced(request, hits.get("drop_after"), hits.get("status_after"))


def _replaced(request: web.Request, drop: Fault | None, status: Fault | None) -> web.Response | None:
    if drop is not None:
        # Closes the connection at once; unsent data is lost.
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if status is not None:
        return refusal(status.status, "Injected fault", retry_after=status.retry_after)
    return None
