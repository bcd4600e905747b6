"""A sequencer that only knows a script: raw requests it expects, raw answers it gives. Real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

FIXTURES = Path(__file__).parent / "fixtures" / "client"


@dataclass
class Answer:
    """One scripted answer; `drop` closes the connection instead, before or after the body was read."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: str | None = None
    hold: asyncio.Event | None = None


@dataclass
class ScriptedSequencer:
    """Answers in order, keeping what was asked as (endpoint, body).

    Answers may also be given by a function of the endpoint and body.
    """

    answers: list[Answer] | Callable[[str, dict[str, Any]], Answer]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    url: str = ""

    def count(self, endpoint: str) -> int:
        return sum(name == endpoint for name, _ in self.asked)

    async def __aenter__(self) -> ScriptedSequencer:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/{endpoint}", self._answer)
        self._runner = web.AppRunner(app)
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
        if isinstance(scripted, list) and scripted and scripted[0].drop == "before":
            scripted.pop(0)
            self.asked.append((endpoint, {}))
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        raw = await request.read()
        self.raw.append(raw)
        body = json.loads(raw)
        self.asked.append((endpoint, body))
        answer = scripted.pop(0) if isinstance(scripted, list) else scripted(endpoint, body)
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


def load_fixture(name: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    return steps


def answers_of(steps: list[dict[str, Any]]) -> list[Answer]:
    return [Answer(step["status"], step["answer"]) for step in steps]


def assert_asked(sequencer: ScriptedSequencer, steps: list[dict[str, Any]]) -> None:
    """What was asked is what the fixture says, to the last key; `<job>` stands for any fitting job id."""
    assert len(sequencer.asked) == len(steps)
    for (endpoint, body), step in zip(sequencer.asked, steps, strict=True):
        expected = dict(step["request"])
        if expected.get("job_id") == "<job>":
            assert re.fullmatch(r"sdk-workflow-[0-9a-f]{10}", body["job_id"])
            expected["job_id"] = body["job_id"]
        assert (endpoint, body) == (step["endpoint"], expected)
