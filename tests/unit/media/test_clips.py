"""Clips read frame by frame, written in segments, and joined: times, sound, colours and turns stay."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from time import sleep
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from video_files import TICKS, moving_photograph, played, track, write_video

from xalora_client.errors import ConfigurationError, InputImageError
from xalora_client.media import workers
from xalora_client.media.clip_writer import SegmentWriter, check_output, join
from xalora_client.media.clips import Clip, open_clip

FRAMES = 30
UNEVEN = [512 * place + 100 * (place % 3) for place in range(FRAMES)]


def rewritten(clip: Clip, output: Path, *, at: tuple[int, ...] = (0, 13, 20)) -> Path:
    """The clip at twice its size, through segments that begin at these frames."""
    frames = clip.frames()
    segments = []
    for start, stop in zip(at, (*at[1:], clip.frame_count), strict=True):
        segment = output.with_name(f"segment-{start}.mp4")
        with SegmentWriter(segment, clip.time_base, Fraction(25), clip.colours, clip.aspect) as writer:
            for place in range(start, stop):
                writer.write(next(frames).repeat(2, axis=0).repeat(2, axis=1), clip.times[place])
            writer.finish()
        segments.append(segment)
    join(segments, clip, output, lambda: False)
    return output


@pytest.mark.parametrize(
    ("source", "output", "how"),
    [
        ("plain.mp4", "out.mp4", {}),
        ("uneven.mp4", "out.mp4", {"times": UNEVEN}),
        ("late.mp4", "out.mp4", {"times": [6401 + time for time in UNEVEN]}),
        ("phone.mov", "out.mov", {"turn": 90}),
        ("matroska.mkv", "out.mkv", {}),
        ("web.webm", "out.mp4", {"codec": "libvpx-vp9", "sound": "libopus", "time_base": Fraction(1, 1000)}),
        (
            "film.mp4",
            "out.mp4",
            {"time_base": Fraction(1, 24000), "times": [1001 * n for n in range(FRAMES)]},
        ),
        ("silent.mp4", "out.mp4", {"sound": None}),
    ],
)
def test_times_and_sound_stay_as_they_are(
    tmp_path: Path, source: str, output: str, how: dict[str, Any]
) -> None:
    path = write_video(tmp_path / source, moving_photograph(FRAMES), **how)
    made = rewritten(open_clip(path), tmp_path / output)
    before, after = track(path, "video"), track(made, "video")
    assert after.times == before.times
    # PyAV 17 does not tell Matroska how long the last frame lasts.
    if (output, av.__version__.split(".")[0]) != ("out.mkv", "17"):
        assert after.last == before.last
    if how.get("sound", "aac") is not None:
        assert track(made, "audio") == track(path, "audio")


@pytest.mark.parametrize(
    "colours", [(1, 1, 1, 1), (6, 6, 6, 1), (5, 5, 6, 2), (9, 9, 16, 1), (2, 2, 2, 1), (2, 2, 2, 2)]
)
def test_colours_are_the_same_by_the_tags_and_to_the_eye(tmp_path: Path, colours: Any) -> None:
    frames = moving_photograph(8)
    full = {"pixel_format": "yuvj420p"} if colours[3] == 2 else {}
    path = write_video(tmp_path / "clip.mp4", frames, colours=colours, sound=None, **full)
    clip = open_clip(path)
    made = rewritten(clip, tmp_path / "out.mp4", at=(0,))
    again = open_clip(made)
    # PyAV 17, the last one for Python 3.10, can't write by BT.2020's matrix.
    matrix = 1 if colours[0] == 9 and not hasattr(Colorspace, "BT2020") else colours[0]
    assert (again.colours.matrix, again.colours.primaries, again.colours.transfer) == (matrix, *colours[1:3])
    assert (again.colours.range == 2) == (colours[3] == 2)
    for before, after in zip(clip.frames(), again.frames(), strict=True):
        difference = after[::2, ::2].astype(int) - before
        assert np.abs(difference).mean() < 2.5
        # FFmpeg's usual rounding would make each clip darker, by more than a step. In full range it cuts off
        # the halves of colours, to RGB as well as from it.
        assert np.abs(difference.mean(axis=(0, 1))).max() < (0.5 if colours[3] == 1 else 1.3)


def test_a_clip_that_holds_rgb_becomes_what_players_expect(tmp_path: Path) -> None:
    frames = moving_photograph(4)
    path = write_video(tmp_path / "clip.mp4", frames, codec="libx264rgb", pixel_format="rgb24", sound=None)
    clip = open_clip(path)
    assert clip.colours.matrix == 0
    again = open_clip(rewritten(clip, tmp_path / "out.mp4", at=(0,)))
    assert (again.colours.matrix, again.colours.range == 2) == (1, False)
    for before, after in zip(clip.frames(), again.frames(), strict=True):
        # Half the resolution of colours goes, and no colour shifts.
        difference = after[::2, ::2].astype(int) - before
        assert np.abs(difference).mean() < 4
        assert np.abs(difference.mean(axis=(0, 1))).max() < 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_clip_becomes_upright(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_photograph(6), turn=degrees, aspect=Fraction(4, 3))
    clip = open_clip(path)
    assert (clip.width, clip.height) == ((96, 64) if degrees == 180 else (64, 96))
    made = rewritten(clip, tmp_path / "out.mp4", at=(0,))
    upright = [np.rot90(frame, degrees // -90) for frame in played(path)]
    for before, after in zip(upright, played(made), strict=True):
        assert np.abs(after[::2, ::2].astype(int) - before).mean() < 3
    assert open_clip(made).aspect == (Fraction(4, 3) if degrees == 180 else Fraction(3, 4))


def test_a_clip_of_10_bits_says_so(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mp4", moving_photograph(4), codec="libx265", pixel_format="yuv420p10le"
    )
    assert open_clip(path).bits == 10


def test_frames_from_the_middle_are_the_same(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mp4", moving_photograph(FRAMES), times=UNEVEN))
    every = list(clip.frames())
    for start in (1, 11, 12, 13, 29):
        rest = list(clip.frames(start))
        assert len(rest) == FRAMES - start
        assert all(np.array_equal(a, b) for a, b in zip(rest, every[start:], strict=True))


def test_a_reader_that_takes_its_time_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mp4", moving_photograph(FRAMES, 640, 480)))
    monkeypatch.setattr(workers, "BASE_SECONDS", 1.0)
    frames = clip.frames()
    next(frames)
    # Longer than a worker may be at work: the deadline's own watch ends it meanwhile, or does not.
    sleep(1.5)
    assert len(list(frames)) == FRAMES - 1


def test_a_clip_that_ends_early_is_refused_before_anything_is_made_of_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_photograph(FRAMES))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputImageError, match=r"clip\.mp4"):
        open_clip(path)


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(InputImageError, match="no MP4"):
        open_clip(tmp_path / "clip.mp4")


@pytest.mark.parametrize(("name", "words"), [("out.avi", "no format"), ("out", "no format")])
def test_an_output_that_does_not_fit_is_refused(tmp_path: Path, name: str, words: str) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mkv", moving_photograph(4), sound="wavpack"))
    with pytest.raises(ConfigurationError, match=words):
        check_output(clip, tmp_path / name)


def test_sound_that_the_container_can_not_hold_is_told_before_anything_is_paid(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mkv", moving_photograph(4), sound="wavpack"))
    with pytest.raises(ConfigurationError, match="wavpack") as caught:
        check_output(clip, tmp_path / "out.mp4")
    assert ".mkv" in caught.value.next_step
    check_output(clip, tmp_path / "out.mkv")


def test_a_segment_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mp4", moving_photograph(4)))
    folder = tmp_path / "folder"
    folder.mkdir()
    with SegmentWriter(
        folder / "s.mp4", Fraction(1, TICKS), Fraction(25), clip.colours, clip.aspect
    ) as writer:
        writer.write(next(clip.frames()), 0)
    assert not list(folder.iterdir())


def test_odd_sides_are_padded(tmp_path: Path) -> None:
    with SegmentWriter(
        tmp_path / "s.mp4", Fraction(1, TICKS), Fraction(25), open_colours(tmp_path), Fraction(0)
    ) as writer:
        writer.write(moving_photograph(1, 31, 21)[0], 0)
        writer.finish()
    assert played(tmp_path / "s.mp4")[0].shape == (22, 32, 3)


def open_colours(folder: Path) -> Any:
    return open_clip(write_video(folder / "small.mp4", moving_photograph(2))).colours
