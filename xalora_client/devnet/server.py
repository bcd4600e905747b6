"""``Devnet``: sequencer, result store and miners on this machine, as an async context manager.

::

    async with Devnet(miners=3) as devnet:
        ...  # devnet.url, devnet.api_key
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..serving.requests import MAX_BODY_BYTES, split_key
from . import DEFAULT_API_KEY, DEFAULT_MINERS, DEFAULT_POLL_SECONDS
from .engines import MinerEngine
from .faults import Fault, FaultPlan
from .miner import DEFAULT_WORKFLOW_IDS, MinerPool, TaskSeconds
from .sequencer import RESULT_FORMS, ResultForm, Sequencer
from .state import State, TaskRecord
from .storage import Storage

WAIT_SECONDS = 30.0
"""How long the ``wait_for`` methods wait by default."""


class Devnet:
    """Sequencer, result store and miners on this machine; an async context manager.

    Args:
        port: Port of the sequencer; 0 takes a free one.
        host: Address to listen on. The default is reachable from this machine only.
        miners: How many miners run in this process.
        api_key: Combined key of the consumer, as in ``XALORA_API_KEY``.
        more_api_keys: Combined keys of further consumers.
        task_seconds: How long each task takes at least, as a number or a function of the task.
        miner_poll: Seconds between two requests of an idle miner.
        faults: :class:`~.faults.Fault` objects or their text form.
        seed: Seed of the random faults.
        db: SQLite file of the sequencer; results go to the folder ``<db>.results`` beside it. ``None``: in
            memory and in a temporary folder, both deleted at the end.
        result_form: The form of results in ``task_result_query``; see :data:`~.sequencer.RESULT_FORMS`.
        details_as_text: Send miners ``task_details`` as a JSON string.
        lease: Seconds of silence after which a miner's task goes back to waiting.
        engine: Runs the tasks; default: :class:`~.engines.DefaultEngine`.
        workflow_ids: The workflows that the miners take.
        changed_workflow_ids: See :class:`~.miner.MinerPool`.
        usual_workflows: The workflows of tasks without one, by task type, where they are other ones.
        largest_request: Bytes of a request's body; a larger one gets 413.

    Raises:
        ValueError: A key, fault or result form is invalid; raised by the constructor.
        OSError: The port is taken; raised on entering.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        miners: int = DEFAULT_MINERS,
        api_key: str = DEFAULT_API_KEY,
        more_api_keys: Sequence[str] = (),
        task_seconds: TaskSeconds = None,
        miner_poll: float = DEFAULT_POLL_SECONDS,
        faults: Iterable[Fault | str] = (),
        seed: int = 0,
        db: str | Path | None = None,
        result_form: ResultForm = "url",
        details_as_text: bool = False,
        lease: float = 5.0,
        engine: MinerEngine | None = None,
        workflow_ids: Sequence[str] = DEFAULT_WORKFLOW_IDS,
        changed_workflow_ids: Callable[[], Sequence[str] | None] | None = None,
        usual_workflows: Mapping[str, str] = {},
        largest_request: int = MAX_BODY_BYTES,
    ) -> None:
        if result_form not in RESULT_FORMS:
            raise ValueError(f"Unknown result form {result_form!r}; known are {', '.join(RESULT_FORMS)}")
        self.api_key = api_key
        self.faults = FaultPlan(faults, seed)
        # Actions that the plan of faults does.
        self.add_fault = self.faults.add
        self.clear_faults = self.faults.clear
        self._host, self._port = host, port
        self._db = None if db is None else Path(db)
        self._lease = lease
        self._new_sequencer = partial(
            Sequencer,
            keys=dict(split_key(key) for key in (api_key, *more_api_keys)),
            faults=self.faults,
            result_form=result_form,
            details_as_text=details_as_text,
            usual_workflows=usual_workflows,
            largest_request=largest_request,
        )
        self._new_miner_pool = partial(
            MinerPool,
            miners=miners,
            engine=engine,
            workflow_ids=workflow_ids,
            changed_workflow_ids=changed_workflow_ids,
            poll=miner_poll,
            heartbeat=lease / 4,
            task_seconds=task_seconds,
            faults=self.faults,
        )
        self._stack = contextlib.AsyncExitStack()
        self._state: State | None = None
        self._sequencer: Sequencer | None = None
        self._miner_pool: MinerPool | None = None
        self._folder = Path()
        self._url = ""
        self._waits: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def __aenter__(self) -> Devnet:
        async with contextlib.AsyncExitStack() as stack:
            if self._db is None:
                self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xalora-devnet-")))
            else:
                self._folder = self._db.with_name(f"{self._db.name}.results")
            stack.callback(self._close_state)
            stack.push_async_callback(self.stop_sequencer)
            await self.start_sequencer()
            self._miner_pool = await stack.enter_async_context(self._new_miner_pool(self._url))
            await self._until(
                lambda: all(map(self._running_state.has_heard, self._running_pool.miners)), WAIT_SECONDS
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Base URL of the sequencer, for ``XALORA_WORKFLOW_URL``."""
        return self._url

    # Queries

    def stats(self) -> dict[str, Any]:
        """The answer of ``GET /devnet/stats``."""
        return self._running_state.stats()

    def task(self, task_id: str) -> TaskRecord:
        """The present state of a task. Raises ``KeyError`` if there is none."""
        task = self._running_state.get(task_id)
        if task is None:
            raise KeyError(task_id)
        return task

    def task_ids(self) -> list[str]:
        """Every task's id, oldest first."""
        return self._running_state.task_ids()

    @property
    def miners(self) -> dict[str, str | None]:
        """The running miners of this process by name, with the task of each."""
        return self._running_pool.miners

    async def wait_for(
        self, condition: Callable[[dict[str, Any]], object], *, timeout: float = WAIT_SECONDS
    ) -> dict[str, Any]:
        """Wait until the condition holds for :meth:`stats`; returns these. Checked after every change.

        Raises:
            TimeoutError: The condition did not hold within ``timeout`` seconds.
        """
        await self._until(lambda: bool(condition(self.stats())), timeout)
        return self.stats()

    async def wait_for_status(
        self, task_id: str, *statuses: str, timeout: float = WAIT_SECONDS
    ) -> TaskRecord:
        """Wait until the task has one of these statuses.

        Raises:
            KeyError: There is no such task.
            TimeoutError: The task did not get there within ``timeout`` seconds.
        """
        await self._until(lambda: self.task(task_id).status in statuses, timeout)
        return self.task(task_id)

    # Actions

    def add_miner(self, workflow_ids: Iterable[str] | None = None) -> str:
        """Start one more miner; returns its name."""
        return self._running_pool.add_miner(workflow_ids)

    def kill_miner(self, name: str | None = None) -> str:
        """Stop a miner without notice: this one, or one with a task, or any. Returns its name.

        Its task goes back to waiting when the lease ends. Raises ``LookupError`` if there is no such miner.
        """
        return self._running_pool.kill_miner(name)

    def expire_results(self, task_ids: Iterable[str] | None = None, *, status: int = 404) -> int:
        """Delete the results of these tasks, or all; their URLs answer ``status``. Returns how many."""
        assert self._sequencer is not None
        if task_ids is None:
            return self._sequencer.storage.expire(status=status)
        keys = [key for task_id in task_ids if (key := self.task(task_id).result)]
        return self._sequencer.storage.expire(keys, status=status)

    async def start_sequencer(self) -> None:
        """Serve, again on the same port and with the same tasks after :meth:`stop_sequencer`.

        Raises:
            OSError: The port is taken.
        """
        if self._state is None:
            self._state = State(self._db, lease_seconds=self._lease, on_change=self._changed)
        storage = Storage(self._folder, self._state.secret, self.faults)
        self._sequencer = self._new_sequencer(self._state, storage)
        await self._sequencer.start(self._host, self._port)
        self._url = self._sequencer.url
        self._port = int(self._url.rpartition(":")[2])
        self._changed()

    async def stop_sequencer(self) -> None:
        """Close every connection and free the port. The miners keep trying."""
        if self._sequencer is not None:
            await self._sequencer.stop()
        if self._db is not None:
            self._close_state()

    async def restart_sequencer(self) -> None:
        """Stop and start the sequencer: same port, same tasks."""
        await self.stop_sequencer()
        await self.start_sequencer()

    # Internals

    @property
    def _running_state(self) -> State:
        if self._state is None:
            raise RuntimeError("The sequencer is stopped")
        return self._state

    @property
    def _running_pool(self) -> MinerPool:
        if self._miner_pool is None:
            raise RuntimeError("The devnet is not running")
        return self._miner_pool

    def _close_state(self) -> None:
        if self._state is not None:
            self._state.close()
            self._state = None

    def _changed(self) -> None:
        for condition, future in self._waits:
            if future.done():
                continue
            try:
                if condition():
                    future.set_result(None)
            except Exception as problem:  # noqa: BLE001 - raised in the waiter
                future.set_exception(problem)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        if self._state is not None and condition():
            return
        wait = condition, asyncio.get_running_loop().create_future()
        self._waits.append(wait)
        try:
            await asyncio.wait_for(wait[1], timeout)
        except asyncio.TimeoutError:
            now = "the sequencer is stopped" if self._state is None else f"its counts are {self.stats()}"
            raise TimeoutError(f"The devnet did not get there within {timeout:g} s; {now}") from None
        finally:
            self._waits.remove(wait)
