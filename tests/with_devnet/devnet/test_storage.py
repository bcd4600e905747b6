"""The devnet's result store over real sockets: credentials, ranges, ETags, expiry."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio
from aiohttp.test_utils import make_mocked_request

from xalora_client.devnet import Devnet
from xalora_client.devnet.storage import requested_span

DATA = bytes(range(256)) * 20_000  # larger than the store's chunks, and no two neighbours alike


@dataclass
class Stored:
    """A devnet with one finished task whose result is ``DATA``."""

    devnet: Devnet
    session: aiohttp.ClientSession
    task_id: str
    url: str
    credential: dict[str, str]


async def post(session: aiohttp.ClientSession, url: str, body: object) -> dict[str, object]:
    async with session.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


CREATE = {
    "consumer_id": "devnet",
    "api_key": "devnet",
    "task_type": "upscaler",
    "task_details": {"parameters": {"image": "https://example.com/a.png"}},
    "job_id": "j",
}


@pytest_asyncio.fixture
async def stored() -> AsyncIterator[Stored]:
    async with Devnet(miners=0) as devnet, aiohttp.ClientSession() as session:
        await post(session, f"{devnet.url}/task_create", CREATE)
        task = await post(
            session,
            f"{devnet.url}/miner_request",
            {"erc20_address": "0xA", "workflow_ids": ["lanczos-upscale"]},
        )
        key = f"upscaler/a-{task['task_id']}.png"
        credential = task["credential"]
        async with session.put(
            f"{credential['upload_url']}/{key}",
            data=io.BytesIO(DATA),
            headers={"Authorization": f"Bearer {credential['token']}"},
        ) as response:
            assert response.status == 201
        submit = {"success": True, "task_id": task["task_id"], "miner_id": "0xA", "result": key}
        await post(session, f"{devnet.url}/miner_submit", submit)
        yield Stored(devnet, session, task["task_id"], f"{devnet.url}/files/{key}", credential)


async def test_get_and_head(stored: Stored) -> None:
    async with stored.session.get(stored.url) as response:
        assert response.status == 200
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.headers["Content-Length"] == str(len(DATA))
        assert response.content_type == "image/png"
        etag = response.headers["ETag"]
        assert await response.read() == DATA
    async with stored.session.head(stored.url) as response:
        assert response.status == 200
        assert response.headers["Content-Length"] == str(len(DATA))
        assert response.headers["ETag"] == etag
    async with stored.session.get(stored.url, headers={"If-None-Match": etag}) as response:
        assert response.status == 304


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=1000000-", 1_000_000, len(DATA)),
        ("bytes=-17", len(DATA) - 17, len(DATA)),
        ("bytes=5-999999999", 5, len(DATA)),
    ],
)
async def test_ranges(stored: Stored, asked: str, start: int, stop: int) -> None:
    async with stored.session.get(stored.url, headers={"Range": asked}) as response:
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
        assert await response.read() == DATA[start:stop]


async def test_a_range_beyond_the_end(stored: Stored) -> None:
    async with stored.session.get(stored.url, headers={"Range": f"bytes={len(DATA)}-"}) as response:
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(DATA)}"


async def test_if_range_gives_the_rest_of_the_same_file_and_the_whole_of_another(stored: Stored) -> None:
    async with stored.session.head(stored.url) as response:
        etag = response.headers["ETag"]
    asked = {"Range": "bytes=100-", "If-Range": etag}
    async with stored.session.get(stored.url, headers=asked) as response:
        assert response.status == 206
        assert await response.read() == DATA[100:]

    async with stored.session.put(
        stored.url,
        data=io.BytesIO(DATA[::-1]),
        headers={"Authorization": f"Bearer {stored.credential['token']}"},
    ) as response:
        assert response.status == 201
    async with stored.session.get(stored.url, headers=asked) as response:
        assert response.status == 200
        assert await response.read() == DATA[::-1]


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, (0, 10)),
        ("bytes=0-0", (0, 1)),
        ("bytes=9-", (9, 10)),
        ("bytes=10-", None),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=-0", None),
        ("bytes=4-2", (0, 10)),
        ("bytes=1-2,4-5", (0, 10)),
        ("bytes=x-2", (0, 10)),
        ("bytes=5", (0, 10)),
        ("lines=1-2", (0, 10)),
    ],
)
def test_reading_a_range_header(header: str | None, span: tuple[int, int] | None) -> None:
    headers = {} if header is None else {"Range": header}
    assert requested_span(make_mocked_request("GET", "/files/a.png", headers), 10) == span


async def test_only_the_tasks_own_credential_is_valid_for_its_key(stored: Stored) -> None:
    token = stored.credential["token"]
    upload_url = stored.credential["upload_url"]
    own_key = f"upscaler/b-{stored.task_id}.png"
    attempts = [
        (own_key, {}),
        (own_key, {"Authorization": "Bearer "}),
        (own_key, {"Authorization": f"Bearer {token[:-1]}{'0' if token[-1] != '0' else '1'}"}),
        (own_key, {"Authorization": f"Basic {token}"}),
        ("upscaler/another-task.png", {"Authorization": f"Bearer {token}"}),
    ]
    for key, headers in attempts:
        async with stored.session.put(f"{upload_url}/{key}", data=b"x", headers=headers) as response:
            assert response.status == 403, (key, headers)
        async with stored.session.get(f"{upload_url}/{key}") as response:
            assert response.status == 404


async def test_a_key_cannot_leave_the_store(stored: Stored) -> None:
    headers = {"Authorization": f"Bearer {stored.credential['token']}"}
    url = f"{stored.credential['upload_url']}/..%2F..%2F{stored.task_id}.png"
    from yarl import URL

    async with stored.session.put(URL(url, encoded=True), data=b"x", headers=headers) as response:
        assert response.status == 400
    async with stored.session.get(
        URL(f"{stored.devnet.url}/files/..%2F..%2Fetc/passwd", encoded=True)
    ) as got:
        assert got.status == 404


@pytest.mark.parametrize("status", [404, 410])
async def test_results_expire(stored: Stored, status: int) -> None:
    assert stored.devnet.expire_results([stored.task_id], status=status) == 1
    async with stored.session.get(stored.url) as response:
        assert response.status == status
        assert (await response.json()).keys() == {"message"}
    query = {"task_id": stored.task_id, "api_key": "devnet"}
    answer = await post(stored.session, f"{stored.devnet.url}/task_result_query", query)
    assert answer["status"] == "finished"
    assert answer["result"] == stored.url


async def test_a_connection_closed_in_a_download_does_no_harm(
    stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    stored.devnet.add_fault("result:slow:seconds=0.3:n=1")
    async with stored.session.get(stored.url) as response:
        await response.content.readexactly(1000)
        response.close()
    async with stored.session.get(stored.url) as response:
        assert await response.read() == DATA
    # Stopping waits for the aborted answer, so its log lines are complete.
    await stored.devnet.stop_sequencer()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_submitting_what_was_never_stored_is_refused() -> None:
    async with Devnet(miners=0) as devnet, aiohttp.ClientSession() as session:
        await post(session, f"{devnet.url}/task_create", CREATE)
        ask = {"erc20_address": "0xA", "workflow_ids": ["lanczos-upscale"]}
        task = await post(session, f"{devnet.url}/miner_request", ask)
        submit = {
            "success": True,
            "task_id": task["task_id"],
            "miner_id": "0xA",
            "result": "upscaler/none.png",
        }
        async with session.post(f"{devnet.url}/miner_submit", json=submit) as response:
            assert response.status == 400
        assert devnet.stats()["running_now"] == 1
