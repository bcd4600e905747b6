"""The media types that tasks take and give: suffix and MIME type of each, and detection by content.

Imports nothing heavy.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path, PurePath
from typing import TypeVar

AnyPath = TypeVar("AnyPath", bound=PurePath)

SNIFF_BYTES = 64
"""How many leading bytes :func:`sniff` needs to be sure."""


class MediaKind(Enum):
    """A kind of image or video, with its file name suffix and its MIME type (``.jpg``, ``image/jpeg``)."""

    PNG = ("png", ".png", "image/png")
    JPEG = ("jpeg", ".jpg", "image/jpeg")
    WEBP = ("webp", ".webp", "image/webp")
    ANIMATED_WEBP = ("animated-webp", ".webp", "image/webp")
    GIF = ("gif", ".gif", "image/gif")
    MP4 = ("mp4", ".mp4", "video/mp4")
    WEBM = ("webm", ".webm", "video/webm")

    suffix: str
    media_type: str

    def __new__(cls, name: str, suffix: str, media_type: str) -> MediaKind:
        kind = object.__new__(cls)
        kind._value_, kind.suffix, kind.media_type = name, suffix, media_type
        return kind

    @property
    def is_animation(self) -> bool:
        """True for formats that hold frames and are read as images: animated WebP, and GIF."""
        return self in (MediaKind.ANIMATED_WEBP, MediaKind.GIF)

    @property
    def is_container(self) -> bool:
        """True for video containers."""
        return self in (MediaKind.MP4, MediaKind.WEBM)

    @property
    def is_video(self) -> bool:
        """True for containers and for animated WebP, which some text-to-video workflows give."""
        return self.is_container or self is MediaKind.ANIMATED_WEBP


MEDIA_TYPES = {kind.suffix: kind.media_type for kind in MediaKind} | {".jpeg": "image/jpeg"}
"""MIME types by file name suffix."""

ANIMATION_SUFFIXES = frozenset(kind.suffix for kind in MediaKind if kind.is_animation)

# ISO base media files that hold still pictures, which nothing here can read.
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})
_VP8X_ANIMATION_FLAG = 0x02


def sniff(head: bytes) -> MediaKind | None:
    """Detect the kind of media by its first bytes.

    Args:
        head: The first :data:`SNIFF_BYTES` bytes or more (fewer only if the whole file is shorter).

    Returns:
        The kind, or None for anything this package does not read.
    """
    kind: MediaKind | None = None
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = MediaKind.PNG
    elif head.startswith(b"\xff\xd8\xff"):
        kind = MediaKind.JPEG
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        animated = head[12:16] == b"VP8X" and len(head) > 20 and head[20] & _VP8X_ANIMATION_FLAG
        kind = MediaKind.ANIMATED_WEBP if animated else MediaKind.WEBP
    elif head.startswith((b"GIF87a", b"GIF89a")):
        kind = MediaKind.GIF
    elif head[4:8] == b"ftyp" and head[8:12] not in _STILL_BRANDS:
        kind = MediaKind.MP4
    elif head.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in head[:SNIFF_BYTES]:
        kind = MediaKind.WEBM
    return kind


def sniff_file(path: str | os.PathLike[str]) -> MediaKind | None:
    """Detect the kind of media in a file, see :func:`sniff`. Raises OSError where it can't be opened."""
    with Path(path).open("rb") as file:
        return sniff(file.read(SNIFF_BYTES))


def converted_video_path(animation: AnyPath) -> AnyPath:
    """The path of the MP4 that an animation is converted to; it lies beside the animation."""
    return animation.with_suffix(MediaKind.MP4.suffix)
