"""Results of several tasks as one array, each decoded as it comes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from .media.images import FloatImages, decode_images, read_pixels
from .media.memory import touched
from .results import RunResult

_COLOUR_CHANNELS = 3


class ImageBatch:
    """Collects one image of each of several results in one array. Safe for several threads.

    The array is made for the first result that comes. Where another one does not fit it (another size, or
    transparency), all are decoded again in the end.

    Args:
        total: How many results there will be.
        keep_alpha: Whether transparency is kept; the array has four channels then, where the results do.
    """

    def __init__(self, total: int, *, keep_alpha: bool = True) -> None:
        self._total = total
        self._keep_alpha = keep_alpha
        self._array: FloatImages | None = None
        self._uneven = False
        self._lock = threading.Lock()

    def add(self, index: int, result: RunResult) -> FloatImages | None:
        """Decode a result to its place in the batch. Blocking: a worker thread's job, as the results come.

        Args:
            index: The place, from 0.
            result: Its first file is taken.

        Returns:
            The decoded image, a view of float32 ``[H, W, C]``; None if it does not fit those before.

        Raises:
            ResultFormatError: The file is not an image this package can read.
        """
        pixels = read_pixels(result.files[0])
        channels = pixels.channels if self._keep_alpha else _COLOUR_CHANNELS
        shape = (pixels.height, pixels.width, max(channels, _COLOUR_CHANNELS))
        with self._lock:
            if self._array is None:
                self._array = touched((self._total, *shape))
        if self._array.shape[1:] != shape:
            self._uneven = True
            return None
        pixels.write_to(self._array[index])
        image: FloatImages = self._array[index]
        return image

    def finish(self, results: Sequence[RunResult]) -> FloatImages:
        """The whole batch, ``[N, H, W, C]`` float32 in 0..1, once every result was added. Blocking.

        Args:
            results: All of them, in order. Where their sizes differ, all are brought to the first one's
                (Lanczos); where some are transparent only, the others get alpha 1.

        Raises:
            ResultFormatError: As for :meth:`add`.
        """
        if self._uneven or self._array is None:
            self._array = decode_images([result.files[0] for result in results])
            if not self._keep_alpha:
                self._array = self._array[..., :_COLOUR_CHANNELS]
        return self._array
