"""Kinds of media, told from real encoders' bytes."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from xalora_client.media.media_types import MediaKind, sniff, sniff_file


def encoded_image(format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, format_name, **options)
    return buffer.getvalue()


def encoded_video(path: Path, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def animation(format_name: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format_name, save_all=True, append_images=frames[1:], duration=40)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "suffix", "is_video"),
    [
        (encoded_image("PNG"), MediaKind.PNG, ".png", False),
        (encoded_image("JPEG"), MediaKind.JPEG, ".jpg", False),
        (encoded_image("WEBP"), MediaKind.WEBP, ".webp", False),
        (encoded_image("WEBP", lossless=True), MediaKind.WEBP, ".webp", False),
        # An extended WebP that is no animation: its header has flags, and the animation's is off.
        (encoded_image("WEBP", icc_profile=b"a" * 128), MediaKind.WEBP, ".webp", False),
        (animation("WEBP"), MediaKind.ANIMATED_WEBP, ".webp", True),
        (animation("GIF"), MediaKind.GIF, ".gif", False),
        (animation("PNG"), MediaKind.APNG, ".png", True),
    ],
)
def test_images_are_told_by_content(data: bytes, kind: MediaKind, suffix: str, is_video: bool) -> None:
    assert sniff(data) is kind
    assert kind.suffix == suffix
    assert kind.is_video is is_video


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [
        ("a.mp4", "libx264", MediaKind.MP4),
        ("a.mov", "libx264", MediaKind.MP4),
        ("a.webm", "vp9", MediaKind.WEBM),
    ],
)
def test_videos_are_told_by_content(tmp_path: Path, name: str, codec: str, kind: MediaKind) -> None:
    path = encoded_video(tmp_path / name, "libvpx-vp9" if codec == "vp9" else codec)
    assert sniff_file(path) is kind
    assert kind.is_video


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html><html>not found</html>",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"\x00\x00\x00\x1cftypavif" + bytes(64),
        b"\x00\x00\x00\x18ftypheic" + bytes(64),
        b"\x00\x00\x00\x1cftypM4A \x00\x00\x02\x00M4A isommp42" + bytes(64),
        encoded_image("BMP"),
        encoded_image("TIFF"),
    ],
)
def test_anything_else_is_no_kind(data: bytes) -> None:
    assert sniff(data) is None


def test_media_types_are_what_servers_expect() -> None:
    assert {kind: kind.media_type for kind in MediaKind} == {
        MediaKind.PNG: "image/png",
        MediaKind.APNG: "image/png",
        MediaKind.JPEG: "image/jpeg",
        MediaKind.WEBP: "image/webp",
        MediaKind.ANIMATED_WEBP: "image/webp",
        MediaKind.GIF: "image/gif",
        MediaKind.MP4: "video/mp4",
        MediaKind.WEBM: "video/webm",
    }
