"""Miners of the devnet: their requests and engines, and the network after deaths and restarts."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from aiohttp import web
from PIL import Image

from xalora_client.devnet import Devnet, DevnetThread
from xalora_client.devnet.engines import MinerTask
from xalora_client.devnet.miner import MinerPool
from xalora_client.errors import EngineError

FIXTURES = Path(__file__).parent / "fixtures"


def png(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    bands = [Image.effect_noise(size, 60 + band) for band in range(len(Image.new(mode, (1, 1)).getbands()))]
    image = bands[0] if mode == "L" else Image.merge(mode, bands)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


class Consumer:
    """A consumer in plain HTTP."""

    def __init__(self, session: aiohttp.ClientSession, devnet: Devnet) -> None:
        self.session, self.devnet, self.jobs = session, devnet, 0

    async def post(self, endpoint: str, body: Any) -> dict[str, Any]:
        async with self.session.post(f"{self.devnet.url}/{endpoint}", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def create(self, task_type: str, parameters: dict[str, Any], **more: Any) -> str:
        self.jobs += 1
        body = {
            "consumer_id": "devnet",
            "api_key": "devnet",
            "task_type": task_type,
            "task_details": {"parameters": parameters},
            "job_id": f"sdk-workflow-{self.jobs:010x}",
        }
        return str((await self.post("task_create", body | more))["task_id"])

    async def upscale(self, image: str | None = None, **more: Any) -> str:
        return await self.create("upscaler", {"image": image or data_uri(png())}, **more)

    async def query(self, task_id: str) -> dict[str, Any]:
        return await self.post("task_result_query", {"task_id": task_id, "api_key": "devnet"})

    async def cancel(self, task_id: str) -> None:
        await self.post("task_cancel", {"task_id": task_id, "api_key": "devnet"})

    async def result(self, task_id: str) -> tuple[bytes, str]:
        await self.devnet.wait_for_status(task_id, "finished")
        async with self.session.get((await self.query(task_id))["result"]) as response:
            assert response.status == 200
            return await response.read(), response.content_type


class Blocking:
    """An engine whose tasks last until the test releases them."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.tasks: list[MinerTask] = []

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        self.tasks.append(task)
        while not self.go.wait(0.01):
            if task.stopped.is_set():
                raise EngineError("stopped")
        return b"done", ".png"


# Protocol


@pytest.mark.parametrize("as_text", [False, True])
async def test_a_miner_alone_speaks_the_protocol(as_text: bool) -> None:
    """Against a server that only knows the raw answers."""
    script = json.loads((FIXTURES / "miner.json").read_text())
    heard: list[tuple[str, Any]] = []
    submitted = asyncio.Event()
    assigned = False

    async def miner_request(request: web.Request) -> web.Response:
        nonlocal assigned
        body = await request.json()
        heard.append(("miner_request", body))
        if not body["workflow_ids"]:
            # A sign of life: on a busy machine the engine takes longer than a second.
            return web.json_response({"task_id": script["assignment"]["task_id"]})
        if assigned:
            return web.json_response({})
        assigned = True
        answer = json.loads(json.dumps(script["assignment"]))
        answer["credential"]["upload_url"] = f"http://{request.host}/store"
        if as_text:
            answer["task_details"] = json.dumps(answer["task_details"])
        return web.json_response(answer)

    async def upload(request: web.Request) -> web.Response:
        heard.append((f"PUT {request.path}", request.headers["Authorization"]))
        image = Image.open(io.BytesIO(await request.read()))
        heard.append(("image", (image.format, image.size)))
        return web.Response(status=201)

    async def miner_submit(request: web.Request) -> web.Response:
        heard.append(("miner_submit", await request.json()))
        submitted.set()
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/miner_request", miner_request)
    app.router.add_post("/miner_submit", miner_submit)
    app.router.add_put("/store/{key:.+}", upload)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with MinerPool(url, miners=1, workflow_ids=["lanczos-upscale", "1"], name_prefix="0xabc"):
            await asyncio.wait_for(submitted.wait(), 20)
    finally:
        await runner.cleanup()

    names = [name for name, _ in heard]
    assert names[0] == "miner_request"
    assert heard[0][1] == {"erc20_address": "0xabc1", "workflow_ids": ["lanczos-upscale", "1"]}
    (put,) = [(name, value) for name, value in heard if name.startswith("PUT")]
    assert put[1] == f"Bearer {script['assignment']['credential']['token']}"
    assert dict(heard[1:])["image"] == ("PNG", (4, 2))
    (submit,) = [value for name, value in heard if name == "miner_submit"]
    assert submit.keys() == script["submit"].keys()
    for name, value in script["submit"].items():
        if isinstance(value, float):
            assert 0 <= submit.pop(name) < 20
        elif name == "result":
            assert f"/store/{submit.pop('result')}" == put[0].removeprefix("PUT ")
        else:
            assert submit.pop(name) == value
    assert submit == {}


