"""Cancelled, crowded and impatient callers: what reaches the network, the journal, and the other callers."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journals import PATIENCE, leases, leases_in_use, until
from scripted import (
    ACCEPTED,
    KEY,
    OTHER_PICTURE,
    PICTURE,
    Answer,
    ScriptedNetwork,
    ScriptedSequencer,
    png,
    status,
)

from xalora_client import (
    AmbiguousCreateError,
    AsyncXalora,
    ClientClosedError,
    FluxLoraTask,
    InvalidTaskError,
    NetworkError,
    QueueLimitError,
    RequestRefusedError,
    TaskNotKnownError,
    TaskTimeoutError,
    Text2VideoTask,
    UnexpectedError,
    UpscalerTask,
    WorkflowTask,
    XaloraConnectionError,
    events,
)
from xalora_client.client import HostOptions
from xalora_client.config import FallbackPolicy
from xalora_client.devnet import Devnet
from xalora_client.jobs.hub import LEAVING_SECONDS
from xalora_client.journal import Event, Journal, TaskState
from xalora_client.media.inputs import PreparedImage
from xalora_client.transfer.upload import DeliveredImage


def state_of(client: AsyncXalora) -> TaskState:
    return client.journal.records()[0].state


def small_images(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).random((count, 24, 32, 3), dtype=np.float32)


class HeldAtStep(Journal):
    """Another program takes the journal's write lock when a certain step comes, and gives it back later."""

    def __init__(self, folder: Path, step: str) -> None:
        super().__init__(folder / "journal.sqlite3", folder / "results")
        self.reached = threading.Event()
        self._step = step
        self._blocker: sqlite3.Connection | None = None

    def let_go(self) -> None:
        assert self._blocker is not None
        self._blocker.execute("ROLLBACK")
        self._blocker.close()

    def _come_to(self, step: str) -> None:
        if step == self._step and not self.reached.is_set():
            self._blocker = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=PATIENCE
            )
            self._blocker.execute("BEGIN IMMEDIATE")
            self.reached.set()

    def past_runs(self, *arguments: Any, **options: Any) -> Any:
        self.flushed().result(PATIENCE)
        self._come_to("past_runs")
        return super().past_runs(*arguments, **options)

    def claim(self, *arguments: Any, **options: Any) -> Any:
        self._come_to("claim")
        return super().claim(*arguments, **options)

    def sending(self, *arguments: Any, **options: Any) -> Any:
        self._come_to("sending")
        return super().sending(*arguments, **options)

    def accepted(self, *arguments: Any, **options: Any) -> Any:
        self._come_to("accepted")
        return super().accepted(*arguments, **options)

    def note(self, record_id: int | None, event: Event, **values: Any) -> None:
        self._come_to(event.value)
        super().note(record_id, event, **values)


# --- a cancelled caller -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", ["past_runs", "claim", "sending", "accepted", "finished", "kept", "delivered"]
)
async def test_a_call_cancelled_at_any_step_of_a_held_journal_blocks_nobody_afterwards(
    tmp_path: Path, step: str
) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))
    Journal.open(tmp_path / "journal.sqlite3").close()
    with HeldAtStep(tmp_path, step) as journal:
        async with (
            ScriptedSequencer(network) as sequencer,
            AsyncXalora(KEY, sequencer.url, journal=journal) as client,
        ):
            running = asyncio.create_task(client.run(PICTURE, fallback="never"))
            assert await asyncio.to_thread(journal.reached.wait, PATIENCE)
            running.cancel()
            # At the last step the result may be there already.
            await asyncio.wait({running}, timeout=PATIENCE)
            assert running.done()
            journal.let_go()
            del running
            await until(lambda: not leases_in_use(journal))
            again = await asyncio.wait_for(client.run(PICTURE, reuse=True, fallback="never"), PATIENCE)
            assert again.images.shape == (1, 4, 4, 3)
    assert network.created <= 1 + len(network.canceled)


async def test_a_call_cancelled_while_its_image_is_uploaded_sends_nothing() -> None:
    uploading, arrived = asyncio.Event(), asyncio.Event()
    discarded = []

    class SlowStore:
        async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
            uploading.set()
            await arrived.wait()

            async def delete() -> None:
                discarded.append(image)

            return DeliveredImage("https://store.example/in.png", delete)

    loop = asyncio.get_running_loop()
    async with (
        ScriptedSequencer([ACCEPTED]) as sequencer,
        AsyncXalora(KEY, sequencer.url, delivery=SlowStore()) as client,
    ):
        running = asyncio.create_task(client.run(UpscalerTask(small_images(1)[0]), fallback="never"))
        await asyncio.wait_for(uploading.wait(), PATIENCE)
        began = loop.time()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # It waits for a cancel, and not for the upload, which never ends.
        assert loop.time() - began < LEAVING_SECONDS
        (record,) = client.journal.records()
        assert record.state is TaskState.NOT_SENT
    assert sequencer.asked == []


