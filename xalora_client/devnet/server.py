"""The whole network in one object: ``Devnet`` for async code, ``DevnetThread`` for the rest,
``serve_forever`` for a shell.

::

    async with Devnet(miners=3) as devnet:
        ...  # devnet.url, devnet.api_key
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .engines import MinerEngine, engine_by_name
from .faults import Fault, FaultPlan
from .miner import DEFAULT_WORKFLOW_IDS, MinerCrew, TaskSeconds, mine
from .sequencer import RESULT_FORMS, ResultForm, Sequencer
from .state import State, TaskRecord
from .storage import Storage

T = TypeVar("T")

DEFAULT_API_KEY = "devnet#devnet"
_PATIENCE = 30.0


def split_key(combined: str) -> tuple[str, str]:
    """Consumer id and key of a combined API key, split once at the first ``#``, or ``-`` where there is no
    ``#``.

    Raises:
        ValueError: There is no separator, or nothing before or after it.
    """
    consumer_id, _, key = combined.partition("#" if "#" in combined else "-")
    if not consumer_id or not key:
        raise ValueError("An API key reads <consumer_id>#<api_key>")
    return consumer_id, key


class Devnet:
    """Sequencer, result store and miners on this machine; an async context manager.

    Args:
        port: Of the sequencer; 0 takes a free one.
        host: Address to listen on. The default is reachable from this machine only.
        miners: How many miners run in this process; 0 for none.
        api_key: Combined key of the one consumer, as ``XALORA_API_KEY`` has it.
        more_api_keys: Combined keys of further consumers.
        task_seconds: The least each task takes, as a number or a function of the task. ``None``: what it
            takes.
        miner_poll: Seconds from an answer without work to a miner's next question.
        faults: :class:`~.faults.Fault` objects or their text form.
        seed: Of all chances in the faults.
        db: SQLite file of the sequencer; results lie beside it in ``<db>.results``. ``None``: in memory and
            in a temporary folder, both gone at the end.
        result_form: How ``task_result_query`` tells a result; see :data:`~.sequencer.RESULT_FORMS`.
        details_as_text: Send miners ``task_details`` as a JSON string.
        lease: Seconds that a miner may be silent before its task goes back to waiting.
        engine: What miners run: an engine, or ``auto``, ``pillow``, ``testcard``.
        workflow_ids: The workflows that the miners take.
        replace_dead: A new miner starts for each that a ``death`` fault killed.

    Raises:
        ValueError: A key, fault, engine's name or result form makes no sense; when made.
        OSError: The port is taken; when entered.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        miners: int = 3,
        api_key: str = DEFAULT_API_KEY,
        more_api_keys: Sequence[str] = (),
        task_seconds: TaskSeconds = None,
        miner_poll: float = 0.1,
        faults: Iterable[Fault | str] = (),
        seed: int = 0,
        db: str | Path | None = None,
        result_form: ResultForm = "url",
        details_as_text: bool = False,
        lease: float = 5.0,
        engine: MinerEngine | str = "auto",
        workflow_ids: Sequence[str] = DEFAULT_WORKFLOW_IDS,
        replace_dead: bool = True,
    ) -> None:
        if result_form not in RESULT_FORMS:
            raise ValueError(f"Unknown result form {result_form!r}; known are {', '.join(RESULT_FORMS)}")
        if isinstance(engine, str):
            engine_by_name(engine)
        self.api_key = api_key
        self.faults = FaultPlan(faults, seed)
        self._keys = dict(split_key(key) for key in (api_key, *more_api_keys))
        self._host, self._port = host, port
        self._db = None if db is None else Path(db)
        self._lease = lease
        self._result_form: ResultForm = result_form
        self._details_as_text = details_as_text
        self._crew_options: dict[str, Any] = {
            "miners": miners,
            "engine": engine,
            "workflow_ids": workflow_ids,
            "poll": miner_poll,
            "heartbeat": lease / 4,
            "task_seconds": task_seconds,
            "faults": self.faults,
            "replace_dead": replace_dead,
        }
        self._stack = contextlib.AsyncExitStack()
        self._state: State | None = None
        self._sequencer: Sequencer | None = None
        self._crew: MinerCrew | None = None
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
            self._crew = await stack.enter_async_context(MinerCrew(self._url, **self._crew_options))
            await self._until(
                lambda: all(map(self._running_state.has_heard, self._running_crew.miners)), _PATIENCE
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Base URL of the sequencer: what ``XALORA_WORKFLOW_URL`` should be."""
        return self._url

    @property
    def result_base_url(self) -> str:
        """What ``XALORA_RESULT_BASE_URL`` should be where results are bare keys."""
        return f"{self._url}/results"

    # Looking

    def stats(self) -> dict[str, Any]:
        """What ``GET /devnet/stats`` answers."""
        return self._running_state.stats()

    def task(self, task_id: str) -> TaskRecord:
        """A task as it stands now. Raises ``KeyError`` if there is none."""
        task = self._running_state.get(task_id)
        if task is None:
            raise KeyError(task_id)
        return task

    def task_ids(self) -> list[str]:
        """Every task's id, oldest first."""
        return self._running_state.task_ids()

    @property
    def miners(self) -> dict[str, str | None]:
        """The living miners of this process by name, and the task that each is at."""
        return self._running_crew.miners

    async def wait_for(
        self, condition: Callable[[dict[str, Any]], object], *, timeout: float = _PATIENCE
    ) -> dict[str, Any]:
        """Wait until the condition holds for :meth:`stats`; returns those. It is looked at after every
        change.

        Raises:
            TimeoutError: It did not come true within ``timeout`` seconds.
        """
        await self._until(lambda: bool(condition(self.stats())), timeout)
        return self.stats()

    async def wait_for_status(self, task_id: str, *statuses: str, timeout: float = _PATIENCE) -> TaskRecord:
        """Wait until the task has one of these statuses.

        Raises:
            KeyError: There is no such task.
            TimeoutError: It did not come within ``timeout`` seconds.
        """
        await self._until(lambda: self.task(task_id).status in statuses, timeout)
        return self.task(task_id)

    # Acting

    def add_fault(self, fault: Fault | str) -> Fault:
        """Put one more fault in force; see :mod:`.faults`."""
        return self.faults.add(fault)

    def clear_faults(self) -> None:
        """From now on nothing goes wrong."""
        self.faults.clear()

    def add_miner(self, workflow_ids: Iterable[str] | None = None) -> str:
        """Start one more miner; returns its name."""
        return self._running_crew.add_miner(workflow_ids)

    def kill_miner(self, name: str | None = None) -> str:
        """A miner vanishes without a word: this one, else one at work, else any. Its task waits out the
        lease.

        Returns its name. Raises ``LookupError`` if there is no such miner.
        """
        return self._running_crew.kill_miner(name)

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
        storage = Storage(self._folder, self._state.secret("storage"), self.faults)
        self._sequencer = Sequencer(
            self._state,
            storage,
            self._keys,
            self.faults,
            result_form=self._result_form,
            details_as_text=self._details_as_text,
        )
        await self._sequencer.start(self._host, self._port)
        self._url = self._sequencer.url
        self._port = int(self._url.rpartition(":")[2])
        self._changed()

    async def stop_sequencer(self) -> None:
        """Cut every connection and free the port. Miners go on and keep trying."""
        if self._sequencer is not None:
            await self._sequencer.stop()
        if self._db is not None:
            self._close_state()

    async def restart_sequencer(self) -> None:
        """Stop and start the sequencer: same port, same tasks."""
        await self.stop_sequencer()
        await self.start_sequencer()

    # Within

    @property
    def _running_state(self) -> State:
        if self._state is None:
            raise RuntimeError("The sequencer is stopped")
        return self._state

    @property
    def _running_crew(self) -> MinerCrew:
        if self._crew is None:
            raise RuntimeError("The devnet is not running")
        return self._crew

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
            except Exception as problem:  # noqa: BLE001 - the waiter gets it
                future.set_exception(problem)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        if self._state is not None and condition():
            return
        wait = condition, asyncio.get_running_loop().create_future()
        self._waits.append(wait)
        try:
            await asyncio.wait_for(wait[1], timeout)
        except asyncio.TimeoutError:
            stand = "the sequencer is stopped" if self._state is None else f"its counts are {self.stats()}"
            raise TimeoutError(f"The devnet did not get there within {timeout:g} s; {stand}") from None
        finally:
            self._waits.remove(wait)


class DevnetThread:
    """:class:`Devnet` on a thread and event loop of its own; a blocking context manager with the same
    arguments.

    Every method blocks, may be called from any thread, and does what its namesake in :class:`Devnet` does.
    """

    def __init__(self, port: int = 0, **options: Any) -> None:
        self._devnet = Devnet(port, **options)

    def __enter__(self) -> DevnetThread:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="xalora-devnet", daemon=True)
        self._thread.start()
        try:
            self._await(self._devnet.__aenter__())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._await(self._devnet.__aexit__())
        finally:
            self._end_loop()

    @property
    def url(self) -> str:
        """Base URL of the sequencer."""
        return self._devnet.url

    @property
    def result_base_url(self) -> str:
        """What ``XALORA_RESULT_BASE_URL`` should be where results are bare keys."""
        return self._devnet.result_base_url

    @property
    def api_key(self) -> str:
        """Combined key of the consumer."""
        return self._devnet.api_key

    @property
    def miners(self) -> dict[str, str | None]:
        """The living miners by name, and the task that each is at."""
        return self._call(lambda: self._devnet.miners)

    def stats(self) -> dict[str, Any]:
        """What ``GET /devnet/stats`` answers."""
        return self._call(self._devnet.stats)

    def task(self, task_id: str) -> TaskRecord:
        """A task as it stands now. Raises ``KeyError`` if there is none."""
        return self._call(lambda: self._devnet.task(task_id))

    def task_ids(self) -> list[str]:
        """Every task's id, oldest first."""
        return self._call(self._devnet.task_ids)

    def wait_for(
        self, condition: Callable[[dict[str, Any]], object], *, timeout: float = _PATIENCE
    ) -> dict[str, Any]:
        """Block until the condition holds for :meth:`stats`. Raises ``TimeoutError``."""
        return self._await(self._devnet.wait_for(condition, timeout=timeout))

    def wait_for_status(self, task_id: str, *statuses: str, timeout: float = _PATIENCE) -> TaskRecord:
        """Block until the task has one of these statuses. Raises ``KeyError``, ``TimeoutError``."""
        return self._await(self._devnet.wait_for_status(task_id, *statuses, timeout=timeout))

    def add_fault(self, fault: Fault | str) -> Fault:
        """Put one more fault in force."""
        return self._call(lambda: self._devnet.add_fault(fault))

    def clear_faults(self) -> None:
        """From now on nothing goes wrong."""
        self._call(self._devnet.clear_faults)

    def add_miner(self, workflow_ids: Iterable[str] | None = None) -> str:
        """Start one more miner; returns its name."""
        return self._call(lambda: self._devnet.add_miner(workflow_ids))

    def kill_miner(self, name: str | None = None) -> str:
        """A miner vanishes without a word; returns its name."""
        return self._call(lambda: self._devnet.kill_miner(name))

    def expire_results(self, task_ids: Iterable[str] | None = None, *, status: int = 404) -> int:
        """Delete results; their URLs answer ``status``."""
        return self._call(lambda: self._devnet.expire_results(task_ids, status=status))

    def start_sequencer(self) -> None:
        """Serve again after :meth:`stop_sequencer`."""
        self._await(self._devnet.start_sequencer())

    def stop_sequencer(self) -> None:
        """Cut every connection and free the port."""
        self._await(self._devnet.stop_sequencer())

    def restart_sequencer(self) -> None:
        """Stop and start the sequencer: same port, same tasks."""
        self._await(self._devnet.restart_sequencer())

    def _await(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _call(self, function: Callable[[], T]) -> T:
        if threading.current_thread() is self._thread:
            # Asked from within a `wait_for` condition, which runs there: waiting for oneself would never end.
            return function()

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _end_loop(self) -> None:
        self._await(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def serve_forever(on_ready: Callable[[Devnet], None], **options: Any) -> None:
    """Run a devnet until SIGINT or SIGTERM, then stop it cleanly; for a command line, on the main thread.

    Args:
        on_ready: Called once it serves; the place to print ``url`` and ``api_key``.
        options: As of :class:`Devnet`.

    Raises:
        OSError: The port is taken.
        ValueError: An option makes no sense.
    """

    async def serve() -> None:
        with _stop_signals() as stop:
            async with Devnet(**options) as devnet:
                on_ready(devnet)
                await stop.wait()

    asyncio.run(serve())


def run_miner(
    sequencer_url: str, *, miners: int = 1, on_ready: Callable[[], None] = lambda: None, **options: Any
) -> None:
    """Run miners until SIGINT or SIGTERM; for a command line, on the main thread.

    Args:
        sequencer_url: Base URL of the sequencer.
        miners: How many.
        on_ready: Called once they have started.
        options: As of :class:`~.miner.MinerCrew`: ``engine``, ``workflow_ids``, ``poll``, ``task_seconds``,
            ``faults`` ...
    """

    async def run() -> None:
        with _stop_signals() as stop:
            await mine(sequencer_url, stop=stop, on_ready=on_ready, miners=miners, **options)

    asyncio.run(run())


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set; the handlers before are put back at the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Not loop.add_signal_handler: Windows has none.
    before = {
        number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
