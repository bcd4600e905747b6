"""HTTP answers that sequencer and result store share where a fault comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from ..serving.answers import refusal
from .faults import Fault, FaultKind


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
