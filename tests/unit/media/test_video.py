"""Videos as numpy: against a plain decode of the same file, by ranges, and truncated."""

from __future__ import annotations

import importlib.util
import struct
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from xalora_client.errors import STILL_RETRIEVABLE, ResultFormatError
from xalora_client.media.media_types import MediaKind, sniff_file
from xalora_client.media.validation import check_complete
from xalora_client.media.video import open_video

_skimage = importlib.util.find_spec("skimage")
assert _skimage is not None and _skimage.origin is not None
PHOTOS = Path(_skimage.origin).parent / "data"


def moving_photo(count: int, width: int = 160, height: int = 96) -> list[npt.NDArray[np.uint8]]:
    """A window that moves over a photograph, every frame different."""
    with Image.open(PHOTOS / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    return [pixels[place : place + height, 2 * place : 2 * place + width] for place in range(count)]


def encode(
    path: Path,
    frames: list[npt.NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    times: list[int] | None = None,
    rate: int = 24,
    options: dict[str, str] | None = None,
    movflags: str = "",
    audio: bool = False,
) -> Path:
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": "10", "bf": "2", **(options or {})}
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=44100) if audio else None
        for place, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[place], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
            tone.sample_rate = 44100
            container.mux(sound.encode(tone))
            container.mux(sound.encode(None))
    return path


def plain_decode(path: Path) -> npt.NDArray[np.float32]:
    """What ComfyUI makes of a video: every frame to RGB, stacked, divided."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_photo(45))


def test_the_facts_of_a_file(clip: Path, tmp_path: Path) -> None:
    video = open_video(clip)
    assert (video.width, video.height, video.frame_count) == (160, 96, 45)
    assert video.fps == 24
    assert video.duration == pytest.approx(45 / 24)
    assert video.has_audio is False
    assert video.path == clip
    with_sound = encode(tmp_path / "sound.mp4", moving_photo(5), audio=True)
    assert open_video(str(with_sound)).has_audio is True


def test_all_frames_equal_a_plain_decode(clip: Path) -> None:
    frames = open_video(clip).frames()
    assert frames.dtype == np.float32
    assert np.array_equal(frames, plain_decode(clip))


@pytest.mark.parametrize("codec", ["libx264", "libvpx", "libvpx-vp9", "mpeg4"])
def test_every_range_is_that_part_of_all_frames(codec: str, tmp_path: Path) -> None:
    container = "mp4" if codec in {"libx264", "mpeg4"} else "webm"
    options = {"bf": "0"} if container == "webm" else {}
    path = encode(tmp_path / f"a.{container}", moving_photo(33), codec=codec, options=options)
    everything = plain_decode(path)
    video = open_video(path)
    assert video.frame_count == 33
    for start, stop in [
        (0, 5),
        (7, 12),
        (9, 11),
        (10, 20),
        (19, 33),
        (32, None),
        (-3, None),
        (5, -20),
        (0, 99),
    ]:
        assert np.array_equal(video.frames(start, stop), everything[start:stop]), (start, stop)
    for start, stop in [(33, None), (12, 12), (20, 10)]:
        assert video.frames(start, stop).shape == (0, 96, 160, 3)


@pytest.mark.parametrize(
    "options", [{"x264-params": "open-gop=1:keyint=8:bframes=3"}, {"g": "1"}, {"g": "999"}]
)
def test_ranges_hold_for_every_structure_of_key_frames(options: dict[str, str], tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", moving_photo(30), options=options)
    everything = plain_decode(path)
    video = open_video(path)
    for start in range(30):
        assert np.array_equal(video.frames(start, start + 2), everything[start : start + 2]), start


def test_a_range_decodes_only_from_its_key_frame(clip: Path, tmp_path: Path) -> None:
    # Destroy the first group of pictures: a range behind it never touches it.
    with av.open(str(clip)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    second_key = [p for p in packets if p.is_keyframe][1]
    data = bytearray(clip.read_bytes())
    for packet in packets:
        if packet.dts < second_key.dts:
            data[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    assert np.array_equal(open_video(damaged).frames(10, 20), plain_decode(clip)[10:20])
    with pytest.raises(ResultFormatError):
        open_video(damaged).verify()


def test_varying_frame_rates_keep_every_frame(tmp_path: Path) -> None:
    times = [0, 40, 80, 400, 410, 900, 1000, 1333, 1366, 2000]
    path = encode(tmp_path / "a.mp4", moving_photo(10), times=times)
    video = open_video(path)
    assert video.frame_count == 10
    assert np.array_equal(video.frames(), plain_decode(path))
    assert np.array_equal(video.frames(5, 8), plain_decode(path)[5:8])
    assert video.fps == pytest.approx(10 / video.duration, rel=0.01)


def test_the_array_is_all_that_numpy_holds(clip: Path) -> None:
    video = open_video(clip)
    video.frames(0, 1)
    tracemalloc.start()
    try:
        frames = video.frames()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.05 * frames.nbytes


# --- turned -----------------------------------------------------------------------------------------------

# a b c d of a display matrix, and what players make of a frame.
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[Any], Any]]] = {
    "not at all": ((1, 0, 0, 1), lambda frames: frames),
    "a quarter clockwise": ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, (1, 2))),
    "half": ((-1, 0, 0, -1), lambda frames: np.rot90(frames, 2, (1, 2))),
    "a quarter counterclockwise": ((0, -1, 1, 0), lambda frames: np.rot90(frames, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
    "mirrored and a quarter": ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
}


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """An MP4 with this display matrix in its track header."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (part << 16 for part in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", TURNS)
def test_a_video_stands_upright(name: str, tmp_path: Path) -> None:
    matrix, upright = TURNS[name]
    path = encode(tmp_path / "a.mp4", moving_photo(12))
    expected = upright(plain_decode(path))
    video = open_video(turned(path, matrix))
    assert np.array_equal(video.frames(), expected)
    assert np.array_equal(video.frames(3, 7), expected[3:7])
    assert (video.height, video.width) == expected.shape[1:3]
    video.verify()


