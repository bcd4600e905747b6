"""Fingerprints of a node's constants, which tell ComfyUI when a cached output must not be used again.

ComfyUI asks a node for a fingerprint of its constant inputs before each prompt, and executes the node again
only if the fingerprint or an input has changed. The fingerprints here change with the user's network, and
when an earlier execution with the same constants turns out to have outputs that must not be used.

A node that executes again, after that or after a failure, reuses the tasks of its earlier executions even
with reuse off: the user has asked for them once, and pays for them once. The same holds where only inputs
have changed that do not make the picture, such as how long the node waits.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...xalora_client.errors import ConfigurationError, JournalError
from ..host.clients import clients
from ..host.comfyui_settings import read_settings

log = logging.getLogger("xalora_client.nodes")

LOCAL_ONLY = "local_only"

REUSE = "reuse"

HOW = frozenset(
    {
        REUSE,
        "if_unknown",
        "wait_timeout",
        "queue_limit",
        "timeout_seconds",
        "max_in_flight",
        "fallback",
        "local_model",
        "decode_frames",
        "tile",
        "max_tasks",
        "job_id_prefix",
    }
)
"""Inputs that say how tasks are run; the others say what they make."""

# Ended tasks are submitted again. Open ones are reused by the node itself, so that the prompt which depends
# on them knows them, and cancels them when it is interrupted.
_STATES_TO_EXECUTE_AGAIN = frozenset({"failed", "canceled", "submitted", "unknown"})


class _How(NamedTuple):
    """Inputs of :data:`HOW`: whether kept results are reused, and all of them as text."""

    reuse: Any
    text: str


@dataclass
class _NodeHistory:
    """The earlier executions of a node.

    ``output_task_ids`` are the tasks that its cached output names; ``leftover_task_ids`` those that no usable
    output comes from; ``made`` those of its outputs, by the inputs of :data:`HOW`. Several nodes, and the
    elements of a list, share it where they differ in linked inputs only.
    """

    generation: int = 0
    output_task_ids: set[str] = field(default_factory=set)
    leftover_task_ids: set[str] = field(default_factory=set)
    made: dict[_How, set[str]] = field(default_factory=dict)
    computed_here: bool = False


class Attempt:
    """One execution of a node. Thread-safe.

    Attributes:
        earlier: Tasks that earlier executions left over, and those of an output that was made with other
            inputs of :data:`HOW`; some may be paid for and usable.
    """

    def __init__(self, history: _NodeHistory, how: Mapping[str, Any], lock: threading.Lock) -> None:
        self.earlier = frozenset(history.leftover_task_ids)
        self._how = _How(how.get(REUSE), json.dumps(how, sort_keys=True, default=str))
        for made_how, task_ids in history.made.items():
            # Reuse that was switched off asks for new tasks.
            if made_how.text != self._how.text and made_how.reuse == self._how.reuse:
                self.earlier |= task_ids
        self._history = history
        self._lock = lock
        self._task_ids: set[str] = set()
        self._has_ended = False
        self._has_completed = False

    def note_task(self, task_id: str) -> None:
        """Note that the execution has submitted or reused this task; a repeated call does nothing."""
        with self._lock:
            (self._history.leftover_task_ids if self._has_ended else self._task_ids).add(task_id)

    def completed(self) -> None:
        """Note that the node's output is complete and usable."""
        self._has_completed = True

    def ended(self) -> None:
        """Note that the execution has ended, completed or not."""
        with self._lock:
            self._has_ended = True
            if self._has_completed:
                self._history.leftover_task_ids -= self._task_ids
                for task_ids in self._history.made.values():
                    task_ids.difference_update(self._task_ids)
                self._history.made.setdefault(self._how, set()).update(self._task_ids)
            else:
                self._history.leftover_task_ids |= self._task_ids


class Freshness:
    """Generations of outputs, by a node's class and what it makes. Thread-safe."""

    def __init__(self) -> None:
        self._networks: dict[str, int] = {}
        self._histories: dict[str, _NodeHistory] = {}
        self._lock = threading.Lock()

    def fingerprint(self, key: str) -> list[Any]:
        """A list of plain values that changes when the node's cached outputs must not be used.

        ComfyUI saves it with each image, so it holds no address.
        """
        try:
            settings = read_settings().settings
        except ConfigurationError:
            # The node raises the error when it executes.
            return [-1, self._generation(key, local_only=True)]
        with self._lock:
            network = self._networks.setdefault(settings.sequencer_url, len(self._networks))
        return [network, self._generation(key, local_only=settings.fallback == LOCAL_ONLY)]

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
    def attempt(self, key: str, how: Mapping[str, Any]) -> Iterator[Attempt]:
        """One execution of the node with these inputs of :data:`HOW`, from its start to its end."""
        with self._lock:
            attempt = Attempt(self._history(key), how, self._lock)
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

    def expire_task(self, task_id: str) -> None:
        """Expire the outputs that come from this task: the user has forgotten it, or wants another."""
        with self._lock:
            for history in self._histories.values():
                known = [*history.made.values(), history.output_task_ids]
                if any(task_id in task_ids for task_ids in known):
                    history.generation += 1
                    for task_ids in known:
                        task_ids.discard(task_id)

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
        records = [journal.find(task_id=task_id) for task_id in task_ids]
    except JournalError as error:
        log.warning("%s", error)
        return False
    return any(record is not None and record.state.value in _STATES_TO_EXECUTE_AGAIN for record in records)


def key_of(node_id: str, constants: Mapping[str, Any]) -> str:
    """The key of a node's class and what it makes; linked inputs are None, as ComfyUI gives them."""
    makes = {name: value for name, value in constants.items() if name not in HOW}
    return json.dumps([node_id, makes], sort_keys=True, default=str)


freshness = Freshness()
