"""The cluster's HTTP side: four consumer endpoints, results under ``/files/``, and the status for its owner.

Where the protocol leaves a choice, this front chooses:

* A field that it does not know, and one that is ``null``, is ignored.
* A wrong key gets 401; an unknown task, and a workflow that the cluster has no definition of, 404.
* ``resource_request`` gets 404 if no machine can run the workflow now. A create of such a task is accepted,
  and its ``msg`` says why it waits: a machine may come.
* A task without ``workflow_id`` runs the first definition of its type that some machine can run.
* Only workflows of the cluster's own definitions run: a task that brings its graph is refused.
* A repeated ``job_id`` of a consumer is the same task.
* ``queue_position`` counts from 1 among the tasks that wait for the same workers. ``upload_latency`` is the
  time that input and result took to the worker and back.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import quote

from aiohttp import web
from pydantic import ValidationError

from ..errors import InvalidTaskError
from ..media.media_types import MEDIA_TYPES
from ..serving.answers import canceled_answer, errors_as_json, refusal, status_answer
from ..serving.requests import MAX_BODY_BYTES, Id, Refusal, Seconds, checked, read_body, reason
from ..workflows.catalog import WorkflowCatalog
from ..workflows.definition import GRAPH, WorkflowDefinition
from .keys import Keys
from .rules import Task
from .store import Store
from .workforce import Workforce

logger = logging.getLogger("xalora_client.cluster")

_LARGE_BODY = 1 << 20
_DISK_SECONDS = 30.0

Answer = dict[str, Any]


class Running(Protocol):
    """What runs the tasks: the dispatcher."""

    def wake(self) -> None:
        """A task waits."""

    def stop(self, task_id: str) -> None:
        """A task has ended before its result."""


class Front:
    """The front of a cluster.

    Args:
        store: The tasks.
        workforce: The workers that are there.
        running: What runs the tasks.
        catalog: Gives the present definitions.
        keys: The consumers.
        owner_token: Opens ``GET /cluster/status``.
    """

    def __init__(
        self,
        store: Store,
        workforce: Workforce,
        running: Running,
        catalog: Callable[[], WorkflowCatalog],
        keys: Keys,
        owner_token: str,
    ) -> None:
        self._store = store
        self._workforce = workforce
        self._running = running
        self._catalog = catalog
        self._keys = keys
        self._owner_token = owner_token

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors_as_json])
        for answer in (self.resource_request, self.task_create, self.task_result_query, self.task_cancel):
            app.router.add_post(f"/{answer.__name__}", _endpoint(answer))
        app.router.add_get("/files/{key:.+}", self._file)
        app.router.add_get("/cluster/status", self._status)
        return app

    # Consumers: keyword arguments are the fields of the body, and ``origin`` is where it was asked.

    @checked
    async def resource_request(
        self, origin: str, *, consumer_id: str, api_key: str, workflow_id: str | int = "", task_type: str = ""
    ) -> Answer:
        """Whether any machine can run a workflow."""
        self._check_key(consumer_id, api_key)
        workflow = self._definition(str(workflow_id), task_type).name
        found = self._workforce.miner_for(workflow)
        if found is None:
            raise Refusal(404, str(self._workforce.why_not(workflow)))
        miner_id, idle = found
        return {"miner_id": miner_id, "msg": "idle" if idle else "busy"}

    @checked
    async def task_create(
        self,
        origin: str,
        *,
        consumer_id: str,
        api_key: str,
        task_type: str,
        task_details: dict[str, Any],
        job_id: Id,
        workflow_id: str | int = "",
        timeout_seconds: Seconds = 0,
    ) -> Answer:
        """Create a task."""
        self._check_key(consumer_id, api_key)
        if known := self._store.find_job(consumer_id, job_id):
            return {"task_id": known}
        definition = self._definition(str(workflow_id), task_type)
        _check_parameters(definition, task_details)
        new = await asyncio.to_thread(self._store.write_input, task_details)
        task_id = ""
        try:
            task_id = self._store.create(
                new,
                consumer_id=consumer_id,
                job_id=job_id,
                task_type=definition.task_type,
                workflow_id=str(workflow_id) or definition.network_id,
                workflow=definition.name,
                timeout_seconds=timeout_seconds or None,
            )
        finally:
            if task_id != new:
                # The same create came twice at once, or the disk is full.
                await asyncio.to_thread(self._store.drop_input, new)
        self._running.wake()
        return {"task_id": task_id}

    @checked
    async def task_result_query(self, origin: str, *, task_id: Id, api_key: str) -> Answer:
        """A task's status."""
        task = self._own_task(task_id, api_key)
        urls = [f"{origin}/files/{quote(key)}" for key in task.keys.split("\n") if key]
        position = self._store.queue_position(task, self._workforce.rivals(task.workflow))
        told = status_answer(
            task, result=(urls[0] if len(urls) == 1 else urls) or None, queue_position=position
        )
        if task.status == "waiting" and (why := self._workforce.why_not(task.workflow)):
            told["msg"] = ". ".join(filter(None, (task.message, why)))
        return told

    @checked
    async def task_cancel(self, origin: str, *, task_id: Id, api_key: str) -> Answer:
        """Cancel a task: the record first, then its worker."""
        task = self._own_task(task_id, api_key)
        canceled = self._store.cancel(task_id)
        if canceled:
            self._running.stop(task_id)
        return canceled_answer(task_id, task.status, canceled=canceled)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = self._store.result_path(request.match_info["key"])
        if path is None:
            return refusal(404, "There is no such result")
        media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
        return web.FileResponse(
            path, headers={"Content-Type": media_type, "X-Content-Type-Options": "nosniff"}
        )

    def _definition(self, workflow_id: str, task_type: str) -> WorkflowDefinition:
        """The definition that runs such a task.

        Raises:
            Refusal: There is none, or it is for another type of task.
        """
        if GRAPH in (workflow_id, task_type):
            raise Refusal(403, "This cluster runs its own workflows only, and no graph that a task brings")
        catalog = self._catalog()
        if not workflow_id:
            of_type = [each for each in catalog if each.task_type == task_type]
            if not of_type:
                raise Refusal(404, f"This cluster has no workflow for {task_type!r} tasks")
            able = (each for each in of_type if self._workforce.miner_for(each.name))
            return next(able, of_type[0])
        found = catalog.find(workflow_id=workflow_id)
        if found is None:
            raise Refusal(
                404, f"This cluster has no workflow {workflow_id!r}; it has {', '.join(catalog.names)}"
            )
        if task_type and task_type != found.task_type:
            raise Refusal(400, f"Workflow {workflow_id} runs {found.task_type}, not {task_type}")
        return found

    def _check_key(self, consumer_id: str, api_key: str) -> None:
        if not self._keys.is_valid(consumer_id, api_key):
            raise Refusal(401, "Invalid consumer id or API key")

    def _own_task(self, task_id: str, api_key: str) -> Task:
        if not self._keys.is_known(api_key):
            raise Refusal(401, "Invalid API key")
        task = self._store.get(task_id)
        if task is None:
            raise Refusal(404, f"No such task: {task_id}")
        self._check_key(task.consumer_id, api_key)
        return task

    # The owner

    async def _status(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._owner_token.encode()):
            return refusal(401, "This needs the cluster's token")
        workers = [
            {
                "slot": slot,
                "miner_id": offer.miner_id,
                "engine": offer.engine,
                "workflows": sorted(offer.workflows),
                "lacking": dict(offer.lacking),
                "task_id": self._workforce.tasks.get(slot),
            }
            for slot, offer in sorted(self._workforce.offers.items())
        ]
        problems = [*self._workforce.problems, *map(str, self._catalog().problems)]
        return web.json_response({"workers": workers, "tasks": self._store.counts(), "problems": problems})