async def test_a_call_cancelled_between_two_attempts_of_its_create_sends_no_second_one() -> None:
    async with (
        ScriptedSequencer([Answer(429, {"message": "later"}, {"Retry-After": "1"}), ACCEPTED]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        running = asyncio.create_task(client.run(PICTURE, fallback="never"))
        await until(lambda: any(e.error for e in client.journal.records(states=[TaskState.PREPARED])))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        (record,) = client.journal.records()
        assert record.state is TaskState.NOT_SENT
        await asyncio.sleep(1.2)
    assert sequencer.count("task_create") == 1


async def test_a_create_answered_long_after_its_call_was_cancelled_is_canceled_all_the_same() -> None:
    hold, created = asyncio.Event(), asyncio.Event()
    network = ScriptedNetwork(lambda task_id: status("running"))

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        said = network(endpoint, body)
        if endpoint == "task_create":
            created.set()
            said.hold = hold
        return said

    loop = asyncio.get_running_loop()
    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(PICTURE, fallback="never"))
        await asyncio.wait_for(created.wait(), PATIENCE)
        began = loop.time()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert loop.time() - began < 4.0
        hold.set()
        await until(lambda: network.canceled == {"t-1"})
        await until(lambda: state_of(client) is TaskState.CANCELED)


async def test_leaving_after_an_unanswered_cancel_is_held_up_once_not_twice() -> None:
    hold, created = asyncio.Event(), asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        created.set()
        return Answer(200, {"task_id": "t-1"}, hold=hold)

    loop = asyncio.get_running_loop()
    async with ScriptedSequencer(answer) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        running = asyncio.create_task(client.run(PICTURE, fallback="never"))
        await asyncio.wait_for(created.wait(), PATIENCE)
        began = loop.time()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await client.close()
        assert loop.time() - began < 4.0
        hold.set()
    async with AsyncXalora(KEY, sequencer.url) as client:
        (record,) = client.journal.records()
        assert record.state is TaskState.UNKNOWN


async def test_the_same_work_asked_again_while_it_is_being_canceled_becomes_a_new_task() -> None:
    network = ScriptedNetwork(
        lambda task_id: status("running") if task_id == "t-1" else status("finished", result=png())
    )
    network.cancel_hold = asyncio.Event()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await asyncio.wait_for(network.polled.wait(), PATIENCE)
        first.cancel()
        await asyncio.wait_for(network.cancel_asked.wait(), PATIENCE)
        second = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await asyncio.sleep(0.2)
        network.cancel_hold.set()
        assert (await second).task_id == "t-2"
        with pytest.raises(asyncio.CancelledError):
            await first
    assert network.canceled == {"t-1"}


async def test_work_whose_cancel_hangs_can_be_asked_again() -> None:
    network = ScriptedNetwork(
        lambda task_id: status("running") if task_id == "t-1" else status("finished", result=png())
    )
    network.cancel_hold = asyncio.Event()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await asyncio.wait_for(network.polled.wait(), PATIENCE)
        first.cancel()
        await asyncio.wait({first})
        again = await asyncio.wait_for(client.run(PICTURE, reuse=True, fallback="never"), PATIENCE)
        assert again.task_id == "t-2"
        assert not network.cancel_hold.is_set()
        network.cancel_hold.set()


async def test_a_task_that_goes_on_after_a_failed_cancel_answers_the_same_work() -> None:
    network = ScriptedNetwork(lambda task_id: status("running"))
    done = asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_cancel":
            return Answer(409, {"message": "can't be stopped"})
        if endpoint == "task_result_query" and done.is_set():
            return status("finished", result=png())
        return network(endpoint, body)

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await asyncio.wait_for(network.polled.wait(), PATIENCE)
        first.cancel()
        await asyncio.wait({first})
        second = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await until(lambda: leases(client.journal, 1))
        done.set()
        assert (await second).task_id == "t-1"
    assert network.created == 1


async def test_of_two_processes_cancelled_at_once_one_cancels_the_shared_task() -> None:
    network = ScriptedNetwork(lambda task_id: status("running"))
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url) as here,
        AsyncXalora(KEY, sequencer.url) as there,
    ):
        runs = [asyncio.create_task(c.run(PICTURE, reuse=True, fallback="never")) for c in (here, there)]
        await until(lambda: here.journal.records() and here.journal.records()[0].task_id)
        await until(lambda: leases(here.journal, 1) == 2)
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
        await until(lambda: state_of(here) is TaskState.CANCELED)
    assert (network.created, network.canceled) == (1, {"t-1"})


async def test_a_task_that_somebody_else_waits_for_survives_one_caller_giving_up() -> None:
    done = asyncio.Event()
    network = ScriptedNetwork(
        lambda _: status("finished", result=png()) if done.is_set() else status("running")
    )
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url) as here,
        AsyncXalora(KEY, sequencer.url) as there,
    ):
        first, second, third = (
            asyncio.create_task(c.run(PICTURE, reuse=True, fallback="never")) for c in (here, here, there)
        )
        await until(lambda: here.journal.records() and here.journal.records()[0].task_id)
        await until(lambda: leases(here.journal, 1) == 2)
        first.cancel()
        await asyncio.wait({first})
        second.cancel()
        await asyncio.wait({second})
        done.set()
        assert (await third).task_id == "t-1"
    assert (network.created, network.canceled) == (1, set())


