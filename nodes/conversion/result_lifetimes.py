"""Keeps result files on disk for as long as a VIDEO or a running subgraph reads them.

The results folder has a size limit and drops the oldest files, but never those of a referenced result.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...xalora_client.results import RunResult

_results_by_owner: weakref.WeakKeyDictionary[Any, RunResult] = weakref.WeakKeyDictionary()


def keep_alive_with(owner: Any, result: RunResult) -> None:
    """Keep a result for as long as ``owner`` exists.

    ComfyUI's cache keeps a VIDEO while its graph is open, and reads the file whenever the video is saved.
    """
    _results_by_owner[owner] = result


class SubgraphResults:
    """Results whose files a subgraph reads, by the subgraph's prefix. Thread-safe."""

    def __init__(self) -> None:
        self._results: dict[str, tuple[RunResult, ...]] = {}
        self._lock = threading.Lock()

    def keep(self, prefix: str, results: Iterable[RunResult]) -> None:
        """Keep results for the subgraph with this prefix, instead of those of an earlier one with it."""
        with self._lock:
            self._results[prefix] = tuple(results)

    def release(self, prefix: str) -> None:
        """Release a subgraph's results: it has read them."""
        with self._lock:
            self._results.pop(prefix, None)


subgraph_results = SubgraphResults()