# Engines


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
async def test_lanczos_doubles_the_real_pixels_and_keeps_alpha(mode: str) -> None:
    photo = png(mode)
    async with Devnet(miners=1) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        data, media_type = await consumer.result(await consumer.upscale(data_uri(photo)))
    got = Image.open(io.BytesIO(data))
    wanted = Image.open(io.BytesIO(photo)).resize((80, 60), Image.Resampling.LANCZOS)
    assert (got.format, media_type) == ("PNG", "image/png")
    assert (got.mode, got.size) == (mode, (80, 60))
    assert got.tobytes() == wanted.tobytes()


async def test_the_input_may_be_an_http_url() -> None:
    photo = png()

    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=photo, content_type="image/png")

    app = web.Application()
    app.router.add_get("/photo.png", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with Devnet(miners=1) as devnet, aiohttp.ClientSession() as session:
            consumer = Consumer(session, devnet)
            data, _ = await consumer.result(await consumer.upscale(f"{base}/photo.png"))
            assert Image.open(io.BytesIO(data)).size == (80, 60)
            gone = await consumer.upscale(f"{base}/gone.png")
            task = await devnet.wait_for_status(gone, "failed", "finished")
            assert (task.status, task.message) == ("failed", "The input image answered 404")
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (data_uri(png()[:200]), "Not a readable image"),
        (data_uri(b"not an image at all"), "Not a readable image"),
        ("data:image/png;base64,***", "not base64"),
        ("data:image/png;base64", "no data"),
        ("nonsense://x", "can't be fetched"),
    ],
)
async def test_a_bad_input_fails_the_task_and_says_why(image: str, says: str) -> None:
    async with Devnet(miners=1) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        task_id = await consumer.upscale(image)
        task = await devnet.wait_for_status(task_id, "failed", "finished")
        assert task.status == "failed"
        assert says in task.message
        assert (await consumer.query(task_id))["result"] == {"message": task.message}


@pytest.mark.parametrize(
    ("task_type", "parameters", "workflow_id", "media_type"),
    [
        ("txt2vid", {"prompt": "a", "length": 5}, "1", "video/mp4"),
        ("txt2vid", {"prompt": "a", "length": 5, "width": 256, "height": 256}, "2", "image/webp"),
        ("txt2img", {"prompt": "a", "lora_name": "b", "width": 512, "height": 512}, "3", "image/jpeg"),
    ],
)
async def test_test_cards_come_in_the_form_of_their_workflow(
    task_type: str, parameters: dict[str, Any], workflow_id: str, media_type: str
) -> None:
    async with Devnet(miners=1) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        task_id = await consumer.create(task_type, parameters, workflow_id=workflow_id)
        data, got = await consumer.result(task_id)
    assert got == media_type
    if media_type == "video/mp4":
        with av.open(io.BytesIO(data)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
    else:
        assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == parameters.get("length", 1)


class Broken:
    """An engine with a bug."""

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        raise ZeroDivisionError("a slip in the engine")


async def test_an_engine_that_raises_ends_its_task_and_not_its_miner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Devnet(miners=1, engine=Broken()) as devnet, aiohttp.ClientSession() as session:
        (name,) = devnet.miners
        consumer = Consumer(session, devnet)
        for _ in range(2):
            task = await devnet.wait_for_status(await consumer.upscale(), "failed")
            assert task.miner_id == name
            assert "ZeroDivisionError: a slip in the engine" in task.message
    assert "The engine of miner1 failed" in caplog.text


async def test_a_given_engine_gets_more_threads_than_the_machine_has_cores() -> None:
    everybody = threading.Barrier(12)

    class Together:
        def run(self, task: MinerTask) -> tuple[bytes, str]:
            everybody.wait(20)
            return b"done", ".png"

    async with Devnet(miners=12, engine=Together()) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        for _ in range(12):
            await consumer.upscale()
        stats = await devnet.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["running_now"] == 0)
        assert stats["tasks"]["finished"] == 12


# The network


async def test_several_miners_work_at_once_whatever_the_cpu() -> None:
    async with Devnet(miners=8, task_seconds=0.5) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        for _ in range(16):
            await consumer.upscale()
        started = asyncio.get_running_loop().time()
        stats = await devnet.wait_for(lambda stats: stats["tasks"]["finished"] == 16)
        assert asyncio.get_running_loop().time() - started >= 0.5
        assert stats["running_most"] == 8
        assert stats["running_now"] == 0


