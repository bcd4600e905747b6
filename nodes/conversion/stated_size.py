"""A small picture that browsers show as one of another size."""

from __future__ import annotations

from functools import partial

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _EXIF = 0x011A, 0x011B, 0x0128, 0x8769
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_INCH = 2
_DOTS_PER_INCH = 72


def stating_size(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The same picture, which states another size where it is saved as JPEG.

    ComfyUI shows a preview's size under it, and a preview has fewer pixels than the result that it is of. By
    the HTML standard ("density-corrected natural size"), browsers take the size in a JPEG's metadata for its
    own where the resolution there agrees.
    """
    exif = Image.Exif()
    exif[_RESOLUTION_UNIT] = _INCH
    exif[_X_RESOLUTION] = IFDRational(_DOTS_PER_INCH * picture.width, width)
    exif[_Y_RESOLUTION] = IFDRational(_DOTS_PER_INCH * picture.height, height)
    exif[_EXIF] = {_PIXEL_WIDTH: width, _PIXEL_HEIGHT: height}
    # ComfyUI saves it, and takes no metadata.
    picture.save = partial(picture.save, exif=exif)  # type: ignore[method-assign]
    return picture
