"""Results over real connections that break, stall, lie and change: whole on disk, or a readable error."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from xalora_client.errors import (
    STILL_RETRIEVABLE,
    ResultDownloadError,
    ResultExpiredError,
    ResultFormatError,
    ResultLocationError,
)
from xalora_client.media.images import decode_image
from xalora_client.media.png_encode import encode_png
from xalora_client.media.result_files import decode_files, open_as_video
from xalora_client.media.video import open_video
from xalora_client.network.allowed_addresses import Destinations
from xalora_client.network.result_session import ResultSession
from xalora_client.transfer.download import download
from xalora_client.transfer.part_file import PartFile

TASK = "task-17"
PIXELS = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
PNG = encode_png(PIXELS)
OTHER_PNG = encode_png(PIXELS[::-1])


@dataclass
class Asked:
    """A request as the server saw it."""

    range: str | None
    if_range: str | None
    headers: dict[str, str]


@dataclass
class Storage:
    """A file server that misbehaves on demand."""

    content: bytes = PNG
    etag: str | None = '"v1"'
    last_modified: str | None = None
    ranges: bool = True
    later_status: int | None = None  # of requests that continue
    if_range: bool = True
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    drops: list[int] = field(default_factory=list)
    """For each answer in turn, after how many bytes of its body the connection breaks; then none do."""
    resets: bool = False
    """Break connections by a reset, which loses what is still on its way."""
    stalls: int = 0
    announced: int | None = None
    chunked: bool = False
    content_type: str = "application/octet-stream"
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    halfway: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(
            Asked(request.headers.get("Range"), request.headers.get("If-Range"), dict(request.headers))
        )
        if self.statuses:
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.Response(status=self.statuses.pop(0), headers=headers, text="not now")
        if self.later_status is not None and "Range" in request.headers:
            return web.Response(status=self.later_status)
        response = web.StreamResponse(headers={"Content-Type": self.content_type})
        if self.etag:
            response.headers["ETag"] = self.etag
        if self.last_modified:
            response.headers["Last-Modified"] = self.last_modified
        body = self.content
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        condition = request.headers.get("If-Range")
        if (
            wanted
            and self.ranges
            and (condition in {None, self.etag, self.last_modified} or not self.if_range)
        ):
            start = int(wanted[1])
            if start >= len(body):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        if not self.chunked:
            response.headers["Content-Length"] = str(len(body) if self.announced is None else self.announced)
        await response.prepare(request)
        if self.stalls:
            self.stalls -= 1
            await response.write(body[: len(body) // 2])
            self.halfway.set()
            await asyncio.sleep(3600)
        if self.drops:
            await response.write(body[: self.drops.pop(0)])
            assert request.transport is not None
            if self.resets:
                request.transport.abort()
            else:
                request.transport.close()
            return response
        if self.announced is not None and self.announced < len(body):
            body = body[: self.announced]
        await response.write(body)
        if self.announced is not None and self.announced > len(body):
            assert request.transport is not None
            request.transport.close()
        return response


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    storage = Storage()
    app = web.Application()
    app.router.add_get("/{name:.*}", storage.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    storage.url = f"http://127.0.0.1:{runner.addresses[0][1]}/results/name-says.txt?X-Amz-Signature=hush"
    yield storage
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[ResultSession]:
    async with ResultSession(Destinations(hosts=frozenset({"127.0.0.1", "localhost"}))) as session:
        yield session


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    return tmp_path / "results" / "sdk-workflow-0a1b2c.v2"


def left_in(stem: Path) -> list[str]:
    return sorted(path.name for path in stem.parent.iterdir())


# --- the plain road ---------------------------------------------------------------------------------------


async def test_a_result_is_named_by_content(storage: Storage, session: ResultSession, stem: Path) -> None:
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path == stem.with_name(f"{stem.name}.png")
    assert path.read_bytes() == PNG
    assert left_in(stem) == [path.name]
    assert storage.asked[0].range is None


@pytest.mark.parametrize(
    "target", ["/b%2Fo.png?Signature=a%2Fb%2Bc%3D%3D", "/it%27s%20%28me%29.png?s=%7e%3A"]
)
@pytest.mark.parametrize("hops", [0, 1, 10, 11])
async def test_a_signed_address_goes_out_as_it_came_after_redirects_too(
    session: ResultSession, stem: Path, target: str, hops: int
) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        if len(asked) <= hops:
            place = target if len(asked) == hops else f"/hop{len(asked)}?s=%7E"
            status = (301, 302, 303, 307, 308)[len(asked) % 5]
            return web.Response(status=status, headers={"Location": place})
        return web.Response(body=PNG) if request.raw_path == target else web.Response(status=403)

    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    async with TestServer(app) as server:
        start = target if not hops else "/start?s=%7E"
        got = download(session, str(server.make_url("")).rstrip("/") + start, stem, task_id=TASK)
        if hops > 10:
            with pytest.raises(ResultDownloadError, match="redirects more than 10 times"):
                await got
            return
        assert (await got).read_bytes() == PNG
    assert (asked[0], asked[-1], len(asked)) == (start, target, hops + 1)


@pytest.mark.parametrize("location", ["ftp://h/a.png", "http://[::1/a.png", "http:///x"])
async def test_a_redirect_to_no_address_is_told_without_what_it_holds(
    session: ResultSession, stem: Path, location: str
) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    async with TestServer(app) as server:
        with pytest.raises(ResultLocationError, match="is no valid address") as caught:
            await download(session, str(server.make_url("/a.png?sig=hush")), stem, task_id=TASK)
    assert "hush" not in str(caught.value) and location not in str(caught.value)


@pytest.mark.parametrize("place", ["http://localhost:9", "https://localhost:9", "http://hush.invalid"])
async def test_the_address_behind_a_redirect_is_in_no_message(
    session: ResultSession, stem: Path, place: str
) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"{place}/hush.png?sig=hush"})

    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    async with TestServer(app) as server:
        with pytest.raises(ResultDownloadError, match="the server that it redirects to") as caught:
            await download(session, str(server.make_url("/a.png")), stem, task_id=TASK, attempts=1)
    assert "hush" not in str(caught.value) and "localhost" not in str(caught.value)


@pytest.mark.parametrize("part", [len(PNG), 100_000])
async def test_a_206_without_a_range_asked_for_and_a_203_hold_the_file(
    session: ResultSession, stem: Path, part: int
) -> None:
    asked: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(wanted := request.headers.get("Range"))
        if request.path == "/transformed":
            return web.Response(status=203, body=PNG)
        start = int(wanted[6:-1]) if wanted else 0
        body = PNG[start : start + part]
        content_range = f"bytes {start}-{start + len(body) - 1}/{len(PNG)}"
        return web.Response(status=206, body=body, headers={"Content-Range": content_range})

    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    async with TestServer(app) as server:
        path = await download(session, str(server.make_url("/a.png")), stem, task_id=TASK)
        assert path.read_bytes() == PNG
        assert len(asked) == -(-len(PNG) // part)
        other = stem.with_name("other")
        assert (await download(session, str(server.make_url("/transformed")), other)).read_bytes() == PNG


def still(format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format_name, **options)
    return buffer.getvalue()


def animation(format_name: str) -> bytes:
    frames = [Image.fromarray(np.roll(PIXELS[:64, :64], place)) for place in range(4)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format_name, save_all=True, append_images=frames[1:], duration=40)
    return buffer.getvalue()


def video(format_name: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format_name) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for place in range(12):
            pixels = np.ascontiguousarray(PIXELS[place : place + 64, :64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


KINDS = {
    "jpg": still("JPEG", quality=98),
    "webp": still("WEBP"),
    "animated webp": animation("WEBP"),
    "gif": animation("GIF"),
    "mp4": video("mp4", "libx264"),
    "webm": video("webm", "libvpx-vp9"),
}


@pytest.mark.parametrize("name", KINDS)
async def test_every_kind_arrives_and_half_of_it_never_does(
    name: str, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.content = KINDS[name]
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.name == f"{stem.name}.{name.rsplit(maxsplit=1)[-1]}"
    assert path.read_bytes() == KINDS[name]
    storage.content = KINDS[name][: len(KINDS[name]) // 2]
    with pytest.raises(ResultFormatError, match=TASK) as caught:
        await download(session, storage.url, stem.with_name("half"), task_id=TASK)
    assert caught.value.task_id == TASK
    assert caught.value.money == STILL_RETRIEVABLE
    assert left_in(stem) == [path.name]


async def test_progress_counts_every_byte_up_to_the_total(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    await download(session, storage.url, stem, on_progress=lambda *progress: seen.append(progress))
    assert seen == sorted(seen)
    assert seen[-1] == (len(PNG), len(PNG))
    assert {total for _, total in seen} == {len(PNG)}


async def test_a_body_of_unknown_length_is_taken(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.chunked = True
    seen: list[int | None] = []
    path = await download(session, storage.url, stem, on_progress=lambda _, total: seen.append(total))
    assert path.read_bytes() == PNG
    assert set(seen) == {None}


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        "data:;charset=utf-8;BASE64," + base64.b64encode(PNG).decode().replace("+", "%2B"),
    ],
)
async def test_data_uris_arrive_like_files(uri: str, session: ResultSession, stem: Path) -> None:
    path = await download(session, uri, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert left_in(stem) == [path.name]


@pytest.mark.parametrize("uri", ["data:image/png", "data:image/png;base64,@@@", "data:,hello"])
async def test_broken_data_uris_are_refused(uri: str, session: ResultSession, stem: Path) -> None:
    with pytest.raises(ResultFormatError):
        await download(session, uri, stem, task_id=TASK)
    assert left_in(stem) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.com/a.png", "upscaled-image.png", "http://"]
)
async def test_other_schemes_are_refused(url: str, session: ResultSession, stem: Path) -> None:
    with pytest.raises(ResultLocationError):
        await download(session, url, stem, task_id=TASK, attempts=1)


# --- broken connections -----------------------------------------------------------------------------------


async def test_a_dropped_connection_is_resumed_where_it_broke(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.drops = [200_000, 150_000, 0, 100_000]
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert len(storage.asked) == 5
    starts = [int(asked.range[6:-1]) if asked.range else 0 for asked in storage.asked]
    assert starts == [0, 200_000, 350_000, 350_000, 450_000]
    assert {asked.if_range for asked in storage.asked[1:]} == {'"v1"'}
    assert all(asked.headers["Accept-Encoding"] == "identity" for asked in storage.asked)


async def test_a_reset_connection_is_resumed_too(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.drops, storage.resets = [300_000, 100_000], True
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert len(storage.asked) == 3


@pytest.mark.parametrize("status", [304, 412, 416])
async def test_a_server_that_refuses_to_continue_is_asked_for_all_of_it(
    storage: Storage, session: ResultSession, stem: Path, status: int
) -> None:
    storage.drops, storage.later_status = [300_000], status
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert [asked.range for asked in storage.asked] == [None, "bytes=300000-", None]


async def test_a_server_without_ranges_sends_it_all_again(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.ranges = False
    storage.drops = [300_000]
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert storage.asked[1].range == "bytes=300000-"


async def test_a_weak_etag_is_no_condition_and_a_date_is(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.etag, storage.last_modified = 'W/"1"', "Tue, 03 Nov 2026 10:00:00 GMT"
    storage.drops = [300_000]
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert storage.asked[1].if_range == storage.last_modified


async def test_a_version_that_changed_meanwhile_is_fetched_anew(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.drops = [300_000]

    def change(received: int, total: int | None) -> None:
        if received == 300_000:
            storage.content, storage.etag = OTHER_PNG, '"v2"'

    path = await download(session, storage.url, stem, task_id=TASK, on_progress=change)
    assert path.read_bytes() == OTHER_PNG


@pytest.mark.parametrize("etag", ['"v2"', None])
async def test_a_server_that_ignores_conditions_can_not_mix_two_versions(
    etag: str | None, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.if_range = False
    storage.drops = [300_000]
    if etag is None:
        storage.etag = None

    def change(received: int, total: int | None) -> None:
        if received == 300_000:
            storage.content, storage.etag = OTHER_PNG, etag

    path = await download(session, storage.url, stem, task_id=TASK, on_progress=change)
    assert path.read_bytes() == OTHER_PNG


async def test_the_event_loop_goes_on_while_the_disk_hangs_and_nothing_that_came_is_lost(
    storage: Storage, session: ResultSession, stem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.drops = [300_000]
    goes_on, write, waits = threading.Event(), PartFile.write, []

    def hanging(self: PartFile, content: bytes) -> None:
        waits.append(goes_on.wait(30))
        write(self, content)

    monkeypatch.setattr(PartFile, "write", hanging)
    downloading = asyncio.create_task(download(session, storage.url, stem, task_id=TASK))
    while storage.drops or not storage.asked:  # noqa: ASYNC110  # the server tells nobody
        await asyncio.sleep(0.01)
    goes_on.set()
    path = await downloading
    assert path.read_bytes() == PNG
    assert storage.asked[1].range == "bytes=300000-"
    assert all(waits)


async def test_a_stalled_connection_is_given_up_and_resumed(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.stalls = 1
    path = await download(session, storage.url, stem, task_id=TASK, stall_timeout=0.3)
    assert path.read_bytes() == PNG
    assert storage.asked[1].range == f"bytes={len(PNG) // 2}-"


async def test_passing_failures_are_waited_out(storage: Storage, session: ResultSession, stem: Path) -> None:
    storage.statuses = [503, 429, 520, 202]
    storage.retry_after = "0"
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert len(storage.asked) == 5


async def test_attempts_without_progress_are_limited(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.statuses = [502] * 9
    storage.retry_after = "0"
    with pytest.raises(ResultDownloadError, match="HTTP 502") as caught:
        await download(session, storage.url, stem, task_id=TASK, attempts=3)
    assert len(storage.asked) == 3
    assert (caught.value.status_code, caught.value.error_type) == (502, "server_error")
    assert caught.value.task_id == TASK
    assert STILL_RETRIEVABLE in str(caught.value)


async def test_an_unreachable_server_is_an_error_with_the_task_id(
    session: ResultSession, stem: Path, unused_tcp_port: int
) -> None:
    with pytest.raises(ResultDownloadError, match=TASK) as caught:
        await download(
            session, f"http://127.0.0.1:{unused_tcp_port}/a?sig=hush", stem, task_id=TASK, attempts=2
        )
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_result_that_is_gone_says_so_at_once(
    status: int, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.statuses = [status]
    with pytest.raises(ResultExpiredError, match=f"HTTP {status}") as caught:
        await download(session, storage.url, stem, task_id=TASK)
    assert caught.value.error_type == "client_error"
    assert len(storage.asked) == 1
    assert left_in(stem) == []


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_is_not_asked_again_and_shows_no_signature(
    status: int, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.statuses = [status]
    with pytest.raises(ResultDownloadError, match=f"HTTP {status}") as caught:
        await download(session, storage.url, stem)
    assert not isinstance(caught.value, ResultExpiredError)
    assert "hush" not in str(caught.value)
    assert len(storage.asked) == 1


# --- lies -------------------------------------------------------------------------------------------------


async def test_announcing_more_than_there_is_does_not_lose_a_whole_file(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.announced = len(PNG) + 1000
    path = await download(session, storage.url, stem, task_id=TASK, attempts=2)
    assert path.read_bytes() == PNG


async def test_announcing_less_than_there_is_gives_no_half_image(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.announced = len(PNG) // 2
    with pytest.raises(ResultFormatError, match="truncated"):
        await download(session, storage.url, stem, task_id=TASK)
    assert left_in(stem) == []
    storage.announced = None
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG


UNLISTED = {
    "mkv": video("matroska", "libx264"),
    "avif": bytes.fromhex("0000001c66747970617669660000000061766966") + b"mif1miaf" + bytes(4000),
    "bmp": still("BMP"),
}
UNLISTED["avif"] = UNLISTED["avif"][:28] + (4000).to_bytes(4, "big") + b"mdat" + bytes(3992)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", UNLISTED)
async def test_a_format_that_nothing_here_reads_is_kept_as_it_came(
    name: str, chunked: bool, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.content, storage.chunked = UNLISTED[name], chunked
    url = storage.url.replace("name-says.txt", f"clip.{name.upper()}")
    path = await download(session, url, stem, task_id=TASK)
    assert path == stem.with_name(f"{stem.name}.{name}")
    assert path.read_bytes() == UNLISTED[name]
    assert len(storage.asked) == 1
    with pytest.raises(ResultFormatError, match=rf"{path.name}.*{name.upper()}"):
        decode_files([path])
    with pytest.raises(ResultFormatError, match=rf"{path.name}.*{name.upper()}"):
        open_as_video(path)


@pytest.mark.parametrize("name", ["x.exe", "x", "x.part", "x.m%2Fkv", "x.txt", "x.png"])
async def test_a_strangers_suffix_is_not_taken_over(
    name: str, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.content = UNLISTED["bmp"]
    path = await download(session, storage.url.replace("name-says.txt", name), stem, task_id=TASK)
    assert left_in(stem) == [f"{stem.name}.bin"] == [path.name]


@pytest.mark.parametrize("name", ["mkv", "avif"])
async def test_half_of_a_file_that_nothing_here_reads_is_noticed_by_its_skeleton(
    name: str, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.content = UNLISTED[name][: len(UNLISTED[name]) // 2]
    with pytest.raises(ResultFormatError, match="truncated"):
        await download(session, storage.url, stem, task_id=TASK)
    assert left_in(stem) == []


async def test_half_of_a_file_without_a_skeleton_is_noticed_by_its_length(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.content, storage.drops = UNLISTED["bmp"], [100_000, 200_000]
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == UNLISTED["bmp"]
    assert len(storage.asked) == 3


@pytest.mark.parametrize(
    "page",
    [
        b'{"error": "no such key"}',
        b"<?xml version='1.0'?><Error/>",
        b"<html>nope</html>",
        "Zugriff für alle".encode(),
    ],
)
async def test_a_text_is_no_result_whatever_its_name(
    page: bytes, storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.content = page
    with pytest.raises(ResultDownloadError, match=r"text.*stays retrievable.*login page or a proxy"):
        await download(session, storage.url.replace("name-says.txt", "clip.mkv"), stem, task_id=TASK)
    assert left_in(stem) == []


async def test_a_page_in_place_of_a_result_is_shown(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.content = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(ResultDownloadError, match="<!DOCTYPE html>"):
        await download(session, storage.url, stem, task_id=TASK)
    storage.content = b""
    with pytest.raises(ResultFormatError, match="empty"):
        await download(session, storage.url, stem, task_id=TASK)


# --- other processes, and ends ----------------------------------------------------------------------------


async def started(storage: Storage, session: ResultSession, stem: Path) -> None:
    """Leave behind what a process leaves that ends in the middle of a download."""
    storage.stalls = 1
    halfway = asyncio.Event()

    def watch(received: int, total: int | None) -> None:
        if received == len(PNG) // 2:
            halfway.set()

    task = asyncio.create_task(download(session, storage.url, stem, task_id=TASK, on_progress=watch))
    await asyncio.wait_for(halfway.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    storage.asked.clear()


async def test_a_cancelled_download_goes_on_in_another_process(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    await started(storage, session, stem)
    assert left_in(stem) == [f"{stem.name}.part", f"{stem.name}.part.json"]
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert [(asked.range, asked.if_range) for asked in storage.asked] == [(f"bytes={len(PNG) // 2}-", '"v1"')]
    assert left_in(stem) == [path.name]


async def test_a_part_of_an_older_version_is_not_continued(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    await started(storage, session, stem)
    storage.content, storage.etag = OTHER_PNG, '"v2"'
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == OTHER_PNG


@pytest.mark.parametrize("notes", [None, "", "{}", "[]", json.dumps({"validator": None})])
async def test_a_part_of_an_unknown_version_is_not_continued(
    notes: str | None, storage: Storage, session: ResultSession, stem: Path
) -> None:
    stem.parent.mkdir()
    stem.with_name(f"{stem.name}.part").write_bytes(b"who knows")
    if notes is not None:
        stem.with_name(f"{stem.name}.part.json").write_text(notes)
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert storage.asked[0].range is None


async def test_a_part_that_was_complete_already_needs_no_byte_more(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    stem.parent.mkdir()
    stem.with_name(f"{stem.name}.part").write_bytes(PNG)
    stem.with_name(f"{stem.name}.part.json").write_text(json.dumps({"validator": '"v1"'}))
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert len(storage.asked) == 1


async def test_a_part_longer_than_the_file_is_thrown_away(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    stem.parent.mkdir()
    stem.with_name(f"{stem.name}.part").write_bytes(PNG + b"more")
    stem.with_name(f"{stem.name}.part.json").write_text(json.dumps({"validator": '"v1"'}))
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG


async def test_a_damaged_part_is_replaced_by_a_fresh_copy(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    stem.parent.mkdir()
    stem.with_name(f"{stem.name}.part").write_bytes(bytes(1000))
    stem.with_name(f"{stem.name}.part.json").write_text(json.dumps({"validator": '"v1"'}))
    path = await download(session, storage.url, stem, task_id=TASK)
    assert path.read_bytes() == PNG
    assert [asked.range for asked in storage.asked] == ["bytes=1000-", None]


async def test_a_full_disk_is_a_readable_error(
    storage: Storage, session: ResultSession, tmp_path: Path
) -> None:
    blocked = tmp_path / "a-file-and-no-folder"
    blocked.write_text("")
    with pytest.raises(ResultDownloadError, match="writing"):
        await download(session, storage.url, blocked / "stem", task_id=TASK)


async def test_the_event_loop_stays_free_while_a_result_is_checked(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    # A check on the loop would let nothing else run between the last byte and the answer.
    storage.content = still("JPEG", quality=95)
    ticks = 0
    after_last_byte = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    def note(received: int, total: int | None) -> None:
        nonlocal after_last_byte
        if received == total:
            after_last_byte = ticks

    ticking = asyncio.create_task(tick())
    path = await download(session, storage.url, stem, task_id=TASK, on_progress=note)
    ticking.cancel()
    assert decode_image(path).shape == (500, 500, 3)
    assert ticks > after_last_byte + 10


async def test_a_downloaded_video_opens(storage: Storage, session: ResultSession, stem: Path) -> None:
    storage.content = KINDS["mp4"]
    storage.drops = [len(KINDS["mp4"]) // 2]
    opened = open_video(await download(session, storage.url, stem, task_id=TASK))
    assert opened.frames().shape == (12, 64, 64, 3)


async def test_a_result_without_an_end_is_given_up_at_the_limit(
    storage: Storage, session: ResultSession, stem: Path
) -> None:
    storage.chunked = True
    with pytest.raises(ResultDownloadError, match="XALORA_MAX_RESULT_BYTES"):
        await download(session, storage.url, stem, task_id=TASK, max_bytes=len(PNG) - 1)
    assert left_in(stem) == []
    assert (await download(session, storage.url, stem, task_id=TASK, max_bytes=len(PNG))).read_bytes() == PNG


async def test_a_damaged_file_without_an_announced_end_may_only_have_been_cut_off(
    session: ResultSession, stem: Path
) -> None:
    """A connection that breaks looks like its end, so it can't be told that the file is worthless."""
    asked = 0

    async def store(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PNG[: -20 if asked < 3 else None])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(store, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
    async with server:
        with pytest.raises(ResultDownloadError, match=r"announces no size.*stays retrievable"):
            await download(session, url, stem, task_id=TASK)
        assert (asked, left_in(stem)) == (2, [])
        assert (await download(session, url, stem, task_id=TASK)).read_bytes() == PNG


async def test_a_data_uri_over_the_limit_is_not_decoded(session: ResultSession, stem: Path) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    with pytest.raises(ResultDownloadError, match="larger than"):
        await download(session, uri, stem, task_id=TASK, max_bytes=len(PNG) // 2)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_compressed_result_is_refused(encoding: str, session: ResultSession, stem: Path) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=PNG, headers={"Content-Encoding": encoding})

    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    async with TestServer(app) as server:
        with pytest.raises(ResultDownloadError, match="compressed"):
            await download(session, str(server.make_url("/a.png")), stem, task_id=TASK, attempts=1)
    assert left_in(stem) == []


@pytest.mark.parametrize("coding", ["aws-chunked", "binary", "UTF-8"])
async def test_a_word_that_stores_leave_for_a_coding_changes_nothing(
    coding: str, session: ResultSession, stem: Path
) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=PNG, headers={"Content-Encoding": coding})

    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    async with TestServer(app) as server:
        path = await download(session, str(server.make_url("/a.png")), stem, task_id=TASK, attempts=1)
    assert path.read_bytes() == PNG


async def test_a_validator_that_no_request_may_hold_is_not_sent(session: ResultSession, stem: Path) -> None:
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "a\xff\x01"\r\nContent-Length: %d\r\n\r\n' % len(PNG))
        writer.write(PNG[:200_000] if len(asked) == 1 else PNG)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
        assert (await download(session, url, stem, task_id=TASK)).read_bytes() == PNG
    assert len(asked) == 2
    assert b"if-range" not in asked[1].lower()