async def test_tasks_may_take_each_its_own_time() -> None:
    def seconds(task: MinerTask) -> float:
        return float(task.parameters["prompt"])

    async with (
        Devnet(miners=2, task_seconds=seconds) as devnet,
        aiohttp.ClientSession() as session,
    ):
        consumer = Consumer(session, devnet)
        slow = await consumer.create("txt2vid", {"prompt": "30", "length": 1})
        quick = await consumer.create("txt2vid", {"prompt": "0.01", "length": 1})
        await devnet.wait_for_status(quick, "finished")
        assert devnet.task(slow).status == "running"


async def test_a_task_waits_until_a_miner_for_its_workflow_comes() -> None:
    async with Devnet(miners=2, engine=Done()) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        special = await consumer.upscale(workflow_id="my-own")
        usual = await consumer.upscale()
        await devnet.wait_for_status(usual, "finished")
        assert devnet.task(special).status == "waiting"
        ask = {"consumer_id": "devnet", "api_key": "devnet", "workflow_id": "my-own"}
        async with session.post(f"{devnet.url}/resource_request", json=ask) as response:
            assert response.status == 404
        name = devnet.add_miner(["my-own"])
        task = await devnet.wait_for_status(special, "finished")
        assert task.miner_id == name
        assert (await consumer.post("resource_request", ask))["miner_id"] == name


class Done:
    def run(self, task: MinerTask) -> tuple[bytes, str]:
        return task.task_id.encode(), ".png"


async def test_a_miner_request_waits_for_a_task() -> None:
    async with Devnet(miners=0, lease=60) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        ask = consumer.post("miner_request", {"erc20_address": "0xA", "workflow_ids": ["lanczos-upscale"]})
        question = asyncio.create_task(ask)
        await devnet.wait_for(lambda stats: stats["endpoints"]["miner_request"] == 1)
        task_id = await consumer.upscale()
        assert (await question)["task_id"] == task_id
        assert devnet.stats()["endpoints"]["miner_request"] == 1


async def test_a_miner_that_closed_its_waiting_request_gets_no_task() -> None:
    async with Devnet(miners=0, lease=60) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        async with aiohttp.ClientSession() as leaving:
            gone = Consumer(leaving, devnet)
            ask = {"erc20_address": "0xA", "workflow_ids": ["lanczos-upscale"]}
            question = asyncio.create_task(gone.post("miner_request", ask))
            await devnet.wait_for(lambda stats: stats["endpoints"]["miner_request"] == 1)
            question.cancel()
        task_id = await consumer.upscale()
        assert devnet.task(task_id).status == "waiting"
        answer = await consumer.post("miner_request", ask | {"erc20_address": "0xB"})
        assert answer["task_id"] == task_id
        assert devnet.task(task_id).assignments == 1


async def test_a_killed_miners_task_goes_to_another() -> None:
    engine = Blocking()
    async with Devnet(miners=1, lease=0.5, engine=engine) as devnet, aiohttp.ClientSession() as session:
        task_id = await Consumer(session, devnet).upscale()
        await devnet.wait_for_status(task_id, "running")
        victim = devnet.kill_miner()
        assert devnet.miners == {}
        await devnet.wait_for_status(task_id, "waiting")
        engine.go.set()
        name = devnet.add_miner()
        task = await devnet.wait_for_status(task_id, "finished")
        assert task.miner_id == name != victim
        assert task.assignments == 2


async def test_miners_apart_from_a_devnet_take_faults_as_text() -> None:
    async with Devnet(miners=0) as devnet, aiohttp.ClientSession() as session:
        async with MinerPool(devnet.url, faults=["miner:failed:n=1"]):
            task_id = await Consumer(session, devnet).upscale()
            task = await devnet.wait_for_status(task_id, "failed", "finished")
        assert re.fullmatch(r"Injected fault \d+: the miner failed", task.message)


async def test_a_busy_miner_keeps_its_task_far_beyond_the_lease() -> None:
    engine = Blocking()
    async with (
        Devnet(miners=2, lease=0.3, engine=engine) as devnet,
        aiohttp.ClientSession() as session,
    ):
        task_id = await Consumer(session, devnet).upscale()
        await devnet.wait_for_status(task_id, "running")
        asked = devnet.stats()["endpoints"]["miner_request"]
        # Two idle miners send 40 requests within about two seconds, which is several leases.
        await devnet.wait_for(lambda stats: stats["endpoints"]["miner_request"] > asked + 40)
        assert devnet.task(task_id).assignments == 1
        engine.go.set()
        assert (await devnet.wait_for_status(task_id, "finished")).assignments == 1


