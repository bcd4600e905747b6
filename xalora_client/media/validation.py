"""Whether a file on disk is a whole image or video."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ..errors import ResultFormatError
from .containers import BrokenMediaError, check_video_container, png_chunks
from .sniff import MediaKind


def check_whole(path: Path, kind: MediaKind) -> None:
    """Read the file as far as it takes to know that nothing of it is missing or damaged. Blocking.

    A PNG vouches for each of its bytes with checksums, which are compared. Nothing else does, so everything
    else is decoded in full; but for images too large for that, of which only the header is read. They are
    paid for like others, and other programs may well open them.

    Raises:
        BrokenMediaError: It is truncated or damaged.
    """
    # Here, since it loads numpy, and downloads need only `suffix_of` before a file is complete.
    from .images import TooManyPixelsError, read_header, read_pixels

    if kind is MediaKind.PNG:
        data = path.read_bytes()
        with contextlib.suppress(TooManyPixelsError):
            read_header(data)
        for _ in png_chunks(data):
            pass
    elif kind in {MediaKind.ANIMATED_WEBP, MediaKind.GIF}:
        from .animation import check_animation

        check_animation(path)
    elif kind.is_video:
        from .video import open_video

        try:
            open_video(path).verify()
        except ResultFormatError as error:
            raise BrokenMediaError(error.what) from error
    else:
        with contextlib.suppress(TooManyPixelsError):
            read_pixels(path)


# What a file is called decides what a double click does with it, and the URL comes from a stranger.
_SUFFIXES = frozenset(
    [
        ".avi",
        ".avif",
        ".bmp",
        ".exr",
        ".flac",
        ".flv",
        ".glb",
        ".hdr",
        ".heic",
        ".heif",
        ".jp2",
        ".jxl",
        ".m4a",
        ".mkv",
        ".mov",
        ".mp3",
        ".npz",
        ".obj",
        ".ogg",
        ".ogv",
        ".opus",
        ".ply",
        ".psd",
        ".safetensors",
        ".tif",
        ".tiff",
        ".ts",
        ".wav",
        ".wmv",
        ".zip",
    ]
)
_ISO_BOX = b"ftyp"
_EBML = b"\x1a\x45\xdf\xa3"
_TEXT_LOOKED_AT = 4096
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def suffix_of(url: str) -> str:
    """The suffix to keep such a file under: the URL's, where that is one of media, else ``.bin``."""
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    except ValueError:
        suffix = ""
    return suffix if suffix in _SUFFIXES else ".bin"


class TextInPlaceError(BrokenMediaError):
    """A page has come where a result was to be, from a proxy, a login, a store: it says nothing of that."""


def check_unlisted(path: Path) -> None:
    """Check what can be checked of a file that nothing here decodes. Blocking.

    Raises:
        TextInPlaceError: It is a text.
        BrokenMediaError: It is empty or cut off.
    """
    with path.open("rb") as file:
        head = file.read(_TEXT_LOOKED_AT)
        if not head:
            raise BrokenMediaError("it is empty")
        if _is_text(head):
            raise TextInPlaceError(
                f"it is a text and no PNG, JPEG, WebP, GIF, MP4 or WebM; it begins with {head[:40]!r}"
            )
        if head[4:8] == _ISO_BOX or head.startswith(_EBML):
            check_video_container(file)


def _is_text(head: bytes) -> bool:
    if _CONTROL.search(head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The last character may be cut off by the end of what is looked at.
        return error.start > len(head) - 4 and len(head) == _TEXT_LOOKED_AT
    return True
