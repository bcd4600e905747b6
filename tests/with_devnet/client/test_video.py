"""Clips through the devnet: tasks, files, resuming, failures, cancels, limits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from disks import resize, small_file_system
from PIL import Image
from video_files import moving_photograph, played, track, write_video

from xalora_client import (
    AsyncXalora,
    ConfigurationError,
    DailyLimitError,
    InputImageError,
    ResultSaveError,
    TaskFailedError,
    UpscalerTask,
    Xalora,
    XaloraError,
)
from xalora_client.client import HostOptions
from xalora_client.devnet import Devnet, DevnetThread
from xalora_client.devnet.engines import DefaultEngine, MinerTask
from xalora_client.media import limits
from xalora_client.media.clips import open_clip
from xalora_client.media.png_encode import encode_png
from xalora_client.video import frames as frame_tasks
from xalora_client.video import plan as rules
from xalora_client.video.report import VideoProgress

Resampling = Image.Resampling


def clip_of(folder: Path, count: int = 24, **how: Any) -> Path:
    return write_video(folder / "clip.mp4", moving_photograph(count), lossless=True, **how)


def assert_doubled(clip: Path, made: Path) -> None:
    """Each frame is what a miner of the devnet makes of the clip's, but for H.264's loss."""
    before, after = list(open_clip(clip).frames()), played(made)
    assert len(before) == len(after)
    for small, large in zip(before, after, strict=True):
        expected = Image.fromarray(small).resize((large.shape[1], large.shape[0]), Resampling.LANCZOS)
        assert np.abs(np.asarray(expected).astype(int) - large).mean() < 3


def kept_files(client: AsyncXalora) -> list[Path]:
    return [path for path in client.journal.results.root.glob("*") if path.is_file()]


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SEGMENT_FRAMES", 5)


def heard() -> tuple[list[VideoProgress], Callable[[VideoProgress], None]]:
    told: list[VideoProgress] = []
    return told, told.append


async def test_each_frame_that_differs_is_a_task(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_photograph(24, hold=2), lossless=True)
    told, listener = heard()
    async with Devnet(miners=4) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        made = await client.upscale_video(clip, tmp_path / "out.mp4", on_progress=listener)
        assert devnet.stats()["creates"] == 12
        assert not kept_files(client)
        assert not list((client.settings.state_dir / "videos").iterdir())
    assert (made.frames, made.tasks, made.sent, made.engines) == (24, 12, 12, {"xalora": 12})
    assert (made.width, made.height) == (192, 128)
    assert_doubled(clip, made.path)
    assert track(made.path, "audio") == track(clip, "audio")
    assert track(made.path, "video").times == track(clip, "video").times
    before = next(each for each in told if each.stage == "upscaling")
    assert (before.tasks, before.left, before.frames, before.in_flight, before.done) == (12, 12, 24, 0, 0)
    assert before.to_send == 12
    assert max(each.in_flight for each in told) <= 8
    assert told[-1].stage == "joining" and told[-1].done == 24


async def test_frames_that_come_again_are_one_task(tmp_path: Path, short_segments: None) -> None:
    frames = moving_photograph(8)
    clip = write_video(tmp_path / "clip.mp4", [*frames, *frames, *frames], lossless=True)
    async with Devnet(miners=4) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        made = await client.upscale_video(clip, tmp_path / "out.mp4")
        assert devnet.stats()["creates"] == made.tasks == 8
    assert_doubled(clip, made.path)


async def test_results_are_kept_until_their_segment_is_written(tmp_path: Path, short_segments: None) -> None:
    clip, most = clip_of(tmp_path, 40), 0
    async with Devnet(miners=4) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:

        def look(progress: VideoProgress) -> None:
            nonlocal most
            most = max(most, len(kept_files(client)))
            assert progress.in_flight <= 3

        await client.upscale_video(clip, tmp_path / "out.mp4", max_in_flight=3, on_progress=look)
    # Those of a segment, the frames begun beyond it, and downloads that get their lasting name.
    assert 0 < most <= 5 + 2 * 3 + 5 + 3


async def test_a_cancelled_call_ends_soon_and_goes_on_where_it_was(
    tmp_path: Path, short_segments: None
) -> None:
    clip = clip_of(tmp_path, 30)
    async with Devnet(miners=4, task_seconds=0.1) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url) as client:
            enough = asyncio.Event()
            running = asyncio.ensure_future(
                client.upscale_video(
                    clip,
                    tmp_path / "out.mp4",
                    on_progress=lambda told: enough.set() if told.done >= 11 and told.in_flight else None,
                )
            )
            await enough.wait()
            began = monotonic()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            took = monotonic() - began
            finished = devnet.stats()["tasks"]["finished"]
        assert took < 3 + 1, "beside other programs"
        assert finished >= 11
        async with AsyncXalora(devnet.api_key, devnet.url) as client:
            made = await client.upscale_video(clip, tmp_path / "out.mp4")
        stats = devnet.stats()["tasks"]
    # Each frame was made once; only what was canceled was asked for again.
    assert stats["finished"] == made.tasks == 30
    assert_doubled(clip, made.path)


async def test_a_frame_that_fails_is_sent_again(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 10)
    async with Devnet(miners=1, faults=["miner:failed:n=4,5"]) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url) as client:
            made = await client.upscale_video(clip, tmp_path / "out.mp4", max_in_flight=1)
        assert devnet.stats()["creates"] == made.sent == 12
    assert made.resent == (3,)
    assert_doubled(clip, made.path)


async def test_a_frame_that_fails_for_good_ends_the_call_and_keeps_the_others(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 12)
    async with Devnet(miners=1, faults=["miner:failed:n=4,5,6"]) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url) as client:
            with pytest.raises(TaskFailedError, match=r"Frame 4 of clip.mp4 3 times") as caught:
                await client.upscale_video(clip, tmp_path / "out.mp4", max_in_flight=1)
            assert caught.value.task_id
            assert not (tmp_path / "out.mp4").exists()
            made = await client.upscale_video(clip, tmp_path / "out.mp4")
        assert devnet.stats()["creates"] == 12 + 3
    assert_doubled(clip, made.path)


async def test_what_is_under_way_as_a_frame_fails_is_awaited_and_kept(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 8)
    async with Devnet(miners=4, faults=["miner:failed:n=1,5,6,7,8,9,10,11,12"], task_seconds=0.2) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url) as client:
            with pytest.raises(TaskFailedError):
                await client.upscale_video(clip, tmp_path / "out.mp4", max_in_flight=4)
            assert devnet.stats()["tasks"]["canceled"] == 0
            devnet.clear_faults()
            finished = devnet.stats()["tasks"]["finished"]
            made = await client.upscale_video(clip, tmp_path / "out.mp4")
        assert finished >= 1
        assert devnet.stats()["tasks"]["finished"] == made.tasks == 8


async def test_frames_that_this_machine_makes_are_told_and_kept(tmp_path: Path, short_segments: None) -> None:
    clip = clip_of(tmp_path, 12)
    async with Devnet(miners=1, faults=["miner:failed:n=2,12"]) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url, upscale_model="lanczos") as client:
            made = await client.upscale_video(
                clip, tmp_path / "out.mp4", max_in_flight=1, fallback="on_any_failure"
            )
        assert devnet.stats()["creates"] == 12
    assert made.made_here == (1, 11)
    assert sum(made.engines.values()) == 12 and made.engines["xalora"] == 10
    assert_doubled(clip, made.path)


async def test_a_frame_made_here_is_not_asked_of_the_network_again(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 6)
    async with Devnet(miners=1, faults=["miner:failed:n=2,4"]) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url, upscale_model="lanczos") as client:
            enough = asyncio.Event()
            running = asyncio.ensure_future(
                client.upscale_video(
                    clip,
                    tmp_path / "out.mp4",
                    max_in_flight=1,
                    fallback="on_any_failure",
                    on_progress=lambda told: enough.set() if told.done == 3 else None,
                )
            )
            await enough.wait()
            running.cancel()
            await asyncio.wait({running})
            before = devnet.stats()["tasks"]
            made = await client.upscale_video(clip, tmp_path / "out.mp4", fallback="on_any_failure")
        after = devnet.stats()["tasks"]
    assert 1 in made.made_here
    assert after["finished"] + len(made.made_here) == 6
    assert after["failed"] - before["failed"] <= len(made.made_here) - 1


async def test_with_one_engine_for_all_a_failure_of_the_network_is_no_change_of_engine(
    tmp_path: Path,
) -> None:
    clip = clip_of(tmp_path, 6)
    options: dict[str, Any] = {"same_engine": True, "fallback": "on_any_failure", "max_in_flight": 1}
    async with (
        Devnet(miners=1, faults=["miner:failed:n=3,4,5"]) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, upscale_model="lanczos") as client,
    ):
        with pytest.raises(TaskFailedError, match="Frame 3"):
            await client.upscale_video(clip, tmp_path / "out.mp4", **options)
        made = await client.upscale_video(clip, tmp_path / "out.mp4", **options)
    assert made.engines == {"xalora": 6}


async def test_with_one_engine_for_all_the_first_frame_decides(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 6)
    async with Devnet(miners=2, faults=["task_create:503:retry_after=1:n=1"]) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url, upscale_model="lanczos", max_retries=0) as client:
            made = await client.upscale_video(
                clip, tmp_path / "out.mp4", same_engine=True, fallback="when_unavailable"
            )
        assert devnet.stats()["creates"] == 0
    assert made.made_here == tuple(range(6)) and len(made.engines) == 1


async def test_a_second_call_that_is_answered_by_kept_results_has_sent_nothing(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 6)
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url, reuse=True) as client:
        first = await client.upscale_video(clip, tmp_path / "out.mp4")
        second = await client.upscale_video(clip, tmp_path / "other.mp4")
        assert devnet.stats()["creates"] == 6
    assert (first.sent, second.sent, second.tasks) == (6, 0, 6)


async def test_frames_that_turn_out_too_large_cost_one_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_PIXELS", 192 * 128 - 1)
    monkeypatch.setattr(frame_tasks, "SURELY_FITS", 96 * 64 - 1)
    clip = clip_of(tmp_path, 12)
    async with Devnet(miners=4) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        with pytest.raises(XaloraError, match="192x128 pixels are larger"):
            await client.upscale_video(clip, tmp_path / "out.mp4")
        assert devnet.stats()["creates"] == 1
        monkeypatch.setattr(limits, "FRAME_PIXELS", 192 * 128)
        await client.upscale_video(clip, tmp_path / "out.mp4")
        assert devnet.stats()["creates"] == 12


async def test_without_a_network_all_is_made_here(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 5)
    async with AsyncXalora(upscale_model="lanczos") as client:
        made = await client.upscale_video(clip, tmp_path / "out.mp4", fallback="local_only")
    assert made.engines.keys() <= {"ncnn", "torch", "pillow"} and made.sent == 0
    assert made.frames == 5


async def test_a_network_that_is_away_is_told_once(
    tmp_path: Path, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    clip, away = clip_of(tmp_path, 6), f"http://127.0.0.1:{unused_tcp_port}"
    async with AsyncXalora("a#b", away, upscale_model="lanczos", max_retries=0) as client:
        made = await client.upscale_video(clip, tmp_path / "out.mp4")
    assert made.made_here == tuple(range(6))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1 and "Running on this machine" in told[0]


async def test_above_the_limit_nothing_is_sent(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 12)
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        with pytest.raises(ConfigurationError, match=r"12 tasks \(12 of 12 frames differ\), and 11"):
            await client.upscale_video(clip, tmp_path / "out.mp4", max_tasks=11)
        assert devnet.stats()["endpoints"].get("task_create", 0) == 0
        await client.upscale_video(clip, tmp_path / "out.mp4", max_tasks=12)


async def test_the_limit_counts_new_tasks_alone(tmp_path: Path, short_segments: None) -> None:
    frames = moving_photograph(12)
    clip = write_video(tmp_path / "clip.mp4", frames, lossless=True)
    part = write_video(tmp_path / "part.mp4", frames[:4], lossless=True)
    told, listener = heard()

    async def upscale(source: Path, url: str, key: str, **options: Any) -> None:
        async with AsyncXalora(key, url, reuse=True) as client:
            await client.upscale_video(source, tmp_path / "out.mp4", max_in_flight=1, **options)

    async with Devnet(miners=2) as devnet:
        with pytest.raises(DailyLimitError, match="Frame 8"):
            async with AsyncXalora(devnet.api_key, devnet.url, daily_tasks=7) as client:
                await client.upscale_video(clip, tmp_path / "out.mp4", max_in_flight=1)
        # Five frames are written, and two kept. Without them it is one task too few.
        with pytest.raises(
            ConfigurationError, match=r"needs 5 tasks \(12 of 12 frames differ, 7 .* need none"
        ):
            await upscale(clip, devnet.url, devnet.api_key, max_tasks=4)
        with pytest.raises(ConfigurationError, match="needs 7 tasks"):
            await upscale(clip, devnet.url, devnet.api_key, max_tasks=5, again=True)
        assert devnet.stats()["creates"] == 7
        await upscale(clip, devnet.url, devnet.api_key, max_tasks=5, on_progress=listener)
        assert devnet.stats()["creates"] == 12
    before = next(each for each in told if each.stage == "upscaling")
    assert (before.left, before.to_send) == (7, 5)

    # Frames of another clip that are kept count neither; nor does what this machine makes.
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url, reuse=True) as client:
        await asyncio.gather(*(client.run(UpscalerTask(image=frame)) for frame in open_clip(part).frames()))
        await client.upscale_video(clip, tmp_path / "out.mp4", max_tasks=8)
        assert devnet.stats()["creates"] == 12
        for options in ({"engine": "pillow"}, {"fallback": "local_only"}):
            await client.upscale_video(part, tmp_path / "here.mp4", max_tasks=1, **options)  # type: ignore[arg-type]
        assert devnet.stats()["creates"] == 12


async def test_the_limit_of_a_day_ends_it_and_the_next_day_goes_on(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 10)
    async with Devnet(miners=2) as devnet:
        async with AsyncXalora(devnet.api_key, devnet.url, daily_tasks=6) as client:
            with pytest.raises(DailyLimitError, match="Frame 7"):
                await client.upscale_video(clip, tmp_path / "out.mp4", max_in_flight=1)
        async with AsyncXalora(devnet.api_key, devnet.url) as client:
            await client.upscale_video(clip, tmp_path / "out.mp4")
        assert devnet.stats()["creates"] == 10


async def test_another_clip_of_the_same_name_is_another(tmp_path: Path) -> None:
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        await client.upscale_video(clip_of(tmp_path, 3), tmp_path / "out.mp4")
        other = write_video(tmp_path / "clip.mp4", moving_photograph(4, 64, 64), lossless=True)
        made = await client.upscale_video(other, tmp_path / "out.mp4")
        assert (made.width, made.frames) == (128, 4)
    assert_doubled(other, made.path)


async def test_a_clip_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 6)
    other = write_video(tmp_path / "other.mp4", moving_photograph(6)[::-1], lossless=True)
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:

        def change(told: VideoProgress) -> None:
            if told.stage == "upscaling" and other.exists():
                other.replace(clip)

        with pytest.raises(InputImageError, match="was changed while"):
            await client.upscale_video(clip, tmp_path / "out.mp4", on_progress=change)
        assert devnet.stats()["creates"] == 0
        await client.upscale_video(clip, tmp_path / "out.mp4")
    assert_doubled(clip, tmp_path / "out.mp4")


async def test_a_host_names_the_clip_that_it_has_read(tmp_path: Path) -> None:
    clip, seen = clip_of(tmp_path, 3), set()
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        await client.upscale_video(
            clip,
            tmp_path / "out.mp4",
            host=HostOptions(clip_key="named"),
            on_progress=lambda _: seen.update((client.settings.state_dir / "videos").iterdir()),
        )
    assert [path.name for path in seen] == ["named"]


class OddSizes(DefaultEngine):
    """A miner's engine that gives results of another shape for these of its tasks, counted from 1."""

    def __init__(self, *odd: int) -> None:
        self._odd, self._count = odd, 0

    def run(self, task: MinerTask) -> tuple[bytes, str]:
        self._count += 1
        if self._count in self._odd:
            return encode_png(np.zeros((50, 70, 3), np.uint8)), ".png"
        return super().run(task)


