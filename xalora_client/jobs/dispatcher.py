"""From a task to its flight: the journal says whether to send the work, join it, or take it up."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import aiohttp

from ..config import Credentials, IfUnknown, Settings
from ..polling.durations import usual_span
from ..errors import AmbiguousCreateError, ClientClosedError, JournalError
from .fetching import Fetcher
from .job import CANCEL_ON_EXIT_SECONDS, WITHDRAW_SECONDS, Flight
from .async_journal import Ledger
from ..transfer.upload import LONGEST_SIGNATURE, ImageDelivery
from ..network.sequencer import Network
from .preparation import PreparedTask, credentials_of, prepare
from ..results import REMOTE_ENGINE, RunResult, Timing, WorkflowTaskResult
from ..polling.schedule import PollSchedule, is_terminal
from ..polling.task_kind import Siblings
from .uploads import Uploads

if TYPE_CHECKING:
    from ..journal import Entry
    from ..tasks import WorkflowTask

logger = logging.getLogger("xalora_client")

CLOSED_BEFORE = "The client was closed before the task was sent"

URL_MARGIN_SECONDS = 3600.0
"""How much longer than the task an uploaded input stays readable: clocks differ, and miners start late."""


@dataclass(frozen=True)
class Booking:
    """A caller's place on a flight, or the kept result that makes one needless.

    ``cancel_was_asked`` tells that the flight's task was to be canceled before this caller came, and that the
    network has not confirmed it.
    """

    entry_id: int | None
    flight: Flight | None = None
    cancel_was_asked: bool = False
    kept: RunResult | None = None
    kept_ticket: str = ""


class Dispatcher:
    """Knows every flight of this process.

    Args:
        network: The sequencer.
        ledger: The journal, kept going when it fails.
        session: For downloads; it never carries a key.
        delivery: How local images reach a miner.
        settings: The client's settings.
        credentials: The client's own, None where no key is set.
    """

    def __init__(
        self,
        network: Network,
        ledger: Ledger,
        session: aiohttp.ClientSession,
        delivery: ImageDelivery,
        settings: Settings,
        credentials: Credentials | None,
    ) -> None:
        self.ledger = ledger
        self.uploads = Uploads()
        self._network = network
        self._fetcher = Fetcher(network, ledger, session, settings.result_base_url)
        self._delivery = delivery
        self._settings = settings
        self._credentials = credentials
        # Half the cores, the rest is for sending: were a batch prepared at once, its first task would be
        # sent with its last.
        self._preparing = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
        self._flights: dict[int, Flight] = {}
        self._loose: set[Flight] = set()
        self._kinds: WeakValueDictionary[str, Siblings] = WeakValueDictionary()
        self._task_credentials: dict[str, Credentials] = {}
        self._landings: set[asyncio.Task[None]] = set()
        self._seats = 0
        self._all_left = asyncio.Event()
        self._closed = False

    # --- finding the flight -------------------------------------------------------------------------------

    async def book(
        self,
        task: WorkflowTask,
        *,
        reuse: bool,
        if_unknown: IfUnknown,
        reuse_among: AbstractSet[str] = frozenset(),
        schedule: PollSchedule | None = None,
    ) -> Booking:
        """A place on the flight that does this work, or the kept result of it.

        Raises:
            AmbiguousCreateError: An earlier create of the same work has an unknown outcome.
            ClientClosedError: The client was closed meanwhile.
            XaloraError: The task can't be prepared.
        """
        async with self._preparing:
            prepared = await prepare(task, self._credentials, self._settings.sequencer_url)
        siblings = await self._siblings(prepared.kind)
        usual = usual_span(siblings.past_runs)
        while True:
            try:
                claim = await self.ledger.claim(
                    prepared, self._settings.sequencer_url, reuse, reuse_among, if_unknown
                )
            except JournalError:
                if self._closed:
                    raise ClientClosedError(CLOSED_BEFORE) from None
                raise
            # Until somebody answers for the ticket nothing is awaited: a caller cancelled there would take
            # it along, and nobody could ever send this work again.
            if self._closed:
                await self.ledger.leave(claim.ticket)
                raise ClientClosedError(CLOSED_BEFORE)
            entry = claim.entry
            if claim.action == "unknown":
                raise _outcome_unknown(entry)
            if claim.action == "kept":
                return Booking(entry.id, kept=_kept_result(entry), kept_ticket=claim.ticket)
            under_way = self._flights.get(entry.id)
            if under_way is None or under_way.ended:
                flight = self._new_flight(prepared, entry, claim.ticket, schedule, siblings, usual)
                self._flights[entry.id] = flight
                if claim.action == "send":
                    self._send(flight, prepared)
                elif entry.task_id is None:
                    flight.begin_waiting_for_owner()
                flight.cancel_was_asked = claim.cancel_was_asked
                return self._seat(flight)
            under_way.give_back(claim.ticket)
            if not under_way.withdrawn:
                under_way.cancel_was_asked |= claim.cancel_was_asked
                return self._seat(under_way)
            # Somebody has just given this work up. Once that is through, the journal says what is left of it.
            if not await under_way.landed(WITHDRAW_SECONDS):
                reuse, reuse_among = False, frozenset()

    async def take_up(
        self,
        task_id: str,
        credentials: Credentials | None = None,
        schedule: PollSchedule | None = None,
    ) -> Booking:
        """A place on the flight of a task that was submitted before, here or anywhere.

        Raises:
            MissingKeyError: No key is known to ask with.
        """
        entry = await self.ledger.entry_of_task(task_id, self._settings.sequencer_url)
        flight = self._flight_of(entry, task_id)
        if flight is not None:
            return self._seat(flight)
        credentials = credentials or self.credentials_for(task_id)
        siblings = await self._siblings(entry.work.kind) if entry is not None else Siblings()
        ticket = await self.ledger.hold(entry.id) if entry is not None else ""
        if entry is not None and entry.files and all(file.exists() for file in entry.files):
            return Booking(entry.id, kept=_kept_result(entry), kept_ticket=ticket)
        flight = self._flight_of(entry, task_id)
        if flight is not None:
            flight.give_back(ticket)
            return self._seat(flight)
        flight = Flight(
            self._network,
            self.ledger,
            self._fetcher.fetch,
            self.uploads,
            credentials=credentials,
            job_id=entry.job_id if entry is not None else task_id,
            entry_id=entry.id if entry is not None else None,
            ticket=ticket,
            schedule=schedule or PollSchedule(siblings.past_runs),
            siblings=siblings,
            outage_limit=self._settings.outage_limit,
            task_id=task_id,
            submitted_ago=_seconds_since_submission(entry),
        )
        if entry is not None:
            self._flights[entry.id] = flight
        else:
            self._loose.add(flight)
        return self._seat(flight)

    def _seat(self, flight: Flight) -> Booking:
        flight.waiters += 1
        self._seats += 1
        self._all_left.clear()
        return Booking(flight.entry_id, flight, cancel_was_asked=flight.cancel_was_asked)

    def _flight_of(self, entry: Entry | None, task_id: str) -> Flight | None:
        """The flight that follows a task, unless it has ended or been given up."""
        flight = self._flights.get(entry.id) if entry is not None else self._with_task_id(task_id)
        return None if flight is None or flight.ended or flight.withdrawn else flight

    def _with_task_id(self, task_id: str) -> Flight | None:
        flights = (*self._flights.values(), *self._loose)
        return next((flight for flight in flights if flight.task_id == task_id), None)

    def _new_flight(
        self,
        prepared: PreparedTask,
        entry: Entry,
        ticket: str,
        schedule: PollSchedule | None,
        siblings: Siblings,
        usual_seconds: tuple[float, float] | None,
    ) -> Flight:
        return Flight(
            self._network,
            self.ledger,
            self._fetcher.fetch,
            self.uploads,
            credentials=prepared.credentials,
            job_id=entry.job_id,
            entry_id=entry.id,
            ticket=ticket,
            schedule=schedule or PollSchedule(siblings.past_runs),
            siblings=siblings,
            outage_limit=self._settings.outage_limit,
            usual_seconds=usual_seconds,
            in_doubt=entry.in_doubt,
            task_id=entry.task_id,
            submitted_ago=_seconds_since_submission(entry),
        )

    async def _siblings(self, kind: str) -> Siblings:
        siblings = self._kinds.get(kind)
        if siblings is None:
            # Of several that ask at once, all wait for what is known, and the first one's are everybody's.
            siblings = self._kinds.setdefault(kind, Siblings(await self.ledger.past_runs(kind)))
        return siblings

    def _send(self, flight: Flight, prepared: PreparedTask) -> None:
        timeout = prepared.task.timeout_seconds
        # Without a timeout of its own a task may be queued for days, whatever time its caller waits. What is
        # uploaded is deleted at the task's end, however long it could be read.
        lifetime = timeout + URL_MARGIN_SECONDS if timeout else LONGEST_SIGNATURE.total_seconds()
        flight.begin_create(prepared, self._delivery, lifetime)

    def credentials_for(self, task_id: str, task: WorkflowTask | None = None) -> Credentials:
        """Whose key polls and cancels this task.

        Raises:
            MissingKeyError: No key is known.
        """
        if task is not None:
            return credentials_of(task, self._credentials)
        flight = self._with_task_id(task_id)
        if flight is not None:
            return flight.credentials
        return self._task_credentials.get(task_id) or self._settings.credentials()

    # --- leaving ------------------------------------------------------------------------------------------

    async def leave(self, booking: Booking) -> None:
        """Give a place back. The last to leave takes the flight down; the remote task is not touched.

        A create or a cancel that is out goes on without the caller until its answer is noted.
        """
        flight = booking.flight
        if flight is None:
            await self.ledger.leave(booking.kept_ticket)
            return
        flight.waiters -= 1
        self._seats -= 1
        if not self._seats:
            self._all_left.set()
        if flight.task_id is not None and flight.credentials != self._credentials:
            self._task_credentials[flight.task_id] = flight.credentials
        if flight.waiters == 0:
            landing = asyncio.get_running_loop().create_task(self._land(flight))
            self._landings.add(landing)
            landing.add_done_callback(self._landings.discard)
            if not flight.is_busy:
                await asyncio.shield(landing)

    async def _land(self, flight: Flight) -> None:
        await flight.landed()
        if flight.waiters:
            return
        self._loose.discard(flight)
        if flight.entry_id is not None and self._flights.get(flight.entry_id) is flight:
            del self._flights[flight.entry_id]
        await flight.close()
        if flight.result is not None:
            self.ledger.hold_while(flight.result, flight.ticket)
        else:
            await self.ledger.leave(flight.ticket)

    async def note_end(self, answer: WorkflowTaskResult) -> None:
        """Write down what an answer says of a task's end, if it has ended, and clean up after it."""
        if not is_terminal(answer.status):
            return
        entry = await self.ledger.entry_of_task(answer.task_id, self._settings.sequencer_url)
        if entry is not None:
            await self.ledger.settle(entry.id, answer)
            await self.uploads.discard(entry.job_id)

    def poke(self, task_id: str) -> None:
        """Ask for a task's status now, wherever it is waited for."""
        for flight in (*self._flights.values(), *self._loose):
            if flight.task_id == task_id:
                flight.poke()

    async def close(self) -> None:
        """Take all flights down; those who wait are told so by a ClientClosedError."""
        self._closed = True
        flights = [*self._flights.values(), *self._loose]
        await asyncio.gather(*(flight.close() for flight in flights))
        if self._seats:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._all_left.wait(), CANCEL_ON_EXIT_SECONDS)
        await asyncio.gather(*self._landings, return_exceptions=True)


def _kept_result(entry: Entry) -> RunResult:
    return RunResult(
        files=entry.files,
        engine=entry.engine or REMOTE_ENGINE,
        job_id=entry.job_id,
        task_id=entry.task_id,
        device=entry.device,
        miner=entry.miner,
        seconds=Timing(queued=entry.queued_seconds, running=entry.running_seconds, total=entry.total_seconds),
        reused=True,
    )


def _seconds_since_submission(entry: Entry | None) -> float:
    if entry is None or entry.submitted_at is None:
        return 0.0
    return max(0.0, time() - entry.submitted_at)


def _outcome_unknown(entry: Entry) -> AmbiguousCreateError:
    return AmbiguousCreateError(
        f"An earlier create of the same work (job {entry.job_id}) went out and its outcome was never learned",
        money="That task may exist and be charged, so nothing was sent now.",
        next_step='Look for the job in your account. Then choose: if_unknown="resend" sends it again under '
        'the same job id, "forget" pays for a new one (`--if-unknown resend|forget`).',
        job_id=entry.job_id,
    )
