"""What the files of a result hold: images, animations or videos, told apart by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import STILL_RETRIEVABLE, ResultFormatError
from .images import FloatImages, count_images, decode_images
from .sniff import MediaKind, sniff_file, video_made_of

if TYPE_CHECKING:
    from .video import VideoFile

_CONTAINERS = (MediaKind.MP4, MediaKind.WEBM)


def image_files(files: Sequence[Path]) -> tuple[Path, ...]:
    """The images and animations of a result; videos beside them are left out.

    Raises:
        ResultFormatError: The first file, which says what the result is, is a video, or of a format that
            nothing here reads.
    """
    _check_is_read(files[0])
    if _is_container(files[0]):
        raise ResultFormatError(
            f"The result {files[0].name} is a video, and images were wanted; Xalora Collect, or .video in "
            "Python, takes it as it is",
            money=STILL_RETRIEVABLE,
        )
    return tuple(file for file in files if sniff_file(file) not in (None, *_CONTAINERS))


def count_of(files: Sequence[Path]) -> int:
    """How many images a result's :func:`image_files` hold, each frame of an animation being one."""
    return sum(count_images(file) for file in image_files(files))


def left_out(files: Sequence[Path]) -> int:
    """How many files a result has that nothing shows: any beside a video, and videos beside images."""
    if len(files) == 1:
        return 0
    return len(files) - (1 if _is_container(files[0]) else len(image_files(files)))


def decode_files(files: Sequence[Path]) -> FloatImages:
    """All images of a result, or all frames of a video, ``[N, H, W, C]`` float32 in 0..1.

    Raises:
        ResultFormatError: The files are no images or videos this package can read.
    """
    if _is_container(files[0]):
        from .video import open_video

        return open_video(files[0]).frames()
    return decode_images(image_files(files))


def open_as_video(file: Path) -> VideoFile:
    """A video; an animation is turned into one, which lies beside it from then on.

    Raises:
        ResultFormatError: It is neither.
    """
    from .video import open_video

    _check_is_read(file)
    kind = sniff_file(file)
    if kind in (MediaKind.ANIMATED_WEBP, MediaKind.GIF):
        from .animation import animated_webp_to_h264

        converted = video_made_of(file)
        return open_video(converted) if converted.exists() else animated_webp_to_h264(file, converted)
    if kind is None or not kind.is_video:
        raise ResultFormatError(
            f"The result {file.name} is not a video; Xalora Collect, or .images in Python, takes it as it is",
            money=STILL_RETRIEVABLE,
        )
    return open_video(file)


def _is_container(file: Path) -> bool:
    return sniff_file(file) in _CONTAINERS


def _check_is_read(file: Path) -> None:
    if sniff_file(file) is None:
        format_name = file.suffix[1:].upper() if file.suffix != ".bin" else "unknown"
        raise ResultFormatError(
            f"The result {file.name} is of a format that nothing here reads ({format_name}); the file itself "
            "is kept as it came",
            money=STILL_RETRIEVABLE,
        )
