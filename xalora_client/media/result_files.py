"""The files of a result, read as images or as a video; their kind is detected by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import STILL_RETRIEVABLE, ResultFormatError
from .images import FloatImages, count_images, decode_images, errors_of_result
from .media_types import MediaKind, converted_video_path, sniff_file
from .validation import has_picture

if TYPE_CHECKING:
    from .video import VideoFile


def image_files(files: Sequence[Path]) -> tuple[Path, ...]:
    """The images and animations of a result; videos beside them are left out.

    Raises:
        ResultFormatError: The first file, which decides what the result is, is a video, or has a format that
            this package does not read.
    """
    if _known_kind(files[0]).is_container:
        raise ResultFormatError(
            f"The result {files[0].name} is a video, not an image; Xalora Collect, or .video in Python, "
            "reads it",
            money=STILL_RETRIEVABLE,
        )
    return tuple(file for file in files if (kind := sniff_file(file)) is not None and not kind.is_container)


def count_images_in_files(files: Sequence[Path]) -> int:
    """The number of images in a result's :func:`image_files`; each frame of an animation counts."""
    return sum(count_images(file) for file in image_files(files))


def left_out(files: Sequence[Path]) -> int:
    """The number of files that are not shown: any beside a video, and videos beside images."""
    if len(files) == 1:
        return 0
    return len(files) - (1 if _is_container(files[0]) else len(image_files(files)))


def decode_files(files: Sequence[Path]) -> FloatImages:
    """All images of a result, or all frames of a video, ``[N, H, W, C]`` float32 in 0..1.

    Raises:
        ResultFormatError: The files are no images or videos this package can read.
    """
    if _known_kind(files[0]).is_container:
        from .video import open_video

        return open_video(files[0]).frames()
    return decode_images(image_files(files))


def open_as_video(file: Path) -> VideoFile:
    """A result file as a video; an animation, or a still WebP, is converted once, to a file beside it.

    Workflows that save a video as animated WebP write a still one where it has a single frame.

    Raises:
        ResultFormatError: It is neither.
    """
    from .video import open_video

    kind = _known_kind(file)
    if kind.is_animation or kind is MediaKind.WEBP:
        from .animation import animated_webp_to_h264

        converted = converted_video_path(file)
        return open_video(converted) if converted.exists() else animated_webp_to_h264(file, converted)
    if not kind.is_video:
        raise ResultFormatError(
            f"The result {file.name} is not a video; Xalora Collect, or .images in Python, reads it",
            money=STILL_RETRIEVABLE,
        )
    return open_video(file)


def _is_container(file: Path) -> bool:
    kind = sniff_file(file)
    return kind is not None and kind.is_container


def _known_kind(file: Path) -> MediaKind:
    kind = sniff_file(file)
    with errors_of_result():
        is_sound = kind is not None and kind.is_container and not has_picture(file, kind)
    if is_sound:
        raise ResultFormatError(
            f"The result {file.name} is sound alone, which Xalora does not read; it is kept unchanged",
            money=STILL_RETRIEVABLE,
        )
    if kind is None:
        format_name = file.suffix[1:].upper() if file.suffix != ".bin" else "unknown"
        raise ResultFormatError(
            f"The result {file.name} has a format that Xalora does not read ({format_name}); the file is "
            "kept unchanged",
            money=STILL_RETRIEVABLE,
        )
    return kind
