"""Animated WebP and GIF to H.264: their pixels, their timing, and none of them when broken."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, PngImagePlugin

from xalora_client.errors import ResultFormatError
from xalora_client.media.animation import animated_webp_to_h264
from xalora_client.media.containers import BrokenMediaError
from xalora_client.media.images import count_images, decode_image, decode_images
from xalora_client.media.media_types import MediaKind, sniff_file
from xalora_client.media.result_files import open_as_video
from xalora_client.media.validation import check_complete

_skimage = importlib.util.find_spec("skimage")
assert _skimage is not None and _skimage.origin is not None
BARS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (200, 60, 30),
    (20, 120, 90),
]
PHOTOS = Path(_skimage.origin).parent / "data"


def moving_photo(count: int, width: int = 160, height: int = 96) -> list[npt.NDArray[np.uint8]]:
    """A window that moves over a photograph, every frame different."""
    with Image.open(PHOTOS / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    return [pixels[place : place + height, 2 * place : 2 * place + width] for place in range(count)]


def animation(
    path: Path, frames: list[npt.NDArray[np.uint8]], durations: int | list[int], **options: object
) -> Path:
    images = [Image.fromarray(pixels) for pixels in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, **options)
    return path


def shown_times(path: Path) -> list[float]:
    """When each frame of a video appears, and when the last one ends, in milliseconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = sorted((p for p in container.demux(stream) if p.size), key=lambda packet: packet.pts)
        milliseconds = 1000 * stream.time_base
        times = [float(p.pts * milliseconds) for p in packets]
        return [*times, float((packets[-1].pts + packets[-1].duration) * milliseconds)]


