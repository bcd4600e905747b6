"""The asynchronous client: the Node SDK's functions under their Python names, and easier ones above them.

A long file, since it is one class with all that users call; a third of it is what its functions promise.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import secrets
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent import futures
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args

from pydantic import SecretStr

from .concurrency import run_all_or_cancel, run_in_thread
from .config import (
    FallbackPolicy,
    IfUnknown,
    LoadedSettings,
    SettingArguments,
    Settings,
    TimeoutAction,
    Timeouts,
    hide_secrets,
    load_settings,
)
from .engines.fallback_policy import falls_back, is_status_unavailable
from .errors import (
    ClientClosedError,
    ConfigurationError,
    InvalidTaskError,
    QueueLimitError,
    TaskTimeoutError,
    UnexpectedError,
    XaloraError,
)
from .events import EventCallback, TaskEvent, without_exceptions
from .files import Rename
from .handle import TaskHandle, check_waits, checked_task_id, on_own_loop, seconds_of
from .jobs.background import background
from .jobs.hub import LEAVING_SECONDS, call_on_hub, hub, is_hub, on_hub
from .request_log import write_log
from .text import suggested

if TYPE_CHECKING:
    import aiohttp
    from typing_extensions import Self, Unpack

    from .engines.fallback import EngineName
    from .jobs.callers import Caller
    from .jobs.dispatcher import Dispatcher
    from .journal import ClaimOptions, Journal
    from .media.inputs import ImageInput
    from .notebook import NotebookProgress
    from .parts import RunPart
    from .results import Outcome, RunResult, WorkflowTaskResult
    from .streams import TaskStream
    from .tasks import BaseOptions, UpscalerTask, WorkflowTask
    from .tiles.upscaling import Tiling, UpscaledImage
    from .transfer.upload import ImageDelivery
    from .video.report import ProgressCallback, UpscaledVideo
    from .workflows.definition import WorkflowDefinition

logger = logging.getLogger("xalora_client")

T = TypeVar("T")

DEFAULT_SDK_TIMEOUT = 300.0

deliveries: ContextVar[list[int] | None] = ContextVar("deliveries", default=None)
"""Records whose delivery the blocking client notes, once its own thread has the value."""

RESULTS_FOLDER = "results"


@dataclass(frozen=True)
class HostOptions:
    """What a program that runs graphs of tasks, such as ComfyUI, decides for each of them.

    Args:
        among: Ids of tasks that may answer although their results were delivered before, reused or not.
        newer_than: Only tasks with a higher record id in the journal may answer, reused or not: a new one is
            wanted in place of this one, and is paid for once, whatever becomes of the first call.
        cancels: Whether a cancelled call cancels the remote task; asked at that time, on the client's thread.
            Without it, a call that asks for its task does, and one for the result of a known task does not.
        takes_over: The host has engines of its own: where the policy lets this machine take over, the
            network's error is raised instead of computing here. The remote task was canceled then, unless
            it is merely out of sight.
        delivers: The host notes the delivery itself, by `AsyncXalora.delivered`, once it has stored the
            result.
        run_id: What the task is sent together with, such as a prompt; else all tasks of the client are.
        clip_key: What names the clip that is upscaled, where the host knows it: it takes the whole file.
        renames: Gives the whole file of a clip, or of an image in tiles, its name, that of the output or
            another one in that folder, and returns it. On a thread.
    """

    among: AbstractSet[str] = frozenset()
    newer_than: int = 0
    cancels: Callable[[], bool] | None = None
    takes_over: bool = False
    delivers: bool = False
    run_id: str | None = None
    clip_key: str | None = None
    renames: Rename = Path.replace


class RunOptions(TypedDict, total=False):
    """The options of :meth:`AsyncXalora.run` beside ``on_event``."""

    timeout: float | None
    reuse: bool | None
    again: bool
    if_unknown: IfUnknown
    fallback: FallbackPolicy | None
    queue_limit: float | None
    on_timeout: TimeoutAction | None
    output_dir: str | os.PathLike[str] | None
    host: HostOptions | None


_CHOICES: dict[str, tuple[str, ...]] = {
    "if_unknown": get_args(IfUnknown),
    "fallback": get_args(FallbackPolicy),
    "on_timeout": get_args(TimeoutAction),
}


def host_of(options: RunOptions) -> HostOptions:
    """The host's options among others, or their defaults."""
    return options.get("host") or HostOptions()


def check_options(function: str, options: RunOptions) -> None:
    """Check options before any task is begun.

    Raises:
        TypeError: One is not known.
        ConfigurationError: A value does not fit.
    """
    for name, value in options.items():
        if name not in RunOptions.__annotations__:
            known = ", ".join(RunOptions.__annotations__)
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; it takes {known}")
        if (choices := _CHOICES.get(name)) is not None and value not in (None, *choices):
            raise ConfigurationError(f"{name} is {value!r}", next_step=suggested(str(value), choices))
        if name in ("reuse", "again") and not (value is None or isinstance(value, bool)):
            raise ConfigurationError(f"{name} is {value!r}", next_step="Write True or False.")
        if name in ("timeout", "queue_limit") and not (value is None or _is_seconds(value)):
            raise ConfigurationError(f"{name} is {value!r}", next_step="Write a number of seconds.")


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


