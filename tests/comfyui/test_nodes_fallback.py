"""The fallback: nodes expand into the bound workflow, with ComfyUI's own nodes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import doubled, dump, fresh, fresh_seed, image, node, noise, told
from harness import ComfyUI, ComfyUIFactory, Event, RunRecord, SessionDevnet
from PIL import Image

from xalora_client.engines.ncnn.engine import upscaled
from xalora_client.engines.ncnn.models import tried
from xalora_client.engines.ncnn.upscaler import NcnnUpscaler
from xalora_client.workflows.catalog import SHIPPED_FOLDER

MODEL_WRITER = Path(__file__).resolve().parents[1] / "with_torch" / "tiny_models.py"
LANCZOS = "LANCZOS on this machine, which is no model"
X4PLUS = "realesrgan-x4plus (ncnn)"


@pytest.fixture
def upscale_model(comfyui: ComfyUI) -> Iterator[str]:
    """A small 4x model in ComfyUI's folder."""
    path = comfyui.root / "models" / "upscale_models" / "tiny_4x.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([comfyui.install.python, MODEL_WRITER, path, "4"], check=True, timeout=120)
    yield path.name
    path.unlink()


@pytest.fixture
def own_ncnn_model(comfyui: ComfyUI, tmp_path: Path) -> Iterator[Path]:
    """A pair of files for ncnn that the settings name as the user's model."""
    model = tried("realesr-animevideov3")
    for file in (model.param, model.weights):
        shutil.copy(file, tmp_path / f"my-own{file.suffix}")
    settings = comfyui.root / ".env"
    settings.write_text(f"XALORA_UPSCALE_MODEL={tmp_path / 'my-own.param'}\n")
    yield tmp_path / "my-own.param"
    settings.unlink()


def upscale(local_model: str = "LANCZOS", **options: Any) -> dict[str, Any]:
    """The node, with what is computed soonest where the test is not about the model."""
    return node("XaloraUpscaleImage", image=["1", 0], local_model=local_model, **options)


def creates(devnet: SessionDevnet) -> int:
    return devnet.new_stats()["endpoints"]["task_create"]


def made_here(comfyui: ComfyUI, record: RunRecord, engine: str = "comfyui") -> list[str]:
    """The states of the prompt's tasks that the sidebar says this engine here has done."""
    rows = comfyui.get("/xalora/tasks", limit=50).json()["tasks"]
    return [row["state"] for row in rows if row["prompt"] == record.prompt_id and row["engine"] == engine]


def lines(record: RunRecord, node: str = "2") -> list[str]:
    return [text.text for text in record.texts_of(node)]


