"""Hands tasks to workers: finds the machines, keeps an actor for each slot, and a loop for each actor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions

from .._version import __version__
from ..workflows.catalog import WorkflowCatalog
from .machine import RESOURCE
from .ray_node import NAMESPACE
from .rules import Task
from .store import Store
from .worker import Outcome, Worker
from .workforce import Workforce

logger = logging.getLogger("xalora_client.cluster")

LOOK_SECONDS = 1.0
"""Between two looks at which machines are there."""

ASK_SECONDS = 15.0
"""Between two questions to a worker what it can run."""

_PATIENCE = 330.0  # for a worker's answer: its ComfyUI may take five minutes to start
_STOP_SECONDS = 20.0  # for an engine to stop, before its process is ended
_AGAIN_SECONDS = 0.5


@dataclass(eq=False)
class _Slot:
    """A worker's place on a machine."""

    name: str
    machine: str
    number: int
    has_gpu: bool
    actor: Any = None
    asked: float = -ASK_SECONDS
    present: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Run:
    """A task while a worker has it."""

    ref: Any
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Dispatcher:
    """Runs the tasks of a store on the workers of the Ray cluster that this process is connected to.

    Args:
        store: The tasks.
        workforce: Kept up to date.
        catalog: Gives the present definitions.
    """

    def __init__(self, store: Store, workforce: Workforce, catalog: Callable[[], WorkflowCatalog]) -> None:
        self._store = store
        self._workforce = workforce
        self._catalog = catalog
        self._slots: dict[str, _Slot] = {}
        self._runs: dict[str, _Run] = {}
        self._loops: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        deadlines = asyncio.create_task(self._keep_deadlines())
        try:
            await self._watch_machines()
        finally:
            for each in (deadlines, *self._loops):
                each.cancel()
            await asyncio.gather(deadlines, *self._loops, return_exceptions=True)

    def wake(self) -> None:
        """Have idle workers look for a task."""
        self._wake.set()
        self._wake = asyncio.Event()

    def stop(self, task_id: str) -> None:
        """Have the worker of a task that has ended stop its engine."""
        if run := self._runs.get(task_id):
            run.stopping.set()
            ray.cancel(run.ref)

    # Machines

    async def _watch_machines(self) -> None:
        while True:
            try:
                # It waits for Ray's head, which may hang.
                self._note(await asyncio.to_thread(ray.nodes))
            except Exception:
                logger.exception("Ray can't list the machines")
            await asyncio.sleep(LOOK_SECONDS)

    def _note(self, nodes: list[dict[str, Any]]) -> None:
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        found = {slot.name: slot for resources in alive for slot in _slots_of(resources)}
        machines = Counter(name for each in alive for name in each if name.startswith(RESOURCE))
        self._workforce.problems = [
            f"{count} machines are called {name.removeprefix(RESOURCE)}: give each another --name"
            for name, count in machines.items()
            if count > 1
        ]
        for name, slot in found.items():
            if name not in self._slots:
                self._slots[name] = slot
                loop = asyncio.create_task(self._serve(slot), name=name)
                self._loops.add(loop)
                loop.add_done_callback(self._loops.discard)
        for name, slot in self._slots.items():
            if name in found:
                slot.present.set()
            elif slot.present.is_set():
                slot.present.clear()
                logger.warning("%s is gone", name)
                self._workforce.offers.pop(name, None)

    # One worker

    async def _serve(self, slot: _Slot) -> None:
        while True:
            await slot.present.wait()
            try:
                await self._ask(slot)
                offer, wake = self._workforce.offers.get(slot.name), self._wake
                if offer is None:
                    # Its machine went while it answered.
                    continue
                if task := self._store.take(offer.miner_id, offer.workflows):
                    await self._run_or_lose(slot, task)
                    continue
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(wake.wait(), ASK_SECONDS)
            except (ray.exceptions.RayError, asyncio.TimeoutError) as problem:
                # Its process or machine is gone; Ray starts it again where it can.
                logger.info("%s does not answer: %s", slot.name, _words(problem))
                self._leave(slot)
                await asyncio.sleep(_AGAIN_SECONDS)
            except Exception:
                logger.exception("the loop of %s failed", slot.name)
                self._leave(slot)
                await asyncio.sleep(ASK_SECONDS)

    async def _ask(self, slot: _Slot) -> None:
        """Know what the worker can run, by an answer that is not old."""
        if slot.name in self._workforce.offers and time.monotonic() - slot.asked < ASK_SECONDS:
            return
        if slot.actor is None:
            slot.actor = await asyncio.to_thread(_actor, slot)
        answer = slot.actor.describe.remote(tuple(self._catalog()), __version__)
        offer = await asyncio.wait_for(_result(answer), _PATIENCE)
        if slot.name not in self._workforce.offers:
            logger.info("%s runs %s", offer.miner_id, ", ".join(sorted(offer.workflows)) or "nothing")
        slot.asked = time.monotonic()
        if slot.present.is_set():
            self._workforce.offers[slot.name] = offer

    def _leave(self, slot: _Slot) -> None:
        slot.asked = -ASK_SECONDS
        # An actor that could not even begin is not started again by Ray, but made anew under its name.
        slot.actor = None
        self._workforce.offers.pop(slot.name, None)

    async def _run_or_lose(self, slot: _Slot, task: Task) -> None:
        """Run a task; whatever happens, it does not stay in state running without a worker."""
        try:
            await self._run(slot, task)
            return
        except Exception:
            logger.exception("task %s on %s", task.task_id, slot.name)
        while True:
            try:
                self._lose(slot, task, "the cluster's head failed")
            except sqlite3.Error:
                # Such as a full disk.
                await asyncio.sleep(ASK_SECONDS)
            else:
                return

    async def _run(self, slot: _Slot, task: Task) -> None:
        self._workforce.tasks[slot.name] = task.task_id
        try:
            outcome, seconds = await self._outcome(slot, task)
        except ray.exceptions.TaskCancelledError:
            # As it was asked to, as a rule; then the task has ended, and this changes nothing.
            self._lose_attempt(task, "its run was canceled")
            return
        except ray.exceptions.RayTaskError as problem:
            self._store.fail(task.task_id, task.attempt, f"The worker failed: {_words(problem)}")
            return
        except ray.exceptions.RayError as problem:
            self._lose(slot, task, _words(problem))
            return
        finally:
            self._workforce.tasks.pop(slot.name, None)
        try:
            await self._accept(slot, task, outcome, seconds)
        except OSError as problem:
            await asyncio.to_thread(self._store.drop_result, task.task_id)
            reason = problem.strerror or type(problem).__name__
            self._store.fail(task.task_id, task.attempt, f"The head can't keep the result: {reason}")

    async def _outcome(self, slot: _Slot, task: Task) -> tuple[Outcome, float]:
        """How the worker's run ended, and the seconds from the call to its answer."""
        definition = next((each for each in self._catalog() if each.name == task.workflow), None)
        if definition is None:
            return Outcome(error=f"The workflow {task.workflow} was removed from the cluster"), 0.0
        try:
            details = await asyncio.to_thread(self._store.read_input, task.task_id)
        except FileNotFoundError:
            # Canceled in between.
            return Outcome(error="Its input is gone"), 0.0
        began = time.monotonic()
        run = _Run(slot.actor.run.remote(definition, details))
        self._runs[task.task_id] = run
        current = self._store.get(task.task_id)
        if current is None or not current.is_open:
            self.stop(task.task_id)
        try:
            return await self._end_of(slot, run), time.monotonic() - began
        finally:
            del self._runs[task.task_id]

    async def _end_of(self, slot: _Slot, run: _Run) -> Outcome:
        answer = asyncio.ensure_future(_result(run.ref))
        stopping = asyncio.ensure_future(run.stopping.wait())
        try:
            await asyncio.wait({answer, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await asyncio.wait({answer}, timeout=_STOP_SECONDS)
            if not answer.done():
                logger.warning("%s does not stop; its process is ended", slot.name)
                ray.kill(slot.actor, no_restart=False)
                await asyncio.wait({answer})
            if answer.cancelled():
                raise ray.exceptions.TaskCancelledError
            outcome: Outcome = answer.result()
            return outcome
        finally:
            answer.cancel()
            stopping.cancel()

    async def _accept(self, slot: _Slot, task: Task, outcome: Outcome, seconds: float) -> None:
        if outcome.lost:
            self._lose(slot, task, outcome.error)
        elif outcome.error or not outcome.files:
            self._store.fail(task.task_id, task.attempt, outcome.error or "The engine gave no file")
        else:
            keys = await asyncio.to_thread(self._store.write_result, task, outcome.files)
            latencies = {
                "inference_latency": round(outcome.seconds, 3),
                "upload_latency": round(max(0.0, seconds - outcome.seconds), 3),
            }
            if not self._store.finish(task.task_id, task.attempt, keys, **latencies):
                await asyncio.to_thread(self._store.drop_files, keys)

    def _lose(self, slot: _Slot, task: Task, why: str) -> None:
        logger.warning("%s was lost with task %s: %s", slot.name, task.task_id, why)
        self._leave(slot)
        self._lose_attempt(task, why)

    def _lose_attempt(self, task: Task, why: str) -> None:
        self._store.lose(task.task_id, task.attempt, why)
        self.wake()

    # Time

    async def _keep_deadlines(self) -> None:
        while True:
            wake = self._wake
            try:
                for task_id in self._store.expire():
                    self.stop(task_id)
                due = self._store.next_deadline()
            except sqlite3.Error:
                logger.exception("deadlines")
                due = time.time() + ASK_SECONDS
            pause = None if due is None else max(0.01, due - time.time())
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wake.wait(), pause)


def _slots_of(resources: dict[str, float]) -> Iterator[_Slot]:
    """The slots of a node: its GPUs, or what it names as processors."""
    for resource in resources:
        if resource.startswith(RESOURCE):
            machine = resource.removeprefix(RESOURCE)
            gpus = int(resources.get("GPU", 0))
            for number in range(gpus or int(resources.get("CPU", 0))):
                yield _Slot(f"{machine}/{number}", machine, number, has_gpu=gpus > 0)


def _actor(slot: _Slot) -> Any:
    """The actor of a slot: the one that an earlier head made, or a new one. Blocking."""
    options: dict[str, Any] = {
        "name": slot.name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": 0,
        "num_cpus": 0,
        "num_gpus": int(slot.has_gpu),
        # Pins it to the machine, also when that comes back as another node of Ray's.
        "resources": {RESOURCE + slot.machine: 0.001},
    }
    return ray.remote(Worker).options(**options).remote(slot.number)


async def _result(ref: Any) -> Any:
    return await ref


def _words(problem: BaseException) -> str:
    """An error of Ray's in a line: its messages have paragraphs, and paths of the machine's."""
    match problem:
        case ray.exceptions.RayTaskError():
            return f"{type(problem.cause).__name__}: {problem.cause}".splitlines()[0][:200]
        case ray.exceptions.ActorUnavailableError():
            return "its machine does not answer"
        case ray.exceptions.ActorDiedError():
            return "its process or machine died"
        case ray.exceptions.OutOfMemoryError():
            return "its machine ran out of memory"
        case _:
            return type(problem).__name__
