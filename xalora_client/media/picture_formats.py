"""The formats that pictures are written in: PNG, JPEG, WebP, AVIF and TIFF. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..errors import ConfigurationError
from .media_types import MediaKind

DEFAULT_QUALITY = 95
"""Of formats that lose detail."""


class PictureFormat(Enum):
    """A format that pictures are written in; the value is its name."""

    PNG = "png"
    JPG = "jpg"
    WEBP = "webp"
    AVIF = "avif"
    TIFF = "tif"

    @classmethod
    def of_suffix(cls, suffix: str) -> PictureFormat | None:
        """The format that a file name's suffix stands for, in any case; None for another one."""
        return _SUFFIXES.get(suffix.lower())

    @property
    def suffix(self) -> str:
        """``.png``, ``.jpg``, ``.webp``, ``.avif`` or ``.tif``."""
        return f".{self.value}"

    @property
    def is_lossy(self) -> bool:
        """Whether it has a quality."""
        return self not in (PictureFormat.PNG, PictureFormat.TIFF)


PILLOW_NAMES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""What Pillow calls the formats of files, by suffix; BMP is for `RunResult.save` alone."""

_SUFFIXES = {each.suffix: each for each in PictureFormat} | {
    ".jpeg": PictureFormat.JPG,
    ".tiff": PictureFormat.TIFF,
}
_SAME = {
    MediaKind.PNG: PictureFormat.PNG,
    MediaKind.JPEG: PictureFormat.JPG,
    MediaKind.WEBP: PictureFormat.WEBP,
}


@dataclass(frozen=True)
class PictureEncoding:
    """How a picture is written.

    Args:
        quality: 1 to 100, for formats that lose detail; None takes :data:`DEFAULT_QUALITY`.
    """

    format: PictureFormat
    quality: int | None = None

    def check(self) -> None:
        """Check that it can be written here.

        Raises:
            ConfigurationError: Pillow lacks the format.
        """
        from PIL import features

        if self.format is PictureFormat.AVIF and not features.check("avif"):
            raise ConfigurationError(
                "This Pillow writes no AVIF",
                next_step="pip install -U 'Pillow>=11.3', or choose --format webp.",
            )

    def changes(self, kind: MediaKind | None) -> bool:
        """Whether a file of this kind is to be encoded anew: a still picture of another format or quality."""
        if kind not in _SAME:
            return False
        return _SAME[kind] is not self.format or (self.quality is not None and self.format.is_lossy)