async def test_a_request_that_takes_long_to_be_read_costs_no_miner_its_task() -> None:
    """Else the request, which is large, would be given to one miner after another."""
    engine = Blocking()
    async with (
        Devnet(miners=4, lease=0.5, engine=engine) as devnet,
        aiohttp.ClientSession() as session,
    ):
        task_id = await Consumer(session, devnet).upscale()
        await devnet.wait_for_status(task_id, "running")
        asked = devnet.stats()["endpoints"]["miner_request"]
        for _ in range(2):
            # Nothing else runs on this loop meanwhile, as while a large request is read.
            time.sleep(2)  # noqa: ASYNC251
            asked += 20
            await devnet.wait_for(lambda stats, asked=asked: stats["endpoints"]["miner_request"] > asked)
        engine.go.set()
        assert (await devnet.wait_for_status(task_id, "finished")).assignments == 1
    assert len(engine.tasks) == 1


@pytest.mark.parametrize("ending", ["cancel", "timeout"])
async def test_a_task_that_ended_stops_its_miner(ending: str) -> None:
    engine = Blocking()
    async with Devnet(miners=1, lease=0.4, engine=engine) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        first = await consumer.upscale(**({"timeout_seconds": 0.5} if ending == "timeout" else {}))
        await devnet.wait_for_status(first, "running")
        second = await consumer.upscale()
        if ending == "cancel":
            await consumer.cancel(first)
        await devnet.wait_for_status(first, "canceled")
        # The engine does not end by itself, so a running second task shows that the first was stopped.
        await devnet.wait_for_status(second, "running")
        assert engine.tasks[0].stopped.is_set()
        engine.go.set()
        await devnet.wait_for_status(second, "finished")
        assert (await consumer.query(first))["status"] == "canceled"


async def test_a_miner_that_asks_while_it_works_is_told_so_and_keeps_its_task() -> None:
    # The public miner of 2025 asks every 2 s whatever it does, and never renews otherwise.
    async with Devnet(miners=0, lease=0.5) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        first, second = await consumer.upscale(), await consumer.upscale()
        body = {"erc20_address": "0xA", "workflow_ids": ["lanczos-upscale"]}

        async def ask() -> Any:
            async with session.post(f"{devnet.url}/miner_request", json=body) as response:
                return await response.json()

        task = await ask()
        assert task["task_id"] == first
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 1.5:
            answer = await ask()
            assert "running" in answer["msg"] and "task_id" not in answer
            await asyncio.sleep(0.05)
        assert devnet.task(first).assignments == 1
        report = {"success": False, "task_id": first, "miner_id": "0xA", "msg": "x"}
        async with session.post(f"{devnet.url}/miner_submit", json=report) as response:
            assert response.status == 200
        assert (await ask())["task_id"] == second


async def test_a_miner_that_lost_the_answer_with_its_task_gets_it_after_the_lease() -> None:
    async with Devnet(miners=0, lease=0.5, engine=Done()) as devnet, aiohttp.ClientSession() as session:
        task_id = await Consumer(session, devnet).upscale()
        devnet.add_fault("miner_request:drop_after:n=1")
        devnet.add_miner()
        assert (await devnet.wait_for_status(task_id, "finished")).assignments == 2


@pytest.mark.parametrize("with_file", [False, True])
async def test_a_restart_keeps_every_task_and_its_miner(tmp_path: Path, with_file: bool) -> None:
    engine = Blocking()
    db = tmp_path / "devnet.sqlite" if with_file else None
    async with Devnet(miners=1, db=db, engine=engine) as devnet, aiohttp.ClientSession() as session:
        consumer = Consumer(session, devnet)
        running, waiting = await consumer.upscale(), await consumer.upscale()
        await devnet.wait_for_status(running, "running")
        before, url = devnet.stats(), devnet.url

        await devnet.stop_sequencer()
        with pytest.raises(aiohttp.ClientConnectionError):
            await consumer.query(running)
        engine.go.set()  # the result comes while nobody is there to take it
        await devnet.start_sequencer()

        assert devnet.url == url
        assert devnet.stats()["creates"] == before["creates"] == 2
        for task_id in (running, waiting):
            assert (await consumer.result(task_id))[0] == b"done"
        assert devnet.task(running).assignments == 1


