"""The bar and the line of the node that upscales a video."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xalora_client.video.report import UpscaledVideo, VideoProgress


@pytest.fixture(scope="module")
def clip_progress(pack: ModuleType) -> ModuleType:
    return import_module(".nodes.execution.clip_progress", pack.__name__)


@pytest.mark.parametrize(
    ("progress", "cost", "line", "bar"),
    [
        (None, "", "reading the video", (0, 1)),
        ({"stage": "reading", "done": 32}, "", "reading 32/1500 frames", (32, 1500)),
        ({"tasks": 1412, "to_send": 1412}, "", "1,412 of 1,500 frames differ: 1412 tasks", (0, 1500)),
        ({"tasks": 2, "to_send": 1}, "0.02", "2 of 1,500 frames differ: 1 task, about 0.02", (0, 1500)),
        (
            {"tasks": 1412, "left": 1412, "done": 512, "made": 520, "in_flight": 8, "seconds_left": 200.4},
            "28.24",
            "512/1500 frames, 8 tasks in flight, about 3 min 20 s left",
            (512, 1500),
        ),
        ({"done": 1500, "made": 1412}, "", "1500/1500 frames", (1500, 1500)),
        ({"stage": "joining", "done": 1500}, "", "writing the video", (1500, 1500)),
    ],
)
def test_the_line_and_the_bar(
    clip_progress: ModuleType, progress: dict[str, Any] | None, cost: str, line: str, bar: tuple[int, int]
) -> None:
    shown = clip_progress.ClipProgress()
    if progress is not None:
        shown.note(VideoProgress(**{"stage": "upscaling", "frames": 1500, **progress}), cost)
    assert (shown.line(0.0), shown.bar(0.0)) == (line, bar)


def test_what_stays_on_the_node(clip_progress: ModuleType) -> None:
    made = UpscaledVideo(
        path=Path("x.mp4"), width=192, height=128, frames=24, tasks=12, sent=12, engines={"xalora": 12}
    )
    assert clip_progress.summary(made, 3.21) == "192 x 128, 24 frames in 3.2 s by xalora"
    mixed = UpscaledVideo(
        **{**vars(made), "engines": {"xalora": 10, "ncnn": 2}, "notes": ("It has 10 bits.",)}
    )
    assert clip_progress.summary(mixed, 70) == (
        "192 x 128, 24 frames in 1 min 10 s: 10 by xalora, 2 by ncnn; It has 10 bits"
    )
