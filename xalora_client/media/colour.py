"""Colour profiles: conversion of 8-bit pixels to sRGB with LittleCMS, which Pillow brings."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

try:
    from PIL import ImageCms
except ImportError:  # Pillow built without LittleCMS
    ImageCms = None  # type: ignore[assignment]

_MODES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK", b"Lab ": "LAB"}
_GRID = 17  # steps of each channel in which a profile is compared with sRGB


class ToSrgb:
    """A conversion of 8-bit pixels from a colour profile to sRGB, perceptual as in browsers.

    Attributes:
        mode: Pillow's mode of the images that it converts.

    Args:
        profile: An ICC profile.

    Raises:
        ValueError: The profile is damaged, of an unknown colour space, or Pillow has no LittleCMS.
    """

    def __init__(self, profile: bytes) -> None:
        mode = _MODES.get(profile[16:20])
        if mode is None or ImageCms is None:
            raise ValueError("the colour profile can't be applied")
        try:
            self._transform = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                mode,
                "RGB",
                ImageCms.Intent.PERCEPTUAL,
            )
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
            raise ValueError("the colour profile is damaged") from error
        self.mode = mode

    def image(self, image: Image.Image) -> Image.Image:
        """An RGB image, of one in the profile's own mode (L, RGB, CMYK or LAB)."""
        converted: Image.Image | None = self._transform.apply(image)
        assert converted is not None
        return converted

    def pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``[H, W, 3]`` in sRGB, of ``[H, W, 3]``, whose channels are equal for a gray profile."""
        given = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if self.mode == "L" else pixels))
        return np.asarray(self.image(given))

    @property
    def changes_nothing(self) -> bool:
        """Whether the profile is sRGB, to a rounding step."""
        steps = np.linspace(0, 255, _GRID).round().astype(np.uint8)
        if self.mode == "L":
            given: npt.NDArray[Any] = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        elif self.mode == "RGB":
            given = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 3)
        else:
            return False
        return int(np.abs(self.pixels(given).astype(np.int16) - given).max()) <= 1


def to_srgb_of(profile: bytes | None) -> ToSrgb | None:
    """The conversion that a profile needs; None where there is none, it is sRGB, or it can't be read."""
    if profile is None:
        return None
    try:
        conversion = ToSrgb(profile)
    except ValueError:
        return None
    return None if conversion.changes_nothing else conversion


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """An RGB image of one in CIE Lab. Raises ValueError where Pillow has no LittleCMS."""
    if ImageCms is None:
        raise ValueError("Pillow was built without LittleCMS")
    return ToSrgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()).image(image)
