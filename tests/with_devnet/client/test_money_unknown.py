"""Tasks the network forgot, creates of unknown outcome, results that never come: nothing is paid twice."""

from __future__ import annotations

import asyncio

import pytest
from journals import PATIENCE, leases, until
from scripted import KEY, Answer, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import (
    AmbiguousCreateError,
    AsyncXalora,
    NetworkError,
    ResultError,
    TaskNotKnownError,
    TaskTimeoutError,
    XaloraError,
)
from xalora_client.config import IfUnknown
from xalora_client.journal import TaskState

NO_SUCH_TASK = Answer(404, {"error": "no such task"})


# --- a task the network forgot ------------------------------------------------------------------------------


class Forgetful(ScriptedNetwork):
    """A network that was restarted without its tasks: it knows only those made since `forget`."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: set[str] = set()
        self.on_poll = self.on_cancel = lambda task_id: NO_SUCH_TASK if task_id in self.forgotten else None

    def forget(self) -> None:
        self.forgotten |= set(self.bodies)


async def forgotten_task(client: AsyncXalora, network: Forgetful) -> None:
    """A task that is waited for in vain, since the network has forgotten it."""
    with pytest.raises(TaskTimeoutError):
        await client.run(task(), timeout=1.5, fallback="never")
    network.forget()
    with pytest.raises(TaskNotKnownError, match=r"not known here.*if_unknown"):
        await client.run(task(), fallback="never")


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("polling.failed_polls", "jobs.cancellation"):
        monkeypatch.setattr(f"xalora_client.{module}.REFUSAL_SECONDS", 1.0)


async def test_a_forgotten_task_is_told_once_and_then_at_once() -> None:
    network = Forgetful()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await forgotten_task(client, network)
        (record,) = client.journal.records()
        assert (record.state, record.task_id) == (TaskState.UNKNOWN, "t-1")
        polls = sequencer.count("task_result_query")
        for call in (client.run(task(), fallback="never"), client.execute_workflow(task())):
            with pytest.raises(AmbiguousCreateError, match=r"t-1.*forget") as caught:
                await call
            assert caught.value.task_id == "t-1"
        assert sequencer.count("task_result_query") == polls
    assert network.created == 1


@pytest.mark.parametrize("if_unknown", ["forget", "resend"])
async def test_a_forgotten_task_is_replaced_where_the_user_says_so(if_unknown: IfUnknown) -> None:
    network = Forgetful()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await forgotten_task(client, network)
        again = asyncio.create_task(client.run(task(), if_unknown=if_unknown, fallback="never"))
        await until(lambda: network.created == 2)
        network.finish("t-2")
        assert (await again).task_id == "t-2"
        # And nothing is left of it.
        assert (await client.run(task(), reuse=True, fallback="never")).task_id == "t-2"
    # The network has accepted the first one's job id, so the second one has another.
    assert network.bodies["t-1"]["job_id"] != network.bodies["t-2"]["job_id"]


async def test_a_forgotten_task_that_turns_up_again_is_not_paid_for_twice_by_a_resend() -> None:
    network = Forgetful()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await forgotten_task(client, network)
        network.forgotten.clear()
        again = asyncio.create_task(client.run(task(), if_unknown="resend", fallback="never"))
        await until(lambda: client.journal.records()[0].state is TaskState.SUBMITTED)
        network.finish("t-1")
        assert (await again).task_id == "t-1"
    assert network.created == 1


async def test_a_task_that_can_not_be_asked_about_is_not_resent() -> None:
    network = Forgetful()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await forgotten_task(client, network)
        network.on_poll = lambda task_id: Answer(403, {"error": "not yours"})
        with pytest.raises(NetworkError):
            await client.run(task(), if_unknown="resend", fallback="never")
    assert network.created == 1


async def test_a_forgotten_task_can_be_forgotten_here_too() -> None:
    network = Forgetful()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await forgotten_task(client, network)
        await until(lambda: not leases(client.journal))
        assert await asyncio.wrap_future(client.journal.forget([1])) == 1
        assert await client.execute_workflow(task()) == "t-2"


async def test_a_cancel_of_a_forgotten_task_says_so_and_changes_nothing() -> None:
    network = Forgetful()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await forgotten_task(client, network)
        with pytest.raises(TaskNotKnownError, match=r"does not know|no such task"):
            await client.cancel_task("t-1")
        (record,) = client.journal.records()
        assert (record.state, record.cancel_requested_at) == (TaskState.UNKNOWN, None)


async def test_a_forgotten_task_that_turns_up_again_gives_its_result_by_its_id() -> None:
    network = Forgetful()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await forgotten_task(client, network)
        network.forgotten.clear()
        network.finish()
        assert (await client.task("t-1").result()).task_id == "t-1"
        assert client.journal.records()[0].state is TaskState.FINISHED
        assert (await client.run(task(), reuse=True, fallback="never")).task_id == "t-1"
    assert network.created == 1


# --- a create of unknown outcome ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Answer(503, {"error": "slow down"}, {"Retry-After": "0"}), Answer(409, {"error": "job exists"})),
        (Answer(429, {"error": "slow down"}, {"Retry-After": "0"}), Answer(409, {"error": "job exists"})),
        (Answer(408, {"error": "too slow"}, {"Retry-After": "0"}), None),
        (Answer(425, {"error": "too early"}, {"Retry-After": "0"}), None),
    ],
    ids=["503, 409", "429, 409", "408", "425"],
)
async def test_a_create_that_may_have_made_a_task_is_neither_repeated_nor_told_as_free(
    first: Answer, second: Answer | None
) -> None:
    network = ScriptedNetwork()
    answers = [answer for answer in (first, second) if answer is not None]

    def made_and_refused(body: dict[str, object]) -> Answer:
        network.accept(body)
        return answers.pop(0)

    network.on_create = made_and_refused
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(AmbiguousCreateError) as caught:
            await client.run(task(), fallback="never")
        assert "nothing was charged" not in str(caught.value)
        assert not answers
        asked = sequencer.count("task_create")
        with pytest.raises(AmbiguousCreateError, match=r"resend.*forget"):
            await client.run(task(), fallback="never")
        assert sequencer.count("task_create") == asked


async def test_an_id_that_the_network_gave_to_another_task_before_gives_out_no_other_picture() -> None:
    network = ScriptedNetwork()

    def same_id(body: dict[str, object]) -> Answer:
        network.accept(body)
        return Answer(200, {"task_id": "t-1"})

    network.on_create = same_id
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        first = asyncio.create_task(client.run(task(), fallback="never"))
        await until(network.polled.is_set)
        with pytest.raises(AmbiguousCreateError, match="another task"):
            await client.run(task("dog"), fallback="never")
        network.finish("t-1")
        assert (await first).task_id == "t-1"
        with pytest.raises(AmbiguousCreateError, match="another task"):
            await client.execute_workflow(task("fox"))
        assert {(record.state, record.task_id) for record in client.journal.records()} == {
            (TaskState.FINISHED, "t-1"),
            (TaskState.UNKNOWN, None),
        }


# --- a result that never comes ------------------------------------------------------------------------------


async def test_a_task_that_finished_without_a_result_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xalora_client.jobs.fetching.NO_RESULT_PAUSES", (0.1, 0.1))
    network = ScriptedNetwork(lambda task_id: status("finished", result=None))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(ResultError, match=r"t-1.*without a result"):
            await client.run(task(), fallback="never")
        # Not the same wait and the same error for ever: it is a new task, or the way to one is told.
        network.on_poll = lambda task_id: (
            None if task_id == "t-1" else status("finished", task_id, result=png())
        )
        try:
            result = await client.run(task(), fallback="never")
        except XaloraError as error:
            assert "again" in str(error) or "forget" in str(error)
            result = await client.run(task(), again=True, fallback="never")
        assert result.task_id == "t-2"
    assert network.created == 2


async def test_a_task_that_runs_again_after_its_finish_without_a_result_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xalora_client.jobs.fetching.NO_RESULT_PAUSES", (0.1, 0.1))
    network = ScriptedNetwork()
    answers = [status("finished", result=None), status("running")]
    network.on_poll = lambda task_id: answers.pop(0) if len(answers) > 1 else answers[0]
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(ResultError, match=r"is now running.*xalora resume t-1"):
            await client.run(task(), fallback="never")
        answers[:] = [status("finished", result=png())]
        assert (await client.run(task(), fallback="never")).task_id == "t-1"
    assert network.created == 1


async def test_a_result_that_comes_a_little_later_than_the_finish_is_waited_for() -> None:
    network = ScriptedNetwork()
    answers = [status("finished"), status("finished", result=None), status("finished", result=png())]
    network.on_poll = lambda task_id: answers.pop(0) if len(answers) > 1 else answers[0]
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        result = await asyncio.wait_for(client.run(task(), fallback="never"), PATIENCE)
        assert result.images.shape == (1, 4, 4, 3)
    assert network.created == 1


# --- one network, spelt differently -------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["http://LOCALHOST:{port}", "http://localhost:{port}/"])
async def test_one_sequencer_spelt_differently_is_one_network(spelling: str) -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer:
        port = sequencer.url.rsplit(":", 1)[1]
        async with (
            AsyncXalora(KEY, f"http://localhost:{port}") as here,
            AsyncXalora(KEY, spelling.format(port=port)) as there,
        ):
            first = asyncio.create_task(here.run(task(), fallback="never"))
            await until(network.polled.is_set)
            second = asyncio.create_task(there.run(task(), fallback="never"))
            await until(lambda: leases(here.journal, 1) == 2)
            network.finish()
            assert (await first).task_id == (await second).task_id == "t-1"
    assert network.created == 1
