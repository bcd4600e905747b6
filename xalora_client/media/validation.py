"""Whether a file on disk is a whole image or video."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import ResultFormatError
from .images import TooManyPixelsError, read_header, read_pixels
from .sniff import MediaKind
from .containers import BrokenMediaError, png_chunks


def check_whole(path: Path, kind: MediaKind) -> None:
    """Read the file as far as it takes to know that nothing of it is missing or damaged. Blocking.

    A PNG vouches for each of its bytes with checksums, which are compared. Nothing else does, so everything
    else is decoded in full; but for images too large for that, of which only the header is read. They are
    paid for like others, and other programs may well open them.

    Raises:
        BrokenMediaError: It is truncated or damaged.
    """
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
