"""The devnet that the session's ComfyUI talks to, brought back to its first state between tests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests

from xalora_client.devnet import DevnetThread
from xalora_client.devnet.engines import MinerTask

MINERS = 3


class SessionDevnet(DevnetThread):
    """One for all tests, since a running ComfyUI's environment cannot change.

    `task_seconds` may be set at any time: the least that each task begun from then on takes, or a function
    of the task; None for what it takes. `next_task_seconds` is that for the tasks begun next, in their
    order, before `task_seconds` counts (again). `stats()` counts from the session's start; `new_task_ids`
    and `new_stats` from the last `reset`. `options` are the devnet's own.
    """

    def __init__(self, **options: Any) -> None:
        self.task_seconds: float | Callable[[MinerTask], float] | None = None
        self.next_task_seconds: deque[float] = deque()
        self._known: set[str] = set()
        self._before: dict[str, Any] = {}
        self._stopped = False
        super().__init__(miners=MINERS, task_seconds=self._seconds_of, **options)

    def __enter__(self) -> SessionDevnet:
        super().__enter__()
        self.reset()
        return self

    def _seconds_of(self, task: MinerTask) -> float:
        with suppress(IndexError):
            return self.next_task_seconds.popleft()
        return self.task_seconds(task) if callable(self.task_seconds) else self.task_seconds or 0.0

    def reset(self) -> None:
        """It serves, without faults or set duration, every miner alive and idle; counting starts here."""
        self.clear_faults()
        self.task_seconds = None
        self.next_task_seconds.clear()
        if self._stopped:
            self.start_sequencer()
        for _ in range(MINERS - len(self.miners)):
            self.add_miner()
        self._cancel_leftovers()
        self._known = set(self.task_ids())
        self._before = self.stats()

    def stop_sequencer(self) -> None:
        self._call(self._devnet.stop_sequencer)
        self._stopped = True

    def start_sequencer(self) -> None:
        self._call(self._devnet.start_sequencer)
        self._stopped = False

    def new_task_ids(self) -> list[str]:
        """Ids of the tasks created since the last `reset`, oldest first."""
        return [task_id for task_id in self.task_ids() if task_id not in self._known]

    def new_stats(self) -> dict[str, Any]:
        """Like `stats()`, counted since the last `reset`: endpoints, creates, duplicates, tasks by status."""
        now = self.stats()
        statuses = [self.task(task_id).status for task_id in self.new_task_ids()]
        return {
            "endpoints": {k: n - self._before["endpoints"].get(k, 0) for k, n in now["endpoints"].items()},
            "creates": now["creates"] - self._before["creates"],
            "duplicates": now["duplicates"] - self._before["duplicates"],
            "tasks": {status: statuses.count(status) for status in sorted(set(statuses))},
        }

    def _cancel_leftovers(self) -> None:
        _, _, api_key = self.api_key.partition("#")
        for task_id in self.task_ids():
            if self.task(task_id).status in ("waiting", "running"):
                body = {"api_key": api_key, "task_id": task_id}
                requests.post(f"{self.url}/task_cancel", json=body, timeout=10).raise_for_status()
        # A miner hears of it with its next sign of life.
        until = time.monotonic() + 20
        while any(self.miners.values()):
            assert time.monotonic() < until, f"still at work: {self.miners}"
            time.sleep(0.05)
