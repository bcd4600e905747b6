"""The sequencer: six endpoints of the protocol over :class:`~.state.State`, and ``GET /devnet/stats``.

Where the protocol leaves a choice, this sequencer chooses:

* It is strict in what it takes. A field that the protocol lacks, a ``null``, or a parameter that a known
  workflow does not know is refused with 400, so that a client's slip shows here rather than on a network
  that costs money.
* A wrong key answers 401, an unknown task 404, ``{"message": ...}`` in the body.
* ``resource_request`` with nobody there for the workflow answers 404.
* A task without ``workflow_id`` goes to the usual workflow of its type.
* Canceling a task that has ended changes nothing and answers 200; ``msg`` says how it ended.
* A busy miner shows that it lives by asking for work with no ``workflow_ids``. The answer holds its
  ``task_id`` while the task is still its own; an answer without one means that nothing is left to do (the
  task was canceled, say).
* A question for work is held while there is none, for a second at most: work starts when it comes.
* A miner's name is its ``erc20_address``, and one name holds one task at a time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args
from urllib.parse import quote

from aiohttp import web

from .faults import FaultPlan
from .state import ENDPOINTS, Assignment, NewTask, State, TaskRecord
from .storage import MEDIA_TYPES, Storage
from .wire import drop, refusal, refused_by

logger = logging.getLogger("xalora_client.devnet")

ResultForm = Literal["url", "key", "object", "list", "images", "videos", "image_url", "video_url", "data"]
RESULT_FORMS: tuple[str, ...] = get_args(ResultForm)

#: The workflow of a task that names none, by task type.
USUAL_WORKFLOWS = {"upscaler": "lanczos-upscale", "txt2img": "3", "txt2vid": "1"}

MAX_BODY_BYTES = 256 << 20
_TICK = 0.25
_LONGEST_HOLD = 1.0

_FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "resource_request": (frozenset({"consumer_id", "api_key"}), frozenset({"workflow_id", "task_type"})),
    "task_create": (
        frozenset({"consumer_id", "api_key", "task_type", "task_details", "job_id"}),
        frozenset({"workflow_id", "timeout_seconds"}),
    ),
    "task_result_query": (frozenset({"task_id", "api_key"}), frozenset()),
    "task_cancel": (frozenset({"task_id", "api_key"}), frozenset()),
    "miner_request": (frozenset({"erc20_address", "workflow_ids"}), frozenset()),
    "miner_submit": (
        frozenset({"success", "task_id", "miner_id"}),
        frozenset({"result", "inference_latency", "upload_latency", "msg"}),
    ),
}
_PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "upscaler": (frozenset({"image"}), frozenset()),
    "txt2img": (
        frozenset({"prompt", "lora_name"}),
        frozenset(
            {"aspect_ratio", "width", "height", "guidance", "steps", "noise_seed", "strength_model"},
        ),
    ),
    "txt2vid": (
        frozenset({"prompt"}),
        frozenset({"width", "height", "length", "steps", "seed", "fps", "quality"}),
    ),
}
_KNOWN_WORKFLOWS = {"1": "txt2vid", "2": "txt2vid", "3": "txt2img", "lanczos-upscale": "upscaler"}

Body = dict[str, Any]
Answer = dict[str, Any] | bytes


@dataclass(frozen=True, eq=False)
class _HeldQuestion:
    """A miner's question for work that is still to be answered."""

    body: Body
    request: web.Request
    answer: asyncio.Future[Answer]

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits for the answer."""
        return not self.answer.done() and self.request.transport is not None


class Refusal(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Sequencer:
    """The HTTP side of the devnet, on one address.

    Args:
        state: Tasks and counts; its owner closes it.
        storage: The result store, served on the same address.
        keys: API key by consumer id.
        faults: What goes wrong at the six endpoints.
        result_form: The form in which ``task_result_query`` tells a result.
        details_as_text: Send miners ``task_details`` as a JSON string instead of an object.
    """

    def __init__(
        self,
        state: State,
        storage: Storage,
        keys: Mapping[str, str],
        faults: FaultPlan,
        *,
        result_form: ResultForm = "url",
        details_as_text: bool = False,
    ) -> None:
        self.state = state
        self.storage = storage
        self.result_form = result_form
        self.details_as_text = details_as_text
        self.url = ""
        self._keys = dict(keys)
        self._faults = faults
        self._held: list[_HeldQuestion] = []
        self._runner: web.AppRunner | None = None
        self._clockwork: asyncio.Task[None] | None = None
        self._answers: dict[str, Callable[[Body], Coroutine[Any, Any, Answer]]] = {
            "resource_request": self._resource_request,
            "task_create": self._task_create,
            "task_result_query": self._task_result_query,
            "task_cancel": self._task_cancel,
            "miner_request": self._miner_request,
            "miner_submit": self._miner_submit,
        }

    async def start(self, host: str, port: int) -> None:
        """Serve on this address; port 0 takes a free one. :attr:`url` then holds the base URL.

        Raises:
            OSError: The address is taken or not ours.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        for name in ENDPOINTS:
            app.router.add_post(f"/{name}", self._endpoint(name))
        app.router.add_get("/devnet/stats", self._stats)
        self.storage.add_routes(app)
        # Stopping means what a crash means to clients: what hangs is cut off, nothing is waited for.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=4096)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        port = self._runner.addresses[0][1]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._clockwork = asyncio.create_task(self._keep_time())

    async def stop(self) -> None:
        """Stop serving and free the address. The state stays open."""
        if self._clockwork is not None:
            self._clockwork.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._clockwork
        for held in self._held:
            held.answer.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        self.state.save_counts()

    async def _keep_time(self) -> None:
        """Let leases and timeouts end even while nobody asks."""
        while True:
            due = self.state.next_due()
            # Never longer than a tick: a lease granted meanwhile may end before what was due next.
            await asyncio.sleep(_TICK if due is None else min(_TICK, max(0.01, due - time.time())))
            self.state.expire()
            await self._hand_out()
            self.state.save_counts()

    # HTTP

    def _endpoint(self, name: str) -> Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]:
        answer = self._answers[name]

        async def handle(request: web.Request) -> web.StreamResponse:
            self.state.count_request(name)
            hits = self._faults.draw(name)
            if early := await refused_by(request, hits):
                return early
            try:
                body = _checked(name, await request.read())
                result = await answer(body)
                if name == "miner_request" and body["workflow_ids"] and not result:
                    result = await self._hold(body, request)
            except Refusal as problem:
                return refusal(problem.status, problem.message)
            if fault := hits.get("delay_after"):
                await asyncio.sleep(fault.seconds)
            if "drop_after" in hits:
                return drop(request)
            if fault := hits.get("status_after"):
                return refusal(fault.status, "Injected fault", retry_after=fault.retry_after)
            if "garbage" in hits:
                return web.Response(text="<html>Bad gateway", content_type="text/html")
            text = result if isinstance(result, bytes) else json.dumps(result).encode()
            return web.Response(body=text, content_type="application/json")

        return handle

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.state.stats())

    # Consumers

    async def _resource_request(self, body: Body) -> Answer:
        self._check_key(body)
        workflow_id = _workflow_id(body)
        found = self.state.miner_for(workflow_id)
        if found is None:
            raise Refusal(404, f"No miner takes workflow {workflow_id!r} at present")
        miner_id, idle = found
        return {"miner_id": miner_id, "msg": "idle" if idle else "busy"}

    async def _task_create(self, body: Body) -> Answer:
        self._check_key(body)
        workflow_id = _workflow_id(body)
        details = body["task_details"]
        _check_parameters(body["task_type"], workflow_id, details)
        task_id, _ = self.state.create(
            NewTask(
                consumer_id=body["consumer_id"],
                job_id=body["job_id"],
                task_type=body["task_type"],
                workflow_id=workflow_id,
                details=json.dumps(details),
                timeout_seconds=body.get("timeout_seconds"),
            )
        )
        await self._hand_out()
        return {"task_id": task_id}

    async def _task_result_query(self, body: Body) -> Answer:
        task = self._own_task(body)
        answer: Body = {"task_id": task.task_id, "status": task.status}
        if task.result is not None:
            answer["result"] = await self._result(task.result)
        elif task.status == "failed":
            answer["result"] = {"message": task.message}
        return answer

    async def _task_cancel(self, body: Body) -> Answer:
        task = self._own_task(body)
        if self.state.cancel(task.task_id):
            return {"task_id": task.task_id, "msg": "Task canceled"}
        return {"task_id": task.task_id, "msg": f"Task has already ended: {task.status}"}

    def _check_key(self, body: Body) -> None:
        key = self._keys.get(body["consumer_id"])
        if key is None or not hmac.compare_digest(key.encode(), body["api_key"].encode()):
            raise Refusal(401, "Invalid consumer id or API key")

    def _own_task(self, body: Body) -> TaskRecord:
        if body["api_key"] not in self._keys.values():
            raise Refusal(401, "Invalid API key")
        task = self.state.get(body["task_id"])
        if task is None:
            raise Refusal(404, f"No such task: {body['task_id']}")
        self._check_key({"consumer_id": task.consumer_id, "api_key": body["api_key"]})
        return task

    async def _result(self, key: str) -> object:
        url = f"{self.url}/results/{quote(key)}"
        forms: dict[str, object] = {
            "url": url,
            "key": key,
            "object": {"url": url},
            "list": [url],
            "images": {"images": [url]},
            "videos": {"videos": [url]},
            "image_url": {"image_url": url},
            "video_url": {"video_url": url},
        }
        if self.result_form != "data":
            return forms[self.result_form]
        try:
            data = await self.storage.read(key)
        except OSError:
            raise Refusal(404, f"The result of this task is no longer kept: {key}") from None
        media_type = MEDIA_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")
        return f"data:{media_type};base64,{base64.b64encode(data).decode()}"

    # Miners

    async def _miner_request(self, body: Body) -> Answer:
        miner_id = body["erc20_address"]
        workflow_ids = [str(workflow_id) for workflow_id in body["workflow_ids"]]
        if not workflow_ids:
            held = self.state.renew(miner_id)
            return {"task_id": held} if held else {}
        task = self.state.assign(miner_id, workflow_ids)
        return self._assignment(task) if task else {}

    async def _hold(self, body: Body, request: web.Request) -> Answer:
        """Hold a miner's question until there is work for it, or for a while."""
        held = _HeldQuestion(body, request, asyncio.get_running_loop().create_future())
        self._held.append(held)
        try:
            # A miner that waits must not be taken for one that has gone silent.
            return await asyncio.wait_for(held.answer, min(_LONGEST_HOLD, self.state.lease_seconds / 4))
        except asyncio.TimeoutError:
            return {}
        finally:
            self._held.remove(held)

    async def _hand_out(self) -> None:
        """Give what waits to the miners whose questions are held, first come, first served."""
        for held in tuple(self._held):
            if not self.state.has_waiting():
                return
            if held.is_open and (answer := await self._miner_request(held.body)):
                held.answer.set_result(answer)

    def _assignment(self, task: Assignment) -> bytes:
        head = json.dumps(
            {
                "task_id": task.task_id,
                "task_type": task.task_type,
                "workflow_id": task.workflow_id,
                "credential": {
                    "upload_url": f"{self.url}/results",
                    "token": self.storage.token(task.task_id),
                },
            }
        )
        # The details are JSON text already, perhaps megabytes of it: joined on, not parsed once more.
        details = json.dumps(task.details) if self.details_as_text else task.details
        return f'{head[:-1]}, "task_details": {details}}}'.encode()

    async def _miner_submit(self, body: Body) -> Answer:
        task_id, success, result = body["task_id"], body["success"], body.get("result")
        if self.state.get(task_id) is None:
            raise Refusal(404, f"No such task: {task_id}")
        if success and not (result and self.storage.has(result)):
            raise Refusal(400, f"Nothing is stored as {result!r}")
        wanted = self.state.submit(
            task_id, body["miner_id"], success=success, result=result, message=body.get("msg", "")
        )
        return {"msg": "Taken" if wanted else "Not wanted any more"}


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as problem:
        return refusal(problem.status, problem.reason)
    except ConnectionResetError:
        # The other side hung up in the middle of a body, its own or ours; nobody reads this answer.
        return web.Response(status=400)