async def test_a_cancel_is_noticed_though_a_poll_was_under_way() -> None:
    hold, polled = asyncio.Event(), asyncio.Event()
    network = ScriptedNetwork(lambda task_id: Answer(200, {"task_id": "t-1", "status": "running"}, hold=hold))

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_result_query":
            polled.set()
        return network(endpoint, body)

    loop = asyncio.get_running_loop()
    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        waiting = asyncio.create_task(client.task("t-1").wait(interval=60))
        await asyncio.wait_for(polled.wait(), PATIENCE)
        began = loop.time()
        await client.cancel_task("t-1")
        hold.set()
        assert (await waiting).status == "canceled"
        # Before the next poll.
        assert loop.time() - began < 60


async def test_a_refused_cancel_leaves_no_cancel_pending() -> None:
    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            return ACCEPTED
        if endpoint == "task_cancel":
            return Answer(409, {"message": "too late"})
        return status("running")

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        task_id = await client.execute_workflow(PICTURE)
        with pytest.raises(RequestRefusedError, match="too late"):
            await client.cancel_task(task_id)
        assert state_of(client) is TaskState.SUBMITTED


async def test_work_asked_for_again_is_not_lost_to_its_own_late_cancel() -> None:
    """The network did not confirm the cancel, the user asks again, and only then the task is canceled."""
    state = "running"
    created: list[str] = []

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            created.append(f"t-{len(created) + 1}")
            return Answer(200, {"task_id": created[-1]})
        if endpoint == "task_cancel":
            return Answer(500, {"message": "not now"})
        if body["task_id"] == "t-1":
            return Answer(200, {"task_id": "t-1", "status": state})
        return Answer(200, {"task_id": body["task_id"], "status": "finished", "result": png()})

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await until(lambda: [e.status for e in client.journal.records()] == ["running"])
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        (record,) = client.journal.records()
        assert record.state is TaskState.SUBMITTED
        assert record.cancel_requested_at is not None
        polls = sequencer.count("task_result_query")
        again = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await until(lambda: sequencer.count("task_result_query") > polls)
        assert created == ["t-1"]  # it may finish after all, and is paid for
        state = "canceled"
        assert (await again).task_id == "t-2"
        assert created == ["t-1", "t-2"]


class CancelUnconfirmed:
    """A network that does not confirm the cancel of t-1, which stays as `first` says; others finish."""

    def __init__(self) -> None:
        self.first = "running"
        self.created = 0

    def __call__(self, endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            self.created += 1
            return Answer(200, {"task_id": f"t-{self.created}"})
        if endpoint == "task_cancel":
            return Answer(500, {"message": "not now"})
        if body["task_id"] == "t-1":
            return status(self.first)
        return Answer(200, {"task_id": body["task_id"], "status": "finished", "result": png()})


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xalora_client.jobs.cancellation.CANCEL_SECONDS", 0.3)


async def give_up(client: AsyncXalora) -> None:
    """Begin a task, cancel it, and wait until nobody holds on to it, its cancel unconfirmed and lapsed."""
    running = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
    await until(lambda: [e.status for e in client.journal.records()] == ["running"])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not leases(client.journal, 1))
    record = client.journal.find(1)
    assert record is not None
    assert (record.state, record.cancel_requested_at) == (TaskState.SUBMITTED, None)


@pytest.mark.parametrize(
    ("became", "task_id", "creates"),
    [("canceled", "t-2", 2), ("failed", "t-1", 1), ("running", "t-1", 1), ("finished", "t-1", 1)],
)
async def test_a_submit_hands_out_a_task_that_its_late_cancel_has_not_taken(
    no_patience: None, became: str, task_id: str, creates: int
) -> None:
    network = CancelUnconfirmed()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        await give_up(client)
        network.first = became
        assert (await client.submit(PICTURE, reuse=True)).task_id == task_id
    assert network.created == creates


async def test_everybody_who_asks_again_while_a_cancel_is_pursued_shares_the_next_task() -> None:
    network = CancelUnconfirmed()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        given_up = asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never"))
        await until(lambda: [e.status for e in client.journal.records()] == ["running"])
        given_up.cancel()
        await asyncio.wait({given_up})
        told: set[int] = set()

        def again(number: int) -> asyncio.Task[Any]:
            tell = lambda event: told.add(number)  # noqa: E731
            return asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never", on_event=tell))

        first, second = again(1), again(2)
        await until(lambda: told == {1, 2})
        network.first = "canceled"
        assert [(await first).task_id, (await second).task_id] == ["t-2", "t-2"]
    assert network.created == 2


async def test_of_named_tasks_only_those_that_came_to_nothing_are_sent_again() -> None:
    network = ScriptedNetwork(lambda task_id: status("failed" if task_id == "t-2" else "running"))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first, second = [(await client.submit(PICTURE, again=True)).task_id for _ in range(2)]
        assert await client.task(second).status() == "failed"
        both, only_second = (HostOptions(among=frozenset(ids)) for ids in ({first, second}, {second}))
        assert (await client.submit(PICTURE, host=both)).task_id == first
        assert (await client.submit(PICTURE, again=True, host=only_second)).task_id == "t-3"
        with pytest.raises(TaskTimeoutError) as waited:
            await client.run(PICTURE, host=both, timeout=1.0, fallback="never")
        assert waited.value.task_id == first
    assert sequencer.count("task_create") == 3


