"""The sequencer alone, with hand-written JSON of the protocol, without this package's client and miners."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from xalora_client.devnet import Devnet

FIXTURES = Path(__file__).parent / "fixtures"
RESULT = b"\x00\x00\x00\x18ftypmp42 not really a video"


def fill(value: Any, known: dict[str, str]) -> Any:
    """The value with every known ``<name>`` replaced."""
    if isinstance(value, dict):
        return {name: fill(part, known) for name, part in value.items()}
    if isinstance(value, list):
        return [fill(part, known) for part in value]
    if isinstance(value, str):
        for name, text in known.items():
            value = value.replace(f"<{name}>", text)
    return value


def agree(wanted: Any, got: Any, learned: dict[str, Any]) -> None:
    """Compare exactly; ``<text>`` matches any text, another ``<name>`` is stored."""
    if isinstance(wanted, dict):
        assert isinstance(got, dict)
        assert got.keys() == wanted.keys()
        for name in wanted:
            agree(wanted[name], got[name], learned)
    elif wanted == "<text>":
        assert isinstance(got, str)
        assert got
    elif isinstance(wanted, str) and wanted.startswith("<") and wanted.endswith(">"):
        learned[wanted[1:-1]] = got
    else:
        assert got == wanted


@pytest.mark.parametrize("name", ["life_of_a_task", "cancel_and_fail", "same_job_id", "refusals"])
async def test_raw_json(name: str) -> None:
    script = json.loads((FIXTURES / f"{name}.json").read_text())
    async with (
        Devnet(miners=0, more_api_keys=["alice#k-1#2"]) as devnet,
        aiohttp.ClientSession() as session,
    ):
        known: dict[str, Any] = {"url": devnet.url}
        for raw in script["steps"]:
            texts = {name: value for name, value in known.items() if isinstance(value, str)}
            step = fill(raw, texts)
            if "upload" in step:
                credential = known["credential"]
                async with session.put(
                    f"{credential['upload_url']}/{step['upload']}",
                    data=RESULT,
                    headers={"Authorization": f"Bearer {credential['token']}"},
                ) as response:
                    assert response.status == step["status"]
                continue
            async with session.post(
                f"{devnet.url}/{step['endpoint']}",
                data=json.dumps(step["request"]),
                headers={"Content-Type": "application/json"},
            ) as response:
                text = await response.text()
                assert response.status == step["status"], f"{step}: {text}"
                agree(step["answer"], json.loads(text), known)

        ids = [known[name] for name in ("task", "first", "second", "one", "two") if name in known]
        assert len(ids) == len(set(ids))
        async with session.get(f"{devnet.url}/devnet/stats") as response:
            assert response.status == 200
            assert await response.json() == script["stats"]


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("url", lambda url, key: url),
        ("key", lambda url, key: key),
        ("object", lambda url, key: {"url": url}),
        ("list", lambda url, key: [url]),
        ("images", lambda url, key: {"images": [url]}),
        ("videos", lambda url, key: {"videos": [url]}),
        ("image_url", lambda url, key: {"image_url": url}),
        ("video_url", lambda url, key: {"video_url": url}),
        ("data", lambda url, key: "data:video/mp4;base64," + base64.b64encode(RESULT).decode()),
    ],
)
async def test_every_form_of_a_result(form: Any, wanted: Any) -> None:
    async with Devnet(miners=0, result_form=form) as devnet, aiohttp.ClientSession() as session:

        async def post(endpoint: str, **body: Any) -> Any:
            async with session.post(f"{devnet.url}/{endpoint}", json=body) as response:
                assert response.status == 200, await response.text()
                return await response.json()

        task_id = (
            await post(
                "task_create",
                consumer_id="devnet",
                api_key="devnet",
                task_type="txt2vid",
                task_details={"parameters": {"prompt": "a"}},
                job_id="j",
            )
        )["task_id"]
        task = await post("miner_request", erc20_address="0xA", workflow_ids=["1"])
        key = f"test-video/a-{task_id}.mp4"
        async with session.put(
            f"{task['credential']['upload_url']}/{key}",
            data=RESULT,
            headers={"Authorization": f"Bearer {task['credential']['token']}"},
        ) as response:
            assert response.status == 201
        await post("miner_submit", success=True, task_id=task_id, miner_id="0xA", result=key)

        answer = await post("task_result_query", task_id=task_id, api_key="devnet")
        url = f"{devnet.url}/files/{key}"
        assert answer["result"] == wanted(url, key)
        async with session.get(url) as response:
            assert await response.read() == RESULT
            assert response.content_type == "video/mp4"


async def test_task_details_may_go_out_as_text() -> None:
    details = {"parameters": {"prompt": 'with "quotes" and \u00e9'}}
    async with Devnet(miners=0, details_as_text=True) as devnet, aiohttp.ClientSession() as session:
        body = {
            "consumer_id": "devnet",
            "api_key": "devnet",
            "task_type": "txt2vid",
            "task_details": details,
            "job_id": "j",
        }
        async with session.post(f"{devnet.url}/task_create", json=body) as response:
            assert response.status == 200
        ask = {"erc20_address": "0xA", "workflow_ids": ["1"]}
        async with session.post(f"{devnet.url}/miner_request", json=ask) as response:
            task = await response.json()
    assert isinstance(task["task_details"], str)
    assert json.loads(task["task_details"]) == details


async def test_bodies_of_many_megabytes_pass_whole() -> None:
    image = "data:image/png;base64," + "A" * (24 << 20)
    async with Devnet(miners=0) as devnet, aiohttp.ClientSession() as session:
        body = {
            "consumer_id": "devnet",
            "api_key": "devnet",
            "task_type": "upscaler",
            "task_details": {"parameters": {"image": image}},
            "job_id": "j",
        }
        data = io.BytesIO(json.dumps(body).encode())
        async with session.post(f"{devnet.url}/task_create", data=data) as response:
            assert response.status == 200
        ask = {"erc20_address": "0xA", "workflow_ids": ["lanczos-upscale"]}
        async with session.post(f"{devnet.url}/miner_request", json=ask) as response:
            task = await response.json()
    assert task["task_details"]["parameters"]["image"] == image


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/task_create", "not json", 400),
        ("POST", "/task_create", "[1, 2]", 400),
        ("POST", "/task_create", '{"timeout_seconds": NaN}', 400),
        ("POST", "/miner_request", '{"erc20_address": "0xA"}', 400),
        ("POST", "/miner_request", '{"erc20_address": "0xA", "workflow_ids": "1"}', 400),
        ("POST", "/miner_request", '{"erc20_address": "0xA", "workflow_ids": [], "x": 1}', 400),
        ("GET", "/task_create", None, 405),
        ("POST", "/no_such_endpoint", "{}", 404),
        ("GET", "/files/no/such/key.png", None, 404),
    ],
)
async def test_errors_are_json_with_a_message(method: str, path: str, body: str | None, status: int) -> None:
    async with (
        Devnet(miners=0) as devnet,
        aiohttp.ClientSession() as session,
        session.request(method, devnet.url + path, data=body) as response,
    ):
        assert response.status == status
        answer = await response.json()
    assert answer.keys() == {"message"}
    assert answer["message"]


@pytest.mark.parametrize("request_line", ["POST /task_create", "PUT /files/a.png"])
async def test_a_consumer_that_closes_its_connection_in_the_body_does_no_harm(
    request_line: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Devnet(miners=0) as devnet:
        _, writer = await asyncio.open_connection("127.0.0.1", int(devnet.url.rpartition(":")[2]))
        writer.write(f'{request_line} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{"a"'.encode())
        await writer.drain()
        if "task_create" in request_line:
            await devnet.wait_for(lambda stats: stats["endpoints"]["task_create"] == 1)
        writer.close()
        await writer.wait_closed()
        async with aiohttp.ClientSession() as session, session.get(f"{devnet.url}/devnet/stats") as response:
            assert (await response.json())["creates"] == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_listens_on_this_machine_only() -> None:
    async with Devnet(miners=0) as devnet:
        assert devnet.url.startswith("http://127.0.0.1:")
        port = int(devnet.url.rpartition(":")[2])
        assert port > 0


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 50_000, b"\xff", b'{"api_key": NaN}', b"9" * 5000]
)
async def test_a_body_that_is_no_request_is_the_callers_mistake(body: bytes) -> None:
    async with (
        Devnet(miners=0) as devnet,
        aiohttp.ClientSession() as session,
        session.post(f"{devnet.url}/task_create", data=body) as answer,
    ):
        assert answer.status == 400


@pytest.mark.parametrize("token", ["Bearer x.\xe9", "Bearer .", "Basic x", "Bearer " + "a" * 100])
async def test_a_token_of_any_form_is_refused(token: str) -> None:
    async with Devnet(miners=0) as devnet:
        host, port = devnet.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"PUT /files/x.png HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Length: 1\r\n\r\nx"
        writer.write(head.encode("latin-1"))
        assert (await reader.readline()).split()[1] == b"403"
        writer.close()
        await writer.wait_closed()