@pytest.mark.parametrize("surely_fits", [rules.SEGMENT_FRAMES, 1])
async def test_a_frame_of_another_shape_is_scaled_to_the_others_also_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surely_fits: int
) -> None:
    monkeypatch.setattr(frame_tasks, "SURELY_FITS", surely_fits)
    clip = clip_of(tmp_path, 6)
    for odd in (1, 4):
        state = tmp_path / f"{odd}"
        async with (
            Devnet(miners=1, engine=OddSizes(odd)) as devnet,
            AsyncXalora(devnet.api_key, devnet.url, state_dir=state) as client,
        ):
            made = await client.upscale_video(clip, tmp_path / "out.mp4", max_in_flight=1)
        assert (made.width, made.height) == (192, 128)
        assert made.notes == ("1 frame came in another size and was scaled to the others'.",)


async def test_where_all_have_another_shape_that_is_the_videos(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 5)
    async with (
        Devnet(miners=2, engine=OddSizes(*range(1, 9))) as devnet,
        AsyncXalora(devnet.api_key, devnet.url) as client,
    ):
        made = await client.upscale_video(clip, tmp_path / "out.mp4")
    assert (made.width, made.height, made.notes) == (70, 50, ())


async def test_a_disk_that_is_full_amid_a_segment_costs_nothing_more(tmp_path: Path) -> None:
    clip, state = clip_of(tmp_path, 12), tmp_path / "state"
    state.mkdir()
    async with Devnet(miners=2) as devnet:
        with small_file_system(state / "videos", "16k") as disk:
            async with AsyncXalora(devnet.api_key, devnet.url, state_dir=state) as client:
                with pytest.raises(ResultSaveError, match="No space left") as caught:
                    await client.upscale_video(clip, tmp_path / "out.mp4")
                assert "paid for and kept" in caught.value.money
                resize(disk, "10m")
                await client.upscale_video(clip, tmp_path / "out.mp4")
        assert devnet.stats()["creates"] == 12
    assert_doubled(clip, tmp_path / "out.mp4")


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("clip.mov", "prores_ks", "yuva444p10le"), ("clip.webm", "libvpx-vp9", "yuva420p")],
)
async def test_transparency_that_is_left_out_is_told(
    tmp_path: Path, name: str, codec: str, pixel_format: str
) -> None:
    alpha = np.full((64, 96, 1), 100, np.uint8)
    frames = [np.dstack([frame, alpha]) for frame in moving_photograph(3)]
    clip = write_video(tmp_path / name, frames, codec=codec, pixel_format=pixel_format, sound=None)
    async with AsyncXalora() as client:
        made = await client.upscale_video(clip, tmp_path / "out.mp4", engine="pillow")
        assert any("transparent in parts" in note for note in made.notes)
        clip = clip_of(tmp_path, 3)
        made = await client.upscale_video(clip, tmp_path / "out.mp4", engine="pillow")
        assert made.notes == ()


