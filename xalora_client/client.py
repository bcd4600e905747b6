"""The asynchronous client: the Node SDK's functions under their Python names, and easier ones above them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .concurrency import off_loop, together
from .config import Credentials, FallbackPolicy, IfUnknown, Settings, TimeoutAction, load_settings
from .engines.fallback_policy import falls_back, is_out_of_sight
from .errors import (
    CANCELED_THERE,
    ClientClosedError,
    ConfigurationError,
    InvalidTaskError,
    NetworkError,
    QueueLimitError,
    RequestRefusedError,
    TaskCanceledError,
    TaskTimeoutError,
    XaloraError,
)
from .events import Done, EventCallback, tell
from .network.status import CANCELED, FAILED, is_terminal
from .polling.schedule import PollSchedule

if TYPE_CHECKING:
    import aiohttp
    from typing_extensions import Self

    from .jobs.dispatcher import Booking, Dispatcher
    from .jobs.job import Job
    from .journal import Journal
    from .network.sequencer import Network
    from .results import Outcome, RunResult, WorkflowTaskResult
    from .tasks import WorkflowTask
    from .transfer.upload import ImageDelivery

logger = logging.getLogger("xalora_client")

DEFAULT_SDK_TIMEOUT = 300.0
JOURNAL_NAME = "journal.sqlite3"
RESULTS_FOLDER = "results"


class AsyncXalora:
    """A client of the Xalora network for asyncio programs.

    ::

        async with AsyncXalora() as client:
            result = await client.run(UpscalerTask(image="photo.jpg"))
            print(result.files, result.images.shape)

    One client keeps one connection pool; use it for many tasks at once. It belongs to the event loop in
    which it is first used.

    Args:
        api_key: ``<consumer_id>#<api_key>``; default: ``XALORA_API_KEY``, then ``.env``.
        workflow_url: The sequencer; default: ``XALORA_WORKFLOW_URL``, then the hosted network.
        settings: Ready-made settings instead of reading them from all sources.
        journal: A journal to share; default: the one in the ``state_dir`` of the settings.
        delivery: How local images reach a miner; default: as the settings say.
        env_files: ``.env`` files to read, the first wins.
        **overrides: Any other setting by its name, see the table of settings.

    Raises:
        ConfigurationError: A setting does not fit.
    """

    def __init__(
        self,
        api_key: str | None = None,
        workflow_url: str | None = None,
        *,
        settings: Settings | None = None,
        journal: Journal | None = None,
        delivery: ImageDelivery | None = None,
        env_files: Iterable[Path | str] = (".env",),
        **overrides: Any,
    ) -> None:
        if settings is not None and (api_key or workflow_url or overrides):
            raise ConfigurationError("Give either ready-made settings or single ones, not both")
        self.settings = (
            settings
            or load_settings(
                env_files=env_files, api_key=api_key, workflow_url=workflow_url, **overrides
            ).settings
        )
        self._credentials = self.settings.credentials() if self.settings.api_key is not None else None
        self._given_journal = journal
        self._given_delivery = delivery
        self._owned_journal: Journal | None = None
        self._journal_lock = threading.Lock()
        self._sessions: list[aiohttp.ClientSession] = []
        self._network: Network | None = None
        self._dispatcher: Dispatcher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.settings.sequencer_url}>"

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections and the journal; twice is harmless.

        Remote tasks are not touched. Calls that still wait for one get a :class:`ClientClosedError`.
        """
        self._closed = True
        try:
            if self._dispatcher is not None and self._loop is asyncio.get_running_loop():
                await self._dispatcher.close()
        finally:
            await self._close_connections()

    async def _close_connections(self) -> None:
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            await session.close()
        if self._owned_journal is not None:
            await off_loop(self._owned_journal.close)
            self._owned_journal = None

    def _open(self) -> tuple[Network, Dispatcher]:
        if self._closed:
            raise ClientClosedError("This client is closed", next_step="Make a new one.")
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise ConfigurationError(
                "This client belongs to another event loop, the one in which it was first used",
                next_step="Make one in each loop (every asyncio.run begins a new one), or use Xalora, which "
                "has a loop of its own.",
            )
        self._loop = loop
        if self._network is None or self._dispatcher is None:
            from .jobs.async_journal import AsyncJournal
            from .jobs.dispatcher import Dispatcher
            from .network.sequencer import Network
            from .network.sessions import create_session, sequencer_session, shared_session
            from .network.transport import Transport
            from .transfer.upload import choose_delivery

            delivery = self._given_delivery or choose_delivery(self.settings)
            shared, requests, creates = shared_session(), sequencer_session(), create_session()
            self._sessions += [shared, requests, creates]
            transport = Transport(
                requests, creates, self.settings.workflow_url, self.settings.request_timeout
            )
            self._network = Network(transport, self.settings.sequencer_url, self.settings.max_retries)
            self._dispatcher = Dispatcher(
                self._network,
                AsyncJournal(self.journal),
                shared,
                delivery,
                self.settings,
                self._credentials,
            )
        return self._network, self._dispatcher

    @property
    def journal(self) -> Journal:
        """The journal this client writes."""
        if self._given_journal is not None:
            return self._given_journal
        with self._journal_lock:
            if self._owned_journal is None:
                self._owned_journal = open_journal(self.settings)
            return self._owned_journal

    # --- the SDK's functions --------------------------------------------------------------------------------

    async def resource_request(
        self, *, task_type: str | None = None, workflow_id: str | None = None
    ) -> dict[str, Any]:
        """Ask whether a miner is there: ``{miner_id, msg?}``. Free, and optional before a task.

        Raises:
            NoMinerError: Nobody serves this workflow right now.
            NetworkError: The network can't be asked.
        """
        network, _ = self._open()
        credentials = self._credentials or self.settings.credentials()
        return dict(await network.reserve(credentials, task_type=task_type, workflow_id=workflow_id))

    async def execute_workflow(self, task: WorkflowTask, *, if_unknown: IfUnknown = "stop") -> str:
        """Submit a task and give back its id. Always a new task, which is paid for.

        Args:
            if_unknown: As for :meth:`run`.

        Raises:
            AmbiguousCreateError: The request went out and its outcome is unknown, now or the last time that
                the same work was submitted.
            XaloraError: The task was not created.
        """
        _, dispatcher = self._open()
        booking = await dispatcher.book(task, reuse=False, if_unknown=if_unknown)
        return await self._created(dispatcher, booking)

    async def query_task_result(
        self, task_id: str, *, task: WorkflowTask | None = None
    ) -> WorkflowTaskResult:
        """Ask once for a task's status (and its raw result, once there is one).

        Args:
            task_id: As ``execute_workflow`` gave it.
            task: The task itself, where it has a key of its own and was submitted by another client.
        """
        network, dispatcher = self._open()
        answer = await network.query(dispatcher.credentials_for(task_id, task), task_id)
        await dispatcher.note_end(answer)
        return answer

    async def execute_workflow_and_wait_for_result(
        self,
        task: WorkflowTask,
        timeout: float | None = DEFAULT_SDK_TIMEOUT,
        interval: float | None = None,
        *,
        if_unknown: IfUnknown = "stop",
    ) -> WorkflowTaskResult:
        """Submit a task and wait until it has ended, in whichever way.

        Args:
            timeout: Seconds to wait, exactly; None waits for ever. The task runs on after it.
            interval: Seconds between two polls, at least 1; None adapts them to the task. (The Node SDK's
                default is a fixed 10 s.)
            if_unknown: As for :meth:`run`.

        Raises:
            AmbiguousCreateError: As :meth:`execute_workflow`.
            TaskTimeoutError: It carries the task id, and says how to take the task up again.
        """
        schedule = _schedule(interval)
        _, dispatcher = self._open()
        booking = await dispatcher.book(task, reuse=False, if_unknown=if_unknown, schedule=schedule)
        assert booking.job is not None
        try:
            answer = await booking.job.wait_for_answer(timeout=timeout)
            await dispatcher.journal.delivered(booking.record_id)
            return answer
        except asyncio.CancelledError:
            await self._abandon(booking)
            raise
        finally:
            await dispatcher.leave(booking)

    async def cancel_task(self, task_id: str, *, task: WorkflowTask | None = None) -> dict[str, Any]:
        """Ask the network to cancel a task: ``{task_id, msg}``.

        Raises:
            NetworkError: The cancel is not confirmed; the task may run on.
        """
        network, dispatcher = self._open()
        credentials = dispatcher.credentials_for(task_id, task)
        record = await dispatcher.journal.record_of_task(task_id, self.settings.sequencer_url)
        record_id = record.id if record is not None else None
        await dispatcher.journal.cancel_pending(record_id)
        refusal: RequestRefusedError | None = None
        answer: dict[str, Any] = {}
        try:
            answer = await network.cancel(credentials, task_id)
        except RequestRefusedError as error:
            refusal = error
        dispatcher.poke(task_id)
        with suppress(XaloraError):
            status = await network.query(credentials, task_id)
            await dispatcher.note_end(status)
            if refusal is not None and not is_terminal(status.status):
                await dispatcher.journal.cancel_withdrawn(record_id)
        if refusal is not None:
            raise refusal
        return answer

    # --- what people want to write --------------------------------------------------------------------------

    async def submit(
        self,
        task: WorkflowTask,
        *,
        on_event: EventCallback | None = None,
        reuse: bool = False,
        reuse_among: AbstractSet[str] = frozenset(),
        if_unknown: IfUnknown = "stop",
        cancel_remote: bool | Callable[[], bool] = True,
    ) -> TaskHandle:
        """Submit a task and give back a handle as soon as the network has accepted it.

        Args:
            on_event: Told what happens until the task is accepted.
            reuse: Let a task already in flight, or a kept result of the same work, answer.
            reuse_among, if_unknown: As for :meth:`run`.
            cancel_remote: Whether a cancelled call cancels the remote task; a function is asked at that time.

        Raises:
            XaloraError: As :meth:`execute_workflow`.
        """
        from .jobs.job import AskJournalAgain

        _, dispatcher = self._open()
        while True:
            booking = await dispatcher.book(task, reuse=reuse, reuse_among=reuse_among, if_unknown=if_unknown)
            if booking.kept is not None:
                await dispatcher.leave(booking)
                return TaskHandle(self, booking.kept.task_id or "", task)
            assert booking.job is not None
            if on_event is not None:
                booking.job.subscribe(on_event)
            try:
                return TaskHandle(self, await self._created(dispatcher, booking, cancel_remote), task)
            except AskJournalAgain:
                continue
            finally:
                if on_event is not None:
                    booking.job.unsubscribe(on_event)

    def task(self, task_id: str) -> TaskHandle:
        """A handle on a task known by its id, wherever it was submitted."""
        return TaskHandle(self, task_id)

    async def run(
        self,
        task: WorkflowTask,
        *,
        on_event: EventCallback | None = None,
        timeout: float | None = None,
        reuse: bool = False,
        reuse_among: AbstractSet[str] = frozenset(),
        if_unknown: IfUnknown = "stop",
        fallback: FallbackPolicy | None = None,
        queue_limit: float | None = None,
        on_timeout: TimeoutAction | None = None,
        cancel_remote: bool | Callable[[], bool] = True,
        hand_over: bool = False,
    ) -> RunResult:
        """Do a task and give back its result, files on disk.

        A cancelled call (Ctrl-C included) first cancels the remote task, for at most 3 s.

        Args:
            on_event: Told each step, see :mod:`xalora_client.events`.
            timeout: Seconds to wait; default: the setting ``wait_timeout``.
            reuse: Let a kept result, or a task already in flight, answer the same work.
            reuse_among: Where ``reuse`` is off, the ids of tasks that may answer all the same: those of them
                that did this work, or are at it, are not paid for again; one that came to nothing is.
            if_unknown: What to do about an earlier create of the same work whose outcome is unknown, whether
                anything is reused or not: ``stop`` raises, ``resend`` sends it again under its job id,
                ``forget`` leaves it and pays for a new task.
            fallback: When this machine takes over; default: the setting.
            queue_limit: Seconds in the network's queue; default: the setting.
            on_timeout: When the waiting time ends: ``detach`` (the task runs on) or ``cancel``.
            cancel_remote: Whether a cancelled call cancels the remote task; a function is asked at that time.
            hand_over: Raise the network's error where the policy lets this machine take over, instead of
                computing here: for a host with engines of its own. The remote task has been withdrawn then,
                unless it is merely out of sight.

        Raises:
            XaloraError: The work could not be done; the message says what about the money.
        """
        policy = fallback or self.settings.fallback
        remote_error: XaloraError | None = None
        try:
            if policy == "local_only":
                reason = "the fallback policy is local_only"
            else:
                return await self._run_remotely(
                    task,
                    on_event=on_event,
                    timeout=self.settings.wait_timeout if timeout is None else timeout,
                    reuse=reuse,
                    reuse_among=reuse_among,
                    if_unknown=if_unknown,
                    queue_limit=self.settings.queue_limit if queue_limit is None else queue_limit,
                    on_timeout=on_timeout or self.settings.on_timeout,
                    policy=policy,
                    cancel_remote=cancel_remote,
                )
        except XaloraError as error:
            if hand_over or not falls_back(policy, error):
                raise
            remote_error, reason = error, error.what
        from .engines.fallback import run_locally

        result = await run_locally(
            task, self.settings, reason=reason, remote_error=remote_error, on_event=on_event
        )
        if remote_error is not None and self._dispatcher is not None:
            await self._dispatcher.journal.fell_back(remote_error.job_id, result.engine, result.device)
        return result

    async def _run_remotely(
        self,
        task: WorkflowTask,
        *,
        on_event: EventCallback | None,
        timeout: float,
        reuse: bool,
        reuse_among: AbstractSet[str],
        if_unknown: IfUnknown,
        queue_limit: float | None,
        on_timeout: TimeoutAction,
        policy: FallbackPolicy,
        cancel_remote: bool | Callable[[], bool],
    ) -> RunResult:
        from .jobs.job import WITHDRAW_SECONDS, AskJournalAgain

        _, dispatcher = self._open()
        deadline: float | None = None
        while True:
            booking = await dispatcher.book(task, reuse=reuse, reuse_among=reuse_among, if_unknown=if_unknown)
            if booking.kept is not None:
                return await self._kept(dispatcher, booking, on_event)
            job = booking.job
            assert job is not None
            deadline = deadline or monotonic() + timeout
            if on_event is not None:
                job.subscribe(on_event)
            try:
                time_left = max(0.0, deadline - monotonic())
                result = await job.wait(timeout=time_left, queue_limit=queue_limit)
                await dispatcher.journal.delivered(booking.record_id)
                return result
            except AskJournalAgain:
                continue
            except asyncio.CancelledError:
                if _holds(cancel_remote):
                    await self._abandon(booking)
                raise
            except XaloraError as error:
                if isinstance(error, TaskCanceledError) and booking.cancel_was_asked:
                    # That cancel was meant for whoever asked before. What is asked for again is new work.
                    continue
                timed_out = isinstance(error, TaskTimeoutError) and on_timeout == "cancel"
                given_up = timed_out or isinstance(error, QueueLimitError) or falls_back(policy, error)
                # What is merely out of sight runs on: it is paid for, and this machine may fail at it, too.
                given_up = given_up and not is_out_of_sight(error)
                late = await job.withdraw(WITHDRAW_SECONDS) if given_up else None
                if late is None:
                    if given_up and job.status == CANCELED:
                        _tell_canceled(error)
                    raise
                await dispatcher.journal.delivered(booking.record_id)
                return late
            finally:
                if on_event is not None:
                    job.unsubscribe(on_event)
                await dispatcher.leave(booking)

    async def run_many(
        self,
        tasks: Sequence[WorkflowTask],
        *,
        max_in_flight: int | None = None,
        on_event: Callable[[int, Any], None] | None = None,
        on_done: Callable[[Outcome], None] | None = None,
        **options: Any,
    ) -> list[Outcome]:
        """Do several tasks at once and give back how each ended, in the order given.

        One failure does not disturb the others. A cancelled call cancels all of them.

        Args:
            max_in_flight: How many at the same time; default: the setting.
            on_event: Told each step with the task's index.
            on_done: Told each outcome as it comes; what it raises is logged and disturbs nothing.
            **options: As for :meth:`run`.

        Raises:
            InvalidTaskError: ``max_in_flight`` is less than 1.
        """
        from .results import Outcome

        most = self.settings.max_in_flight if max_in_flight is None else max_in_flight
        if most < 1:
            raise InvalidTaskError(f"max_in_flight is {most}; at least 1 is needed")
        places = asyncio.Semaphore(most)

        outcomes: dict[int, Outcome] = {}

        async def one(index: int, task: WorkflowTask) -> None:
            listener = None if on_event is None else lambda event: on_event(index, event)
            async with places:
                try:
                    result = await self.run(task, on_event=listener, **options)
                    outcome = Outcome(index, task, result=result)
                except XaloraError as error:
                    outcome = Outcome(index, task, error=error)
            outcomes[index] = outcome
            if on_done is not None:
                try:
                    on_done(outcome)
                except Exception:
                    logger.exception("the on_done callback failed for task %d of the batch", index)

        await together(one(index, task) for index, task in enumerate(tasks))
        return [outcomes[index] for index in range(len(tasks))]

    # --- inner parts ----------------------------------------------------------------------------------------

    async def _created(
        self, dispatcher: Dispatcher, booking: Booking, cancel_remote: bool | Callable[[], bool] = True
    ) -> str:
        """Wait for the task id only; a cancelled caller's create is still answered for, then canceled."""
        job = booking.job
        assert job is not None
        try:
            if booking.cancel_was_asked:
                await self._see_whether_it_goes_on(job)
            return await job.submitted()
        except asyncio.CancelledError:
            if _holds(cancel_remote):
                await self._abandon(booking)
            raise
        finally:
            await dispatcher.leave(booking)

    async def _see_whether_it_goes_on(self, job: Job) -> None:
        """Give the network a moment to say what became of an earlier cancel of the task.

        Raises:
            AskJournalAgain: The task came to nothing. That cancel was meant for whoever asked before; what is
                asked for again is new work.
        """
        from .jobs.job import WITHDRAW_SECONDS, AskJournalAgain

        try:
            answer = await job.wait_for_answer(timeout=WITHDRAW_SECONDS)
        except (TaskTimeoutError, NetworkError):
            return
        if answer.status in (CANCELED, FAILED):
            raise AskJournalAgain

    async def _abandon(self, booking: Booking) -> None:
        from .jobs.job import CANCEL_ON_EXIT_SECONDS

        if booking.job is not None:
            await booking.job.abandon(CANCEL_ON_EXIT_SECONDS)

    async def _kept(
        self, dispatcher: Dispatcher, booking: Booking, on_event: EventCallback | None
    ) -> RunResult:
        kept = booking.kept
        assert kept is not None
        dispatcher.journal.hold_while(kept, booking.kept_lease)
        await dispatcher.journal.delivered(booking.record_id)
        if on_event is not None:
            tell(
                on_event,
                Done(
                    job_id=kept.job_id,
                    task_id=kept.task_id,
                    engine=kept.engine,
                    seconds=0.0,
                    files=kept.files,
                    reused=True,
                ),
            )
        return kept


