"""Photographs that go through the network: the demo's, and some as cameras, phones and presses write them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import picture_files as files
from PIL import Image

from xalora_client.cli.demo.photographs import SHIPPED

_SMALL = (240, 180)


@dataclass(frozen=True)
class Photograph:
    """A file, and its upright pixels in sRGB, 0..255, computed without the package."""

    path: Path
    srgb: npt.NDArray[np.float64]

    @property
    def doubled(self) -> npt.NDArray[np.uint8]:
        """What a miner of the devnet makes of it."""
        picture = Image.fromarray(np.round(self.srgb).clip(0, 255).astype(np.uint8))
        size = (picture.width * 2, picture.height * 2)
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))

    def off_by(self, made: npt.NDArray[np.uint8]) -> tuple[int, float]:
        """The largest and the mean difference of a result, in steps of 8 bits."""
        difference = np.abs(made.astype(np.int16) - self.doubled)
        return int(difference.max()), float(difference.mean())


def make_photographs(folder: Path) -> list[Photograph]:
    """Write the photographs into a folder."""
    made: list[Photograph] = []

    def add(name: str, data: bytes, srgb: npt.NDArray[Any]) -> None:
        (folder / name).write_bytes(data)
        made.append(Photograph(folder / name, srgb.astype(np.float64)))

    for shipped in SHIPPED:
        with Image.open(shipped.path) as image:
            pixels = np.asarray(image.convert("RGB"))
            is_adobe_rgb = b"Adobe RGB" in image.info.get("icc_profile", b"")
        srgb = files.srgb_of_adobe_rgb(pixels) if is_adobe_rgb else pixels
        add(f"demo-{shipped.path.name}", shipped.path.read_bytes(), srgb)
    with Image.open(SHIPPED[0].path) as image:
        small = image.convert("RGB").resize(_SMALL)
    pixels = np.asarray(small)
    fine = np.random.default_rng(1).integers(-128, 128, pixels.shape)
    deep = (pixels.astype(np.int64) * 257 + fine).clip(0, 65535).astype(np.uint16)
    add("16-bit.png", files.raw_png(deep, 16, 2), deep / 257)
    gray = deep[..., 1]
    add(
        "16-bit-gray.tif",
        files.saved(Image.fromarray(gray), "TIFF"),
        np.repeat(gray[..., None] / 257, 3, axis=2),
    )
    p3 = files.saved(small, "JPEG", quality=95, icc_profile=files.display_p3())
    add("display-p3.jpg", p3, files.srgb_of_p3(_stored(p3)))
    mirrored = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    adobe = files.saved(mirrored, "PNG", icc_profile=files.adobe_rgb())
    add("adobe-rgb.png", adobe, files.srgb_of_adobe_rgb(pixels[:, ::-1]))
    cmyk = files.saved(small.convert("CMYK"), "JPEG", quality=95, icc_profile=files.cmyk_press())
    add("cmyk.jpg", cmyk, files.srgb_of_cmyk(_stored(cmyk)))
    bare = files.saved(mirrored.convert("CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(bare)) as image:
        add("cmyk-without-profile.jpg", bare, np.asarray(image.convert("RGB")))
    palette = small.quantize(256)
    add("palette.png", files.saved(palette, "PNG"), np.asarray(palette.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = files.saved(small, "JPEG", quality=95, exif=exif)
    add("rotated.jpg", rotated, np.rot90(_stored(rotated), -1))
    return made


def _stored(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
