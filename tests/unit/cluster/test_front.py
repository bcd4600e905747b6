"""The cluster's endpoints, over a real socket and without Ray."""

from __future__ import annotations

import base64
import errno
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from xalora_client.cluster.front import Front
from xalora_client.cluster.keys import Keys
from xalora_client.cluster.store import Store
from xalora_client.cluster.workforce import Offer, Workforce
from xalora_client.workflows.catalog import WorkflowCatalog

CATALOG = WorkflowCatalog.load()
IMAGE = "data:image/png;base64," + base64.b64encode(b"pixels").decode()


class Running:
    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def stop(self, task_id: str) -> None:
        self.stopped.append(task_id)


class Cluster:
    """A front, and what a consumer named ``me`` asks of it."""

    def __init__(self, folder: Path) -> None:
        self.store, self.workforce, self.running = Store(folder), Workforce(), Running()
        self.keys = Keys(folder / "keys.json")
        self.consumer_id, self.api_key = self.keys.add("me").split("#")
        self.front = Front(
            self.store, self.workforce, self.running, lambda: CATALOG, self.keys, owner_token="token"
        )
        self.client: TestClient[Any, Any]

    def offer(self, *workflows: str, slot: str = "box/0") -> None:
        lacking = {name: "no model file" for name in CATALOG.names if name not in workflows}
        self.workforce.offers[slot] = Offer(f"{slot}-gpu", "comfyui", frozenset(workflows), lacking)

    async def ask(self, endpoint: str, **body: Any) -> tuple[int, dict[str, Any]]:
        data = io.BytesIO(json.dumps({"api_key": self.api_key, **body}).encode())
        async with self.client.post(f"/{endpoint}", data=data) as answer:
            return answer.status, await answer.json()

    async def create(self, job_id: str = "job-1", **more: Any) -> tuple[int, dict[str, Any]]:
        body: dict[str, Any] = {
            "consumer_id": self.consumer_id,
            "task_type": "upscaler",
            "workflow_id": "lanczos-upscale",
            "task_details": {"parameters": {"image": IMAGE}},
            "job_id": job_id,
        }
        return await self.ask("task_create", **body | more)

    async def created(self, job_id: str = "job-1", **more: Any) -> str:
        status, answer = await self.create(job_id, **more)
        assert status == 200, answer
        return str(answer["task_id"])


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster")
    async with TestClient(TestServer(cluster.front.app())) as cluster.client:
        yield cluster
    cluster.store.close()


async def test_a_task_goes_from_its_create_to_its_file(cluster: Cluster) -> None:
    cluster.offer("lanczos-upscale")
    task_id = await cluster.created()
    assert cluster.running.woken == 1
    _, waiting = await cluster.ask("task_result_query", task_id=task_id)
    assert (waiting["status"], waiting["queue_position"]) == ("waiting", 1)
    assert "msg" not in waiting
    task = cluster.store.take("box/0-gpu", ["lanczos-upscale"])
    assert task is not None
    _, running = await cluster.ask("task_result_query", task_id=task_id)
    assert (running["status"], running["miner_id"]) == ("running", "box/0-gpu")
    keys = cluster.store.write_result(task, [(".png", b"pixels")])
    cluster.store.finish(task_id, 1, keys, inference_latency=1.5, upload_latency=0.1)
    _, done = await cluster.ask("task_result_query", task_id=task_id)
    assert (done["status"], done["inference_latency"], done["task_type"]) == ("finished", 1.5, "upscaler")
    async with cluster.client.get(URL(done["result"]).path) as file:
        assert (file.status, file.content_type, await file.read()) == (200, "image/png", b"pixels")


async def test_a_part_of_a_file_can_be_asked_for(cluster: Cluster) -> None:
    await cluster.created()
    task = cluster.store.take("box", ["lanczos-upscale"])
    assert task is not None
    (key,) = cluster.store.write_result(task, [(".png", b"0123456789")])
    async with cluster.client.get(f"/files/{key}", headers={"Range": "bytes=4-"}) as file:
        assert (file.status, await file.read()) == (206, b"456789")


async def test_several_files_are_a_list(cluster: Cluster) -> None:
    task_id = await cluster.created()
    task = cluster.store.take("box", ["lanczos-upscale"])
    assert task is not None
    cluster.store.finish(task_id, 1, cluster.store.write_result(task, [(".png", b"1"), (".png", b"2")]))
    _, done = await cluster.ask("task_result_query", task_id=task_id)
    assert len(done["result"]) == 2


async def test_a_repeated_job_is_the_same_task(cluster: Cluster, tmp_path: Path) -> None:
    assert await cluster.created() == await cluster.created()
    assert len(list((tmp_path / "cluster" / "inputs").iterdir())) == 1
    assert await cluster.created() != await cluster.created("job-2")


