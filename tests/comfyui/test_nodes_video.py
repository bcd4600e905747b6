"""XaloraUpscaleVideo in a real ComfyUI, against the devnet: files in, files out, progress, cancel."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from graphs import fresh, fresh_seed, image, node, told
from harness import ComfyUI, RunRecord, SessionDevnet
from PIL import Image
from video_files import moving_photograph, played, track, write_video

from xalora_client.devnet.engines import MinerTask

ENDLESS = 600.0
MARKED = {"X-Xalora": "1"}


def clip(comfyui: ComfyUI, folder: Path, count: int = 12, **how: Any) -> tuple[Path, str]:
    """A new video that no other test has, with sound, and its name in ComfyUI's input folder."""
    noise = np.random.default_rng(fresh_seed()).integers(0, 60, (64, 96, 3), np.uint8)
    frames = [frame // 2 + noise for frame in moving_photograph(count, hold=2)]
    path = write_video(folder / f"{fresh()}.mp4", frames, lossless=True, **how)
    return path, comfyui.upload_image(path)


def graph(source: Any, **options: Any) -> dict[str, Any]:
    return {
        "1": source if isinstance(source, dict) else node("LoadVideo", file=source),
        "2": node("XaloraUpscaleVideo", video=["1", 0], **options),
        "3": node("SaveVideo", video=["2", 0], filename_prefix=fresh(), format="auto", codec="auto"),
    }


def endless_from(path: Path, first: int) -> Callable[[MinerTask], float]:
    """Tasks of the frames before this one end soon; several in flight may reach the network in any order."""
    frames = [frame.astype(int) for frame in played(path)]

    def seconds(task: MinerTask) -> float:
        assert task.image is not None
        sent = np.asarray(Image.open(io.BytesIO(task.image)).convert("RGB"), int)
        place = min(range(len(frames)), key=lambda place: float(np.abs(frames[place] - sent).mean()))
        return 0.1 if place < first else ENDLESS

    return seconds


def saved(comfyui: ComfyUI, record: RunRecord, folder: Path) -> Path:
    assert record.status == "success", record.describe()
    (data,) = comfyui.files(record, "3")
    path = folder / f"{fresh()}.mp4"
    path.write_bytes(data)
    return path


def test_a_video_with_its_sound_and_its_times(
    comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path
) -> None:
    times = [512 * place + 100 * (place % 3) for place in range(12)]
    path, name = clip(comfyui, tmp_path, times=times)
    record = comfyui.run(graph(name))
    made = saved(comfyui, record, tmp_path)
    assert devnet.new_stats()["creates"] == 6
    assert track(made, "video").times == track(path, "video").times
    assert track(made, "audio").data == track(path, "audio").data
    assert [frame.shape for frame in played(made)] == [(128, 192, 3)] * 12
    assert record.progress_of("2")[-1] == (12, 12)
    lines = [text.text for text in record.texts_of("2")]
    assert "6 of 12 frames differ: 6 tasks" in lines
    assert lines[-1].startswith("192 x 128, 12 frames in ") and lines[-1].endswith("by xalora")


def test_the_same_video_again_sends_nothing(comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path) -> None:
    _, name = clip(comfyui, tmp_path)
    first = saved(comfyui, comfyui.run(graph(name)), tmp_path)
    comfyui.clear_cache()
    again = comfyui.run(graph(name))
    assert played(saved(comfyui, again, tmp_path))[0].shape == played(first)[0].shape
    assert devnet.new_stats()["creates"] == 6
    assert again.texts_of("2")[-1].text == "kept result, nothing sent"


def test_above_the_limit_nothing_is_sent(comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path) -> None:
    _, name = clip(comfyui, tmp_path)
    record = comfyui.run(graph(name, max_tasks=5))
    assert "needs 6 tasks (6 of 12 frames differ), and 5 are the limit" in told(comfyui, record)
    assert devnet.new_stats()["endpoints"]["task_create"] == 0


def test_cancel_cancels_the_tasks_and_the_next_run_goes_on(
    comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path
) -> None:
    path, name = clip(comfyui, tmp_path, 24)
    devnet.task_seconds = endless_from(path, 10)
    record = comfyui.start(graph(name, max_in_flight=3))
    record.wait_for_text("10/24 frames", node="2")
    comfyui.interrupt()
    assert record.wait().status == "interrupted"
    devnet.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["tasks"]["running"] == 0)
    finished = devnet.new_stats()["tasks"]["finished"]
    assert finished == 5
    devnet.task_seconds = 0.0
    saved(comfyui, comfyui.run(graph(name)), tmp_path)
    assert devnet.new_stats()["tasks"]["finished"] == 12


