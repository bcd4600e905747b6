"""Miners: request a task from the sequencer, run it, upload the result, submit its key.

A miner requests the next task at once after a submit, and ``poll`` seconds after an answer without a task.
While it runs a task it renews its lease by a ``miner_request`` without ``workflow_ids``; see
:mod:`.sequencer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import logging
import os
import sys
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_exponential

from ..errors import EngineError, XaloraError
from ..serving.inputs import fetch_input
from . import DEFAULT_POLL_SECONDS
from .engines import DefaultEngine, MinerEngine, MinerTask
from .faults import MINER, Fault, FaultPlan

logger = logging.getLogger("xalora_client.devnet")

DEFAULT_WORKFLOW_IDS = ("1", "2", "3", "lanczos-upscale")
"""The known workflows of the network, and LANCZOS upscaling."""

TaskSeconds = float | Callable[[MinerTask], float] | None
"""How long a task takes at least: a number, or a function of the task."""

_KEY_PREFIXES = {"upscaler": "upscaler", "txt2vid": "test-video", "txt2img": "flux-lora"}
WATCH_SECONDS = 0.25
"""How often miners look whether there are other workflows."""

_MAX_RETRY_SECONDS = 0.5
_WAITING_THREADS = 64

# Failures by chance differ from each other, as those of many miners do.
_failures = itertools.count(1)


class MinerDied(Exception):
    """A ``death`` fault killed this miner in the middle of a task."""


class _Unreachable(Exception):
    """The sequencer or store gave no usable answer; a retry may help."""


class _Refused(Exception):
    """The sequencer or store refused; a retry does not help."""


@dataclass(eq=False, kw_only=True)
class Miner:
    """One miner.

    Args:
        sequencer_url: Base URL of the sequencer.
        session: For all requests; the caller closes it.
        executor: Runs the engine.
        name: Sent as ``erc20_address`` and ``miner_id``; unique.
        engine: Runs the tasks.
        workflow_ids: The workflows that the miner takes.
        poll: Seconds between two requests while idle.
        heartbeat: Seconds between two renewals of the lease.
        task_seconds: How long a task takes at least. The miner sleeps meanwhile, so it costs no CPU.
        faults: Its faults have the endpoint ``miner``.
    """

    sequencer_url: str
    session: aiohttp.ClientSession
    executor: Executor
    name: str
    engine: MinerEngine
    workflow_ids: Sequence[str]
    poll: float
    heartbeat: float
    task_seconds: TaskSeconds
    faults: FaultPlan
    task_id: str | None = field(default=None, init=False)

    async def run(self) -> None:
        """Run tasks until cancelled.

        Raises:
            MinerDied: A ``death`` fault hit.
        """
        while True:
            try:
                answer = await self._post(
                    "miner_request", {"erc20_address": self.name, "workflow_ids": self.workflow_ids}
                )
            except (_Unreachable, _Refused) as problem:
                logger.debug("%s can't request a task: %s", self.name, problem)
                answer = {}
            if not answer.get("task_id"):
                # Busy with a task that it does not have: the answer that assigned it was lost. Silence ends
                # the assignment.
                lease = answer.get("lease_seconds")
                await asyncio.sleep(max(self.poll, float(lease or 0)))
                continue
            self.task_id = answer["task_id"]
            try:
                await self._handle(answer)
            finally:
                self.task_id = None

    async def _handle(self, answer: Mapping[str, Any]) -> None:
        """Run one task and submit it, unless the sequencer takes it back meanwhile."""
        hits = self.faults.draw(MINER)
        run = asyncio.create_task(self._run_and_submit(answer, hits))
        renewal = asyncio.create_task(self._renew_lease(answer["task_id"]))
        try:
            await asyncio.wait({run, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if run.done():
                run.result()
        finally:
            for part in (run, renewal):
                part.cancel()
            await asyncio.gather(run, renewal, return_exceptions=True)

    async def _renew_lease(self, task_id: str) -> None:
        """Renew the lease regularly; returns when the miner no longer holds the task."""
        while True:
            await asyncio.sleep(self.heartbeat)
            with contextlib.suppress(_Unreachable, _Refused):
                answer = await self._post("miner_request", {"erc20_address": self.name, "workflow_ids": []})
                if answer.get("task_id") != task_id:
                    return

    async def _run_and_submit(self, answer: Mapping[str, Any], hits: Mapping[Any, Fault]) -> None:
        task_id = answer["task_id"]
        report: dict[str, Any] = {"task_id": task_id, "miner_id": self.name}
        started = time.monotonic()
        try:
            task = await self._task(answer)
            data, suffix = await self._run_engine(task, dying="death" in hits)
            if "failed" in hits:
                raise EngineError(f"Injected fault {next(_failures)}: the miner failed")
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
        except (XaloraError, _Refused) as problem:
            message = problem.what if isinstance(problem, XaloraError) else str(problem)
            report |= {"success": False, "msg": message}
            logger.info("%s failed task %s: %s", self.name, task_id, message)
        try:
            await self._retry(self._post, "miner_submit", report)
        except _Refused as problem:
            logger.info("%s can't submit task %s: %s", self.name, task_id, problem)

    async def _task(self, answer: Mapping[str, Any]) -> MinerTask:
        details = answer.get("task_details")
        if isinstance(details, str):
            try:
                details = json.loads(details)
            except ValueError:
                details = None
        parameters = details.get("parameters") if isinstance(details, dict) else None
        if not isinstance(details, dict) or not isinstance(parameters, dict):
            raise EngineError("task_details has no parameters")
        image = parameters.get("image")
        return MinerTask(
            task_id=answer["task_id"],
            task_type=str(answer.get("task_type")),
            workflow_id=str(answer.get("workflow_id")),
            parameters=parameters,
            image=await fetch_input(self.session, image) if isinstance(image, str) else None,
            details=details,
        )

    async def _run_engine(self, task: MinerTask, *, dying: bool) -> tuple[bytes, str]:
        seconds = self.task_seconds(task) if callable(self.task_seconds) else self.task_seconds or 0.0
        if dying:
            await asyncio.sleep(seconds / 2)
            raise MinerDied(self.name)
        loop = asyncio.get_running_loop()
        try:
            result, _ = await asyncio.gather(
                loop.run_in_executor(self.executor, self.engine.run, task), asyncio.sleep(seconds)
            )
        except XaloraError:
            raise
        except Exception as problem:
            # Fails the task; otherwise it would stop one miner after another.
            logger.exception("The engine of %s failed at task %s", self.name, task.task_id)
            raise EngineError(f"The engine failed: {type(problem).__name__}: {problem}") from problem
        finally:
            task.stopped.set()
        return result

    async def _upload(self, credential: Mapping[str, str], key: str, data: bytes) -> None:
        url = f"{credential['upload_url']}/{urllib.parse.quote(key)}"
        headers = {"Authorization": f"Bearer {credential['token']}"}

        async def put() -> None:
            async with self._request("PUT", url, data=io.BytesIO(data), headers=headers):
                pass

        await self._retry(put)

    async def _post(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._request("POST", f"{self.sequencer_url}/{endpoint}", json=body) as response:
            try:
                answer = await response.json(content_type=None)
            except ValueError as problem:
                raise _Unreachable(f"the answer of {endpoint} is not JSON") from problem
        if not isinstance(answer, dict):
            raise _Unreachable(f"the answer of {endpoint} is not a JSON object")
        return answer

    @contextlib.asynccontextmanager
    async def _request(self, method: str, url: str, **options: Any) -> Any:
        try:
            async with self.session.request(method, url, **options) as response:
                if response.status >= 500 or response.status == 429:
                    raise _Unreachable(f"{response.status}")
                if response.status >= 400:
                    raise _Refused(f"{response.status}: {(await response.text())[:200]}")
                yield response
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as problem:
            raise _Unreachable(f"{type(problem).__name__}: {problem}") from problem

    async def _retry(self, attempt: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Try until success or refusal, so that a restart of the sequencer loses no finished task."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Unreachable),
            wait=wait_exponential(multiplier=0.05, max=_MAX_RETRY_SECONDS),
            before_sleep=before_sleep_log(logger, logging.DEBUG),
        )
        await retrying(attempt, *arguments)


def _lower_priority() -> None:
    """Lower the priority of the calling thread, so that the miners do not slow the client down.

    Miners represent other machines. Linux only; elsewhere a thread has no priority of its own.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class MinerPool:
    """Several miners in this process, sharing a connection pool and worker threads.

    A miner that a ``death`` fault has killed is replaced by a new one.

    Args:
        sequencer_url: Base URL of the sequencer.
        miners: How many to start.
        engine: Runs the tasks; default: :class:`~.engines.DefaultEngine`.
        name_prefix: A miner's name is this and a number.
        changed_workflow_ids: Gives the workflows that the miners take from now on, None for the same. Called
            every quarter of a second, on a thread.
        workflow_ids, poll, heartbeat, task_seconds, faults: See :class:`Miner`.
    """

    def __init__(
        self,
        sequencer_url: str,
        *,
        miners: int = 1,
        engine: MinerEngine | None = None,
        workflow_ids: Sequence[str] = DEFAULT_WORKFLOW_IDS,
        changed_workflow_ids: Callable[[], Sequence[str] | None] | None = None,
        poll: float = DEFAULT_POLL_SECONDS,
        heartbeat: float = 1.0,
        task_seconds: TaskSeconds = None,
        faults: FaultPlan | Iterable[Fault | str] = (),
        name_prefix: str = "miner",
    ) -> None:
        self._size = miners
        self._workflow_ids = tuple(workflow_ids)
        self._changed_workflow_ids = changed_workflow_ids
        self._watching: asyncio.Task[None] | None = None
        self._prefix = name_prefix
        self._started = 0
        self._running: dict[str, tuple[Miner, asyncio.Task[None]]] = {}
        self._session: aiohttp.ClientSession | None = None
        # The default engine's short work stands for another machine's. Another engine may wait for one, or
        # compute for so long that it would not end beside busy programs.
        is_default = engine is None
        self._executor = ThreadPoolExecutor(
            (os.cpu_count() or 1) if is_default else _WAITING_THREADS,
            thread_name_prefix="xalora-miner",
            initializer=_lower_priority if is_default else None,
        )
        self._new_miner = partial(
            Miner,
            sequencer_url=sequencer_url.rstrip("/"),
            executor=self._executor,
            engine=engine or DefaultEngine(),
            poll=poll,
            heartbeat=heartbeat,
            task_seconds=task_seconds,
            faults=faults if isinstance(faults, FaultPlan) else FaultPlan(faults),
        )

    async def __aenter__(self) -> MinerPool:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=300, sock_connect=10)
        )
        for _ in range(self._size):
            self.add_miner()
        if self._changed_workflow_ids is not None:
            self._watching = asyncio.create_task(self._watch(self._changed_workflow_ids))
        return self

    async def __aexit__(self, *_: object) -> None:
        watching = [] if self._watching is None else [self._watching]
        tasks = [*watching, *(task for _, task in self._running.values())]
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
        """The running miners by name, with the task of each."""
        return {name: miner.task_id for name, (miner, _) in tuple(self._running.items())}

    def add_miner(self, workflow_ids: Iterable[str] | None = None) -> str:
        """Start one more miner, with the pool's ``workflow_ids`` or other ones; returns its name."""
        assert self._session is not None, "the pool is not entered"
        self._started += 1
        miner = self._new_miner(
            session=self._session,
            name=f"{self._prefix}{self._started}",
            workflow_ids=self._workflow_ids if workflow_ids is None else tuple(workflow_ids),
        )
        task = asyncio.create_task(miner.run(), name=miner.name)
        task.add_done_callback(self._ended)
        self._running[miner.name] = (miner, task)
        return miner.name

    def kill_miner(self, name: str | None = None) -> str:
        """Stop a miner without notice: this one, or one with a task, or any. Returns its name.

        Raises:
            LookupError: There is no such miner, or none at all.
        """
        if name is None:
            busy = [name for name, task_id in self.miners.items() if task_id is not None]
            name = next(iter(busy or self._running), None)
        if name is None or name not in self._running:
            raise LookupError(f"No such miner: {name}" if name else "No miner is running")
        _, task = self._running.pop(name)
        task.cancel()
        return name

    async def _watch(self, changed: Callable[[], Sequence[str] | None]) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                ids = await asyncio.get_running_loop().run_in_executor(self._executor, changed)
            except EngineError as problem:
                logger.debug("the workflows can't be looked at: %s", problem)
                continue
            if ids is not None:
                self._workflow_ids = tuple(ids)
                for miner, _ in self._running.values():
                    miner.workflow_ids = self._workflow_ids

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        name = task.get_name()
        self._running.pop(name, None)
        problem = task.exception()
        if not isinstance(problem, MinerDied):
            logger.error("%s stopped", name, exc_info=problem)
        if self._session is not None and not self._session.closed:
            self.add_miner()