def _endpoint(
    answer: Callable[..., Awaitable[Answer]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    parameters = inspect.signature(answer).parameters.values()
    fields = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            data = await request.read()
            # Parsing 60 MB takes a while.
            body = await asyncio.to_thread(read_body, data) if len(data) > _LARGE_BODY else read_body(data)
            known = {name: value for name, value in body.items() if name in fields and value is not None}
            return web.json_response(await answer(str(request.url.origin()), **known))
        except Refusal as problem:
            return refusal(problem.status, problem.message)
        except ValidationError as problem:
            return refusal(400, reason(problem))
        except (OSError, sqlite3.Error) as problem:
            # Such as a full disk: nothing was created.
            logger.error("%s was refused: %s", request.path, problem)
            return refusal(503, "The cluster's head can't write to its disk", retry_after=_DISK_SECONDS)

    return handle


def _check_parameters(definition: WorkflowDefinition, details: Answer) -> None:
    """Check ``task_details``; what the workflow does not have is ignored, as the public miner does.

    Raises:
        Refusal: A parameter is missing or does not fit.
    """
    parameters = details.get("parameters")
    if not isinstance(parameters, dict):
        raise Refusal(400, 'task_details must be {"parameters": {...}}')
    try:
        definition.validate(definition.known(parameters))
    except InvalidTaskError as problem:
        raise Refusal(400, problem.what) from None
