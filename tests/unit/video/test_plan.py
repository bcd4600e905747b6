"""Which frames of a clip are tasks, where its segments end, and which results may go."""

from __future__ import annotations

from random import Random

from xalora_client.video.plan import (
    SEGMENT_FRAMES,
    ClipPlan,
    MadeFrame,
    counts,
    cut,
    in_proportion,
)


def plan(digests: str, *stops: int) -> ClipPlan:
    starts = (0, *stops)
    return ClipPlan(
        tuple(digests), tuple(range(a, b) for a, b in zip(starts, (*stops, len(digests)), strict=True))
    )


def test_each_content_is_one_task() -> None:
    clip = plan("aabbacc", 3)
    assert clip.distinct == 3
    assert [clip.is_first(frame) for frame in range(7)] == [True, False, True, False, False, True, False]


def test_what_is_left_is_what_later_frames_need() -> None:
    clip = plan("aabbacc", 3)
    assert [len(clip.needed_from(start)) for start in (0, 3, 4, 5, 7)] == [3, 3, 2, 1, 0]


def test_a_result_goes_with_the_segment_of_its_last_frame() -> None:
    clip = plan("aabbacc", 3, 5)
    assert [clip.done_with(segment) for segment in clip.segments] == [[], ["b", "a"], ["c"]]


def test_each_result_goes_exactly_once() -> None:
    draw = Random(3)
    for _ in range(200):
        count = draw.randint(1, 40)
        digests = "".join(draw.choice("abcdefgh") for _ in range(count))
        stops = sorted(draw.sample(range(1, count), min(count - 1, draw.randint(0, 5)))) if count > 1 else []
        clip = plan(digests, *stops)
        gone = [digest for segment in clip.segments for digest in clip.done_with(segment)]
        assert sorted(gone) == sorted(set(digests))


def test_segments_are_two_seconds_long() -> None:
    assert cut([frame / 25 for frame in range(120)]) == (range(50), range(50, 100), range(100, 120))


def test_segments_of_many_frames_are_shorter() -> None:
    segments = cut([frame / 240 for frame in range(250)])
    assert [len(segment) for segment in segments] == [
        SEGMENT_FRAMES,
        SEGMENT_FRAMES,
        250 - 2 * SEGMENT_FRAMES,
    ]


def test_a_single_frame_is_a_segment() -> None:
    assert cut([0.0]) == (range(1),)


def test_how_many_frames_each_engine_made() -> None:
    made = [MadeFrame(0, "xalora"), MadeFrame(1, "ncnn"), MadeFrame(2, "xalora")]
    assert counts(made) == {"xalora": 2, "ncnn": 1}


def test_a_result_in_the_proportions_of_its_frame() -> None:
    for given, made in [((96, 64), (192, 128)), ((1920, 1080), (7680, 4320)), ((97, 65), (146, 98))]:
        assert in_proportion(given, made)
    assert in_proportion((1, 95), (4, 380))
    for given, made in [((96, 64), (70, 50)), ((96, 64), (128, 192)), ((1920, 1080), (3840, 2176))]:
        assert not in_proportion(given, made)
