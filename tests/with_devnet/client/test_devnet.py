"""The client against the devnet: real sockets, real pixels, real faults."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image

from xalora_client import (
    AmbiguousCreateError,
    AsyncXalora,
    FluxLoraTask,
    InputTooLargeError,
    MissingKeyError,
    Outcome,
    QueueLimitError,
    ResultDownloadError,
    ResultFormatError,
    TaskFailedError,
    TaskTimeoutError,
    Text2VideoTask,
    UpscalerTask,
    Xalora,
    XaloraConnectionError,
    events,
)
from xalora_client.devnet import Devnet, DevnetThread
from xalora_client.journal import TaskState

PHOTO = Path(skimage.__file__).parent / "data" / "astronaut.png"


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    async with Devnet(miners=3) as network:
        yield network


def small_images(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).random((count, 24, 32, 3), dtype=np.float32)


def lanczos(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
        return np.asarray(rgb.resize((rgb.width * 2, rgb.height * 2), Image.Resampling.LANCZOS))


async def test_a_photograph_comes_back_with_the_pixels_the_miner_made(devnet: Devnet) -> None:
    seen: list[events.TaskEvent] = []
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        result = await client.run(UpscalerTask(PHOTO), on_event=seen.append)
    assert result.images.dtype == np.float32
    assert np.array_equal(np.rint(result.images[0] * 255).astype(np.uint8), lanczos(PHOTO))
    assert (result.engine, result.reused, result.task_id) == ("xalora", False, devnet.task_ids()[0])
    assert result.seconds.total is not None and result.seconds.total > 0
    assert result.miner in devnet.miners
    kinds = [type(event).__name__ for event in seen]
    assert kinds[0] == "Submitted"
    assert kinds[-1] == "Done"
    assert "Downloading" in kinds


async def test_every_way_of_giving_an_image_gives_the_same_result(devnet: Devnet) -> None:
    with Image.open(PHOTO) as image:
        picture = image.convert("RGB")
    array = np.asarray(picture)
    ways = [PHOTO, str(PHOTO), PHOTO.read_bytes(), picture, array, array.astype(np.float32) / 255]
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        outcomes = await client.run_many([UpscalerTask(image) for image in ways], reuse=True)
    results = [outcome.unwrap() for outcome in outcomes]
    assert devnet.stats()["creates"] == 1
    assert all(np.array_equal(result.images, results[0].images) for result in results)


@pytest.mark.parametrize("form", ["url", "key", "object", "list", "images", "video_url", "data"])
async def test_every_form_of_result_is_brought_to_disk(form: Any) -> None:
    async with (
        Devnet(miners=1, result_form=form) as devnet,
        # Without a setting, keys are looked for at the sequencer.
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        result = await client.run(UpscalerTask(small_images(1)[0]), fallback="never")
        assert result.files[0].suffix == ".png"
        assert result.images.shape == (1, 48, 64, 3)


async def test_a_video_is_a_file_with_frames_on_demand(devnet: Devnet) -> None:
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        result = await client.run(Text2VideoTask(prompt="a fox", seed=3, workflow_id="1"))
    video = result.video
    assert video.path.suffix == ".mp4"
    assert (video.width, video.height, video.frame_count, video.fps) == (848, 480, 73, 24.0)
    frames = video.frames(10, 13)
    assert (frames.shape, frames.dtype) == ((3, 480, 848, 3), np.float32)
    assert 0.0 <= frames.min() < frames.max() <= 1.0


async def test_an_animated_webp_is_handed_on_as_h264_and_kept(devnet: Devnet) -> None:
    task = Text2VideoTask(prompt="a fox", seed=3, workflow_id="2", width=256, height=256, length=16, fps=8)
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        result = await client.run(task)
    assert result.files[0].suffix == ".webp"
    assert result.video.path.suffix == ".mp4"
    assert (result.video.frame_count, result.video.width, result.video.fps) == (16, 256, 8.0)
    assert result.files[0].exists()
    # Asked again, the conversion that lies there already is used.
    made = result.video.path.stat().st_mtime_ns
    assert result.video.path.stat().st_mtime_ns == made


async def test_an_image_from_a_prompt(devnet: Devnet) -> None:
    task = FluxLoraTask(prompt="a fox", lora_name="x", width=512, height=576, workflow_id="3", noise_seed=1)
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        result = await client.run(task)
    assert result.files[0].suffix == ".jpg"
    assert result.images.shape == (1, 576, 512, 3)


async def test_a_batch_keeps_its_order_and_reports_successes_and_failures_side_by_side() -> None:
    done: list[int] = []
    async with (
        Devnet(miners=2, faults=["miner:failed:n=3"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        images = small_images(6)
        outcomes = await client.run_many(
            UpscalerTask.for_batch(images),
            fallback="never",
            max_in_flight=3,
            on_done=lambda outcome: done.append(outcome.index),
        )
        assert devnet.stats()["running_most"] <= 2
    assert [outcome.index for outcome in outcomes] == list(range(6))
    assert sorted(done) == list(range(6))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(failed) == 1
    assert isinstance(failed[0].error, TaskFailedError)
    assert failed[0].error.task_id is not None
    for outcome in outcomes:
        if outcome.error is None:
            small = np.asarray(
                Image.fromarray(np.rint(images[outcome.index] * 255).astype(np.uint8)).resize(
                    (64, 48), Image.Resampling.LANCZOS
                )
            )
            assert np.array_equal(np.rint(outcome.unwrap().images[0] * 255), small)
    with pytest.raises(TaskFailedError):
        Outcome.unwrap(failed[0])


async def test_the_same_work_asked_twice_at_once_is_one_task(devnet: Devnet) -> None:
    task = UpscalerTask(small_images(1)[0])
    async with (
        AsyncXalora(devnet.api_key, devnet.url) as first,
        AsyncXalora(devnet.api_key, devnet.url) as second,
    ):
        results = await asyncio.gather(*(c.run(task, reuse=True) for c in (first, first, second)))
    assert devnet.stats()["creates"] == 1
    assert len({result.files for result in results}) == 1


async def test_finished_work_asked_again_costs_nothing(devnet: Devnet) -> None:
    task = UpscalerTask(small_images(1)[0])
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        before = await client.run(task, reuse=True)
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        again = await client.run(task, reuse=True)
        fresh = await client.run(task)
    assert (before.reused, again.reused, fresh.reused) == (False, True, False)
    assert again.files == before.files
    assert devnet.stats()["creates"] == 2


async def test_generation_without_a_seed_is_never_answered_from_before(devnet: Devnet) -> None:
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        task = FluxLoraTask(prompt="a fox", lora_name="x", workflow_id="3")
        await client.run(task, reuse=True)
        await client.run(task, reuse=True)
    assert devnet.stats()["creates"] == 2


async def test_a_task_is_taken_up_by_its_id_by_another_client(devnet: Devnet, tmp_path: Path) -> None:
    async with AsyncXalora(devnet.api_key, devnet.url) as client:
        task_id = await client.execute_workflow(UpscalerTask(small_images(1)[0]))
    for state_dir in (None, tmp_path / "another machine"):
        async with AsyncXalora(devnet.api_key, devnet.url, state_dir=state_dir) as client:
            handle = client.task(task_id)
            assert (await handle.wait()).status == "finished"
            result = await handle.result()
            assert result.task_id == task_id
            assert result.images.shape == (1, 48, 64, 3)
    assert devnet.stats()["creates"] == 1


async def test_cancel_by_handle_is_seen_by_the_sequencer() -> None:
    async with Devnet(miners=1, task_seconds=60) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        handle = await client.submit(UpscalerTask(small_images(1)[0]))
        await devnet.wait_for_status(handle.task_id, "running")
        await handle.cancel()
        await devnet.wait_for_status(handle.task_id, "canceled")
        assert await handle.status() == "canceled"
        assert not client.journal.records(is_open=True)


async def test_a_create_whose_answer_was_lost_is_asked_about_not_repeated() -> None:
    async with (
        Devnet(miners=1, faults=["task_create:drop_after:n=1"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        task = UpscalerTask(small_images(1)[0])
        for _ in range(2):
            with pytest.raises(AmbiguousCreateError):
                await client.run(task, reuse=True, fallback="never")
        assert devnet.stats()["endpoints"]["task_create"] == 1
        result = await client.run(task, reuse=True, fallback="never", if_unknown="resend")
        assert result.images.shape == (1, 48, 64, 3)
        stats = devnet.stats()
        assert (stats["creates"], stats["duplicates"]) == (1, 1)


async def test_a_cut_download_is_resumed_and_a_stored_half_is_an_error() -> None:
    async with (
        Devnet(miners=1, faults=["result:truncate:times=2"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        result = await client.run(UpscalerTask(PHOTO), fallback="never")
        assert np.array_equal(np.rint(result.images[0] * 255), lanczos(PHOTO))
    async with (
        Devnet(miners=1, faults=["upload:truncate_stored"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        with pytest.raises(ResultFormatError) as caught:
            await client.run(UpscalerTask(PHOTO), fallback="never")
        assert caught.value.task_id == devnet.task_ids()[0]


async def test_a_result_that_could_not_be_fetched_by_its_id_stays_to_be_fetched() -> None:
    """The id was what the first call promised; the files are what the second one does."""
    async with (
        Devnet(miners=1, faults=["result:403:times=1"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        task_id = await client.execute_workflow(UpscalerTask(PHOTO))
        await client.task(task_id).wait()
        assert client.journal.records(is_open=True) == []
        with pytest.raises(ResultDownloadError):
            await client.task(task_id).result()
        assert [record.task_id for record in client.journal.records(is_open=True)] == [task_id]
        await client.task(task_id).result()
        (record,) = client.journal.records()
        assert record.is_kept and not record.is_open


async def test_retries_of_free_requests_survive_a_bad_network() -> None:
    faults = ["task_result_query:500:p=0.4", "task_result_query:drop_before:p=0.3", "result:503:times=1"]
    async with (
        Devnet(miners=3, faults=faults, seed=11) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        outcomes = await client.run_many(UpscalerTask.for_batch(small_images(6)), fallback="never")
        assert [outcome.error for outcome in outcomes] == [None] * 6
        assert devnet.stats()["creates"] == 6


async def test_waiting_in_the_queue_beyond_the_limit_withdraws_the_task() -> None:
    async with Devnet(miners=0) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        with pytest.raises(QueueLimitError) as caught:
            await client.run(UpscalerTask(small_images(1)[0]), queue_limit=0.3, fallback="never")
        assert caught.value.cancel_confirmed
        assert devnet.task(devnet.task_ids()[0]).status == "canceled"


async def test_work_that_this_machine_took_over_is_journaled_as_such() -> None:
    async with (
        Devnet(miners=0) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, upscale_model="lanczos") as client,
    ):
        result = await client.run(UpscalerTask(PHOTO), queue_limit=0.3, fallback="when_unavailable")
        record = client.journal.find(task_id=devnet.task_ids()[0])
    assert record is not None
    assert (record.state, record.engine, record.device) == (TaskState.CANCELED, result.engine, result.device)
    assert result.engine == "pillow"


async def test_waiting_beyond_the_time_detaches_or_cancels_as_asked() -> None:
    async with Devnet(miners=1, task_seconds=60) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        for index, (on_timeout, status) in enumerate([("detach", "running"), ("cancel", "canceled")]):
            with pytest.raises(TaskTimeoutError):
                await client.run(
                    Text2VideoTask(prompt="a fox", seed=index, workflow_id="1"),
                    timeout=4.0,
                    on_timeout=on_timeout,  # type: ignore[arg-type]
                    fallback="never",
                )
            task_id = devnet.task_ids()[index]
            assert devnet.task(task_id).status == status
            await client.cancel_task(task_id)


async def test_this_machine_takes_over_when_the_network_is_away(devnet: Devnet) -> None:
    image = small_images(1)[0]
    seen: list[events.TaskEvent] = []
    async with AsyncXalora(devnet.api_key, "http://127.0.0.1:9", max_retries=0) as client:
        with pytest.raises(XaloraConnectionError):
            await client.run(UpscalerTask(image), fallback="never")
        result = await client.run(UpscalerTask(image), on_event=seen.append)
        assert (result.engine, result.task_id, result.device) == ("ncnn", None, "cpu")
        assert "realesrgan-x4plus" in result.note
        assert result.images.shape == (1, 48, 64, 3)
        assert any(isinstance(event, events.FallingBack) for event in seen)
        with pytest.raises(XaloraConnectionError, match="can't take over"):
            await client.run(Text2VideoTask(prompt="a fox"))
    async with AsyncXalora(workflow_url=devnet.url) as client:
        assert (await client.run(UpscalerTask(image), fallback="local_only")).engine == "ncnn"
        with pytest.raises(MissingKeyError, match="XALORA_API_KEY"):
            await client.run(UpscalerTask(image))
    assert devnet.stats()["creates"] == 0


async def test_an_image_over_the_limit_is_refused_before_anything_is_sent(devnet: Devnet) -> None:
    async with AsyncXalora(devnet.api_key, devnet.url, inline_limit="10KiB") as client:
        with pytest.raises(InputTooLargeError, match=r"XALORA_STORE_URL.*XALORA_INLINE_LIMIT"):
            await client.run(UpscalerTask(PHOTO), fallback="never")
    assert devnet.stats()["endpoints"].get("task_create", 0) == 0


async def test_the_key_is_in_no_log(devnet: Devnet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with AsyncXalora("devnet#wrong-s3cret", devnet.url) as client:
        outcomes = await client.run_many(
            [UpscalerTask(small_images(1)[0]), UpscalerTask(PHOTO)], fallback="never"
        )
        journal = client.journal.path
    assert all("401" in str(outcome.error) for outcome in outcomes)
    assert "s3cret" not in caplog.text + "".join(str(outcome.error) for outcome in outcomes)
    assert journal is not None
    assert not any(b"s3cret" in path.read_bytes() for path in journal.parent.rglob("*") if path.is_file())


async def test_proxies_of_the_environment_are_honoured(
    devnet: Devnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A request that reaches the devnet under a name no resolver knows can only have come by the proxy.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", devnet.url)
    async with AsyncXalora(
        devnet.api_key, "http://sequencer.invalid", allow_http=["sequencer.invalid"]
    ) as client:
        answer = await client.resource_request(task_type="upscaler")
    assert answer["miner_id"]


def test_the_blocking_client_serves_many_threads() -> None:
    with DevnetThread(miners=3) as devnet, Xalora(devnet.api_key, devnet.url) as client:
        images = small_images(6)
        results: dict[int, Any] = {}

        def work(index: int) -> None:
            results[index] = client.run(UpscalerTask(images[index]))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {result.images.shape for result in results.values()} == {(1, 48, 64, 3)}
        assert devnet.stats()["creates"] == 6
        handle = client.submit(Text2VideoTask(prompt="a fox", workflow_id="1", seed=1))
        assert handle.wait().status == "finished"
        assert handle.result().video.frame_count == 73


INTERRUPTED = """
import sys, threading, _thread
from xalora_client import UpscalerTask, Xalora, events
import numpy as np

def listen(event):
    if isinstance(event, events.Running):
        _thread.interrupt_main()

with Xalora(sys.argv[1], sys.argv[2]) as client:
    try:
        client.run(UpscalerTask(np.zeros((8, 8, 3), np.uint8)), on_event=listen, fallback="never")
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_in_a_blocking_program_cancels_the_remote_task(tmp_path: Path) -> None:
    with DevnetThread(miners=1, task_seconds=60) as devnet:
        ended = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, devnet.api_key, devnet.url],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "XALORA_STATE_DIR": str(tmp_path / "state")},
            check=False,
        )
        assert (ended.stdout.strip(), ended.returncode, ended.stderr) == ("interrupted", 0, "")
        assert devnet.task(devnet.task_ids()[0]).status == "canceled"


LIGHT_IMPORT = """
import sys
import xalora_client
heavy = {"numpy", "av", "PIL", "torch", "pydantic", "tenacity", "aiohttp"} & set(sys.modules)
assert not heavy, heavy
xalora_client.AsyncXalora
heavy = {"numpy", "av", "PIL", "torch", "tenacity"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", LIGHT_IMPORT], check=True, timeout=60)
