"""Probes of the network with the key: miners, a smallest task, a cancel, a repeated create."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config import Settings
from ...errors import AmbiguousCreateError, XaloraError
from ...events import Running, Submitted, TaskEvent, UnknownStatus, Waiting
from ...journal import TaskState
from ...media.inputs import prepare_image
from ...media.media_types import sniff_file
from ...network.sequencer import Network
from ...network.sessions import cancel_session, create_session, shared_session
from ...network.status import TERMINAL_STATUSES
from ...network.transport import Answer, InlineImage, OutcomeUnknown, Transport, Undelivered
from ...tasks import UpscalerTask
from .findings import (
    NO_SUCH_WORKFLOW,
    Finding,
    TaskProbe,
    cancel_finding,
    failed,
    job_id_finding,
    miner_finding,
    preflight_finding,
    task_findings,
)

if TYPE_CHECKING:
    from ...client import AsyncXalora

SIDE = 64
"""Of the smallest task's image, in pixels."""

JOB_ID_PREFIX = "xalora-doctor"


class Line:
    """Requests to the network whose whole answers are seen, beside those of a client.

    Args:
        client: Sends the tasks, and remembers them in its journal.
    """

    def __init__(self, client: AsyncXalora, transport: Transport, network: Network) -> None:
        self.client = client
        self._transport = transport
        self._network = network
        self._credentials = client.settings.credentials()

    async def miner(self, task_type: str | None, workflow_id: str | None) -> Mapping[str, Any] | XaloraError:
        """The answer of ``resource_request``, or its refusal."""
        try:
            return await self._network.reserve(
                self._credentials, task_type=task_type, workflow_id=workflow_id
            )
        except XaloraError as error:
            return error

    async def answer_about(self, task_id: str) -> Mapping[str, Any]:
        """The whole answer of ``task_result_query``; empty where there is none."""
        try:
            answer = await self._transport.post("task_result_query", self._credentials, task_id=task_id)
        except (OutcomeUnknown, Undelivered, XaloraError):
            return {}
        return answer.payload or {}

    async def create_again(self, job_id: str, image: InlineImage) -> Answer:
        """A create under a job id that was sent before.

        Raises:
            OutcomeUnknown, Undelivered: There is no answer.
        """
        return await self._transport.post(
            "task_create",
            self._credentials,
            consumer_id=self._credentials.consumer_id,
            task_type=UpscalerTask.task_type,
            task_details={"parameters": {"image": image}},
            job_id=job_id,
        )


@asynccontextmanager
async def line(client: AsyncXalora) -> AsyncIterator[Line]:
    """Requests with the client's key and settings."""
    settings: Settings = client.settings
    sessions = shared_session(), create_session(), cancel_session()
    try:
        transport = Transport(*sessions, settings.workflow_url, settings.request_timeout, settings.allow_http)
        yield Line(client, transport, Network(transport, settings.sequencer_url, settings.max_retries))
    finally:
        for session in sessions:
            await session.close()


async def miners(line: Line, workflows: Sequence[tuple[str, str, str | None]]) -> list[Finding]:
    """A miner for each workflow, given as name, task type and id, and for one that does not exist."""
    answers = {name: await line.miner(task_type, workflow) for name, task_type, workflow in workflows}
    made_up = await line.miner(UpscalerTask.task_type, NO_SUCH_WORKFLOW)
    found = [miner_finding(name, answer) for name, answer in answers.items()]
    return [*found, preflight_finding(list(answers.values()), made_up)]


async def smallest_task(line: Line, timeout: float) -> list[Finding]:
    """Run one task; what is not done in time is canceled."""
    statuses: list[str] = []
    task_id: str | None = None

    def note(event: TaskEvent) -> None:
        nonlocal task_id
        task_id = event.task_id or task_id
        words = {Submitted: "submitted", Waiting: "waiting", Running: "running"}
        word = event.status if isinstance(event, UnknownStatus) else words.get(type(event))
        if word is not None and word not in statuses[-1:]:
            statuses.append(word)

    began = monotonic()
    try:
        result = await line.client.run(
            _task(), again=True, fallback="never", timeout=timeout, on_timeout="cancel", on_event=note
        )
    except XaloraError as error:
        answers = {"task_result_query": await line.answer_about(task_id)} if task_id else {}
        return task_findings(TaskProbe(task_id, statuses, answers, error=error))
    seconds = monotonic() - began
    task_id = result.task_id
    answers = {"task_result_query": await line.answer_about(str(task_id))}
    kinds = [kind.value if (kind := sniff_file(file)) else file.suffix for file in result.files]
    return task_findings(TaskProbe(task_id, statuses, answers, kinds, seconds))


async def cancel(line: Line) -> list[Finding]:
    """Create a task and cancel it at once."""
    try:
        task_id = (await line.client.submit(_task(), again=True)).task_id
    except XaloraError as error:
        return [failed("cancel", error)]
    answer: Mapping[str, Any] | XaloraError
    try:
        answer = await line.client.cancel_task(task_id)
    except XaloraError as error:
        answer = error
    status = (await line.answer_about(task_id)).get("status")
    await _forget(line, task_id)
    return [cancel_finding(task_id, answer, None if status is None else str(status))]


async def repeated_job_id(line: Line) -> list[Finding]:
    """Send one create twice under one job id, and cancel what comes of it."""
    task = _task()
    try:
        first = (await line.client.submit(task, again=True)).task_id
        record = line.client.journal.find(task_id=first, sequencer_url=line.client.settings.sequencer_url)
    except XaloraError as error:
        return [failed("repeated job_id", error)]
    second: str | XaloraError = XaloraError("the journal does not have the first create's job id yet")
    status: int | None = None
    if record is not None:
        prepared = prepare_image(task.image)
        try:
            answer = await line.create_again(
                record.job_id, InlineImage(prepared.kind.media_type, prepared.data)
            )
            status = answer.status
            second = answer.task_id if answer.ok and answer.task_id else _not_created(answer)
        except (OutcomeUnknown, Undelivered) as error:
            second = AmbiguousCreateError(f"the second create got no answer ({error})")
    found = [job_id_finding(first, second, status)]
    for task_id in dict.fromkeys([first, *([second] if isinstance(second, str) else [])]):
        try:
            await line.client.cancel_task(task_id)
        except XaloraError as error:
            if (await line.answer_about(task_id)).get("status") not in TERMINAL_STATUSES:
                found.append(failed(f"cancel of task {task_id}", error))
    await _forget(line, first)
    return found


async def _forget(line: Line, task_id: str) -> None:
    """Forget a task that had finished before its cancel: nobody wants its result."""
    journal = line.client.journal
    record = journal.find(task_id=task_id, sequencer_url=line.client.settings.sequencer_url)
    if record is not None and record.state is TaskState.FINISHED:
        await asyncio.wrap_future(journal.forget([record.id]))


def _not_created(answer: Answer) -> XaloraError:
    return XaloraError(f"HTTP {answer.status}: {answer.text}", money="")


def _task() -> UpscalerTask:
    """A new task each time: its pixels are random."""
    pixels = np.frombuffer(secrets.token_bytes(SIDE * SIDE * 3), np.uint8).reshape(SIDE, SIDE, 3)
    return UpscalerTask(pixels, job_id_prefix=JOB_ID_PREFIX)
