"""Every kind of fault, seen from a plain HTTP client."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from typing import Any

import aiohttp
import pytest
from PIL import Image

from xalora_client.devnet import Devnet

CREATE = {
    "consumer_id": "devnet",
    "api_key": "devnet",
    "task_type": "txt2vid",
    "task_details": {"parameters": {"prompt": "a"}},
    "job_id": "sdk-workflow-0000000000",
}


def png() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(file, "PNG")
    return file.getvalue()


PHOTO = png()
UPSCALE = CREATE | {
    "task_type": "upscaler",
    "task_details": {"parameters": {"image": "data:image/png;base64," + base64.b64encode(PHOTO).decode()}},
}


async def post(
    session: aiohttp.ClientSession, devnet: Devnet, endpoint: str, body: Any
) -> tuple[int, dict[str, Any], dict[str, str]]:
    async with session.post(f"{devnet.url}/{endpoint}", json=body) as response:
        return response.status, await response.json(), dict(response.headers)


async def finished_url(session: aiohttp.ClientSession, devnet: Devnet, job_id: str = "j") -> str:
    _, answer, _ = await post(session, devnet, "task_create", UPSCALE | {"job_id": job_id})
    await devnet.wait_for_status(answer["task_id"], "finished")
    _, answer, _ = await post(
        session, devnet, "task_result_query", {"task_id": answer["task_id"], "api_key": "devnet"}
    )
    return str(answer["result"])


def expected() -> bytes:
    image = Image.open(io.BytesIO(PHOTO))
    return image.resize((80, 60), Image.Resampling.LANCZOS).tobytes()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_status_refuses_and_does_nothing(status: int) -> None:
    async with (
        Devnet(miners=0, faults=[f"task_create:{status}:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        got, answer, _ = await post(session, devnet, "task_create", CREATE)
        assert (got, answer.keys()) == (status, {"message"})
        assert devnet.stats()["creates"] == 0
        assert devnet.stats()["endpoints"]["task_create"] == 1
        got, answer, _ = await post(session, devnet, "task_create", CREATE)
        assert got == 200
        assert devnet.stats()["creates"] == 1


async def test_429_has_retry_after() -> None:
    async with (
        Devnet(miners=0, faults=["consumer:429:retry_after=2.5:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        got, _, headers = await post(session, devnet, "task_create", CREATE)
        assert got == 429
        assert headers["Retry-After"] == "2.5"
        assert devnet.stats()["creates"] == 0


async def test_status_after_acts_first() -> None:
    async with (
        Devnet(miners=0, faults=["task_create:status_after:status=502:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        got, _, _ = await post(session, devnet, "task_create", CREATE)
        assert got == 502
        assert devnet.stats()["creates"] == 1


async def test_delay_comes_before_everything() -> None:
    async with (
        Devnet(miners=0, faults=["task_create:delay:seconds=0.3:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        started = time.monotonic()
        request = asyncio.create_task(post(session, devnet, "task_create", CREATE))
        await devnet.wait_for(lambda stats: stats["endpoints"]["task_create"] == 1)
        assert devnet.stats()["creates"] == 0
        assert (await request)[0] == 200
        assert time.monotonic() - started >= 0.3
        assert devnet.stats()["creates"] == 1


async def test_delay_after_acts_first() -> None:
    async with (
        Devnet(miners=0, faults=["task_create:delay_after:seconds=0.3:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        started = time.monotonic()
        request = asyncio.create_task(post(session, devnet, "task_create", CREATE))
        await devnet.wait_for(lambda stats: stats["creates"] == 1)
        assert not request.done()
        assert (await request)[0] == 200
        assert time.monotonic() - started >= 0.3


async def test_drop_before_does_nothing() -> None:
    async with (
        Devnet(miners=0, faults=["task_create:drop_before:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(session, devnet, "task_create", CREATE)
        assert devnet.stats()["creates"] == 0
        assert devnet.stats()["endpoints"]["task_create"] == 1


async def test_drop_before_does_not_read_a_large_body() -> None:
    body = io.BytesIO(b"x" * (32 << 20))
    async with (
        Devnet(miners=0, faults=["task_create:drop_before:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.ClientConnectionError):
            async with session.post(f"{devnet.url}/task_create", data=body):
                pass
        assert devnet.stats()["endpoints"]["task_create"] == 1


async def test_drop_after_has_acted() -> None:
    async with (
        Devnet(miners=0, faults=["task_create:drop_after:n=2"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        assert (await post(session, devnet, "task_create", CREATE))[0] == 200
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(session, devnet, "task_create", CREATE | {"job_id": "second"})
        assert devnet.stats()["creates"] == 2
        got, _, _ = await post(session, devnet, "task_create", CREATE | {"job_id": "second"})
        assert got == 200
        assert devnet.stats()["creates"] == 2
        assert devnet.stats()["duplicates"] == 1


async def test_garbage_has_acted_too() -> None:
    async with (
        Devnet(miners=0, faults=["task_create:garbage:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
        session.post(f"{devnet.url}/task_create", json=CREATE) as response,
    ):
        assert response.status == 200
        with pytest.raises(ValueError, match="Expecting value"):
            await response.json(content_type=None)
        assert devnet.stats()["creates"] == 1


async def test_truncate_cuts_a_download_and_range_gets_the_rest() -> None:
    async with (
        Devnet(miners=1, faults=["result:truncate:n=1,2"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        url = await finished_url(session, devnet)
        data, total = b"", 1
        cuts = 0
        while len(data) < total:
            headers = {"Range": f"bytes={len(data)}-"} if data else {}
            try:
                async with session.get(url, headers=headers) as response:
                    assert response.status == (206 if data else 200)
                    if not data:
                        total = int(response.headers["Content-Length"])
                    async for chunk in response.content.iter_any():
                        data += chunk
            except aiohttp.ClientPayloadError:
                cuts += 1
        assert cuts == 2
        assert Image.open(io.BytesIO(data)).tobytes() == expected()


async def test_truncate_stored_is_short_for_good() -> None:
    async with (
        Devnet(miners=1, faults=["upload:truncate_stored:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        broken = await finished_url(session, devnet, "first")
        whole = await finished_url(session, devnet, "second")
        async with session.get(whole) as response:
            data = await response.read()
        for _ in range(2):
            async with session.get(broken) as response:
                assert response.status == 200
                assert await response.read() == data[: len(data) // 2]


async def test_corrupt_changes_one_download_only() -> None:
    async with (
        Devnet(miners=1, faults=["result:corrupt:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        url = await finished_url(session, devnet)
        async with session.get(url) as response:
            spoiled = await response.read()
        async with session.get(url) as response:
            good = await response.read()
        assert len(spoiled) == len(good)
        assert spoiled != good
        assert Image.open(io.BytesIO(good)).tobytes() == expected()
        with pytest.raises((OSError, SyntaxError)):
            Image.open(io.BytesIO(spoiled)).load()


async def test_corrupt_stored_changes_every_download() -> None:
    async with (
        Devnet(miners=1, faults=["upload:corrupt_stored:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        url = await finished_url(session, devnet)
        for _ in range(2):
            async with session.get(url) as response:
                with pytest.raises((OSError, SyntaxError)):
                    Image.open(io.BytesIO(await response.read())).load()


async def test_slow_stretches_the_body() -> None:
    async with (
        Devnet(miners=1, faults=["result:slow:seconds=1.5:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        url = await finished_url(session, devnet)
        started = time.monotonic()
        async with session.get(url) as response:
            headers_after = time.monotonic() - started
            data = await response.read()
        assert time.monotonic() - started >= 1.5
        assert headers_after < 1.5
        assert Image.open(io.BytesIO(data)).tobytes() == expected()


async def test_a_miner_may_fail_a_task() -> None:
    async with (
        Devnet(miners=1, faults=["miner:failed:n=1"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        _, answer, _ = await post(session, devnet, "task_create", UPSCALE)
        task = await devnet.wait_for_status(answer["task_id"], "failed", "finished")
        assert task.status == "failed"
        assert "Injected fault" in task.message
        assert await finished_url(session, devnet, "the next one works")


async def test_a_miner_may_die_and_its_task_goes_to_another() -> None:
    async with (
        Devnet(miners=1, faults=["miner:death:n=1"], lease=0.5, task_seconds=0.1) as devnet,
        aiohttp.ClientSession() as session,
    ):
        (first,) = devnet.miners
        _, answer, _ = await post(session, devnet, "task_create", UPSCALE)
        task = await devnet.wait_for_status(answer["task_id"], "finished")
        assert task.assignments == 2
        assert task.miner_id != first
        assert devnet.faults.hits["death"] == 1
        assert len(devnet.miners) == 1


async def test_the_miners_own_requests_survive_faults() -> None:
    faults = [
        "miner_request:503:p=0.2",
        "miner_request:drop_after:p=0.2",
        "miner_request:garbage:p=0.1",
        "miner_submit:drop_before:p=0.3",
        "miner_submit:drop_after:p=0.3",
        "upload:503:p=0.3",
        "upload:drop_after:p=0.2",
        "upload:drop_before:p=0.2",
    ]
    async with (
        Devnet(miners=2, faults=faults, seed=7, lease=1.0, miner_poll=0.01) as devnet,
        aiohttp.ClientSession() as session,
    ):
        for number in range(30):
            status, _, _ = await post(session, devnet, "task_create", UPSCALE | {"job_id": str(number)})
            assert status == 200
        stats = await devnet.wait_for(lambda stats: stats["tasks"]["finished"] == 30, timeout=60)
        assert stats["creates"] == 30
        assert {"status", "drop_after", "drop_before", "garbage"} <= devnet.faults.hits.keys()


async def test_faults_come_and_go_while_it_runs() -> None:
    async with Devnet(miners=0) as devnet, aiohttp.ClientSession() as session:
        devnet.add_fault("task_create:503")
        assert (await post(session, devnet, "task_create", CREATE))[0] == 503
        assert (await post(session, devnet, "task_create", CREATE))[0] == 503
        devnet.clear_faults()
        assert (await post(session, devnet, "task_create", CREATE))[0] == 200
