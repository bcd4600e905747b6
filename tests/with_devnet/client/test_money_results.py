"""A paid result is never given up for what this machine lacks, for a limit of its user, or for an outage."""

from __future__ import annotations

import base64
import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
from ended_workers import end_workers
from journals import until
from PIL import Image
from scripted import KEY, Answer, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import (
    AsyncXalora,
    ResultDownloadError,
    ResultError,
    ResultLocationError,
    ResultMissingError,
    ResultTooLargeError,
)
from xalora_client.errors import STILL_RETRIEVABLE
from xalora_client.journal import TaskState
from xalora_client.media import workers


async def run(client: AsyncXalora, **options: Any) -> str | None:
    return (await client.run(task(), fallback="never", **options)).task_id


def states(client: AsyncXalora) -> list[TaskState]:
    return [record.state for record in client.journal.records()]


async def assert_fetched_again(client: AsyncXalora, network: ScriptedNetwork, error: ResultError) -> None:
    """The result was not given up: the same work takes it, and pays nothing."""
    assert error.money == STILL_RETRIEVABLE
    await until(lambda: states(client) == [TaskState.FINISHED])
    assert await run(client) == "t-1"
    assert network.created == 1


async def test_a_result_that_comes_while_no_file_can_be_opened_is_fetched_later() -> None:
    resource = pytest.importorskip("resource")
    network, taken, picture = ScriptedNetwork(), list[int](), png()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def take_all(task_id: str) -> Answer:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        try:
            while len(taken) < 512:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
        return status("finished", task_id, result=picture)

    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        network.on_poll = take_all
        try:
            with pytest.raises(ResultDownloadError) as caught:
                await run(client)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        network.on_poll = lambda task_id: status("finished", task_id, result=png())
        await assert_fetched_again(client, network, caught.value)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError(), OSError(12, "No")])
async def test_a_result_that_this_machine_has_no_means_to_check_is_fetched_later(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pool: workers._Pool) -> workers._Worker:
        raise error

    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with monkeypatch.context() as patched:
            patched.setattr(workers._Pool, "_taken", fail)
            with pytest.raises(ResultDownloadError) as caught:
                await run(client)
        await assert_fetched_again(client, network, caught.value)


async def test_a_result_whose_worker_was_killed_is_checked_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        ended = end_workers(1, monkeypatch)
        assert await run(client) == "t-1"
        assert len(ended) == 1


async def test_a_result_that_ends_each_worker_is_not_paid_for_again_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=png()))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with monkeypatch.context() as patched:
            end_workers(4, patched)
            for _ in range(2):
                with pytest.raises(
                    ResultTooLargeError, match=r"t-1.*ended twice.*at no cost.*again=True"
                ) as it:
                    await run(client)
            assert network.created == 1
        await assert_fetched_again(client, network, it.value)


def gif(frames: int) -> str:
    stored = io.BytesIO()
    first, *others = (Image.new("RGB", (64, 64), (value, 0, 0)) for value in range(0, 10 * frames, 10))
    first.save(stored, "GIF", save_all=True, append_images=others)
    return "data:image/gif;base64," + base64.b64encode(stored.getvalue()).decode()


async def test_a_result_over_a_limit_is_fetched_once_the_limit_is_raised(tmp_path: Path) -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=gif(4)))
    async with ScriptedSequencer(network) as sequencer:
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path, max_video_bytes=20_000) as client:
            with pytest.raises(ResultTooLargeError, match="XALORA_MAX_VIDEO_BYTES") as caught:
                await run(client)
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            await assert_fetched_again(client, network, caught.value)


async def test_a_result_over_a_limit_is_paid_for_again_where_that_is_asked_for() -> None:
    network = ScriptedNetwork(lambda task_id: status("finished", result=gif(4 if task_id == "t-1" else 1)))
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_video_bytes=20_000) as client,
    ):
        with pytest.raises(ResultTooLargeError):
            await run(client)
        assert await run(client, again=True) == "t-2"


async def test_of_several_files_one_that_may_still_be_had_keeps_the_result() -> None:
    network = ScriptedNetwork()
    cut = (
        "data:image/png;base64," + base64.b64encode(base64.b64decode(png().partition(",")[2])[:-20]).decode()
    )
    network.on_poll = lambda task_id: status("finished", task_id, result=[cut, "http://10.0.0.1/a.png"])
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(ResultLocationError, match="XALORA_RESULT_HOSTS") as caught:
            await run(client)
        network.on_poll = lambda task_id: status("finished", task_id, result=[png()])
        await assert_fetched_again(client, network, caught.value)


class Outage:
    """A task that has finished without a result yet, and the answers after that, the last for good."""

    def __init__(self, *said: Answer) -> None:
        self.said = [status("finished"), *said]

    def __call__(self, task_id: str) -> Answer:
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


DOWN = [Answer(500, {"message": "down"}), Answer(401, {"message": "no"}), Answer(drop="after")]


@pytest.mark.parametrize("down", DOWN, ids=["500", "401", "drop"])
async def test_an_outage_after_a_finish_without_a_result_yet_says_nothing_of_the_result(
    down: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xalora_client.jobs.fetching.NO_RESULT_PAUSES", (0.01, 0.02))
    network = ScriptedNetwork()
    network.on_poll = Outage(down)
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        with pytest.raises(ResultDownloadError, match=r"t-1.*can't be asked.*resume t-1") as caught:
            await run(client)
        network.on_poll = lambda task_id: status("finished", task_id, result=png())
        await assert_fetched_again(client, network, caught.value)


async def test_that_there_is_no_result_is_told_by_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xalora_client.jobs.fetching.NO_RESULT_PAUSES", (0.01, 0.02))
    network = ScriptedNetwork()
    network.on_poll = Outage(DOWN[0], status("finished"))
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        with pytest.raises(ResultMissingError, match="new task"):
            await run(client)
        await until(lambda: states(client) == [TaskState.FAILED])
        network.on_poll = lambda task_id: status("finished", task_id, result=png())
        assert await run(client) == "t-2"
