"""Whatever a finished task's result is, the call ends in its images or in a XaloraError of that task."""

from __future__ import annotations

import asyncio
import base64
import socket
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from scripted import KEY, PICTURE, Answer, ScriptedSequencer

from xalora_client import AsyncXalora, ResultError, XaloraError
from xalora_client.transfer.download import download

CORPUS = sorted((Path(__file__).parents[2] / "fuzz_corpus").iterdir(), key=lambda path: path.name)

_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["\x1b[31mred", "a\nb", "../../x", "key.png", "\0", "\ud800", "x" * 5000, "data:,"]),
)
_HOSTS = [
    "127.0.0.1:1",
    "[::1",
    "[v1.x]",
    "xn--",
    "xn--é",
    "ß",
    ".",
    "..",
    "a..b",
    "@",
    ":@",
    "127.0.0.1:x",
    "127.0.0.1:-1",
    "127.0.0.1:99999",
    "%31",
    "%00",
    "a_b",
    "\u2024",
    "user:pw@127.0.0.1:1",
    "\\",
    "*",
    "[fe80::1%lo]",
]
_URLS = st.builds(
    lambda *parts: "".join(parts),
    st.sampled_from(["http://", "https://", "HTTP://", "data:", "//", "", "ftp://", "file://"]),
    st.sampled_from([*_HOSTS, "", "a" * 64, "a." * 200, "\x00", "\n", "\ud800"]),
    st.sampled_from(["", "/", "/x", "?", "#", "/%zz", "/\ud800", "/\x00", "/a b", ";", "/" + "a" * 3000]),
)


def _data_uri(media: str, content: Path | bytes, cut: int) -> str:
    data = content.read_bytes() if isinstance(content, Path) else content
    return f"data:{media};base64,{base64.b64encode(data[: len(data) - cut]).decode()}"


_DATA = st.builds(
    _data_uri,
    st.sampled_from(["image/png", "video/mp4", "text/html", "x" * 300, ""]),
    st.one_of(st.sampled_from(CORPUS), st.binary(max_size=64)),
    st.sampled_from([0, 0, 1, 40]),
)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _TEXT, _URLS, _URLS, _DATA, _DATA
)
RESULTS = st.recursive(
    _LEAVES,
    lambda child: st.one_of(
        st.lists(child, max_size=3),
        st.dictionaries(st.sampled_from(["url", "images", "video", "key", "result"]), child, max_size=2),
    ),
    max_leaves=5,
)


class _Finished:
    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            return Answer(200, {"task_id": "t-1"})
        return Answer(200, {"task_id": "t-1", "status": "finished", "result": self.result})


async def _images_of(result: Any, folder: str) -> None:
    async with (
        ScriptedSequencer(_Finished(result)) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=folder) as client,
    ):
        try:
            done = await client.run(PICTURE, fallback="never", timeout=15.0)
            assert done.images.ndim == 4
        except XaloraError as error:
            assert str(error)
            assert "\x1b" not in str(error)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries, and no name is looked up outside."""
    monkeypatch.setattr("xalora_client.jobs.fetching.NOT_FOUND_PAUSES", ())
    monkeypatch.setattr("xalora_client.jobs.fetching.NO_RESULT_PAUSES", ())
    monkeypatch.setitem(download.__kwdefaults__, "attempts", 1)
    real = socket.getaddrinfo

    def only_here(host: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(host, str):
            host.encode("idna")  # as the real one does
        if host not in {"127.0.0.1", b"127.0.0.1", "::1", "localhost"}:
            raise socket.gaierror("not here")
        return real(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)


@pytest.mark.usefixtures("quick")
@settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(RESULTS)
def test_any_result_ends_in_images_or_in_a_typed_error(result: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_images_of(result, folder))


async def test_a_header_that_can_not_be_sent_back_is_an_error_of_that_task() -> None:
    """A validator with control characters goes into the next request, where it raises ValueError."""

    async def store(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b'HTTP/1.1 200 OK\r\nETag: "a\xff\x01\x1b[31m"\r\nContent-Length: 1000000\r\n\r\n'
        writer.write(head + b"\x89PNG\r\n\x1a\n" + b"\0" * 70_000)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(store, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
    async with (
        server,
        ScriptedSequencer(_Finished(url)) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(ResultError, match="t-1"):
            await client.run(PICTURE, fallback="never")
