"""A worker by itself, in this process: what it offers, and how its runs end. Ray starts no process here."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xalora_client._version import __version__
from xalora_client.cluster.machine import MACHINE_VARIABLE, EngineName, Machine
from xalora_client.cluster.worker import Worker
from xalora_client.media.png_encode import encode_png
from xalora_client.workflows.catalog import WorkflowCatalog

CATALOG = WorkflowCatalog.load()
LANCZOS = CATALOG.get("lanczos-upscale")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The GPUs that Ray has given this process, by kind."""
    found: dict[str, list[str]] = {}
    context = SimpleNamespace(get_accelerator_ids=lambda: found)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    return found


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: dict[str, list[str]]) -> Worker:
    return made(tmp_path, monkeypatch, "pillow")


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineName, **more: Any) -> Worker:
    Machine("box", engine, slots=1, folder=str(tmp_path), **more).write(tmp_path / "machine.json")
    monkeypatch.setenv(MACHINE_VARIABLE, str(tmp_path / "machine.json"))
    return Worker(0)


def details(image: str) -> bytes:
    return json.dumps({"parameters": {"image": image}}).encode()


def png(size: int = 8) -> str:
    data = encode_png(np.zeros((size, size, 3), np.uint8))
    return "data:image/png;base64," + base64.b64encode(data).decode()


async def test_lanczos_offers_what_asks_for_no_model(worker: Worker) -> None:
    offer = await worker.describe(tuple(CATALOG), __version__)
    assert (offer.miner_id, offer.engine, offer.workflows) == ("box/cpu0", "pillow", {"lanczos-upscale"})
    assert offer.lacking.keys() == set(CATALOG.names) - {"lanczos-upscale"}


async def test_another_release_offers_nothing(worker: Worker) -> None:
    offer = await worker.describe(tuple(CATALOG), "0.0.1")
    assert not offer.workflows
    assert set(offer.lacking.values()) == {f"xalora {__version__} is installed there, and 0.0.1 on the head"}


async def test_an_engine_that_is_not_there_offers_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: dict[str, list[str]]
) -> None:
    gpus["GPU"] = ["3"]
    worker = made(tmp_path, monkeypatch, "torch", model=str(tmp_path / "none.pth"))
    offer = await worker.describe(tuple(CATALOG), __version__)
    assert (offer.miner_id, offer.workflows) == ("box/gpu3", frozenset())
    assert all(offer.lacking.values())


async def test_the_users_proxy_is_back_in_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: dict[str, list[str]]
) -> None:
    import os

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    made(tmp_path, monkeypatch, "pillow", environment={"http_proxy": "http://own:3128", "HTTP_PROXY": None})
    assert os.environ["http_proxy"] == "http://own:3128"
    assert "HTTP_PROXY" not in os.environ


async def test_a_run_gives_its_file(worker: Worker) -> None:
    outcome = await worker.run(LANCZOS, details(png()))
    ((suffix, data),) = outcome.files
    assert (suffix, data[:4], outcome.error) == (".png", b"\x89PNG", "")


async def test_a_run_leaves_no_file_and_removes_what_a_killed_one_left(
    worker: Worker, tmp_path: Path
) -> None:
    left = tmp_path / "worker-0" / "result" / "left.png"
    left.parent.mkdir(parents=True)
    left.touch()
    assert len((await worker.run(LANCZOS, details(png()))).files) == 1
    assert not [path for path in (tmp_path / "worker-0").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("data:image/png;base64,bm90IGFuIGltYWdl", "image"),
        ("data:image/png;base64,!", "not base64"),
        ("http://127.0.0.1:9/none.png", "can't be fetched"),
    ],
)
async def test_an_input_that_can_not_be_had_fails_with_the_reason(
    worker: Worker, image: str, says: str
) -> None:
    outcome = await worker.run(LANCZOS, details(image))
    assert (outcome.files, outcome.lost) == ((), False)
    assert says in outcome.error


async def test_an_input_without_an_end_is_given_up(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(OSError):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()

    monkeypatch.setattr("xalora_client.serving.inputs.MAX_INPUT_BYTES", 1 << 20)
    server = await asyncio.start_server(send, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    outcome = await worker.run(LANCZOS, details(f"http://127.0.0.1:{port}/endless"))
    assert outcome.error == "The input image is too large"
    server.close()


async def test_a_lack_of_memory_fails_with_the_reason_and_the_worker_goes_on(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8 GiB")

    with monkeypatch.context() as patch:
        patch.setattr("xalora_client.engines.pillow.lanczos_enlarged", no_memory)
        outcome = await worker.run(LANCZOS, details(png()))
    assert outcome.error == "The engine failed: MemoryError: Unable to allocate 8 GiB"
    assert (await worker.run(LANCZOS, details(png()))).files


async def test_a_new_run_ends_one_that_nobody_waits_for(worker: Worker) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await answer.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        left = asyncio.create_task(worker.run(LANCZOS, details(f"http://127.0.0.1:{port}/held")))
        await asked.wait()
        assert (await worker.run(LANCZOS, details(png()))).files
        with pytest.raises(asyncio.CancelledError):
            await left
        answer.set()
