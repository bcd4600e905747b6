"""Large requests on slow lines: sending may take its time, and only a line that stands still ends it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing

import numpy as np
import pytest

from xalora_client import (
    AmbiguousCreateError,
    AsyncXalora,
    ServiceError,
    UpscalerTask,
    XaloraConnectionError,
)
from xalora_client.journal import TaskState
from xalora_client.media.inputs import PreparedImage
from xalora_client.network.transport import OVERSLEPT_SECONDS, InlineImage
from xalora_client.transfer.upload import DeliveredImage

KEY = "alice#s3cret"
MEGABYTE = 1024**2
LARGE = b"\x00" * (9 * MEGABYTE)  # 12 MB in the request, more than the sockets' buffers take unread
PATIENCE = 0.4
PICTURE = UpscalerTask(image=np.zeros((8, 8, 3), np.uint8))

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class LargeImages:
    """Makes any image a large one."""

    async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
        return DeliveredImage(InlineImage("image/png", LARGE))


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """A server with a small buffer, as a slow line has."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    listening.bind(("127.0.0.1", 0))

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await handler(reader, writer)

    async with await asyncio.start_server(handled, sock=listening):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def client_of(url: str, patience: float = PATIENCE) -> AsyncXalora:
    return AsyncXalora(KEY, url, delivery=LargeImages(), request_timeout=patience, max_retries=0)


async def length_of_body(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    return int(head.partition("content-length: ")[2].partition("\r\n")[0])


async def test_a_large_request_may_take_longer_than_one_request_may() -> None:
    loop = asyncio.get_running_loop()
    took: list[float] = []
    # What the sockets hold is read in half of this; the other half is for a busy machine.
    patience = 5 * PATIENCE

    async def read_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = await length_of_body(reader)
        began = loop.time()
        while length:
            piece = min(length, MEGABYTE)
            await reader.readexactly(piece)
            length -= piece
            await asyncio.sleep(patience / 8)
        took.append(loop.time() - began)
        body = json.dumps({"task_id": "t-1"}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    async with served(read_slowly) as url, client_of(url, patience) as client:
        assert await client.execute_workflow(PICTURE) == "t-1"
    assert len(took) == 1
    assert took[0] > patience


async def test_a_line_that_stands_still_delivers_nothing() -> None:
    given_up, counted = asyncio.Event(), asyncio.Event()
    arrived: list[int] = []

    async def read_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = await length_of_body(reader)
        half = await reader.readexactly(length // 2)
        await given_up.wait()
        rest = await reader.read(-1)
        arrived.extend((len(half) + len(rest), length))
        counted.set()

    async with served(read_half) as url, client_of(url) as client:
        with pytest.raises(XaloraConnectionError) as caught:
            await client.execute_workflow(PICTURE)
        assert not isinstance(caught.value, AmbiguousCreateError)
        assert "the connection stalled while the request was being sent" in str(caught.value)
        assert "nothing was charged" in str(caught.value)
        given_up.set()
        await asyncio.wait_for(counted.wait(), 20)
    assert arrived[0] < arrived[1], "a whole request arrived: the task may exist"


async def test_a_request_that_has_arrived_whole_has_the_time_for_an_answer_and_no_more() -> None:
    async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(await length_of_body(reader))
        await reader.read()

    async with served(read_all) as url, client_of(url) as client:
        with pytest.raises(AmbiguousCreateError, match="no answer came in time"):
            await client.execute_workflow(PICTURE)


async def test_an_answer_that_came_while_the_process_stood_still_is_read() -> None:
    loop = asyncio.get_running_loop()
    stands, answered = threading.Event(), threading.Event()

    def stand_still() -> None:
        stands.set()
        answered.wait(20)
        time.sleep(PATIENCE + OVERSLEPT_SECONDS)  # past the time for an answer

    def answer_meanwhile() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rwb") as stream:
            length = 0
            while (line := stream.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            stream.read(length)
            loop.call_soon_threadsafe(stand_still)
            stands.wait(20)
            body = json.dumps({"task_id": "t-1", "msg": " " * MEGABYTE}).encode()  # not read at once
            stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            stream.flush()
            answered.set()
            stream.write(body)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=answer_meanwhile)
        server.start()
        async with client_of(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            assert await client.execute_workflow(PICTURE) == "t-1"
        server.join()


async def test_an_error_that_comes_before_the_whole_request_has_left_is_no_unknown_outcome() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await length_of_body(reader)
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\nsorry")
        await writer.drain()
        await told.wait()
        closed.set()

    told, closed = asyncio.Event(), asyncio.Event()
    async with served(refuse) as url, client_of(url) as client:
        with pytest.raises(ServiceError, match="sorry") as caught:
            await client.execute_workflow(PICTURE)
        (record,) = client.journal.records()
        told.set()
        await asyncio.wait_for(closed.wait(), 20)
    assert "nothing was charged" in str(caught.value)
    assert record.state is TaskState.NOT_SENT
