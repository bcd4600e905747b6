"""Results of several tasks as one array, each decoded as it comes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from .media.images import FloatImages, decode_images, errors_of_result
from .media.limits import allocate, check_images, using
from .media.media_types import sniff_file
from .media.result_files import count_images_in_files, image_files
from .media.workers import DecodedImage, images
from .results import RunResult, add_result_to_errors

_COLOUR_CHANNELS = 3


class ImageBatch:
    """Collects the images of several results in one array, in order. Safe for several threads.

    The array is allocated for the first result. Where another one does not fit (another size or number of
    images, transparency, an animation), all are decoded again in :meth:`finish`.

    Args:
        total: How many results there will be.
        keep_alpha: Whether transparency is kept; the array has four channels then, where the results do.
    """

    def __init__(self, total: int, *, keep_alpha: bool = True) -> None:
        self._total = total
        self._keep_alpha = keep_alpha
        self._array: FloatImages | None = None
        self._images_each = 0
        self._uneven = False
        self._lock = threading.Lock()

    def add(self, index: int, result: RunResult) -> FloatImages | None:
        """Decode a result to its place in the batch. Blocking.

        Args:
            index: The place among the results, from 0.
            result: All of its image files are taken.

        Returns:
            The first decoded image, a view of float32 ``[H, W, C]``; None if it does not fit those before.

        Raises:
            ResultFormatError: A file is not an image this package can read, or the result is a video.
            ResultTooLargeError: It has more pixels than the limits allow, or than memory is free.
            ResultDownloadError: A file is no longer there.
        """
        with add_result_to_errors(result):
            files = image_files(result.files)
            kinds = [sniff_file(file) for file in files]
            if any(kind is not None and kind.is_animation for kind in kinds):
                self._uneven = True
                return None
            first: FloatImages | None = None
            for place, file in enumerate(files):
                with errors_of_result(place, len(files)):
                    for image in images("pixels", file):
                        target = self._place(index, place, len(files), image)
                        if target is None:
                            return None
                        image.write_to(target)
                        first = target if first is None else first
            return first

    def _place(self, index: int, place: int, count: int, pixels: DecodedImage) -> FloatImages | None:
        channels = pixels.channels if self._keep_alpha else _COLOUR_CHANNELS
        shape = (pixels.height, pixels.width, max(channels, _COLOUR_CHANNELS))
        with self._lock:
            if self._array is None:
                self._images_each = count
                stored = pixels.height * pixels.width * max(pixels.channels, _COLOUR_CHANNELS)
                check_images(count * stored)
                self._array = allocate((self._total * count, *shape))
            if self._images_each != count or self._array.shape[1:] != shape:
                self._uneven = True
                return None
        target: FloatImages = self._array[index * count + place]
        return target

    def finish(self, results: Sequence[RunResult]) -> FloatImages:
        """The whole batch, ``[N, H, W, C]`` float32 in 0..1, once every result was added. Blocking.

        Args:
            results: All of them, in order. Where their sizes differ, all are brought to the first one's
                (Lanczos); where some are transparent only, the others get alpha 1.

        Raises:
            ResultFormatError: As for :meth:`add`.
        """
        if self._uneven or self._array is None:
            files = [file for result in results for file in image_files(result.files)]
            with using(results[0].limits):
                self._array = decode_images(files, results=len(results))
            if not self._keep_alpha:
                self._array = self._array[..., :_COLOUR_CHANNELS]
        return self._array


def images_in(result: RunResult) -> int:
    """The number of images of a result in an :class:`ImageBatch`.

    Raises:
        ResultFormatError: As for :meth:`ImageBatch.add`.
    """
    with add_result_to_errors(result):
        return count_images_in_files(result.files)