def test_without_network_and_model_file_ncnn_does_it(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.stop_sequencer()
    seed = fresh_seed()
    record = comfyui.run(
        {"1": image(seed, batch=2, channels=4), "2": upscale(local_model="auto"), "3": dump(["2", 0])}
    )
    assert record.status == "success", record.describe()
    made = f"{X4PLUS} on this machine"
    assert f"2 of 2 are made by {made}" in lines(record)[-2]
    assert re.fullmatch(rf"80 x 60, 2 in .* by {re.escape(made)}", lines(record)[-1]), lines(record)
    assert made_here(comfyui, record, "ncnn") == ["not_sent", "not_sent"]
    given, got = noise(seed, batch=2, channels=4), record.array("3")
    assert got.shape == (2, 60, 80, 4)
    enlarging = NcnnUpscaler(tried("realesrgan-x4plus"))
    for one, pixels in zip(got, given, strict=True):
        expected = upscaled(enlarging, pixels.astype(np.float32), (80, 60))
        np.testing.assert_allclose(one, expected, atol=1 / 255)


@pytest.mark.parametrize("local_model", ["auto", "my-own (ncnn)"])
def test_the_users_own_model_for_ncnn_does_it(
    comfyui: ComfyUI, devnet: SessionDevnet, upscale_model: str, own_ncnn_model: Path, local_model: str
) -> None:
    choices = comfyui.object_info("XaloraUpscaleImage")["input"]["optional"]["local_model"][1]["options"]
    assert choices[:3] == ["auto", upscale_model, "my-own (ncnn)"]
    seed = fresh_seed()
    record = comfyui.run(
        {
            "1": image(seed),
            "2": upscale(local_model=local_model, fallback="local_only"),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success", record.describe()
    assert "my-own (ncnn) on this machine" in lines(record)[-1]
    expected = upscaled(NcnnUpscaler(tried(own_ncnn_model)), noise(seed)[0].astype(np.float32), (80, 60))
    np.testing.assert_allclose(record.array("3")[0], expected, atol=1 / 255)


def test_a_broken_model_of_the_users_is_told(
    comfyui: ComfyUI, devnet: SessionDevnet, own_ncnn_model: Path
) -> None:
    own_ncnn_model.with_suffix(".bin").write_bytes(b"cut off")
    graph = {"1": image(fresh_seed()), "2": upscale("auto", fallback="local_only"), "3": dump(["2", 0])}
    record = comfyui.run(graph)
    assert record.status == "error"
    assert "my-own.param can't be used as an upscale model" in comfyui.unread_log()
    own_ncnn_model.with_suffix(".bin").unlink()
    record = comfyui.run(graph)
    assert record.status == "error"
    assert "my-own.bin is missing" in comfyui.unread_log()


def test_ncnn_is_stopped_by_cancel(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.start(
        {
            "1": image(fresh_seed(), batch=250),
            "2": upscale(local_model=X4PLUS, fallback="local_only"),
            "3": dump(["2", 0]),
        }
    )

    def advances(event: Event) -> bool:
        return event.data["nodes"].get("2.0.0.ncnn", {}).get("value", 0) > 0

    record.wait_for("progress_state", where=advances)
    comfyui.interrupt()
    began = time.monotonic()
    assert record.wait().status == "interrupted"
    assert time.monotonic() - began < 10


def test_without_any_model_the_error_says_how_to_get_one(
    comfyui_factory: ComfyUIFactory, tmp_path: Path
) -> None:
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text("import sys\nsys.modules['ncnn'] = None\n")
    away = {"XALORA_WORKFLOW_URL": "http://127.0.0.1:9", "XALORA_API_KEY": "alice#s3cret"}
    extra = comfyui_factory(env={"PYTHONPATH": str(hiding), **away})
    choices = extra.object_info("XaloraUpscaleImage")["input"]["optional"]["local_model"][1]["options"]
    assert choices == ["auto", "LANCZOS"]
    record = extra.run({"1": image(fresh_seed()), "2": upscale(local_model="auto"), "3": dump(["2", 0])})
    assert record.status == "error"
    message = record.error["exception_message"]
    assert "no upscale model is installed" in message
    assert "models/upscale_models" in message
    assert "Nothing was charged" in message


def test_lanczos_does_it_where_it_is_named(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.stop_sequencer()
    record = comfyui.run(
        {
            "1": image(fresh_seed(), batch=2),
            "2": upscale(),
            "3": dump(["2", 0]),
            "4": node("ImageScaleBy", image=["1", 0], upscale_method="lanczos", scale_by=2.0),
            "5": dump(["4", 0]),
        }
    )
    assert record.status == "success"
    np.testing.assert_array_equal(record.array("3"), record.array("5"))
    first, last = lines(record)[-2:]
    assert f": 2 of 2 are made by {LANCZOS}" in first, first
    assert first.startswith("The network can't be reached: "), first
    assert last.startswith("80 x 60, 2 in ") and last.endswith(f"by {LANCZOS}"), last
    assert LANCZOS in comfyui.unread_log()
    assert made_here(comfyui, record) == ["not_sent", "not_sent"]


def test_an_installed_model_does_it(comfyui: ComfyUI, devnet: SessionDevnet, upscale_model: str) -> None:
    devnet.stop_sequencer()
    record = comfyui.run(
        {
            "1": image(fresh_seed(), batch=2),
            "2": upscale(local_model="auto"),
            "3": dump(["2", 0]),
            "4": node("UpscaleModelLoader", model_name=upscale_model),
            "5": node("ImageUpscaleWithModel", upscale_model=["4", 0], image=["1", 0]),
            "6": node(
                "ImageScale",
                image=["5", 0],
                upscale_method="lanczos",
                width=80,
                height=60,
                crop="disabled",
            ),
            "7": dump(["6", 0]),
        }
    )
    assert record.status == "success"
    np.testing.assert_array_equal(record.array("3"), record.array("7"))
    assert f"by {upscale_model} on this machine (cpu)" in lines(record)[-1]


def test_a_model_may_be_chosen(comfyui: ComfyUI, devnet: SessionDevnet, upscale_model: str) -> None:
    assert comfyui.object_info("XaloraUpscaleImage")["input"]["optional"]["local_model"][1]["options"] == [
        "auto",
        upscale_model,
        X4PLUS,
        "realesr-animevideov3 (ncnn)",
        "waifu2x-photo (ncnn)",
        "LANCZOS",
    ]
    record = comfyui.run(
        {
            "1": image(fresh_seed()),
            "2": upscale(fallback="local_only", local_model=upscale_model),
            "3": dump(["2", 0]),
        }
    )
    assert record.status == "success"
    assert upscale_model in lines(record)[-1]
    assert creates(devnet) == 0


def test_a_fourth_channel_is_kept_here_too(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    record = comfyui.run(
        {"1": image(seed, channels=4), "2": upscale(fallback="local_only"), "3": dump(["2", 0])}
    )
    assert record.status == "success"
    (got,) = record.array("3")
    alpha = Image.fromarray(noise(seed, channels=4)[0, ..., 3]).resize((80, 60), Image.Resampling.LANCZOS)
    assert got.shape == (60, 80, 4)
    np.testing.assert_allclose(got[..., 3], np.clip(np.asarray(alpha), 0, 1), atol=1e-6)


def test_only_the_missing_images_of_a_batch_are_made_here(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet
) -> None:
    """The network stops in the middle of the batch; no task is created twice."""
    devnet.reset()
    extra = comfyui_factory(
        env={
            "XALORA_WORKFLOW_URL": devnet.url,
            "XALORA_API_KEY": devnet.api_key,
            "XALORA_OUTAGE_LIMIT": "2",
            "XALORA_MAX_RETRIES": "1",
        }
    )
    seed = fresh_seed()
    for miner in list(devnet.miners)[1:]:
        devnet.kill_miner(miner)
    devnet.task_seconds = 0.5
    record = extra.start(
        {
            "1": image(seed, batch=6),
            "2": upscale(max_in_flight=3, fallback="on_any_failure"),
            "3": dump(["2", 0]),
        }
    )
    record.wait_for_text("2/6", node="2")
    devnet.task_seconds = 600
    devnet.stop_sequencer()
    record.wait(120)
    assert record.status == "success", record.describe()
    batch = noise(seed, batch=6)
    array = record.array("3")
    assert array.shape == (6, 60, 80, 3)
    for got, given in zip(array, batch, strict=True):
        # ComfyUI's LANCZOS cuts 8 bits off where a miner's rounds; noise tells images apart all the same.
        np.testing.assert_allclose(got, doubled(given), atol=4 / 255)
    last = lines(record)[-1]
    assert "by xalora" in last and f"by {LANCZOS}" in last, last
    devnet.start_sequencer()
    stats = devnet.new_stats()
    assert stats["duplicates"] == 0
    assert stats["creates"] <= 6


def test_a_create_of_unknown_outcome_is_made_here_and_not_created_again(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.add_fault("task_create:drop_after:n=1")
    again = upscale(fallback="on_any_failure")
    record = comfyui.run({"1": image(fresh_seed()), "2": again, "3": dump(["2", 0])})
    assert record.status == "success"
    assert LANCZOS in lines(record)[-1]
    assert creates(devnet) == 1
    assert made_here(comfyui, record) == ["unknown"]
    assert "may exist and be charged" in comfyui.unread_log()


def test_too_long_in_the_queue_is_canceled_and_made_here(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    for miner in list(devnet.miners):
        devnet.kill_miner(miner)
    record = comfyui.run({"1": image(fresh_seed()), "2": upscale(queue_limit=1), "3": dump(["2", 0])})
    assert record.status == "success"
    assert "No miner took the task within your queue limit: " in lines(record)[-2]
    (task_id,) = devnet.new_task_ids()
    assert devnet.task(task_id).status == "canceled"
    assert made_here(comfyui, record) == ["canceled"]


@pytest.mark.parametrize("policy", ["never", "when_unavailable"])
def test_a_failed_task_is_no_reason(comfyui: ComfyUI, devnet: SessionDevnet, policy: str) -> None:
    devnet.add_fault("miner:failed")
    record = comfyui.run({"1": image(fresh_seed()), "2": upscale(fallback=policy), "3": dump(["2", 0])})
    assert record.status == "error"
    assert creates(devnet) == 3


def test_a_failed_task_is_a_reason_where_the_user_says_so(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.add_fault("miner:failed")
    record = comfyui.run(
        {"1": image(fresh_seed()), "2": upscale(fallback="on_any_failure"), "3": dump(["2", 0])}
    )
    assert record.status == "success"
    assert "The network could not make this: " in lines(record)[-2]


@pytest.mark.parametrize("policy", ["when_unavailable", "on_any_failure"])
def test_a_wrong_key_is_never_covered_up(comfyui: ComfyUI, devnet: SessionDevnet, policy: str) -> None:
    devnet.add_fault("task_create:401")
    record = comfyui.run({"1": image(fresh_seed()), "2": upscale(fallback=policy), "3": dump(["2", 0])})
    assert record.status == "error"
    assert "The network refuses the API key." in record.error["exception_message"]


def test_the_network_is_asked_again_next_time(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    prompt = {"1": image(seed), "2": upscale(), "3": dump(["2", 0])}
    devnet.stop_sequencer()
    assert LANCZOS in lines(comfyui.run(prompt))[-1]
    # Still away: asked once more, and what was made here is not made again.
    again = comfyui.run(prompt)
    assert again.status == "success"
    assert "2" not in again.cached
    devnet.start_sequencer()
    third = comfyui.run(prompt)
    assert "by xalora" in lines(third)[-1]
    np.testing.assert_allclose(third.array("3")[0], doubled(noise(seed)[0]), atol=1e-6)
    assert comfyui.run(prompt).cached >= {"1", "2"}
    assert devnet.new_stats()["creates"] == 1


def test_what_the_policy_alone_decided_stays_cached(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    prompt = {"1": image(fresh_seed()), "2": upscale(fallback="local_only"), "3": dump(["2", 0])}
    assert comfyui.run(prompt).status == "success"
    assert comfyui.run(prompt).cached >= {"1", "2"}


def test_what_the_settings_alone_decided_is_stale_once_they_change(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    prompt = {"1": image(fresh_seed()), "2": upscale(), "3": dump(["2", 0])}
    settings = comfyui.root / ".env"
    settings.write_text("XALORA_FALLBACK=local_only\n")
    try:
        assert comfyui.run(prompt).status == "success"
        assert comfyui.run(prompt).cached >= {"1", "2"}
    finally:
        settings.unlink()
    assert devnet.new_stats()["creates"] == 0
    assert comfyui.run(prompt).status == "success"
    assert devnet.new_stats()["creates"] == 1
    # What the network has made is as good as ever.
    settings.write_text("XALORA_FALLBACK=local_only\n")
    try:
        assert comfyui.run(prompt).cached >= {"1", "2"}
    finally:
        settings.unlink()


def test_each_element_of_a_list_is_made_for_itself(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": node("XaloraTestList", count=3, seed=fresh_seed()),
            "2": upscale(fallback="local_only"),
            "3": node("ImageScaleBy", image=["1", 0], upscale_method="lanczos", scale_by=2.0),
            "4": node("XaloraTestJoin", images=["2", 0]),
            "5": node("XaloraTestJoin", images=["3", 0]),
            "6": dump(["4", 0]),
            "7": dump(["5", 0]),
        }
    )
    assert record.status == "success"
    assert record.array("6").shape == (3, 60, 80, 3)
    np.testing.assert_array_equal(record.array("6"), record.array("7"))


def test_a_video_without_models_is_made_by_its_definition(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    seed = fresh_seed()
    values = {"width": 128, "height": 64, "length": 8, "fps": 12}
    devnet.stop_sequencer()
    record = comfyui.run(
        {
            "1": node("XaloraTextToVideo", prompt=fresh(), seed=seed, workflow_id="gradient-video", **values),
            "2": node("SaveVideo", video=["1", 0], filename_prefix=fresh(), format="auto", codec="auto"),
            "3": dump(["1", 1]),
            "4": node("XaloraTestText", value=["1", 2]),
            **native_gradient(seed, **values),
            "native-dump": dump(["n-29", 0]),
        }
    )
    assert record.status == "success", record.describe()
    np.testing.assert_array_equal(record.array("3"), record.array("native-dump"))
    assert record.outputs["4"]["text"] == ["12.0"]
    assert len(comfyui.files(record, "2")) == 1
    assert "Moving Gradient (no model) on this machine (cpu)" in lines(record, "1")[-1]


def native_gradient(seed: int, width: int, height: int, length: int, fps: int) -> dict[str, Any]:
    """The definition's own file with these values, its ids prefixed, its saving node left out."""
    graph = json.loads((SHIPPED_FOLDER / "gradient-video.json").read_text())
    graph["3"]["inputs"]["seed"] = seed
    graph["28"]["inputs"]["length"] = length
    graph["29"]["inputs"].update(width=width, height=height)
    del graph["31"], graph["30"]
    for record in graph.values():
        record["inputs"] = {
            name: [f"n-{value[0]}", value[1]] if isinstance(value, list) else value
            for name, value in record["inputs"].items()
        }
    return {f"n-{id}": record for id, record in graph.items()}


def test_a_video_without_frames_has_them_blocked_here_too(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    record = comfyui.run(
        {
            "1": node(
                "XaloraTextToVideo",
                prompt=fresh(),
                seed=fresh_seed(),
                workflow_id="gradient-video",
                fallback="local_only",
                decode_frames=False,
                length=4,
            ),
            "2": node("SaveVideo", video=["1", 0], filename_prefix=fresh(), format="auto", codec="auto"),
            "3": dump(["1", 1]),
        }
    )
    assert record.status == "success"
    (blocked,) = record.blocked
    assert (blocked["node_id"], "decode_frames is off" in blocked["exception_message"]) == ("3", True)


def test_what_is_missing_for_a_video_is_named_with_its_folders(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    devnet.stop_sequencer()
    record = comfyui.run(
        {
            "1": node("XaloraTextToVideo", prompt=fresh(), seed=1),
            "2": node("XaloraTestClock", value=["1", 0]),
        }
    )
    assert (record.status, record.error["node_id"]) == ("error", "1")
    assert "this machine can't take over: Hunyuan" in record.error["exception_message"]
    message = told(comfyui, record, node="1")
    assert "this machine can't take over: Hunyuan Text to Video needs " in message
    assert "hunyuan_video_vae_bf16.safetensors (belongs into models/vae)" in message
    assert "models/text_encoders" in message and "models/diffusion_models" in message


def test_a_prompt_can_be_stopped_while_this_machine_works(comfyui: ComfyUI, devnet: SessionDevnet) -> None:
    devnet.stop_sequencer()
    record = comfyui.start(
        {
            "1": image(fresh_seed()),
            "2": upscale(),
            "3": node("XaloraTestBlock", seconds=60, bar=True, value=["2", 0], nonce=fresh()),
            "4": node("XaloraTestClock", value=["3", 0]),
        }
    )
    record.wait_for("executing", node="3")
    comfyui.interrupt()
    began = time.monotonic()
    assert record.wait().status == "interrupted"
    assert time.monotonic() - began < 10


def last_line(record: RunRecord, expected: str) -> str:
    """The last line on node 2, which may come a moment after the prompt's end."""
    until = time.monotonic() + 20
    while lines(record)[-1] != expected and time.monotonic() < until:
        time.sleep(0.05)
    return lines(record)[-1]


@pytest.fixture
def broken_model(comfyui: ComfyUI) -> Iterator[str]:
    """A file in ComfyUI's folder that no node can load."""
    path = comfyui.root / "models" / "upscale_models" / "broken.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"nonsense")
    yield path.name
    path.unlink()


def test_a_subgraph_that_fails_leaves_neither_its_promise_nor_a_lease(
    comfyui: ComfyUI, devnet: SessionDevnet, broken_model: str
) -> None:
    """The node no longer says who makes it, and the network's part is neither lost nor held."""
    devnet.add_fault("task_create:503:retry_after=0:n=2,3,4,5,6,7,8,9,10")
    options = {"fallback": "when_unavailable", "max_in_flight": 1}
    graph = {
        "1": image(fresh_seed(), batch=2),
        "2": upscale(broken_model, **options),
        "3": dump(["2", 0]),
    }
    record = comfyui.run(graph)
    assert record.status == "error", record.describe()
    paid = "stopped before this machine had made it. Finished ones are kept and not paid again."
    assert last_line(record, paid) == paid
    (kept,) = [row for row in comfyui.get("/xalora/tasks").json()["tasks"] if row["state"] == "kept"][:1]
    assert kept["prompt"] == record.prompt_id
    until = time.monotonic() + 20
    while comfyui.get(f"/xalora/tasks/{kept['id']}").json()["leased"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    devnet.clear_faults()
    graph["2"] = upscale(**options)
    assert comfyui.run(graph).status == "success"
    assert devnet.new_stats()["tasks"] == {"finished": 2}


def test_a_cancel_while_this_machine_computes_is_told_on_the_node(
    comfyui: ComfyUI, devnet: SessionDevnet
) -> None:
    seed = fresh_seed()
    record = comfyui.start(
        {
            "1": image(seed, batch=64, width=64, height=64),
            "2": upscale(X4PLUS, fallback="local_only"),
            "3": dump(["2", 0]),
        }
    )
    record.wait_for_text("are made by", node="2")
    comfyui.interrupt()
    assert record.wait(200).status == "interrupted"
    assert last_line(record, "canceled") == "canceled"


@pytest.mark.parametrize("kind", ["gray", "half", "bytes"])
def test_an_image_of_another_form_is_upscaled_here_as_the_network_would(
    comfyui: ComfyUI, devnet: SessionDevnet, kind: str
) -> None:
    """ComfyUI's own nodes check nothing: gray ones lose a dimension, and bytes turn out white."""
    graph = {
        "1": node("XaloraTestOddImage", kind=kind, seed=fresh_seed()),
        "2": upscale(fallback="local_only"),
        "3": dump(["2", 0]),
        "4": node("XaloraUpscaleImage", image=["1", 0], fallback="never"),
        "5": dump(["4", 0]),
    }
    record = comfyui.run(graph)
    assert record.status == "success", record.describe()
    here, there = record.array("3"), record.array("5")
    assert here.dtype == np.float32
    assert here.shape == there.shape == (1, 60, 80, 3)
    np.testing.assert_allclose(here, there, atol=4 / 255)


@pytest.mark.parametrize("kind", ["nan", "of 255"])
def test_what_would_turn_out_black_or_white_is_refused_here_too(
    comfyui: ComfyUI, devnet: SessionDevnet, kind: str
) -> None:
    graph = {
        "1": node("XaloraTestOddImage", kind=kind, seed=fresh_seed()),
        "2": upscale(fallback="local_only"),
        "3": dump(["2", 0]),
    }
    record = comfyui.run(graph)
    assert record.status == "error"
    assert record.error["node_id"] == "2"
    assert "would turn out" in record.error["exception_message"]
