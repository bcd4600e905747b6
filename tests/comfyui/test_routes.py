"""The sidebar's routes, requested as by a browser, and as by an attacker."""

from __future__ import annotations

import json
import os
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from graphs import node
from harness import ComfyUI, ComfyUIFactory, RunRecord, SessionDevnet, seed
from picture_files import chunk, display_p3, raw_png, srgb_of_p3
from PIL import Image
from windows import Window

MARKED = {"X-Xalora": "1"}
LONG = 600.0
MORE_THAN_THREADS = 40
SECRET = "k3y-of-the-route-tests-90ab"


def upscale(batch: int = 1, **inputs: Any) -> dict[str, Any]:
    """A prompt that upscales images nobody has upscaled before."""
    number = uuid.uuid4().int % 2**31
    return {
        "1": node("XaloraTestImage", width=48, height=32, batch=batch, seed=number),
        "2": node("XaloraUpscaleImage", image=["1", 0], **inputs),
        "3": node("PreviewImage", images=["2", 0]),
    }


def post(comfyui: ComfyUI, path: str, body: Any = None, **headers: str) -> requests.Response:
    """A state change as our own page asks for it; whatever the answer."""
    data = json.dumps({} if body is None else body)
    marked = {"Content-Type": "application/json", **MARKED, **headers}
    return requests.post(comfyui.url + path, data, headers=marked, timeout=30)


def get(comfyui: ComfyUI, path: str, **headers: str) -> requests.Response:
    return requests.get(comfyui.url + path, headers=headers, timeout=30)


def tasks(comfyui: ComfyUI, **query: Any) -> dict[str, Any]:
    listing: dict[str, Any] = comfyui.get("/xalora/tasks", **query).json()
    return listing


def of_prompt(comfyui: ComfyUI, record: RunRecord) -> list[dict[str, Any]]:
    return [task for task in tasks(comfyui)["tasks"] if task["prompt"] == record.prompt_id]


