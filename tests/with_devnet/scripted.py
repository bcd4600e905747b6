"""A sequencer that only knows a script: raw requests it expects, raw answers it gives. Real sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import web
from PIL import Image

from xalora_client import UpscalerTask

FIXTURES = Path(__file__).parent / "fixtures" / "client"
POLL = "task_result_query"
KEY = "alice#s3cret"


@dataclass
class Answer:
    """One scripted answer; `drop` closes the connection instead, before or after the body was read.

    It is given `delay` seconds late, and not before `hold` is set.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: str | None = None
    hold: asyncio.Event | None = None
    delay: float = 0.0


Script = list[Answer] | dict[str, list[Answer]] | Callable[[str, dict[str, Any]], Answer]


@dataclass
class ScriptedSequencer:
    """Answers in order, keeping what was asked as (endpoint, body).

    Answers may also be given by endpoint, or by a function of the endpoint and body.
    """

    answers: Script
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    url: str = ""

    def count(self, endpoint: str) -> int:
        return sum(name == endpoint for name, _ in self.asked)

    def first(self, endpoint: str) -> float:
        """When an endpoint was asked for the first time, on the monotonic clock."""
        return next(
            moment for moment, (name, _) in zip(self.moments, self.asked, strict=True) if name == endpoint
        )

    async def __aenter__(self) -> ScriptedSequencer:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/{endpoint}", self._answer)
        app.router.add_get("/never.png", _never)
        # What a test holds back is not waited for when it has ended.
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        endpoint = request.match_info["endpoint"]
        scripted = self.answers
        if isinstance(scripted, dict):
            scripted = scripted[endpoint]
        if isinstance(scripted, list) and scripted and scripted[0].drop == "before":
            scripted.pop(0)
            self._note(endpoint, {})
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        raw = await request.read()
        self.raw.append(raw)
        body = json.loads(raw)
        self._note(endpoint, body)
        if isinstance(scripted, list):
            # How often a task is asked about is not the script's affair: its last answer stands.
            stays = isinstance(self.answers, dict) and endpoint == POLL and len(scripted) == 1
            answer = scripted[0] if stays else scripted.pop(0)
        else:
            answer = scripted(endpoint, body)
        await asyncio.sleep(answer.delay)
        if answer.hold is not None:
            await answer.hold.wait()
        if answer.drop == "after":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        return web.Response(
            status=answer.status, text=text, headers=answer.headers, content_type="application/json"
        )

    def _note(self, endpoint: str, body: dict[str, Any]) -> None:
        self.asked.append((endpoint, body))
        self.moments.append(monotonic())


async def _never(request: web.Request) -> web.StreamResponse:
    """A result whose bytes never come."""
    await asyncio.Event().wait()
    raise AssertionError


def status(word: str, task_id: str = "t-1", **more: Any) -> Answer:
    """The answer to a poll."""
    return Answer(200, {"task_id": task_id, "status": word, **more})


def png(of: str = "") -> str:
    """A small picture as a data URI; another text makes another picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "#" + hashlib.md5(of.encode()).hexdigest()[:6]).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def running(task_id: str) -> Answer:
    return status("running")


def task(name: str = "cat") -> UpscalerTask:
    """A task; another name makes another one of the same kind."""
    return UpscalerTask(image_url=f"https://example.org/{name}.png")


PICTURE = task()
OTHER_PICTURE = task("dog")
ACCEPTED = Answer(200, {"task_id": "t-1"})


class ScriptedNetwork:
    """Tasks t-1, t-2, ... of a network that counts what it would charge for.

    Tasks that were canceled say so, those in `results` are finished, the others are as `status_of` says. The
    functions, where they are set, answer first; what they leave unanswered (None) takes its usual course.

    Attributes:
        created: How many tasks there are.
        bodies: The create of each task.
        canceled: Tasks whose cancel took effect.
        cancels: All requests to cancel, by task id.
        results: Results of finished tasks.
    """

    def __init__(self, status_of: Callable[[str], Answer] = running) -> None:
        self.created = 0
        self.bodies: dict[str, dict[str, Any]] = {}
        self.canceled: set[str] = set()
        self.cancels: list[str] = []
        self.results: dict[str, Any] = {}
        self.cancel_hold: asyncio.Event | None = None
        self.cancel_asked = asyncio.Event()
        self.polled = asyncio.Event()
        self.on_create: Callable[[dict[str, Any]], Answer | None] = lambda body: None
        self.on_poll: Callable[[str], Answer | None] = lambda task_id: None
        self.on_cancel: Callable[[str], Answer | None] = lambda task_id: None
        self._status_of = status_of

    def __call__(self, endpoint: str, body: dict[str, Any]) -> Answer:
        if endpoint == "task_create":
            return self.on_create(body) or self.accept(body)
        task_id = body["task_id"]
        if endpoint == "task_cancel":
            return self._cancel(task_id)
        self.polled.set()
        said = self.on_poll(task_id)
        if said is not None:
            return said
        answer = self._status_of(task_id)
        if task_id in self.canceled:
            answer = status("canceled")
        elif task_id in self.results:
            answer = status("finished", result=self.results[task_id])
        return replace(answer, body={**answer.body, "task_id": task_id})

    def accept(self, body: dict[str, Any], hold: asyncio.Event | None = None) -> Answer:
        """Make a task; `hold` keeps its answer back."""
        self.created += 1
        task_id = f"t-{self.created}"
        self.bodies[task_id] = body
        return Answer(200, {"task_id": task_id}, hold=hold)

    def finish(self, *task_ids: str) -> None:
        """Finish these tasks, or all; the picture is of what the task asked for."""
        for task_id in task_ids or self.bodies:
            self.results[task_id] = png(str(self.bodies[task_id]["task_details"]["parameters"]))

    def _cancel(self, task_id: str) -> Answer:
        self.cancels.append(task_id)
        said = self.on_cancel(task_id)
        if said is None:
            self.canceled.add(task_id)
            said = Answer(200, {"task_id": task_id, "msg": "canceled"}, hold=self.cancel_hold)
        self.cancel_asked.set()
        return said


def load_fixture(name: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return steps


def answers_of(steps: list[dict[str, Any]]) -> dict[str, list[Answer]]:
    """The answers by endpoint."""
    answers: dict[str, list[Answer]] = {}
    for step in steps:
        answers.setdefault(step["endpoint"], []).append(Answer(step["status"], step["answer"]))
    return answers


def assert_asked(sequencer: ScriptedSequencer, steps: list[dict[str, Any]]) -> None:
    """What was asked of each endpoint is what the fixture says, to the last key, polls at least as often.

    `<job>` stands for any fitting job id.
    """
    for endpoint in {name for name, _ in sequencer.asked} | {step["endpoint"] for step in steps}:
        asked = [body for name, body in sequencer.asked if name == endpoint]
        expected = [dict(step["request"]) for step in steps if step["endpoint"] == endpoint]
        if endpoint == POLL:
            expected += expected[-1:] * (len(asked) - len(expected))
        assert len(asked) == len(expected), endpoint
        for body, request in zip(asked, expected, strict=True):
            if request.get("job_id") == "<job>":
                assert re.fullmatch(r"sdk-workflow-[0-9a-f]{10}", body["job_id"])
                request["job_id"] = body["job_id"]
            assert body == request
