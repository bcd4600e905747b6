"""Keeps results, and with them their files, for as long as something in a graph leans on them.

The folder of kept results has a limit and drops the oldest, but never the files of a result that is in hand.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...xalora_client.results import RunResult

_leaned_on: weakref.WeakKeyDictionary[Any, RunResult] = weakref.WeakKeyDictionary()


def keep_while(alive: Any, result: RunResult) -> None:
    """Keep the result until ``alive`` is gone.

    ComfyUI's cache keeps a VIDEO for as long as its graph is open, and reads its file whenever it is saved.
    """
    _leaned_on[alive] = result


class HandedOn:
    """Results whose files a subgraph reads later, by the subgraph's prefix. Safe for several threads."""

    def __init__(self) -> None:
        self._results: dict[str, tuple[RunResult, ...]] = {}
        self._lock = threading.Lock()

    def put(self, prefix: str, results: Iterable[RunResult]) -> None:
        """The subgraph with this prefix reads these; an earlier one with it has ended, one way or another."""
        with self._lock:
            self._results[prefix] = tuple(results)

    def done(self, prefix: str) -> None:
        """The subgraph has read everything."""
        with self._lock:
            self._results.pop(prefix, None)


handed_on = HandedOn()