async def test_a_new_devnet_on_the_same_file_goes_on(tmp_path: Path) -> None:
    db = tmp_path / "devnet.sqlite"
    async with aiohttp.ClientSession() as session:
        async with Devnet(miners=1, db=db, engine=Done()) as devnet:
            consumer = Consumer(session, devnet)
            done = await consumer.upscale()
            await devnet.wait_for_status(done, "finished")
            left = await consumer.upscale(workflow_id="nobody-yet")
        async with Devnet(miners=0, db=db, engine=Done()) as devnet:
            consumer = Consumer(session, devnet)
            assert (await consumer.result(done))[0] == done.encode()
            assert (await consumer.query(left))["status"] == "waiting"
            devnet.add_miner(["nobody-yet"])
            assert (await consumer.result(left))[0] == left.encode()
            assert devnet.stats()["creates"] == 2


async def test_a_wait_that_times_out_names_the_counts() -> None:
    async with Devnet(miners=0) as devnet, aiohttp.ClientSession() as session:
        task_id = await Consumer(session, devnet).upscale()
        with pytest.raises(TimeoutError, match="'waiting': 1"):
            await devnet.wait_for_status(task_id, "finished", timeout=0.05)
        with pytest.raises(KeyError):
            await devnet.wait_for_status("no-such-task", "finished")


def test_the_same_without_an_event_loop(tmp_path: Path) -> None:
    def post(url: str, body: Any) -> Any:
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def create(devnet: DevnetThread, job_id: str) -> str:
        body = {
            "consumer_id": "me",
            "api_key": "k",
            "task_type": "upscaler",
            "task_details": {"parameters": {"image": data_uri(png())}},
            "job_id": job_id,
        }
        return str(post(f"{devnet.url}/task_create", body)["task_id"])

    with DevnetThread(miners=2, api_key="me-k", db=tmp_path / "db") as devnet:
        assert devnet.api_key == "me-k"
        first = create(devnet, "first")
        assert devnet.wait_for_status(first, "finished").status == "finished"
        devnet.restart_sequencer()
        second = create(devnet, "second")
        devnet.wait_for(lambda stats: stats["tasks"]["finished"] == 2)
        assert devnet.task_ids() == [first, second]
        assert devnet.task(second).consumer_id == "me"
        killed = devnet.kill_miner()
        assert killed not in devnet.miners
        assert devnet.add_miner() in devnet.miners
        assert devnet.expire_results() == 2
        devnet.add_fault("task_create:503:n=1")
        with pytest.raises(urllib.error.HTTPError):
            create(devnet, "third")
        devnet.clear_faults()
        assert devnet.stats()["creates"] == 2
        with pytest.raises(KeyError):
            devnet.task("no-such-task")
    assert not any(thread.name == "xalora-devnet" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"api_key": "nokey"}, ValueError),
        ({"result_form": "telegram"}, ValueError),
        ({"faults": ["task_create:explode"]}, ValueError),
    ],
)
def test_an_invalid_option_is_refused_and_leaves_no_thread(options: Any, error: type[Exception]) -> None:
    def start() -> None:
        with DevnetThread(**options):
            pass

    with pytest.raises(error):
        start()
    assert not any(thread.name == "xalora-devnet" for thread in threading.enumerate())


def test_a_condition_may_ask_the_blocking_devnet_itself() -> None:
    """Conditions run on the devnet's own thread, which must not wait for itself."""
    with DevnetThread(miners=1) as devnet:
        devnet.wait_for(lambda stats: devnet.stats() == stats and list(devnet.miners.values()) == [None])


def test_a_taken_port_is_an_error() -> None:
    with DevnetThread(miners=0) as devnet:
        port = int(devnet.url.rpartition(":")[2])
        attempt: Callable[[], object] = DevnetThread(port, miners=0).__enter__
        with pytest.raises(OSError, match="in use"):
            attempt()


async def test_miners_take_the_workflows_that_come_while_they_run() -> None:
    ids, looks = ["1"], 0

    def changed() -> list[str] | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise EngineError("the server is away")
        return ids if len(ids) > 1 else None

    async with (
        Devnet(miners=2, workflow_ids=ids, changed_workflow_ids=changed) as devnet,
        aiohttp.ClientSession() as session,
    ):
        asking = {"consumer_id": "devnet", "api_key": "devnet", "workflow_id": "soft"}

        async def status() -> int:
            async with session.post(f"{devnet.url}/resource_request", json=asking) as response:
                return response.status

        assert await status() == 404
        ids.append("soft")

        for _ in range(600):
            if await status() == 200:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("no miner takes it")