def wait_for_tasks(comfyui: ComfyUI, record: RunRecord, count: int, status: str) -> list[dict[str, Any]]:
    """The prompt's tasks, once so many have this status."""
    until = time.monotonic() + 30
    while True:
        found = of_prompt(comfyui, record)
        if sum(task["status"] == status for task in found) == count:
            return found
        assert time.monotonic() < until, found
        time.sleep(0.05)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def wait_for(comfyui: ComfyUI, task_id: int, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until = time.monotonic() + 30
    while True:
        task: dict[str, Any] = comfyui.get(f"/xalora/tasks/{task_id}").json()
        if holds(task):
            return task
        assert time.monotonic() < until, task
        time.sleep(0.05)


@contextmanager
def seeded(comfyui: ComfyUI, url: str) -> Iterator[seed.Seeder]:
    """The server's journal, for another process to write; its records are forgotten afterwards."""
    comfyui.get("/xalora/tasks", limit=0)
    before = {task["id"] for task in tasks(comfyui, each="1")["tasks"]}
    with seed.seeder(comfyui.root / "xalora-state", url, time.time()) as seeder:
        seeder.made = uuid.uuid4().int % 2**32
        yield seeder
        for record in seeder.journal.records():
            if record.id not in before:
                seeder.journal.forget([record.id]).result()


# --- looking ----------------------------------------------------------------------------------------------


def test_a_task_of_a_node_is_listed_with_all_that_is_shown(comfyui: ComfyUI) -> None:
    record = comfyui.run(upscale())
    (task,) = of_prompt(comfyui, record)
    assert (task["state"], task["group"], task["type"], task["node"]) == ("kept", "done", "upscaler", "2")
    assert task["engine"] == "xalora"
    assert task["size"] > 0 and task["seconds"] >= 0
    assert task["actions"] == ["make_again", "forget"]
    assert [file["kind"] for file in task["files"]] == ["image"]
    alone = comfyui.get(f"/xalora/tasks/{task['id']}").json()
    # A list's numbers have 15 digits.
    times = [name for name, value in alone.items() if isinstance(value, float)]
    assert alone | {name: pytest.approx(alone[name], abs=1e-4) for name in times} == task

    result = get(comfyui, f"/xalora/tasks/{task['id']}/files/0")
    assert Image.open(BytesIO(result.content)).size == (96, 64)
    assert result.headers["Content-Type"] == task["files"][0]["media_type"]
    assert result.headers["X-Content-Type-Options"] == "nosniff"
    assert result.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for small in ("preview", "input"):
        picture = get(comfyui, f"/xalora/tasks/{task['id']}/{small}")
        assert picture.headers["Content-Type"] == "image/webp"
        assert max(Image.open(BytesIO(picture.content)).size) <= 256

    details = comfyui.get(f"/xalora/tasks/{task['id']}/details").json()
    assert details == {
        "prompt": "",
        "seed": "",
        "inputs": [],
        "sizes": [{"width": 96, "height": 64, "frames": 1, "fps": None}],
        "cost": None,
        "run": {"tasks": 1, "cost": None},
        "has_input": True,
    }


def test_the_list_comes_in_pages_and_is_narrowed(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    with seeded(comfyui, devnet.url) as seeder:
        version = tasks(comfyui)["version"]
        for index in range(5):
            then = seed.failed("a worn-out miner") if index % 2 else seed.canceled
            seeder.record("upscaler", f"upscale page-{index}.png", ago=50 - index, then=then)
        ours = tasks(comfyui, text="page-")
        assert [task["label"][-5] for task in ours["tasks"]] == ["4", "3", "2", "1", "0"]
        page = tasks(comfyui, text="page-", offset=1, limit=2)
        assert [task["label"][-5] for task in page["tasks"]] == ["3", "2"]
        assert page["total"] == 5
        assert tasks(comfyui, text="worn-out")["total"] == 2
        assert tasks(comfyui, text="page-", groups="done,active")["total"] == 0
        assert tasks(comfyui, since=version)["total"] == 5
        assert tasks(comfyui, since=ours["version"])["total"] == 0
        all_of_them = tasks(comfyui)
        assert all_of_them["counts"]["active"] + all_of_them["history"] == all_of_them["total"]


@pytest.mark.parametrize("query", ["groups=everything", "offset=x", "since=yesterday", "limit=-"])
def test_a_query_that_makes_no_sense_is_refused(comfyui: ComfyUI, query: str) -> None:
    response = get(comfyui, f"/xalora/tasks?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["what"]


@pytest.mark.parametrize(
    "path",
    [
        "/xalora/tasks/999999",
        "/xalora/tasks/99999999999999999999999999",
        "/xalora/tasks/999999/files/0",
        "/xalora/tasks/1/files/..%2f..%2fjournal.sqlite3",
        "/xalora/tasks/..%2f..%2fuser",
        "/xalora/tasks/1/files/0/../../../../xalora-state/journal.sqlite3",
    ],
)
def test_nothing_is_reached_but_by_an_entrys_number(comfyui: ComfyUI, path: str) -> None:
    request = requests.Request("GET", comfyui.url).prepare()
    request.url = comfyui.url + path
    with requests.Session() as session:
        session.trust_env = False
        assert session.send(request, timeout=30).status_code == 404


def test_prompt_seed_and_inputs_of_a_task_are_told_in_full(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = f"a paper boat, {'on a long, long river, ' * 40}to the very end"
    with seeded(comfyui, devnet.url) as seeder:
        record = seeder.record(
            "txt2img",
            prompt[:77] + "...",
            ago=60,
            workflow_id="3",
            parameters={"prompt": prompt, "noise_seed": 2**53 - 1, "lora_name": "gecko", "steps": 15},
            then=seed.kept(seed.picture(1), ".jpg"),
        )
        details = comfyui.get(f"/xalora/tasks/{record.id}/details").json()
    assert (details["prompt"], details["seed"]) == (prompt, str(2**53 - 1))
    assert details["inputs"] == [["lora_name", "gecko"], ["steps", "15"]]
    assert details["sizes"] == [{"width": 640, "height": 480, "frames": 1, "fps": None}]


def test_what_a_prompt_has_sent_is_summed_up(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """A kept result that answers was not sent by this prompt."""
    graph = upscale(batch=3)
    comfyui.run(graph)
    assert tasks(comfyui)["last_run"] == {"tasks": 3, "cost": None}
    comfyui.clear_cache()
    again = comfyui.run(graph)
    assert len(of_prompt(comfyui, again)) == 3
    assert tasks(comfyui)["last_run"] == {"tasks": 3, "cost": None}
    comfyui.run(upscale())
    assert tasks(comfyui)["last_run"] == {"tasks": 1, "cost": None}


def test_all_ended_tasks_of_a_search_are_forgotten(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """Not those of unknown outcome, which could be paid for twice, nor what has changed since it was seen."""
    mark = uuid.uuid4().hex
    with seeded(comfyui, devnet.url) as seeder:
        before = tasks(comfyui)
        for then in (
            seed.kept(b"", ".png"),
            seed.failed("oom"),
            seed.canceled,
            seed.unknown,
            seed.left_running,
        ):
            seeder.record("upscaler", f"picture {mark}", ago=60, then=then)
        seen = tasks(comfyui, text=mark)
        assert seen["total"] == 5
        seeder.record("upscaler", f"later {mark}", ago=1, then=seed.canceled)
        which = {"groups": "done,failed", "text": mark, "version": seen["version"]}
        answer = post(comfyui, "/xalora/tasks/forget", which)
        assert answer.json() == {"forgotten": 3, "left": 2}
        left = tasks(comfyui, text=mark)["tasks"]
        assert [task["state"] for task in left] == ["canceled", "submitted", "unknown"]
        assert post(comfyui, "/xalora/tasks/forget", {"groups": "all"}).status_code == 400
        assert tasks(comfyui)["total"] == before["total"] + 3


def test_a_video_can_be_sought_in(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    clip = seed.clip(3, 0.5)
    with seeded(comfyui, devnet.url) as seeder:
        record = seeder.record("txt2vid", "a short film", ago=5, then=seed.kept(clip, ".mp4"))
        part = get(comfyui, f"/xalora/tasks/{record.id}/files/0", Range="bytes=100-199")
        assert (part.status_code, part.content) == (206, clip[100:200])
        assert part.headers["Content-Type"] == "video/mp4"
        still = get(comfyui, f"/xalora/tasks/{record.id}/preview")
        assert Image.open(BytesIO(still.content)).size == (256, 145)


@pytest.mark.parametrize("form", ["16-bit gray", "16-bit RGB", "Display-P3"])
def test_a_preview_shows_the_colours_of_its_result(
    comfyui: ComfyUI, devnet: SessionDevnet, form: str
) -> None:
    ramp = np.linspace(0, 255, 300)
    colours = np.stack([ramp, ramp[::-1], ramp / 2], axis=-1)
    if form == "16-bit gray":
        colours = np.stack([ramp, ramp, ramp], axis=-1)
        stored = raw_png(rows_of(ramp[:, None] * 257), 16, 0)
    elif form == "16-bit RGB":
        stored = raw_png(rows_of(colours * 257), 16, 2)
    else:
        profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(display_p3()))
        stored = raw_png(rows_of(colours), 8, 2, profile)
        colours = srgb_of_p3(colours.astype(np.uint8))
    with seeded(comfyui, devnet.url) as seeder:
        record = seeder.record("upscaler", "upscale deep.png", ago=5, then=seed.kept(stored, ".png"))
        small = get(comfyui, f"/xalora/tasks/{record.id}/preview")
        shown = np.asarray(Image.open(BytesIO(small.content)).convert("RGB").resize((300, 200)), np.float64)
    # WebP is lossy, and the picture was made smaller.
    assert np.abs(shown[100, 10:-10] - colours[10:-10]).max() < 12


def rows_of(colours: np.ndarray) -> np.ndarray:
    """200 rows of the same samples, as a PNG stores them."""
    return np.repeat(colours.astype(np.uint16)[None], 200, axis=0)


# --- the guard --------------------------------------------------------------------------------------------

CHANGES = [
    "/xalora/tasks/cancel",
    "/xalora/tasks/forget",
    "/xalora/tasks/1/cancel",
    "/xalora/tasks/1/resume",
    "/xalora/tasks/1/forget",
    "/xalora/tasks/1/take_up",
    "/xalora/tasks/1/send_again",
    "/xalora/tasks/1/make_again",
    "/xalora/tasks/1/take_back",
    "/xalora/limit/lift",
    "/xalora/key",
    "/xalora/key/remove",
    "/xalora/key/test",
]


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("path", CHANGES)
def test_a_state_change_needs_more_than_a_link_or_a_form(comfyui: ComfyUI, prefix: str, path: str) -> None:
    url = prefix + path
    assert get(comfyui, url).status_code in (404, 405)
    assert post(comfyui, url, **{"X-Xalora": ""}).status_code == 403
    assert post(comfyui, url, **{"Content-Type": "text/plain"}).status_code == 415
    assert post(comfyui, url, Origin="null").status_code == 403
    assert post(comfyui, url, Origin="http://evil.example").status_code == 403
    assert post(comfyui, url, Host="evil.example", Origin="http://evil.example").status_code == 403
    assert post(comfyui, url, **{"Sec-Fetch-Site": "same-site"}).status_code == 403


@pytest.mark.parametrize("path", ["/xalora/status", "/xalora/settings", "/xalora/tasks"])
def test_other_websites_read_nothing(comfyui: ComfyUI, path: str) -> None:
    assert get(comfyui, path).status_code == 200
    assert get(comfyui, path, Origin="null").status_code == 403
    assert get(comfyui, path, Host="evil.example:8188").status_code == 403
    assert get(comfyui, path, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_body_that_is_no_object_is_refused_without_quoting_it(comfyui: ComfyUI) -> None:
    for body in (f'"{SECRET}"', f'{{"key": {SECRET}', f"[{json.dumps(SECRET)}]", "x" * 100_000 + SECRET):
        headers = {"Content-Type": "application/json", **MARKED}
        response = requests.post(f"{comfyui.url}/xalora/key", body, headers=headers, timeout=30)
        assert response.status_code == 400
        assert SECRET not in response.text
    assert SECRET not in comfyui.unread_log()


# --- steering ---------------------------------------------------------------------------------------------


def test_one_task_and_all_tasks_are_canceled(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    # Earlier tests leave tasks open in the journal on purpose; "all" is to mean this test's only.
    assert post(comfyui, "/xalora/tasks/cancel").json()["failed"] == []
    devnet.task_seconds = LONG
    record = comfyui.start(upscale(batch=3, fallback="never"))
    running = wait_for_tasks(comfyui, record, 3, "running")
    assert all(task["actions"] == ["cancel"] and task["leased"] for task in running)
    canceled = post(comfyui, f"/xalora/tasks/{running[0]['id']}/cancel").json()
    assert canceled["state"] in ("canceled", "cancel_requested")
    devnet.wait_for_status(running[0]["task_id"], "canceled")
    assert devnet.task(running[1]["task_id"]).status == "running"

    answer = post(comfyui, "/xalora/tasks/cancel").json()
    assert answer == {"canceled": 2, "failed": []}
    assert {devnet.task(task["task_id"]).status for task in running} == {"canceled"}
    # The user's own cancel is no failure.
    assert record.wait().status == "interrupted"
    assert record.texts_of("2")[-1].text == "canceled"
    again = post(comfyui, f"/xalora/tasks/{running[0]['id']}/cancel")
    assert again.status_code == 409
    assert "it is canceled" in again.json()["error"]["what"]


@pytest.mark.parametrize("policy", ["never", "on_any_failure"])
def test_cancel_all_has_a_batch_send_no_more(comfyui: ComfyUI, devnet: SessionDevnet, policy: str) -> None:
    assert post(comfyui, "/xalora/tasks/cancel").json()["failed"] == []
    devnet.task_seconds = LONG
    record = comfyui.start(upscale(batch=20, max_in_flight=8, fallback=policy))
    wait_until(lambda: len(of_prompt(comfyui, record)) == 8)
    wait_until(lambda: all(task["task_id"] for task in of_prompt(comfyui, record)))
    assert post(comfyui, "/xalora/tasks/cancel").json() == {"canceled": 8, "failed": []}
    assert record.wait().status == "interrupted"
    stats = devnet.new_stats()
    assert (stats["creates"], stats["tasks"]) == (8, {"canceled": 8})


@pytest.mark.parametrize("class_type", ["XaloraUpscaleImage", "XaloraSubmitUpscale"])
def test_cancel_all_withdraws_what_is_just_being_sent(
    comfyui: ComfyUI, devnet: SessionDevnet, class_type: str
) -> None:
    assert post(comfyui, "/xalora/tasks/cancel").json()["failed"] == []
    devnet.task_seconds = LONG
    devnet.add_fault("task_create:delay:seconds=1")
    prompt = upscale(batch=6, max_in_flight=3)
    prompt["2"]["class_type"] = class_type
    if class_type == "XaloraSubmitUpscale":
        prompt["3"] = node("XaloraTestClock", value=["2", 0])
    record = comfyui.start(prompt)
    wait_until(lambda: sum(task["state"] == "sending" for task in tasks(comfyui)["tasks"]) == 3)
    assert post(comfyui, "/xalora/tasks/cancel").json() == {"canceled": 3, "failed": []}
    assert record.wait().status == "interrupted"
    stats = devnet.new_stats()
    assert (stats["creates"], stats["tasks"]) == (3, {"canceled": 3})


def test_a_task_in_use_is_not_forgotten(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.task_seconds = LONG
    record = comfyui.start(upscale(fallback="never"))
    (task,) = wait_for_tasks(comfyui, record, 1, "running")
    assert post(comfyui, f"/xalora/tasks/{task['id']}/forget").status_code == 409
    assert post(comfyui, f"/xalora/tasks/{task['id']}/resume").status_code == 409
    post(comfyui, f"/xalora/tasks/{task['id']}/cancel").raise_for_status()
    record.wait()
    assert post(comfyui, f"/xalora/tasks/{task['id']}/forget").status_code == 200
    assert get(comfyui, f"/xalora/tasks/{task['id']}").status_code == 404
    assert post(comfyui, f"/xalora/tasks/{task['id']}/forget").status_code == 404


def lost_one(comfyui: ComfyUI, record: RunRecord) -> dict[str, Any]:
    """The prompt's task, whose create was not answered."""
    (lost,) = of_prompt(comfyui, record)
    return lost


@pytest.mark.parametrize("task_id", ["", "two words", "x" * 201, "../../etc", "no-such-task"])
def test_only_a_task_that_the_network_knows_is_taken_up(
    comfyui: ComfyUI, devnet: SessionDevnet, task_id: str
) -> None:
    devnet.add_fault("task_create:drop_after:n=1")
    record = comfyui.run(upscale(fallback="never"))
    lost = lost_one(comfyui, record)
    assert (lost["state"], lost["actions"]) == ("unknown", ["take_up", "send_again", "forget"])
    refused = post(comfyui, f"/xalora/tasks/{lost['id']}/take_up", {"task_id": task_id})
    assert refused.status_code in (400, 502)
    (same,) = of_prompt(comfyui, record)
    assert (same["state"], same["task_id"]) == ("unknown", None)


def test_the_task_of_another_record_is_not_taken_up(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    (other,) = of_prompt(comfyui, comfyui.run(upscale()))
    devnet.add_fault("task_create:drop_after:n=1")
    record = comfyui.run(upscale(fallback="never"))
    lost = lost_one(comfyui, record)
    refused = post(comfyui, f"/xalora/tasks/{lost['id']}/take_up", {"task_id": other["task_id"]})
    assert refused.status_code == 503
    (same,) = of_prompt(comfyui, record)
    assert (same["state"], same["task_id"]) == ("unknown", None)


def test_what_is_settled_is_neither_taken_up_nor_sent_again(comfyui: ComfyUI) -> None:
    (task,) = of_prompt(comfyui, comfyui.run(upscale()))
    for action in ("take_up", "send_again"):
        answer = post(comfyui, f"/xalora/tasks/{task['id']}/{action}", {"task_id": task["task_id"]})
        assert answer.status_code == 409


def test_a_file_that_an_open_graph_uses_is_not_forgotten(comfyui: ComfyUI) -> None:
    """ComfyUI's cache holds a VIDEO that reads its file whenever it is saved."""
    text = uuid.uuid4().hex
    record = comfyui.run(
        {
            "1": node("XaloraTextToVideo", prompt=text, seed=7, decode_frames=False),
            "2": node("XaloraTestClock", value=["1", 0]),
        }
    )
    (task,) = of_prompt(comfyui, record)
    refused = post(comfyui, f"/xalora/tasks/{task['id']}/forget")
    assert refused.status_code == 409
    assert "an open graph, or another program, still uses its file" in refused.json()["error"]["what"]
    assert "Unload Models and Execution Cache" in refused.json()["error"]["next_step"]
    assert get(comfyui, f"/xalora/tasks/{task['id']}/files/0").status_code == 200
    comfyui.clear_cache()
    assert post(comfyui, f"/xalora/tasks/{task['id']}/forget").status_code == 200


def test_a_task_that_nobody_waits_for_is_taken_up_again(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(upscale())
    (done,) = of_prompt(comfyui, record)
    # What has a lease is not forgotten, and the node drops its own a moment after its end.
    wait_for(comfyui, done["id"], lambda task: not task["leased"])
    with seeded(comfyui, devnet.url) as seeder:
        assert seeder.journal.forget([done["id"]]).result() == 1
        seeder.record(
            "upscaler",
            "left running",
            ago=20,
            then=lambda s, record, _: s.submitted(record, done["task_id"]),
        )
        (left,) = tasks(comfyui, text="left running")["tasks"]
        assert left["actions"] == ["cancel", "resume", "forget"]
        assert left["leased"] is False
        answer = post(comfyui, f"/xalora/tasks/{left['id']}/resume").json()
        assert answer["leased"] is True
        kept = wait_for(comfyui, left["id"], lambda task: bool(task["state"] == "kept"))
        assert get(comfyui, f"/xalora/tasks/{kept['id']}/files/0").status_code == 200
    assert devnet.new_stats()["creates"] == 1


def test_a_resume_that_fails_says_why(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    with seeded(comfyui, devnet.url) as seeder:
        record = seeder.record("upscaler", "of another time", ago=20, then=seed.left_running)
        post(comfyui, f"/xalora/tasks/{record.id}/resume").raise_for_status()
        until = time.monotonic() + 30
        words = "does not know this task"
        while words not in (comfyui.get(f"/xalora/tasks/{record.id}").json()["error"] or ""):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_task_of_another_network_is_out_of_reach(comfyui: ComfyUI) -> None:
    """Our key is for our network: it is not sent where another key once was."""
    with seeded(comfyui, "https://elsewhere.example") as seeder:
        record = seeder.record("upscaler", "elsewhere", ago=20, then=seed.left_running)
        task = comfyui.get(f"/xalora/tasks/{record.id}").json()
        assert task["actions"] == ["forget"]
        assert post(comfyui, f"/xalora/tasks/{record.id}/cancel").status_code == 409
        assert post(comfyui, f"/xalora/tasks/{record.id}/resume").status_code == 409


def being_read(pipes: list[Path], count: int) -> list[int]:
    """Descriptors that keep the readers of so many pipes waiting, once there are so many."""
    found: dict[Path, int] = {}
    until = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < until, found
        for pipe in pipes:
            if pipe not in found:
                with suppress(OSError):
                    found[pipe] = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    return list(found.values())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_results_that_are_slow_to_read_hold_up_nothing_else(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    """Somebody scrolls past more of them than there are threads."""
    with seeded(comfyui, devnet.url) as seeder, ThreadPoolExecutor(MORE_THAN_THREADS) as windows:
        records = [
            seeder.record("upscaler", "slow", ago=9, then=seed.kept(b"", ".png"))
            for _ in range(MORE_THAN_THREADS)
        ]
        for record in records:
            record.files[0].unlink()
            os.mkfifo(record.files[0])
        asked = [windows.submit(get, comfyui, f"/xalora/tasks/{record.id}/preview") for record in records]
        readers = being_read([record.files[0] for record in records], 2)
        try:
            for _ in range(10):
                assert len(tasks(comfyui, text="slow")["tasks"]) == MORE_THAN_THREADS
            assert not any(preview.done() for preview in asked)
        finally:
            for record in records:
                readers.append(os.open(record.files[0], os.O_RDWR | os.O_NONBLOCK))
                record.files[0].unlink()
            for reader in readers:
                os.close(reader)
        assert {preview.result().status_code for preview in asked} == {404}


# --- what is pushed ---------------------------------------------------------------------------------------


@pytest.fixture
def window(comfyui: ComfyUI) -> Iterator[Window]:
    window = Window(comfyui, "xalora.tasks")
    comfyui.get("/xalora/tasks", limit=0)
    yield window
    window.close()


def test_changes_are_pushed_and_at_most_five_a_second(comfyui: ComfyUI, window: Window) -> None:
    record = comfyui.run(upscale(batch=12))
    expected = {task["id"] for task in of_prompt(comfyui, record)}
    assert len(expected) == 12
    times, done = [], set()
    while done < expected:
        at, message = window.messages.get(timeout=20)
        times.append(at)
        assert message["since"] <= message["version"]
        assert set(message["counts"]) == {"active", "done", "failed"}
        done |= {task["id"] for task in message["tasks"] if task["state"] == "kept"}
    # Over the whole span, because single arrivals are delayed on a busy machine.
    assert len(times) - 1 <= 5 * (times[-1] - times[0]) + 1, times


def test_pictures_that_are_drawn_after_their_tasks_have_changed_are_pushed(
    comfyui: ComfyUI, devnet: SessionDevnet, window: Window
) -> None:
    # Drawn one by one, for longer than the tasks take to fail.
    devnet.add_fault("task_create:drop_after")
    prompt = upscale(batch=6, fallback="never")
    prompt["1"]["inputs"] |= {"width": 2400, "height": 1600}
    record = comfyui.run(prompt)
    unseen = {task["id"] for task in of_prompt(comfyui, record)}
    assert len(unseen) == 6
    while unseen:
        _, message = window.messages.get(timeout=60)
        unseen -= {task["id"] for task in message["tasks"] if task["has_input"]}


def test_what_another_process_does_is_pushed_too(
    comfyui: ComfyUI, devnet: SessionDevnet, window: Window
) -> None:
    with seeded(comfyui, devnet.url) as seeder:
        record = seeder.record("upscaler", "from a shell", ago=1, then=seed.canceled)
        while True:
            _, message = window.messages.get(timeout=20)
            if record.id in {task["id"] for task in message["tasks"]}:
                break


# --- the key ----------------------------------------------------------------------------------------------


def test_a_key_of_the_environment_stays_there(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    status = comfyui.get("/xalora/status").json()
    assert status["key"] == {
        "present": True,
        "source": "environment",
        "variable": "XALORA_API_KEY",
        "editable": False,
    }
    assert status["endpoint"]["url"] == devnet.url
    assert devnet.api_key.partition("#")[2] + '"' not in json.dumps(status).replace(devnet.url, "")
    refused = post(comfyui, "/xalora/key", {"key": f"someone#{SECRET}"})
    assert refused.status_code == 400
    assert "is set (by environment) and overrides" in refused.json()["error"]["what"]
    assert not (comfyui.user_dir / "__xalora" / "api-key").exists()
    assert post(comfyui, "/xalora/key/test").json()["outcome"] == "accepted"


def test_a_key_is_for_the_network_it_was_entered_with(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    comfyui = comfyui_factory()
    folder = comfyui.user_dir / "__xalora"
    assert comfyui.get("/xalora/status").json()["key"]["present"] is False
    assert post(comfyui, "/xalora/key/test").status_code == 400
    for key, endpoint, told in (
        ("", "", "No key was entered"),
        (SECRET.replace("-", ""), "", "does not have the form"),
        (f"devnet#{SECRET}", "ftp://example.com", "workflow_url"),
        (f"devnet#{SECRET}", devnet.url, "refuses this key"),
    ):
        refused = post(comfyui, "/xalora/key", {"key": key, "endpoint": endpoint})
        assert refused.status_code in (400, 502)
        assert told in refused.json()["error"]["what"]
        assert SECRET not in refused.text
    assert not folder.exists() or not list(folder.iterdir())

    stored = post(comfyui, "/xalora/key", {"key": devnet.api_key, "endpoint": devnet.url})
    assert stored.json()["outcome"] == "accepted"
    assert mode_of(folder / "api-key") == 0o600
    status = comfyui.get("/xalora/status").json()
    assert status["key"]["source"] == status["endpoint"]["source"] == "the key file"
    assert status["endpoint"]["url"] == devnet.url
    assert comfyui.run(upscale()).status == "success"

    # Another key, of the environment, is not sent to the network that was entered with the stored one.
    comfyui.restart({"XALORA_API_KEY": f"someone#{SECRET}"})
    status = comfyui.get("/xalora/status").json()
    assert status["key"]["source"] == "environment"
    assert status["endpoint"]["url"] == status["endpoint"]["default"]
    post(comfyui, "/xalora/key/remove").raise_for_status()
    assert list(folder.iterdir()) == []
    assert SECRET not in comfyui.logs()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


HOSTILE_BODIES = [
    b"[" * 60_000,
    b'{"key":' + b"[" * 60_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"key":"\\ud800#x"}',
    b'{"key":"a#b\\u0000","endpoint":"http://127.0.0.1:9"}',
    b'{"key":"a#b\\r\\nX: y","endpoint":"http://127.0.0.1:9"}',
    b'{"key":"a#b","endpoint":"http://' + b"a" * 300 + b'/"}',
    b'{"key":"a#b","endpoint":"http://[::1"}',
    b'{"key":"a#b","endpoint":"\\ud800"}',
    b'{"key":{"a":1}}',
    b"9" * 5000,
    b"\xff\xfe",
]


def test_a_malformed_body_is_the_callers_mistake(comfyui: ComfyUI) -> None:
    headers = {"Content-Type": "application/json", **MARKED}
    for body in HOSTILE_BODIES:
        refused = requests.post(comfyui.url + "/xalora/key", body, headers=headers, timeout=60)
        assert refused.status_code == 400, body[:40]
        # Without a key, a body has nothing wrong for the other routes but its form.
        other = requests.post(
            comfyui.url + f"/xalora/tasks/{10**12}/forget", body, headers=headers, timeout=60
        )
        assert other.status_code in (400, 404), body[:40]


@pytest.mark.parametrize(
    "path",
    [
        *(f"/xalora/tasks/{number}" for number in ("9" * 30, "9" * 4400, "%D9%A1", "-1", "1%00")),
        *(
            f"/xalora/tasks/1/files/{number}"
            for number in ("9" * 30, "9" * 5000, "-1", "..%2f..%2fetc%2fpasswd")
        ),
        *(f"/xalora/tasks?{name}={'9' * 24}" for name in ("offset", "since", "limit")),
        *(f"/xalora/tasks?{name}={'9' * 5000}" for name in ("offset", "since", "limit")),
        *("/xalora/tasks?since=nan", "/xalora/tasks?limit=1e9", "/xalora/tasks?groups=done,xx"),
    ],
)
def test_a_malformed_address_is_the_callers_mistake(comfyui: ComfyUI, path: str) -> None:
    assert get(comfyui, path).status_code in (400, 404)


@pytest.mark.parametrize("text", ["%00", "%ff", "%25" * 3, "%ed%a0%80", "'%20or%201=1"])
def test_any_text_may_be_looked_for(comfyui: ComfyUI, text: str) -> None:
    assert get(comfyui, f"/xalora/tasks?text={text}").status_code == 200


def test_with_several_users_the_key_is_the_hosts_and_the_routes_are_closed(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    env = {"XALORA_WORKFLOW_URL": devnet.url, "XALORA_API_KEY": devnet.api_key, "XALORA_DAILY_TASKS": "1"}
    shared = comfyui_factory(env, ("--multi-user",))
    alice = post(shared, "/users", {"username": "alice"}).json()
    assert isinstance(alice, str)
    entered = {"key": SECRET, "endpoint": "http://127.0.0.1:9"}
    for user in ({}, {"comfy-user": alice}, {"comfy-user": "default"}, {"comfy-user": "__xalora"}):
        for path in ("/xalora/status", "/xalora/settings", "/xalora/tasks", "/xalora/tasks/1/files/0"):
            assert get(shared, path, **user).status_code == 403
        for path, body in (
            ("key", entered),
            ("key/remove", {}),
            ("tasks/cancel", {}),
            ("tasks/1/forget", {}),
        ):
            refused = post(shared, f"/xalora/{path}", body, **user)
            assert refused.status_code == 403
            assert "belong to whoever runs" in refused.json()["error"]["what"]
    # Her settings would have her own machine do the work.
    stored = {"Xalora.Fallback": "local_only"}
    assert post(shared, "/settings", stored, **{"comfy-user": alice}).status_code == 200
    assert shared.run(upscale()).status == "success"
    assert devnet.new_stats()["creates"] == 1
    refused_node = shared.run(upscale()).error
    assert refused_node["exception_type"].endswith(".GraphError")
    assert "Ask whoever runs this ComfyUI" in refused_node["exception_message"]
    written = [
        file for file in shared.root.rglob("*") if file.is_file() and file.suffix in ("", ".json", ".env")
    ]
    assert not [file for file in written if SECRET.encode() in file.read_bytes()]


def test_what_reads_does_not_wait_for_the_client(comfyui: ComfyUI) -> None:
    done = comfyui.run(upscale())
    (task,) = of_prompt(comfyui, done)
    blocking = comfyui.start({"1": node("XaloraTestBlockClient", seconds=20.0, nonce=uuid.uuid4().hex)})
    blocking.wait_for("executing", node="1")
    for path in ("status", "settings", "tasks", f"tasks/{task['id']}", f"tasks/{task['id']}/files/0"):
        assert get(comfyui, f"/xalora/{path}").status_code == 200
    answered = time.time()
    held = blocking.wait(60).outputs["1"]
    assert answered < held["ended"][0]