def test_in_the_sidebar_a_video_is_one_row_that_cancels_its_node(
    comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path
) -> None:
    path, name = clip(comfyui, tmp_path, 24)
    devnet.task_seconds = endless_from(path, 10)
    record = comfyui.start(graph(name, max_in_flight=3))
    record.wait_for_text("10/24 frames", node="2")
    devnet.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["tasks"]["running"] == 3)

    def listed(**which: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = comfyui.get("/xalora/tasks", **which).json()["tasks"]
        return [row for row in found if row["label"].startswith(f"upscale {Path(name).name}, frame")]

    (row,) = listed(groups="active")
    assert row["whole"]["label"] == f"upscale {Path(name).name}"
    # Those that wait for their segment have come, and are neither lost nor delivered.
    assert row["whole"]["parts"]["active"] + row["whole"]["parts"].get("done", 0) == 8
    whole = row["whole"]["id"]
    assert len(listed(whole=whole)) == len(listed(each="1")) == 8
    answer = comfyui.post("/xalora/tasks/cancel", {"whole": "of nothing"}, headers=MARKED).json()
    assert answer == {"canceled": 0, "failed": []}
    answer = comfyui.post("/xalora/tasks/cancel", {"whole": whole}, headers=MARKED).json()
    assert answer["failed"] == []
    assert record.wait().status == "interrupted"
    assert record.texts_of("2")[-1].text == "canceled"
    devnet.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["tasks"]["running"] == 0)
    tasks = devnet.new_stats()["tasks"]
    assert (tasks["finished"], tasks["canceled"]) == (5, 3)


def test_frames_of_another_node_are_sent_without_loss(
    comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path
) -> None:
    seed = fresh_seed()
    prompt = {
        "0": image(seed, batch=3),
        **graph(node("CreateVideo", images=["0", 0], fps=12.0)),
    }
    made = saved(comfyui, comfyui.run(prompt), tmp_path)
    frames = played(made)
    assert [frame.shape for frame in frames] == [(60, 80, 3)] * 3
    with av.open(str(made)) as container:
        assert container.streams.video[0].average_rate == 12
    assert devnet.new_stats()["creates"] == 3


def test_a_frame_that_the_network_can_not_make_is_made_here(
    comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path
) -> None:
    _, name = clip(comfyui, tmp_path)
    devnet.add_fault("miner:failed:n=2")
    record = comfyui.run(graph(name, fallback="on_any_failure", max_in_flight=1))
    if record.status == "success":
        assert "5 by xalora, 1 by " in record.texts_of("2")[-1].text
    else:
        # Without an upscale model of this machine there is nothing that could.
        assert "this machine can't take over" in told(comfyui, record)


def test_a_video_that_fails_tells_what_is_kept(
    comfyui: ComfyUI, devnet: SessionDevnet, tmp_path: Path
) -> None:
    _, name = clip(comfyui, tmp_path)
    devnet.add_fault("miner:failed:n=2,3,4")
    record = comfyui.run(graph(name, fallback="never", max_in_flight=1))
    assert record.status == "error"
    assert record.texts_of("2")[-1].text == (
        "failed, 5 of 6 frames: The network could not make this."
        " Finished ones are kept. Failed ones may be charged."
    )
    assert "Finished ones are kept and not paid again." in record.error["exception_message"]
    devnet.clear_faults()
    assert comfyui.run(graph(name, fallback="never")).status == "success"
    assert devnet.new_stats()["tasks"] == {"failed": 3, "finished": 6}
