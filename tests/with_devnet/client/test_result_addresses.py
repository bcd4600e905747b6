"""Results that lead into the user's own network: no connection is made, and each error is the same."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import KEY, PICTURE, Answer, ScriptedSequencer

from xalora_client import AsyncXalora, ResultLocationError, RunResult
from xalora_client.network import allowed_addresses


class Listener:
    """A service of the user's machine that notes what reaches it."""

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: str = "200 OK",
        headers: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.heard: list[bytes] = []
        self.body, self.status, self.headers = body, status, headers
        self.host, self.port = host, port
        self.url = ""

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._answer, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.readuntil(b"\r\n\r\n"))
        head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n"
        writer.write(head.encode() + self.headers.encode() + b"\r\n" + self.body)
        await writer.drain()
        writer.close()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener(picture()) as running:
        yield running


async def fetched(result: Any, tmp_path: Path, **settings: Any) -> RunResult:
    def answer(endpoint: str, body: dict[str, Any]) -> Answer:
        if endpoint == "task_create":
            return Answer(body={"task_id": "t-1"})
        return Answer(body={"task_id": "t-1", "status": "finished", "result": result})

    async with (
        ScriptedSequencer(answer) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path / "state", **settings) as client,
    ):
        return await client.run(PICTURE, timeout=30)


HOSTS = ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0", "me:pw@127.0.0.1"]


@pytest.mark.parametrize("host", HOSTS)
async def test_another_port_of_the_sequencers_machine_is_not_asked(
    host: str, listener: Listener, tmp_path: Path
) -> None:
    with pytest.raises(ResultLocationError, match="XALORA_RESULT_HOSTS"):
        await fetched(f"http://{host}:{listener.port}/a.png", tmp_path)
    assert listener.heard == []


async def test_a_refusal_does_not_tell_whether_somebody_answers(listener: Listener, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    told = []
    for port in (listener.port, closed):
        with pytest.raises(ResultLocationError) as caught:
            await fetched(f"http://127.0.0.1:{port}/a.png", tmp_path / str(port))
        told.append(caught.value.what)
    assert told[0] == told[1]
    assert listener.heard == []


async def test_a_name_is_judged_by_what_it_resolves_to(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved(monkeypatch, ["127.0.0.1"])
    with pytest.raises(ResultLocationError, match="private network"):
        await fetched(f"http://store.example:{listener.port}/a.png", tmp_path)
    assert listener.heard == []


async def test_what_was_checked_is_what_is_connected_to(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two addresses of this machine; the first one passes for public.
    monkeypatch.setattr(allowed_addresses, "is_public", lambda address: str(address) == "127.0.0.2")
    resolved(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    async with Listener(picture(), host="127.0.0.2", port=listener.port) as public:
        await fetched(f"http://store.example:{listener.port}/a.png", tmp_path)
    assert (len(public.heard), listener.heard) == (1, [])


def resolved(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    """Have the name store.example resolve to each address in turn, the last one from then on."""
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "store.example":
            host = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


async def test_each_hop_of_a_redirect_is_checked(listener: Listener, tmp_path: Path) -> None:
    headers = f"Location: http://127.0.0.1:{listener.port}/private.png\r\n"
    async with Listener(status="302 Found", headers=headers) as redirecting:
        listed = f"127.0.0.1:{redirecting.port}"
        with pytest.raises(ResultLocationError) as caught:
            await fetched(f"{redirecting.url}/a.png", tmp_path, result_hosts=listed)
    assert len(redirecting.heard) == 1
    assert listener.heard == []
    assert str(listener.port) not in str(caught.value)


async def test_a_listed_host_is_asked_without_the_login_of_the_url(
    listener: Listener, tmp_path: Path
) -> None:
    url = f"http://me:pw@127.0.0.1:{listener.port}/a.png"
    assert len((await fetched(url, tmp_path, result_hosts="127.0.0.1")).files) == 1
    assert b"authorization" not in listener.heard[0].lower()


async def test_the_base_of_results_is_asked_with_the_login_that_the_user_gave(
    listener: Listener, tmp_path: Path
) -> None:
    base = f"http://me:pw@127.0.0.1:{listener.port}/mine"
    assert len((await fetched("a.png", tmp_path, result_base_url=base)).files) == 1
    assert listener.heard[0].startswith(b"GET /mine/a.png HTTP/1.1\r\n")
    assert b"authorization: basic" in listener.heard[0].lower()


BAD = [
    *("http://[::1/a.png", "http://" + "a" * 70 + "/a.png", "http://a..b/", "http://127.0.0.1:1/a.png"),
    *("file:///etc/passwd", "ftp://store.example/a.png", "../../secret"),
]


@pytest.mark.parametrize("bad", BAD)
async def test_of_several_addresses_a_bad_one_costs_itself(
    bad: str, listener: Listener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ResultLocationError):
        await fetched(bad, tmp_path / "alone")
    listed = f"127.0.0.1:{listener.port}"
    result = await fetched([bad, f"{listener.url}/a.png"], tmp_path, result_hosts=listed)
    assert [file.read_bytes() for file in result.files] == [picture()]
    assert "Its other files are kept" in caplog.text
