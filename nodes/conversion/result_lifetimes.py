"""Keeps result files on disk for as long as a VIDEO reads them.

The results folder has a size limit and drops the oldest files, but never those of a referenced result.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...xalora_client.results import RunResult

_results_by_owner: weakref.WeakKeyDictionary[Any, RunResult] = weakref.WeakKeyDictionary()


def keep_alive_with(owner: Any, result: RunResult) -> None:
    """Keep a result for as long as ``owner`` exists.

    ComfyUI's cache keeps a VIDEO while its graph is open, and reads the file whenever the video is saved.
    """
    _results_by_owner[owner] = result
