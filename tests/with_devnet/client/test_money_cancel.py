"""Cancels: the same task asked for again meanwhile, cancels that fail, and who else waits."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from journals import PATIENCE, leases, until
from programs import RUN, program
from scripted import KEY, Answer, ScriptedNetwork, ScriptedSequencer, status, task

from xalora_client import (
    AsyncXalora,
    ClientClosedError,
    NetworkError,
    TaskCanceledError,
    TaskFailedError,
    TaskNotKnownError,
    TaskTimeoutError,
    UpscalerTask,
    Xalora,
    XaloraError,
    events,
)
from xalora_client.client import HostOptions
from xalora_client.errors import NOT_CONFIRMED, STILL_RETRIEVABLE
from xalora_client.jobs import callers, cancellation, hub
from xalora_client.jobs.cancellation import Cancellation
from xalora_client.jobs.dispatcher import Dispatcher
from xalora_client.jobs.job import Job
from xalora_client.journal import Journal, TaskState
from xalora_client.journal.rules import Happened
from xalora_client.media.inputs import PreparedImage, prepare_image

HUNDREDS = 300

Given = Callable[[str], Answer | None]


async def run_and_cancel(client: AsyncXalora, network: ScriptedNetwork) -> None:
    """Begin a task, and cancel the call once the task runs."""
    running = asyncio.create_task(client.run(task(), fallback="never"))
    await until(network.polled.is_set)
    running.cancel()
    await asyncio.wait({running}, timeout=PATIENCE)
    assert running.cancelled()


# --- the same task again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_client", [True, False], ids=["same client", "another client"])
@pytest.mark.parametrize("becomes", ["refused", "never answered", "without effect", "failing"])
async def test_a_task_that_its_cancel_does_not_stop_answers_the_same_task(
    becomes: str, same_client: bool
) -> None:
    """Cancel, then the same task again at once: it is paid for once, and its result comes."""
    network = ScriptedNetwork()
    decided = asyncio.Event()
    said = {
        "refused": Answer(409, {"message": "a running task can't be canceled"}, hold=decided),
        "never answered": Answer(200, {"msg": "canceled"}, hold=asyncio.Event()),
        "without effect": Answer(200, {"msg": "canceled"}),
        "failing": Answer(500, {"message": "not now"}),
    }[becomes]
    network.on_cancel = lambda task_id: said
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
        AsyncXalora(KEY, sequencer.url) as other,
    ):
        await run_and_cancel(client, network)
        again = asyncio.create_task((client if same_client else other).run(task(), fallback="never"))
        await until(lambda: leases(client.journal, 1))
        decided.set()
        network.finish()
        assert (await asyncio.wait_for(again, PATIENCE)).task_id == "t-1"
        await until(lambda: [r.state for r in client.journal.records()] == [TaskState.FINISHED])
    assert network.created == 1


@pytest.mark.parametrize("same_client", [True, False], ids=["same client", "another client"])
async def test_a_task_asked_for_while_its_cancel_takes_effect_becomes_a_new_one(same_client: bool) -> None:
    network = ScriptedNetwork()
    network.on_cancel = lambda task_id: Answer(200, {"task_id": task_id, "msg": "will do"})
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
        AsyncXalora(KEY, sequencer.url) as other,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        running.cancel()
        await until(network.cancel_asked.is_set)
        # Known to others as well, a moment after the request has left.
        await until(lambda: other.journal.records()[0].cancel_requested_at is not None)
        seen: list[Any] = []
        again = asyncio.create_task(
            (client if same_client else other).run(task(), fallback="never", on_event=seen.append)
        )
        await until(lambda: seen)
        network.canceled.add("t-1")
        await until(lambda: network.created == 2)
        network.finish("t-2")
        assert (await again).task_id == "t-2"
        await asyncio.wait({running})


async def test_a_task_that_was_canceled_elsewhere_is_a_new_one_when_asked_for_again() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskTimeoutError):
            await client.run(task(), timeout=1.5, fallback="never")
        network.canceled.add("t-1")
        again = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: network.created == 2)
        network.finish("t-2")
        assert (await again).task_id == "t-2"


async def test_a_cancel_whose_task_the_network_does_not_know_says_so() -> None:
    polled = asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Answer:
        if endpoint == "task_cancel":
            # The poll is answered first.
            return Answer(404, {"message": "No such task: nonsense"}, hold=polled)
        polled.set()
        return Answer(404, {"message": "No such task: nonsense"})

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskNotKnownError, match=r"does not know this task.*canceling the") as caught:
            await client.cancel_task("nonsense")
        assert caught.value.money == NOT_CONFIRMED


async def test_a_task_canceled_while_it_is_waited_for_is_told_as_canceled_and_not_repeated() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        await client.cancel_task("t-1")
        with pytest.raises(TaskCanceledError):
            await running
    assert network.created == 1


# --- cancels that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        Answer(403, {"message": "not yours"}),
        Answer(409, {"message": "too late"}),
        Answer(200, {"success": False, "msg": "no"}),
        Answer(200, {"code": 400, "msg": "no", "data": None}),
        Answer(500, {"message": "not now"}),
        Answer(drop="after"),
    ],
    ids=["403", "409", "refused in a 200", "a code in a 200", "500", "dropped"],
)
@pytest.mark.parametrize("way", ["call", "id"])
async def test_a_cancel_that_fails_does_not_stick(
    said: Answer, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xalora_client.jobs.cancellation.CANCEL_SECONDS", 1.5)
    network = ScriptedNetwork()
    network.on_cancel = lambda task_id: said
    async with ScriptedSequencer(network) as sequencer:
        async with AsyncXalora(KEY, sequencer.url) as client:
            if way == "call":
                await run_and_cancel(client, network)
            else:
                await client.submit(task())
                with pytest.raises(NetworkError, match="may run on"):
                    await client.cancel_task("t-1")
            await until(lambda: not leases(client.journal))
            (record,) = client.journal.records()
            assert (record.state, record.cancel_requested_at) == (TaskState.SUBMITTED, None)
            asked = len(network.cancels)
        async with AsyncXalora(KEY, sequencer.url) as client:
            network.finish()
            assert (await client.run(task(), fallback="never")).task_id == "t-1"
    assert (network.created, len(network.cancels)) == (1, asked)


async def test_a_cancel_that_fails_at_first_is_tried_again() -> None:
    network = ScriptedNetwork()
    network.on_cancel = lambda task_id: Answer(503, {"message": "busy"}) if len(network.cancels) < 3 else None
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await run_and_cancel(client, network)
        await until(lambda: client.journal.records()[0].state is TaskState.CANCELED)
    assert network.canceled == {"t-1"}


async def test_a_cancel_of_a_task_that_has_finished_meanwhile_leaves_its_result_to_be_had() -> None:
    network = ScriptedNetwork()

    def too_late(task_id: str) -> Answer:
        network.finish()
        return Answer(409, {"message": "has finished"})

    network.on_cancel = too_late
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await run_and_cancel(client, network)
        await until(lambda: client.journal.records()[0].state is TaskState.FINISHED)
        assert (await client.run(task(), fallback="never")).task_id == "t-1"
    assert network.created == 1


async def test_a_sequencer_that_never_answers_holds_a_cancel_up_for_a_bounded_time() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await client.execute_workflow(task())
        silence = Answer(200, {}, hold=asyncio.Event())
        network.on_cancel = network.on_poll = lambda task_id: silence
        began = monotonic()
        with pytest.raises(NetworkError, match="may run on"):
            await client.cancel_task("t-1")
        assert monotonic() - began < 16.0
        for options in ({}, {"on_timeout": "cancel"}):
            began = monotonic()
            with pytest.raises(TaskTimeoutError):
                await client.run(task(), timeout=1.0, fallback="never", **options)
            assert monotonic() - began < 5.5


# --- networks that lag behind -------------------------------------------------------------------------------


def lagging(network: ScriptedNetwork, polls: int) -> Given:
    """The network knows a new task only after so many polls of it."""
    asked: dict[str, int] = {}

    def answer(task_id: str) -> Answer | None:
        asked[task_id] = asked.get(task_id, 0) + 1
        return Answer(404, {"error": "no such task"}) if asked[task_id] <= polls else None

    return answer


async def test_a_task_that_the_network_knows_a_little_later_is_waited_for() -> None:
    network = ScriptedNetwork()
    network.on_poll = lagging(network, 3)
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: network.created)
        network.finish()
        assert (await running).task_id == "t-1"
        assert client.journal.records()[0].state is TaskState.FINISHED
    assert network.created == 1


@pytest.mark.parametrize("cancels_lag", [False, True], ids=["polls lag", "polls and cancels lag"])
async def test_a_cancel_of_a_task_that_the_network_knows_a_little_later_is_pursued(
    cancels_lag: bool,
) -> None:
    network = ScriptedNetwork()
    network.on_poll = lagging(network, 4)
    if cancels_lag:
        network.on_cancel = lagging(network, 2)
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        running.cancel()
        await asyncio.wait({running})
        await until(lambda: network.canceled == {"t-1"})
        await until(lambda: client.journal.records()[0].state is TaskState.CANCELED)
    assert network.created == 1


# --- at other moments ---------------------------------------------------------------------------------------


async def test_a_cancel_by_id_while_the_create_is_out_ends_the_task() -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    network.on_create = lambda body: network.accept(body, hold)
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: network.created)
        # Its id is known from elsewhere, from the network's own pages for example.
        await client.cancel_task("t-1")
        hold.set()
        with pytest.raises(TaskCanceledError):
            await running
        (record,) = client.journal.records()
        assert (record.state, record.task_id) == (TaskState.CANCELED, "t-1")
    assert network.created == 1


async def test_a_call_cancelled_amid_the_download_leaves_the_result_to_be_fetched() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        slow = f"{sequencer.url}/never.png"
        async with AsyncXalora(KEY, sequencer.url) as client:
            running = asyncio.create_task(client.run(task(), fallback="never"))
            await until(lambda: network.created)
            network.results["t-1"] = slow
            await until(lambda: client.journal.records()[0].state is TaskState.FINISHED)
            running.cancel()
            await asyncio.wait({running}, timeout=PATIENCE)
            assert running.cancelled()
            network.finish()
            assert (await client.run(task(), fallback="never")).task_id == "t-1"
    assert (network.created, network.cancels) == (1, [])


# --- who else waits -----------------------------------------------------------------------------------------


async def test_of_callers_with_different_deadlines_only_the_last_one_cancels() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        long = asyncio.create_task(client.run(task(), timeout=PATIENCE, fallback="never"))
        for _ in range(2):
            with pytest.raises(TaskTimeoutError, match="runs on"):
                await client.run(task(), timeout=1.0, on_timeout="cancel", fallback="never")
        assert network.cancels == []
        network.finish()
        assert (await long).task_id == "t-1"
        both = [client.run(task("dog"), timeout=1.5, on_timeout="cancel", fallback="never") for _ in range(2)]
        ended = await asyncio.gather(*both, return_exceptions=True)
        assert [type(error) for error in ended] == [TaskTimeoutError] * 2
    assert network.canceled == {"t-2"}


@pytest.mark.parametrize("leaves", ["first", "second"])
async def test_a_program_interrupted_leaves_a_task_that_another_program_waits_for(
    tmp_path: Path, leaves: str
) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        program(RUN, sequencer.url, "cat", "{}", state_dir=tmp_path) as first,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        await until(lambda: client.journal.records() and client.journal.records()[0].task_id)
        second = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: leases(client.journal, 1) == 2)
        if leaves == "first":
            first.send_signal(signal.SIGINT)
            await first.communicate()
            network.finish()
            assert (await second).task_id == "t-1"
        else:
            second.cancel()
            await asyncio.wait({second})
            network.finish()
            assert b"t-1" in (await first.communicate())[0]
    assert (network.created, network.cancels) == (1, [])


async def test_leaving_a_with_block_by_ctrl_c_leaves_a_task_that_another_process_waits_for(
    tmp_path: Path,
) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as there,
    ):
        waiting = asyncio.create_task(there.run(task(), fallback="never"))
        await until(network.polled.is_set)
        here = Xalora(KEY, sequencer.url, state_dir=tmp_path)
        calls = [asyncio.create_task(asyncio.to_thread(here.run, task(), fallback="never")) for _ in range(2)]
        await until(lambda: leases(there.journal, 1) == 2)
        alone = asyncio.create_task(asyncio.to_thread(here.run, task("dog"), fallback="never"))
        await until(lambda: network.created == 2)
        await asyncio.to_thread(here.close, cancel=True)
        await asyncio.wait([*calls, alone])
        assert network.canceled == {"t-2"}
        network.finish("t-1")
        assert (await waiting).task_id == "t-1"
    assert network.cancels == ["t-2"]


async def test_a_users_own_cancel_by_id_ends_a_task_whoever_waits() -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url) as here,
        AsyncXalora(KEY, sequencer.url) as there,
    ):
        seen: dict[AsyncXalora, Any] = {}
        calls = [
            asyncio.create_task(
                client.run(task(), fallback="never", on_event=partial(seen.__setitem__, client))
            )
            for client in (here, there)
        ]
        await until(lambda: all(isinstance(seen.get(client), events.Running) for client in (here, there)))
        await here.cancel_task("t-1")
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in ended] == [TaskCanceledError] * 2
    assert (network.created, network.canceled) == (1, {"t-1"})


async def test_a_cancel_of_a_task_that_nobody_knows_says_so() -> None:
    network = ScriptedNetwork(lambda task_id: Answer(404, {"error": "no such task"}))
    network.on_cancel = lambda task_id: Answer(404, {"error": "no such task"})
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskNotKnownError, match=r"no such task|does not know"):
            await client.cancel_task("t-9")
        assert client.journal.records() == []


async def test_the_cancels_of_hundreds_of_tasks_leave_at_once(tmp_path: Path) -> None:
    """A network that takes its time with each answer holds none of them up."""
    network = ScriptedNetwork()
    all_asked = asyncio.Event()

    def answer_when_all_have_asked(task_id: str) -> Answer:
        if len(set(network.cancels)) == HUNDREDS:
            all_asked.set()
        network.canceled.add(task_id)
        return Answer(200, {"task_id": task_id, "msg": "canceled"}, hold=all_asked)

    network.on_cancel = answer_when_all_have_asked
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        running = asyncio.create_task(
            client.run_many(
                [task(str(number)) for number in range(HUNDREDS)], max_in_flight=HUNDREDS, fallback="never"
            )
        )
        await until(lambda: client.journal.count(states=[TaskState.SUBMITTED]) == HUNDREDS, 100.0)
        running.cancel()
        await asyncio.wait({running})
        await until(all_asked.is_set)


async def test_a_cancel_does_not_wait_for_images_on_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ScriptedNetwork()
    back = threading.Event()
    monkeypatch.setattr("xalora_client.jobs.preparation.prepare_image", lambda image: back.wait(60))
    image = np.zeros((4, 4, 3), np.uint8)
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        hanging = [client.run(UpscalerTask(image), timeout=0.2, fallback="never") for _ in range(40)]
        ended = await asyncio.gather(*hanging, return_exceptions=True)
        assert {type(error) for error in ended} == {TaskTimeoutError}
        running.cancel()
        await asyncio.wait({running})
        assert network.canceled == {"t-1"}
        back.set()


async def test_an_image_on_a_disk_that_hangs_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xalora_client.jobs.preparation.PLACE_SECONDS", 0.1)
    network = ScriptedNetwork()
    back = threading.Event()

    def hang(image: object) -> PreparedImage:
        if isinstance(image, str):
            back.wait(60)
        return prepare_image(np.zeros((4, 4, 3), np.uint8))

    monkeypatch.setattr("xalora_client.jobs.preparation.prepare_image", hang)
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        slow = [asyncio.create_task(client.execute_workflow(UpscalerTask("slow.png"))) for _ in range(4)]
        assert await asyncio.wait_for(client.execute_workflow(UpscalerTask(np.zeros((4, 4, 3)))), PATIENCE)
        assert not any(each.done() for each in slow)
        back.set()
        await asyncio.wait(slow)


async def test_a_job_that_goes_on_after_a_wish_was_taken_back_has_a_lease(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as here,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as there,
    ):
        first, others = [asyncio.create_task(c.run(task(), fallback="never")) for c in (here, there)]
        await until(lambda: leases(here.journal, 1) == 2)
        first.cancel()
        # Its lease is dropped to see whether the other one leaves, too.
        await until(lambda: leases(here.journal, 1) == 1)
        second = asyncio.create_task(here.run(task(), fallback="never"))
        await until(lambda: leases(here.journal, 1) == 2)
        await asyncio.wait({first})
        network.finish()
        assert (await second).task_id == (await others).task_id == "t-1"
    assert (network.created, network.cancels) == (1, [])


@pytest.mark.parametrize("same_client", [True, False], ids=["same client", "another client"])
async def test_who_joined_under_a_cancel_that_came_to_nothing_is_not_given_a_new_task_by_a_later_one(
    tmp_path: Path, same_client: bool
) -> None:
    network = ScriptedNetwork()
    asked = asyncio.Event()

    def refuse_the_first(task_id: str) -> Answer | None:
        return Answer(409, {"message": "not now"}, hold=asked) if len(network.cancels) == 1 else None

    network.on_cancel = refuse_the_first
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as here,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as there,
    ):
        first = asyncio.create_task(here.run(task(), fallback="never"))
        await until(network.polled.is_set)
        first.cancel()
        await until(lambda: there.journal.records()[0].cancel_requested_at is not None)
        waits = asyncio.Event()
        second = asyncio.create_task(
            (here if same_client else there).run(task(), on_event=lambda event: waits.set(), fallback="never")
        )
        await asyncio.wait_for(waits.wait(), PATIENCE)
        asked.set()
        await until(lambda: there.journal.records()[0].cancel_requested_at is None)
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as user:
            await user.cancel_task("t-1")
        with pytest.raises(TaskCanceledError):
            await asyncio.wait_for(second, PATIENCE)
        await asyncio.wait({first})
    assert network.created == 1


async def test_a_refusal_that_passes_does_not_end_a_cancel(tmp_path: Path) -> None:
    network = ScriptedNetwork()
    network.on_cancel = lambda task_id: Answer(403, {"message": "no"}) if len(network.cancels) < 3 else None
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        await run_and_cancel(client, network)
        assert network.canceled == {"t-1"}


async def test_a_journal_that_hangs_keeps_no_cancel_from_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ScriptedNetwork()
    back = threading.Event()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        monkeypatch.setattr(Journal, "leased", lambda *_, **__: back.wait(60))
        running.cancel()
        await asyncio.wait({running})
        await until(lambda: network.canceled == {"t-1"})
        back.set()


async def test_a_cancel_by_id_that_nobody_answers_says_that_it_is_not_confirmed() -> None:
    """Though the wait for the task's status has ended by then."""
    never = asyncio.Event()
    network = ScriptedNetwork()
    network.on_cancel = network.on_poll = lambda task_id: Answer(200, {}, hold=never)
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, request_timeout=1.0, outage_limit=1.0) as client,
    ):
        with pytest.raises(NetworkError) as caught:
            await client.cancel_task("t-1")
    assert caught.value.money == NOT_CONFIRMED


