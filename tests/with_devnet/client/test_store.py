"""A whole task whose input goes by the user's own object store: fetched there by the miner, then deleted."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import skimage
from moto.server import ThreadedMotoServer
from PIL import Image

from xalora_client import AsyncXalora, TaskFailedError, UpscalerTask
from xalora_client.devnet import Devnet

PHOTO = Path(skimage.__file__).parent / "data" / "astronaut.png"


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty bucket of a real S3-speaking server: `(endpoint, name, keys in it)`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    # The server's buckets outlive it within one process.
    name = f"inputs-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    yield endpoint, name, lambda: s3.list_objects_v2(Bucket=name).get("Contents", [])
    server.stop()


@pytest.mark.parametrize("fails", [False, True], ids=["finished", "failed"])
async def test_an_image_over_the_inline_limit_goes_by_the_store_and_is_deleted_after(
    bucket: Any, fails: bool
) -> None:
    endpoint, name, keys = bucket
    async with (
        Devnet(miners=1, task_seconds=0.5, faults=["miner:failed"] if fails else []) as devnet,
        AsyncXalora(
            devnet.api_key,
            devnet.url,
            inline_limit="10KiB",
            store_url=f"s3://{name}/from",
            store_endpoint=endpoint,
            store_region="us-east-1",
            store_access_key_id="id",
            store_secret_access_key="secret",
        ) as client,
    ):
        handle = await client.submit(UpscalerTask(PHOTO))
        await devnet.wait_for_status(handle.task_id, "running")
        assert len(keys()) == 1
        if fails:
            with pytest.raises(TaskFailedError):
                await handle.result()
        else:
            result = await handle.result()
            with Image.open(PHOTO) as image:
                doubled = image.convert("RGB").resize((1024, 1024), Image.Resampling.LANCZOS)
            assert np.array_equal(np.rint(result.images[0] * 255), np.asarray(doubled))
        assert keys() == []