async def test_a_failure_has_its_reason(cluster: Cluster) -> None:
    task_id = await cluster.created()
    cluster.store.take("box", ["lanczos-upscale"])
    cluster.store.fail(task_id, 1, "CUDA out of memory")
    _, failed = await cluster.ask("task_result_query", task_id=task_id)
    assert (failed["status"], failed["msg"]) == ("failed", "CUDA out of memory")
    assert failed["result"] == {"message": "CUDA out of memory"}


async def test_a_cancel_changes_the_record_and_then_stops_the_worker(cluster: Cluster) -> None:
    task_id = await cluster.created()
    assert (await cluster.ask("task_cancel", task_id=task_id))[1] == {
        "task_id": task_id,
        "msg": "Task canceled",
    }
    assert cluster.running.stopped == [task_id]
    _, again = await cluster.ask("task_cancel", task_id=task_id)
    assert again["msg"] == "Task has already ended: canceled"
    assert cluster.running.stopped == [task_id]


async def test_what_no_machine_can_run_is_refused_before_it_is_created(cluster: Cluster) -> None:
    asked = {"consumer_id": cluster.consumer_id, "workflow_id": "upscale"}
    status, answer = await cluster.ask("resource_request", **asked)
    assert (status, answer["message"]) == (404, "No machine of this cluster is ready to run upscale now")
    cluster.offer("lanczos-upscale")
    status, answer = await cluster.ask("resource_request", **asked)
    assert status == 404
    assert answer["message"] == "No machine of this cluster can run upscale now (box/0-gpu: no model file)"
    cluster.offer("upscale", slot="box/1")
    assert (await cluster.ask("resource_request", **asked)) == (200, {"miner_id": "box/1-gpu", "msg": "idle"})
    cluster.workforce.tasks["box/1"] = "a task"
    assert (await cluster.ask("resource_request", **asked))[1]["msg"] == "busy"


async def test_what_no_machine_can_run_waits_and_says_why(cluster: Cluster) -> None:
    cluster.offer("lanczos-upscale")
    task_id = await cluster.created(workflow_id="upscale")
    _, waiting = await cluster.ask("task_result_query", task_id=task_id)
    assert waiting["status"] == "waiting"
    assert waiting["msg"] == "No machine of this cluster can run upscale now (box/0-gpu: no model file)"


async def test_a_task_without_a_workflow_runs_the_first_that_a_machine_can(cluster: Cluster) -> None:
    cluster.offer("lanczos-upscale")
    task = cluster.store.get(await cluster.created(workflow_id=None))
    assert task is not None and task.workflow == "lanczos-upscale"
    cluster.offer("upscale", slot="box/1")
    task = cluster.store.get(await cluster.created("job-2", workflow_id=None))
    assert task is not None and task.workflow == "upscale"


async def test_the_queue_is_that_for_the_same_workers(cluster: Cluster) -> None:
    cluster.offer("lanczos-upscale", "upscale")
    cluster.offer("sharpen", slot="box/1")
    await cluster.created("1")
    await cluster.created("2", workflow_id="sharpen", task_type="img2img")
    third = await cluster.created("3", workflow_id="upscale")
    _, waiting = await cluster.ask("task_result_query", task_id=third)
    assert waiting["queue_position"] == 2


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"workflow_id": "none-such"}, 404, "no workflow 'none-such'"),
        ({"workflow_id": None, "task_type": "none-such"}, 404, "no workflow for 'none-such' tasks"),
        ({"task_type": "txt2img"}, 400, "runs upscaler, not txt2img"),
        ({"workflow_id": "comfyui-graph", "task_type": "comfyui-graph"}, 403, "its own workflows only"),
        ({"workflow_id": None, "task_type": "comfyui-graph"}, 403, "its own workflows only"),
        ({"task_details": {}}, 400, "task_details must be"),
        ({"task_details": {"parameters": {}}}, 400, "image"),
        ({"task_details": {"parameters": {"image": 5}}}, 400, "image"),
        ({"job_id": ""}, 400, "job_id"),
        ({"job_id": None}, 400, "job_id"),
        ({"timeout_seconds": -1}, 400, "timeout_seconds"),
        ({"timeout_seconds": "5"}, 400, "timeout_seconds"),
    ],
)
async def test_a_create_that_does_not_fit_is_refused(
    cluster: Cluster, more: dict[str, Any], status: int, says: str
) -> None:
    answered, answer = await cluster.create(**more)
    assert answered == status
    assert says in answer["message"]
    assert cluster.store.counts() == {}


