"""Checks that a result file on disk is complete, and is what its address says."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from .containers import BrokenMediaError, check_video_container
from .limits import TooLargeError
from .media_types import MediaKind, sniff_file


def check_complete(path: Path, kind: MediaKind) -> None:
    """Check that no part of an image or video is missing or damaged. Blocking.

    The checksums of a PNG are compared; other formats have none and are decoded in full. Of an image too
    large to be decoded only the header is read: it is paid for, and other programs may open it.

    Raises:
        TooLargeError: It is an animation or video with more frames than the limits allow.
        BrokenMediaError: It is truncated or damaged.
    """
    from . import workers

    workers.ask("check", path, kind=kind.value)


# A suffix decides what a double click does, and the URL is not trusted.
_KNOWN_SUFFIX = re.compile(
    r"\.(aac|aiff?|avi|avif|bmp|cin|dds|dpx|exr|fbx|flac|flv|glb|hdr|heic|heif|jp2|jxl|ksplat|m4a|m4b|m4v|mka"
    r"|mkv|mov|mp3|mp4|npy|npz|ogg|ogv|opus|psd|safetensors|splat|spz|tga|tiff?|ts|usdz|wav|weba|webm|wmv|zip)"
)
_OBJ = rb"(#|(v|vn|vt|vp|o|g|f|l|s|usemtl|mtllib|newmtl)\s)"
# Texts that are results, and what each begins with.
_TEXT_FORMATS = {
    ".obj": _OBJ,
    ".mtl": _OBJ,
    ".ply": rb"ply\s",
    ".stl": rb"solid\b",
    ".off": rb"\w*OFF",
    ".pcd": rb"(#|VERSION\s)",
    ".xyz": rb"[-\d]",
    ".svg": rb"(<\?xml|<!--|<!doctype svg|<svg)(?s:.*?)<?svg\b",
    ".dae": rb"(?s:.*?)<COLLADA\b",
    ".x3d": rb"(?s:.*?)<X3D\b",
    ".usda": rb"#usda\b",
    ".gltf": rb"\{",
    ".json": rb"[\[{]",
    ".cube": rb"[#\w]",
    ".srt": rb"\d",
    ".vtt": rb"WEBVTT",
    ".csv": rb"[^<{\[]",
    ".txt": rb"[^<{\[]",
}
_TEXT_OR_BINARY = frozenset({".ply", ".stl", ".pcd"})
_ISO_BOX = b"ftyp"
_EBML = b"\x1a\x45\xdf\xa3"
_TEXT_SAMPLE_BYTES = 4096
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"


def kind_of_result(path: Path) -> MediaKind | None:
    """The kind of media in a result file; None for one that is kept as it came. Blocking.

    Sound alone is kept so, in a container for videos too.

    Raises:
        TooLargeError: It takes more memory or time than allowed to tell.
    """
    kind = sniff_file(path)
    if kind is not None and kind.is_container:
        return kind if has_picture(path, kind) else None
    return kind


def has_picture(path: Path, kind: MediaKind) -> bool:
    """Whether a video container holds more than sound and a cover; True where it is broken. Blocking.

    Raises:
        TooLargeError: It takes more memory or time than allowed.
    """
    from . import workers

    try:
        return bool(workers.ask("has_picture", path, kind=kind.value))
    except TooLargeError:
        raise
    except BrokenMediaError:
        return True


def suffix_of(url: str) -> str:
    """The suffix for a file that is kept as it came: the URL's if it is a known one, else ``.bin``.

    A ``data:`` URL has that of its media type.
    """
    try:
        if url[:5].lower() == "data:":
            media_type = re.split("[;,]", url[5:105], maxsplit=1)[0].strip().lower()
            suffix = mimetypes.guess_extension(media_type) or ""
        else:
            suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    except ValueError:
        suffix = ""
    return suffix if suffix in _TEXT_FORMATS or _KNOWN_SUFFIX.fullmatch(suffix) else ".bin"


class TextInsteadOfResultError(BrokenMediaError):
    """A text came in place of the result, from a proxy, a login page or a store."""


def check_unknown_format(path: Path, suffix: str) -> str:
    """Check a file of a format that this package does not decode, as far as possible. Blocking.

    Args:
        suffix: What its address says it is; some formats are texts.

    Returns:
        The suffix, or ``.bin`` where a text is said to be there and is not.

    Raises:
        TextInsteadOfResultError: It is a text, and not one of a format of texts that the address names.
        BrokenMediaError: It is empty or cut off.
    """
    with path.open("rb") as file:
        head = file.read(_TEXT_SAMPLE_BYTES)
        if not head:
            raise BrokenMediaError("it is empty")
        if _is_text(head) and not _is_text_of(suffix, head):
            raise TextInsteadOfResultError(
                f"it is a text and no PNG, JPEG, WebP, GIF, MP4 or WebM; it begins with {head[:40]!r}"
            )
        if head[4:8] == _ISO_BOX or head.startswith(_EBML):
            check_video_container(file)
    may_be_binary = suffix not in _TEXT_FORMATS or suffix in _TEXT_OR_BINARY or _is_text(head)
    return suffix if may_be_binary else ".bin"


def _is_text_of(suffix: str, head: bytes) -> bool:
    pattern = _TEXT_FORMATS.get(suffix)
    if pattern is None or re.search(rb"<(!doctype\s+)?html\b", head[:1024], re.IGNORECASE):
        return False
    return re.match(pattern, head.lstrip(_BEFORE_TEXT), re.IGNORECASE) is not None


def _is_text(head: bytes) -> bool:
    if _CONTROL.search(head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The last character may be cut off by the end of the sample.
        return error.start > len(head) - 4 and len(head) == _TEXT_SAMPLE_BYTES
    return True