async def test_a_named_task_whose_cancel_hangs_is_replaced_by_a_new_one() -> None:
    network = ScriptedNetwork()
    network.cancel_hold = asyncio.Event()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(PICTURE, fallback="never"))
        await until(network.polled.is_set)
        running.cancel()
        await until(network.cancel_asked.is_set)
        named = HostOptions(among=frozenset({"t-1"}))
        again = asyncio.create_task(client.submit(PICTURE, host=named))
        try:
            assert (await asyncio.wait_for(again, PATIENCE)).task_id == "t-2"
        finally:
            network.cancel_hold.set()
        await asyncio.wait({running})


# --- tasks whose outcome is unknown -------------------------------------------------------------------------


class Doubtful:
    """A network that loses the answer to its first create, and answers the later ones as told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [Answer(drop="after"), *answers]

    def __call__(self, endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            return self.answers.pop(0)
        return status("finished", result=png())


REFUSED = Answer(402, {"message": "no credit"})
TURNED_AWAY = Answer(503, {"message": "later"}, headers={"Retry-After": "600"})
CONFLICT = Answer(409, {"message": "job exists"})


@pytest.mark.parametrize("call", ["run", "submit", "execute_workflow"])
async def test_asking_again_without_reuse_does_not_pay_for_what_may_be_paid(call: str) -> None:
    async with ScriptedSequencer(Doubtful(ACCEPTED)) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        ask = functools.partial(getattr(client, call), PICTURE)
        options: dict[str, Any] = {"fallback": "never"} if call == "run" else {}
        for _ in range(3):
            with pytest.raises(AmbiguousCreateError, match="resend"):
                await ask(**options)
        assert sequencer.count("task_create") == 1
        await ask(if_unknown="resend", **options)
        assert [record.task_id for record in client.journal.records()] == ["t-1"]
    first, second = (body["job_id"] for name, body in sequencer.asked if name == "task_create")
    assert first == second


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        pytest.param(REFUSED, "first create", id="402"),
        pytest.param(TURNED_AWAY, "first create", id="503"),
        # It says itself that the job may exist.
        pytest.param(CONFLICT, "outcome is unknown", id="409"),
    ],
)
async def test_a_resend_that_is_refused_leaves_the_outcome_unknown(refusal: Any, words: str) -> None:
    async with (
        ScriptedSequencer(Doubtful(refusal, ACCEPTED)) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(AmbiguousCreateError):
            await client.run(PICTURE, reuse=True, fallback="never")
        with pytest.raises(NetworkError, match=words) as caught:
            await client.run(PICTURE, reuse=True, if_unknown="resend", fallback="never")
        assert "so nothing was charged" not in str(caught.value)
        (record,) = client.journal.records()
        assert record.state is TaskState.UNKNOWN
        assert record.job_id in str(caught.value)
        with pytest.raises(AmbiguousCreateError):
            await client.run(PICTURE, reuse=True, fallback="never")
        assert sequencer.count("task_create") == 2
        result = await client.run(PICTURE, reuse=True, if_unknown="resend", fallback="never")
        assert (result.task_id, result.job_id) == ("t-1", record.job_id)
    assert {body["job_id"] for name, body in sequencer.asked if name == "task_create"} == {record.job_id}


async def test_a_resend_that_does_not_leave_leaves_the_outcome_unknown() -> None:
    async with (
        ScriptedSequencer(Doubtful()) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        with pytest.raises(AmbiguousCreateError):
            await client.run(PICTURE, reuse=True, fallback="never")
        await sequencer.__aexit__()
        with pytest.raises(XaloraConnectionError, match="first create"):
            await client.run(PICTURE, reuse=True, if_unknown="resend", fallback="never")
        (record,) = client.journal.records()
        assert record.state is TaskState.UNKNOWN


async def test_a_resend_that_is_cancelled_in_time_leaves_the_outcome_unknown() -> None:
    later = Answer(503, {"message": "later"}, headers={"Retry-After": "60"})
    async with (
        ScriptedSequencer(Doubtful(later)) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(AmbiguousCreateError):
            await client.run(PICTURE, reuse=True, fallback="never")
        with pytest.raises(TaskTimeoutError, match="may exist and be charged"):
            await client.run(PICTURE, reuse=True, if_unknown="resend", fallback="never", timeout=1.0)
        await until(lambda: not leases(client.journal, 1))
        assert state_of(client) is TaskState.UNKNOWN


async def test_a_task_of_the_same_kind_is_asked_about_when_another_has_ended() -> None:
    loop = asyncio.get_running_loop()
    polls: dict[str, list[float]] = {"t-1": [], "t-2": []}

    def status_of(task_id: str) -> Any:
        is_done = len(polls["t-2"]) >= 1
        polls[task_id].append(loop.time())
        return status("finished", result=png()) if is_done else status("running")

    network = ScriptedNetwork(status_of)
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        every_second = asyncio.create_task(
            client.execute_workflow_and_wait_for_result(PICTURE, interval=1.0, timeout=PATIENCE)
        )
        await until(lambda: network.created)
        await client.run(OTHER_PICTURE, fallback="never")
        await every_second
    first, second = polls["t-2"]
    # Without history, its own second look would have come 1.8 s after the first at the earliest.
    assert second - first < 1.7
    assert second > polls["t-1"][-1]


async def test_a_fixed_interval_is_kept_whatever_ends_meanwhile() -> None:
    loop = asyncio.get_running_loop()
    polls: dict[str, list[float]] = {"t-1": [], "t-2": []}

    def status_of(task_id: str) -> Any:
        polls[task_id].append(loop.time())
        is_done = task_id == "t-2" or len(polls["t-1"]) == 2
        return status("finished", result=png()) if is_done else status("running")

    async with (
        ScriptedSequencer(ScriptedNetwork(status_of)) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        fixed = asyncio.create_task(client.execute_workflow_and_wait_for_result(PICTURE, interval=1.0))
        await until(lambda: polls["t-1"])
        await client.run(OTHER_PICTURE, fallback="never")
        await fixed
    assert polls["t-1"][1] - polls["t-1"][0] > 0.95


# --- deadlines ----------------------------------------------------------------------------------------------


async def test_a_deadline_ends_a_create_that_is_told_to_wait_longer() -> None:
    loop = asyncio.get_running_loop()
    async with (
        ScriptedSequencer([Answer(429, {"message": "later"}, {"Retry-After": "60"}), ACCEPTED]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        for wait in (client.run, client.execute_workflow_and_wait_for_result):
            sequencer.answers[:0] = [] if wait == client.run else [sequencer.answers[0]]
            began = loop.time()
            with pytest.raises(TaskTimeoutError, match="nothing was charged") as caught:
                await wait(PICTURE, timeout=0.6, **({"fallback": "never"} if wait == client.run else {}))
            assert 0.6 <= loop.time() - began < 5.0
            assert caught.value.task_id is None
            assert "None" not in str(caught.value)
            assert state_of(client) is TaskState.NOT_SENT
            sequencer.answers[:] = [Answer(429, {"message": "later"}, {"Retry-After": "60"}), ACCEPTED]
    assert sequencer.count("task_create") == 2


async def test_a_deadline_does_not_wait_for_a_create_and_its_answer_is_noted_later() -> None:
    hold = asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        return Answer(200, {"task_id": "t-1"}, hold=hold)

    loop = asyncio.get_running_loop()
    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        began = loop.time()
        with pytest.raises(TaskTimeoutError, match="may exist and be charged") as caught:
            await client.run(PICTURE, timeout=1.5, fallback="never")
        assert 1.5 <= loop.time() - began < 5.0
        assert caught.value.job_id is not None and caught.value.job_id in str(caught.value)
        hold.set()
        await until(lambda: client.journal.records()[0].task_id == "t-1")
        await until(lambda: not leases(client.journal))
        assert state_of(client) is TaskState.SUBMITTED


async def test_the_queue_limit_counts_from_when_the_network_accepted_the_task() -> None:
    hold = asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            return Answer(200, {"task_id": "t-1"}, hold=hold)
        return status("finished", result=png())

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(PICTURE, queue_limit=1.0, fallback="never"))
        asyncio.get_running_loop().call_later(1.3, hold.set)
        assert (await running).task_id == "t-1"


async def test_a_queue_limit_of_zero_is_a_limit() -> None:
    network = ScriptedNetwork(lambda task_id: status("waiting"))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(QueueLimitError):
            await client.run(PICTURE, queue_limit=0, fallback="never", timeout=5)


async def test_a_canceled_task_is_not_said_to_run_on() -> None:
    network = ScriptedNetwork(lambda task_id: status("waiting"))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskTimeoutError) as timed_out:
            await client.run(PICTURE, timeout=3.0, on_timeout="cancel", fallback="never")
        with pytest.raises(QueueLimitError) as queued:
            await client.run(PICTURE, queue_limit=0.2, fallback="never")
    for caught in (timed_out, queued):
        assert "runs on" not in str(caught.value)
        assert "canceled" in str(caught.value)
    assert network.canceled == {"t-1", "t-2"}


@pytest.mark.parametrize(
    "passing",
    [
        Answer(503, {"message": "No miner available right now"}),
        Answer(408, {"message": "took too long"}),
        Answer(503, {"message": "busy"}, {"Retry-After": "0"}),
    ],
)
async def test_a_poll_that_fails_in_passing_does_not_end_the_wait(passing: Any) -> None:
    answers = [ACCEPTED, passing, passing, status("finished", result=png())]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert (await client.run(PICTURE, fallback="never")).task_id == "t-1"


async def test_a_network_that_asks_to_slow_down_is_not_out_of_sight() -> None:
    slower = Answer(429, {"message": "slow down"}, {"Retry-After": "1"})
    answers = [ACCEPTED, slower, slower, slower, status("finished", result=png())]
    async with (
        ScriptedSequencer(answers) as sequencer,
        AsyncXalora(KEY, sequencer.url, outage_limit=0.5) as client,
    ):
        assert (await client.run(PICTURE, fallback="never")).task_id == "t-1"


@pytest.mark.parametrize("policy", ["when_unavailable", "on_any_failure"])
async def test_a_task_out_of_sight_is_not_canceled_when_this_machine_is_to_take_over(
    policy: FallbackPolicy,
) -> None:
    network = ScriptedNetwork(lambda task_id: Answer(500, {"message": "down"}))
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, outage_limit=0.5) as client,
    ):
        with pytest.raises(NetworkError, match=r"this machine can't take over.*runs on.*resume t-1"):
            await client.run(Text2VideoTask(prompt="a dog", seed=1, workflow_id="1"), fallback=policy)
        result = await client.run(UpscalerTask(np.zeros((2, 2, 3), np.uint8)), fallback=policy)
        assert result.engine == "ncnn"
        assert {record.state for record in client.journal.records()} == {TaskState.SUBMITTED}
    assert sequencer.count("task_cancel") == 0


@pytest.mark.parametrize("code", [302, 403, 404, 422])
async def test_a_refused_poll_does_not_end_the_wait(code: int) -> None:
    refused = Answer(code, {"message": "not here"}, {"Location": "/x"} if code == 302 else {})
    answers = [ACCEPTED, refused, status("running"), refused, refused, status("finished", result=png())]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert (await client.run(PICTURE, fallback="never")).task_id == "t-1"


async def test_a_wait_that_ends_by_refusals_leads_back_to_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xalora_client.polling.failed_polls.REFUSAL_SECONDS", 0.0)
    network = ScriptedNetwork(lambda task_id: Answer(401, {"message": "no"}))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(NetworkError, match=r"runs on.*xalora resume t-1") as caught:
            await client.run(PICTURE, fallback="never")
        assert (caught.value.task_id, caught.value.status_code) == ("t-1", 401)
        assert state_of(client) is TaskState.SUBMITTED
    assert sequencer.count("task_result_query") == 1


async def test_a_task_that_stays_unknown_to_the_network_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xalora_client.polling.failed_polls.REFUSAL_SECONDS", 1.0)
    network = ScriptedNetwork(lambda task_id: Answer(404, {"message": "no"}))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskNotKnownError, match=r"not known here.*if_unknown") as caught:
            await client.run(PICTURE, fallback="never")
        assert caught.value.task_id == "t-1"
        (record,) = client.journal.records()
        assert (record.state, record.task_id) == (TaskState.UNKNOWN, "t-1")
    assert sequencer.count("task_result_query") > 1


@pytest.mark.parametrize("status", [404, 410])
async def test_an_id_that_nobody_knows_is_refused_at_once(status: int) -> None:
    unknown = Answer(status, {"message": "unknown task"})
    network = ScriptedNetwork(lambda task_id: unknown)
    network.on_cancel = lambda task_id: unknown
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        handle = client.task("mistyped")
        for polls, ask in enumerate((handle.result, handle.wait, handle.status), 1):
            with pytest.raises(TaskNotKnownError, match="does not know") as caught:
                await ask()
            assert (caught.value.task_id, caught.value.status_code) == ("mistyped", status)
            assert sequencer.count("task_result_query") == polls
        for function in (client.query_task_result, client.cancel_task):
            with pytest.raises(TaskNotKnownError):
                await function("mistyped")
        with pytest.raises(TaskNotKnownError):
            await handle.cancel()
        assert not client.journal.records()


@pytest.mark.parametrize(("timeout_seconds", "lifetime"), [(None, 7 * 86400), (900, 900 + 3600)])
async def test_an_input_stays_readable_for_as_long_as_its_task_may_be_queued(
    timeout_seconds: int | None, lifetime: float
) -> None:
    asked: list[float] = []

    class Recording:
        async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
            asked.append(lifetime)
            return DeliveredImage("https://example.org/in.png")

    async with (
        ScriptedSequencer([ACCEPTED]) as sequencer,
        AsyncXalora(KEY, sequencer.url, delivery=Recording(), wait_timeout=5) as client,
    ):
        await client.submit(UpscalerTask(small_images(1)[0], timeout_seconds=timeout_seconds))
    assert asked == [lifetime]


# --- sharing ------------------------------------------------------------------------------------------------


async def test_a_submit_that_waits_for_another_process_sends_itself_when_that_one_gives_up() -> None:
    uploading = asyncio.Event()

    class NeverArrives:
        async def deliver(self, image: PreparedImage, *, lifetime: float) -> DeliveredImage:
            uploading.set()
            await asyncio.Event().wait()
            raise AssertionError

    task = UpscalerTask(small_images(1)[0])
    async with (
        ScriptedSequencer([ACCEPTED]) as sequencer,
        AsyncXalora(KEY, sequencer.url, delivery=NeverArrives()) as there,
        AsyncXalora(KEY, sequencer.url) as here,
    ):
        sending = asyncio.create_task(there.submit(task, reuse=True))
        await asyncio.wait_for(uploading.wait(), PATIENCE)
        joining = asyncio.create_task(here.submit(task, reuse=True))
        (record,) = there.journal.records()
        await until(lambda: leases(there.journal, record.id) == 2)
        sending.cancel()
        assert (await joining).task_id == "t-1"
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert sequencer.count("task_create") == 1


async def test_a_download_that_another_process_gave_up_does_not_end_ones_own() -> None:
    downloading: asyncio.Queue[str] = asyncio.Queue()

    def listener(name: str) -> Callable[[events.TaskEvent], None]:
        def listen(event: events.TaskEvent) -> None:
            if isinstance(event, events.Downloading):
                downloading.put_nowait(name)

        return listen

    task = UpscalerTask(small_images(1)[0])
    async with Devnet(miners=1, faults=["result:slow:seconds=2"]) as devnet:
        clients = {name: AsyncXalora(devnet.api_key, devnet.url) for name in ("here", "there")}
        runs = {
            name: asyncio.create_task(client.run(task, reuse=True, fallback="never", on_event=listener(name)))
            for name, client in clients.items()
        }
        first = await asyncio.wait_for(downloading.get(), PATIENCE)
        await clients.pop(first).close()
        with pytest.raises(ClientClosedError):
            await runs.pop(first)
        (other,) = runs
        result = await asyncio.wait_for(runs[other], PATIENCE)
        assert result.images.shape == (1, 48, 64, 3)
        await clients[other].close()
        assert devnet.stats()["creates"] == 1


async def test_two_clients_that_fetch_a_task_no_journal_knows_both_get_it_whole(tmp_path: Path) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as one,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as other,
    ):
        results = await asyncio.gather(one.task("t-far").result(), other.task("t-far").result())
        assert all(result.images.shape == (1, 4, 4, 3) for result in results)


async def test_what_the_sdks_functions_gave_out_answers_no_other_work_without_a_seed() -> None:
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        task = FluxLoraTask(prompt="a fox", lora_name="x", workflow_id="3")
        answer = await client.execute_workflow_and_wait_for_result(task)
        assert answer.status == "finished"
        result = await client.run(task, reuse=True, fallback="never")
        assert result.task_id != answer.task_id
        assert devnet.stats()["creates"] == 2


async def test_many_callers_of_the_same_work_are_one_job_with_one_lease() -> None:
    done = asyncio.Event()
    network = ScriptedNetwork(
        lambda _: status("finished", result=png()) if done.is_set() else status("running")
    )
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        runs = [asyncio.create_task(client.run(PICTURE, reuse=True, fallback="never")) for _ in range(8)]
        await asyncio.wait_for(network.polled.wait(), PATIENCE)
        handles = [asyncio.create_task(client.task("t-1").result()) for _ in range(4)]
        await until(lambda: leases(client.journal, 1) == 1)
        polls = sequencer.count("task_result_query")
        done.set()
        await client.task("t-1").wait()
        results = await asyncio.gather(*runs, *handles)
        assert len({result.files for result in results}) == 1
        assert sequencer.count("task_result_query") - polls <= 6
    assert network.created == 1


async def test_a_listener_of_a_finished_wait_is_told_nothing_more() -> None:
    seen: list[events.TaskEvent] = []
    async with Devnet(miners=1, task_seconds=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        task = UpscalerTask(small_images(1)[0])
        running = asyncio.create_task(client.run(task, reuse=True, fallback="never"))
        handle = await client.submit(task, reuse=True, on_event=seen.append)
        count = len(seen)
        with pytest.raises(TaskTimeoutError):
            await handle.wait(timeout=0.1, on_event=seen.append)
        count = len(seen)
        await running
        assert len(seen) == count


async def test_a_kept_file_that_was_deleted_by_hand_is_fetched_again(tmp_path: Path) -> None:
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        first = await client.run(UpscalerTask(small_images(1)[0]), fallback="never")
        first.files[0].unlink()
        again = await client.task(first.task_id or "").result()
        assert again.images.shape == (1, 48, 64, 3)
        assert devnet.stats()["creates"] == 1


async def test_results_in_hand_keep_their_files_whatever_the_limit() -> None:
    async with (
        Devnet(miners=3) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, results_limit=1) as client,
    ):
        tasks = UpscalerTask.for_batch(small_images(5))
        outcomes = await client.run_many(tasks[:4], fallback="never")
        reused = await client.run(tasks[0], reuse=True)
        assert reused.reused
        files = [file for outcome in outcomes for file in outcome.unwrap().files]
        assert all(file.exists() for file in files)
        del outcomes
        await until(lambda: leases_in_use(client.journal) == 1)
        await client.run(tasks[4], fallback="never")
        await until(lambda: [file.exists() for file in files] == [True, False, False, False])


async def test_a_video_in_hand_keeps_its_file_whatever_the_limit() -> None:
    task = Text2VideoTask(prompt="rain", seed=1, workflow_id="2", width=256, height=256, length=16)
    async with (
        Devnet(miners=3) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, results_limit=1) as client,
    ):
        video = (await client.run(task, fallback="never")).video
        one, two, three = UpscalerTask.for_batch(small_images(3))
        younger = (await client.run(one, fallback="never")).files[0]
        await until(lambda: leases_in_use(client.journal) == 1)
        await client.run(two, fallback="never")
        # The least recently used go first, so the video would be gone by now.
        await until(lambda: not younger.exists())
        assert video.frames().shape == (16, 256, 256, 3)
        path = video.path
        del video
        await until(lambda: leases_in_use(client.journal) == 0)
        await client.run(three, fallback="never")
        await until(lambda: not path.exists())


# --- callbacks and batches ----------------------------------------------------------------------------------


async def test_a_callback_that_raises_is_logged_and_harms_neither_task_nor_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("no such bar")

    image = small_images(1)[0]
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        result = await client.run(UpscalerTask(image), on_event=broken, fallback="never")
        assert result.task_id is not None
        assert caplog.text.count("a callback failed") == 1
        await client.submit(UpscalerTask(image), on_event=broken)
        assert (await client.run(UpscalerTask(image), on_event=broken, reuse=True)).reused
        assert (await client.run(UpscalerTask(image), on_event=broken, fallback="local_only")).files
        outcomes = await client.run_many([UpscalerTask(image)] * 2, on_event=broken, on_done=broken)
        assert [outcome.error for outcome in outcomes] == [None, None]


async def test_an_accident_of_one_task_of_a_batch_ends_that_one_alone() -> None:
    class Odd(WorkflowTask):
        task_type = "odd"

        @property
        def task_details(self) -> dict[str, Any]:
            raise KeyError("no such bar")

    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        others = [UpscalerTask(image_url="http://x.example/2.png")] * 3
        tasks: list[Any] = [PICTURE, *others, Odd(), "not a task"]
        outcomes = await client.run_many(tasks, max_in_flight=6, fallback="never")
        errors = [type(None)] * 4 + [UnexpectedError, InvalidTaskError]
        assert [type(outcome.error) for outcome in outcomes] == errors
    assert (network.created, network.cancels) == (2, [])


async def test_a_cancelled_batch_ends_when_all_of_its_cancels_are_through() -> None:
    network = ScriptedNetwork(lambda task_id: status("running"))
    put_off: set[str] = set()

    def slow_to_cancel(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_cancel" and body["task_id"] not in {"t-1", *put_off}:
            put_off.add(body["task_id"])
            return Answer(503, {"message": "a moment"}, {"Retry-After": "0.5"})
        return network(endpoint, body)

    tasks = [UpscalerTask(image_url=f"http://x.example/{number}.png") for number in range(4)]
    async with ScriptedSequencer(slow_to_cancel) as sequencer:
        client = AsyncXalora(KEY, sequencer.url)
        batch = asyncio.create_task(client.run_many(tasks, fallback="never"))
        await until(lambda: sequencer.count("task_result_query") >= len(tasks))
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        # Without a `with` block this is all the time there is before asyncio.run ends the loop.
        assert network.canceled == {"t-1", "t-2", "t-3", "t-4"}
        await client.close()


async def test_a_thousand_tasks_that_fail_at_once_keep_their_order() -> None:
    class Nothing(WorkflowTask):
        task_type = "nothing"
        number: int

    async with ScriptedSequencer([]) as gone:
        url = gone.url
    async with AsyncXalora(KEY, url, max_retries=0) as client:
        outcomes = await client.run_many([Nothing(number=i) for i in range(1000)], fallback="never")
        await until(lambda: not leases(client.journal))
    assert [outcome.index for outcome in outcomes] == list(range(1000))
    assert all("nothing was charged" in str(outcome.error) for outcome in outcomes)


@pytest.mark.parametrize("places", [-1, 0])
async def test_a_batch_needs_room_for_a_task(places: int) -> None:
    async with AsyncXalora(KEY, "http://127.0.0.1:9") as client:
        with pytest.raises(InvalidTaskError, match="max_in_flight"):
            await client.run_many([PICTURE], max_in_flight=places)


# --- what is refused before it costs anything -------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Path("x"), {1, 2}])
async def test_a_parameter_without_a_json_form_is_named_and_nothing_is_sent(value: Any) -> None:
    class Sketch(WorkflowTask):
        task_type = "sketch"
        strength: Any

    async with ScriptedSequencer([]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(InvalidTaskError, match="strength"):
            await client.run(Sketch(strength=value), fallback="never")
        assert client.journal.records() == []
    assert sequencer.asked == []


@pytest.mark.parametrize("asked", ["inf", "nan", "soon"])
async def test_nonsense_in_retry_after_counts_as_none(asked: str) -> None:
    refusal = Answer(429, {"message": "later"}, {"Retry-After": asked})
    async with ScriptedSequencer([refusal, ACCEPTED]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert await client.execute_workflow(PICTURE) == "t-1"


async def test_no_signature_of_a_url_is_stored() -> None:
    class Masked(WorkflowTask):
        task_type = "masked"
        mask_url: str
        more: list[str]

    url = "https://store.example/mask.png?X-Amz-Signature=s1gned"
    async with ScriptedSequencer([ACCEPTED, Answer(200, {"task_id": "t-2"})]) as sequencer:
        async with AsyncXalora(KEY, sequencer.url) as client:
            await client.execute_workflow(Masked(mask_url=url, more=[url]))
            await client.execute_workflow(UpscalerTask(image_url=url))
            details = [record.work.details for record in client.journal.records()]
            folder = client.settings.state_dir
        assert details[0] == {"image": "https://store.example/mask.png"}
        assert details[1]["more"] == ["https://store.example/mask.png"]
        assert not any(b"s1gned" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert all(b"s1gned" in raw for raw in sequencer.raw)


async def test_a_timed_out_tasks_own_key_is_remembered_for_its_cancel() -> None:
    class OtherTask(WorkflowTask):
        task_type = "other"

    network = ScriptedNetwork(lambda task_id: status("running"))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskTimeoutError):
            await client.execute_workflow_and_wait_for_result(OtherTask(api_key="bob#0ther"), timeout=0.6)
        await client.cancel_task("t-1")
    assert {body["api_key"] for _, body in sequencer.asked} == {"0ther"}
