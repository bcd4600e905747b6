"""Checks that a result file on disk is complete."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ..errors import ResultFormatError
from .containers import BrokenMediaError, check_video_container, png_chunks
from .media_types import MediaKind


def check_complete(path: Path, kind: MediaKind) -> None:
    """Check that no part of an image or video is missing or damaged. Blocking.

    The checksums of a PNG are compared; other formats have none and are decoded in full. Of an image too
    large to be decoded only the header is read: it is paid for, and other programs may open it.

    Raises:
        BrokenMediaError: It is truncated or damaged.
    """
    # Imported here: they load numpy, which a download does not need before its file is complete.
    from .image_files import TooManyPixelsError, read_header
    from .images import read_pixels

    if kind is MediaKind.PNG:
        data = path.read_bytes()
        with contextlib.suppress(TooManyPixelsError):
            read_header(data)
        for _ in png_chunks(data):
            pass
    elif kind.is_animation:
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


# A suffix decides what a double click does, and the URL is not trusted.
_MEDIA_SUFFIX = re.compile(
    r"\.(avi|avif|bmp|exr|flac|flv|glb|hdr|heic|heif|jp2|jxl|m4a|mkv|mov|mp3|npz|obj|ogg|ogv|opus|ply|psd"
    r"|safetensors|tiff?|ts|wav|wmv|zip)"
)
_ISO_BOX = b"ftyp"
_EBML = b"\x1a\x45\xdf\xa3"
_TEXT_SAMPLE_BYTES = 4096
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def suffix_of(url: str) -> str:
    """The suffix for a file of unknown format: the URL's if it is one of media, else ``.bin``."""
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    except ValueError:
        suffix = ""
    return suffix if _MEDIA_SUFFIX.fullmatch(suffix) else ".bin"


class TextInsteadOfResultError(BrokenMediaError):
    """A text came in place of the result, from a proxy, a login page or a store."""


def check_unknown_format(path: Path) -> None:
    """Check a file of a format that this package does not decode, as far as possible. Blocking.

    Raises:
        TextInsteadOfResultError: It is a text.
        BrokenMediaError: It is empty or cut off.
    """
    with path.open("rb") as file:
        head = file.read(_TEXT_SAMPLE_BYTES)
        if not head:
            raise BrokenMediaError("it is empty")
        if _is_text(head):
            raise TextInsteadOfResultError(
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
        # The last character may be cut off by the end of the sample.
        return error.start > len(head) - 4 and len(head) == _TEXT_SAMPLE_BYTES
    return True
