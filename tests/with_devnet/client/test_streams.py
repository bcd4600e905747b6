"""Events and outcomes as they come, by both clients: every one arrives, and leaving early cancels."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from scripted import KEY, PICTURE, Answer, ScriptedNetwork, ScriptedSequencer, png, status, task

from xalora_client import (
    AsyncXalora,
    ConfigurationError,
    FluxLoraTask,
    InvalidTaskError,
    Outcome,
    TaskFailedError,
    UpscalerTask,
    Xalora,
    events,
    load_settings,
)
from xalora_client.devnet import Devnet, DevnetThread

PHOTO = Path(skimage.__file__).parent / "data" / "astronaut.png"


def small(count: int) -> list[UpscalerTask]:
    return UpscalerTask.for_batch(np.random.default_rng(5).random((count, 8, 8, 3), dtype=np.float32))


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # the condition is the other side's
        await asyncio.sleep(0.01)


async def test_a_stream_gives_every_event_in_order_and_the_result() -> None:
    heard: list[events.TaskEvent] = []
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        stream = client.stream(small(1)[0], fallback="never")
        async for event in stream:
            heard.append(event)
        result = await stream.result()
        assert isinstance(heard[0], events.Submitted)
        assert isinstance(heard[-1], events.Done)
        assert heard[-1].files == result.files
        assert [event async for event in stream] == []
        assert (await client.stream(small(2)[1], fallback="never").result()).files
        assert devnet.stats()["creates"] == 2


def test_the_blocking_stream_gives_every_event_in_order_and_the_result() -> None:
    with DevnetThread(miners=1) as devnet, Xalora(devnet.api_key, devnet.url) as client:
        stream = client.stream(small(1)[0], fallback="never")
        heard = list(stream)
        assert isinstance(heard[0], events.Submitted)
        assert isinstance(heard[-1], events.Done)
        assert heard[-1].files == stream.result().files
        assert list(stream) == []
        local = list(client.stream(small(1)[0], fallback="local_only"))
        assert isinstance(local[-1], events.FallingBack | events.Done | events.LocalProgress)
        assert client.stream(small(2)[1], fallback="never").result().files
        assert devnet.stats()["creates"] == 2


async def test_a_stream_raises_the_error_of_its_task() -> None:
    network = ScriptedNetwork(lambda task_id: status("failed", result="out of memory"))
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        stream = client.stream(PICTURE, fallback="never")
        with pytest.raises(TaskFailedError, match="out of memory"):
            async for _ in stream:
                pass
        with pytest.raises(TaskFailedError, match="out of memory"):
            await stream.result()


async def test_a_stream_that_is_left_cancels_its_task() -> None:
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        async for event in client.stream(PICTURE, fallback="never"):
            if isinstance(event, events.Running):
                break
        gc.collect()
        await until(lambda: network.cancels == ["t-1"])
        async with client.stream(task("dog"), fallback="never") as stream:
            await stream.__anext__()
        assert network.cancels == ["t-1", "t-2"]
        reader = asyncio.ensure_future(_read(client))
        await until(lambda: network.created == 3)
        reader.cancel()
        await asyncio.wait({reader})
        assert reader.cancelled()
        assert network.cancels == ["t-1", "t-2", "t-3"]


async def _read(client: AsyncXalora) -> None:
    async for _ in client.stream(task("fox"), fallback="never"):
        pass


async def test_a_blocking_stream_that_is_left_cancels_its_task() -> None:
    network = ScriptedNetwork()

    def read(url: str) -> None:
        with Xalora(KEY, url) as client:
            for event in client.stream(PICTURE, fallback="never"):
                if isinstance(event, events.Running):
                    break
            gc.collect()
            with client.stream(task("dog"), fallback="never") as stream:
                next(stream)

    async with ScriptedSequencer(network) as sequencer:
        await asyncio.to_thread(read, sequencer.url)
        assert sorted(network.cancels) == ["t-1", "t-2"]


async def test_outcomes_come_as_they_end_and_one_failure_disturbs_no_other() -> None:
    network = ScriptedNetwork()
    ended = ["t-3"]

    def poll(task_id: str) -> Answer | None:
        if task_id not in ended:
            return None
        is_broken = task_id == "t-1"
        return (
            status("failed", task_id, result="broken")
            if is_broken
            else status("finished", task_id, result=png(task_id))
        )

    network.on_poll = poll
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        order: list[str | None] = []
        async for outcome in client.as_completed([task(name) for name in "abc"], fallback="never"):
            order.append(outcome.error.task_id if outcome.error else outcome.unwrap().task_id)
            ended.append({"t-3": "t-1", "t-1": "t-2"}.get(order[-1] or "", ""))
        assert order == ["t-3", "t-1", "t-2"]
        await until(lambda: sum(record.delivered for record in client.journal.records()) == 2)


async def test_outcomes_that_are_not_asked_for_any_more_are_canceled() -> None:
    network = ScriptedNetwork()
    network.on_poll = lambda task_id: (
        status("finished", task_id, result=png(task_id)) if task_id == "t-1" else None
    )
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        async for outcome in client.as_completed([task(name) for name in "abc"], fallback="never"):
            assert outcome.unwrap().task_id == "t-1"
            break
        gc.collect()
        await until(lambda: sorted(network.cancels) == ["t-2", "t-3"])


async def test_blocking_outcomes_come_as_they_end_and_leaving_cancels_the_others() -> None:
    network = ScriptedNetwork()
    network.on_poll = lambda task_id: (
        status("finished", task_id, result=png(task_id)) if task_id == "t-1" else None
    )

    def read(url: str) -> list[Outcome]:
        heard: list[int] = []
        threads = set()

        def listen(index: int, event: events.TaskEvent) -> None:
            heard.append(index)
            threads.add(threading.current_thread())

        with Xalora(KEY, url) as client:
            tasks = [task(name) for name in "abc"]
            for outcome in client.as_completed(tasks, fallback="never", on_event=listen):
                assert outcome.unwrap().task_id == "t-1"
                break
            gc.collect()
            network.on_poll = lambda task_id: status("finished", task_id, result=png(task_id))
            again = list(client.as_completed([task(name) for name in "de"], fallback="never"))
            assert heard and len(threads) == 1
            return again

    async with ScriptedSequencer(network) as sequencer:
        again = await asyncio.to_thread(read, sequencer.url)
        assert sorted(network.cancels) == ["t-2", "t-3"]
        assert {outcome.index for outcome in again} == {0, 1}
        assert all(outcome.unwrap().files for outcome in again)


@pytest.mark.parametrize("name", ["run_many", "as_completed", "stream"])
def test_an_unknown_option_is_refused_before_anything_is_sent(name: str) -> None:
    with DevnetThread(miners=1) as devnet, Xalora(devnet.api_key, devnet.url) as client:
        given = small(1)[0] if name == "stream" else small(1)
        with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'fallbackk'"):
            getattr(client, name)(given, fallbackk="never")
        with pytest.raises(TypeError, match="fallbackk"):
            client.run(small(1)[0], fallbackk="never")
        with pytest.raises(InvalidTaskError, match="max_in_flight is 0"):
            list(client.as_completed(small(1), max_in_flight=0))
        assert devnet.stats()["creates"] == 0


async def test_results_go_to_output_dir_named_after_their_input(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (("red.png", "red"), ("my blue (1).png", "blue")):
        Image.new("RGB", (8, 8), colour).save(photos / name)
    tasks = [UpscalerTask(path) for path in sorted(photos.iterdir())]
    flux = FluxLoraTask(prompt="a lighthouse / at dusk", lora_name="gecko", noise_seed=1)
    out = tmp_path / "new" / "out"
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        outcomes = await client.run_many(tasks, output_dir=out, fallback="never")
        files = [outcome.unwrap().files for outcome in outcomes]
        assert files == [(out / "my blue (1).png",), (out / "red.png",)]
        again = [outcome async for outcome in client.as_completed(tasks, output_dir=out, reuse=True)]
        assert {outcome.unwrap().files for outcome in again} == set(files)
        beside = await client.run(tasks[1], output_dir=photos, reuse=True)
        assert beside.files == (photos / "red-2.png",)
        made = await client.run(flux, output_dir=str(out), fallback="never")
        assert made.files[0].name.startswith("a-lighthouse-at-dusk.")
        local = await client.run(tasks[1], output_dir=out, fallback="local_only")
        assert local.files[0].parent == out
        (tmp_path / "file").write_text("in the way")
        creates = devnet.stats()["creates"]
        with pytest.raises(ConfigurationError, match=r"output_dir=.*can't take results"):
            await client.run(small(1)[0], output_dir=tmp_path / "file", fallback="never")
        assert devnet.stats()["creates"] == creates
        assert sorted(path.name for path in out.iterdir() if path.suffix == ".part") == []


async def test_loaded_settings_are_settings() -> None:
    async with Devnet(miners=1) as devnet:
        loaded = load_settings(api_key=devnet.api_key, workflow_url=devnet.url, max_in_flight=3)
        async with AsyncXalora(settings=loaded) as client:
            assert client.settings is loaded.settings
            assert (await client.run(small(1)[0], fallback="never")).files
        with Xalora(settings=loaded) as blocking:
            assert blocking.settings.max_in_flight == 3
        with pytest.raises(ConfigurationError, match="either ready-made settings or single ones"):
            Xalora(settings=loaded, max_in_flight=4)


PROGRAM = """
import sys
from xalora_client import UpscalerTask, Xalora
with Xalora(sys.argv[1], sys.argv[2]) as client:
    client.run(UpscalerTask(sys.argv[3]), fallback="never")
