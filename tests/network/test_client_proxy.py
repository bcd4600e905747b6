"""Requests to the sequencer go through the proxy that the environment names, and not where it says not to."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from xalora_client import AsyncXalora, UpscalerTask, XaloraConnectionError

KEY = "alice#s3cret"
# No such host can be reached but through the proxy.
SEQUENCER = "http://sequencer.invalid:8080"


@dataclass
class Proxy:
    """Answers itself whatever it is asked to fetch, and keeps the request lines and proxy credentials."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers["content-length"]))
        self.asked.append(line)
        self.credentials.append(headers.get("proxy-authorization", ""))
        body = json.dumps({"task_id": "t-1", "status": "waiting"}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy() -> AsyncIterator[Proxy]:
    running = Proxy()
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    async with server:
        running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield running


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_creates_and_polls_take_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as running:
        monkeypatch.setenv("http_proxy", running.url.replace("//", "//bob:pass%40word@"))
        async with AsyncXalora(KEY, SEQUENCER) as client:
            assert await client.execute_workflow(UpscalerTask(image_url="https://example.org/a.png")) == "t-1"
            assert (await client.query_task_result("t-1")).status == "waiting"
    assert running.asked == [
        f"POST {SEQUENCER}/task_create HTTP/1.1",
        f"POST {SEQUENCER}/task_result_query HTTP/1.1",
    ]
    expected = "Basic " + base64.b64encode(b"bob:pass@word").decode()
    assert running.credentials == [expected] * 2


async def test_hosts_that_are_excepted_are_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as running:
        monkeypatch.setenv("http_proxy", running.url)
        monkeypatch.setenv("no_proxy", ".invalid")
        async with AsyncXalora(KEY, SEQUENCER, max_retries=0) as client:
            with pytest.raises(XaloraConnectionError, match=r"the name sequencer\.invalid"):
                await client.query_task_result("t-1")
    assert running.asked == []


async def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://bob:pass%40word@127.0.0.1:{port}")
        async with AsyncXalora(KEY, "https://sequencer.invalid", max_retries=0) as client:
            with pytest.raises(XaloraConnectionError, match="the proxy refused with HTTP 407") as caught:
                await client.execute_workflow(UpscalerTask(image_url="https://example.org/a.png"))
    assert "nothing was charged" in str(caught.value)
    assert "word" not in str(caught.value)