_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "task_details": (dict, "an object"),
    "timeout_seconds": ((int, float), "a number"),
    "workflow_ids": (list, "a list"),
    "workflow_id": ((str, int), "a string"),
    "success": (bool, "true or false"),
    "inference_latency": ((int, float), "a number"),
    "upload_latency": ((int, float), "a number"),
}


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _checked(endpoint: str, data: bytes) -> Body:
    """The request's body, with the fields that the protocol gives this endpoint and no others."""
    try:
        body = json.loads(data, parse_constant=_no_number)
    except ValueError:
        raise Refusal(400, "The body is not JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The body is not a JSON object")
    required, optional = _FIELDS[endpoint]
    if missing := sorted(required - body.keys()):
        raise Refusal(400, f"Missing: {', '.join(missing)}")
    if unknown := sorted(body.keys() - required - optional):
        raise Refusal(400, f"{endpoint} knows no {', '.join(unknown)}")
    for name, value in body.items():
        wanted, described = _TYPES.get(name, (str, "a string"))
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise Refusal(400, f"{name} must be {described}")
    if body.get("timeout_seconds", 1) <= 0:
        raise Refusal(400, "timeout_seconds must be positive")
    if "" in (body.get("job_id"), body.get("task_id")):
        raise Refusal(400, "An id must not be empty")
    return body


