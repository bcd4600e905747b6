"""The sequencer: six endpoints of the protocol over :class:`~.state.State`, and ``GET /devnet/stats``.

Where the protocol leaves a choice, this sequencer chooses:

* It is strict. A field outside the protocol, a ``null``, or an unknown parameter of a known workflow is
  refused with 400, so that a bug of the client shows here and not on a network that costs money.
* A wrong key gets 401, an unknown task 404, both with ``{"message": ...}``.
* ``resource_request`` gets 404 if no miner takes the workflow.
* A task without ``workflow_id`` goes to the usual workflow of its type.
* Canceling an ended task changes nothing and gets 200; ``msg`` says how the task ended.
* A ``miner_request`` of a miner that holds a task renews its lease, whatever ``workflow_ids`` it names, and
  gets no other task: ``msg`` says that one is running, and ``lease_seconds`` how long it stays assigned to a
  miner that is silent. Without ``workflow_ids`` the answer names the task, too; without a ``task_id`` then,
  the task is over, such as canceled.
* A status answer has all fields of the protocol that are known, except ``task_details``, which may hold
  megabytes of an inlined image. ``queue_position`` counts from 1 among the tasks of a workflow.
* A ``miner_request`` that finds no task stays pending for up to a second and is answered when one comes.
* A miner's name is its ``erc20_address``; a name holds one task at a time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args
from urllib.parse import quote

from aiohttp import web
from pydantic import ValidationError

from ..media.media_types import MEDIA_TYPES
from ..serving.answers import canceled_answer, errors_as_json, refusal, status_answer
from ..serving.requests import MAX_BODY_BYTES, Body, Id, Refusal, Seconds, checked, read_body, reason
from .faults import FaultPlan
from .request_checks import check_parameters
from .state import ENDPOINTS, State, TaskRecord
from .storage import Storage
from .wire import hidden_by, refused_by

ResultForm = Literal["url", "key", "object", "list", "images", "videos", "image_url", "video_url", "data"]
RESULT_FORMS: tuple[str, ...] = get_args(ResultForm)

USUAL_WORKFLOWS = {"upscaler": "lanczos-upscale", "txt2img": "3", "txt2vid": "1"}
"""The workflow of a task without ``workflow_id``, by task type."""

_TICK_SECONDS = 0.25
_MAX_PENDING_SECONDS = 1.0
_BACKLOG = 4096
_TURNS_TO_ACCEPT = 3

Answer = dict[str, Any] | bytes


@dataclass(frozen=True, eq=False)
class _PendingRequest:
    """A ``miner_request`` that waits for a task."""

    body: Body
    request: web.Request
    answer: asyncio.Future[Answer]

    @property
    def is_open(self) -> bool:
        """Whether the miner still waits for the answer."""
        return not self.answer.done() and self.request.transport is not None


class Sequencer:
    """The HTTP side of the devnet, on one address.

    Args:
        state: Tasks and counts; the caller closes it.
        storage: The result store, served on the same address.
        keys: API key by consumer id.
        faults, result_form, details_as_text, usual_workflows, largest_request: See
            :class:`.server.Devnet`.
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
        usual_workflows: Mapping[str, str] = {},
        largest_request: int = MAX_BODY_BYTES,
    ) -> None:
        self.state = state
        self.storage = storage
        self.result_form = result_form
        self.details_as_text = details_as_text
        self.url = ""
        self._usual_workflows = {**USUAL_WORKFLOWS, **usual_workflows}
        self._largest_request = largest_request
        self._keys = dict(keys)
        self._faults = faults
        self._pending: list[_PendingRequest] = []
        self._listener: socket.socket | None = None
        self._runner: web.AppRunner | None = None
        self._timer: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Serve on this address and set :attr:`url`; port 0 takes a free one.

        Raises:
            OSError: The address is taken or not of this machine.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors_as_json])
        for name in ENDPOINTS:
            app.router.add_post(f"/{name}", self._endpoint(name))
        app.router.add_get("/devnet/stats", self._stats)
        self.storage.add_routes(app)
        # Stopping looks like a crash to clients: no request is waited for.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=False)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener, backlog=_BACKLOG).start()
        port = self._listener.getsockname()[1]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._timer = asyncio.create_task(self._run_timer())

    async def stop(self) -> None:
        """Stop serving and free the address. The state stays open."""
        if self._timer is not None:
            self._timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._timer
        for request in self._pending:
            request.answer.cancel()
        if self._listener is not None and self._runner is not None:
            # asyncio loses a connection whose listener closes while it is being accepted.
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().remove_reader(self._listener)
            for _ in range(_TURNS_TO_ACCEPT):
                await asyncio.sleep(0)
            await self._runner.cleanup()
            self._listener = None
        self.state.save_counts()

    async def _run_timer(self) -> None:
        """Expire leases and timeouts while no request comes."""
        while True:
            due = self.state.next_due()
            # At most a tick: a lease granted meanwhile may end before the next due time.
            await asyncio.sleep(
                _TICK_SECONDS if due is None else min(_TICK_SECONDS, max(0.01, due - time.time()))
            )
            self.state.expire()
            await self._assign_to_pending()
            self.state.save_counts()

    # HTTP

    def _endpoint(self, name: str) -> Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]:
        answer: Callable[..., Coroutine[Any, Any, Answer]] = getattr(self, f"_{name}")

        async def handle(request: web.Request) -> web.StreamResponse:
            self.state.count_request(name)
            hits = self._faults.draw(name)
            if early := await refused_by(request, hits):
                return early
            try:
                data = await request.read()
                if len(data) > self._largest_request:
                    raise Refusal(413, "Request Entity Too Large")
                body = read_body(data)
                result = await answer(**body)
                if name == "miner_request" and body["workflow_ids"] and not result:
                    result = await self._wait_for_task(body, request)
            except Refusal as problem:
                return refusal(problem.status, problem.message)
            except ValidationError as problem:
                return refusal(400, reason(problem))
            if late := await hidden_by(request, hits):
                return late
            if "garbage" in hits:
                return web.Response(text="<html>Bad gateway", content_type="text/html")
            text = result if isinstance(result, bytes) else json.dumps(result).encode()
            return web.Response(body=text, content_type="application/json")

        return handle

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.state.stats())

    # Consumers

    @checked
    async def _resource_request(
        self, *, consumer_id: str, api_key: str, workflow_id: str | int = "", task_type: str = ""
    ) -> Answer:
        self._check_key(consumer_id, api_key)
        workflow_id = self._workflow_id(workflow_id, task_type)
        found = self.state.miner_for(workflow_id)
        if found is None:
            raise Refusal(404, f"No miner takes workflow {workflow_id!r} now")
        miner_id, idle = found
        return {"miner_id": miner_id, "msg": "idle" if idle else "busy"}

    @checked
    async def _task_create(
        self,
        *,
        consumer_id: str,
        api_key: str,
        task_type: str,
        task_details: dict[str, Any],
        job_id: Id,
        workflow_id: str | int = "",
        timeout_seconds: Seconds = 0,
    ) -> Answer:
        self._check_key(consumer_id, api_key)
        workflow_id = self._workflow_id(workflow_id, task_type)
        check_parameters(task_type, workflow_id, task_details)
        task_id = self.state.create(
            consumer_id=consumer_id,
            job_id=job_id,
            task_type=task_type,
            workflow_id=workflow_id,
            details=json.dumps(task_details),
            timeout_seconds=timeout_seconds or None,
        )
        await self._assign_to_pending()
        return {"task_id": task_id}

    @checked
    async def _task_result_query(self, *, task_id: Id, api_key: str) -> Answer:
        task = self._own_task(task_id, api_key)
        result = None if task.result is None else await self._result(task.result)
        return status_answer(task, result=result, queue_position=self.state.queue_position(task))

    @checked
    async def _task_cancel(self, *, task_id: Id, api_key: str) -> Answer:
        task = self._own_task(task_id, api_key)
        canceled = self.state.cancel(task_id)
        return canceled_answer(task_id, task.status, canceled=canceled)

    def _workflow_id(self, given: str | int, task_type: str) -> str:
        workflow_id = str(given) or self._usual_workflows.get(task_type)
        if workflow_id is None:
            raise Refusal(400, f"workflow_id is required: task type {task_type!r} has no usual one")
        return workflow_id

    def _check_key(self, consumer_id: str, api_key: str) -> None:
        key = self._keys.get(consumer_id)
        if key is None or not hmac.compare_digest(key.encode(), api_key.encode()):
            raise Refusal(401, "Invalid consumer id or API key")

    def _own_task(self, task_id: str, api_key: str) -> TaskRecord:
        if api_key not in self._keys.values():
            raise Refusal(401, "Invalid API key")
        task = self.state.get(task_id)
        if task is None:
            raise Refusal(404, f"No such task: {task_id}")
        self._check_key(task.consumer_id, api_key)
        return task

    async def _result(self, key: str) -> object:
        url = f"{self.url}/files/{quote(key)}"
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
            raise Refusal(404, f"The result of this task is no longer stored: {key}") from None
        media_type = MEDIA_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")
        return f"data:{media_type};base64,{base64.b64encode(data).decode()}"

    # Miners

    @checked
    async def _miner_request(self, *, erc20_address: str, workflow_ids: list[str | int]) -> Answer:
        held = self.state.renew(erc20_address)
        if held is not None:
            busy = {"msg": "A task is running on this miner", "lease_seconds": self.state.lease_seconds}
            return busy if workflow_ids else {"task_id": held, **busy}
        if not workflow_ids:
            return {}
        task = self.state.assign(erc20_address, [str(workflow_id) for workflow_id in workflow_ids])
        return self._assignment(task) if task else {}

    async def _wait_for_task(self, body: Body, request: web.Request) -> Answer:
        """The answer to a ``miner_request`` when a task comes, or an empty one after a while."""
        pending = _PendingRequest(body, request, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        try:
            # Shorter than a lease: a waiting miner must not look like a silent one.
            return await asyncio.wait_for(
                pending.answer, min(_MAX_PENDING_SECONDS, self.state.lease_seconds / 4)
            )
        except asyncio.TimeoutError:
            return {}
        finally:
            self._pending.remove(pending)

    async def _assign_to_pending(self) -> None:
        """Assign waiting tasks to pending requests, in the order of their arrival."""
        for pending in tuple(self._pending):
            if not self.state.has_waiting():
                return
            if pending.is_open and (answer := await self._miner_request(**pending.body)):
                pending.answer.set_result(answer)

    def _assignment(self, task: TaskRecord) -> bytes:
        head = json.dumps(
            {
                "task_id": task.task_id,
                "task_type": task.task_type,
                "workflow_id": task.workflow_id,
                "credential": {
                    "upload_url": f"{self.url}/files",
                    "token": self.storage.token(task.task_id),
                },
            }
        )
        # The details are JSON text already, maybe megabytes, so they are joined and not parsed again.
        details = json.dumps(task.details) if self.details_as_text else task.details
        return f'{head[:-1]}, "task_details": {details}}}'.encode()

    @checked
    async def _miner_submit(
        self,
        *,
        success: bool,
        task_id: Id,
        miner_id: str,
        result: str = "",
        inference_latency: float | None = None,
        upload_latency: float | None = None,
        msg: str = "",
    ) -> Answer:
        if self.state.get(task_id) is None:
            raise Refusal(404, f"No such task: {task_id}")
        if success and not self.storage.has(result):
            raise Refusal(400, f"Nothing is stored as {result!r}")
        wanted = self.state.submit(
            task_id,
            miner_id,
            success=success,
            result=result if success else None,
            message=msg,
            inference_latency=inference_latency,
            upload_latency=upload_latency,
        )
        return {"msg": "Accepted" if wanted else "No longer wanted"}
