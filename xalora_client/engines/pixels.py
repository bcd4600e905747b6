"""Input decoding and LANCZOS resampling for the upscaling engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import InputImageError, ResultFormatError
from ..media.images import decode_image


def decode_input(data: bytes) -> npt.NDArray[np.float32]:
    """Decode an input image to float32 ``[H, W, 3 or 4]`` in 0..1.

    Raises:
        InputImageError: It is no image, or incomplete.
    """
    try:
        return decode_image(data)
    except ResultFormatError as error:
        raise InputImageError(
            f"The input image can't be read: {error.what}",
            next_step="Check the file; PNG, JPEG, WebP and GIF can be read.",
        ) from error


def lanczos_upscale(image: npt.NDArray[Any], factor: int = 2) -> npt.NDArray[np.uint8]:
    """Enlarge an image by LANCZOS, in 8 bits like ComfyUI's own node of that name.

    Args:
        image: float ``[H, W, C]`` in 0..1 or uint8, C of 3 or 4.
        factor: How many times wider and higher.

    Returns:
        uint8 ``[factor * H, factor * W, C]``.
    """
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    height, width = image.shape[:2]
    resized = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def lanczos_resize(image: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.float32]:
    """Resize an image by LANCZOS, in float precision.

    Args:
        image: float32 ``[H, W, C]``.
        width: Of the result, in pixels.
        height: Of the result, in pixels.

    Returns:
        float32 ``[height, width, C]``, clipped to 0..1.
    """
    result = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        result[..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS))
    return np.clip(result, 0.0, 1.0, out=result)
