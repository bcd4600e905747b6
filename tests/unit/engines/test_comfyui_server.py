"""How a ComfyUI server is reached: directly on this machine, whatever proxy the environment names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from xalora_client.engines.comfyui_server import ComfyUIServer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_requests_and_websocket_of_a_local_server_take_no_proxy(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, ".example")

    async def events(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()  # the features of the client
        await socket.send_str(json.dumps({"type": "executing", "data": {"node": "7", "prompt_id": "p"}}))
        await socket.receive()
        return socket

    async def stats(_: web.Request) -> web.Response:
        return web.json_response({"devices": [{"name": "cpu"}]})

    app = web.Application()
    app.router.add_get("/ws", events)
    app.router.add_get("/system_stats", stats)
    async with TestServer(app, host=host) as running:
        server = ComfyUIServer(f"http://{host}:{running.port}", timeout=10)

        def follow() -> str | None:
            stream = server.listen("client")
            try:
                message = stream.get(10)
                return None if message is None else message.kind
            finally:
                stream.close()

        assert await asyncio.to_thread(server.device) == "cpu"
        assert await asyncio.to_thread(follow) == "executing"
