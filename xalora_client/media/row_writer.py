"""Pictures of any size written to PNG and TIFF files, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ConfigurationError
from .png_encode import PngWriter

WriteRows: TypeAlias = Callable[[npt.NDArray[np.uint8]], object]
"""Writes the next rows ``[N, width, channels]``."""

_TIFF = frozenset({".tif", ".tiff"})


def is_tiff(path: Path) -> bool:
    """Whether a file is a TIFF by its name."""
    return path.suffix.lower() in _TIFF


def check_rows_format(path: Path) -> None:
    """Check that a file can be written some rows at a time.

    Raises:
        ConfigurationError: Its name is not that of a PNG or TIFF file, or the library for TIFF is missing.
    """
    if is_tiff(path):
        try:
            import tifffile  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                "TIFF files are written by a library that is not installed",
                next_step="Install it: pip install xalora[tiff], or write a .png.",
            ) from error
    elif path.suffix.lower() != ".png":
        raise ConfigurationError(
            f"{path.name}: an image in tiles is written row by row, as PNG or TIFF",
            next_step="Name a .png, .tif or .tiff file.",
        )


def open_rows(
    path: Path, file: BinaryIO, width: int, height: int, channels: int, exif: bytes | None
) -> WriteRows:
    """Begin a picture; the file is whole after its last row. Blocking.

    Args:
        path: Its final name, which says the format; see :func:`check_rows_format`.
        file: Where it is written, empty.
        width, height: Pixels.
        channels: 3 (RGB) or 4 (RGBA), of 8 bits.
        exif: A block of EXIF for a PNG.
    """
    if not is_tiff(path):
        return PngWriter(file, width, height, channels, exif).write
    import tifffile

    # Its header, and where the pixels go, one row after another without compression.
    offset, _ = tifffile.imwrite(  # type: ignore[misc]
        file,
        shape=(height, width, channels),
        dtype=np.uint8,
        photometric="rgb",
        extrasamples=["unassalpha"] if channels == 4 else None,
        metadata=None,
        returnoffset=True,
    )
    file.seek(offset)
    return lambda rows: file.write(np.ascontiguousarray(rows).data)
