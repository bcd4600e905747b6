"""Requests to the sequencer go through the proxy that the environment names, and not where it says not to."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xalora_client import (
    AsyncXalora,
    ConfigurationError,
    ResultDownloadError,
    UpscalerTask,
    XaloraConnectionError,
)
from xalora_client.devnet import Devnet
from xalora_client.network.allowed_addresses import Destinations
from xalora_client.network.result_session import ResultSession
from xalora_client.transfer.download import download

KEY = "alice#s3cret"
# No such host can be reached but through the proxy.
SEQUENCER = "http://sequencer.invalid:8080"


@pytest.fixture(autouse=True)
def plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    # The proxy of these tests reads what it is asked.
    monkeypatch.setenv("XALORA_ALLOW_HTTP", "sequencer.invalid")


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


@pytest.mark.parametrize("scheme", ["http://bob:word@", "bob:word@"])
async def test_the_proxy_of_the_settings_wins_and_its_password_is_hidden(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", ".invalid")
    async with proxy() as running:
        given = running.url.replace("http://", scheme)
        async with AsyncXalora(KEY, SEQUENCER, proxy=given) as client:
            assert await client.execute_workflow(UpscalerTask(image_url="https://example.org/a.png")) == "t-1"
            assert "word" not in repr(client.settings)
    assert running.asked == [f"POST {SEQUENCER}/task_create HTTP/1.1"]
    assert running.credentials == ["Basic " + base64.b64encode(b"bob:word").decode()]
    with pytest.raises(ConfigurationError, match="XALORA_PROXY") as caught:
        AsyncXalora(KEY, SEQUENCER, proxy="socks5://bob:word@h:1")
    assert "word" not in str(caught.value)


async def test_servers_of_this_machine_are_asked_without_the_proxy_of_the_settings() -> None:
    async with (
        Devnet(miners=1) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, proxy="http://127.0.0.1:9") as client,
    ):
        picture = np.zeros((8, 8, 3), np.uint8)
        assert (await client.run(UpscalerTask(picture), fallback="never")).files


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


async def test_a_proxy_may_be_named_without_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as running:
        monkeypatch.setenv("http_proxy", running.url.removeprefix("http://"))
        async with AsyncXalora(KEY, SEQUENCER) as client:
            assert await client.execute_workflow(UpscalerTask(image_url="https://example.org/a.png")) == "t-1"
    assert running.asked == [f"POST {SEQUENCER}/task_create HTTP/1.1"]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("socks5://bob:word@127.0.0.1:1080", "the proxy socks5://127.0.0.1:1080, and only HTTP proxies"),
        ("http://bob:word@127.0.0.1:99999", "a proxy with an invalid address"),
        ("http://", "a proxy with an invalid address"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_a_mistake_in_the_settings_and_no_outage(
    named: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", named)
    task = UpscalerTask(image=np.zeros((8, 8, 3), np.uint8))
    async with AsyncXalora(KEY, SEQUENCER) as client:
        with pytest.raises(ConfigurationError) as caught:
            await client.run(task, fallback="on_any_failure")
        with pytest.raises(ConfigurationError, match="the task itself is not affected") as asked:
            await client.query_task_result("t-1")
    assert "HTTP_PROXY, or the system's settings, name " + words in str(caught.value)
    assert "nothing was charged" in str(caught.value)
    assert "(task t-1)" in str(asked.value)
    assert "word" not in f"{caught.value} {asked.value}"


@pytest.fixture
async def session() -> AsyncIterator[ResultSession]:
    async with ResultSession(Destinations()) as running:
        yield running


async def test_downloads_take_the_proxy(
    tmp_path: Path, session: ResultSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")

    async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
        body = picture.getvalue()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(give, "127.0.0.1", 0) as server:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        file = await download(session, "http://store.invalid/a.png", tmp_path / "a", task_id="t-1")
    assert file.read_bytes() == picture.getvalue()
    assert asked == ["GET http://store.invalid/a.png HTTP/1.1"]


async def test_a_download_that_the_proxy_keeps_away_stays_retrievable(
    tmp_path: Path, session: ResultSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ResultDownloadError, match="only HTTP proxies") as caught:
        await download(session, "http://store.invalid/a.png", tmp_path / "a", task_id="t-1")
    assert "retrievable" in str(caught.value)