class TaskHandle:
    """A task in the network, known by its id. Handles are cheap, and can be made from a bare id.

    Attributes:
        task_id: The network's id.
    """

    def __init__(self, client: AsyncXalora, task_id: str, task: WorkflowTask | None = None) -> None:
        self.task_id = task_id
        self._client = client
        self._task = task

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_id}>"

    @property
    def _credentials(self) -> Credentials | None:
        if self._task is None or (self._task.api_key is None and self._task.consumer_id is None):
            return None
        return self._task.own_credentials(self._client._credentials)

    async def status(self) -> str:
        """The task's status now, as the network words it."""
        return (await self._client.query_task_result(self.task_id, task=self._task)).status

    async def wait(
        self,
        *,
        timeout: float | None = None,
        interval: float | None = None,
        on_event: EventCallback | None = None,
    ) -> WorkflowTaskResult:
        """Wait until the task has ended, in whichever way; nothing is downloaded.

        Raises:
            TaskTimeoutError: The time ended first; the task runs on.
        """
        _, dispatcher = self._client._open()
        booking = await dispatcher.take_up(self.task_id, self._credentials, _schedule(interval))
        try:
            if booking.job is None:
                return await self._client.query_task_result(self.task_id, task=self._task)
            if on_event is not None:
                booking.job.subscribe(on_event)
            return await booking.job.wait_for_answer(timeout=timeout)
        finally:
            if on_event is not None and booking.job is not None:
                booking.job.unsubscribe(on_event)
            await dispatcher.leave(booking)

    async def result(
        self, *, timeout: float | None = None, on_event: EventCallback | None = None
    ) -> RunResult:
        """Wait for the result and bring it to disk. A cancelled call leaves the remote task running.

        Raises:
            TaskTimeoutError: The time ended first; the task runs on.
            XaloraError: The task ended without a result, or the result can't be had.
        """
        _, dispatcher = self._client._open()
        booking = await dispatcher.take_up(self.task_id, self._credentials)
        if booking.kept is not None:
            return await self._client._kept(dispatcher, booking, on_event)
        job = booking.job
        assert job is not None
        try:
            if on_event is not None:
                job.subscribe(on_event)
            result = await job.wait(timeout=timeout)
            await dispatcher.journal.delivered(booking.record_id)
            return result
        finally:
            if on_event is not None:
                job.unsubscribe(on_event)
            await dispatcher.leave(booking)

    async def cancel(self) -> dict[str, Any]:
        """Ask the network to cancel the task."""
        return await self._client.cancel_task(self.task_id, task=self._task)


