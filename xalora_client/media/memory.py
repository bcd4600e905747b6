"""Arrays whose memory is at hand before several threads write to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_PAGE = 4096


def touched(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """An uninitialized float32 array, each page of which has been written to once, by this thread alone.

    The system gives memory at the first write to it. Threads that write to fresh memory side by side wait for
    each other there, for longer than the work they share takes; one thread that goes ahead of them needs a
    tenth of a second for a gigabyte.
    """
    array = np.empty(shape, np.float32)
    array.reshape(-1).view(np.uint8)[::_PAGE] = 0
    return array
