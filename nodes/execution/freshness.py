"""Fingerprints of a node's constants, which tell ComfyUI when a cached output must not be used again.

ComfyUI asks a node for a fingerprint of its constant inputs before each prompt, and executes the node again
only if the fingerprint or an input has changed. The fingerprints here change with the user's network, and
when an earlier execution with the same constants turns out to have outputs that must not be used.

A node that executes again, after that or after a failure, reuses the tasks of its earlier executions even
with reuse off: the user has asked for them once, and pays for them once.
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
from ..host.comfyui_settings import read_settings

log = logging.getLogger("xalora_client.nodes")

LOCAL_ONLY = "local_only"

# Ended tasks are submitted again. Open ones are reused by the node itself, so that the prompt which depends
# on them knows them, and cancels them when it is interrupted.
_STATES_TO_EXECUTE_AGAIN = frozenset({"failed", "canceled", "submitted", "unknown"})


@dataclass
class _NodeHistory:
    """The earlier executions of a node.

    ``output_task_ids`` are the tasks that its cached output names; ``leftover_task_ids`` those that no usable
    output comes from.
    """

    generation: int = 0
    output_task_ids: set[str] = field(default_factory=set)
    leftover_task_ids: set[str] = field(default_factory=set)
    computed_here: bool = False


class Attempt:
    """One execution of a node. Thread-safe.

    Attributes:
        earlier: Tasks that earlier executions left over; some may be paid for and usable.
    """

    def __init__(self, leftover_task_ids: set[str], lock: threading.Lock) -> None:
        self.earlier = frozenset(leftover_task_ids)
        self._leftover = leftover_task_ids
        self._lock = lock
        self._task_ids: set[str] = set()
        self._has_ended = False
        self._has_completed = False

    def note_task(self, task_id: str) -> None:
        """Note that the execution has submitted or reused this task; a repeated call does nothing."""
        with self._lock:
            (self._leftover if self._has_ended else self._task_ids).add(task_id)

    def completed(self) -> None:
        """Note that the node's output is complete and usable."""
        self._has_completed = True

    def ended(self) -> None:
        """Note that the execution has ended, completed or not."""
        with self._lock:
            self._has_ended = True
            if self._has_completed:
                self._leftover -= self._task_ids
            else:
                self._leftover |= self._task_ids


class Freshness:
    """Generations of outputs, by a node's class and constant inputs. Thread-safe."""

    def __init__(self) -> None:
        self._histories: dict[str, _NodeHistory] = {}
        self._lock = threading.Lock()

    def fingerprint(self, key: str) -> list[Any]:
        """A list of plain values that changes when the node's cached outputs must not be used."""
        try:
            settings = read_settings().settings
        except ConfigurationError:
            # The node raises the error when it executes.
            return ["", self._generation(key, local_only=True)]
        return [settings.sequencer_url, self._generation(key, local_only=settings.fallback == LOCAL_ONLY)]

    def _generation(self, key: str, *, local_only: bool) -> int:
        with self._lock:
            history = self._histories.get(key)
            if history is None:
                return 0
            task_ids = set(history.output_task_ids)
        # Outside the lock, which the client's loop takes too: the journal may be slow to read.
        needs_execution = _needs_execution(task_ids)
        with self._lock:
            if history.computed_here and not local_only:
                history.generation += 1
                history.computed_here = False
            if needs_execution:
                history.generation += 1
                history.leftover_task_ids |= task_ids
                history.output_task_ids -= task_ids
            return history.generation

    @contextmanager
    def attempt(self, key: str) -> Iterator[Attempt]:
        """One execution of the node, from its start to its end."""
        with self._lock:
            attempt = Attempt(self._history(key).leftover_task_ids, self._lock)
        try:
            yield attempt
        finally:
            attempt.ended()

    def submitted(self, key: str, task_ids: Iterable[str]) -> None:
        """Note that the node's output names these tasks: it expires while one is open, or when one fails."""
        with self._lock:
            self._history(key).output_task_ids.update(task_ids)

    def expire(self, key: str) -> None:
        """Expire the node's output: this machine computed it because the network failed."""
        with self._lock:
            self._history(key).generation += 1

    def computed_here(self, key: str) -> None:
        """Note that the settings had this machine compute the output: it expires once they change."""
        with self._lock:
            self._history(key).computed_here = True

    def _history(self, key: str) -> _NodeHistory:
        return self._histories.setdefault(key, _NodeHistory())


def _needs_execution(task_ids: set[str]) -> bool:
    journal = clients.journal
    if journal is None:
        return False
    try:
        records = [journal.by_task_id(task_id) for task_id in task_ids]
    except JournalError as error:
        log.warning("%s", error)
        return False
    return any(record is not None and record.state.value in _STATES_TO_EXECUTE_AGAIN for record in records)


def key_of(node_id: str, constants: Mapping[str, Any]) -> str:
    """The key of a node's class and constant inputs; linked inputs are None, as ComfyUI gives them."""
    return json.dumps([node_id, dict(constants)], sort_keys=True, default=str)


freshness = Freshness()
