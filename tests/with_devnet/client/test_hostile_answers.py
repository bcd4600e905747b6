"""Answers of a hostile sequencer: each is a typed error of that call alone, and none shows the key."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import traceback
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import PICTURE

from xalora_client import AmbiguousCreateError, AsyncXalora, ConfigurationError, Xalora, XaloraError

CANARY = "CANARYKEY0123456789"
KEY = f"consumer1#{CANARY}"
ESC = "\x1b]0;pwned\x07\x1b[31mEVIL\x9b31m\u202egnp.exe\r\nINFO forged log line\n"

Reply = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Hostile:
    """A sequencer whose raw answers come from a function of the endpoint."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._answering: set[asyncio.Task[None]] = set()
        self.asked: list[str] = []

    async def __aenter__(self) -> Hostile:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._answering.add(asyncio.ensure_future(self._answer(reader, writer)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(head.lower().partition("content-length:")[2].split()[0]))
            endpoint = head.split()[1].strip("/")
            self.asked.append(endpoint)
            await self._reply(endpoint, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


async def send(writer: asyncio.StreamWriter, body: bytes, status: int = 200, headers: str = "") -> None:
    writer.write(f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


def says(answer: Any, status: int = 200, *, only: str | None = None) -> Reply:
    """Answers one endpoint, or all, with this JSON; the others properly."""
    proper = {
        "task_create": {"task_id": "t-1"},
        "task_result_query": {"task_id": "t-1", "status": "running"},
        "task_cancel": {"task_id": "t-1", "msg": "ok"},
        "resource_request": {"miner_id": "m-1"},
    }

    async def reply(endpoint: str, writer: asyncio.StreamWriter) -> None:
        if only not in (None, endpoint):
            await send(writer, json.dumps(proper[endpoint]).encode())
        else:
            await send(writer, json.dumps(answer).encode(), status)

    return reply


async def floods(endpoint: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b'{"task_id": "' + b"A" * 65536
    while True:
        writer.write(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
        await writer.drain()


async def announces_much(endpoint: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
    while True:
        writer.write(b"A" * 65536)
        await writer.drain()


ANSWER = json.dumps({"task_id": "t-1", "status": "running", "miner_id": "m"}).encode()


async def compressed(endpoint: str, writer: asyncio.StreamWriter) -> None:
    await send(writer, gzip.compress(ANSWER)[2:], headers="Content-Encoding: br\r\n")


async def unpacks_to_much(endpoint: str, writer: asyncio.StreamWriter) -> None:
    body = gzip.compress(b'{"task_id": "t-1", "status": "' + bytes(16 * 2**20), 9)
    await send(writer, body, headers="Content-Encoding: gzip\r\n")


def comes_as(coding: str, body: bytes) -> Reply:
    async def reply(endpoint: str, writer: asyncio.StreamWriter) -> None:
        await send(writer, body, headers=f"Content-Encoding: {coding}\r\n")

    return reply


async def ends_early(endpoint: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + ANSWER)
    await writer.drain()


async def never_ends(endpoint: str, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(ANSWER) + ANSWER + b"\r\n"
    )
    await writer.drain()
    await asyncio.sleep(3600)


async def nested(endpoint: str, writer: asyncio.StreamWriter) -> None:
    await send(
        writer,
        b'{"task_id":"t-1","miner_id":"m","status":"finished","result":' + b"[" * 900 + b"]" * 900 + b"}",
    )


async def resets(endpoint: str, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def no_http(endpoint: str, writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 {CANARY} {CANARY}\r\n\r\n".encode())
    await writer.drain()


async def bad_head(endpoint: str, writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\n{CANARY}: {CANARY}\r\nContent-Length: {CANARY}\r\n\r\n".encode())
    await writer.drain()


async def never(endpoint: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def client(url: str, tmp_path: Path, **settings: Any) -> AsyncXalora:
    settings = {"max_retries": 0, "request_timeout": 5, "outage_limit": 0.1, **settings}
    return AsyncXalora(KEY, url, state_dir=tmp_path / "state", **settings)


CALLS: dict[str, Callable[[AsyncXalora], Awaitable[Any]]] = {
    "task_create": lambda client: client.execute_workflow(PICTURE),
    "task_result_query": lambda client: client.query_task_result("t-1"),
    "resource_request": lambda client: client.resource_request(task_type="upscaler"),
    "task_cancel": lambda client: client.cancel_task("t-1"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reply", [floods, announces_much, compressed, unpacks_to_much, nested])
async def test_an_answer_of_no_size_or_form_is_a_typed_error(reply: Reply, call: str, tmp_path: Path) -> None:
    async def answer(endpoint: str, writer: asyncio.StreamWriter) -> None:
        # A cancel that fails asks for the status.
        await (reply if endpoint == call else never if call == "task_cancel" else reply)(endpoint, writer)

    async with Hostile(answer) as network, client(network.url, tmp_path, request_timeout=1) as running:
        with pytest.raises(XaloraError) as caught:
            await CALLS[call](running)
    if call == "task_create":
        assert isinstance(caught.value, AmbiguousCreateError)
        assert network.asked == ["task_create"]
    assert len(str(caught.value)) < 1000


async def test_the_error_says_that_an_answer_is_too_large_or_compressed(tmp_path: Path) -> None:
    large = "larger than 4 MiB"
    replies = [(floods, large), (unpacks_to_much, large), (compressed, "came compressed")]
    for number, (reply, words) in enumerate(replies):
        async with Hostile(reply) as network, client(network.url, tmp_path / str(number)) as running:
            with pytest.raises(XaloraError, match=words):
                await running.query_task_result("t-1")


@pytest.mark.parametrize("call", ["task_create", "task_result_query", "resource_request"])
@pytest.mark.parametrize(
    "reply",
    [
        comes_as("gzip", gzip.compress(ANSWER)),
        comes_as("deflate", zlib.compress(ANSWER)),
        comes_as("gzip", ANSWER),
        comes_as("aws-chunked", ANSWER),
        ends_early,
        never_ends,
    ],
)
async def test_an_answer_whose_json_is_whole_is_read(reply: Reply, call: str, tmp_path: Path) -> None:
    # A create's names a task that is paid for.
    async with Hostile(reply) as network, client(network.url, tmp_path, request_timeout=1) as running:
        await CALLS[call](running)
    assert network.asked == [call]


@pytest.mark.parametrize(
    "task_id", ["a\nb", ESC, "\ud800", "i" * 1000, ["x"], {"a": 1}, True, f"task-{CANARY}", "a\x00b"]
)
async def test_a_create_answered_with_an_id_that_can_not_be_kept_may_be_charged(
    task_id: Any, tmp_path: Path
) -> None:
    async with (
        Hostile(says({"task_id": task_id, "error": "no"})) as network,
        client(network.url, tmp_path) as running,
    ):
        with pytest.raises(AmbiguousCreateError) as caught:
            await CALLS["task_create"](running)
    assert CANARY not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "answer",
    [
        {"status": ESC},
        {"status": "z" * 100_000},
        {"status": {"a": [ESC] * 100}},
        {"status": "failed", "result": {"message": ESC * 1000}},
        {"status": "failed", "msg": ESC},
        {"status": "running", "miner_id": ESC, "msg": ESC},
        {"status": "canceled", "msg": ESC},
    ],
)
async def test_texts_of_a_status_are_clean(answer: dict[str, Any], tmp_path: Path) -> None:
    async with (
        Hostile(says({"task_id": "t-1", **answer})) as network,
        client(network.url, tmp_path) as running,
    ):
        said = await running.query_task_result("t-1")
    for text in (said.status, said.miner or "", said.message, json.dumps(said.result, ensure_ascii=False)):
        assert text.isprintable() and len(text) <= 2100
    assert len(said.status) <= 64


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 500, 503])
async def test_messages_of_refusals_are_clean(
    status: int, call: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "xalora_client")
    reply = says({"message": ESC + CANARY, "error": {"message": ESC}}, status)
    async with Hostile(reply) as network, client(network.url, tmp_path) as running:
        with pytest.raises(XaloraError) as caught:
            await CALLS[call](running)
    for text in (str(caught.value), *(record.getMessage() for record in caplog.records)):
        assert text.isprintable() and CANARY not in text


# --- the key ----------------------------------------------------------------------------------------------


def shown_with_locals(error: BaseException | None) -> str:
    """What an error reporter sends: all frames of the package with their local variables, causes included."""
    seen: list[str] = []
    while error is not None:
        frames = [
            each
            for each in traceback.walk_tb(error.__traceback__)
            if "/tests/" not in each[0].f_code.co_filename
        ]
        seen += traceback.StackSummary.extract(iter(frames), capture_locals=True).format()
        seen.append(repr(error) + str(error) + repr(vars(error)))
        error = error.__cause__ or error.__context__
    return "\n".join(seen)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reply", [resets, no_http, bad_head, never, floods, compressed, nested])
async def test_no_local_variable_of_a_traceback_shows_the_key(
    reply: Reply, call: str, tmp_path: Path
) -> None:
    async with Hostile(reply) as network, client(network.url, tmp_path, request_timeout=0.5) as running:
        with pytest.raises(XaloraError) as caught:
            await CALLS[call](running)
    assert CANARY not in shown_with_locals(caught.value)


async def test_no_local_variable_shows_the_key_where_nobody_listens(tmp_path: Path, free_port: int) -> None:
    for call in CALLS.values():
        async with client(f"http://127.0.0.1:{free_port}", tmp_path) as running:
            with pytest.raises(XaloraError) as caught:
                await call(running)
        assert CANARY not in shown_with_locals(caught.value)


@pytest.fixture
def free_port() -> Any:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("kind", [AsyncXalora, Xalora])
def test_no_local_variable_shows_the_key_where_a_setting_is_wrong(
    kind: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how in ("argument", "environment", "file", "malformed"):
        given = {"max_retries": -1, "store_secret_access_key": CANARY}
        if how == "argument":
            given["api_key"] = KEY
        elif how == "malformed":
            given = {"api_key": CANARY}
        elif how == "environment":
            monkeypatch.setenv("XALORA_API_KEY", KEY)
        else:
            monkeypatch.delenv("XALORA_API_KEY")
            (tmp_path / ".env").write_text(f"XALORA_API_KEY={KEY}\n")
        with pytest.raises(ConfigurationError) as caught:
            kind(**given)
        assert CANARY not in shown_with_locals(caught.value), how


RESULTS = [
    f"folder/{CANARY}.png",
    {"foo": CANARY},
    f"http://{CANARY}.invalid/x.png",
    f"http://127.0.0.1:1/{CANARY}.png?sig={CANARY}",
    {"message": f"bad key {CANARY}"},
]


@pytest.mark.parametrize("status", ["finished", "failed", f"thinking {CANARY}"])
@pytest.mark.parametrize("result", RESULTS)
async def test_a_network_that_repeats_the_key_gets_it_nowhere(
    result: Any,
    status: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("xalora_client.jobs.fetching.NOT_FOUND_PAUSES", (0.01,))
    answer = {"task_id": "t-1", "status": status, "result": result, "msg": CANARY, "miner_id": CANARY}
    reply = says(answer, only="task_result_query")
    async with Hostile(reply) as network, client(network.url, tmp_path) as running:
        with pytest.raises(XaloraError) as caught:
            await running.run(PICTURE, timeout=3)
    assert CANARY not in shown_with_locals(caught.value)
    assert CANARY not in caplog.text
    for file in tmp_path.rglob("*"):
        assert CANARY.lower() not in file.name.lower()
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_of_the_endpoints_are_not_followed(status: int, call: str, tmp_path: Path) -> None:
    async def elsewhere(endpoint: str, writer: asyncio.StreamWriter) -> None:
        await send(writer, b"{}", status, headers=f"Location: {other.url}/{endpoint}\r\n")

    async with Hostile(says({"task_id": "t-1"})) as other, Hostile(elsewhere) as network:
        async with client(network.url, tmp_path) as running:
            with pytest.raises(XaloraError):
                await CALLS[call](running)
        assert network.asked and not other.asked


async def test_a_key_is_not_sent_in_the_open(tmp_path: Path) -> None:
    async with client("http://seq.invalid:8000", tmp_path) as running:
        for call in CALLS.values():
            with pytest.raises(ConfigurationError, match="XALORA_ALLOW_HTTP"):
                await call(running)
    async with client("http://seq.invalid:8000", tmp_path, allow_http="seq.invalid") as running:
        with pytest.raises(XaloraError, match="no address is known"):
            await running.query_task_result("t-1")


async def test_a_page_that_quotes_the_key_in_place_of_a_result_is_told_without_it(tmp_path: Path) -> None:
    async def reply(endpoint: str, writer: asyncio.StreamWriter) -> None:
        if endpoint == "task_result_query":
            answer = {"task_id": "t-1", "status": "finished", "result": f"{pages.url}/a.png"}
            await send(writer, json.dumps(answer).encode())
        else:
            await send(writer, json.dumps({"task_id": "t-1"}).encode())

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await send(writer, f"the key is {CANARY} and more".encode(), headers="Connection: close\r\n")
        writer.close()
        await writer.wait_closed()

    class Pages(Hostile):
        _answer = staticmethod(page)

    async with (
        Pages(reply) as pages,
        Hostile(reply) as network,
        client(network.url, tmp_path, result_hosts="127.0.0.1") as running,
    ):
        with pytest.raises(XaloraError, match="something else came in its place") as caught:
            await running.run(PICTURE, timeout=20)
    assert CANARY not in str(caught.value)
    assert CANARY not in shown_with_locals(caught.value)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (json.dumps(json.dumps({"task_id": "t-1"})), ""),
        ('{"task_id": "t-1", "msg": "two\nlines"}', ""),
        ('{"task_id": "t-1"}', "".join(f"X-Front-{number}: 1\r\n" for number in range(300))),
    ],
    ids=["JSON in a string", "line breaks in a text", "300 headers"],
)
async def test_the_id_in_an_odd_answer_is_not_lost(body: str, headers: str, tmp_path: Path) -> None:
    async def oddly(endpoint: str, writer: asyncio.StreamWriter) -> None:
        await send(writer, body.encode(), headers=headers)

    async with Hostile(oddly) as network, client(network.url, tmp_path) as running:
        assert await running.execute_workflow(PICTURE) == "t-1"
