"""Pictures of results encoded anew: as PNG, JPEG, WebP, AVIF or TIFF, in 8 bits and sRGB."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ResultFormatError
from . import workers
from .containers import BrokenMediaError
from .embedded import with_exif
from .images import errors_of_result
from .media_types import MediaKind, sniff
from .picture_formats import DEFAULT_QUALITY, PILLOW_NAMES, PictureEncoding, PictureFormat
from .png_encode import encode_png

JPEG_SIDE, WEBP_SIDE, AVIF_SIDE = 65500, 16383, 65536
_LONGEST_SIDE = {PictureFormat.JPG: JPEG_SIDE, PictureFormat.WEBP: WEBP_SIDE, PictureFormat.AVIF: AVIF_SIDE}


@dataclass(frozen=True)
class EncodedPicture:
    """An encoded picture; ``lost_alpha`` where the format has no transparency, which was put on white."""

    data: bytes
    lost_alpha: bool = False


def reencoded(picture: Path, encoding: PictureEncoding, exif: bytes | None = None) -> EncodedPicture:
    """A picture file in another format. Blocking.

    Args:
        picture: A still PNG, JPEG or WebP file. A process of its own decodes it.
        exif: A block of EXIF to put into it, see :func:`.embedded.with_exif`.

    Raises:
        ResultFormatError: It can't be decoded, or the format can't hold it.
    """
    with errors_of_result():
        decoded = [image.stored() for image in workers.images("sent_pixels", picture)]
        if not decoded:
            raise BrokenMediaError("it holds no image")
    pixels = decoded[0]
    if encoding.format is PictureFormat.PNG:
        return EncodedPicture(_with(exif, MediaKind.PNG, encode_png(pixels)))
    height, width = pixels.shape[:2]
    longest = _LONGEST_SIDE.get(encoding.format)
    if longest is not None and max(height, width) > longest:
        raise ResultFormatError(
            f"{encoding.format.value.upper()} can't hold {width}x{height} pixels, its longest side is "
            f"{longest}"
        )
    lost_alpha = pixels.shape[2] == 4 and encoding.format is PictureFormat.JPG
    image = Image.fromarray(on_white(pixels) if lost_alpha else pixels)
    options: dict[str, Any] = {}
    if encoding.format.is_lossy:
        options["quality"] = encoding.quality or DEFAULT_QUALITY
    if exif is not None and encoding.format in (PictureFormat.AVIF, PictureFormat.TIFF):
        options["exif"] = exif
    if encoding.format is PictureFormat.JPG:
        # Edges of colours, which upscaling sharpens, stay clean.
        options |= {"subsampling": 0, "optimize": True}
    out = BytesIO()
    image.save(out, PILLOW_NAMES[encoding.format.suffix], **options)
    return EncodedPicture(_with(exif, sniff(out.getvalue()), out.getvalue()), lost_alpha)


def _with(exif: bytes | None, kind: MediaKind | None, data: bytes) -> bytes:
    return data if exif is None else with_exif(kind, data, exif) or data


def on_white(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` of uint8 ``[H, W, 4]``, over white."""
    opaque = Image.new("RGBA", (pixels.shape[1], pixels.shape[0]), (255, 255, 255, 255))
    opaque.alpha_composite(Image.fromarray(pixels))
    return np.asarray(opaque.convert("RGB"))