"""


def test_the_log_tells_each_request_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    with DevnetThread(miners=1, api_key="alice#very-s3cret-key") as devnet:
        arguments = [sys.executable, "-c", PROGRAM, devnet.api_key, devnet.url, str(tmp_path / "red.png")]
        silent = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
        assert silent.stderr == silent.stdout == ""
        Image.new("RGB", (8, 8), "blue").save(tmp_path / "red.png")
        monkeypatch.setenv("XALORA_LOG", "debug")
        told = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
        assert told.stdout == ""
        for endpoint in ("task_create", "task_result_query"):
            assert f"POST {devnet.url}/{endpoint} (" in told.stderr
        assert f"GET {devnet.url}" in told.stderr
        assert ": 200 in 0." in told.stderr
        assert "s3cret" not in told.stderr
        monkeypatch.setenv("XALORA_LOG", "loud")
        with pytest.raises(ConfigurationError, match=r"XALORA_LOG.*'debug'"):
            load_settings()


def test_a_program_with_a_log_of_its_own_gets_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("xalora_client")
    before = list(logger.handlers)
    try:
        with DevnetThread(miners=1) as devnet, Xalora(devnet.api_key, devnet.url, log="debug") as client:
            client.run(small(1)[0], fallback="never")
        assert "task_create" in caplog.text
        assert logger.handlers == before
    finally:
        logger.setLevel(logging.NOTSET)
