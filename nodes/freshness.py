"""What ComfyUI's cache must not serve again: failed tasks, work done here, another network's results.

ComfyUI asks a node for a fingerprint of its constant inputs before each prompt, and runs it again only if
that, or an input, has changed. The fingerprints here change when the user's network does, and when something
became known about earlier runs with the same constants that makes their outputs stale.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..xalora_client.errors import ConfigurationError, JournalError
from .clients import clients
from .settings import read_settings

log = logging.getLogger("xalora_client.nodes")

LOCAL_ONLY = "local_only"

_CAME_TO_NOTHING = frozenset({"failed", "canceled", "cancel_pending"})


@dataclass
class _Run:
    generation: int = 0
    task_ids: set[str] = field(default_factory=set)
    made_here: bool = False


class Freshness:
    """Generations of outputs, by a node's class and constant inputs. Safe for several threads."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def fingerprint(self, key: str) -> list[Any]:
        """What the node's outputs depend on beside its inputs; a list of plain values."""
        try:
            settings = read_settings().settings
        except ConfigurationError:
            # The node says so when it runs.
            return ["", self._generation(key, local_only=True)]
        return [settings.sequencer_url, self._generation(key, local_only=settings.fallback == LOCAL_ONLY)]

    def _generation(self, key: str, *, local_only: bool) -> int:
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                return 0
            if run.made_here and not local_only:
                run.generation += 1
                run.made_here = False
            if _any_came_to_nothing(run.task_ids):
                run.generation += 1
                run.task_ids = set()
            return run.generation

    def submitted(self, key: str, task_id: str) -> None:
        """The node's output names this task: once it came to nothing, the output is stale."""
        with self._lock:
            self._runs.setdefault(key, _Run()).task_ids.add(task_id)

    def stale(self, key: str) -> None:
        """The output was made in a way that is to be tried again: the network did not do it."""
        with self._lock:
            self._runs.setdefault(key, _Run()).generation += 1

    def made_here(self, key: str) -> None:
        """The output was made here because the settings say so: once they no longer do, it is stale."""
        with self._lock:
            self._runs.setdefault(key, _Run()).made_here = True


def _any_came_to_nothing(task_ids: set[str]) -> bool:
    journal = clients.journal
    if journal is None:
        return False
    try:
        entries = [journal.by_task_id(task_id) for task_id in task_ids]
    except JournalError as error:
        log.warning("%s", error)
        return False
    return any(entry is not None and entry.state.value in _CAME_TO_NOTHING for entry in entries)


def key_of(node_id: str, constants: Mapping[str, Any]) -> str:
    """Names a node's class with its constant inputs; linked inputs are None, as ComfyUI gives them."""
    return json.dumps([node_id, dict(constants)], sort_keys=True, default=str)


freshness = Freshness()
