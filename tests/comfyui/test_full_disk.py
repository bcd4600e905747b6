"""The sidebar while the disk of its journal is full, and afterwards."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "with_devnet"))

from disks import small_file_system
from graphs import dump, fresh_seed, image, node
from harness import ComfyUIFactory, SessionDevnet
from windows import Window


def test_rows_are_updated_when_the_disk_has_room_again(
    comfyui_factory: ComfyUIFactory, devnet: SessionDevnet, tmp_path: Path
) -> None:
    """An open window is told of it without asking."""
    devnet.reset()
    devnet.task_seconds = 4
    with small_file_system(tmp_path / "disk", "64m") as disk:
        comfyui = comfyui_factory(
            {
                "XALORA_WORKFLOW_URL": devnet.url,
                "XALORA_API_KEY": devnet.api_key,
                "XALORA_STATE_DIR": str(disk),
            }
        )
        window = Window(comfyui, "xalora.tasks")
        comfyui.get("/xalora/tasks", limit=0)
        run = comfyui.start(
            {
                "1": image(fresh_seed()),
                "2": node("XaloraUpscaleImage", image=["1", 0], fallback="never"),
                "3": dump(["2", 0]),
            }
        )
        run.wait_for_text("running", node="2")
        (task,) = comfyui.get("/xalora/tasks").json()["tasks"]
        assert task["state"] == "submitted"
        ballast = disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert run.wait().status == "error"
        while not window.messages.empty():
            window.messages.get()
        ballast.unlink()
        until = time.monotonic() + 60
        while True:
            _, message = window.messages.get(timeout=max(0.1, until - time.monotonic()))
            rows = [row for row in message["tasks"] if row["id"] == task["id"]]
            if rows and rows[0]["state"] == "finished":
                break
        (row,) = comfyui.get("/xalora/tasks").json()["tasks"]
        assert (row["state"], "resume" in row["actions"]) == ("finished", True)
        window.close()
        comfyui.stop()