# --- truncated and damaged --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["moov last", "moov first", "fragmented", "webm"])
def whole_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    if request.param == "webm":
        return encode(folder / "a.webm", moving_photo(20), codec="libvpx-vp9", options={"bf": "0"})
    movflags = {"moov last": "", "moov first": "faststart", "fragmented": "frag_keyframe+empty_moov"}
    return encode(folder / "a.mp4", moving_photo(20), movflags=movflags[request.param])


def read_in_full(path: Path) -> None:
    video = open_video(path)
    video.verify()


def test_a_whole_file_passes(whole_file: Path) -> None:
    read_in_full(whole_file)
    kind = sniff_file(whole_file)
    assert kind is not None
    check_complete(whole_file, kind)


@pytest.mark.parametrize("share", [0.002, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])
def test_a_truncated_video_is_noticed(whole_file: Path, share: float, tmp_path: Path) -> None:
    data = whole_file.read_bytes()
    cut = tmp_path / whole_file.name
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ResultFormatError, match=whole_file.name) as caught:
        read_in_full(cut)
    assert caught.value.money == STILL_RETRIEVABLE


@pytest.mark.parametrize("movflags", ["", "faststart"])
@pytest.mark.parametrize("box", [b"moov", b"mdat"])
def test_a_cut_in_either_box_is_noticed(box: bytes, movflags: str, tmp_path: Path) -> None:
    data = encode(tmp_path / "whole.mp4", moving_photo(20), movflags=movflags).read_bytes()
    start = data.index(box) - 4
    size = int.from_bytes(data[start : start + 4], "big")
    cut = tmp_path / "cut.mp4"
    for end in (start + 8, start + size // 2, start + size - 1):
        cut.write_bytes(data[:end])
        with pytest.raises(ResultFormatError):
            read_in_full(cut)


def test_missing_samples_behind_whole_boxes_are_noticed(tmp_path: Path) -> None:
    data = bytearray(encode(tmp_path / "whole.mp4", moving_photo(20), movflags="faststart").read_bytes())
    start = data.index(b"mdat") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    data[start : start + 4] = (size // 2).to_bytes(4, "big")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: start + size // 2])
    with pytest.raises(ResultFormatError):
        read_in_full(cut)
    with pytest.raises(ResultFormatError):
        open_video(cut).frames()


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for data in (
        b"",
        b"<html></html>",
        b"\x00\x00\x00\x18ftypisom" + bytes(500),
        b"\x1a\x45\xdf\xa3" + bytes(50),
    ):
        path.write_bytes(data)
        with pytest.raises(ResultFormatError):
            open_video(path)
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path / "missing.mp4")


def test_the_colours_of_a_video_are_read_as_it_says(tmp_path: Path) -> None:
    """High definition is BT.709, which PyAV before 17 takes for BT.601."""
    colour = np.full((64, 64, 3), (200, 60, 30), np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = 1
        frame = av.VideoFrame.from_ndarray(colour, format="rgb24").reformat(
            format="yuv420p", src_color_range="JPEG", dst_color_range="MPEG", dst_colorspace="ITU709"
        )
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(open_video(tmp_path / "a.mp4").frames() * 255 - colour).max() <= 4


def test_only_usual_codecs_are_decoded(tmp_path: Path) -> None:
    file = tmp_path / "rare.mp4"
    encode(file, moving_photo(3), codec="mpeg2video")
    check_complete(file, MediaKind.MP4)
    with pytest.raises(ResultFormatError, match="codec mpeg2video is not one of those"):
        open_video(file)