def test_an_animated_webp_becomes_h264_with_its_pixels(tmp_path: Path) -> None:
    frames = moving_photo(12)
    source = animation(tmp_path / "a.webp", frames, 40, lossless=True)
    before = source.read_bytes()
    video = animated_webp_to_h264(source, tmp_path / "a.mp4")
    assert source.read_bytes() == before
    assert sniff_file(video.path) is MediaKind.MP4
    with av.open(str(video.path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert (video.frame_count, video.fps, video.width, video.height) == (12, 25, 160, 96)
    error = np.abs(video.frames() - np.stack(frames) / 255)
    assert error.mean() < 0.015
    video.verify()
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["a.mp4", "a.webp"]


@pytest.mark.parametrize("durations", [[41] * 6, [100, 50, 41, 200, 33, 77], [1000, 20, 20, 20, 20, 3000]])
def test_each_frame_keeps_its_time(durations: list[int], tmp_path: Path) -> None:
    source = animation(tmp_path / "a.webp", moving_photo(6), durations, lossless=True)
    video = animated_webp_to_h264(source, tmp_path / "a.mp4")
    expected = [sum(durations[:place]) for place in range(7)]
    assert shown_times(video.path) == pytest.approx(expected, abs=0.5)
    assert video.duration == pytest.approx(sum(durations) / 1000, abs=0.001)
    assert video.fps == pytest.approx(6000 / sum(durations), rel=0.01)


def test_odd_sizes_are_padded_by_their_own_border(tmp_path: Path) -> None:
    frames = [pixels[:95, :159] for pixels in moving_photo(4)]
    video = animated_webp_to_h264(
        animation(tmp_path / "a.webp", frames, 50, lossless=True), tmp_path / "a.mp4"
    )
    assert (video.width, video.height) == (160, 96)
    decoded = video.frames()
    assert np.abs(decoded[:, :95, :159] - np.stack(frames) / 255).mean() < 0.015
    assert np.abs(decoded[:, -1, :] - decoded[:, -2, :]).mean() < 0.03


def test_transparency_is_put_on_black(tmp_path: Path) -> None:
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[...] = (255, 255, 255, 0)
    opaque = np.full((32, 32, 4), 255, np.uint8)
    source = animation(tmp_path / "a.webp", [clear, opaque], 100, lossless=True, exact=True)
    decoded = animated_webp_to_h264(source, tmp_path / "a.mp4").frames()
    assert decoded[0].max() < 0.03
    assert decoded[1].min() > 0.97


@pytest.mark.parametrize(("width", "height"), [(160, 96), (1280, 720)])
def test_the_video_says_how_its_colours_are_to_be_read(width: int, height: int, tmp_path: Path) -> None:
    bars = np.repeat(np.array([BARS], np.uint8), height, axis=0).repeat(width // len(BARS), axis=1)
    source = animation(tmp_path / "a.webp", [bars, bars[::-1]], 100, lossless=True)
    path = animated_webp_to_h264(source, tmp_path / "a.mp4").path
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        frame = next(container.decode(video=0))
    # ITU-T H.273: BT.709's primaries and curve, BT.601's matrix; FFmpeg's number for video range.
    tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
    assert tags == (1, 1, 6, 1)
    # A reader that takes the file at its word gets the colours that went in.
    read = frame.reformat(
        format="rgb24", src_colorspace="SMPTE170M", src_color_range="MPEG", dst_color_range="JPEG"
    )
    step = width // len(BARS)
    middles = slice(step // 2, None, step)
    assert np.abs(read.to_ndarray()[:, middles].astype(int) - bars[:, middles]).max() <= 6


def test_two_may_turn_the_same_animation_into_a_video_at_once(tmp_path: Path) -> None:
    source = animation(tmp_path / "a.webp", moving_photo(8), 50)
    with ThreadPoolExecutor(4) as threads:
        videos = list(threads.map(lambda _: animated_webp_to_h264(source, tmp_path / "a.mp4"), range(8)))
    for video in videos:
        video.verify()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mp4", "a.webp"]


def test_a_gif_and_a_still_webp_are_taken_too(tmp_path: Path) -> None:
    gif = animation(tmp_path / "a.gif", moving_photo(5), 80)
    assert shown_times(animated_webp_to_h264(gif, tmp_path / "gif.mp4").path) == [0, 80, 160, 240, 320, 400]
    still = tmp_path / "still.webp"
    Image.fromarray(moving_photo(1)[0]).save(still)
    assert animated_webp_to_h264(still, tmp_path / "still.mp4").frame_count == 1


@pytest.mark.parametrize("name", ["a.webp", "a.gif"])
def test_a_truncated_animation_is_noticed_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    whole = animation(tmp_path / name, moving_photo(6), 50).read_bytes()
    kind = sniff_file(tmp_path / name)
    assert kind is not None
    check_complete(tmp_path / name, kind)
    cut = tmp_path / f"cut-{name}"
    for share in (0.01, 0.3, 0.6, 0.99):
        cut.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ResultFormatError):
            animated_webp_to_h264(cut, tmp_path / "a.mp4")
        with pytest.raises(BrokenMediaError):
            check_complete(cut, kind)
    assert not (tmp_path / "a.mp4").exists()
    assert not (tmp_path / "a.mp4.part").exists()


def test_an_existing_video_survives_a_failed_conversion(tmp_path: Path) -> None:
    source = animation(tmp_path / "a.webp", moving_photo(3), 50)
    video = animated_webp_to_h264(source, tmp_path / "a.mp4")
    before = video.path.read_bytes()
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(ResultFormatError):
        animated_webp_to_h264(source, tmp_path / "a.mp4")
    assert video.path.read_bytes() == before


# --- PNG --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"default_image": True}], ids=["", "with a still before it"])
@pytest.mark.parametrize("text_bytes", [0, 300_000])
def test_an_animated_png_is_its_frames_and_a_video(
    options: dict[str, Any], text_bytes: int, tmp_path: Path
) -> None:
    frames = moving_photo(4)
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * text_bytes)
    stills = [np.zeros_like(frames[0]), *frames] if options else frames
    path = animation(tmp_path / "a.png", stills, [40, 80, 40, 200], pnginfo=text, **options)
    assert sniff_file(path) is MediaKind.APNG
    check_complete(path, MediaKind.APNG)
    batch = decode_images([path])
    assert np.array_equal((batch * 255).round(), np.stack(frames))
    assert np.array_equal(decode_image(path), batch[0])
    assert count_images(path) == 4
    video = open_as_video(path)
    assert (video.frame_count, video.width, video.height) == (4, 160, 96)
    assert shown_times(video.path) == [0, 40, 120, 160, 360]


def test_an_animated_png_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.png", moving_photo(4), 40)
    data = path.read_bytes()
    for length in (len(data) // 2, len(data) - 4):
        path.write_bytes(data[:length])
        with pytest.raises(BrokenMediaError):
            check_complete(path, MediaKind.APNG)


def test_an_animated_png_that_declares_frames_it_has_not_is_broken(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.png", moving_photo(3), 40)
    data = path.read_bytes()
    start = data.index(b"acTL")
    count = (1 << 31) - 1
    declared = b"acTL" + struct.pack(">II", count, 0)
    data = data[:start] + declared + struct.pack(">I", zlib.crc32(declared)) + data[start + 16 :]
    path.write_bytes(data)
    with pytest.raises(ResultFormatError, match=f"3 of {count} frames"):
        decode_images([path])
    with pytest.raises(BrokenMediaError):
        check_complete(path, MediaKind.APNG)


def test_transparency_of_an_animated_png_is_kept(tmp_path: Path) -> None:
    frames = [np.dstack([pixels, np.full(pixels.shape[:2], 90, np.uint8)]) for pixels in moving_photo(2)]
    batch = decode_images([animation(tmp_path / "a.png", frames, 40, blend=0)])
    assert np.array_equal((batch * 255).round(), np.stack(frames))


def test_one_frame_saved_as_an_animated_webp_is_a_video(tmp_path: Path) -> None:
    # Pillow, and so ComfyUI, writes a still WebP then.
    path = animation(tmp_path / "a.webp", moving_photo(1), 40, lossless=True)
    video = open_as_video(path)
    assert (video.frame_count, video.width, video.height) == (1, 160, 96)
    assert np.array_equal((decode_images([path])[0] * 255).round(), moving_photo(1)[0])