def open_journal(settings: Settings, *, or_memory: bool = True) -> Journal:
    """The journal in the ``state_dir`` of these settings.

    Where it can't be used, the log says so and one in memory stands in.

    Raises:
        JournalError: It can't be used, and none in memory may stand in.
    """
    from .journal import open_or_memory, open_or_renew

    opened = open_or_memory if or_memory else open_or_renew
    journal, warning = opened(
        settings.state_dir / JOURNAL_NAME, settings.state_dir / RESULTS_FOLDER, int(settings.results_limit)
    )
    if warning:
        logger.warning("%s", warning)
    return journal


def _holds(condition: bool | Callable[[], bool]) -> bool:
    return condition() if callable(condition) else condition


def _tell_canceled(error: XaloraError) -> None:
    """Let an error that ended the wait say that the task was canceled then, rather than that it runs on."""
    if isinstance(error, QueueLimitError):
        error.cancel_confirmed = True
    if isinstance(error, QueueLimitError | TaskTimeoutError):
        error.money = CANCELED_THERE
        error.next_step = "Run it again with a longer limit, or when the network is less busy."


def _schedule(interval: float | None) -> PollSchedule | None:
    if interval is None:
        return None
    try:
        return PollSchedule(interval=interval)
    except ValueError as error:
        raise InvalidTaskError(str(error), next_step="Give a longer interval, or None.") from None
