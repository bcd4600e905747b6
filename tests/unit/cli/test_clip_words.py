"""The words of a clip's bar, and what counts as a clip."""

from __future__ import annotations

from pathlib import Path

import pytest
from video_files import moving_photograph, write_video

from xalora_client.cli.clips import clips_among, plan_for_clips, words_of
from xalora_client.cli.destinations import Output
from xalora_client.video.report import VideoProgress


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (VideoProgress(stage="reading", frames=1500, done=32), "reading · 32 of 1,500 frames"),
        (
            VideoProgress(
                stage="upscaling", frames=1500, tasks=1412, done=512, in_flight=8, seconds_left=200.4
            ),
            "512 of 1,500 frames · 8 tasks in flight · about 3 min 20 s left",
        ),
        (VideoProgress(stage="upscaling", frames=1, tasks=1, in_flight=1), "0 of 1 frame · 1 task in flight"),
        (
            VideoProgress(stage="joining", frames=900, tasks=800, done=900),
            "writing · 900 of 900 frames",
        ),
    ],
)
def test_words(progress: VideoProgress, words: str) -> None:
    assert words_of(progress) == words


def test_clips_are_known_by_their_content(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", moving_photograph(2))
    renamed = clip.rename(tmp_path / "holiday")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    picture = tmp_path / "picture.mp4"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    named = [*map(str, (renamed, broken, picture)), "https://example.org/clip.mp4", "-", str(tmp_path)]
    assert clips_among(named) == [str(renamed), str(broken)]


@pytest.mark.parametrize(
    ("source", "output", "place"),
    [
        ("a/clip.mp4", None, "a/clip.xalora.mp4"),
        ("a/clip.MOV", None, "a/clip.xalora.mov"),
        ("a/clip.webm", None, "a/clip.xalora.mp4"),
        ("a/clip.mkv", "big.mp4", "big.mp4"),
        ("a/clip.mkv", "folder/", "folder/clip.xalora.mkv"),
    ],
)
def test_where_clips_go(source: str, output: str | None, place: str) -> None:
    (destination,) = plan_for_clips([source], Output(output))
    assert destination.path.as_posix() == place and destination.exact
