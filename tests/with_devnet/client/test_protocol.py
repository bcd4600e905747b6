"""The client alone, against raw JSON written by hand from the protocol: no devnet, no shared misreading."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image
from scripted import (
    ACCEPTED,
    KEY,
    PICTURE,
    Answer,
    ScriptedSequencer,
    answers_of,
    assert_asked,
    load_fixture,
    png,
)

from xalora_client import (
    AmbiguousCreateError,
    AsyncXalora,
    AuthenticationError,
    InvalidTaskError,
    NoMinerError,
    RateLimitError,
    RequestRefusedError,
    ResultFormatError,
    ServiceError,
    TaskCanceledError,
    TaskFailedError,
    TaskTimeoutError,
    Text2VideoTask,
    UpscalerTask,
    WorkflowTask,
    WorkflowTaskResult,
    Xalora,
    XaloraConnectionError,
    XaloraError,
)
from xalora_client.events import Waiting

NO_WAIT = {"Retry-After": "0"}


def status(word: str, **more: Any) -> Any:
    return Answer(200, {"task_id": "t-1", "status": word} | more)


async def test_the_happy_path_is_spoken_to_the_letter() -> None:
    steps = load_fixture("happy_path")
    async with (
        ScriptedSequencer(answers_of(steps)) as sequencer,
        AsyncXalora("alice#s3-cr#et", sequencer.url) as client,
    ):
        task = Text2VideoTask(
            prompt="a fox ☃", seed=2**53 - 1, steps=20, workflow_id="1", timeout_seconds=600
        )
        assert (await client.resource_request(task_type="txt2vid", workflow_id="1"))["miner_id"] == "0xabc"
        answer = await client.execute_workflow_and_wait_for_result(task)
        assert answer == WorkflowTaskResult("t-1", "finished", "test-video/hunyuan-fp8-m-t.mp4")
        # That the task has finished may be heard before the cancel is answered.
        assert (await client.cancel_task("t-1"))["msg"] in ("already finished", "The task is finished.")
    assert_asked(sequencer, steps)


async def test_what_was_not_given_is_not_sent() -> None:
    steps = load_fixture("minimal_create")
    async with (
        ScriptedSequencer(answers_of(steps)) as sequencer,
        AsyncXalora(KEY, sequencer.url + "/") as client,
    ):
        assert await client.execute_workflow(PICTURE) == "t-2"
    assert_asked(sequencer, steps)


async def test_a_local_image_goes_out_as_a_data_uri_in_one_json_body(tmp_path: Path) -> None:
    import base64

    pixels = np.random.default_rng(3).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.bmp")
    async with ScriptedSequencer([ACCEPTED]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await client.execute_workflow(UpscalerTask(tmp_path / "in.bmp"))
    head, _, data = sequencer.asked[0][1]["task_details"]["parameters"]["image"].partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(429, {"message": "slow down"}, NO_WAIT),
        Answer(503, {"message": "busy"}, NO_WAIT),
    ],
)
async def test_a_clearly_refused_create_is_sent_again_under_the_same_job_id(refusal: Any) -> None:
    async with ScriptedSequencer([refusal, ACCEPTED]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert await client.execute_workflow(PICTURE) == "t-1"
    first, second = (body for _, body in sequencer.asked)
    assert first == second


@pytest.mark.parametrize(
    "answer",
    [
        Answer(drop="after"),
        Answer(drop="before"),
        Answer(500, {"error": "oops"}),
        Answer(502, "bad gateway"),
        Answer(503, {"message": "busy"}),
        Answer(504, ""),
        Answer(200, "<html>hello</html>"),
        Answer(200, {"message": "ok"}),
        Answer(200, "[" * 200_000),
    ],
    ids=["dropped after", "dropped before", "500", "502", "503 bare", "504", "html", "no task id", "deep"],
)
async def test_a_create_of_unknown_outcome_is_never_sent_again(answer: Any) -> None:
    async with ScriptedSequencer([answer, ACCEPTED]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(AmbiguousCreateError) as caught:
            await client.execute_workflow(PICTURE)
    assert sequencer.count("task_create") == 1
    assert caught.value.job_id is not None and caught.value.job_id in str(caught.value)
    assert "may exist and be charged" in str(caught.value)


@pytest.mark.parametrize("charset", ["utf-8", "hex", "zip", "utf-16", "unheard-of"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
async def test_an_answer_is_json_in_utf_8_whatever_it_declares(charset: str, mark: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        body = (mark + json.dumps({"task_id": "t-é"}, ensure_ascii=False)).encode()
        return web.Response(body=body, headers={"Content-Type": f"application/json; charset={charset}"})

    app = web.Application()
    app.router.add_post("/task_create", answer)
    async with TestServer(app) as server, AsyncXalora(KEY, str(server.make_url("/"))) as client:
        assert await client.execute_workflow(PICTURE) == "t-é"


async def test_a_create_that_never_left_is_tried_again_and_costs_nothing() -> None:
    async with ScriptedSequencer([]) as gone:
        url = gone.url
    async with AsyncXalora(KEY, url, max_retries=1) as client:
        with pytest.raises(XaloraConnectionError) as caught:
            await client.execute_workflow(PICTURE)
    assert "nothing was charged" in str(caught.value)
    assert url in str(caught.value)


async def test_a_slow_create_is_ambiguous_not_repeated() -> None:
    hold = asyncio.Event()
    async with (
        ScriptedSequencer([Answer(200, {"task_id": "t-1"}, hold=hold), ACCEPTED]) as sequencer,
        AsyncXalora(KEY, sequencer.url, request_timeout=1.0) as client,
    ):
        with pytest.raises(AmbiguousCreateError):
            await client.execute_workflow(PICTURE)
        hold.set()
    assert sequencer.count("task_create") == 1


@pytest.mark.parametrize(
    ("answer", "kind", "error_type"),
    [
        (Answer(401, {"message": "bad key s3cret"}), AuthenticationError, "client_error"),
        (Answer(403, {"error": "alice#s3cret is blocked"}), AuthenticationError, "client_error"),
        (Answer(422, {"message": "width?"}), RequestRefusedError, "client_error"),
        (Answer(404, {"message": "No miner available"}), NoMinerError, "client_error"),
        (Answer(302, "", {"Location": "http://127.0.0.1:9/"}), RequestRefusedError, "client_error"),
        (Answer(429, {"message": "later"}, {"Retry-After": "3600"}), RateLimitError, "client_error"),
    ],
)
async def test_a_refusal_is_one_typed_error_without_the_key(answer: Any, kind: Any, error_type: str) -> None:
    async with ScriptedSequencer([answer]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(kind) as caught:
            await client.execute_workflow(PICTURE)
    assert caught.value.status_code == answer.status
    assert caught.value.error_type == error_type
    assert "s3cret" not in str(caught.value)
    assert "nothing was charged" in str(caught.value)
    assert sequencer.count("task_create") == 1


PAGE = "<!DOCTYPE html><title>Just a moment...</title>"


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_a_page_of_a_front_is_an_outage_and_no_bad_key(code: int) -> None:
    page = Answer(code, PAGE, NO_WAIT)
    async with ScriptedSequencer([page, ACCEPTED]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert await client.execute_workflow(PICTURE) == "t-1"
    async with (
        ScriptedSequencer([page] * 2) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        with pytest.raises(ServiceError, match=rf"proxy or firewall answered.*HTTP {code}") as caught:
            await client.execute_workflow(PICTURE)
        assert "nothing was charged" in str(caught.value) and "<" not in str(caught.value)
        # This machine may take over.
        picture = UpscalerTask(np.zeros((2, 2, 3), np.uint8))
        assert (await client.run(picture, fallback="when_unavailable")).engine == "ncnn"


async def test_pages_in_place_of_a_status_never_make_a_task_unknown() -> None:
    answers = {
        "task_create": [ACCEPTED],
        "task_result_query": [Answer(404, PAGE)],
    }
    async with (
        ScriptedSequencer(answers) as sequencer,
        AsyncXalora(KEY, sequencer.url, outage_limit=0.5) as client,
    ):
        with pytest.raises(ServiceError, match=r"runs on.*resume t-1"):
            await client.run(PICTURE, fallback="never")
        (record,) = client.journal.records()
        assert record.state.value == "submitted"


@pytest.mark.parametrize("code", [500, 502])
async def test_a_page_in_a_500_leaves_the_outcome_of_a_create_open_without_its_text(code: int) -> None:
    async with (
        ScriptedSequencer([Answer(code, PAGE)]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(AmbiguousCreateError, match=f"HTTP {code}: a web page came"):
            await client.execute_workflow(PICTURE)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": "insufficient balance"}, RequestRefusedError),
        ({"code": 421, "msg": "insufficient balance", "data": None}, RequestRefusedError),
        ({"code": 429, "msg": "insufficient balance"}, RateLimitError),
        ({"code": 403, "msg": "insufficient balance"}, AuthenticationError),
    ],
)
async def test_a_refusal_in_a_200_is_told_and_not_sent_again(body: Any, kind: Any) -> None:
    async with ScriptedSequencer([Answer(200, body)]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(kind, match=r"insufficient balance.*nothing was charged"):
            await client.run(PICTURE, fallback="never")
        # The same again is a new create: no outcome of an earlier one is in doubt.
        assert [record.state.value for record in client.journal.records()] == ["not_sent"]
    assert sequencer.count("task_create") == 1


async def test_a_refusal_in_a_200_that_speaks_of_an_earlier_create_settles_nothing() -> None:
    answers = [Answer(429, {"message": "later"}, NO_WAIT), Answer(200, {"error": "duplicate job_id"})]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(AmbiguousCreateError):
            await client.execute_workflow(PICTURE)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(409, {"error": "this job exists already"}),
        Answer(409, {"error": "conflict", "task_id": "t-1"}),
        Answer(429, {"message": "slow down", "task_id": "t-1"}),
        Answer(400, {"message": "repeated", "data": {"task_id": "t-1"}}),
    ],
)
async def test_a_first_create_that_is_refused_for_the_task_it_made_settles_nothing(answer: Answer) -> None:
    # A proxy on the way that sends a request twice gets this for the second.
    async with ScriptedSequencer([answer]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(AmbiguousCreateError):
            await client.execute_workflow(PICTURE)
    assert sequencer.count("task_create") == 1


@pytest.mark.parametrize("body", [[{"task_id": "t-1"}], {"result": {"task_id": "t-1"}}])
async def test_an_id_that_came_inside_is_found(body: Any) -> None:
    async with ScriptedSequencer([Answer(200, body)]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert await client.execute_workflow(PICTURE) == "t-1"


@pytest.mark.parametrize("given", ["", "  ", None, 5, True, b"t-1", "a\nb", "\ud800", "\x1b[31m", "i" * 300])
async def test_what_can_be_no_id_of_a_task_is_refused_before_anything_is_asked(given: Any) -> None:
    async with ScriptedSequencer([]) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        for call in (client.query_task_result, client.cancel_task, client.leave_task):
            with pytest.raises(InvalidTaskError, match="no id of a task"):
                await call(given)
        with pytest.raises(InvalidTaskError, match="no id of a task") as caught:
            client.task(given)
        assert str(caught.value).isprintable()
        assert client.task(" t-1\n").task_id == "t-1"
    assert sequencer.asked == []


async def test_a_body_too_large_for_the_network_names_the_way_out() -> None:
    async with (
        ScriptedSequencer([Answer(413, "<html>Request Entity Too Large</html>")]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(RequestRefusedError, match="XALORA_STORE_URL"):
            await client.execute_workflow(PICTURE)


async def test_an_answer_with_a_long_header_is_read_and_no_encoding_is_offered() -> None:
    # Fronts add policies of many kilobytes; an encoding that is offered may not be readable here.
    policy = {"Content-Security-Policy": "default-src " + "a" * 60_000}
    encodings: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        encodings.append(request.headers.get("Accept-Encoding"))
        return web.json_response({"task_id": "t-1", "status": "running"}, headers=policy)

    app = web.Application()
    app.router.add_post("/{endpoint}", answer)
    server = TestServer(app)
    async with server, AsyncXalora(KEY, str(server.make_url("/"))) as client:
        assert await client.execute_workflow(PICTURE) == "t-1"
        assert (await client.query_task_result("t-1")).status == "running"
    assert encodings == ["identity", "identity"]


async def test_free_requests_are_repeated() -> None:
    answers = [Answer(500, "x"), Answer(drop="after"), Answer(200, "garbage"), status("running")]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert (await client.query_task_result("t-1")).status == "running"
    assert sequencer.count("task_result_query") == 4


STRAY = {"task_id": "t-2", "status": "finished", "result": "theirs.png", "msg": "canceled"}


async def test_an_answer_about_another_task_is_not_believed() -> None:
    canceled = Answer(200, {"msg": "canceled"})
    answers = {
        "task_result_query": [Answer(200, STRAY), status("running")],
        "task_cancel": [Answer(200, STRAY), canceled, canceled],
    }
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        assert await client.query_task_result("t-1") == WorkflowTaskResult("t-1", "running")
        assert (await client.cancel_task("t-1"))["task_id"] == "t-1"
    async with (
        ScriptedSequencer([Answer(200, STRAY)] * 2) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=0) as client,
    ):
        with pytest.raises(ServiceError, match="it is about another task"):
            await client.query_task_result("t-1")
        with pytest.raises(ServiceError, match="the task may run on"):
            await client.cancel_task("t-1")


async def test_another_tasks_end_does_not_end_the_wait() -> None:
    answers = [ACCEPTED, Answer(200, STRAY), status("finished", result="ours.png")]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        answer = await client.execute_workflow_and_wait_for_result(PICTURE)
    assert answer == WorkflowTaskResult("t-1", "finished", "ours.png")


@pytest.mark.parametrize(
    "refusal",
    [
        {"error": "too late"},
        {"success": False, "msg": "too late"},
        # It may name the task.
        {"task_id": "t-1", "ok": False, "msg": "too late"},
        {"task_id": "t-1", "status": "rejected", "msg": "too late"},
        {"task_id": "t-1", "code": 409, "msg": "too late"},
    ],
)
async def test_a_cancel_that_is_refused_in_a_200_is_refused(refusal: Any) -> None:
    answers = {
        "task_create": [ACCEPTED],
        "task_cancel": [Answer(200, refusal)],
        "task_result_query": [status("running")],
    }
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        task_id = await client.execute_workflow(PICTURE)
        with pytest.raises(RequestRefusedError, match="HTTP 200: too late") as caught:
            await client.cancel_task(task_id)
        record = client.journal.find(task_id=task_id)
    assert "may run on and be charged" in str(caught.value)
    assert record is not None and record.state.value == "submitted"


async def test_free_requests_give_up_in_the_end() -> None:
    async with (
        ScriptedSequencer([Answer(500, {"error": "down"})] * 2) as sequencer,
        AsyncXalora(KEY, sequencer.url, max_retries=1) as client,
    ):
        with pytest.raises(ServiceError, match="down") as caught:
            await client.query_task_result("t-1")
    assert (caught.value.task_id, caught.value.status_code) == ("t-1", 500)
    assert caught.value.error_type == "server_error"


async def test_a_failed_poll_does_not_end_the_wait() -> None:
    answers = [ACCEPTED, Answer(500, "x"), Answer(drop="after"), status("finished", result="k.png")]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        answer = await client.execute_workflow_and_wait_for_result(PICTURE)
    assert answer.status == "finished"


@pytest.mark.parametrize("word", ["canceled", "failed"])
async def test_canceled_and_failed_end_the_wait(word: str) -> None:
    async with (
        ScriptedSequencer([ACCEPTED, status(word, result="out of memory")]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        assert (await client.execute_workflow_and_wait_for_result(PICTURE)).status == word
    async with (
        ScriptedSequencer([ACCEPTED, status(word, result="out of memory")]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        kind = TaskCanceledError if word == "canceled" else TaskFailedError
        with pytest.raises(kind, match="t-1"):
            await client.run(PICTURE, fallback="never")


async def test_an_unknown_status_is_waited_through_and_shown_as_it_came() -> None:
    seen = []
    answers = [ACCEPTED, status("paused"), status("finished", result=png())]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        await client.run(PICTURE, fallback="never", on_event=seen.append)
    assert "paused" in [getattr(event, "status", None) for event in seen]


async def test_the_deadline_is_exact_and_says_how_to_take_the_task_up() -> None:
    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        return ACCEPTED if endpoint == "task_create" else status("running")

    loop = asyncio.get_running_loop()
    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        for interval in (None, 10.0):
            began = loop.time()
            with pytest.raises(TaskTimeoutError, match=r"xalora resume t-1") as caught:
                await client.execute_workflow_and_wait_for_result(PICTURE, timeout=2.5, interval=interval)
            assert 2.5 <= loop.time() - began < 3.5
            assert caught.value.task_id == "t-1"
            assert isinstance(caught.value, TimeoutError)
    assert sequencer.count("task_cancel") == 0


async def test_a_tasks_own_key_polls_and_cancels_it_too() -> None:
    class OtherTask(WorkflowTask):
        task_type = "other"

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        return ACCEPTED if endpoint == "task_create" else status("running")

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        handle = await client.submit(OtherTask(api_key="bob#0ther"))
        await handle.status()
        await handle.cancel()
        task_id = await client.execute_workflow(OtherTask(api_key="bob#0ther"))
        await client.query_task_result(task_id)
    assert {body["api_key"] for _, body in sequencer.asked} == {"0ther"}
    assert sequencer.asked[0][1]["consumer_id"] == "bob"


async def test_a_cancelled_call_cancels_the_remote_task_and_is_still_cancelled() -> None:
    polled = asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            return ACCEPTED
        if endpoint == "task_cancel":
            return Answer(200, {"task_id": "t-1", "msg": "canceled"})
        polled.set()
        return status("canceled" if sequencer.count("task_cancel") else "running")

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(PICTURE))
        await asyncio.wait_for(polled.wait(), 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert sequencer.count("task_cancel") == 1


async def test_a_call_cancelled_while_its_create_is_out_waits_for_the_id_and_cancels_it() -> None:
    hold = asyncio.Event()
    created = asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            created.set()
            return Answer(200, {"task_id": "t-1"}, hold=hold)
        return status("canceled")

    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(PICTURE))
        await asyncio.wait_for(created.wait(), 10)
        running.cancel()
        await asyncio.sleep(0)
        hold.set()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert sequencer.count("task_cancel") == 1


async def test_a_cancelled_call_is_held_up_for_three_seconds_at_most() -> None:
    polled, never = asyncio.Event(), asyncio.Event()

    def answer(endpoint: str, body: dict[str, Any]) -> Any:
        if endpoint == "task_create":
            return ACCEPTED
        if endpoint == "task_cancel":
            return Answer(200, {}, hold=never)
        polled.set()
        return status("running")

    loop = asyncio.get_running_loop()
    async with ScriptedSequencer(answer) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        running = asyncio.create_task(client.run(PICTURE))
        await asyncio.wait_for(polled.wait(), 10)
        began = loop.time()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert loop.time() - began < 4.0
        never.set()
        (record,) = client.journal.records()
        assert record.state.value == "submitted"
        assert record.cancel_requested_at is not None


async def test_a_login_in_the_address_goes_to_the_sequencer_and_is_seen_nowhere_else() -> None:
    logins: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        logins.append(request.headers.get("Authorization", ""))
        return web.json_response({"task_id": "t-1"}, status=200 if len(logins) == 1 else 500)

    app = web.Application()
    app.router.add_post("/{endpoint}", answer)
    async with TestServer(app) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with AsyncXalora(KEY, url.replace("//", "//bob:pass%40word@") + "/", max_retries=0) as client:
            assert await client.execute_workflow(PICTURE) == "t-1"
            with pytest.raises(XaloraError) as refused:
                await client.query_task_result("t-1")
            record = client.journal.find(task_id="t-1", sequencer_url=url)
            assert record is not None
            shown = f"{client!r} {client.settings!r} {record!r} {refused.value}"
        blocking = Xalora(KEY, url.replace("//", "//bob:pass%40word@"))
        blocking.close()
        assert repr(blocking) == f"<Xalora {url}>"
    async with AsyncXalora(KEY, url.replace("//", "//bob:pass%40word@"), max_retries=0) as client:
        with pytest.raises(XaloraConnectionError) as gone:
            await client.query_task_result("t-1")
    assert logins == ["Basic " + base64.b64encode(b"bob:pass@word").decode()] * 2
    assert "word" not in shown
    assert f"The sequencer at {url} can't be reached" in str(gone.value)
    assert "word" not in str(gone.value)


@pytest.mark.parametrize("result", ["no alice#s3cret here", {"message": ["s3cret is", {"s3cret": 1}]}])
async def test_a_failure_that_repeats_the_key_is_told_and_remembered_without_it(result: Any) -> None:
    async with (
        ScriptedSequencer([ACCEPTED, status("failed", result=result)]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        with pytest.raises(TaskFailedError, match=r"\[key\]") as caught:
            await client.run(PICTURE, fallback="never")
        record = client.journal.find(task_id="t-1")
    assert "s3cret" not in str(caught.value)
    assert record is not None
    assert "[key]" in f"{record.result} {record.error}"
    assert "s3cret" not in repr(record)


async def test_an_unknown_status_that_repeats_the_key_is_told_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []
    answers = [ACCEPTED, status("held for alice#s3cret"), status("failed")]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskFailedError):
            await client.run(PICTURE, fallback="never", on_event=seen.append)
    assert "held for [key]" in [getattr(event, "status", None) for event in seen]
    assert "held for [key]" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_result_is_handed_out_as_it_came_even_with_the_key_in_its_address() -> None:
    url = "https://store.example/a.png?token=s3cret"
    async with (
        ScriptedSequencer([status("finished", result=url)]) as sequencer,
        AsyncXalora(KEY, sequencer.url) as client,
    ):
        assert (await client.query_task_result("t-1")).result == url


async def test_all_that_a_status_tells_reaches_events_result_and_journal() -> None:
    seen: list[Any] = []
    answers = [
        ACCEPTED,
        status("waiting", queue_position=3),
        status("waiting", queue_position=1),
        status("running", miner_id="0xabc"),
        status("finished", result=png(), miner_id="0xabc", inference_latency=41.5, msg="on a spare GPU"),
    ]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        result = await client.run(PICTURE, fallback="never", on_event=seen.append)
        (record,) = client.journal.records()
        again = await client.run(PICTURE, fallback="never", reuse=True)
    assert [event.position for event in seen if isinstance(event, Waiting)] == [3, 1]
    assert (result.miner, result.seconds.running, result.note) == ("0xabc", 41.5, "on a spare GPU")
    assert (record.miner, record.inference_seconds, record.queue_position) == ("0xabc", 41.5, None)
    assert (again.miner, again.seconds.running) == ("0xabc", 41.5)


async def test_the_place_of_a_waiting_task_is_in_the_journal() -> None:
    network = {"task_create": [ACCEPTED], "task_result_query": [status("waiting", queue_position=3)]}
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        waiting = asyncio.create_task(client.execute_workflow_and_wait_for_result(PICTURE))
        # The test's own time limit ends it where that never comes; the journal tells nobody here.
        while not (records := client.journal.records()) or records[0].status is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert (records[0].status, records[0].queue_position) == ("waiting", 3)


@pytest.mark.parametrize(
    ("result", "msg", "reason"),
    [
        (None, "CUDA out of memory", "CUDA out of memory"),
        ({"message": "no such LoRA"}, "failed", "no such LoRA"),
    ],
)
async def test_why_a_task_failed_is_told_from_its_message_too(result: Any, msg: str, reason: str) -> None:
    answers = [ACCEPTED, status("failed", result=result, msg=msg, miner_id="0xabc")]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskFailedError, match=reason) as caught:
            await client.run(PICTURE, fallback="never")
        (record,) = client.journal.records()
    assert (record.error, record.miner, caught.value.repeats) == (reason, "0xabc", False)
    assert (caught.value.reason, caught.value.miner) == (reason, "0xabc")


@pytest.mark.parametrize(
    ("created", "polled"),
    [
        ({"taskId": "t-1"}, {"taskId": "t-1", "status": "finished", "result": png()}),
        (
            {"code": 0, "msg": "success", "data": {"task_id": "t-1"}},
            {"code": 0, "data": {"task_id": "t-1", "status": "finished", "result": png()}},
        ),
        (
            {"status": "success", "data": {"taskId": "t-1"}},
            {"status": "success", "data": {"taskId": "t-1", "status": "finished", "result": png()}},
        ),
        ({"task_id": "t-1"}, {"code": 200, "data": {"status": "finished", "result": png()}}),
    ],
)
async def test_a_wrapped_answer_loses_no_task(created: dict[str, Any], polled: dict[str, Any]) -> None:
    answers = [Answer(200, created), Answer(200, polled)]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        result = await client.run(PICTURE, fallback="never")
        assert (result.task_id, result.images.shape) == ("t-1", (1, 4, 4, 3))
    assert sequencer.count("task_create") == 1


async def test_a_failure_without_a_reason_has_none_and_a_broken_result_names_its_miner() -> None:
    network = {
        "task_create": [ACCEPTED, Answer(200, {"task_id": "t-2"})],
        "task_result_query": [
            status("failed", miner_id="0xabc"),
            status("finished", task_id="t-2", result="data:image/png;base64,iVBORw0KGgo=", miner_id="0xdef"),
        ],
    }
    async with ScriptedSequencer(network) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskFailedError) as failed:
            await client.run(PICTURE, fallback="never")
        with pytest.raises(ResultFormatError) as broken:
            await client.run(PICTURE, fallback="never")
    assert (failed.value.reason, failed.value.miner, broken.value.miner) == ("", "0xabc", "0xdef")


@pytest.mark.parametrize(
    "msg",
    [
        "[Errno 36] File name too long: 'data:image/png;base64,iVBORw0KGgo",
        "No connection adapters were found for 'data:image/png;base64,iVBO",
        "Unsupported URL scheme: data",
        "data URIs are not supported",
    ],
)
async def test_a_miner_that_reads_no_image_in_the_request_is_told_with_the_ways_out(msg: str) -> None:
    answers = [ACCEPTED, status("failed", msg=msg)]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskFailedError, match=r"XALORA_STORE_URL.*inline_limit=0") as caught:
            await client.run(UpscalerTask(np.zeros((2, 2, 3), np.uint8)), fallback="never")
    assert caught.value.repeats
    assert sequencer.count("task_create") == 1


async def test_why_a_task_was_canceled_is_told_where_the_network_says() -> None:
    answers = [ACCEPTED, status("cancelled", msg="its timeout_seconds ran out")]
    async with ScriptedSequencer(answers) as sequencer, AsyncXalora(KEY, sequencer.url) as client:
        with pytest.raises(TaskCanceledError, match="its timeout_seconds ran out"):
            await client.run(PICTURE, fallback="never")