async def test_unknown_and_empty_fields_are_ignored(cluster: Cluster) -> None:
    parameters = {"image": IMAGE, "unknown": 1}
    await cluster.created(surprise=1, timeout_seconds=None, task_details={"parameters": parameters})


async def test_a_stranger_gets_nothing(cluster: Cluster) -> None:
    task_id = await cluster.created()
    other, other_key = cluster.keys.add("other").split("#")
    for key in ("", "wrong", other_key):
        for endpoint, body in {
            "task_create": {"consumer_id": "me"},
            "resource_request": {"consumer_id": "me", "workflow_id": "upscale"},
            "task_result_query": {"task_id": task_id},
            "task_cancel": {"task_id": task_id},
        }.items():
            call = cluster.create if endpoint == "task_create" else cluster.ask
            arguments = ("job-9",) if endpoint == "task_create" else (endpoint,)
            status, answer = await call(*arguments, **body, api_key=key)
            assert (status, list(answer)) == (401, ["message"]), endpoint
    assert cluster.store.counts() == {"waiting": 1}
    cluster.keys.revoke(other)
    assert (await cluster.ask("task_result_query", task_id=task_id, api_key=other_key))[0] == 401


async def test_a_key_that_is_revoked_while_its_task_runs(cluster: Cluster) -> None:
    task_id = await cluster.created()
    task = cluster.store.take("box/0", ["lanczos-upscale"])
    assert task is not None
    cluster.keys.revoke("me")
    for endpoint in ("task_result_query", "task_cancel"):
        assert (await cluster.ask(endpoint, task_id=task_id))[0] == 401
    assert (await cluster.create("job-2"))[0] == 401
    # The task goes on, and is there for the consumer's next key.
    cluster.store.finish(task_id, 1, cluster.store.write_result(task, [(".png", b"pixels")]))
    cluster.api_key = cluster.keys.add("me").partition("#")[2]
    status, told = await cluster.ask("task_result_query", task_id=task_id)
    assert (status, told["status"]) == (200, "finished")


async def test_the_status_needs_the_owners_token(cluster: Cluster) -> None:
    cluster.offer("lanczos-upscale")
    async with cluster.client.get("/cluster/status") as answer:
        assert answer.status == 401
    async with cluster.client.get("/cluster/status", headers={"Authorization": "Bearer token"}) as answer:
        told = await answer.json()
    assert told["workers"][0]["workflows"] == ["lanczos-upscale"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"api_key": NaN}'])
async def test_what_is_no_json_object_is_refused(cluster: Cluster, body: bytes) -> None:
    async with cluster.client.post("/task_create", data=body) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    "odd",
    [
        *('"timeout_seconds": 1e999', '"job_id": "\\ud800"', '"workflow_id": "\\ud800"'),
        *('"task_type": "\\ud800"', '"consumer_id": "\\ud800"', '"api_key": "\\ud800"'),
    ],
)
async def test_what_no_answer_could_hold_is_refused(cluster: Cluster, odd: str) -> None:
    details = {"parameters": {"image": IMAGE}}
    body = {"consumer_id": "me", "api_key": cluster.api_key, "task_type": "upscaler", "task_details": details}
    text = json.dumps({**body, "job_id": "job-1"})[:-1] + f", {odd}}}"
    async with cluster.client.post("/task_create", data=text) as answer:
        assert answer.status in (400, 401, 404)
        assert "message" in await answer.json()
    assert cluster.store.counts() == {}


async def test_a_large_input_is_kept_beside_the_rows(cluster: Cluster, tmp_path: Path) -> None:
    image = "data:image/png;base64," + base64.b64encode(bytes(20 << 20)).decode()
    task_id = await cluster.created(task_details={"parameters": {"image": image}})
    assert (tmp_path / "cluster" / "tasks.db").stat().st_size < 1 << 20
    assert len(cluster.store.read_input(task_id)) > 20 << 20


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("write_input", OSError(errno.ENOSPC, "No space left on device")),
        ("create", sqlite3.OperationalError("database or disk is full")),
    ],
)
async def test_a_full_disk_refuses_a_create_such_that_it_may_be_sent_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, problem: Exception
) -> None:
    def full(*_: object, **__: object) -> str:
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(cluster.store, step, full)
        body = {"consumer_id": "me", "api_key": cluster.api_key, "task_type": "upscaler", "job_id": "job-1"}
        body["task_details"] = {"parameters": {"image": IMAGE}}
        async with cluster.client.post("/task_create", json=body) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
            assert "can't write to its disk" in (await answer.json())["message"]
    assert cluster.store.counts() == {}
    assert not [*(tmp_path / "cluster" / "inputs").iterdir()], "a create that is sent again must find room"
    await cluster.created()
