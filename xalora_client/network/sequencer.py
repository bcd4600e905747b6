"""The four endpoints of the sequencer, with retries and typed errors.

Joins :mod:`.transport` (requests without policy) and :mod:`.verdict` (policy without requests). One file,
since the four share their retries and their errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from ..config import DEFAULT_WORKFLOW_URL, Credentials
from ..errors import (
    MAY_BE_CHARGED,
    NOT_ACCEPTED,
    NOT_CONFIRMED,
    AmbiguousCreateError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    NetworkError,
    NoMinerError,
    RateLimitError,
    RequestRefusedError,
    ServiceError,
    TaskNotKnownError,
    XaloraConnectionError,
    XaloraError,
)
from ..results import WorkflowTaskResult
from .answers import message_in, status_answer
from .outside import STATUS_LIMIT, TEXT_LIMIT, cleaned, printable, without_key
from .pace import MAX_POLLS_PER_SECOND, Pace
from .sessions import MAX_CONNECTIONS
from .status import FINISHED, meaning
from .transport import Answer, OutcomeUnknown, Transport, Undelivered
from .verdict import (
    Verdict,
    create_is_settled,
    is_page,
    judge,
    refusal_in,
    says_no,
    speaks_of_another,
    worth_repeating,
)

T = TypeVar("T")

RETRY_BASE_SECONDS = 0.5
RETRY_CAP_SECONDS = 8.0
RETRY_AFTER_CAP_SECONDS = 120.0
MESSAGE_LIMIT = 300

POLLS_AT_ONCE = MAX_CONNECTIONS * 3 // 4
"""Fewer than there are connections: a cancel must not queue behind the polls of thousands of tasks."""

ASKING_SECONDS = 20.0
"""How long a network is asked whether a miner takes a workflow, before a task is created."""

FREE = "This request costs nothing."
UNAFFECTED = "This request costs nothing, and the task itself is not affected."


class Network:
    """Requests to one sequencer: repeated where that costs nothing, else failed with a typed error.

    Args:
        transport: Sends single requests.
        sequencer_url: For messages, without a login.
        max_retries: How often a request is sent again.
    """

    def __init__(self, transport: Transport, sequencer_url: str, max_retries: int) -> None:
        self._transport = transport
        self._url = sequencer_url
        self._max_retries = max_retries
        # Requests queue here and not in the connection pool, where the wait would count as part of the
        # request: it would time out, and a create that was never sent would pass for one that was.
        self._creates = asyncio.Semaphore(MAX_CONNECTIONS)
        self._polls = asyncio.Semaphore(POLLS_AT_ONCE)
        self._poll_pace = Pace(MAX_POLLS_PER_SECOND)

    async def reserve(
        self,
        credentials: Credentials,
        *,
        task_type: str | None,
        workflow_id: str | None,
        retries: int | None = None,
    ) -> Mapping[str, Any]:
        """``resource_request``: ``{miner_id, msg?}``.

        Raises:
            NoMinerError: No miner serves this workflow right now.
            NetworkError: Any other refusal or failure.
        """

        async def once() -> Mapping[str, Any]:
            answer = await self._ask(
                self._transport.post(
                    "resource_request",
                    credentials,
                    consumer_id=credentials.consumer_id,
                    workflow_id=workflow_id,
                    task_type=task_type,
                ),
                "asking for a miner",
            )
            payload = answer.payload or {}
            if not payload.get("miner_id"):
                raise NoMinerError(
                    f"The network has no miner for this workflow: {_message(answer) or 'no reason given'}",
                    next_step="Try again later, or choose another workflow.",
                    status_code=answer.status,
                )
            return payload

        return await self._repeat(once, retries=retries)

    async def check_taken(
        self, credentials: Credentials, *, task_type: str | None, workflow_id: str | None
    ) -> None:
        """Check that a miner takes a workflow; a network that can't say so is taken at its create's word.

        Raises:
            NoMinerError: No miner serves this workflow right now.
        """
        asking = self.reserve(credentials, task_type=task_type, workflow_id=workflow_id, retries=0)
        try:
            await asyncio.wait_for(asking, ASKING_SECONDS)
        except NoMinerError:
            raise
        except (NetworkError, asyncio.TimeoutError):
            return

    async def create(
        self,
        credentials: Credentials,
        *,
        job_id: str,
        task_type: str,
        task_details: Mapping[str, Any],
        workflow_id: str | None,
        timeout_seconds: float | None,
        before_attempt: Callable[[], Awaitable[None]],
        handed_over: Callable[[], None],
        after_refusal: Callable[[XaloraError], Awaitable[None]],
    ) -> str:
        """``task_create``; gives the task id.

        Repeated only where the attempt surely created no task. Every attempt has the same ``job_id``.

        Args:
            before_attempt: Awaited before each time the request leaves; what it raises stops the create.
            handed_over: Called before the last bytes leave, when the network may act on the request; what it
                raises keeps them back.
            after_refusal: Awaited after each attempt that created no task and may be repeated; what it raises
                stops the create.

        Raises:
            AmbiguousCreateError: The request went out and its outcome is not known.
            NetworkError: The task was not created.
        """

        attempts = 0

        async def once() -> str:
            nonlocal attempts
            async with self._creates:
                await before_attempt()
                attempts += 1
                try:
                    return await attempt()
                except _Repeatable as refusal:
                    await after_refusal(refusal.error)
                    raise

        async def attempt() -> str:
            try:
                answer = await self._transport.post(
                    "task_create",
                    credentials,
                    handed_over=handed_over,
                    consumer_id=credentials.consumer_id,
                    task_type=task_type,
                    task_details=task_details,
                    job_id=job_id,
                    workflow_id=workflow_id,
                    timeout_seconds=timeout_seconds,
                )
            except Undelivered as error:
                raise _Repeatable(self._unreachable(error, job_id=job_id)) from error
            except OutcomeUnknown as error:
                raise _ambiguous(job_id, str(error)) from error
            verdict = _judged(answer, well_formed=answer.task_id is not None)
            if verdict is Verdict.OK and answer.task_id is not None:
                return answer.task_id
            reason = _message(answer)
            may_refuse = answer.ok and not answer.names_task
            refused = refusal_in(answer.payload, answer.text) if may_refuse else None
            if refused is not None and not (attempts > 1 and speaks_of_another(answer.text)):
                refusal = self._refusal(
                    refused, answer, reason, "creating the task", NOT_ACCEPTED, job_id=job_id
                )
                # In words alone: not so sure a sign that another request is free of charge.
                raise refusal.error if isinstance(refusal, _Repeatable) else refusal
            settled = create_is_settled(verdict, answer.status, answer.retry_after, attempts)
            # A proxy on the way may have sent it twice: the second is refused for the task of the first.
            is_there = answer.names_task or (answer.status == 409 and speaks_of_another(answer.text))
            if answer.sent_in_full and (is_there or not settled):
                raise _ambiguous(job_id, f"HTTP {answer.status}: {reason}", status_code=answer.status)
            raise self._refusal(verdict, answer, reason, "creating the task", NOT_ACCEPTED, job_id=job_id)

        return await self._repeat(once, is_create=True)

    async def query(
        self, credentials: Credentials, task_id: str, *, retries: int | None = None
    ) -> WorkflowTaskResult:
        """``task_result_query``.

        Raises:
            NetworkError: The status could not be read; the task itself is not affected.
        """

        async def once() -> WorkflowTaskResult:
            if (delay := self._poll_pace.delay(monotonic())) > 0:
                await asyncio.sleep(delay)
            async with self._polls:
                answer = await self._ask(
                    self._transport.post("task_result_query", credentials, task_id=task_id),
                    "asking for the task's status",
                    task_id=task_id,
                    required="status",
                    money=UNAFFECTED,
                )
            payload = answer.payload or {}
            status, result = printable(meaning(payload), STATUS_LIMIT), payload.get("result")
            # The address of a result must stay unchanged; a failure's text is only read.
            if status != FINISHED:
                result = cleaned(without_key(result, credentials))
            return status_answer(task_id, {**payload, "status": status}, result)

        return await self._repeat(once, retries=retries)

    async def cancel(
        self, credentials: Credentials, task_id: str, *, retries: int | None = None
    ) -> dict[str, Any]:
        """``task_cancel``: ``{task_id, msg}``.

        Raises:
            NetworkError: The cancel is not confirmed; the task may run on.
        """

        async def once() -> dict[str, Any]:
            answer = await self._ask(
                self._transport.post("task_cancel", credentials, task_id=task_id),
                "canceling the task",
                task_id=task_id,
                money=NOT_CONFIRMED,
            )
            payload = answer.payload or {}
            if says_no(payload, answer.text) is not None:
                reason = _message(answer)
                raise self._refusal(
                    Verdict.REFUSED, answer, reason, "canceling the task", NOT_CONFIRMED, task_id=task_id
                )
            return {"task_id": task_id, "msg": printable(str(payload.get("msg", "")), TEXT_LIMIT)}

        return await self._repeat(once, retries=retries)

    async def _ask(
        self,
        request: Awaitable[Answer],
        doing: str,
        *,
        task_id: str | None = None,
        required: str | None = None,
        money: str = FREE,
    ) -> Answer:
        """One request that costs nothing, its failures turned into typed errors."""
        try:
            answer = await request
        except (Undelivered, OutcomeUnknown) as error:
            raise _Repeatable(self._unreachable(error, task_id=task_id, money=money)) from error
        except (ConfigurationError, ClientClosedError) as error:
            error.money, error.task_id = money, task_id
            raise
        payload = answer.payload
        well_formed = payload is not None and (required is None or bool(payload.get(required)))
        names_other = _names_other_task(answer, task_id)
        verdict = _judged(answer, well_formed=well_formed and not names_other)
        if verdict is not Verdict.OK:
            reason = "it is about another task" if names_other else _message(answer)
            raise self._refusal(verdict, answer, reason, doing, money, task_id=task_id)
        return answer

    def _unreachable(
        self,
        cause: Exception,
        *,
        task_id: str | None = None,
        job_id: str | None = None,
        money: str = NOT_ACCEPTED,
    ) -> XaloraConnectionError:
        default = " (the default, since XALORA_WORKFLOW_URL is not set)"
        hint = default if self._url == DEFAULT_WORKFLOW_URL else ""
        error = XaloraConnectionError(
            f"The sequencer at {self._url}{hint} can't be reached: {cause}",
            money=money,
            next_step="Check the connection, the proxy settings and XALORA_WORKFLOW_URL, then try again.",
            task_id=task_id,
            job_id=job_id,
        )
        error.reason = str(cause)
        return error

    def _refusal(
        self,
        verdict: Verdict,
        answer: Answer,
        reason: str,
        doing: str,
        money: str,
        *,
        task_id: str | None = None,
        job_id: str | None = None,
    ) -> NetworkError | _Repeatable:
        kind, what, next_step = _REFUSALS[verdict]
        if verdict is Verdict.NOT_FOUND and task_id is not None:
            kind = TaskNotKnownError
        if answer.status == 413:
            next_step = "Lower XALORA_INLINE_LIMIT and set XALORA_STORE_URL, so that images go by your store."
        error = kind(
            f"{what} ({doing}; HTTP {answer.status}{f': {reason}' if reason else ''})",
            money=money,
            next_step=next_step,
            task_id=task_id,
            job_id=job_id,
            status_code=answer.status,
        )
        error.retry_after = answer.retry_after
        if worth_repeating(verdict, answer.status):
            return _Repeatable(error, answer.retry_after)
        return error

    async def _repeat(
        self, once: Callable[[], Awaitable[T]], *, retries: int | None = None, is_create: bool = False
    ) -> T:
        attempts = 1 + (self._max_retries if retries is None else retries)

        def gives_up(state: RetryCallState) -> bool:
            # A sequencer that never answers is not waited for again and again.
            took_long = not is_create and (state.seconds_since_start or 0) >= self._transport.timeout
            is_pause_too_long = (_retry_after_of(state) or 0) > RETRY_AFTER_CAP_SECONDS
            return state.attempt_number >= attempts or took_long or is_pause_too_long

        try:
            # Polls make one attempt, and there are up to a hundred a second.
            if attempts == 1:
                return await once()
            repeat = AsyncRetrying(
                stop=gives_up,
                wait=_pause,
                retry=retry_if_exception_type(_Repeatable),
                reraise=True,
            )
            return await repeat(once)
        except _Repeatable as last:
            raise last.error from last.__cause__


class _Repeatable(Exception):
    """Carries an error to the retry loop: the same request may succeed a little later, at no cost."""

    def __init__(self, error: NetworkError, retry_after: float | None = None) -> None:
        super().__init__(error.what)
        self.error = error
        self.retry_after = retry_after


_REFUSALS: Mapping[Verdict, tuple[type[NetworkError], str, str]] = {
    Verdict.BAD_KEY: (
        AuthenticationError,
        "The network does not accept the API key",
        "Check XALORA_API_KEY: both halves, <consumer_id>#<api_key>.",
    ),
    Verdict.RATE_LIMITED: (
        RateLimitError,
        "The network asks to slow down",
        "Wait a little, or lower the number of tasks in flight.",
    ),
    Verdict.NO_MINER: (
        NoMinerError,
        "The network has no miner for this workflow",
        "Try again later, or choose another workflow.",
    ),
    Verdict.NOT_FOUND: (
        RequestRefusedError,
        "The network does not know this task, or this address",
        "Check the id, XALORA_WORKFLOW_URL, and that the key is the one that created the task.",
    ),
    Verdict.REFUSED: (
        RequestRefusedError,
        "The network refused the request",
        "Correct what the message names; sending the same again will not help.",
    ),
    Verdict.FRONT: (
        ServiceError,
        "A proxy or firewall answered in place of the sequencer",
        "Check XALORA_WORKFLOW_URL, and the VPN, proxy or firewall on the way, then try again.",
    ),
    Verdict.SERVICE_FAILURE: (ServiceError, "The network had an internal failure", "Try again later."),
    Verdict.NOT_THE_PROTOCOL: (
        ServiceError,
        "The answer is not what the protocol promises",
        "Check that XALORA_WORKFLOW_URL is a Xalora sequencer.",
    ),
}


def _ambiguous(job_id: str, cause: str, *, status_code: int | None = None) -> AmbiguousCreateError:
    return AmbiguousCreateError(
        f"The create request {job_id} was sent, and its outcome is unknown ({cause})",
        money=MAY_BE_CHARGED,
        next_step="Look for the job in your account. To send it again under the same job id, which may be "
        'charged again: run(task, if_unknown="resend"), or `--if-unknown resend`.',
        job_id=job_id,
        status_code=status_code,
    )


def _names_other_task(answer: Answer, task_id: str | None) -> bool:
    """Whether an answer names another task than the request: then its status and result don't count."""
    named = (answer.payload or {}).get("task_id")
    return answer.ok and task_id is not None and bool(named) and str(named) != task_id


def _judged(answer: Answer, *, well_formed: bool) -> Verdict:
    return judge(answer.status, answer.text, well_formed=well_formed, is_object=answer.payload is not None)


def _message(answer: Answer) -> str:
    """The answer's message on one line, shortened."""
    if answer.payload is None and is_page(answer.text):
        return "a web page came"
    return printable(str(message_in(answer.payload or {}) or answer.text), MESSAGE_LIMIT)


_BACK_OFF = wait_random_exponential(multiplier=RETRY_BASE_SECONDS, max=RETRY_CAP_SECONDS)  # full jitter


def _retry_after_of(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, _Repeatable) else None


def _pause(state: RetryCallState) -> float:
    """Retry-After where the network gave one, else exponential back-off."""
    seconds = _retry_after_of(state)
    return float(_BACK_OFF(state)) if seconds is None else seconds