async def test_two_calls_for_one_clip_do_not_mix(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 6)
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        both = [client.upscale_video(clip, tmp_path / f"{n}.mp4") for n in range(2)]
        ends = await asyncio.gather(*both, return_exceptions=True)
        assert devnet.stats()["creates"] == 6
    refused = [end for end in ends if isinstance(end, XaloraError)]
    assert len(refused) == 1 and "another call" in str(refused[0])


async def test_an_output_that_can_not_be_written_costs_nothing_more(tmp_path: Path) -> None:
    clip, out = clip_of(tmp_path, 4), tmp_path / "folder" / "out.mp4"
    async with Devnet(miners=2) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:

        def block(told: VideoProgress) -> None:
            if told.stage == "joining":
                out.parent.rename(tmp_path / "moved")

        with pytest.raises(ResultSaveError, match="can't be written"):
            await client.upscale_video(clip, out, on_progress=block)
        await client.upscale_video(clip, out)
        assert devnet.stats()["creates"] == 4
    assert_doubled(clip, out)


async def test_the_output_is_not_the_clip(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 3)
    async with AsyncXalora("a#b", "http://127.0.0.1:9") as client:
        with pytest.raises(ConfigurationError, match="the clip itself"):
            await client.upscale_video(clip, clip)
        with pytest.raises(TypeError, match="unexpected keyword"):
            await client.upscale_video(clip, tmp_path / "out.mp4", colour=1)  # type: ignore[call-arg]


async def test_records_name_the_clip_and_the_frame(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, 2)
    async with Devnet(miners=1) as devnet, AsyncXalora(devnet.api_key, devnet.url) as client:
        await client.upscale_video(clip, tmp_path / "out.mp4")
        labels = {record.work.label for record in client.journal.records()}
        assert labels == {"upscale clip.mp4, frame 1", "upscale clip.mp4, frame 2"}
        assert all(record.delivered for record in client.journal.records())


def test_without_asyncio(tmp_path: Path) -> None:
    clip, told = clip_of(tmp_path, 4), []
    threads = set()

    def listen(progress: VideoProgress) -> None:
        told.append(progress)
        threads.add(threading.current_thread())

    with DevnetThread(miners=2) as devnet, Xalora(devnet.api_key, devnet.url) as client:
        made = client.upscale_video(clip, tmp_path / "out.mp4", on_progress=listen)
    assert made.tasks == 4 and told[-1].stage == "joining"
    assert threading.main_thread() not in threads