def _workflow_id(body: Body) -> str:
    if "workflow_id" in body:
        return str(body["workflow_id"])
    task_type = body.get("task_type", "")
    try:
        return USUAL_WORKFLOWS[task_type]
    except KeyError:
        raise Refusal(400, f"Name a workflow_id: task type {task_type!r} has no usual one") from None


def _check_parameters(task_type: str, workflow_id: str, details: Body) -> None:
    parameters = details.get("parameters")
    if not isinstance(parameters, dict) or len(details) != 1:
        raise Refusal(400, 'task_details must be {"parameters": {...}}')
    if nulls := sorted(name for name, value in parameters.items() if value is None):
        raise Refusal(400, f"Parameters are left out rather than null: {', '.join(nulls)}")
    if workflow_id not in _KNOWN_WORKFLOWS:
        return
    if task_type != _KNOWN_WORKFLOWS[workflow_id]:
        raise Refusal(400, f"Workflow {workflow_id} runs {_KNOWN_WORKFLOWS[workflow_id]}, not {task_type}")
    required, optional = _PARAMETERS[task_type]
    if missing := sorted(required - parameters.keys()):
        raise Refusal(400, f"{task_type} needs {', '.join(missing)}")
    if unknown := sorted(parameters.keys() - required - optional):
        raise Refusal(400, f"{task_type} knows no {', '.join(unknown)}")
