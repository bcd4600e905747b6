"""What kind of image or video some bytes are, by content and never by name. Imports nothing heavy."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path, PurePath
from typing import TypeVar

AnyPath = TypeVar("AnyPath", bound=PurePath)

SNIFF_BYTES = 64
"""How many leading bytes :func:`sniff` needs to be sure."""


class MediaKind(str, Enum):
    """The kinds of media that tasks take and give."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    ANIMATED_WEBP = "animated-webp"
    GIF = "gif"
    MP4 = "mp4"
    WEBM = "webm"

    @property
    def suffix(self) -> str:
        """The usual file name suffix, with its dot (``.jpg``, and ``.webp`` for both kinds of WebP)."""
        return _SUFFIXES.get(self, f".{self.value}")

    @property
    def media_type(self) -> str:
        """The MIME type (``image/png``, ``video/mp4``)."""
        if self is MediaKind.ANIMATED_WEBP:
            return "image/webp"
        return f"{'video' if self in _CONTAINERS else 'image'}/{self.value}"

    @property
    def is_video(self) -> bool:
        """True for containers and for animated WebP, which some text-to-video workflows give."""
        return self in _CONTAINERS or self is MediaKind.ANIMATED_WEBP


_SUFFIXES = {MediaKind.JPEG: ".jpg", MediaKind.ANIMATED_WEBP: ".webp"}
_CONTAINERS = frozenset({MediaKind.MP4, MediaKind.WEBM})
# ISO base media files that hold still pictures, which nothing here can read.
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})
_VP8X_ANIMATION_FLAG = 0x02


def sniff(head: bytes) -> MediaKind | None:
    """Tell the kind of media from its first bytes.

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
    """Tell the kind of media a file holds; see :func:`sniff`. Raises OSError where it can't be opened."""
    with Path(path).open("rb") as file:
        return sniff(file.read(SNIFF_BYTES))


ANIMATION_SUFFIXES = frozenset({MediaKind.ANIMATED_WEBP.suffix, MediaKind.GIF.suffix})


def video_made_of(animation: AnyPath) -> AnyPath:
    """Where the video lies that an animation is turned into, once somebody has asked for it."""
    return animation.with_suffix(MediaKind.MP4.suffix)
