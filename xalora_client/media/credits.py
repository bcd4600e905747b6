"""Date, author and copyright of a photograph, put into the picture that was made of it.

Nothing else of its EXIF is taken: no position, no thumbnail, no camera. All of it stays on this machine.
"""

from __future__ import annotations

import logging
from pathlib import Path

from .containers import BrokenMediaError
from .embedded import read_embedded, with_exif
from .exif import PREFIX, credits_block
from .media_types import sniff, sniff_file

logger = logging.getLogger("xalora_client")

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*")


def credits_of(photograph: Path | bytes) -> bytes | None:
    """An EXIF block with a photograph's date, author and copyright; None where it has none. Blocking.

    Args:
        photograph: Its file, or the bytes of one.

    None too where the file can't be read any more: its result is paid for, and is written without them.
    """
    try:
        data = photograph if isinstance(photograph, bytes) else photograph.read_bytes()
        return credits_block(_exif_of(data))
    except Exception as error:  # noqa: BLE001 - as above
        logger.debug("no date or author was read from a photograph: %s", error)
        return None


def picture_with_credits(picture: Path, block: bytes) -> bytes | None:
    """The content of a PNG, JPEG or WebP file with this EXIF block, its pixels untouched. Blocking.

    Returns:
        None where it has EXIF of its own, is of another format, or is damaged.
    """
    try:
        return with_exif(sniff_file(picture), picture.read_bytes(), block)
    except BrokenMediaError as error:
        logger.debug("no date or author was put into %s: %s", picture, error)
        return None


def _exif_of(data: bytes) -> bytes | None:
    if data.startswith(_TIFF_SIGNATURES):
        return data
    kind = sniff(data)
    if kind is not None:
        return read_embedded(kind, data).exif
    from .inputs import open_other

    block = open_other(data).info.get("exif")
    return block.removeprefix(PREFIX) if isinstance(block, bytes) else None
