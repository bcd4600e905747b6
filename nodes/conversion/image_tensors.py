"""IMAGE tensors to the images of tasks, and result files back to IMAGE tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ...xalora_client.errors import InvalidTaskError
from ...xalora_client.image_batch import ImageBatch, images_in
from ...xalora_client.media.images import decode_images
from ...xalora_client.media.inputs import checked_array
from .stated_size import stating_size

if TYPE_CHECKING:
    from ...xalora_client.results import RunResult

COLOUR_CHANNELS = 3
PREVIEW_PIXELS = 512


def checked_batch(image: torch.Tensor) -> torch.Tensor:
    """The same IMAGE ``[B, H, W, C]``, after a check that it holds images.

    Raises:
        InvalidTaskError: It holds none.
    """
    if not isinstance(image, torch.Tensor):
        raise InvalidTaskError(
            f"The input image is of type {type(image).__name__}, and an IMAGE is a tensor",
            next_step="Check the node that is linked to it; a list of images has to be made a batch first.",
        )
    if image.ndim != 4 or 0 in image.shape:
        raise InvalidTaskError(
            f"The input image holds no images (its shape is {list(image.shape)})",
            next_step="Check the node that is linked to it.",
        )
    return image


def split_batch(image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The images of an IMAGE ``[B, H, W, C]``: colours, and alpha channels, or an empty list without alpha.

    Raises:
        InvalidTaskError: It holds no image.
    """
    image = checked_batch(image)
    if image.shape[3] <= COLOUR_CHANNELS:
        return list(image), []
    return list(image[..., :COLOUR_CHANNELS]), list(image[..., COLOUR_CHANNELS])


def as_loaded(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An IMAGE of any type as LoadImage returns it, for ComfyUI's own nodes, which check nothing.

    Returns:
        Colours, float32 ``[B, H, W, 3]`` in 0..1, and a mask ``[B, H, W]`` of the transparent parts.

    Raises:
        InputImageError: An image could not be sent either.
    """
    images = images.detach().cpu()
    if images.dtype is torch.bfloat16:
        images = images.float()
    colours = images[..., :COLOUR_CHANNELS]
    for one in colours:
        checked_array(one.numpy())
    floats = images.float() / (255 if images.dtype is torch.uint8 else 1)
    colours = floats[..., :COLOUR_CHANNELS].clamp(0.0, 1.0)
    if images.shape[3] > COLOUR_CHANNELS:
        return colours, 1.0 - floats[..., COLOUR_CHANNELS]
    return colours.expand(*images.shape[:3], COLOUR_CHANNELS), torch.zeros(images.shape[:3])


def resized_plane(plane: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
    """One channel ``[H, W]`` at another size: Lanczos, float32, clipped to 0..1."""
    picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    resized: np.ndarray[Any, Any] = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    return resized.clip(0.0, 1.0)


class TensorBatch:
    """Decodes results into an IMAGE, each when it arrives.

    Args:
        total: How many results there are.
        alpha: The input's alpha channels, which are resized and replace the results' own.
        keep_alpha: Whether the results' own alpha channels are kept where the input has none.
    """

    def __init__(self, total: int, alpha: Sequence[torch.Tensor] = (), *, keep_alpha: bool = True) -> None:
        self._alpha = alpha
        self._batch = ImageBatch(total, keep_alpha=keep_alpha and not alpha)

    def add(self, index: int, result: RunResult) -> Image.Image | None:
        """Decode one result; the picture is a preview of it."""
        image = self._batch.add(index, result)
        return None if image is None else result_preview_of(image)

    def close(self, results: Sequence[RunResult]) -> torch.Tensor:
        """The whole batch."""
        images = torch.from_numpy(self._batch.finish(results))
        if not self._alpha:
            return images
        return with_alpha(images, repeated(self._alpha, [images_in(result) for result in results]))


def repeated(alpha: Sequence[torch.Tensor], counts: Sequence[int]) -> list[torch.Tensor]:
    """Alpha channels of inputs, each repeated for every image of its result."""
    return [plane for plane, count in zip(alpha, counts, strict=True) for _ in range(count)]


def with_alpha(images: torch.Tensor, alpha: Sequence[torch.Tensor]) -> torch.Tensor:
    """``[N, H, W, 3]`` with alpha channels resized to it; without any, the images unchanged."""
    if not alpha:
        return images
    count, height, width, _ = images.shape
    joined = torch.empty((count, height, width, COLOUR_CHANNELS + 1), dtype=torch.float32)
    joined[..., :COLOUR_CHANNELS] = images
    for index, plane in enumerate(alpha):
        alpha_here = plane.detach().float().cpu().numpy()
        joined[index, ..., COLOUR_CHANNELS] = torch.from_numpy(resized_plane(alpha_here, width, height))
    return joined


def merged(
    files: Mapping[int, Sequence[Path]],
    made: torch.Tensor,
    total: int,
    alpha: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """One batch of image files, by index, and of images of this machine at the other indexes, in order.

    All are resized to the first. If one has transparency, all get an alpha channel. Alpha channels in
    ``alpha``, one for each index, are used instead.
    """
    if not files:
        return with_alpha(made[..., :COLOUR_CHANNELS], alpha) if alpha else made
    pictures = {index: decode_images(paths) for index, paths in files.items()}
    free = (index for index in range(total) if index not in files)
    pictures |= dict(zip(free, made.detach().float().cpu().numpy()[:, None], strict=True))
    height, width = pictures[0].shape[1:3]
    images = [image for index in range(total) for image in pictures[index]]
    channels = max(image.shape[2] for image in images)
    batch = np.ones((len(images), height, width, channels), np.float32)
    for target, image in zip(batch, images, strict=True):
        if image.shape[:2] == (height, width):
            target[..., : image.shape[2]] = image
            continue
        for channel in range(image.shape[2]):
            target[..., channel] = resized_plane(image[..., channel], width, height)
    if not alpha:
        return torch.from_numpy(batch)
    counts = [len(pictures[index]) for index in range(total)]
    return with_alpha(torch.from_numpy(batch[..., :COLOUR_CHANNELS]), repeated(alpha, counts))


def result_preview_of(image: np.ndarray[Any, Any]) -> Image.Image:
    """A small picture of ``[H, W, C]`` floats, which states their size."""
    return stating_size(preview_of(image), image.shape[1], image.shape[0])


def preview_of(image: np.ndarray[Any, Any], longest: int = PREVIEW_PIXELS) -> Image.Image:
    """A small picture of ``[H, W, C]`` floats, made of every n-th pixel, which is fast.

    Args:
        longest: How many pixels its longest side has at most.
    """
    step = -(-max(image.shape[:2]) // longest)
    small = np.clip(image[::step, ::step, :COLOUR_CHANNELS], 0.0, 1.0)
    if small.shape[2] == 1:
        small = np.repeat(small, COLOUR_CHANNELS, axis=2)
    return Image.fromarray((small * 255 + 0.5).astype(np.uint8))
