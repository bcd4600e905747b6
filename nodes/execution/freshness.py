"""What ComfyUI's cache must not serve: open and failed tasks, work done here, another network's results.

ComfyUI asks a node for a fingerprint of its constant inputs before each prompt, and runs it again only if
that, or an input, has changed. The fingerprints here change when the user's network does, and when something
became known about earlier runs with the same constants that makes their outputs stale.

A node that so runs again, or that failed and is queued again, takes up the tasks that are there already, with
reuse off as well: the user has asked for them once, and pays for them once.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...xalora_client.errors import ConfigurationError, JournalError
from ..host.clients import clients
from ..host.settings import read_settings

log = logging.getLogger("xalora_client.nodes")

LOCAL_ONLY = "local_only"

# What came to nothing is submitted anew. What is still open is taken up again by the node itself, so that the
# prompt which leans on it knows of it, and cancels it when it is interrupted.
_ASKS_FOR_A_RUN = frozenset({"failed", "canceled", "cancel_pending", "submitted"})


@dataclass
class _Runs:
    """What is known of the runs of a node.

    ``named`` are the tasks that outputs name, ``left`` those that no output that is still good stands on.
    """

    generation: int = 0
    named: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    made_here: bool = False


class Attempt:
    """One execution of a node. Safe for several threads.

    Attributes:
        earlier: Tasks that earlier executions have left behind; some may be paid for and of use to this one.
    """

    def __init__(self, left: set[str], lock: threading.Lock) -> None:
        self.earlier = frozenset(left)
        self._left = left
        self._lock = lock
        self._task_ids: set[str] = set()
        self._has_ended = False
        self._has_completed = False

    def learned(self, task_id: str) -> None:
        """It has submitted this task, or taken it up; told twice is harmless."""
        with self._lock:
            (self._left if self._has_ended else self._task_ids).add(task_id)

    def completed(self) -> None:
        """The node's output is there, and as good as the user wants it."""
        self._has_completed = True

    def ended(self) -> None:
        """The execution has ended, one way or the other."""
        with self._lock:
            self._has_ended = True
            if self._has_completed:
                self._left -= self._task_ids
            else:
                self._left |= self._task_ids


class Freshness:
    """Generations of outputs, by a node's class and constant inputs. Safe for several threads."""

    def __init__(self) -> None:
        self._runs: dict[str, _Runs] = {}
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
            if _any_asks_for_a_run(run.named):
                run.generation += 1
                run.left |= run.named
                run.named = set()
            return run.generation

    @contextmanager
    def attempt(self, key: str) -> Iterator[Attempt]:
        """An execution of the node, from its start to its end."""
        with self._lock:
            attempt = Attempt(self._runs.setdefault(key, _Runs()).left, self._lock)
        try:
            yield attempt
        finally:
            attempt.ended()

    def submitted(self, key: str, task_ids: Iterable[str]) -> None:
        """The node's output names these tasks: while one is open, or came to nothing, the output is stale."""
        with self._lock:
            self._runs.setdefault(key, _Runs()).named.update(task_ids)

    def stale(self, key: str) -> None:
        """The output was made in a way that is to be tried again: the network did not do it."""
        with self._lock:
            self._runs.setdefault(key, _Runs()).generation += 1

    def made_here(self, key: str) -> None:
        """The output was made here because the settings say so: once they no longer do, it is stale."""
        with self._lock:
            self._runs.setdefault(key, _Runs()).made_here = True


def _any_asks_for_a_run(task_ids: set[str]) -> bool:
    journal = clients.journal
    if journal is None:
        return False
    try:
        records = [journal.by_task_id(task_id) for task_id in task_ids]
    except JournalError as error:
        log.warning("%s", error)
        return False
    return any(record is not None and record.state.value in _ASKS_FOR_A_RUN for record in records)


def key_of(node_id: str, constants: Mapping[str, Any]) -> str:
    """Names a node's class with its constant inputs; linked inputs are None, as ComfyUI gives them."""
    return json.dumps([node_id, dict(constants)], sort_keys=True, default=str)


freshness = Freshness()
