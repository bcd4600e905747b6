"""The route of the nodes' help pages, which are English for every language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from . import compat

if TYPE_CHECKING:
    from ..sidebar.feed import Server


def register(server: Server) -> None:
    """Answer ``docs/<node>/<language>.md``, where ComfyUI looks before ``docs/<node>.md``."""
    folder = compat.pack_directory()

    async def page(request: web.Request) -> web.StreamResponse:
        path = folder / "web" / "docs" / f"{request.match_info['node']}.md"
        return web.FileResponse(path) if path.is_file() else web.Response(status=404)

    route = f"/extensions/{folder.name}/docs/{{node:[\\w-]+}}/{{language:[\\w-]+}}.md"
    server.routes.get(route)(page)