class AsyncXalora:
    """A client of the Xalora network for asyncio programs.

    ::

        async with AsyncXalora() as client:
            result = await client.run(UpscalerTask(image="photo.jpg"))
            print(result.files, result.images.shape)

    One client keeps one connection pool; use it for many tasks at once, from any event loop. Its jobs run
    on a thread of their own, so a blocked or closed loop disturbs none of them. Callbacks are called on the
    loop of the call.

    Args:
        api_key: ``<consumer_id>#<api_key>``; default: ``XALORA_API_KEY``, then ``.env``.
        workflow_url: The sequencer; default: ``XALORA_WORKFLOW_URL``, then the hosted network.
        settings: Ready-made settings, such as :func:`load_settings` gives, instead of reading them from all
            sources.
        journal: A journal to share, which keeps its own ``daily_limit``, or ``"memory"`` for one that lives,
            with its results, as long as this client; default: the one in the ``state_dir`` of the settings.
        delivery: How local images reach a miner; default: as the settings say.
        env_files: ``.env`` files to read, the first wins.
        timeouts: Waits and retries together, instead of their four settings.
        **overrides: Any other setting by its name, see the table of settings.

    Raises:
        ConfigurationError: A setting does not fit.
    """

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        workflow_url: str | None = None,
        *,
        settings: Settings | LoadedSettings | None = None,
        journal: Journal | Literal["memory"] | None = None,
        delivery: ImageDelivery | None = None,
        env_files: Iterable[Path | str] = (".env",),
        timeouts: Timeouts | None = None,
        **overrides: Unpack[SettingArguments],
    ) -> None:
        # In no local variable, where a traceback would show it.
        key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        del api_key
        hide_secrets(overrides)
        if timeouts is not None:
            overrides = {**timeouts.settings(), **overrides}
        given = {"api_key": key, "workflow_url": workflow_url, **overrides}
        single = [name for name, value in given.items() if value is not None]
        if settings is not None and single:
            raise ConfigurationError(
                "Give either ready-made settings or single ones, not both; beside settings= came "
                f"{', '.join(single)}",
                next_step=f"Write settings=load_settings({', '.join(f'{name}=...' for name in single)}).",
            )
        if settings is None:
            settings = load_settings(env_files=env_files, api_key=key, workflow_url=workflow_url, **overrides)
        self.settings = settings.settings if isinstance(settings, LoadedSettings) else settings
        if self.settings.log is not None:
            write_log(self.settings.log)
        if self.settings.workflows_dir is not None:
            from .workflows.catalog import use_folder

            # A task is made without its client, and may name a definition in this folder.
            use_folder(self, self.settings.workflows_dir)
        self._credentials = self.settings.credentials() if self.settings.api_key is not None else None
        self._given_journal = journal
        self._given_delivery = delivery
        self._journal_lock = threading.Lock()
        self._owned_journal: Journal | None = None
        self._sessions: list[aiohttp.ClientSession] = []
        self._hub: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # Its default is for nodes and shell; here a second call pays, unless somebody set it.
        self._reuses = self.settings.reuse and "reuse" in self.settings.model_fields_set
        self._run_id = f"client-{secrets.token_hex(8)}"
        # All dispatchers of this client, one at most.
        self._opened: list[Dispatcher] = []
        dropping = weakref.finalize(self, _close_soon, self._opened, self._sessions)
        # At the program's end the answers that are out are awaited; see `_await_answers`.
        dropping.atexit = False

    def __repr__(self) -> str:
        # Tracebacks show it where a setting was wrong, too.
        settings = getattr(self, "settings", None)
        return f"<{type(self).__name__} {settings.sequencer_url if settings else 'without settings'}>"

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, *, cancel: bool = False) -> None:
        """Close connections and the journal; twice is harmless.

        Calls that still wait for a task get a :class:`ClientClosedError`.

        Args:
            cancel: Have the remote tasks that are still waited for canceled first, for at most 3 s. Without,
                they run on.
        """
        self._closed = True
        if self._hub is not None and self._hub is hub():
            await on_hub(self._close_jobs(cancel))
        journal, self._owned_journal = self._owned_journal, None
        if journal is not None:
            await run_in_thread(journal.close)

    async def _close_jobs(self, cancel: bool) -> None:
        # A caller that is cancelled here takes no cancel of a task with it.
        await asyncio.shield(background(self._end_jobs(cancel)))

    async def _end_jobs(self, cancel: bool) -> None:
        try:
            if self._dispatcher is not None:
                await self._dispatcher.close(cancel=cancel)
        finally:
            await _close_sessions(self._sessions)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError("This client is closed", next_step="Make a new one.")
        if self._hub is not None and self._hub is not hub():
            raise ClientClosedError(
                "This client was made before a fork, in the parent process",
                next_step="Make a new client in the new process.",
            )

    async def _on_hub(self, use: Callable[[Dispatcher], Coroutine[Any, Any, T]]) -> T:
        """Run something with the jobs of this client, on the thread where they live."""
        self._check_open()
        return await on_hub(self._use(use))

    async def _use(self, use: Callable[[Dispatcher], Coroutine[Any, Any, T]]) -> T:
        return await use(self._dispatcher or self._open())

    def _open(self) -> Dispatcher:
        from .jobs.dispatcher import Dispatcher
        from .jobs.fetching import Fetcher
        from .jobs.job import Tools
        from .jobs.uploads import Uploads
        from .network.result_session import ResultSession, destinations
        from .network.sequencer import Network
        from .network.sessions import cancel_session, create_session, shared_session
        from .network.transport import Transport
        from .transfer.upload import choose_delivery

        settings = self.settings
        delivery = self._given_delivery or choose_delivery(settings)
        ca, proxy = settings.ca, settings.proxy
        results, requests = ResultSession(destinations(settings), proxy=proxy, ca=ca), shared_session(ca)
        creates, cancels = create_session(ca), cancel_session(ca)
        self._sessions += [results.http, requests, creates, cancels]
        transport = Transport(
            requests,
            creates,
            cancels,
            settings.workflow_url,
            settings.request_timeout,
            settings.allow_http,
            proxy,
        )
        network = Network(transport, settings.sequencer_url, settings.max_retries)
        fetcher = Fetcher(network, self.journal, results, settings)
        tools = Tools(
            network,
            self.journal,
            fetcher.fetch,
            fetcher.recover,
            Uploads(),
            settings.outage_limit,
            settings.pixel_limits,
        )
        self._hub = hub()
        dispatcher = Dispatcher(tools, delivery, settings, self._credentials)
        self._opened.append(dispatcher)
        _open_clients.add(self)
        # Registered last, it runs first: before the journals are closed.
        atexit.unregister(_await_answers)
        atexit.register(_await_answers)
        return dispatcher

    @property
    def _dispatcher(self) -> Dispatcher | None:
        return self._opened[0] if self._opened else None

    @property
    def journal(self) -> Journal:
        """The journal this client writes; it is opened when it is first written."""
        from .journal import Journal

        if isinstance(self._given_journal, Journal):
            return self._given_journal
        with self._journal_lock:
            if self._owned_journal is None:
                if self._given_journal == "memory":
                    self._owned_journal = Journal(None)
                    self._owned_journal.daily_limit = self.settings.daily_limit
                else:
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
        credentials = self._credentials or self.settings.credentials()

        async def ask(dispatcher: Dispatcher) -> dict[str, Any]:
            reserve = dispatcher.network.reserve
            return dict(await reserve(credentials, task_type=task_type, workflow_id=workflow_id))

        return await self._on_hub(ask)

    async def execute_workflow(
        self, task: WorkflowTask, *, again: bool = False, if_unknown: IfUnknown = "stop"
    ) -> str:
        """Submit a task and give back its id.

        A task whose id an earlier call did not live to return is taken up; any other is new, and paid for.

        Args:
            again, if_unknown: As for :meth:`run`.

        Raises:
            AmbiguousCreateError: The request went out and its outcome is unknown, now or the last time that
                the same task was submitted.
            XaloraError: The task was not created.
        """
        _check_is_task(task)
        options = self._claim_options(again=again, if_unknown=if_unknown)

        async def submit(dispatcher: Dispatcher) -> tuple[str, int | None]:
            async with dispatcher.caller(task, options, wants_files=False) as caller:
                return await caller.task_id(), caller.job.record_id

        return self._delivered(*await self._on_hub(submit))

    async def query_task_result(
        self, task_id: str, *, task: WorkflowTask | None = None
    ) -> WorkflowTaskResult:
        """Ask once for a task's status (and its raw result, once there is one).

        Args:
            task_id: As ``execute_workflow`` gave it.
            task: The task itself, where it has a key of its own and was submitted by another client.

        Raises:
            InvalidTaskError: This is no id of a task. So do all calls that take one.
            NetworkError: The network does not know it, or can't be asked.
        """
        task_id = checked_task_id(task_id)
        return await self._on_hub(lambda dispatcher: dispatcher.query(task_id, task))

    async def execute_workflow_and_wait_for_result(
        self,
        task: WorkflowTask,
        timeout: float | None = DEFAULT_SDK_TIMEOUT,
        interval: float | None = None,
        *,
        again: bool = False,
        if_unknown: IfUnknown = "stop",
    ) -> WorkflowTaskResult:
        """Submit a task and wait until it has ended, in whichever way.

        Args:
            timeout: Seconds to wait, exactly; None waits for ever. The task runs on after it.
            interval: Seconds between two polls, at least 1; None adapts them to the task. (The Node SDK's
                default is a fixed 10 s.)
            again, if_unknown: As for :meth:`run`.

        Raises:
            AmbiguousCreateError: As :meth:`execute_workflow`.
            TaskTimeoutError: It carries the task id, and says how to take the task up again.
        """
        _check_is_task(task)
        check_waits(
            timeout, interval, f"execute_workflow_and_wait_for_result(task, {seconds_of(timeout, interval)})"
        )
        options = self._claim_options(again=again, if_unknown=if_unknown)
        deadline = None if timeout is None else monotonic() + timeout

        async def wait(dispatcher: Dispatcher) -> tuple[WorkflowTaskResult, int | None]:
            joining = dispatcher.caller(
                task, options, deadline=deadline, wants_files=False, interval=interval
            )
            async with joining as caller:
                return await caller.answer(timeout, deadline=deadline), caller.job.record_id

        return self._delivered(*await self._on_hub(wait))

    async def cancel_task(self, task_id: str, *, task: WorkflowTask | None = None) -> dict[str, Any]:
        """Ask the network to cancel a task, whoever waits for it: ``{task_id, msg}``.

        It is tried for at most 10 s.

        Raises:
            NetworkError: The cancel is refused, or not confirmed; the task may run on.
        """
        task_id = checked_task_id(task_id)
        return dict(await self._on_hub(lambda dispatcher: dispatcher.cancel(task_id, task)))

    async def leave_task(self, task_id: str) -> None:
        """Ask the network to cancel a task that this program takes no more part in, for at most 3 s.

        Nothing happens to a task that somebody else waits for, here or in another process.

        Raises:
            MissingKeyError: No key is known to ask with.
        """
        task_id = checked_task_id(task_id)

        async def leave(dispatcher: Dispatcher) -> None:
            async with dispatcher.caller_of(task_id, wants_files=False) as caller:
                await caller.withdraw()

        await self._on_hub(leave)

    # --- what people want to write --------------------------------------------------------------------------

    async def submit(
        self,
        task: WorkflowTask,
        *,
        on_event: EventCallback | None = None,
        reuse: bool | None = None,
        again: bool = False,
        if_unknown: IfUnknown = "stop",
        host: HostOptions | None = None,
    ) -> TaskHandle:
        """Submit a task and give back a handle as soon as the network has accepted it.

        Args:
            on_event: Told what happens until the task is accepted.
            reuse, again, if_unknown: As for :meth:`run`.
            host: For a program that runs graphs of tasks.

        Raises:
            XaloraError: As :meth:`execute_workflow`.
        """
        _check_is_task(task)
        check_options("submit", {"reuse": reuse, "again": again, "if_unknown": if_unknown})
        host = host or HostOptions()
        options = self._claim_options(host, reuse=reuse, again=again, if_unknown=if_unknown)
        listener = on_own_loop(on_event)

        async def submit(dispatcher: Dispatcher) -> TaskHandle:
            joining = dispatcher.caller(
                task, options, wants_files=False, on_event=listener, cancels=host.cancels or _always
            )
            async with joining as caller:
                handle = TaskHandle(self, await caller.task_id(), task)
                if not task.repeatable:
                    # Nobody else is to get the task of a handle in use: each is another picture.
                    await dispatcher.hold(caller.job, handle)
                return handle

        return await self._on_hub(submit)

    def task(self, task_id: str) -> TaskHandle:
        """A handle on a task known by its id, wherever it was submitted."""
        return TaskHandle(self, checked_task_id(task_id))

    async def run(
        self,
        task: WorkflowTask,
        *,
        on_event: EventCallback | None = None,
        timeout: float | None = None,
        reuse: bool | None = None,
        again: bool = False,
        if_unknown: IfUnknown = "stop",
        fallback: FallbackPolicy | None = None,
        queue_limit: float | None = None,
        on_timeout: TimeoutAction | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        host: HostOptions | None = None,
    ) -> RunResult:
        """Do a task and give back its result, files on disk.

        What an earlier call, of this program or another, did not live to give back is taken up or joined and
        is not paid for again. A cancelled call (Ctrl-C included) first cancels the remote task, for at most
        3 s, unless somebody else waits for it.

        Args:
            on_event: Told each step, see :mod:`xalora_client.events`. Without one, a notebook shows a
                progress bar.
            timeout: Seconds to wait; default: the setting ``wait_timeout``.
            reuse: Let a result that was given back before answer the same task; default: the setting, where
                the client was given it, else False.
            again: Pay for a new task, whatever there is.
            if_unknown: What to do about an earlier create of the same task whose outcome is unknown: ``stop``
                raises, ``resend`` sends it again under its job id, ``forget`` leaves it and pays for a new
                task.
            fallback: When this machine takes over; default: the setting.
            queue_limit: Seconds in the network's queue; default: the setting.
            on_timeout: When the waiting time ends: ``detach`` (the task runs on) or ``cancel``, which may
                take 3 s more.
            output_dir: A folder for the result's files, made where it is missing. They are named after the
                input image, or the prompt, and replace nothing: a name that is taken gets ``-2``. A copy
                that is there already is not made again. Without it, see :class:`RunResult` for how long
                files live.
            host: For a program that runs graphs of tasks.

        Raises:
            XaloraError: The task could not be done; the message says what about the money.
        """
        _check_is_task(task)
        check_options(
            "run",
            {
                "timeout": timeout,
                "reuse": reuse,
                "again": again,
                "if_unknown": if_unknown,
                "fallback": fallback,
                "queue_limit": queue_limit,
                "on_timeout": on_timeout,
            },
        )
        folder = None if output_dir is None else await run_in_thread(lambda: _writable(output_dir))
        async with _shown([task], on_event is None and host is None) as bar:
            try:
                result = await self._run(
                    task,
                    claim=self._claim_options(host, reuse=reuse, again=again, if_unknown=if_unknown),
                    on_event=on_event or bar.listener(0),
                    timeout=self.settings.wait_timeout if timeout is None else timeout,
                    policy=fallback or self.settings.fallback,
                    queue_limit=self.settings.queue_limit if queue_limit is None else queue_limit,
                    on_timeout=on_timeout or self.settings.on_timeout,
                    host=host or HostOptions(),
                )
            except BaseException:
                bar.ended(0, failed=True)
                raise
            bar.ended(0, failed=False)
        if folder is not None:
            result = await run_in_thread(lambda: result.saved_in(folder, task.file_stem))
        if host is None or not host.delivers:
            self.delivered(result)
        return result

    def _claim_options(self, host: HostOptions | None = None, **options: Any) -> ClaimOptions:
        from .journal import ClaimOptions

        host = host or HostOptions()
        if options.get("reuse") is None:
            options["reuse"] = self._reuses
        return ClaimOptions(
            among=host.among, newer_than=host.newer_than, run_id=host.run_id or self._run_id, **options
        )

    async def _run(
        self,
        task: WorkflowTask,
        *,
        claim: ClaimOptions,
        on_event: EventCallback | None,
        timeout: float,
        policy: FallbackPolicy,
        queue_limit: float | None,
        on_timeout: TimeoutAction,
        host: HostOptions,
    ) -> RunResult:
        remote_error: XaloraError | None = None
        reason = "the fallback policy is local_only"
        if policy != "local_only":
            deadline = monotonic() + timeout
            listener = on_own_loop(on_event)

            async def remotely(dispatcher: Dispatcher) -> RunResult:
                joining = dispatcher.caller(
                    task, claim, deadline=deadline, on_event=listener, cancels=host.cancels or _always
                )
                async with joining as caller:
                    return await _result(caller, timeout, deadline, queue_limit, on_timeout, policy)

            try:
                return await self._on_hub(remotely)
            except XaloraError as error:
                if host.takes_over or not falls_back(policy, error):
                    raise
                remote_error, reason = error, error.what
        from .engines.fallback import note_fallback, run_locally

        result = await run_locally(
            task, self.settings, reason=reason, remote_error=remote_error, on_event=on_event
        )
        if remote_error is not None:
            note = partial(note_fallback, self.journal, remote_error.job_id, result.engine, result.device)
            await run_in_thread(note)
        return result

    def delivered(self, result: RunResult) -> None:
        """Note that a result is where its user wants it; for hosts that deliver themselves."""
        self._delivered(result, result.record_id)

    def _delivered(self, value: T, record_id: int | None) -> T:
        """Note that the caller has what the call promised; on the caller's own loop, so never early."""
        held_back = deliveries.get()
        if record_id is not None and held_back is not None:
            held_back.append(record_id)
        elif record_id is not None:
            self.note_delivered([record_id])
        return value

    def note_delivered(self, record_ids: Iterable[int]) -> None:
        """Have the journal note that callers have what their calls promised."""
        from .journal import Event

        for record_id in record_ids:
            self.journal.note(record_id, Event.DELIVERED)

    def workflow(
        self,
        source: str | os.PathLike[str],
        *,
        params: Mapping[str, str] | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> WorkflowDefinition:
        """A workflow of your own; ``workflow.task(prompt=...)`` is a task that runs it. It reads files.

        ::

            workflow = client.workflow("my_api.json")
            result = await client.run(workflow.task(prompt="a fox", seed=7))

        Args:
            source: The name of a definition, shipped or in ``workflows_dir``; or a ``.json`` file that
                ComfyUI wrote by *Workflow > Export (API)*. Its prompt, negative prompt, size, steps, seed,
                images and output are found by the classes and titles of its nodes. Own miners with a ComfyUI
                server, and this machine's (``comfyui_url``), run it; the hosted network does not.
            params: Where several nodes fit, or for more parameters: ``{"seed": "12.noise_seed"}``.
            inputs: Values for inputs of nodes: ``{"2.blur_radius": 9}``.

        Raises:
            WorkflowDefinitionError: There is no such definition or file, it is broken, or several nodes fit.
        """
        from .workflows.catalog import WorkflowCatalog
        from .workflows.exported import load_export

        if not str(source).endswith(".json"):
            return WorkflowCatalog.load(self.settings.workflows_dir).get(str(source))
        return load_export(Path(source).expanduser(), params=params, inputs=inputs)

    async def upscale_video(
        self,
        path: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        max_in_flight: int | None = None,
        max_tasks: int | None = None,
        engine: EngineName | None = None,
        same_engine: bool = False,
        task_options: BaseOptions | None = None,
        on_progress: ProgressCallback | None = None,
        **options: Unpack[RunOptions],
    ) -> UpscaledVideo:
        """Upscale a video clip of any length: each frame that differs from all others is a task.

        The output is H.264 of 8 bits with the clip's own times, sound and colours, upright. Frames are
        decoded, sent, and encoded in order, a few at a time, so memory does not grow with the clip. What is
        written is safe on disk every two seconds of the clip: the same call after a kill, a failure or a
        cancel goes on there, and sends no frame again that was paid for. A cancelled call ends within 3 s,
        and cancels the tasks under way; results that have come are kept.

        A frame whose task fails is sent again, twice at most, or done by this machine as ``fallback`` says.
        A frame that fails for good ends the call, once the tasks under way have ended.

        Args:
            path: The clip: MP4, MOV, WebM or Matroska, 100,000 frames at most.
            output: The file, ``.mp4``, ``.mov`` or ``.mkv``. It is replaced once the new one is whole.
            max_in_flight: How many tasks are under way at the same time, and as many frames in memory;
                default: the setting. Twice as many results, and those of 120 frames, are kept on disk until
                their frames are written; a frame that comes again later stays until then.
            max_tasks: Nothing is sent where more new tasks than this are needed. Frames that are written, or
                whose result is kept or under way, need none.
            engine: An engine of this machine that makes all frames; nothing is sent.
            same_engine: All frames are made by what makes the first one, the network or an engine of this
                machine, so that the picture does not flicker. Where that is the network, a frame that fails
                there ends the call.
            task_options: Of each task, such as ``{"workflow_id": "7"}``; see
                :class:`~xalora_client.WorkflowTask`.
            on_progress: Told how far it is; how many tasks there are, before the first is sent.
            **options: For each frame, as for :meth:`run`; ``again`` is for the frames that are not written.

        Raises:
            ConfigurationError: The output does not fit, ``max_tasks`` is exceeded, or the same clip is being
                upscaled already. Nothing was sent.
            InputImageError: The clip can't be read.
            XaloraError: A frame could not be made; the message says which.
        """
        from .video.frames import VideoOptions
        from .video.upscaling import upscale_video

        check_options("upscale_video", options)
        _refuse_output_dir("upscale_video", options)
        video_options = VideoOptions(
            max_in_flight=self.settings.max_in_flight if max_in_flight is None else max_in_flight,
            max_tasks=max_tasks,
            engine=engine,
            same_engine=same_engine,
            task=task_options or {},
            claim=self._claim_of(options),
            asks_network=(options.get("fallback") or self.settings.fallback) != "local_only",
            key=host_of(options).clip_key,
            rename=host_of(options).renames,
            on_progress=on_progress or (lambda progress: None),
        )
        runs_frames = self._runs_parts(options, "frames of the clip")
        return await upscale_video(self, path, output, video_options, runs_frames)

    async def upscale_image(
        self,
        image: ImageInput,
        output: str | os.PathLike[str],
        *,
        tile: Tiling = "auto",
        overlap: int = 32,
        max_in_flight: int | None = None,
        max_tasks: int | None = None,
        engine: EngineName | None = None,
        task_options: BaseOptions | None = None,
        on_event: EventCallback | None = None,
        **options: Unpack[RunOptions],
    ) -> UpscaledImage:
        """Upscale an image of any size to a file; one that is too large for a request, in tiles.

        An image that a request takes is one task, as by :meth:`run`. A larger one is cut into tiles that
        overlap; each that differs from all others is a task, and the results are blended without seams.
        Neither the image nor the result is ever whole in memory as floats: rows are written as their tiles
        come. The same call after a kill, a failure or a cancel takes up the tiles that were paid for. A
        cancelled call ends within 3 s, and cancels the tasks under way.

        A tile whose task fails is sent again, twice at most. A tile that fails for good ends the call, once
        the tasks under way have ended. Where ``fallback`` lets this machine take over and no tile came from
        the network, this machine makes all of them: tiles of two engines would show where they meet.

        Args:
            image: A path, encoded bytes, a Pillow image or an array, as for
                :class:`~xalora_client.UpscalerTask`.
            output: The file. It is replaced once the new one is whole. Tiles are written as ``.png``, or with
                the extra ``tiff`` as ``.tif``, 8 bits a channel; what is one task in any format that
                :meth:`RunResult.save` takes.
            tile: ``auto`` cuts an image that is larger than a request takes (``inline_limit``, where no store
                is set, or the network's own limit), ``always`` each that is larger than a tile, ``never``
                none. A number is the side of the tiles in pixels and cuts each larger image; otherwise it is
                2048, or less where the limit demands it.
            overlap: Pixels that a tile is sent more on each side with a neighbour. Results are exact for a
                model whose result depends on fewer pixels, across, than this.
            max_in_flight: How many tasks are under way at the same time; default: the setting.
            max_tasks: Nothing is sent where more new tasks than this are needed. Tiles whose result is kept
                or under way need none.
            engine: An engine of this machine that makes the image; nothing is sent.
            task_options: Of each task, such as ``{"workflow_id": "7"}``; see
                :class:`~xalora_client.WorkflowTask`.
            on_event: Told each step of what is one task, as for :meth:`run`. Of tiles it is told
                :class:`~.events.TileProgress`, how many tasks there are before the first is sent.
            **options: For each task, as for :meth:`run`, except ``output_dir``.

        Raises:
            ConfigurationError: The output does not fit, or ``max_tasks`` is exceeded. Nothing was sent.
            InputImageError: The image can't be read.
            XaloraError: A tile could not be made; the message says which, and what is paid for.
        """
        from .tasks import UpscalerTask
        from .tiles.upscaling import TileOptions, is_too_large, upscale_in_tiles, upscale_whole, writable

        check_options("upscale_image", options)
        _refuse_output_dir("upscale_image", options)
        place = await run_in_thread(lambda: writable(image, output))
        runs_parts, listener = self._runs_parts(options, "tiles"), without_exceptions(on_event)
        if tile in ("auto", "never"):
            try:
                task = UpscalerTask(image=image, **(task_options or {}))
                whole = partial(runs_parts(self._run_id), task, listener, engine)
                return await upscale_whole(self, whole, place)
            except XaloraError as error:
                if tile == "never" or not is_too_large(error):
                    raise
        tile_options = TileOptions(
            max_in_flight=self.settings.max_in_flight if max_in_flight is None else max_in_flight,
            side=tile if isinstance(tile, int) else None,
            overlap=overlap,
            max_tasks=max_tasks,
            engine=engine,
            policy=options.get("fallback") or self.settings.fallback,
            task=task_options or {},
            claim=self._claim_of(options),
            rename=host_of(options).renames,
            on_event=listener,
        )
        return await upscale_in_tiles(self, image, place, tile_options, runs_parts)

    def _claim_of(self, options: RunOptions) -> ClaimOptions:
        """What may answer the task of each part."""
        return self._claim_options(
            host_of(options),
            reuse=options.get("reuse"),
            again=options.get("again", False),
            if_unknown=options.get("if_unknown", "stop"),
        )

    def _runs_parts(self, options: RunOptions, parts: str) -> Callable[[str], RunPart]:
        """What gets the result of each of these parts, given the id of what is sent together."""
        host = host_of(options)

        def runs(run_id: str) -> RunPart:
            together = replace(host, run_id=host.run_id or run_id, delivers=True)
            return lambda task, on_event, engine: self._run_part(
                task, on_event, engine, parts, {**options, "host": together}
            )

        return runs

    async def _run_part(
        self, task: UpscalerTask, on_event: EventCallback, engine: str | None, parts: str, options: RunOptions
    ) -> RunResult:
        """Get a part's result, by one engine alone where that is named; its delivery is not noted."""
        from .results import REMOTE_ENGINE

        if engine is not None and engine != REMOTE_ENGINE:
            from .engines.fallback import run_locally

            reason = f"all {parts} are made by {engine}"
            return await run_locally(task, self.settings, reason=reason, engine=engine, on_event=on_event)  # type: ignore[arg-type]
        if engine is not None:
            options = {**options, "fallback": "never"}
        return await self.run(task, on_event=on_event, **options)

    def stream(self, task: WorkflowTask, **options: Unpack[RunOptions]) -> TaskStream:
        """Do a task and tell its steps: ``async for event in client.stream(task)``.

        Args:
            **options: As for :meth:`run`.
        """
        from .streams import TaskStream

        check_options("stream", options)
        return TaskStream(lambda on_event: self.run(task, on_event=on_event, **options))

    async def run_many(
        self,
        tasks: Iterable[WorkflowTask],
        *,
        max_in_flight: int | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        on_done: Callable[[Outcome], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> list[Outcome]:
        """Do several tasks at once and give back how each ended, in the order given.

        One failure does not disturb the others. A cancelled call cancels all of them. Equal tasks are one,
        unless they generate without a seed, or `again` asks for new ones.

        Args:
            max_in_flight: How many at the same time; default: the setting.
            on_event: Told each step with the task's index. Without one, a notebook shows progress bars.
            on_done: Told each outcome as it comes; what it raises is logged and disturbs nothing.
            **options: As for :meth:`run`.

        Raises:
            InvalidTaskError: ``max_in_flight`` is less than 1.
        """
        check_options("run_many", options)
        outcomes: dict[int, Outcome] = {}

        def done(outcome: Outcome) -> None:
            outcomes[outcome.index] = outcome
            if on_done is not None:
                on_done(outcome)

        await self.run_each(several(tasks), done, max_in_flight, on_event, options)
        if not host_of(options).delivers:
            # Now and not before: an equal task further down may still want the same result.
            for outcome in outcomes.values():
                if outcome.result is not None:
                    self.delivered(outcome.result)
        return [outcomes[index] for index in range(len(outcomes))]

    def as_completed(
        self,
        tasks: Iterable[WorkflowTask],
        *,
        max_in_flight: int | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[Outcome]:
        """Do several tasks at once and give back how each ended, as they end:
        ``async for outcome in client.as_completed(tasks)``.

        The tasks begin with the first outcome that is asked for. An iteration that is left early cancels
        those that have not ended. A result that you let go of is kept in memory no longer.

        Args:
            max_in_flight, on_event, options: As for :meth:`run_many`.

        Raises:
            InvalidTaskError: ``max_in_flight`` is less than 1.
        """
        check_options("as_completed", options)
        return self._as_completed(several(tasks), max_in_flight, on_event, options)

    async def _as_completed(
        self,
        tasks: Sequence[WorkflowTask],
        max_in_flight: int | None,
        on_event: Callable[[int, TaskEvent], None] | None,
        options: RunOptions,
    ) -> AsyncIterator[Outcome]:
        ended: asyncio.Queue[Outcome | None] = asyncio.Queue()
        running = asyncio.ensure_future(
            self.run_each(tasks, ended.put_nowait, max_in_flight, on_event, options)
        )
        running.add_done_callback(lambda _: ended.put_nowait(None))
        given: list[int] = []
        try:
            while (outcome := await ended.get()) is not None:
                if outcome.result is not None and outcome.result.record_id is not None:
                    given.append(outcome.result.record_id)
                yield outcome
                del outcome
            running.result()
        finally:
            running.cancel()
            await asyncio.wait({running})
            _ = running.cancelled() or running.exception()
            if not host_of(options).delivers:
                self.note_delivered(given)

    async def run_each(
        self,
        tasks: Sequence[WorkflowTask],
        on_done: Callable[[Outcome], None],
        max_in_flight: int | None,
        on_event: Callable[[int, TaskEvent], None] | None,
        options: RunOptions,
    ) -> None:
        """Do several tasks at once and tell how each ended; the deliveries are the caller's to note.

        Raises:
            InvalidTaskError: ``max_in_flight`` is less than 1.
        """
        from .results import Outcome

        most = self.settings.max_in_flight if max_in_flight is None else max_in_flight
        if not isinstance(most, int) or most < 1:
            raise InvalidTaskError(f"max_in_flight is {most!r}; a whole number of at least 1 is needed")
        places = asyncio.Semaphore(most)
        is_shown = on_event is None and options.get("host") is None
        options = {**options, "host": replace(host_of(options), delivers=True)}

        async def one(index: int, task: WorkflowTask) -> None:
            async with places:
                listener = bar.listener(index) if on_event is None else lambda event: on_event(index, event)
                try:
                    result = await self.run(task, on_event=listener, **options)
                    outcome = Outcome(index, task, result=result)
                except XaloraError as error:
                    outcome = Outcome(index, task, error=error)
                except Exception as error:
                    logger.exception("task %d of the batch ended by an unforeseen error", index)
                    outcome = Outcome(index, task, error=UnexpectedError.of(error))
            bar.ended(index, failed=outcome.error is not None)
            try:
                on_done(outcome)
            except Exception:
                logger.exception("the on_done callback failed for task %d of the batch", index)

        async with _shown(tasks, is_shown) as bar:
            await run_all_or_cancel(one(index, task) for index, task in enumerate(tasks))


def open_journal(settings: Settings) -> Journal:
    """The journal in the ``state_dir`` of these settings; it is opened when it is first read or written."""
    from .journal import JOURNAL_FILE, Journal

    folder = settings.state_dir
    journal = Journal(folder / JOURNAL_FILE, folder / RESULTS_FOLDER, int(settings.results_limit))
    journal.daily_limit = settings.daily_limit
    return journal


async def _result(
    caller: Caller,
    timeout: float,
    deadline: float,
    queue_limit: float | None,
    on_timeout: TimeoutAction,
    policy: FallbackPolicy,
) -> RunResult:
    """The result, or the error that ends the wait, after the task that nobody wants any more was canceled."""
    try:
        return await caller.result(timeout, deadline=deadline, queue_limit=queue_limit)
    except XaloraError as error:
        timed_out = isinstance(error, TaskTimeoutError) and on_timeout == "cancel"
        is_given_up = timed_out or isinstance(error, QueueLimitError) or falls_back(policy, error)
        # What is merely out of sight runs on: it is paid for, and this machine may fail at it, too.
        if not is_given_up or is_status_unavailable(error):
            raise
        late = await caller.give_up(error, timeout, deadline)
        if late is None:
            raise
        return late


def _writable(folder: str | os.PathLike[str]) -> Path:
    """A folder for results, made where it is missing; checked before anything is paid for.

    Raises:
        ConfigurationError: It can't be made, or not written.
    """
    path = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100  # resolve() would follow links
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(path, os.W_OK) else "it can't be written"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigurationError(
            f"output_dir={str(folder)!r} can't take results: {reason}", next_step="Name another folder."
        )
    return path


def _shown(tasks: Sequence[WorkflowTask], wanted: bool) -> NotebookProgress:
    from .notebook import NotebookProgress

    return NotebookProgress(tasks, wanted=wanted)


async def _close_sessions(sessions: list[aiohttp.ClientSession]) -> None:
    while sessions:
        await sessions.pop().close()


_open_clients: weakref.WeakSet[AsyncXalora] = weakref.WeakSet()


def _await_answers() -> None:
    """Wait, at the program's end, for answers about creates and cancels that are out; at most 3 s."""
    waits = [
        asyncio.run_coroutine_threadsafe(_end_quietly(client._dispatcher, client._sessions), client._hub)
        for client in _open_clients
        if client._dispatcher is not None and client._hub is not None and is_hub(client._hub)
    ]
    futures.wait(waits, timeout=LEAVING_SECONDS)


async def _end_quietly(dispatcher: Dispatcher, sessions: list[aiohttp.ClientSession]) -> None:
    await dispatcher.until_quiet()
    # A job that still runs would take closed connections for an answer; the process ends with it.
    if dispatcher.is_idle:
        await _close_sessions(sessions)


def _close_soon(opened: list[Dispatcher], sessions: list[aiohttp.ClientSession]) -> None:
    """Close what a client that is gone left open, once the cancels that it began are settled."""

    async def close() -> None:
        for dispatcher in opened:
            await dispatcher.until_settled()
        await _close_sessions(sessions)

    if sessions:
        call_on_hub(lambda: background(close()))


def _always() -> bool:
    return True


def _refuse_output_dir(function: str, options: RunOptions) -> None:
    if options.get("output_dir") is not None:
        raise ConfigurationError(
            f"{function} writes to its output, not to output_dir", next_step="Leave output_dir out."
        )


def several(tasks: Iterable[WorkflowTask]) -> list[WorkflowTask]:
    """A list of tasks.

    Raises:
        InvalidTaskError: It is a single task.
    """
    from .tasks import WorkflowTask

    if isinstance(tasks, WorkflowTask):
        raise InvalidTaskError(
            "A single task was given where several are expected", next_step="Write [task], or run(task)."
        )
    return list(tasks)


def _check_is_task(task: object) -> None:
    # The classes of tasks are heavy to import, and here whenever there is one.
    from .tasks import check_is_task

    check_is_task(task)
