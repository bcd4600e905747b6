"""Miners: ask the sequencer for work, run it, upload the result, submit its key. Only the protocol in
between.

A miner asks for work at once after a submit, and ``poll`` seconds after an answer that had none. While it
works it shows that it lives by asking for nothing (``miner_request`` with no ``workflow_ids``); see
:mod:`.sequencer`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import io
import json
import logging
import os
import secrets
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import aiohttp

from .engines import EngineError, MinerEngine, MinerTask, engine_by_name
from .faults import MINER, Fault, FaultPlan

logger = logging.getLogger("xalora_client.devnet")

#: The known workflows of the network, and the upscaling that needs no model.
DEFAULT_WORKFLOW_IDS = ("1", "2", "3", "lanczos-upscale")

#: Seconds a task takes: fixed, or found out from the task.
TaskSeconds = float | Callable[[MinerTask], float] | None

_KEY_PREFIXES = {"upscaler": "upscaler", "txt2vid": "test-video", "txt2img": "flux-lora"}
_MAX_INPUT_BYTES = 256 << 20
_LONGEST_PAUSE = 0.5
_WAITING_THREADS = 64


class MinerDied(Exception):
    """A fault killed this miner in the middle of a task."""


class _Unreachable(Exception):
    """The sequencer or store did not give a usable answer; trying again may help."""


class _Refused(Exception):
    """The sequencer or store said no; trying again does not help."""


class Miner:
    """One miner.

    Args:
        sequencer_url: Base URL of the sequencer.
        session: For all its requests; its owner closes it.
        executor: Where the engine runs.
        name: Sent as ``erc20_address`` and ``miner_id``; one name, one miner.
        engine: What runs the tasks.
        workflow_ids: The workflows it takes.
        poll: Seconds from an answer without work to the next question.
        heartbeat: Seconds between two signs of life while busy.
        task_seconds: The least a task takes, waited for beside the engine's work, so that it costs no CPU.
        faults: What goes wrong with it (endpoint ``miner``).
    """

    def __init__(
        self,
        sequencer_url: str,
        *,
        session: aiohttp.ClientSession,
        executor: Executor,
        name: str,
        engine: MinerEngine,
        workflow_ids: Sequence[str] = DEFAULT_WORKFLOW_IDS,
        poll: float = 0.1,
        heartbeat: float = 1.0,
        task_seconds: TaskSeconds = None,
        faults: FaultPlan | None = None,
    ) -> None:
        self.name = name
        self.task_id: str | None = None
        self._url = sequencer_url.rstrip("/")
        self._session = session
        self._executor = executor
        self._engine = engine
        self._workflow_ids = list(workflow_ids)
        self._poll = poll
        self._heartbeat = heartbeat
        self._task_seconds = task_seconds
        self._faults = faults or FaultPlan()

    async def run(self) -> None:
        """Mine until cancelled.

        Raises:
            MinerDied: A ``death`` fault hit.
        """
        while True:
            try:
                answer = await self._post(
                    "miner_request", {"erc20_address": self.name, "workflow_ids": self._workflow_ids}
                )
            except (_Unreachable, _Refused) as problem:
                logger.debug("%s cannot ask for work: %s", self.name, problem)
                answer = {}
            if not answer.get("task_id"):
                await asyncio.sleep(self._poll)
                continue
            self.task_id = answer["task_id"]
            try:
                await self._work(answer)
            finally:
                self.task_id = None

    async def _work(self, answer: Mapping[str, Any]) -> None:
        """Do one task and submit it, unless the sequencer lets it drop meanwhile."""
        hits = self._faults.draw(MINER)
        job = asyncio.create_task(self._do(answer, hits))
        alive = asyncio.create_task(self._stay_alive(answer["task_id"]))
        try:
            await asyncio.wait({job, alive}, return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                job.result()
        finally:
            for part in (job, alive):
                part.cancel()
            await asyncio.gather(job, alive, return_exceptions=True)

    async def _stay_alive(self, task_id: str) -> None:
        """Renew the lease; returns when the task is no longer this miner's."""
        while True:
            await asyncio.sleep(self._heartbeat)
            with contextlib.suppress(_Unreachable, _Refused):
                answer = await self._post("miner_request", {"erc20_address": self.name, "workflow_ids": []})
                if answer.get("task_id") != task_id:
                    return

    async def _do(self, answer: Mapping[str, Any], hits: Mapping[Any, Fault]) -> None:
        task_id = answer["task_id"]
        report: dict[str, Any] = {"task_id": task_id, "miner_id": self.name}
        started = time.monotonic()
        try:
            task = await self._task(answer)
            data, suffix = await self._run_engine(task, dying="death" in hits)
            if "failed" in hits:
                raise EngineError("Injected fault: the miner failed")
            uploading = time.monotonic()
            folder = _KEY_PREFIXES.get(task.task_type, "results")
            key = f"{folder}/{task.task_type}-{self.name}-{task_id}{suffix}"
            await self._upload(answer["credential"], key, data)
            report |= {
                "success": True,
                "result": key,
                "inference_latency": round(uploading - started, 3),
                "upload_latency": round(time.monotonic() - uploading, 3),
                "msg": "",
            }
        except (EngineError, _Refused) as problem:
            report |= {"success": False, "msg": str(problem)}
            logger.info("%s failed task %s: %s", self.name, task_id, problem)
        try:
            await self._insist(lambda: self._post("miner_submit", report))
        except _Refused as problem:
            logger.info("%s could not submit task %s: %s", self.name, task_id, problem)

    async def _task(self, answer: Mapping[str, Any]) -> MinerTask:
        details = answer.get("task_details")
        if isinstance(details, str):
            try:
                details = json.loads(details)
            except ValueError:
                details = None
        parameters = details.get("parameters") if isinstance(details, dict) else None
        if not isinstance(parameters, dict):
            raise EngineError("task_details hold no parameters")
        image = parameters.get("image")
        return MinerTask(
            task_id=answer["task_id"],
            task_type=str(answer.get("task_type")),
            workflow_id=str(answer.get("workflow_id")),
            parameters=parameters,
            image=await self._fetch(image) if isinstance(image, str) else None,
        )

    async def _run_engine(self, task: MinerTask, *, dying: bool) -> tuple[bytes, str]:
        seconds = self._task_seconds(task) if callable(self._task_seconds) else self._task_seconds or 0.0
        if dying:
            await asyncio.sleep(seconds / 2)
            raise MinerDied(self.name)
        loop = asyncio.get_running_loop()
        try:
            result, _ = await asyncio.gather(
                loop.run_in_executor(self._executor, self._engine.run, task), asyncio.sleep(seconds)
            )
        except EngineError:
            raise
        except Exception as problem:
            # Whatever an engine stumbles over ends its task, which else would kill one miner after another.
            logger.exception("The engine of %s broke at task %s", self.name, task.task_id)
            raise EngineError(f"The engine broke: {type(problem).__name__}: {problem}") from problem
        finally:
            task.stopped.set()
        return result

    async def _fetch(self, url: str) -> bytes:
        if url.startswith("data:"):
            return _data_from(url)
        try:
            async with self._session.get(url) as response:
                if response.status != 200:
                    raise EngineError(f"The input image answered {response.status}")
                if (response.content_length or 0) > _MAX_INPUT_BYTES:
                    raise EngineError("The input image is too large")
                return await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as problem:
            raise EngineError(f"The input image cannot be fetched: {type(problem).__name__}") from problem

    async def _upload(self, credential: Mapping[str, str], key: str, data: bytes) -> None:
        url = f"{credential['upload_url']}/{urllib.parse.quote(key)}"
        headers = {"Authorization": f"Bearer {credential['token']}"}

        async def put() -> None:
            async with self._request("PUT", url, data=io.BytesIO(data), headers=headers):
                pass

        await self._insist(put)

    async def _post(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._request("POST", f"{self._url}/{endpoint}", json=body) as response:
            try:
                answer = await response.json(content_type=None)
            except ValueError as problem:
                raise _Unreachable(f"{endpoint} answered what is not JSON") from problem
        if not isinstance(answer, dict):
            raise _Unreachable(f"{endpoint} answered no JSON object")
        return answer

    @contextlib.asynccontextmanager
    async def _request(self, method: str, url: str, **options: Any) -> Any:
        try:
            async with self._session.request(method, url, **options) as response:
                if response.status >= 500 or response.status == 429:
                    raise _Unreachable(f"{response.status}")
                if response.status >= 400:
                    raise _Refused(f"{response.status}: {(await response.text())[:200]}")
                yield response
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as problem:
            raise _Unreachable(f"{type(problem).__name__}: {problem}") from problem

    async def _insist(self, attempt: Callable[[], Any]) -> None:
        """Try until it works or is refused: work that is done should not be lost to a restart of the
        sequencer."""
        pause = 0.05
        while True:
            try:
                await attempt()
            except _Unreachable as problem:
                logger.debug("%s tries again: %s", self.name, problem)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
            else:
                return


def _data_from(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise EngineError("The data: URI has no data")
    if not head.endswith(";base64"):
        return urllib.parse.unquote_to_bytes(body)
    try:
        data = base64.b64decode(body)
    except binascii.Error as problem:
        raise EngineError(f"The data: URI is not base64: {problem}") from problem
    # What is no base64 is passed over; looking for it beforehand takes several times as long as decoding.
    if len(data) != len(body) * 3 // 4 - body[-2:].count("="):
        raise EngineError("The data: URI is not base64: it has other characters")
    return data


def _stand_back() -> None:
    """Let the calling thread compute only where nobody else wants the processor.

    Miners stand for machines elsewhere: what they compute is not to hold up their client, which they share
    this one with. Linux only; a thread has no priority of its own elsewhere.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class MinerCrew:
    """Several miners in this process, sharing a connection pool and worker threads.

    Args:
        sequencer_url: Base URL of the sequencer.
        miners: How many to start with.
        engine: An engine, or the name of one (``auto``, ``pillow``, ``testcard``).
        name_prefix: Miners are called by this and a number.
        replace_dead: Start a new miner for each that a ``death`` fault killed, so that work goes on.
        workflow_ids, poll, heartbeat, task_seconds, faults: See :class:`Miner`.
    """

    def __init__(
        self,
        sequencer_url: str,
        *,
        miners: int = 1,
        engine: MinerEngine | str = "auto",
        workflow_ids: Sequence[str] = DEFAULT_WORKFLOW_IDS,
        poll: float = 0.1,
        heartbeat: float = 1.0,
        task_seconds: TaskSeconds = None,
        faults: FaultPlan | None = None,
        name_prefix: str = "miner",
        replace_dead: bool = True,
    ) -> None:
        self._url = sequencer_url
        self._size = miners
        self._engine = engine_by_name(engine) if isinstance(engine, str) else engine
        self._workflow_ids = tuple(workflow_ids)
        self._poll = poll
        self._heartbeat = heartbeat
        self._task_seconds = task_seconds
        self._faults = faults or FaultPlan()
        self._prefix = name_prefix
        self._replace_dead = replace_dead
        self._hired = 0
        self._running: dict[str, tuple[Miner, asyncio.Task[None]]] = {}
        self._session: aiohttp.ClientSession | None = None
        # The engines of this package compute; another may only wait for a machine elsewhere.
        threads = (os.cpu_count() or 1) if isinstance(engine, str) else _WAITING_THREADS
        self._executor = ThreadPoolExecutor(
            threads, thread_name_prefix="xalora-miner", initializer=_stand_back
        )

    async def __aenter__(self) -> MinerCrew:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=300, sock_connect=10)
        )
        for _ in range(self._size):
            self.add_miner()
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: self._executor.shutdown(cancel_futures=True)
        )

    @property
    def miners(self) -> dict[str, str | None]:
        """The living miners by name, and the task that each is at."""
        return {name: miner.task_id for name, (miner, _) in self._running.items()}

    def add_miner(self, workflow_ids: Iterable[str] | None = None) -> str:
        """Start one more miner; returns its name. ``workflow_ids`` may differ from the crew's."""
        assert self._session is not None, "a crew is entered before miners are added"
        self._hired += 1
        miner = Miner(
            self._url,
            session=self._session,
            executor=self._executor,
            name=f"{self._prefix}{self._hired}",
            engine=self._engine,
            workflow_ids=self._workflow_ids if workflow_ids is None else tuple(workflow_ids),
            poll=self._poll,
            heartbeat=self._heartbeat,
            task_seconds=self._task_seconds,
            faults=self._faults,
        )
        task = asyncio.create_task(miner.run(), name=miner.name)
        task.add_done_callback(self._ended)
        self._running[miner.name] = (miner, task)
        return miner.name

    def kill_miner(self, name: str | None = None) -> str:
        """A miner vanishes without a word: this one, else one that is at work, else any. Returns its name.

        Raises:
            LookupError: There is no such miner, or none at all.
        """
        if name is None:
            busy = [name for name, task_id in self.miners.items() if task_id is not None]
            name = next(iter(busy or self._running), None)
        if name is None or name not in self._running:
            raise LookupError(f"No such miner: {name}" if name else "No miner is alive")
        _, task = self._running.pop(name)
        task.cancel()
        return name

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        name = task.get_name()
        self._running.pop(name, None)
        problem = task.exception()
        if not isinstance(problem, MinerDied):
            logger.error("%s stopped", name, exc_info=problem)
        if self._replace_dead and self._session is not None and not self._session.closed:
            self.add_miner()


async def mine(
    sequencer_url: str,
    *,
    stop: asyncio.Event,
    miners: int = 1,
    on_ready: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Run miners against a sequencer until ``stop`` is set; options as of :class:`MinerCrew`."""
    # Miners of several processes must not share a name.
    options.setdefault("name_prefix", f"miner_{secrets.token_hex(2)}_")
    async with MinerCrew(sequencer_url, miners=miners, **options):
        on_ready()
        await stop.wait()
