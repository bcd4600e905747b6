"""Result files that are kept as they came: sound, texts of known formats, and what only looks like one."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from xalora_client.media.containers import BrokenMediaError
from xalora_client.media.media_types import MediaKind
from xalora_client.media.validation import (
    TextInsteadOfResultError,
    check_complete,
    check_unknown_format,
    kind_of_result,
    suffix_of,
)


def sound(path: Path, codec: str, *, cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000)
        picture = container.add_stream("mjpeg", rate=1) if cover else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        layout = "mono"
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout=layout)
        tone.sample_rate = 48000
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=48000)
        for part in resampler.resample(tone):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.m4a", "aac"),
        ("a.mp4", "aac"),
        ("a.mov", "aac"),
        ("a.webm", "libopus"),
        ("a.mka", "aac"),
        ("a.mp3", "mp3"),
    ],
)
def test_sound_alone_is_kept_as_it_came(name: str, codec: str, tmp_path: Path) -> None:
    path = sound(tmp_path / name, codec)
    assert kind_of_result(path) is None
    check_unknown_format(path, path.suffix)
    assert suffix_of(f"https://store.example/{name}?sig=1") == path.suffix
    if path.suffix != ".mp3":
        path.write_bytes(path.read_bytes()[:-200])
        if path.suffix not in {".mka", ".webm"} or kind_of_result(path) is None:
            with pytest.raises(BrokenMediaError):
                check_unknown_format(path, path.suffix)


def test_sound_with_a_cover_is_sound(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.mp4", "aac", cover=True)
    assert kind_of_result(path) is None


def test_a_video_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert kind_of_result(path) is MediaKind.MP4
    path.write_bytes(path.read_bytes()[:-100])
    assert kind_of_result(path) is MediaKind.MP4


TEXTS = {
    "a.obj": b"# mesh\nv 0 0 0\nv 1 0 0\n",
    "b.OBJ": b"\xef\xbb\xbfmtllib a.mtl\r\nv 0 0 0\r\n",
    "a.mtl": b"newmtl red\nKd 1 0 0\n",
    "a.ply": b"ply\nformat ascii 1.0\n",
    "a.stl": b"solid cube\nfacet normal 0 0 1\n",
    "a.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "b.svg": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a.gltf": b'{"asset": {"version": "2.0"}}',
    "a.json": b'[{"pose_keypoints_2d": [1, 2]}]',
    "a.usda": b"#usda 1.0\n",
    "a.srt": b"1\n00:00:00,000 --> 00:00:01,000\nHello\n",
    "a.txt": b"A cat on a sofa.",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_the_result_is_kept_where_the_address_says_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(TEXTS[name])
    suffix = suffix_of(f"https://store.example/out/{name}?X-Amz-Signature=1")
    assert suffix == Path(name).suffix.lower()
    assert check_unknown_format(path, suffix) == suffix
    for other in (".bin", ".mp3", ".tiff"):
        with pytest.raises(TextInsteadOfResultError):
            check_unknown_format(path, other)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".svg", ".txt", ".csv", ".dae", ".gltf", ".mtl"])
@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html><body>Sign in</body></html>",
        b"<?xml version='1.0'?>\n<html xmlns='http://www.w3.org/1999/xhtml'>",
        b"<Error><Code>AccessDenied</Code></Error>",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>',
    ],
)
def test_a_page_or_an_error_is_never_taken_for_the_result(page: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(page)
    with pytest.raises(TextInsteadOfResultError):
        check_unknown_format(path, suffix)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".svg", ".txt"])
def test_json_is_no_result_of_another_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b'{"error": "no such file"}')
    with pytest.raises(TextInsteadOfResultError):
        check_unknown_format(path, suffix)


@pytest.mark.parametrize(
    ("suffix", "kept"), [(".txt", ".bin"), (".svg", ".bin"), (".ply", ".ply"), (".glb", ".glb")]
)
def test_a_binary_file_is_no_text(suffix: str, kept: str, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"ply\nformat binary_little_endian 1.0\n" + bytes(range(256)))
    assert check_unknown_format(path, suffix) == kept


@pytest.mark.parametrize(
    ("url", "suffix"),
    [
        ("data:image/svg+xml;base64,AAAA", ".svg"),
        ("data:audio/mpeg;base64,AAAA", ".mp3"),
        ("data:application/x-sh;base64,AAAA", ".bin"),
        ("data:,hello", ".bin"),
        ("https://store.example/a.exe", ".bin"),
        ("https://store.example/a.html", ".bin"),
        ("https://store.example/a", ".bin"),
        ("https://store.example/dir.obj/a.glb", ".glb"),
    ],
)
def test_the_suffix_of_a_file_that_is_kept(url: str, suffix: str) -> None:
    assert suffix_of(url) == suffix


def test_a_long_run_of_fill_bytes_in_a_jpeg_file_takes_no_time_of_its_square(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\xff" * 10**6 + b"\x00")
    with pytest.raises(BrokenMediaError, match="truncated"):
        check_complete(path, MediaKind.JPEG)
    path.write_bytes(whole[:-2] + b"\xff" * 10**6 + whole[-2:])
    check_complete(path, MediaKind.JPEG)


def test_a_jpeg_file_of_nothing_but_markers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:2] + b"\xff\xfe\x00\x02" * 200_000 + whole[2:])
    with pytest.raises(BrokenMediaError, match="segments"):
        check_complete(path, MediaKind.JPEG)
