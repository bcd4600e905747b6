"""A finished task's file that is not where it should be: late, moved, gone, or sought in the wrong place."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import scripted
from aiohttp import web
from aiohttp.test_utils import TestServer
from journals import until
from PIL import Image
from scripted import KEY, PICTURE, Answer, ScriptedNetwork, ScriptedSequencer, status, task

from xalora_client import (
    AsyncXalora,
    ResultDownloadError,
    ResultExpiredError,
    ResultFormatError,
    ResultLocationError,
    TaskTimeoutError,
    UnexpectedError,
)
from xalora_client.journal import TaskState


def picture(format_name: str, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, format_name)
    return buffer.getvalue()


def png() -> bytes:
    return picture("PNG", 4)


class Store:
    """Files by path; a path's `statuses` are answered first, one after the other."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.url = ""
        self.gate: asyncio.Event | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.gate is not None:
            await self.gate.wait()
        statuses = self.statuses.get(request.path)
        if statuses:
            return web.Response(status=statuses.pop(0))
        content = self.files.get(request.path)
        return web.Response(status=404) if content is None else web.Response(body=content)


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr("xalora_client.jobs.fetching.NOT_FOUND_PAUSES", (0.01, 0.02, 0.03))
    monkeypatch.setattr("xalora_client.jobs.fetching.BROKEN_PAUSE", 0.01)
    # The store has another port than the sequencer, on the same machine.
    monkeypatch.setenv("XALORA_RESULT_HOSTS", "127.0.0.1")
    store = Store()
    app = web.Application()
    app.router.add_get("/{path:.*}", store.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    store.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield store
    await runner.cleanup()


class Finished:
    """A network whose task is finished, if `statuses` say nothing else.

    Where its result is, it says anew each time, the last for good.
    """

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.reachable_for = 10**6
        self.statuses = ["finished"]

    def __call__(self, endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            return Answer(200, {"task_id": "t-1"})
        self.reachable_for -= 1
        if self.reachable_for < 0:
            return Answer(500, {"message": "not now"})
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Answer(200, {"task_id": "t-1", "status": status, "result": result})


def state_of(client: AsyncXalora) -> TaskState:
    (record,) = client.journal.records()
    return record.state


def is_kept(client: AsyncXalora) -> bool:
    (record,) = client.journal.records()
    return record.state is TaskState.FINISHED and bool(record.files)


async def test_a_result_that_its_store_shows_late_is_waited_for(store: Store) -> None:
    store.files["/a.png"], store.statuses["/a.png"] = png(), [404, 404]
    async with (
        ScriptedSequencer(Finished(f"{store.url}/a.png")) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        result = await client.run(PICTURE, fallback="never")
        assert result.images.shape == (1, 4, 4, 3)
        assert is_kept(client)
    assert len(store.asked) == 3


@pytest.mark.parametrize("status", [404, 410])
async def test_the_network_is_asked_for_a_fresh_address(store: Store, status: int) -> None:
    store.statuses["/old.png"] = [status] * 9
    store.files["/new.png"] = png()
    network = Finished(f"{store.url}/old.png", f"{store.url}/new.png")
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert (await client.run(PICTURE, fallback="never")).files[0].read_bytes() == png()
        (record,) = client.journal.records()
        assert (record.state, record.result) == (TaskState.FINISHED, f"{store.url}/new.png")
        assert record.files
    assert store.asked == ["/old.png", "/new.png"]


async def test_of_several_files_only_the_missing_one_is_fetched_again(store: Store) -> None:
    store.files |= {"/a.png": png(), "/b.png": png()}
    store.statuses["/b.png"] = [404]
    network = Finished([f"{store.url}/a.png", f"{store.url}/b.png"])
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert len((await client.run(PICTURE, fallback="never")).files) == 2
    assert store.asked == ["/a.png", "/b.png", "/b.png"]


@pytest.mark.parametrize("missing", ["/b.png", "bare-key.png"])
async def test_a_file_that_stays_away_takes_no_other_of_its_result_with_it(
    store: Store, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.files |= {"/a.png": png(), "/c.png": png()}
    gone = store.url + missing if missing.startswith("/") else missing
    network = Finished([f"{store.url}/a.png", gone, f"{store.url}/c.png"])
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, result_base_url=store.url) as client,
    ):
        assert len((await client.run(PICTURE, fallback="never")).files) == 2
        assert is_kept(client)
    assert "Its other files are kept" in caplog.text


@pytest.mark.parametrize(("status", "tries"), [(404, 4), (410, 1)])
async def test_a_result_that_stays_away_has_expired(store: Store, status: int, tries: int) -> None:
    store.statuses["/a.png"] = [status] * 9
    async with (
        ScriptedSequencer(Finished(f"{store.url}/a.png")) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(ResultExpiredError, match="t-1"):
            await client.run(PICTURE, fallback="never")
        assert state_of(client) is TaskState.FAILED
    assert len(store.asked) == tries
    assert sequencer.count("task_result_query") == max(2, tries)


async def test_a_page_in_place_of_the_result_costs_no_second_task(store: Store) -> None:
    store.files["/a.png"] = b"<!DOCTYPE html><title>Sign in to the WiFi</title>"
    async with (
        ScriptedSequencer(Finished(f"{store.url}/a.png")) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(ResultDownloadError, match=r"Sign in.*stays retrievable"):
            await client.run(PICTURE, fallback="never")
        assert state_of(client) is TaskState.FINISHED
        store.files["/a.png"] = png()
        assert (await client.run(PICTURE, reuse=True, fallback="never")).files[0].read_bytes() == png()
    assert sequencer.count("task_create") == 1


async def test_a_status_that_lags_behind_makes_no_result_expired(store: Store) -> None:
    store.files["/a.png"], store.statuses["/a.png"] = png(), [404, 404]
    network = Finished(f"{store.url}/a.png")
    network.statuses = ["finished", "running", "running", "finished"]
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert (await client.run(PICTURE, fallback="never")).files[0].read_bytes() == png()


async def test_a_task_said_to_run_still_keeps_its_result_from_expiring(store: Store) -> None:
    network = Finished(f"{store.url}/a.png")
    network.statuses = ["finished", "running"]
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(
            ResultDownloadError, match=r"says that the task is running.*stays retrievable"
        ) as it:
            await client.run(PICTURE, fallback="never")
        assert not isinstance(it.value, ResultExpiredError)
        assert state_of(client) is TaskState.FINISHED


async def test_an_answer_that_lists_other_files_is_followed_from_its_first(store: Store) -> None:
    store.files |= {"/a.png": png(), "/b.png": png()}
    network = Finished(f"{store.url}/late.png", [f"{store.url}/a.png", f"{store.url}/b.png"])
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        result = await client.run(PICTURE, fallback="never")
        assert [file.read_bytes() for file in result.files] == [png(), png()]
    assert store.asked == ["/late.png", "/a.png", "/b.png"]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_an_address_whose_signature_has_run_out_is_asked_for_anew(store: Store, status: int) -> None:
    store.statuses["/old.png"] = [status]
    store.files["/new.png"] = png()
    network = Finished(f"{store.url}/old.png", f"{store.url}/new.png")
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert (await client.run(PICTURE, fallback="never")).files[0].read_bytes() == png()
    assert store.asked == ["/old.png", "/new.png"]


async def test_a_store_that_refuses_an_unchanged_address_is_not_pressed(store: Store) -> None:
    store.statuses["/a.png"] = [403] * 9
    async with (
        ScriptedSequencer(Finished(f"{store.url}/a.png")) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(ResultDownloadError, match=r"HTTP 403.*stays retrievable"):
            await client.run(PICTURE, fallback="never")
        assert state_of(client) is TaskState.FINISHED
    assert len(store.asked) == 1


async def test_a_file_that_is_whole_and_was_not_noted_is_taken_when_the_network_has_it_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError("the process ends here")

    store.files["/a.png"] = png()
    async with (
        ScriptedSequencer(Finished(f"{store.url}/a.png")) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(client.journal.results, "describe", die)
            with pytest.raises(UnexpectedError, match="the process ends here"):
                await client.run(PICTURE, fallback="never")
        assert state_of(client) is TaskState.FINISHED
        del store.files["/a.png"]
        assert (await client.run(PICTURE, reuse=True, fallback="never")).files[0].read_bytes() == png()
        assert is_kept(client)
    assert sequencer.count("task_create") == 1


@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
async def test_a_result_too_large_to_be_decoded_here_is_kept_all_the_same(
    store: Store, format_name: str
) -> None:
    store.files["/a"] = content = picture(format_name, 11)
    async with (
        ScriptedSequencer(Finished(f"{store.url}/a")) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_image_bytes=100) as client,
    ):
        result = await client.run(PICTURE, fallback="never")
        assert result.files[0].read_bytes() == content
        with pytest.raises(ResultFormatError, match=r"11x11 pixels.*XALORA_MAX_IMAGE_BYTES"):
            _ = result.images
        assert is_kept(client)


async def test_a_wait_that_ends_amid_the_download_says_that_the_task_has_finished(store: Store) -> None:
    store.gate = asyncio.Event()
    store.files["/a.png"] = png()
    async with (
        ScriptedSequencer(Finished(f"{store.url}/a.png")) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(TaskTimeoutError, match=r"has finished.*stays retrievable"):
            await client.run(PICTURE, fallback="never", timeout=4.0)
        store.gate.set()


async def test_where_the_network_cannot_be_asked_again_the_task_stays_finished(store: Store) -> None:
    network = Finished(f"{store.url}/a.png")
    network.reachable_for = 1
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        with pytest.raises(ResultDownloadError, match=r"404.*resume t-1") as caught:
            await client.run(PICTURE, fallback="never")
        assert not isinstance(caught.value, ResultExpiredError)
        assert state_of(client) is TaskState.FINISHED
        network.reachable_for = 10**6
        store.files["/a.png"] = png()
        assert (await client.run(PICTURE, reuse=True, fallback="never")).task_id == "t-1"
    assert sequencer.count("task_create") == 1


@pytest.mark.parametrize("status", [404, 410])
async def test_a_key_that_the_base_url_does_not_lead_to_blames_the_setting(
    store: Store, status: int, tmp_path: Path
) -> None:
    store.statuses["/wrong/k.png"] = [status] * 9
    store.files["/right/k.png"] = png()
    async with ScriptedSequencer(Finished("k.png")) as sequencer:
        options: dict[str, Any] = {"state_dir": tmp_path / "state"}
        async with AsyncXalora(KEY, sequencer.url, result_base_url=f"{store.url}/wrong", **options) as client:
            with pytest.raises(ResultLocationError, match="XALORA_RESULT_BASE_URL") as caught:
                await client.run(PICTURE, fallback="never")
            for part in ("'k.png'", "t-1", str(status), "paid for"):
                assert part in str(caught.value)
            assert state_of(client) is TaskState.FINISHED
        async with AsyncXalora(KEY, sequencer.url, result_base_url=f"{store.url}/right", **options) as client:
            assert (await client.run(PICTURE, reuse=True, fallback="never")).task_id == "t-1"
    assert sequencer.count("task_create") == 1


async def test_a_bare_key_is_looked_for_at_the_sequencer_in_both_spellings(store: Store) -> None:
    store.files["/files/out%20dir/a.png"] = png()
    network, asked = Finished("out%20dir/a.png"), []

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            asked.append(request.raw_path)
            content = store.files.get(request.path)  # decoded: the key's own percent signs are left
            return web.Response(status=404) if content is None else web.Response(body=content)
        return web.json_response(network(request.path[1:], await request.json()).body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, AsyncXalora(KEY, str(server.make_url("/"))) as client:
        assert (await client.run(PICTURE, fallback="never")).images.shape == (1, 4, 4, 3)
    assert asked == ["/files/out%20dir/a.png", "/files/out%2520dir/a.png"]


@pytest.mark.parametrize("empty", [None, "", {}, {"url": None}, {"images": []}])
async def test_a_finish_that_runs_ahead_of_its_result_is_asked_about_again(store: Store, empty: Any) -> None:
    store.files["/a.png"] = png()
    network = Finished(empty, empty, f"{store.url}/a.png")
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert (await client.run(PICTURE, fallback="never")).task_id == "t-1"
    assert (sequencer.count("task_create"), sequencer.count("task_result_query")) == (1, 3)


@pytest.mark.parametrize(
    "wrap", [lambda text: text, lambda text: {"images": [{"type": "base64", "data": text}]}]
)
@pytest.mark.parametrize("width", [0, 76])
async def test_a_result_in_base64_without_its_type_is_kept_as_the_file_it_is(wrap: Any, width: int) -> None:
    text = base64.urlsafe_b64encode(picture("PNG", 50)).decode().rstrip("=")
    if width:
        text = "\n".join(text[start : start + width] for start in range(0, len(text), width))
    async with (
        ScriptedSequencer(Finished(wrap(text))) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        result = await client.run(PICTURE, fallback="never")
        assert result.files[0].read_bytes() == picture("PNG", 50)
        (record,) = client.journal.records()
        assert len(json.dumps(record.result)) < 300
    assert sequencer.count("task_create") == 1


@pytest.mark.parametrize("length", [1000, 200_000])
async def test_a_key_of_any_length_makes_a_short_message(store: Store, length: int) -> None:
    async with (
        ScriptedSequencer(Finished("x" * length)) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(ResultLocationError) as caught:
            await client.run(PICTURE, fallback="never")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "address",
    ["http://a..b/x.png", "http://[::1/x", f"http://{'a' * 64}.example/x.png", "http://\u2100.example/"],
)
async def test_an_odd_address_ends_its_own_task_alone(tmp_path: Path, address: str) -> None:
    network = ScriptedNetwork(
        lambda task_id: status("finished", result=address if task_id == "t-1" else scripted.png())
    )
    async with (
        ScriptedSequencer(network) as sequencer,
        AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client,
    ):
        outcomes = await client.run_many([task(str(n)) for n in range(4)], fallback="never")
        odd = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert len(odd) == 1
    assert odd[0].task_id == "t-1"
    assert network.cancels == []


async def test_a_broken_file_of_several_costs_itself_alone(store: Store) -> None:
    """It is paid for with the others, which are given out."""
    store.files = {"/whole.png": png(), "/cut.png": png()[:-20], "/empty.png": b""}
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        handle = await client.submit(task())
        network.results["t-1"] = [f"{store.url}{path}" for path in store.files]
        result = await handle.result()
        assert [file.read_bytes() for file in result.files] == [png()]
        again = await client.run(task(), reuse=True, fallback="never")
        assert again.files == result.files
    assert network.created == 1


async def test_a_file_that_is_not_all_there_yet_is_fetched_again(store: Store) -> None:
    store.files = {"/a.png": b""}
    network = ScriptedNetwork()
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        handle = await client.submit(task())
        network.results["t-1"] = f"{store.url}/a.png"
        waiting = asyncio.create_task(handle.result())
        await until(lambda: store.asked)
        store.files["/a.png"] = png()
        assert (await waiting).files[0].read_bytes() == png()