@pytest.mark.parametrize("fault", [Answer(drop="after"), Answer(503, {"message": "busy"})])
async def test_a_later_cancel_does_not_rest_on_the_answer_to_an_earlier_one(
    fault: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was accepted, and the task ran on; the first request of the second is lost."""
    monkeypatch.setattr(cancellation, "CANCEL_SECONDS", 0.5)
    monkeypatch.setattr(cancellation, "TRY_SECONDS", 0.5)
    network = ScriptedNetwork()
    said: list[Answer | None] = [Answer(200, {"msg": "canceling"}), fault]
    network.on_cancel = lambda task_id: said.pop(0) if said else None
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        await client.cancel_task("t-1")
        await until(lambda: client.journal.records()[0].cancel_requested_at is None)
        monkeypatch.undo()
        await client.cancel_task("t-1")
        with pytest.raises(TaskCanceledError):
            await running
    assert network.canceled == {"t-1"}


async def test_a_lease_that_a_job_takes_again_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody looks in while the task is canceled, and leaves while the job takes its lease again."""
    network = ScriptedNetwork()
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        (record,) = client.journal.records()
        other = Journal.open(tmp_path / "journal.sqlite3")
        # Of another process: it has the cancel of the first one wait, to look again.
        foreign = await asyncio.wrap_future(other.hold(record.id))
        hold, is_looking = client.journal.hold, threading.Event()
        leased = client.journal.leased

        def looked(*args: Any, **options: Any) -> frozenset[int]:
            found = leased(*args, **options)
            is_looking.set()
            return found

        def told_late(record_id: int, **options: Any) -> Future[str]:
            """The lease is on disk some time before the job knows it, as on a busy machine."""
            told: Future[str] = Future()
            lease = hold(record_id, **options).result()
            asyncio.get_running_loop().call_later(0.1, told.set_result, lease)
            return told

        monkeypatch.setattr(client.journal, "leased", looked)
        monkeypatch.setattr(client.journal, "hold", told_late)

        async def look_in_and_leave(dispatcher: Any) -> None:
            async with dispatcher.caller_of("t-1", wants_files=False) as caller:
                other.leave(foreign)
                await asyncio.wait({caller.job.cancellation._pursuing})
                await caller.withdraw()

        running.cancel()
        await until(is_looking.is_set)
        await client._on_hub(look_in_and_leave)
        await asyncio.wait({running})
        other.close()
    assert (network.created, network.canceled) == (1, {"t-1"})


async def test_a_wait_that_begins_amid_a_cancel_and_is_canceled_too_takes_nothing_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a graph: Collect comes to a task just when an interrupt cancels all that it has not come to."""
    looked = Cancellation._looked

    async def looks_slowly(cancellation: Cancellation, others: Callable[[], bool]) -> bool:
        await asyncio.sleep(0.4)
        return await looked(cancellation, others)

    monkeypatch.setattr(Cancellation, "_looked", looks_slowly)
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        handle = await client.submit(task())
        leaving = asyncio.create_task(client.leave_task(handle.task_id))
        host = HostOptions(cancels=lambda: True)
        waiting = asyncio.create_task(client.task(handle.task_id).result(host=host))
        # It ends amid the look at who else waits; at any other moment the task is canceled as well.
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.wait({leaving, waiting}, timeout=PATIENCE)
        await until(lambda: handle.task_id in network.canceled)


async def test_a_call_cancelled_just_as_its_task_is_claimed_cancels_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job has been found and begun, and the call has not gone on yet."""
    join = Dispatcher._join_job_for

    async def join_and_be_cancelled(*arguments: Any) -> None:
        await join(*arguments)
        for call in list(hub._callers):
            asyncio.get_running_loop().call_soon(call.cancel)

    monkeypatch.setattr(Dispatcher, "_join_job_for", join_and_be_cancelled)
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(asyncio.CancelledError):
            await client.run(task(), timeout=PATIENCE, fallback="never")
        await until(lambda: client._dispatcher.is_idle)
        assert len(network.canceled) == network.created
        assert not client.journal.records(is_open=True)


async def test_a_create_that_is_stopped_just_before_its_last_bytes_leave_does_not_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be answered to nobody, and its task go on."""
    leaves = Job.create_leaves

    def stopped(job: Job) -> None:
        job.tell(Happened.WISHED)
        leaves(job)

    monkeypatch.setattr(Job, "create_leaves", stopped)
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: client.journal.records(states=[TaskState.NOT_SENT]))
        running.cancel()
        await asyncio.wait({running}, timeout=PATIENCE)
    assert network.created == 0


async def test_a_cancel_does_not_reach_the_task_whose_id_another_was_answered_with() -> None:
    network = ScriptedNetwork()
    hold = asyncio.Event()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        network.on_create = lambda body: Answer(200, {"task_id": "t-1"}, hold=hold)
        second = asyncio.create_task(client.run(task("dog"), fallback="never"))
        await until(lambda: sequencer.count("task_create") == 2)
        second.cancel()
        # The wish is there when the answer comes.
        await until(lambda: any(job.state.wish for job in client._dispatcher._live()))
        hold.set()
        await asyncio.wait({second}, timeout=PATIENCE)
        network.finish()
        assert (await first).task_id == "t-1"
    assert network.cancels == []


# --- finished meanwhile -------------------------------------------------------------------------------------


async def test_a_cancel_by_id_amid_the_download_says_that_the_task_is_finished() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(task(), fallback="never"))
        await until(lambda: network.created)
        network.results["t-1"] = f"{sequencer.url}/never.png"
        await until(lambda: client.journal.records()[0].state is TaskState.FINISHED)
        assert (await client.cancel_task("t-1"))["msg"] == "The task is finished."
        await client.close()
        with pytest.raises(ClientClosedError, match="the result of task t-1") as caught:
            await running
        assert caught.value.money == STILL_RETRIEVABLE
    assert network.cancels == []


@pytest.mark.parametrize("ends_by", [{"queue_limit": 0.5}, {"timeout": 0.5, "on_timeout": "cancel"}])
async def test_a_task_that_finishes_as_it_is_given_up_is_told_as_finished(ends_by: dict[str, Any]) -> None:
    network = ScriptedNetwork(lambda task_id: status("waiting"))

    def finishes(task_id: str) -> Answer:
        network.results[task_id] = f"{sequencer.url}/never.png"
        return Answer(409, {"message": "has finished"})

    network.on_cancel = finishes
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskTimeoutError, match="has finished, and its result was not here") as caught:
            await client.run(task(), fallback="never", **{"timeout": 2.0, **ends_by})
        assert caught.value.money == STILL_RETRIEVABLE


@pytest.mark.parametrize(
    ("becomes", "error", "money"),
    [
        ("failed", TaskFailedError, "Whether a failed task is charged is the network's decision"),
        ("running", TaskTimeoutError, NOT_CONFIRMED),
    ],
)
@pytest.mark.parametrize("answer", [200, 409])
async def test_a_task_that_its_cancel_does_not_end_is_told_as_what_became_of_it(
    answer: int, becomes: str, error: type[XaloraError], money: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "CONFIRM_SECONDS", 1.5)
    network = ScriptedNetwork(lambda task_id: status(becomes if network.cancels else "running"))
    network.on_cancel = lambda task_id: Answer(answer, {"msg": "well"})
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(error) as caught:
            await client.run(task(), fallback="never", timeout=0.5, on_timeout="cancel")
    assert type(caught.value) is error
    assert caught.value.money.startswith(money)
