"""Input decoding and LANCZOS resampling for the upscaling engines."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import InputImageError, ResultFormatError
from ..media.images import decode_image

Floats: TypeAlias = npt.NDArray[np.float32]


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
    """Enlarge an image ``factor`` times by LANCZOS; see :func:`lanczos_enlarged`."""
    return lanczos_enlarged(image, (image.shape[1] * factor, image.shape[0] * factor))


def lanczos_enlarged(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Enlarge an image by LANCZOS, in 8 bits like ComfyUI's own node of that name.

    Args:
        image: float ``[H, W, C]`` in 0..1 or uint8, C of 3 or 4.
        size: Width and height of the result.

    Returns:
        uint8 ``[height, width, C]``.
    """
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def fitted(made: Floats, given: Floats, size: tuple[int, int]) -> Floats:
    """A model's result at its final size, with the input's alpha.

    Args:
        made: The model's result, float32 ``[H, W, 3]`` in 0..1.
        given: Its input, ``[h, w, 3 or 4]``; alpha is enlarged by LANCZOS.
        size: Width and height of the result; another size than the model's is reached by LANCZOS.

    Returns:
        float32 ``[height, width, C]`` in 0..1.
    """
    width, height = size
    if made.shape[:2] != (height, width):
        made = lanczos_resize(made, width, height)
    if given.shape[2] == 3:
        return made
    return np.concatenate([made, lanczos_resize(given[..., 3:], width, height)], axis=2)


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
