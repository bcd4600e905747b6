"""What a user reads when the sequencer can't be reached: words, not a library's internals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from xalora_client import AsyncXalora, XaloraConnectionError

KEY = "alice#s3cret"
INTERNALS = ("ssl:default", "Errno", "[", "None", "\n", "s3cret", "hush")

BROKEN_OFF = b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"task_id"'

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def saying(reply: bytes) -> Handler:
    """Reads a request's head, says this, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    return answer


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client has had enough
    writer.close()


async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    writer.close()


@pytest.fixture
async def free_port() -> AsyncIterator[int]:
    """A port that is taken but where nobody listens, so that nothing can answer there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def message(url: str, *, request_timeout: float = 10) -> str:
    options = {"max_retries": 0, "request_timeout": request_timeout, "allow_http": "sequencer.invalid"}
    async with AsyncXalora(KEY, url, **options) as client:
        with pytest.raises(XaloraConnectionError) as caught:
            await client.query_task_result("t-1")
    text = str(caught.value)
    assert not any(part in text for part in INTERNALS), text
    return text


@pytest.mark.parametrize(
    ("handler", "scheme", "cause"),
    [
        (saying(b""), "http", "can't be reached: the connection was closed before an answer came"),
        (
            saying(b"220 mail.example.org\r\n\r\n"),
            "http",
            "can't be reached: what came back is not an HTTP answer (Bad status line)",
        ),
        (
            saying(
                b"HTTP/1.1 200 OK\r\nContent-Security-Policy: hush.example" + b"x" * 70_000 + b"\r\n\r\n{}"
            ),
            "http",
            "can't be reached: what came back is not an HTTP answer (Got more than 65536 bytes when reading)",
        ),
        (saying(BROKEN_OFF), "http", "can't be reached: the answer broke off"),
        (speak_plainly, "https", " does not speak TLS as https:// needs it (wrong version number)"),
    ],
)
async def test_a_server_that_misbehaves_is_told_in_words(handler: Handler, scheme: str, cause: str) -> None:
    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert cause in await message(f"{scheme}://127.0.0.1:{port}")


async def test_silence_ends_with_the_time_for_a_request() -> None:
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = await message(f"http://127.0.0.1:{port}", request_timeout=0.2)
    assert "can't be reached: no answer came in time" in text


async def test_a_port_without_a_server_is_named(free_port: int) -> None:
    assert f"127.0.0.1:{free_port} does not answer (connection refused)" in await message(
        f"http://127.0.0.1:{free_port}"
    )


async def test_a_name_without_an_address_is_named() -> None:
    text = await message("http://sequencer.invalid")
    assert "no address is known for the name sequencer.invalid, or this machine is offline" in text


async def test_a_proxy_without_a_server_is_named(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", f"http://bob:s3cret@127.0.0.1:{free_port}")
    text = await message("http://sequencer.invalid")
    assert f"the proxy 127.0.0.1:{free_port} does not answer (connection refused)" in text
