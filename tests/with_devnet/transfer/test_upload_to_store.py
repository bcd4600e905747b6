"""Input images through an object store: a real S3-speaking server, and URLs that are really fetched."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import boto3
import numpy as np
import pytest
from aiohttp import web
from certificates import Certificates, certificates_in
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from xalora_client.config import Settings
from xalora_client.errors import NOTHING_CHARGED, ConfigurationError, StoreError
from xalora_client.media.inputs import PreparedImage, prepare_image
from xalora_client.transfer.upload import DeliveredImage, StoreDelivery

SECRET_KEY = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3(endpoint: str) -> Any:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key=SECRET_KEY,
    )
    client.create_bucket(Bucket="inputs")
    return client


@pytest.fixture
def config(endpoint: str, s3: Any) -> Settings:
    return Settings(
        store_url="s3://inputs/from/xalora",
        store_endpoint=endpoint,
        store_region="us-east-1",
        store_access_key_id="id",
        store_secret_access_key=SecretStr(SECRET_KEY),
    )


def keys(s3: Any, bucket: str = "inputs") -> list[str]:
    return [record["Key"] for record in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.fixture
def image() -> PreparedImage:
    return prepare_image(np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8))


async def fetched(delivered: DeliveredImage) -> tuple[int, str, bytes]:
    assert isinstance(delivered.reference, str)
    async with aiohttp.ClientSession() as session, session.get(delivered.reference) as response:
        return response.status, response.content_type, await response.read()


async def test_a_miner_can_read_the_image_until_it_is_discarded(
    config: Settings, s3: Any, image: PreparedImage
) -> None:
    delivered = await StoreDelivery(config).deliver(image, lifetime=900)
    assert await fetched(delivered) == (200, "image/png", image.data)
    await delivered.discard()
    assert keys(s3) == []
    assert (await fetched(delivered))[0] == 404
    await delivered.discard()


@asynccontextmanager
async def in_front_of(
    endpoint: str, certificates: Certificates | None = None
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server before the store, over TLS or as a proxy: its `host:port`, and the request lines it hears."""
    lines: list[str] = []
    parts = urlsplit(endpoint)
    context = None
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server, certificates.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, _, headers = head.partition("\r\n")
        lines.append(line)
        length = re.search(r"(?im)^content-length: (\d+)", headers)
        body = await reader.readexactly(int(length[1]) if length else 0)
        answering, asking = await asyncio.open_connection(parts.hostname, parts.port)
        asking.write(f"{line}\r\nConnection: close\r\n{headers}".encode() + body)
        writer.write(await answering.read())
        asking.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", lines


async def test_the_proxy_of_the_settings_is_used_but_for_this_machine(
    config: Settings, endpoint: str, s3: Any, image: PreparedImage
) -> None:
    async with in_front_of(endpoint) as (address, lines):
        # Documentation's own network: only a proxy gets there.
        away = {"proxy": f"http://{address}", "store_endpoint": "http://192.0.2.1:9000"}
        delivered = await StoreDelivery(config.model_copy(update=away)).deliver(image, lifetime=60)
        assert [key.endswith(".png") for key in keys(s3)] == [True]
        await delivered.discard()
        assert keys(s3) == []
        assert [line.split("/inputs/")[0] for line in lines] == [
            "PUT http://192.0.2.1:9000",
            "DELETE http://192.0.2.1:9000",
        ]
        here = await StoreDelivery(config.model_copy(update={"proxy": f"http://{address}"})).deliver(
            image, lifetime=60
        )
        await here.discard()
        assert len(lines) == 2


async def test_the_authority_of_the_settings_vouches_for_the_store(
    config: Settings,
    endpoint: str,
    s3: Any,
    image: PreparedImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    certificates = certificates_in(tmp_path)
    bundle = certificates.authority
    async with in_front_of(endpoint, certificates) as (address, _):
        over_tls = config.model_copy(update={"store_endpoint": f"https://{address}"})
        with pytest.raises(StoreError, match="did not take the input image"):
            await StoreDelivery(over_tls).deliver(image, lifetime=60)
        trusting = StoreDelivery(over_tls.model_copy(update={"ca": bundle}))
        await (await trusting.deliver(image, lifetime=60)).discard()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        await (await StoreDelivery(over_tls).deliver(image, lifetime=60)).discard()
    with pytest.raises(ConfigurationError, match=r"XALORA_CA names .*absent\.pem"):
        StoreDelivery(config.model_copy(update={"ca": tmp_path / "absent.pem"}))


async def test_the_name_tells_nothing_and_never_repeats(
    config: Settings, s3: Any, image: PreparedImage
) -> None:
    store = StoreDelivery(config)
    delivered = await asyncio.gather(*(store.deliver(image, lifetime=60) for _ in range(5)))
    names = keys(s3)
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"from/xalora/[0-9a-f]{32}\.png", name) for name in names)
    await asyncio.gather(*(one.discard() for one in delivered))
    assert keys(s3) == []


