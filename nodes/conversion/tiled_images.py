"""Images of a batch cut into tiles, and the tiles' results blended to an IMAGE."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...xalora_client.media.images import decode_image, errors_of_result
from ...xalora_client.media.inputs import prepare_image
from ...xalora_client.media.limits import allocate
from ...xalora_client.results import add_result_to_errors
from ...xalora_client.tiles.plan import TilePlan, plan_of, scaled, side_of_tiles, smaller_side
from .image_tensors import COLOUR_CHANNELS, resized_plane, result_preview_of, with_alpha

if TYPE_CHECKING:
    from PIL import Image

    from ...xalora_client.results import RunResult

Floats = np.ndarray[Any, np.dtype[np.float32]]

AUTO, NEVER = "auto", "never"
TILES = (AUTO, NEVER, "512", "1024", "2048")
"""The choices of the widget ``tile``."""

_SURE = 0.98
"""The share of a request's limit below which the pixels of an image fit whatever they show."""


@dataclass(frozen=True)
class Cuts:
    """The images of a batch, cut.

    Args:
        images: Of each ``[H, W, 3]`` its plan; one that is sent whole has a single tile.
        tiles: What is sent, each that differs from all others once.
        places: Of each of them the images and tiles that it is, as ``(image, tile)``.
        digest: Of what is sent, where anything is cut.
    """

    images: tuple[TilePlan, ...]
    tiles: tuple[torch.Tensor, ...]
    places: tuple[tuple[tuple[int, int], ...], ...]
    digest: str = ""

    @property
    def are_any(self) -> bool:
        """Whether any image is cut."""
        return any(plan.count > 1 for plan in self.images)


def cut(
    images: Sequence[torch.Tensor], tile: str, limit: int | None, refused: Mapping[int, int] | None = None
) -> Cuts:
    """Cut the images of a batch as the widget ``tile`` says. Blocking.

    Args:
        images: ``[H, W, 3]`` each.
        tile: One of :data:`TILES`.
        limit: The most bytes of an image in a request; None where there is no limit.
        refused: Of images that the network found too large the side of the tiles to try.

    Raises:
        ConfigurationError: There are no such tiles.
        InputImageError: An image can't be sent.
    """
    plans = []
    places: dict[str, list[tuple[int, int]]] = {}
    tiles: dict[str, torch.Tensor] = {}
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        chosen = (refused or {}).get(number)
        if chosen is None and (tile == NEVER or (tile == AUTO and fits(image, limit))):
            plan = plan_of(width, height, max(width, height, 2048))
        else:
            side = side_of_tiles(chosen if tile == AUTO else int(tile), limit, COLOUR_CHANNELS)
            plan = plan_of(width, height, side)
        plans.append(plan)
        for part, (row, column) in enumerate(plan.tiles):
            pixels = image[row.start : row.stop, column.start : column.stop]
            # A batch of images that are sent whole stays what it is: a task of each.
            key = _digest(pixels) if plan.count > 1 else f"image {number}"
            tiles.setdefault(key, pixels)
            places.setdefault(key, []).append((number, part))
    digest = hashlib.blake2b("\n".join(tiles).encode(), digest_size=16).hexdigest()
    return Cuts(tuple(plans), tuple(tiles.values()), tuple(map(tuple, places.values())), digest)


def fits(image: torch.Tensor, limit: int | None) -> bool:
    """Whether an image ``[H, W, 3]`` takes no more bytes in a request than the limit. Blocking."""
    if limit is None or image.numel() <= limit * _SURE:
        return True
    return len(prepare_image(image).data) <= limit


def _digest(pixels: torch.Tensor) -> str:
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels.detach().float().cpu().numpy()).data)
    return digest.hexdigest()


def smaller_tiles(cuts: Cuts, refused: Collection[int], finished: Collection[int]) -> dict[int, int]:
    """Of each image whose tasks the network found too large the side of the next smaller tiles.

    Args:
        refused: The indexes of those tasks.
        finished: Those of the tasks that are paid for.

    Returns:
        None at all where an image can't be made of smaller tiles, or has tiles that are paid for already.
    """
    images = {image for index in refused for image, _ in cuts.places[index]}
    paid = {image for index in finished for image, _ in cuts.places[index]}
    sides = {image: smaller_side(cuts.images[image]) for image in images - paid}
    smaller = {image: side for image, side in sides.items() if side is not None}
    return smaller if smaller.keys() == images else {}


class TiledBatch:
    """Decodes results of tiles into an IMAGE, each when it arrives. Safe for several threads.

    Args:
        cuts: What the results are of.
        alpha: The input's alpha channels, which are resized and added.
    """

    def __init__(self, cuts: Cuts, alpha: Sequence[torch.Tensor]) -> None:
        self._cuts, self._alpha = cuts, alpha
        self._lock = threading.Lock()
        self._factor: Fraction | None = None
        self._images: Floats | None = None
        self._uneven = False

    def add(self, index: int, result: RunResult) -> Image.Image | None:
        """Decode one result; the picture is a preview of its image so far."""
        pixels, factor = self._decoded(index, result)
        with self._lock, add_result_to_errors(result):
            if self._images is None:
                self._begin(factor)
            assert self._images is not None
            if factor != self._factor:
                self._uneven = True
                return None
            self._blend(index, pixels)
            return result_preview_of(self._images[self._cuts.places[index][0][0]])

    def close(self, results: Sequence[RunResult]) -> torch.Tensor:
        """The whole batch; where sizes differ, all are brought to the first one's."""
        if self._uneven:
            self._images = None
            for index, result in enumerate(results):
                pixels, factor = self._decoded(index, result)
                if self._images is None:
                    self._begin(factor)
                self._blend(index, pixels)
        assert self._images is not None
        return with_alpha(torch.from_numpy(self._images), self._alpha)

    def _decoded(self, index: int, result: RunResult) -> tuple[Floats, Fraction]:
        """The colours of a result, and how many times larger it is than its tile."""
        image, part = self._cuts.places[index][0]
        with add_result_to_errors(result):
            pixels = decode_image(result.files[0])[..., :COLOUR_CHANNELS]
            height, width = pixels.shape[:2]
            factor = self._cuts.images[image].checked_factor(part, width, height, index + 1)
        return pixels, factor

    def _begin(self, factor: Fraction) -> None:
        first = self._cuts.images[0]
        size = scaled(first.down.length, factor), scaled(first.across.length, factor)
        with errors_of_result():
            self._images = allocate((len(self._cuts.images), *size, COLOUR_CHANNELS))
        self._images.fill(0)
        self._factor = factor

    def _blend(self, index: int, pixels: Floats) -> None:
        assert self._images is not None and self._factor is not None
        for image, part in self._cuts.places[index]:
            plan, factor = self._cuts.images[image], self._factor
            row, column = divmod(part, plan.columns)
            down, across = plan.tiles[part]
            top, left = scaled(down.start, factor), scaled(across.start, factor)
            fitting = _fitted(pixels, scaled(across.stop, factor) - left, scaled(down.stop, factor) - top)
            weights = plan.down.weights(row, factor)[:, None] * plan.across.weights(column, factor)
            height, width = fitting.shape[:2]
            self._images[image, top : top + height, left : left + width] += fitting * weights[..., None]


def _fitted(pixels: Floats, width: int, height: int) -> Floats:
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = [resized_plane(pixels[..., channel], width, height) for channel in range(COLOUR_CHANNELS)]
    return np.stack(planes, axis=2)
