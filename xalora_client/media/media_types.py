"""The media types that tasks take and give: suffix and MIME type of each, and detection by content.

Imports nothing heavy.
"""

from __future__ import annotations

import io
import os
from enum import Enum
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

AnyPath = TypeVar("AnyPath", bound=PurePath)

SNIFF_BYTES = 64
"""How many leading bytes :func:`sniff` needs, but for a PNG, whose animation may be told far behind them."""


class MediaKind(Enum):
    """A kind of image or video, with its file name suffix and its MIME type (``.jpg``, ``image/jpeg``)."""

    PNG = ("png", ".png", "image/png")
    APNG = ("animated-png", ".png", "image/png")
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

    @classmethod
    def named(cls, value: str) -> MediaKind:
        """The kind of this value, such as ``animated-png``."""
        return next(kind for kind in cls if kind.value == value)

    @property
    def is_animation(self) -> bool:
        """True for formats that hold frames and are read as images: animated WebP and PNG, and GIF."""
        return self in (MediaKind.APNG, MediaKind.ANIMATED_WEBP, MediaKind.GIF)

    @property
    def is_container(self) -> bool:
        """True for video containers."""
        return self in (MediaKind.MP4, MediaKind.WEBM)

    @property
    def is_video(self) -> bool:
        """True for containers and for animated WebP and PNG, which some text-to-video workflows give."""
        return self.is_container or self in (MediaKind.APNG, MediaKind.ANIMATED_WEBP)


MEDIA_TYPES = {kind.suffix: kind.media_type for kind in MediaKind} | {".jpeg": "image/jpeg"}
"""MIME types by file name suffix."""

ANIMATION_SUFFIXES = frozenset(kind.suffix for kind in MediaKind if kind.is_animation)

# ISO base media files that hold still pictures or sound alone, which nothing here decodes as a video.
_OTHER_BRANDS = frozenset(
    {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"crx "}
    | {b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B ", b"aax ", b"aaxc"}
)
_VP8X_ANIMATION_FLAG = 0x02
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK_HEADER = 8  # its length and its name; a checksum of 4 bytes follows the payload
_MOST_CHUNKS = 10_000


def sniff(head: bytes) -> MediaKind | None:
    """Detect the kind of media by its first bytes.

    Args:
        head: The first :data:`SNIFF_BYTES` bytes or more (fewer only if the whole file is shorter). A PNG
            counts as animated only if what says so is among them, so give the whole file.

    Returns:
        The kind, or None for anything this package does not read.
    """
    return _sniff(io.BytesIO(head))


def sniff_file(path: str | os.PathLike[str]) -> MediaKind | None:
    """Detect the kind of media in a file, see :func:`sniff`. Raises OSError where it can't be opened."""
    with Path(path).open("rb") as file:
        return _sniff(file)


CLIP_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""The containers that clips are written to, as FFmpeg names them, by the suffix of the file."""

_EBML_SIGNATURE = b"\x1a\x45\xdf\xa3"


def sniff_clip(path: str | os.PathLike[str]) -> MediaKind | None:
    """The kind of a video file of the user's; Matroska counts as WebM, since one demuxer reads both.

    Returns:
        None for anything else. Raises OSError where it can't be opened.
    """
    with Path(path).open("rb") as file:
        head = file.read(SNIFF_BYTES)
    if head.startswith(_EBML_SIGNATURE) and b"matroska" in head:
        return MediaKind.WEBM
    kind = sniff(head)
    return kind if kind is not None and kind.is_container else None


def _sniff(file: BinaryIO) -> MediaKind | None:
    head = file.read(SNIFF_BYTES)
    kind: MediaKind | None = None
    if head.startswith(_PNG_SIGNATURE):
        kind = MediaKind.APNG if _png_frames(file) > 1 else MediaKind.PNG
    elif head.startswith(b"\xff\xd8\xff"):
        kind = MediaKind.JPEG
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        animated = head[12:16] == b"VP8X" and len(head) > 20 and head[20] & _VP8X_ANIMATION_FLAG
        kind = MediaKind.ANIMATED_WEBP if animated else MediaKind.WEBP
    elif head.startswith((b"GIF87a", b"GIF89a")):
        kind = MediaKind.GIF
    elif head[4:8] == b"ftyp" and head[8:12] not in _OTHER_BRANDS:
        kind = MediaKind.MP4
    elif head.startswith(_EBML_SIGNATURE) and b"webm" in head:
        kind = MediaKind.WEBM
    return kind


def _png_frames(file: BinaryIO) -> int:
    """How many frames a PNG declares. It does so before its pixels, but behind any amount of text."""
    position = len(_PNG_SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        header = file.read(_PNG_CHUNK_HEADER + 4)
        name = header[4:_PNG_CHUNK_HEADER]
        if len(header) < _PNG_CHUNK_HEADER or name in {b"IDAT", b"IEND"}:
            break
        if name == b"acTL":
            return int.from_bytes(header[_PNG_CHUNK_HEADER:], "big")
        position += _PNG_CHUNK_HEADER + int.from_bytes(header[:4], "big") + 4
    return 1


def converted_video_path(animation: AnyPath) -> AnyPath:
    """The path of the MP4 that an animation is converted to; it lies beside the animation."""
    return animation.with_suffix(MediaKind.MP4.suffix)