@pytest.mark.parametrize("lifetime", [60, 1800.5, 7 * 24 * 3600])
async def test_the_url_is_signed_for_at_least_the_lifetime(
    lifetime: float, config: Settings, image: PreparedImage
) -> None:
    delivered = await StoreDelivery(config).deliver(image, lifetime=lifetime)
    assert isinstance(delivered.reference, str)
    query = parse_qs(urlsplit(delivered.reference).query)
    seconds = int(query["X-Amz-Expires"][0])
    assert lifetime <= seconds <= min(lifetime + 1, timedelta(days=7).total_seconds())
    assert "X-Amz-Signature" in query
    await delivered.discard()


async def test_large_images_go_up_in_one_piece(config: Settings, s3: Any) -> None:
    large = prepare_image(np.random.default_rng(0).integers(0, 256, (2100, 2000, 3), dtype=np.uint8))
    assert len(large.data) > 12 * 1024**2
    delivered = await StoreDelivery(config).deliver(large, lifetime=60)
    status, _, data = await fetched(delivered)
    assert (status, data) == (200, large.data)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="inputs")
    await delivered.discard()


async def test_keys_and_endpoint_come_from_the_environment_where_not_given(
    endpoint: str, s3: Any, image: PreparedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id-from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    delivered = await StoreDelivery(Settings(store_url="s3://inputs")).deliver(image, lifetime=60)
    assert isinstance(delivered.reference, str)
    assert delivered.reference.startswith(f"{endpoint}/inputs/")
    assert "id-from-the-environment%2F" in delivered.reference
    assert "%2Feu-central-1%2F" in delivered.reference
    assert (await fetched(delivered))[0] == 200
    await delivered.discard()


async def test_a_missing_bucket_is_an_error_before_any_task(
    config: Settings, endpoint: str, image: PreparedImage
) -> None:
    store = StoreDelivery(
        Settings(
            store_url="s3://nobody-made-this",
            store_endpoint=endpoint,
            store_access_key_id="id",
            store_secret_access_key=SecretStr(SECRET_KEY),
        )
    )
    with pytest.raises(StoreError, match="nobody-made-this") as caught:
        await store.deliver(image, lifetime=60)
    assert caught.value.money == NOTHING_CHARGED


async def test_no_secret_shows_anywhere(
    config: Settings, image: PreparedImage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = StoreDelivery(config)
    delivered = await store.deliver(image, lifetime=60)
    await delivered.discard()
    shown = f"{config} {config!r} {store!r} {delivered!r} {caplog.text}"
    assert SECRET_KEY not in shown
    assert "X-Amz-Signature" not in repr(delivered)


class ScriptedStore:
    """A store whose answer to an upload the test decides; it writes down what it is asked."""

    def __init__(self) -> None:
        self.upload_status = 200
        self.delete_status = 204
        self.uploaded: list[str] = []
        self.deleted: list[str] = []
        self.upload_arrived = asyncio.Event()
        self.answer_upload = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        if request.method == "PUT":
            self.uploaded.append(request.path.removeprefix("/inputs/"))
            self.upload_arrived.set()
            await self.answer_upload.wait()
            return web.Response(
                status=self.upload_status,
                text="<Error><Code>Scripted</Code></Error>",
                headers={"ETag": '"1"'},
            )
        assert request.method == "DELETE"
        self.deleted.append(request.path.removeprefix("/inputs/"))
        return web.Response(status=self.delete_status)


@pytest.fixture
async def scripted_store() -> AsyncIterator[ScriptedStore]:
    store = ScriptedStore()
    app = web.Application(client_max_size=1024**3)
    app.router.add_route("*", "/{path:.*}", store.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    store.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield store
    store.answer_upload.set()
    await runner.cleanup()


def delivery_to(store: ScriptedStore) -> StoreDelivery:
    return StoreDelivery(
        Settings(
            store_url="s3://inputs",
            store_endpoint=store.url,
            store_access_key_id="id",
            store_secret_access_key=SecretStr(SECRET_KEY),
        )
    )


async def test_a_store_that_refuses_is_an_error_without_the_keys(
    scripted_store: ScriptedStore, image: PreparedImage, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_store.upload_status = 403
    scripted_store.answer_upload.set()
    with pytest.raises(StoreError, match="did not take the input image") as caught:
        await delivery_to(scripted_store).deliver(image, lifetime=60)
    assert SECRET_KEY not in str(caught.value)
    assert SECRET_KEY not in caplog.text
    assert len(scripted_store.uploaded) == 1


async def test_a_cancelled_upload_leaves_nothing_behind(
    scripted_store: ScriptedStore, image: PreparedImage
) -> None:
    delivering = asyncio.create_task(delivery_to(scripted_store).deliver(image, lifetime=60))
    await asyncio.wait_for(scripted_store.upload_arrived.wait(), 30)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert len(scripted_store.uploaded) == 1
    assert scripted_store.deleted == scripted_store.uploaded


async def test_a_store_that_will_not_delete_is_logged_and_not_raised(
    scripted_store: ScriptedStore, image: PreparedImage, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_store.answer_upload.set()
    scripted_store.delete_status = 403
    delivered = await delivery_to(scripted_store).deliver(image, lifetime=60)
    await delivered.discard()
    assert scripted_store.deleted == scripted_store.uploaded
    assert "could not delete input image" in caplog.text
    assert SECRET_KEY not in caplog.text
